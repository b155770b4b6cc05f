/**
 * What storage costs: CPU of the whole process (LMDB's thread too) for each message, with so many in flight.
 * A message is archived for two owners, pushed to one stream, counted as handled by another, and acknowledged when safe.
 *
 *     node bench/storage.ts [directory [milliseconds between commits]]
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nextMessageId } from '../lib/stanza/ids.ts'
import { openEmbedded } from '../server/storage/embedded/embedded.ts'
import { type Storage } from '../server/storage/shapes.ts'

const USERS = 200
const MESSAGES = 60_000
const MESSAGE_BYTES = 330

const dir = mkdtempSync(join(process.argv[2] ?? tmpdir(), 'tidings-bench-'))

function jid(user: number): string {
  return `user${user}@example.org`
}

async function run(storage: Storage, inFlight: number, label: string, write: (n: number) => void): Promise<void> {
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  let sent = 0
  let done = 0
  const latencies: number[] = []
  await new Promise<void>((resolve) => {
    const send = (): void => {
      if (sent === MESSAGES) return
      write(sent++)
      const at = performance.now()
      storage.afterCommit(() => {
        latencies.push(performance.now() - at)
        if (++done === MESSAGES) resolve()
        // The next message arrives in a turn of its own, as from a socket.
        else setImmediate(send)
      })
    }
    for (let i = 0; i < inFlight; i++) send()
  })
  const used = process.cpuUsage(cpu)
  latencies.sort((a, b) => a - b)
  const perMessage = (used.user + used.system) / MESSAGES
  console.log(`${label.padEnd(34)} ${String(inFlight).padStart(5)} in flight: ${perMessage.toFixed(1).padStart(6)} us CPU a message, ${Math.round(MESSAGES / (performance.now() - startedAt) * 1000)} messages/s, safe after ${(latencies[latencies.length >> 1] ?? 0).toFixed(2)} ms (median)`)
}

/** Messages that arrive at a steady rate, whatever the disk does. */
async function steady(storage: Storage, perSecond: number, label: string, write: (n: number) => void): Promise<void> {
  const seconds = 4
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  let sent = 0
  const latencies: number[] = []
  while (sent < perSecond * seconds) {
    await new Promise((resolve) => { setTimeout(resolve, 1) })
    for (const due = Math.min(perSecond * seconds, (performance.now() - startedAt) / 1000 * perSecond); sent < due; sent++) {
      write(sent)
      const at = performance.now()
      storage.afterCommit(() => latencies.push(performance.now() - at))
    }
  }
  await storage.committed()
  const used = process.cpuUsage(cpu)
  latencies.sort((a, b) => a - b)
  console.log(`${label.padEnd(34)} ${String(perSecond).padStart(5)} a second:  ${((used.user + used.system) / sent).toFixed(1).padStart(6)} us CPU a message, safe after ${(latencies[latencies.length >> 1] ?? 0).toFixed(2)} ms (median), ${(latencies[Math.floor(latencies.length * 0.99)] ?? 0).toFixed(2)} ms (99 %)`)
}

{
  const commitEveryMs = process.argv[3] === undefined ? undefined : Number(process.argv[3])
  const storage = await openEmbedded(dir, commitEveryMs === undefined ? {} : { commitEveryMs })
  const bytes = Buffer.alloc(MESSAGE_BYTES, 'x')
  const seqs = new Uint32Array(USERS)
  const handled = new Uint32Array(USERS)
  for (let i = 0; i < USERS; i++) storage.streams.open(`s${i}`, jid(i), 'bench', null)
  await storage.committed()
  const streamWork = (n: number): void => {
    const from = n % USERS
    const to = (n * 7 + 1) % USERS
    const seq = (seqs[to] = (seqs[to] ?? 0) + 1)
    storage.streams.push(`s${to}`, seq, bytes)
    storage.streams.handled(`s${from}`, (handled[from] = (handled[from] ?? 0) + 1))
    storage.streams.acknowledged(`s${to}`, Math.max(0, seq - 3))
  }
  const archiveWork = (n: number): void => {
    const from = jid(n % USERS)
    const to = jid((n * 7 + 1) % USERS)
    storage.archive.append({ id: nextMessageId(), bytes, owners: [{ owner: from, with: to }, { owner: to, with: from }] })
  }
  for (const inFlight of [10, 100, 1000]) {
    await run(storage, inFlight, 'archive, stream', (n) => { archiveWork(n); streamWork(n) })
    await run(storage, inFlight, 'archive alone', archiveWork)
    await run(storage, inFlight, 'stream alone', streamWork)
  }
  for (const perSecond of [200, 2000, 10_000]) await steady(storage, perSecond, 'archive, stream', (n) => { archiveWork(n); streamWork(n) })
  const pages = 5000
  for (const [label, options] of [['last page of 50', {}], ['last page of 50 with one contact', { with: jid(8) }]] as const) {
    const cpu = process.cpuUsage()
    for (let i = 0; i < pages; i++) await storage.archive.query(jid(1), { max: 50, direction: 'backward', ...options })
    const used = process.cpuUsage(cpu)
    console.log(`${label.padEnd(34)} ${((used.user + used.system) / pages / 1000).toFixed(3)} ms CPU (${(await storage.archive.query(jid(1), { max: 50, direction: 'backward', ...options })).items.length} items)`)
  }
  await storage[Symbol.asyncDispose]()
}
rmSync(dir, { recursive: true, force: true })
