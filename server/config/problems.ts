/** What a configuration file says that this server cannot do as written. Nothing is dropped without one of these. */
export interface Problem {
  readonly file: string
  readonly line: number
  /** The option's path, such as `modules.mod_mam.default`. */
  readonly option: string
  readonly level: 'error' | 'warning'
  /** What is wrong, what is allowed, and what happens instead. */
  readonly text: string
}

/** One line for a terminal or a log: `ejabberd.yml:12: error: listen.port: …`. */
export function formatProblem(problem: Problem): string {
  return `${problem.file}:${problem.line}: ${problem.level}: ${problem.option}: ${problem.text}`
}

/** ` Did you mean "x"?` when one of the known names is close, otherwise the empty string. */
export function didYouMean(name: string, known: Iterable<string>): string {
  let best: string | undefined
  // At most a third of the name may differ, or one letter of a short one.
  let bestDistance = name.length < 3 ? 1 : Math.max(1, Math.floor(name.length / 3)) + 1
  for (const candidate of known) {
    if (Math.abs(candidate.length - name.length) >= bestDistance) continue
    const distance = editDistance(name.toLowerCase(), candidate)
    if (distance < bestDistance) { best = candidate; bestDistance = distance }
  }
  return best === undefined ? '' : ` Did you mean "${best}"?`
}

/** Damerau-Levenshtein distance (with swaps of neighbours), for names of at most a few dozen characters. */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1]
      let cost = Math.min((last[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1, (last[column - 1] ?? 0) + (same ? 0 : 1))
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        cost = Math.min(cost, (before[column - 2] ?? 0) + 1)
      }
      current.push(cost)
    }
    before = last
    last = current
  }
  return last[b.length] ?? 0
}
