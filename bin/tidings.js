#!/usr/bin/env node
// Plain JavaScript that old versions of Node understand too, so that they can say what is missing.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const NEEDED = 24
const at = (path) => new URL('../' + path, import.meta.url)

// V8 lets its young generation grow to 64 MiB; a server is no quicker with more than this, in MiB, and with less it copies more. Node takes it at its start alone.
const YOUNG = '--max-semi-space-size'
// A library sets timers for times that are past, and Node would say so at each start.
const QUIET = '--disable-warning=TimeoutNegativeWarning'
const chosen = [...process.execArgv, process.env.NODE_OPTIONS ?? ''].some((option) => option.includes(YOUNG))

if (Number(process.versions.node.split('.')[0]) >= NEEDED) {
  const options = []
  if (['serve', 'proxy'].includes(process.argv[2]) && !chosen) options.push(YOUNG + '=16')
  if (['serve', 'archive-worker'].includes(process.argv[2]) && !process.execArgv.includes(QUIET)) options.push(QUIET)
  if (options.length > 0 && process.platform !== 'win32') process.execve(process.execPath, [process.execPath, ...options, ...process.execArgv, ...process.argv.slice(1)])
  // A checkout runs its source, a published package what was built of it.
  const source = at('server/services/cli.ts')
  const { main } = await import(existsSync(source) ? source.href : at('dist/server/services/cli.js').href)
  await main(process.argv.slice(2))
} else if (existsSync(at('node_modules/node/bin/node'))) {
  // A checkout brings the version it needs.
  const child = spawn(fileURLToPath(at('node_modules/node/bin/node')), process.argv.slice(1), { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => { process.exitCode = code ?? (signal ? 1 : 0) })
} else {
  console.error('Tidings needs Node ' + NEEDED + ' or newer; this is Node ' + process.versions.node + '. See https://nodejs.org')
  process.exitCode = 1
}
