/** A small name server for tests: answers from a table, over UDP, and over TCP what does not fit. */
import { type Socket, createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, type Server, createServer, isIPv6 } from 'node:net'
import { type Answer, type Packet, decode, encode } from 'dns-packet'

/** What each name has, by type; names without a dot at the end. `SERVFAIL` fails, and `silent` is no answer. */
export type Zone = Readonly<Record<string, {
  readonly SRV?: readonly (readonly [priority: number, weight: number, port: number, target: string])[]
  readonly A?: readonly string[]
  readonly AAAA?: readonly string[]
  readonly CNAME?: string
  readonly fails?: 'SERVFAIL' | 'silent'
} | undefined>>

export interface NameServer extends AsyncDisposable {
  /** Of a name server, for `createDns`. */
  readonly address: string
  /** What was asked, such as `SRV _xmpp-server._tcp.a.example`, in order. */
  readonly questions: readonly string[]
  /** What it answers from now on. */
  zone: Zone
}

const UDP_BYTES_MAX = 512
const RECURSION_DESIRED = 0x0100
const TRUNCATED = 0x0200
const NXDOMAIN = 3
const SERVFAIL = 2
const CNAMES_MAX = 8

/** Listens on 127.0.0.1, or another address, and on a free port unless told. */
export async function startNameServer(zone: Zone, at: { readonly ip?: string; readonly port?: number } = {}): Promise<NameServer> {
  const { ip = '127.0.0.1', port = 0 } = at
  const questions: string[] = []
  const reply = (query: Buffer, limit: number): Buffer | undefined => {
    const asked = decode(query)
    const question = asked.questions?.[0]
    if (question === undefined) return undefined
    questions.push(`${question.type} ${question.name}`)
    const found = answersTo(started.zone, question.name.toLowerCase(), question.type)
    if (found === 'silent') return undefined
    // RFC 1035 §4.1.1: that recursion is desired is copied from the question; some take no other answer.
    const flags = found.flags | ((asked.flags ?? 0) & RECURSION_DESIRED)
    const head: Packet = { type: 'response', id: asked.id ?? 0, flags, questions: [question] }
    const whole = encode({ ...head, answers: [...found.answers] })
    // RFC 1035 §4.2.1: asked again over TCP.
    return whole.length <= limit ? whole : encode({ ...head, flags: flags | TRUNCATED })
  }
  const tcp = createServer((socket) => {
    let read = Buffer.alloc(0)
    socket.on('error', () => {}).on('data', (bytes) => {
      read = Buffer.concat([read, bytes])
      while (read.length >= 2 && read.length >= 2 + read.readUInt16BE(0)) {
        const end = 2 + read.readUInt16BE(0)
        const answer = reply(read.subarray(2, end), 0xffff)
        read = read.subarray(end)
        if (answer === undefined) continue
        const length = Buffer.alloc(2)
        length.writeUInt16BE(answer.length)
        socket.write(Buffer.concat([length, answer]))
      }
    })
  })
  const udp = await listenTwice(tcp, ip, port)
  udp.on('message', (query, from) => {
    const answer = reply(query, UDP_BYTES_MAX)
    if (answer !== undefined) udp.send(answer, from.port, from.address)
  })
  const bound = udp.address().port
  const started = {
    address: `${ip}:${bound}`,
    questions,
    zone,
    async [Symbol.asyncDispose]() {
      udp.close()
      tcp.close()
    },
  }
  return started
}

/** Listens on the same port of both transports: one that is free for TCP may be taken for UDP. */
async function listenTwice(tcp: Server, ip: string, port: number): Promise<Socket> {
  for (let left = port === 0 ? 9 : 0; ; left--) {
    tcp.listen(port, ip)
    await once(tcp, 'listening')
    const udp = createSocket(isIPv6(ip) ? 'udp6' : 'udp4')
    try {
      udp.bind((tcp.address() as AddressInfo).port, ip)
      await once(udp, 'listening')
      return udp
    } catch (error) {
      udp.close()
      tcp.close()
      await once(tcp, 'close')
      if (left === 0) throw error
    }
  }
}

function answersTo(zone: Zone, asked: string, type: string): 'silent' | { flags: number; answers: readonly Answer[] } {
  const flags = 0x0480 // authoritative, and recursion is available
  const answers: Answer[] = []
  let name = asked
  for (let step = 0; step < CNAMES_MAX; step++) {
    const entry = zone[name]
    if (entry === undefined) return { flags: answers.length > 0 ? flags : flags | NXDOMAIN, answers }
    if (entry.fails === 'silent') return 'silent'
    if (entry.fails === 'SERVFAIL') return { flags: flags | SERVFAIL, answers: [] }
    if (entry.CNAME !== undefined) {
      answers.push({ type: 'CNAME', name, ttl: 1, data: entry.CNAME })
      name = entry.CNAME.toLowerCase()
      continue
    }
    if (type === 'SRV') for (const [priority, weight, port, target] of entry.SRV ?? []) answers.push({ type, name, ttl: 1, data: { priority, weight, port, target } })
    if (type === 'A' || type === 'AAAA') for (const data of entry[type] ?? []) answers.push({ type, name, ttl: 1, data })
    break
  }
  return { flags, answers }
}
