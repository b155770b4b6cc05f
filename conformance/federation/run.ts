/**
 * Federation among real servers: two of Tidings, Prosody and ejabberd, each in a network namespace of its own, with names from a name server
 * of the run. Installs what is missing, as root on Debian.
 *
 *     npm run test:federation [-- -g TEXT]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { install } from '../../services/install.ts'
import { obstacle } from './network.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const FILES = ['conformance/federation/pairs.ts', 'conformance/federation/restarts.ts']
const TIMEOUT_MS = 120_000

install(['federation'])
const why = obstacle()
if (why !== undefined) {
  console.error(`The servers cannot be brought together: ${why}. Nothing was tested.`)
  process.exit(1)
}
const args = process.argv.slice(2)
const named = args.filter((each) => each.endsWith('.ts'))
const mocha = spawn('mocha', ['--no-parallel', '--timeout', String(TIMEOUT_MS), ...args.filter((each) => !each.endsWith('.ts')), ...named.length === 0 ? FILES : named], {
  cwd: ROOT,
  stdio: 'inherit',
  env: { ...process.env, PATH: `${path.join(ROOT, 'node_modules/.bin')}:${process.env['PATH'] ?? ''}` },
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void mocha.kill(signal))
const [code] = (await once(mocha, 'exit')) as [number | null]
process.exitCode = code ?? 1
