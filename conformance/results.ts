/** RESULTS.md: the results of several servers beside each other, each from the last run against it. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { machine } from '../bench/process.ts'
import type { Row } from './compliance/check.ts'
import type { Compliance } from './compliance/compliance.ts'
import type { Verdict } from './smack/smack.ts'

const SERVERS = ['tidings', 'ejabberd', 'prosody'] as const
const NAMES: Readonly<Record<string, string>> = { tidings: 'Tidings', ejabberd: 'ejabberd', prosody: 'Prosody' }

interface SavedRow { readonly id: string; readonly title: string; readonly colour: string; readonly reason: string }

/** As it is kept between runs. */
export interface Results {
  readonly name: string
  readonly version: string
  readonly at: string
  readonly plays: { readonly passed: number; readonly failed: number }
  /** Undefined when Smack's tests could not be run to the end. */
  readonly smack: { readonly passed: number; readonly failed: readonly { readonly test: string; readonly reason: string }[]; readonly impossible: number } | undefined
  readonly rows: readonly SavedRow[]
  readonly more: readonly SavedRow[]
  readonly suites: Readonly<Record<string, string>>
}

export function resultsOf(name: string, version: string, plays: Results['plays'], smack: Verdict | undefined, compliance: Compliance): Results {
  const saved = ({ check, colour, reason }: Row): SavedRow => ({ id: check.id, title: check.title, colour, reason })
  return {
    name, version, plays, at: new Date().toISOString().slice(0, 16).replace('T', ' '),
    // What is known to fail fails for others too.
    smack: smack && { passed: smack.passed.length, failed: [...smack.failed, ...smack.known].map(({ test, reason }) => ({ test, reason })), impossible: smack.impossible.length },
    rows: compliance.rows.map(saved), more: compliance.more.map(saved),
    suites: Object.fromEntries([...compliance.suites].map(([suite, { level }]) => [suite, level])),
  }
}

/** Keeps these results in a folder, and writes the file anew from all that are there. */
export async function saveResults(results: Results, folder: string, file: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  await writeFile(path.join(folder, `${results.name}.json`), JSON.stringify(results))
  const all: Results[] = []
  for (const name of SERVERS) {
    const text = await readFile(path.join(folder, `${name}.json`), 'utf8').catch(() => undefined)
    if (text !== undefined) all.push(JSON.parse(text) as Results)
  }
  await writeFile(file, table(all))
}

export function table(all: readonly Results[]): string {
  const head = (first: string): string[] => [`| ${first} | ${all.map((each) => `${NAMES[each.name] ?? each.name} ${each.version}`).join(' | ')} |`, `|---|${all.map(() => '---|').join('')}`]
  const line = (title: string, of: (results: Results) => string): string => `| ${title} | ${all.map(of).join(' | ')} |`
  const [first] = all as readonly [Results]
  const rows = (['rows', 'more'] as const).flatMap((which) => first[which].map(({ id, title }) => line(`${id} ${title}`, (results) => results[which].find((each) => each.id === id)?.colour ?? '-')))
  return `# Results

Written by \`npm run conformance -- --save\`: the same checks of this server, as it is shipped with a contact address and TURN services
added, and of those that are installed as Debian packages beside it, with their modules on (full-servers.ts). ${all.map(({ name, at }) => `${NAMES[name] ?? name} ${at}`).join(', ')} UTC; ${machine()}.

${[
    ...head(''),
    line('Our plays: passed / failed', ({ plays }) => `${plays.passed} / ${plays.failed}`),
    line("Smack's integration tests: passed / failed / impossible", ({ smack }) => (smack === undefined ? 'not run to the end' : `${smack.passed} / ${smack.failed.length} / ${smack.impossible}`)),
    line('What clients look for: green', ({ rows: each }) => `${each.filter(({ colour }) => colour === 'green').length} of ${each.length}`),
    ...Object.keys(first.suites).map((suite) => line(`XEP-0479 ${suite}`, ({ suites }) => suites[suite] ?? '-')),
  ].join('\n')}

Smack's tests run in random order; what failed in the run of all and passed alone has passed. Our plays say what this server promises,
which is more than the specifications ask for in places. Each category of XEP-0479 asks for what its Core category asks.

## What clients look for

A is what Conversations shows of a server and of a room, D what Gajim shows of a provider, E what else both look for, S what only XEP-0479 asks.
*green*: shown where clients look, and it works when used. *broken*: shown, and it does not work. *red*: not shown. D8 and S are not counted.

${[...head('Row'), ...rows].join('\n')}

## Why not

${all.map(({ name, rows: counted, more, smack }) => {
    const lines = [...counted, ...more].filter(({ colour }) => colour !== 'green').map(({ id, title, colour, reason }) => `- ${id}, ${title}, is ${colour}: ${plain(reason)}`)
    for (const { test, reason } of smack?.failed ?? []) lines.push(`- ${test} failed: ${plain(reason.slice(0, 160))}`)
    return `### ${NAMES[name] ?? name}\n\n${lines.length === 0 ? 'All is green.' : lines.join('\n')}`
  }).join('\n\n')}
`
}

/** Text that Markdown does not take for its own. */
function plain(text: string): string {
  return text.replaceAll(/[<>|*_`[\]]/g, (character) => `\\${character}`)
}
