/**
 * Black-box checks of a server: our own plays, and Smack's integration tests.
 *
 *     npm run conformance -- [--only plays|smack] [--tests TEXT] [--install] [--quiet]
 *                            [--host HOST [--port PORT] [--domain DOMAIN] [--tls none] [--tls-port PORT]]
 *
 * Without an address it starts a server of its own, with the configuration that we ship. A server at an address must let accounts
 * be made in band (XEP-0077). `--tests` takes those whose names contain TEXT. `--quiet` leaves out what passed at the first try.
 * `--install` installs what Smack needs with apt-get. Logs, and Smack's results, are left in `results/conformance`.
 *
 * Exit codes: 0 all passed; 1 some failed; 2 wrong call; 3 none failed, but Smack's tests could not be run.
 */
import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { Stage } from './play.ts'
import { install, NotRun, runSmack } from './smack/smack.ts'
import { loadPlays, ownStage } from './stages.ts'

const RESULTS = path.join(import.meta.dirname, '../results/conformance')
const USAGE = 'npm run conformance -- [--only plays|smack] [--tests TEXT] [--install] [--quiet] [--host HOST [--port PORT] [--domain DOMAIN] [--tls none] [--tls-port PORT]]'

const values = options()
let found = 0
let failures = 0
let notRun = 0

function options() {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string' },
        tests: { type: 'string', default: '' },
        install: { type: 'boolean', default: false },
        quiet: { type: 'boolean', default: false },
        host: { type: 'string' },
        port: { type: 'string', default: '5222' },
        domain: { type: 'string', default: 'localhost' },
        tls: { type: 'string', default: 'starttls' },
        'tls-port': { type: 'string' },
      },
    })
    if (values.only !== undefined && values.only !== 'plays' && values.only !== 'smack') throw new Error(`--only ${values.only}`)
    return values
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\nUsage: ${USAGE}`)
    process.exit(2)
  }
}

function say(ok: boolean, title: string, reason = ''): void {
  if (!ok) console.log(`FAIL  ${title}\n  ${reason}`)
  else if (!values.quiet || reason !== '') console.log(`ok    ${title}${reason === '' ? '' : ` (${reason})`}`)
}

async function givePlays(stage: Stage): Promise<void> {
  let passed = 0
  let failed = 0
  for (const each of await loadPlays()) {
    if (!each.title.toLowerCase().includes(values.tests.toLowerCase())) continue
    try {
      await each.run(stage)
      passed++
      say(true, each.title)
    } catch (error) {
      failed++
      say(false, each.title, error instanceof Error ? error.message : String(error))
    }
  }
  found += passed + failed
  failures += failed
  console.log(`plays: passed ${passed} failed ${failed}`)
}

async function runSmacksTests(stage: Stage): Promise<void> {
  try {
    if (values.install) install()
    const { passed, failed, impossible, known } = await runSmack(stage, values.tests, RESULTS)
    for (const each of passed) say(true, `${each.specification} ${each.test}`.trim(), each.reason)
    for (const [reason, tests] of Map.groupBy(impossible, (each) => each.reason)) console.log(`impossible, ${tests.length} of ${[...new Set(tests.map((each) => each.test.replace(/\..*/, '')))].join(', ')}: ${reason}`)
    for (const each of known) console.log(`known to fail: ${each.test} needs ${each.needs}`)
    for (const each of failed) say(false, `${each.specification} ${each.test}`.trim(), each.reason)
    found += passed.length + failed.length + impossible.length + known.length
    failures += failed.length
    console.log(`smack: passed ${passed.length} failed ${failed.length} impossible ${impossible.length} known to fail ${known.length}`)
  } catch (error) {
    if (!(error instanceof NotRun)) throw error
    notRun++
    console.log(`smack: not run. ${error.message}`)
  }
}

async function run(stage: Stage): Promise<void> {
  if (values.only !== 'smack') await givePlays(stage)
  if (values.only !== 'plays') await runSmacksTests(stage)
}

if (values.host === undefined) {
  const log = path.join(RESULTS, 'server.log')
  await mkdir(RESULTS, { recursive: true })
  await rm(log, { force: true })
  await using own = await ownStage(log)
  await run(own.stage)
  if (own.server.ended) {
    failures++
    console.log(`FAIL  the server has ended, see ${log}`)
  }
} else {
  await run({
    host: values.host, port: Number(values.port), domain: values.domain,
    tls: values.tls === 'none' ? 'none' : 'starttls',
    tlsPort: values['tls-port'] === undefined ? undefined : Number(values['tls-port']),
  })
}
if (found === 0 && notRun === 0) console.error(`No test has ${values.tests} in its name`)
process.exitCode = failures > 0 ? 1 : notRun > 0 ? 3 : found === 0 ? 2 : 0
