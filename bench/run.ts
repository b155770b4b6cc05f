/**
 * Measures Tidings, and beside it the servers that are installed as Debian packages (ejabberd, Prosody), scenario by scenario
 * and round by round in turn:
 *
 *     npm run bench -- [SCENARIO...] [--rounds 3] [--servers tidings,prosody] [--save] [--note TEXT] [--profile DIR]
 *
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
/** The most that one scenario may take with all its rounds and servers. */
const SCENARIO_MS = 600_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
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
  console.log(`npm run bench -- [SCENARIO...] [--rounds N] [--servers A,B] [--save] [--note TEXT] [--profile DIR]\n\n${SCENARIOS.map((each) => `  ${each.name.padEnd(14)} ${each.help}`).join('\n')}`)
  process.exit(0)
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))

const installed = installedServers()
const servers = values.servers === undefined ? installed : values.servers.split(',').map((name) => installed.find((each) => each === name) ?? fail(`${name} is not installed; there are ${installed.join(', ')}`))
const scenarios = positionals.length === 0 ? SCENARIOS : positionals.map((name) => SCENARIOS.find((each) => each.name === name) ?? fail(`There is no scenario ${name}; there are ${SCENARIOS.map((each) => each.name).join(', ')}`))
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1 || rounds > 100) fail('--rounds takes a number from 1 to 100')

/** What each server reached in each round. */
async function play(scenario: Scenario): Promise<Map<ServerName, Figures[]>> {
  const results = new Map<ServerName, Figures[]>()
  const running = new Map<ServerName, RunningServer>()
  const deadline = performance.now() + SCENARIO_MS
  const stop = async (name: ServerName): Promise<void> => {
    await running.get(name)?.[Symbol.asyncDispose]()
    running.delete(name)
  }
  try {
    for (let round = 0; round < rounds && performance.now() < deadline; round++) {
      for (const name of servers) {
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
  return `${scenario.help}\n\n${lines.join('\n')}`
}

const startLoad = loadAverage()
const tables: string[] = []
let failed = false
for (const scenario of scenarios) {
  try {
    const results = await play(scenario)
    tables.push(table(scenario, results))
    if ([...results.values()].flat().some((each) => each.errors !== '0')) failed = true
  } catch (error) {
    failed = true
    console.error(`${scenario.name} failed: ${error instanceof Error ? error.stack : String(error)}`)
  }
}
const report = `${machine()}; Node ${process.versions.node}; load average ${startLoad} to ${loadAverage()}; medians of ${rounds} round${rounds === 1 ? '' : 's'}.${values.note === undefined ? '' : ` ${values.note}`}\n\n${tables.join('\n\n')}\n`
console.log(report)
if (values.save) {
  if (!existsSync(RESULTS)) writeFileSync(RESULTS, '# Measurements\n\nWritten by `npm run bench -- --save`. Figures of different machines or runs do not compare; those of one run do.\n')
  const command = `npm run bench${process.argv.length > 2 ? ` -- ${process.argv.slice(2).map((each) => (/\s/.test(each) ? `'${each}'` : each)).join(' ')}` : ''}`
  appendFileSync(RESULTS, `\n## ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC\n\n\`${command}\`\n\n${report}`)
}
process.exit(failed ? 1 : 0)
