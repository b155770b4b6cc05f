/**
 * What a client costs that is passed on by `tidings proxy`, next to one that is connected to its home: microseconds of CPU a message of the node and of the proxy, and
 * memory of the proxy for each connection that is idle. Clients speak TLS; one node, Redis and HBase.
 *
 *     node bench/proxy.ts [--messages 30000] [--idle 1000] [--rounds 2]
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Client, connect } from '../lib/client/client.ts'
import { sharedHBase, startRedis } from '../services/services.ts'
import { cpuMicros, loadAverage, machine, pssKib } from './process.ts'

const PAIRS = 10
/** Messages that a sender has out before it waits to hear that they are handled. */
const WINDOW = 20
const BIN = path.join(import.meta.dirname, '../bin/tidings.js')

const { values } = parseArgs({ options: { messages: { type: 'string', default: '30000' }, idle: { type: 'string', default: '1000' }, rounds: { type: 'string', default: '2' } } })
const count = Math.ceil(Number(values.messages) / PAIRS)
const idle = Number(values.idle)

interface Started { readonly child: ChildProcess; readonly pid: number; readonly port: number }

const hbase = await sharedHBase()
await using redis = await startRedis()
const dir = await mkdtemp(path.join(tmpdir(), 'tidings-bench-'))
const node = await start('serve')
const proxy = await start('proxy')
try {
  console.log(`${machine()}, load ${loadAverage()}; ${count * PAIRS} messages, ${PAIRS} senders with ${WINDOW} in flight each, over TLS; microseconds of CPU a message`)
  for (let round = 0; round < Number(values.rounds); round++) for (const way of [node, proxy]) await talk(way)
  await rest()
} finally {
  for (const { child } of [node, proxy]) child.kill('SIGKILL')
  await rm(dir, { recursive: true })
}
process.exit()

async function start(role: string): Promise<Started> {
  const file = path.join(dir, `${role}.yml`)
  await writeFile(file, `hosts: [localhost]
loglevel: error
registration_timeout: infinity
listen:
  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, tls: true }
shaper_rules: { max_user_sessions: ${idle + PAIRS} }
modules: { mod_carboncopy: {}, mod_offline: {}, mod_register: { ip_access: all }, mod_roster: {}, mod_stream_mgmt: {} }
tidings:
  limits: { connections_per_address: ${idle + 100} }
  hbase: {masters: ["${hbase.masters[0]}"], prefix: bench${process.pid}_, regions: 1}
  cluster: {node: ${role}, address: "127.0.0.1:0", redis: {url: "${redis.url}"}}
`)
  const child = spawn(process.execPath, ['--max-semi-space-size=16', BIN, role, '--config', file, '--data', path.join(dir, role)], { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  const port = await new Promise<number>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      output += text
      const found = /listening for \S+ (?:\(TLS\) )?on 127\.0\.0\.1:(\d+)/.exec(output)
      if (found !== null) resolve(Number(found[1]))
    })
    child.once('exit', () => { reject(new Error(output)) })
  })
  return { child, pid: child.pid ?? 0, port }
}

function login(port: number, index: number, resource: string): Promise<Client> {
  return connect({ host: '127.0.0.1', port, domain: 'localhost', tls: 'direct', user: `u${index}`, password: 'secret', register: true, resource, inbox: false, mechanism: 'PLAIN', sm: true, timeoutMs: 30_000 })
}

async function talk({ port }: Started): Promise<void> {
  const clients: Client[] = []
  for (let i = 0; i < 2 * PAIRS; i++) clients.push(await login(port, i, 'r'))
  let received = 0
  for (const client of clients) client.on((stanza) => { if (stanza.name === 'message') received++ })
  const before = [cpuMicros(node.pid), cpuMicros(proxy.pid)] as const
  const startedAt = performance.now()
  await Promise.all(Array.from({ length: PAIRS }, async (_, pair) => {
    const [from, to] = [clients[2 * pair] as Client, clients[2 * pair + 1] as Client]
    for (let n = 0; n < count; n++) {
      from.send(`<message to='${to.jid}' type='chat' id='m${n}'><body>Hello, this is message number ${n} of many</body></message>`)
      if (n % WINDOW === WINDOW - 1) await from.requestAck(30_000)
    }
  }))
  while (received < PAIRS * count) await sleep(10)
  const seconds = (performance.now() - startedAt) / 1000
  const [ofNode, ofProxy] = [(cpuMicros(node.pid) - before[0]) / received, (cpuMicros(proxy.pid) - before[1]) / received]
  console.log(`${port === proxy.port ? 'by the proxy' : 'direct'}: node ${ofNode.toFixed(1)}, proxy ${ofProxy.toFixed(1)}; ${Math.round(received / seconds)} messages/s; load ${loadAverage()}`)
  for (const client of clients) client.destroy()
  await sleep(1000)
}

async function rest(): Promise<void> {
  const before = [pssKib(node.pid), pssKib(proxy.pid)] as const
  for (let i = 0; i < idle; i++) await login(proxy.port, i % (2 * PAIRS), `i${i}`)
  await sleep(10_000)
  console.log(`${idle} idle connections over TLS: ${((pssKib(proxy.pid) - before[1]) / idle).toFixed(1)} KiB each at the proxy, ${((pssKib(node.pid) - before[0]) / idle).toFixed(1)} at the node`)
}
