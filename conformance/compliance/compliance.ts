/** Asks all rows of a server, as a client. */
import type { Stage } from '../play.ts'
import { type Level, type Row, judgeSuites, look } from './check.ts'
import { BOTH, CONVERSATIONS, GAJIM, MORE, UNCOUNTED } from './rows.ts'
import { SUITES } from './suites.ts'
import { type Account, Visit } from './visit.ts'

export interface Compliance {
  /** Those that count. */
  readonly rows: readonly Row[]
  /** What stands beside them: rows that hardly any server has, and what only XEP-0479 asks for. */
  readonly more: readonly Row[]
  readonly suites: ReadonlyMap<string, { readonly level: Level; readonly missing: readonly string[] }>
}

/** All rows in the order in which they are shown. */
export const COUNTED = [...CONVERSATIONS, ...GAJIM, ...BOTH]

/** With two accounts, or with two that it registers in band and removes afterwards. `text` chooses rows by id and title. */
export async function runCompliance(stage: Stage, accounts: readonly [Account, Account] | undefined, text = ''): Promise<Compliance> {
  const wanted = (check: { id: string; title: string }): boolean => `${check.id} ${check.title}`.toLowerCase().includes(text.toLowerCase())
  await using visit = new Visit(stage, accounts)
  await visit.begin()
  const rows: Row[] = []
  const more: Row[] = []
  for (const check of COUNTED) if (wanted(check)) rows.push(await look(check, visit))
  for (const check of [...UNCOUNTED, ...MORE]) if (wanted(check)) more.push(await look(check, visit))
  const green = new Set([...rows, ...more].filter((each) => each.colour === 'green').map((each) => each.check.id))
  return { rows, more, suites: judgeSuites(SUITES, green) }
}

/** Rows and suites as text. */
export function table(compliance: Compliance): string {
  const rows = [...compliance.rows, ...compliance.more]
  const width = Math.max(...rows.map((each) => each.check.title.length))
  const lines = rows.map(({ check, colour, reason }) => `${check.id.padEnd(4)} ${check.title.padEnd(width)}  ${colour.padEnd(6)}${reason === '' ? '' : `  ${reason}`}`)
  for (const [suite, { level, missing }] of compliance.suites) lines.push(`XEP-0479 ${suite}: ${level}${missing.length === 0 ? '' : `; lacks ${missing.join(', ')}`}`)
  return lines.join('\n')
}

/** How many of each group are green, such as `A 14/16`. */
export function summary({ rows, suites }: Compliance): string {
  const green = rows.filter((each) => each.colour === 'green').length
  const groups = [...Map.groupBy(rows, (each) => each.check.id.slice(0, 1))].map(([group, all]) => `${group} ${all.filter((each) => each.colour === 'green').length}/${all.length}`)
  const advanced = [...suites.values()].filter((each) => each.level === 'Advanced').length
  return `${green} of ${rows.length} green (${groups.join(', ')}; XEP-0479 Advanced in ${advanced} of ${suites.size} categories)`
}
