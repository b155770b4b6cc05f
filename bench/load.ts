/** Users that cost little, and a count of what they should have received. */
import { type Client, connect, login } from '../lib/client/client.ts'
import type { RunningServer } from './servers.ts'

export const PASSWORD = 'correct horse'
/** How many log in at the same time. */
const PARALLEL = 8
const TIMEOUT_MS = 20_000

export type Tls = 'none' | 'direct'

export function userName(index: number): string {
  return `bench${index}`
}

export function jidOf(server: RunningServer, index: number): string {
  return `${userName(index)}@${server.domain}`
}

/** Does it for 0 to count - 1, some at the same time. */
export async function each(count: number, work: (index: number) => Promise<void>, parallel: number = PARALLEL): Promise<void> {
  let next = 0
  await Promise.all(Array.from({ length: Math.min(count, parallel) }, async () => {
    while (next < count) await work(next++)
  }))
}

function options(server: RunningServer, index: number, tls: Tls): Parameters<typeof login>[0] {
  return { host: server.host, port: tls === 'direct' ? server.tlsPort : server.port, domain: server.domain, tls, user: userName(index), password: PASSWORD, mechanism: 'SCRAM-SHA-1', timeoutMs: TIMEOUT_MS, inbox: false }
}

/** Makes the accounts (XEP-0077). */
export async function makeUsers(server: RunningServer, count: number): Promise<void> {
  await each(count, async (index) => {
    const { connection } = await login({ ...options(server, index, 'none'), register: true })
    connection.write('</stream:stream>')
    connection.destroy()
  })
}

/** A session, available when `presence` is not false. */
export async function logIn(server: RunningServer, index: number, how: { tls?: Tls; resource?: string; presence?: boolean } = {}): Promise<Client> {
  const client = await connect({ ...options(server, index, how.tls ?? 'none'), resource: how.resource ?? 'bench' })
  if (how.presence !== false) client.send('<presence/>')
  return client
}

/** Lost, duplicated and reordered messages of flows that each have an order. */
export class Tally {
  /** By flow: a one at each sequence number that came. */
  readonly #seen: number[][] = []
  readonly #last: number[] = []
  sent = 0
  received = 0
  duplicated = 0
  reordered = 0

  took(flow: number, sequence: number): void {
    const seen = (this.#seen[flow] ??= [])
    if (seen[sequence] === 1) {
      this.duplicated++
      return
    }
    seen[sequence] = 1
    this.received++
    if (sequence < (this.#last[flow] ?? -1)) this.reordered++
    else this.#last[flow] = sequence
  }

  get lost(): number { return this.sent - this.received }

  /** `0` when all came once and in order. */
  toString(): string {
    return this.lost === 0 && this.duplicated === 0 && this.reordered === 0 ? '0' : `${this.lost} lost, ${this.duplicated} twice, ${this.reordered} disordered`
  }
}

/** What a usual client sends with a line of text. */
export function chatMessage(to: string, id: string): string {
  return `<message to='${to}' id='${id}' type='chat' xml:lang='en'><body>Wherefore art thou, Romeo? Deny thy father and refuse thy name; or, if thou wilt not</body><request xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/><origin-id xmlns='urn:xmpp:sid:0' id='${id}'/></message>`
}

/** The flow and sequence in an id of `chatMessage`. */
export function parseId(id: string | undefined): [number, number] | undefined {
  if (id === undefined || !id.startsWith('b')) return undefined
  const dash = id.indexOf('-')
  const flow = Number(id.slice(1, dash))
  const sequence = Number(id.slice(dash + 1))
  return Number.isInteger(flow) && Number.isInteger(sequence) ? [flow, sequence] : undefined
}
