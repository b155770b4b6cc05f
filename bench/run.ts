/**
 * Measures Tidings, and beside it the servers that are installed as Debian packages (ejabberd, Prosody), scenario by scenario
 * and round by round in turn:
 *
 *     npm run bench -- [SCENARIO...] [--rounds 3] [--minutes 10] [--servers tidings,prosody] [--save] [--note TEXT] [--profile DIR]
 *
 * All of it takes about so many minutes: a scenario plays fewer rounds when they would not fit, but one at least.
 * `--profile` leaves CPU profiles of Tidings in that directory; the figures of such a run mean little.
 *
 * CPU time is that of the server's whole process tree, user and system; memory is its proportional set size.
 */
import { appendFileSync, existsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { loadAverage, machine } from './process.ts'
import { SCENARIOS, type Figures, type Scenario } from './scenarios.ts'
import { installedServers, startServer, type RunningServer, type ServerName } from './servers.ts'

const RESULTS = path.join(import.meta.dirname, 'RESULTS.md')

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    minutes: { type: 'string', default: '10' },
    servers: { type: 'string' },
    save: { type: 'boolean', default: false },
    note: { type: 'string' },
    profile: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})

function fail(text: string): never {
  console.error(text)
  process.exit(2)
}

if (values.help) {
  console.log(`npm run bench -- [SCENARIO...] [--rounds N] [--minutes N] [--servers A,B] [--save] [--note TEXT] [--profile DIR]\n\n${SCENARIOS.map((each) => `  ${each.name.padEnd(14)} ${each.help}`).join('\n')}`)
  process.exit(0)
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))

const installed = installedServers()
const servers = values.servers === undefined ? installed : values.servers.split(',').map((name) => installed.find((each) => each === name) ?? fail(`${name} is not installed; there are ${installed.join(', ')}`))
const scenarios = positionals.length === 0 ? SCENARIOS : positionals.map((name) => SCENARIOS.find((each) => each.name === name) ?? fail(`There is no scenario ${name}; there are ${SCENARIOS.map((each) => each.name).join(', ')}`))
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1 || rounds > 100) fail('--rounds takes a number from 1 to 100')

const minutes = Number(values.minutes)
if (!(minutes > 0)) fail('--minutes takes a number above 0')

/** What each server reached in each round. Another round begins only if it is likely to be over by `deadline`. */
async function play(scenario: Scenario, deadline: number): Promise<Map<ServerName, Figures[]>> {
  const results = new Map<ServerName, Figures[]>()
  const running = new Map<ServerName, RunningServer>()
  const stop = async (name: ServerName): Promise<void> => {
    await running.get(name)?.[Symbol.asyncDispose]()
    running.delete(name)
  }
  try {
    let roundMs = 0
    for (let round = 0; round < rounds && (round === 0 || performance.now() + roundMs < deadline); round++) {
      const roundAt = performance.now()
      for (const name of servers) {
        if (scenario.only?.includes(name) === false) continue
        let server = running.get(name)
        if (server === undefined) {
          server = await startServer(name, scenario.variant, values.profile === undefined ? undefined : path.resolve(values.profile))
          running.set(name, server)
          await scenario.prepare(server)
        }
        const figures = await scenario.measure(server)
        results.set(name, [...(results.get(name) ?? []), figures])
        console.error(`${scenario.name}, ${name}, round ${round + 1}: ${Object.entries(figures.values).map(([key, value]) => `${key} ${format(value)}`).join(', ')}; errors ${figures.errors}`)
        if (scenario.fresh) await stop(name)
      }
      roundMs = performance.now() - roundAt
    }
  } finally {
    for (const name of running.keys()) await stop(name)
  }
  return results
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] as number : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

function format(value: number): string {
  return value >= 1000 ? Math.round(value).toString() : value.toPrecision(3)
}

/** A table with a line for each server. */
function table(scenario: Scenario, results: ReadonlyMap<ServerName, readonly Figures[]>): string {
  const names = Object.keys([...results.values()][0]?.[0]?.values ?? {})
  const lines = [`| ${scenario.name} | ${names.join(' | ')} | lost, twice or disordered |`, `|---|${names.map(() => '---|').join('')}---|`]
  for (const [server, all] of results) {
    const errors = all.map((each) => each.errors).filter((each) => each !== '0')
    lines.push(`| ${server} | ${names.map((name) => format(median(all.map((each) => each.values[name] ?? Number.NaN)))).join(' | ')} | ${errors.length === 0 ? '0' : errors.join('; ')} |`)
  }
  const played = Math.max(...[...results.values()].map((all) => all.length))
  return `${scenario.help} (${played === 1 ? '1 round' : `medians of ${played} rounds`})\n\n${lines.join('\n')}`
}

const startLoad = loadAverage()
const tables: string[] = []
let failed = false
const startedAt = performance.now()
for (const [index, scenario] of scenarios.entries()) {
  try {
    const results = await play(scenario, startedAt + (minutes * 60_000 * (index + 1)) / scenarios.length)
    tables.push(table(scenario, results))
    if ([...results.values()].flat().some((each) => each.errors !== '0')) failed = true
  } catch (error) {
    failed = true
    console.error(`${scenario.name} failed: ${error instanceof Error ? error.stack : String(error)}`)
  }
}
const report = `${machine()}; Node ${process.versions.node}; load average ${startLoad} to ${loadAverage()}.${values.note === undefined ? '' : ` ${values.note}`}\n\n${tables.join('\n\n')}\n`
console.log(report)
if (values.save) {
  if (!existsSync(RESULTS)) writeFileSync(RESULTS, '# Measurements\n\nWritten by `npm run bench -- --save`. Figures of different machines or runs do not compare; those of one run do.\n')
  const command = `npm run bench${process.argv.length > 2 ? ` -- ${process.argv.slice(2).map((each) => (/\s/.test(each) ? `'${each}'` : each)).join(' ')}` : ''}`
  appendFileSync(RESULTS, `\n## ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC\n\n\`${command}\`\n\n${report}`)
}
process.exit(failed ? 1 : 0)
