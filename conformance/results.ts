/** RESULTS.md: the results of several servers beside each other. */
import type { Compliance } from './compliance/compliance.ts'
import { machine } from '../bench/process.ts'
import type { Verdict } from './smack/smack.ts'

export interface Results {
  readonly name: string
  readonly version: string
  readonly plays: { readonly passed: number; readonly failed: number; readonly titles: readonly string[] }
  /** Undefined when Smack's tests could not be run. */
  readonly smack: Verdict | undefined
  readonly compliance: Compliance
}

const NAMES: Readonly<Record<string, string>> = { tidings: 'Tidings', ejabberd: 'ejabberd', prosody: 'Prosody' }

export function writeResults(all: readonly Results[], command: string, at = new Date()): string {
  const head = (first: string): string[] => [`| ${first} | ${all.map((each) => `${NAMES[each.name] ?? each.name} ${each.version}`).join(' | ')} |`, `|---|${all.map(() => '---|').join('')}`]
  const line = (title: string, of: (results: Results) => string): string => `| ${title} | ${all.map(of).join(' | ')} |`
  const rows = (pick: (compliance: Compliance) => Compliance['rows']): string[] => pick((all[0] as Results).compliance).map(({ check }, at) => line(`${check.id} ${check.title}`, ({ compliance }) => pick(compliance)[at]?.colour ?? '-'))
  return `# Results

Written by \`npm run conformance -- --save\`: the same checks of this server, as it is shipped, and of those that are installed as Debian
packages beside it, with their modules on (full-servers.ts). \`${command}\`, ${at.toISOString().slice(0, 16).replace('T', ' ')} UTC, ${machine()}.

${[
    ...head(''),
    line('Our plays: passed / failed', ({ plays }) => `${plays.passed} / ${plays.failed}`),
    line("Smack's integration tests: passed / failed / impossible", ({ smack }) => (smack === undefined ? 'not run' : `${smack.passed.length} / ${smack.failed.length + smack.known.length} / ${smack.impossible.length}`)),
    line('What clients look for: green', ({ compliance: { rows: each } }) => `${each.filter(({ colour }) => colour === 'green').length} of ${each.length}`),
    ...[...(all[0] as Results).compliance.suites.keys()].map((suite) => line(`XEP-0479 ${suite}`, ({ compliance }) => compliance.suites.get(suite)?.level ?? '-')),
  ].join('\n')}

Smack's tests run in random order; what failed in the run of all and passed alone has passed.

## What clients look for

A is what Conversations shows of a server and of a room, D what Gajim shows of a provider, E what else both look for, S what only XEP-0479 asks.
*green*: shown where clients look, and it works when used. *broken*: shown, and it does not work. *red*: not shown. D8 is not counted.

${[...head('Row'), ...rows((compliance) => [...compliance.rows, ...compliance.more])].join('\n')}

## Why not

${all.map(({ name, compliance, smack }) => {
    const lines = [...compliance.rows, ...compliance.more].filter(({ colour }) => colour !== 'green').map(({ check, colour, reason }) => `- ${check.id}, ${check.title}, is ${colour}: ${reason.replaceAll('|', '\\|').replaceAll('<', '\\<')}`)
    for (const { test, reason } of [...smack?.failed ?? [], ...smack?.known ?? []]) lines.push(`- ${test} failed: ${reason.slice(0, 160).replaceAll('|', '\\|').replaceAll('<', '\\<')}`)
    return `### ${NAMES[name] ?? name}\n\n${lines.length === 0 ? 'All is green.' : lines.join('\n')}`
  }).join('\n\n')}
`
}
