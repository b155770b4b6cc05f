/**
 * Black-box checks of a server: our own plays, Smack's integration tests, and compliance: what clients look for and whether it works.
 *
 *     npm run conformance -- [--only plays|smack|compliance] [--tests TEXT] [--install] [--quiet]
 *                            [--server HOST[:PORT] [--domain DOMAIN] [--tls none] [--tls-port PORT] [--web URL]
 *                             [--component PORT:DOMAIN:SECRET] [--account USER@DOMAIN:PASSWORD --account …]]
 *     npm run conformance -- --save [--without-smack] [--servers tidings,ejabberd,prosody]
 *
 * Without an address it starts a server of its own, with the configuration that we ship. A server at an address must let accounts
 * be made in band (XEP-0077); for compliance two accounts will do. `--web` is the base address of its HTTP listener.
 * `--tests` takes those whose names contain TEXT. `--quiet` leaves out what passed at the first try. `--install` installs what Smack
 * needs with apt-get. `--save` writes RESULTS.md: the same of this server and of those that are installed
 * beside it; what a run leaves out stays as it was in `results/conformance/saved`.
 * Logs, and Smack's results, are left in `results/conformance`.
 *
 * Exit codes: 0 all passed; 1 some failed; 2 wrong call; 3 none failed, but Smack's tests could not be run.
 * Rows of compliance fail when they are not green on our own server and compliance/known-red.txt does not say why.
 */
import { mkdir, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Compliance, runCompliance, summary, table } from './compliance/compliance.ts'
import { readKnownRed } from './compliance/check.ts'
import type { Account } from './compliance/visit.ts'
import { FULL_SERVERS, startFullServer } from './full-servers.ts'
import type { Stage } from './play.ts'
import { resultsOf, saveResults } from './results.ts'
import { install, NotRun, runSmack, type Verdict } from './smack/smack.ts'
import { loadPlays, ownStage } from './stages.ts'

const RESULTS = path.join(import.meta.dirname, '../results/conformance')
const KNOWN_RED = path.join(import.meta.dirname, 'compliance/known-red.txt')
/** How long one play may take. */
const PLAY_MS = 20_000
const PARTS = ['plays', 'smack', 'compliance'] as const
const USAGE = `npm run conformance -- [--only ${PARTS.join('|')}] [--tests TEXT] [--install] [--quiet] [--server HOST[:PORT] [--domain DOMAIN] [--tls none] [--tls-port PORT] [--web URL] [--component PORT:DOMAIN:SECRET] [--account USER@DOMAIN:PASSWORD --account USER@DOMAIN:PASSWORD]]
       npm run conformance -- --save [--without-smack] [--servers ${FULL_SERVERS.join(',')}]`

interface PlayResults { passed: number; failed: number }

const options = readOptions()
let found = 0
let failures = 0
let notRun = 0

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string' },
        tests: { type: 'string', default: '' },
        install: { type: 'boolean', default: false },
        quiet: { type: 'boolean', default: false },
        save: { type: 'boolean', default: false },
        'without-smack': { type: 'boolean', default: false },
        servers: { type: 'string', default: FULL_SERVERS.join(',') },
        server: { type: 'string' },
        domain: { type: 'string', default: 'localhost' },
        tls: { type: 'string', default: 'starttls' },
        'tls-port': { type: 'string' },
        web: { type: 'string' },
        component: { type: 'string' },
        account: { type: 'string', multiple: true, default: [] },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) {
      console.log(USAGE)
      process.exit(0)
    }
    const only = PARTS.find((part) => part === values.only)
    if (values.only !== undefined && only === undefined) throw new Error(`--only ${values.only}`)
    if (values.save && values.server !== undefined) throw new Error('--save starts the servers itself')
    const servers = values.servers.split(',').map((name) => FULL_SERVERS.find((each) => each === name) ?? wrong(`--servers ${name}`))
    const stage = values.server === undefined ? undefined : stageOf(values.server)
    return { ...values, only, servers, stage, accounts: accountsOf(values.account, values.domain) }

    function stageOf(server: string): Stage {
      const [, host, port = '5222'] = /^(\[[^\]]+\]|[^:]+)(?::(\d+))?$/.exec(server) ?? wrong(`--server ${server}`)
      const [, componentPort, domain, secret] = values.component === undefined ? [] : /^(\d+):([^:]+):(.+)$/.exec(values.component) ?? wrong('--component takes PORT:DOMAIN:SECRET')
      return {
        host: (host as string).replace(/^\[|\]$/g, ''), port: Number(port), domain: values.domain,
        tls: values.tls === 'none' ? 'none' : 'starttls',
        tlsPort: values['tls-port'] === undefined ? undefined : Number(values['tls-port']),
        web: values.web,
        component: componentPort === undefined ? undefined : { port: Number(componentPort), domain: domain as string, secret: secret as string },
      }
    }
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\nUsage: ${USAGE}`)
    process.exit(2)
  }
}

function wrong(text: string): never {
  throw new Error(text)
}

function accountsOf(given: readonly string[], domain: string): readonly [Account, Account] | undefined {
  if (given.length === 0) return undefined
  const [one, other] = given.map((text) => {
    const [, user, at, password] = /^([^@:]+)@([^:]+):(.+)$/.exec(text) ?? wrong(`--account takes USER@DOMAIN:PASSWORD`)
    if (at !== domain) wrong(`--account ${user}@${at} is not of the domain ${domain}`)
    return { user: user as string, password: password as string }
  })
  if (one === undefined || other === undefined || given.length > 2) wrong('--account is given twice or not at all')
  return [one, other]
}

function say(ok: boolean, title: string, reason = ''): void {
  if (!ok) console.log(`FAIL  ${title}\n  ${reason}`)
  else if (!options.quiet || reason !== '') console.log(`ok    ${title}${reason === '' ? '' : ` (${reason})`}`)
}

/** A play that waits for what does not come has failed. */
async function within(running: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => { timer = setTimeout(() => reject(new Error(`not over after ${PLAY_MS} ms`)), PLAY_MS) })
  try {
    await Promise.race([running, late])
  } finally {
    clearTimeout(timer)
  }
}

async function givePlays(stage: Stage): Promise<PlayResults> {
  const results: PlayResults = { passed: 0, failed: 0 }
  for (const each of await loadPlays()) {
    if (!each.title.toLowerCase().includes(options.tests.toLowerCase())) continue
    try {
      await within(each.run(stage))
      results.passed++
      say(true, each.title)
    } catch (error) {
      results.failed++
      say(false, each.title, error instanceof Error ? error.message : String(error))
    }
  }
  console.log(`plays: passed ${results.passed} failed ${results.failed}`)
  return results
}

async function runSmacksTests(stage: Stage, folder: string): Promise<Verdict | undefined> {
  try {
    if (options.install) install()
    const verdict = await runSmack(stage, options.tests, folder)
    const { passed, failed, impossible, known } = verdict
    for (const each of passed) say(true, `${each.specification} ${each.test}`.trim(), each.reason)
    for (const [reason, tests] of Map.groupBy(impossible, (each) => each.reason)) console.log(`impossible, ${tests.length} of ${[...new Set(tests.map((each) => each.test.replace(/\..*/, '')))].join(', ')}: ${reason}`)
    for (const each of known) console.log(`known to fail: ${each.test} needs ${each.needs}`)
    for (const each of failed) say(false, `${each.specification} ${each.test}`.trim(), each.reason)
    console.log(`smack: passed ${passed.length} failed ${failed.length} impossible ${impossible.length} known to fail ${known.length}`)
    return verdict
  } catch (error) {
    if (!(error instanceof NotRun)) throw error
    console.log(`smack: not run. ${error.message}`)
    return undefined
  }
}

/** `known` are the rows that may be other than green. */
async function checkCompliance(stage: Stage, known: ReadonlyMap<string, string> | undefined): Promise<{ compliance: Compliance; failed: number }> {
  const compliance = await runCompliance(stage, options.accounts, options.tests)
  const notGreen = compliance.rows.filter((each) => each.colour !== 'green')
  // What is shown and does not work is never excused.
  const failed = known === undefined ? [] : notGreen.filter((each) => each.colour === 'broken' || !known.has(each.check.id))
  if (options.quiet) for (const { check, colour, reason } of notGreen) console.log(`${failed.some((each) => each.check === check) ? 'FAIL ' : 'known'} ${check.id} ${check.title} is ${colour}: ${reason}`)
  else console.log(table(compliance))
  for (const { check, colour } of compliance.rows) if (colour === 'green' && known?.has(check.id) === true) console.log(`${check.id} ${check.title} is green now: take it out of compliance/known-red.txt`)
  console.log(`compliance: ${summary(compliance)}`)
  if (known !== undefined) console.log(`compliance: passed ${compliance.rows.length - notGreen.length} failed ${failed.length} known to be red ${notGreen.length - failed.length}`)
  return { compliance, failed: failed.length }
}

async function run(stage: Stage, known: ReadonlyMap<string, string> | undefined): Promise<void> {
  const wanted = (part: (typeof PARTS)[number]): boolean => options.only === undefined || options.only === part
  if (wanted('plays')) {
    const { passed, failed } = await givePlays(stage)
    found += passed + failed
    failures += failed
  }
  if (wanted('smack')) {
    const verdict = await runSmacksTests(stage, RESULTS)
    if (verdict === undefined) notRun++
    else {
      found += verdict.passed.length + verdict.failed.length + verdict.impossible.length + verdict.known.length
      failures += verdict.failed.length
    }
  }
  if (wanted('compliance')) {
    const { compliance, failed } = await checkCompliance(stage, known)
    found += compliance.rows.length + compliance.more.length
    failures += failed
  }
}

/** Each server in turn, with everything on; RESULTS.md has the last results of all. */
async function save(): Promise<void> {
  for (const name of options.servers) {
    console.log(`== ${name}`)
    await using server = await startFullServer(name)
    if (server === undefined) {
      console.log(`${name} is not installed`)
      continue
    }
    const plays = await givePlays(server.stage)
    // An exception in one of Smack's tests can end them all.
    const smack = options['without-smack'] ? undefined : await runSmacksTests(server.stage, path.join(RESULTS, name)).catch((error: unknown) => {
      console.log(`smack: ${String(error)}`)
      return undefined
    })
    const { compliance } = await checkCompliance(server.stage, undefined)
    await saveResults(resultsOf(name, server.version, plays, smack, compliance), path.join(RESULTS, 'saved'), path.join(import.meta.dirname, 'RESULTS.md'))
    found++
  }
}

// What was started ends with this process, however that ends.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))

if (options.save) await save()
else if (options.stage !== undefined) await run(options.stage, undefined)
else {
  const log = path.join(RESULTS, 'server.log')
  await mkdir(RESULTS, { recursive: true })
  await rm(log, { force: true })
  await using own = await ownStage(log)
  await run(own.stage, readKnownRed(await readFile(KNOWN_RED, 'utf8')))
  if (own.server.ended) {
    failures++
    console.log(`FAIL  the server has ended, see ${log}`)
  }
}
if (found === 0 && notRun === 0) console.error(`No test has ${options.tests} in its name`)
process.exitCode = failures > 0 ? 1 : notRun > 0 ? 3 : found === 0 ? 2 : 0
