/**
 * Tests against real services: installs what is missing, runs `*.services.test.ts` (all, or the files named), stops what they have started.
 *
 *     npm run test:services [-- FILE …]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { end } from './daemon.ts'
import { install } from './install.ts'

const ROOT = path.join(import.meta.dirname, '..')
const FILES = ['{lib,server,conformance,services}/**/*.services.test.ts']
const TIMEOUT_MS = 400_000

install()
const folder = await mkdtemp(path.join(tmpdir(), 'tidings-services-'))
const files = process.argv.slice(2)
const mocha = spawn('mocha', ['--timeout', String(TIMEOUT_MS), ...files.length === 0 ? FILES : files], {
  cwd: ROOT,
  stdio: 'inherit',
  env: { ...process.env, TIDINGS_SERVICES_DIR: folder, PATH: `${path.join(ROOT, 'node_modules/.bin')}:${process.env['PATH'] ?? ''}` },
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => void mocha.kill(signal))
const [code] = (await once(mocha, 'exit')) as [number | null]
const pids = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.pid'))
await Promise.all(pids.map((file) => end(path.join(folder, file), 'SIGKILL')))
if (code === 0) await rm(folder, { recursive: true, force: true, maxRetries: 3 })
else console.log(`the services' logs are in ${folder}`)
process.exitCode = code ?? 1
