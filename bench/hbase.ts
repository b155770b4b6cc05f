/**
 * What history in HBase costs: CPU of this process for each message that HistoryStore.write takes in batches (two rows each: `archive` and
 * `conversations`), and how long a page of 50 takes. HBase's own CPU is not in it.
 *
 *     node bench/hbase.ts [host:port of a master or region server]      (starts one when none is given)
 */
import { nextMessageId } from '../lib/stanza/ids.ts'
import { HBaseClient } from '../lib/hbase/index.ts'
import { type HistoryChange, type HistoryStore } from '../server/cluster/shapes.ts'
import { openHBaseHistory } from '../server/storage/hbase/history.ts'
import { startHBase } from '../services/services.ts'

const USERS = 500
const MESSAGES = 400_000
const WARM_UP = 100_000
const MESSAGE_BYTES = 330
const PAGES = 2000
const PAGE = 50

const address = process.argv[2]
const service = address === undefined ? await startHBase({ heap: '1024m' }) : undefined
const masters = service?.masters ?? [address as string]
const prefix = `bench${process.pid}_`

const jid = (user: number): string => `user${user % USERS}@example.org`

function batch(first: number, size: number): HistoryChange[] {
  const changes: HistoryChange[] = []
  for (let i = first; i < first + size; i++) {
    changes.push({ owner: jid(i * 7919), id: nextMessageId(), with: jid(i * 31 + 1), bytes: Buffer.alloc(MESSAGE_BYTES, 'x'), version: Date.now() * 1024 + i % 1024 })
  }
  return changes
}

async function writes(store: HistoryStore, messages: number, size: number, atOnce: number, label: string): Promise<void> {
  let cpu = 0
  let written = 0
  const startedAt = performance.now()
  // Making the messages is not what is measured: so many are made outside the time that counts.
  while (written < messages) {
    const batches = Array.from({ length: atOnce }, (_, i) => batch(written + i * size, size))
    const before = process.cpuUsage()
    await Promise.all(batches.map(async (changes) => { await store.write(changes) }))
    const used = process.cpuUsage(before)
    cpu += used.user + used.system
    written += size * atOnce
  }
  const perMessage = cpu / written
  console.log(`${label.padEnd(10)} ${String(size).padStart(5)} a batch, ${atOnce} at once: ${perMessage.toFixed(1)} us CPU a message = ${Math.round(1e6 / perMessage)} messages/s per core (${Math.round(2e6 / perMessage)} rows/s); ${Math.round(written / (performance.now() - startedAt) * 1000)} messages/s in all`)
}

async function pages(label: string, query: (user: number) => Promise<{ items: readonly unknown[] }>): Promise<void> {
  const took: number[] = []
  let items = 0
  const before = process.cpuUsage()
  for (let i = 0; i < PAGES; i++) {
    const at = performance.now()
    items += (await query(i)).items.length
    took.push(performance.now() - at)
  }
  const used = process.cpuUsage(before)
  took.sort((a, b) => a - b)
  console.log(`${label.padEnd(28)} p50 ${(took[PAGES >> 1] ?? 0).toFixed(2)} ms, p99 ${(took[Math.floor(PAGES * 0.99)] ?? 0).toFixed(2)} ms, ${Math.round((used.user + used.system) / PAGES)} us CPU, ${(items / PAGES).toFixed(1)} items`)
}

{
  await using store = await openHBaseHistory({ masters, prefix })
  await writes(store, WARM_UP, 1000, 2, '(warm up)')
  await writes(store, MESSAGES, 1000, 2, 'write')
  await writes(store, MESSAGES / 2, 100, 4, 'write')
  await pages(`last ${PAGE}`, async (user) => await store.query(jid(user), { max: PAGE, direction: 'backward' }))
  await pages(`first ${PAGE}`, async (user) => await store.query(jid(user), { max: PAGE, direction: 'forward' }))
  await pages(`last ${PAGE} with one contact`, async (user) => await store.query(jid(user * 7919), { max: PAGE, direction: 'backward', with: jid(user * 31 + 1) }))
  using client = new HBaseClient({ servers: masters })
  for (const name of ['archive', 'conversations']) await client.admin.deleteTable(`${prefix}${name}`)
}
await service?.stop()
