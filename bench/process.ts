/** What Linux says of a process and its children: CPU time and memory. */
import { readFileSync, readdirSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { cpus, totalmem } from 'node:os'

let ticksPerSecond = 0

/** The process and everything it started that still runs. */
export function processTree(pid: number): number[] {
  const found = [pid]
  for (const each of found) {
    try {
      for (const task of readdirSync(`/proc/${each}/task`)) {
        const children = readFileSync(`/proc/${each}/task/${task}/children`, 'utf8').trim()
        if (children !== '') found.push(...children.split(' ').map(Number))
      }
    } catch {
      // It has ended meanwhile.
    }
  }
  return found
}

/** User and system CPU time in microseconds of the tree, with that of children which ended and were waited for. */
export function cpuMicros(pid: number): number {
  if (ticksPerSecond === 0) ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))
  let ticks = 0
  for (const each of processTree(pid)) {
    try {
      const stat = readFileSync(`/proc/${each}/stat`, 'utf8')
      // The second field is a name in parentheses, which may contain anything. utime, stime, cutime, cstime are fields 14 to 17.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      for (let i = 11; i <= 14; i++) ticks += Number(fields[i])
    } catch {
      // It has ended meanwhile.
    }
  }
  return ticks * 1_000_000 / ticksPerSecond
}

/** Proportional set size of the tree in KiB. */
export function pssKib(pid: number): number {
  let kib = 0
  for (const each of processTree(pid)) {
    try {
      kib += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${each}/smaps_rollup`, 'utf8'))?.[1] ?? 0)
    } catch {
      // It has ended meanwhile.
    }
  }
  return kib
}

/** The machine in one line. */
export function machine(): string {
  return `${cpus().length} cores of ${cpus()[0]?.model.trim() ?? 'an unknown CPU'}, ${Math.round(totalmem() / 2 ** 30)} GiB`
}

/** How many processes wanted a CPU in the last minute. */
export function loadAverage(): string {
  return readFileSync('/proc/loadavg', 'utf8').split(' ')[0] ?? '?'
}
