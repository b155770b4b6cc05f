/** Versions of rows and items of history: they rise with each write, whichever node writes. */

/** A number holds them until the year 2248. */
const PER_MS = 1024

let last = 0

export function nextVersion(nowMs: number = Date.now()): number {
  last = Math.max(last + 1, nowMs * PER_MS)
  return last
}

/** Versions from now on are higher than any made up to this time (ms) elsewhere. */
export function continueVersionsAfter(ms: number): void {
  last = Math.max(last, (ms + 1) * PER_MS)
}

/** The time (ms) that the last version holds. */
export function timeOfLastVersion(): number {
  return Math.floor(last / PER_MS)
}
