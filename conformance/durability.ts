/**
 * The promise that an acknowledged message is never lost, put to the test: servers are killed in the middle of traffic.
 *
 *     node conformance/durability.ts [--rounds N] [--signal KILL|TERM] [--processes N] [--one]
 *
 * With `--processes` the server is several processes on this machine (`tidings.processes`); with `--one` one of those that serve clients is killed alone.
 *
 * In each round five pairs of accounts talk at once. Every sender numbers its messages, keeps up to 100 unacknowledged, resumes
 * its stream after the server's death and sends again what was not acknowledged. In the end each message must have reached its
 * recipient exactly once and in order, and must stand exactly once in both archives. A recipient without stream management cannot say
 * what it has got, so it may get a message twice, under one stanza-id (XEP-0359).
 */
import { parseArgs } from 'node:util'
import { Client, connect, type ConnectOptions, login } from '../lib/client/client.ts'
import type { Stanza } from '../lib/stanza/stanza.ts'
import { type Ports, ServerProcess } from './server-process.ts'

const WINDOW = 100
const REQUEST_EVERY = 10
/** Messages of one sender before the server is killed; a silent client's queue has a limit. */
const SENT_MAX = 2000
const AFTERWARDS = 150
const DEADLINE_MS = 120_000
/** How long the silent clients that never resume may be waited for, seconds. */
const EXPIRES_S = 1
const PAGE = 200
/** A page of an archive whose store has only just come back. */
const ANSWER_MS = 60_000

/** Who receives: reading all the time; silent and resuming; silent and logging in anew; offline; reading without stream management. */
const KINDS = ['online', 'silent', 'anew', 'offline', 'plain'] as const
export type Kind = (typeof KINDS)[number]

export interface RoundOptions {
  readonly kinds?: readonly Kind[]
  /** Messages of one sender before the first kill, at most. */
  readonly sent?: number
  readonly kills?: number
  /** One process that serves clients is killed, or told to stop, alone; or hangs. */
  readonly one?: boolean | 'hangs'
}

export interface RoundResult {
  readonly messages: number
  /** Acknowledged when the server was killed for the last time. */
  readonly acknowledged: number
  readonly faults: readonly string[]
  /** From the signal to the end of the process, ms. */
  readonly stopMs: number
  readonly kills: number
}

/** Starts a server for rounds, of so many processes. */
export function startServer(processes = 1): Promise<ServerProcess> { return ServerProcess.start({ config: configOf(processes) }) }

/** Its configuration, with more modules. */
export function configOf(processes: number, modules = ''): (ports: Ports) => string {
  return (ports) => `
hosts: [localhost]
loglevel: error
listen:
  - { port: ${ports.client}, ip: 127.0.0.1, module: ejabberd_c2s }
access_rules:
  local: { allow: all }
shaper_rules:
  max_user_sessions: 20
  max_user_offline_messages: 100000
registration_timeout: infinity
tidings: { processes: ${processes} }
modules:
  mod_carboncopy: {}
  mod_mam: { default: always }
  mod_offline: {}
  mod_register: { ip_access: all }
  mod_roster: {}
  mod_stream_mgmt: {}
${modules}`
}

/** One account's client, which comes back after the server has gone. */
class Endpoint {
  readonly options: ConnectOptions
  /** Numbers of the messages received, as they came. */
  readonly received: number[] = []
  readonly #faults: string[]
  client!: Client
  onAck: () => void = () => undefined
  /** Drops messages whose stanza-ids have been seen. */
  readonly #ids: Set<string> | undefined

  constructor(port: number, user: string, resource: string, faults: string[], byId = false) {
    this.options = { host: '127.0.0.1', port, domain: 'localhost', tls: 'none', user, password: 'pencil', resource, timeoutMs: 30_000 }
    this.#faults = faults
    if (byId) this.#ids = new Set()
  }

  /** Connects, again and again while there is no server. */
  async open(more: Partial<ConnectOptions> = { sm: true }): Promise<Client> {
    const options = { ...this.options, ...more }
    const until = Date.now() + DEADLINE_MS
    for (;;) {
      try {
        const { connection, features } = await login(options)
        const client = new Client(connection, false)
        this.client = client
        client.on((stanza) => this.#take(stanza))
        await client.start(features, options)
        return client
      } catch (error) {
        if (Date.now() > until || !/ECONN|EPIPE|hang up|closed|ended|shutdown/.test(String(error))) throw new Error(`${options.user}: ${String(error)}`, { cause: error })
        await sleep(20)
      }
    }
  }

  /** Comes back as a client does that lost its network, with what it had counted. */
  async resume(): Promise<void> {
    let state = this.client.resumeState()
    this.client.destroy()
    for (;;) {
      const client = await this.open({ resume: state, sm: true })
      if (!client.resumed) {
        this.#faults.push(`${this.options.user} could not resume`)
        client.send('<presence/>')
      }
      if (!client.ended) return
      state = client.resumeState()
    }
  }

  #take(stanza: Stanza): void {
    if (stanza.xmlns === 'urn:xmpp:sm:3' && stanza.name === 'a') return void setImmediate(() => this.onAck())
    const body = stanza.name === 'message' ? stanza.find('body', 'jabber:client') : undefined
    if (body === undefined) return
    if (this.#ids !== undefined) {
      const id = stanzaId(stanza, `${this.options.user}@localhost`)
      if (id === undefined || this.#ids.has(id)) return
      this.#ids.add(id)
    }
    this.received.push(Number(stanza.childElement(body).getText()))
  }
}

/** Sends numbered messages as fast as they are acknowledged. */
class Sender {
  readonly endpoint: Endpoint
  readonly #to: string
  sent = 0
  #max: number
  #waiting: (() => void) | undefined

  constructor(endpoint: Endpoint, to: string, max: number) {
    this.endpoint = endpoint
    this.#to = to
    this.#max = max
    endpoint.onAck = () => this.#go()
  }

  begin(): void { this.#go() }

  /** What is not acknowledged has been sent again; goes on, up to `more` from here. */
  proceed(more: number): void {
    this.#max = this.sent + more
    this.endpoint.client.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
    this.#go()
  }

  /** Resolves when everything is sent and acknowledged. */
  async done(): Promise<void> {
    let giveUp: NodeJS.Timeout | undefined
    await new Promise<void>((resolve, reject) => {
      this.#waiting = resolve
      giveUp = setTimeout(() => reject(new Error(`${this.endpoint.options.user}: not acknowledged: ${this.endpoint.client.unacked.length}`)), DEADLINE_MS)
      this.#go()
    })
    clearTimeout(giveUp)
  }

  #go(): void {
    const { client } = this.endpoint
    if (client.ended) return
    let text = false
    while (this.sent < this.#max && client.unacked.length < WINDOW) {
      const number = this.sent++
      client.send(`<message to='${this.#to}' type='chat' id='m${number}'><body>${number}</body></message>`)
      text = number % REQUEST_EVERY === REQUEST_EVERY - 1 || this.sent === this.#max
      if (text) client.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
    }
    if (this.sent >= this.#max && client.unacked.length === 0) this.#waiting?.()
  }
}

/** A sender and a recipient; `round` chooses among the recipient's ways. */
class Pair {
  readonly faults: string[] = []
  readonly #kind: Kind
  readonly #round: number
  readonly sender: Sender
  readonly #from: Endpoint
  readonly #to: Endpoint
  #counted = 0
  /** Logged in just before the server died. */
  #lateLogin = false

  constructor(port: number, kind: Kind, round: number, tag: string, sent: number) {
    this.#kind = kind
    this.#round = round
    this.#from = new Endpoint(port, `s-${kind}-${tag}`, 'laptop', this.faults)
    this.#to = new Endpoint(port, `r-${kind}-${tag}`, 'phone', this.faults, kind === 'plain')
    // To the account, and in every other round to the client that is there.
    this.sender = new Sender(this.#from, `${this.#to.options.user}@localhost${kind !== 'anew' && kind !== 'offline' && round % 2 === 1 ? '/phone' : ''}`, sent)
  }

  async begin(): Promise<void> {
    await this.#from.open({ register: true, sm: true })
    if (this.#kind === 'anew') {
      // Asks for a short time of resumption, which it does not use, and reads nothing after its presence.
      const client = await this.#to.open({ register: true })
      client.connection.write(`<enable xmlns='urn:xmpp:sm:3' resume='true' max='${EXPIRES_S}'/>`)
      client.send('<presence/>')
      await client.ping()
      client.connection.stopReading()
    } else if (this.#kind === 'plain') {
      const client = await this.#to.open({ register: true })
      client.send('<presence/>')
      await client.ping()
    } else {
      const client = await this.#to.open({ register: true, sm: true })
      if (this.#kind === 'offline') await client.disconnect()
      else {
        client.send('<presence/>')
        await client.ping()
      }
    }
    this.sender.begin()
    if (this.#kind === 'silent') {
      const { connection } = this.#to.client
      setTimeout(() => connection.stopReading(), Math.random() * 200)
    }
  }

  /** Some time before the death of the server. */
  async shortlyBefore(): Promise<void> {
    if (this.#kind !== 'offline' || this.#round % 3 !== 2) return
    this.#lateLogin = true
    const client = await this.#to.open()
    client.send('<presence/>')
  }

  get acknowledged(): number { return this.sender.sent - this.#from.client.unacked.length }

  async afterwards(final: boolean): Promise<void> {
    const first = this.#counted++ === 0
    const back = this.#return(first, final)
    await this.#from.resume()
    this.sender.proceed(AFTERWARDS)
    if (!final) return
    await this.sender.done()
    await back
    await this.#finish()
  }

  /** The recipient comes back. */
  async #return(first: boolean, final: boolean): Promise<void> {
    const to = this.#to
    switch (this.#kind) {
      case 'online':
        return to.resume()
      case 'silent':
        if (final) return to.resume()
        return to.client.destroy()
      case 'plain':
        await to.open({})
        return to.client.send('<presence/>')
      case 'anew':
        if (first) to.client.destroy()
        // With the same resource, in place of the session that still waits.
        if (final && this.#round % 3 === 0) return this.#login()
        return
      case 'offline':
        if (this.#lateLogin) return to.resume()
        if (final && this.#round % 3 === 1) return this.#login()
    }
  }

  async #login(more: Partial<ConnectOptions> = {}): Promise<void> {
    const client = await this.#to.open({ sm: true, ...more })
    client.send("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    client.send('<presence/>')
  }

  /** The sender is done: those who come late come now. */
  async #finish(): Promise<void> {
    const late = this.#round % 3
    if (this.#kind === 'anew' && late === 1) {
      // Looked for once a second.
      await sleep((EXPIRES_S + 1.5) * 1000)
      await this.#login({ resource: 'tablet' })
    } else if (this.#kind === 'anew' && late === 2) await this.#login({ resource: 'tablet' })
    else if (this.#kind === 'offline' && late === 0) await this.#login()
    const until = Date.now() + DEADLINE_MS / 2
    while (this.#to.received.length < this.sender.sent && Date.now() < until) await sleep(20)
    await this.#to.client.ping()
    await sleep(100)
    this.#compare('received', this.#to.received)
    await this.#to.client.disconnect()
    await this.#from.client.disconnect()
    for (const { options } of [this.#from, this.#to]) this.#compare(`archive of ${options.user}`, await readArchive(options))
  }

  #compare(where: string, numbers: readonly number[]): void {
    const count = this.sender.sent
    const seen = new Set(numbers)
    const missing = Array.from({ length: count }, (_, number) => number).filter((number) => !seen.has(number))
    const twice = numbers.filter((number, at) => numbers.indexOf(number) !== at)
    const disorder = numbers.filter((number, at) => at > 0 && number < (numbers[at - 1] as number))
    const say = (what: string, which: readonly number[]): void => {
      if (which.length > 0) this.faults.push(`${this.#kind}, way ${this.#round % 6}: ${where}: ${which.length} of ${count} ${what}: ${which.slice(0, 5).join(' ')}…${which.at(-1)}`)
    }
    say('missing', missing)
    say('twice', twice)
    if (twice.length === 0) say('out of order', disorder)
  }
}

/** XEP-0359 */
function stanzaId(stanza: Stanza, by: string): string | undefined {
  return stanza.element().getChildren('stanza-id', 'urn:xmpp:sid:0').find((each) => each.attrs['by'] === by)?.attrs['id']
}

/** The numbers of all pages of an archive (XEP-0313). */
export async function readArchive(options: ConnectOptions): Promise<number[]> {
  const client = await connect({ ...options, resource: 'archivist', inbox: false })
  const numbers: number[] = []
  client.on((stanza) => {
    const text = stanza.find('result', 'urn:xmpp:mam:2') === undefined ? null : /<body>(\d+)<\/body>/.exec(stanza.toString())
    if (text !== null) numbers.push(Number(text[1]))
  })
  for (let after = ''; ;) {
    const answer = await client.sendIq(`<iq type='set'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>${PAGE}</max>${after}</set></query></iq>`, ANSWER_MS)
    const fin = answer.getChild('fin', 'urn:xmpp:mam:2')
    const last = fin?.getChild('set', 'http://jabber.org/protocol/rsm')?.getChildText('last')
    if (fin?.attrs['complete'] === 'true' || !last) break
    after = `<after>${last}</after>`
  }
  await client.disconnect()
  return numbers
}

/** One round: all kinds of recipients, and the server killed once or, in every other round, twice. */
export async function runRound(server: ServerProcess, round: number, signal: 'SIGKILL' | 'SIGTERM', options: RoundOptions = {}): Promise<RoundResult> {
  const { kinds = KINDS, sent = SENT_MAX, kills = 1 + (round % 2) } = options
  const tag = `${signal.toLowerCase()}${round}`
  const pairs = kinds.map((kind) => new Pair(server.port, kind, round, tag, sent))
  await Promise.all(pairs.map((pair) => pair.begin()))
  let acknowledged = 0
  let stopMs = 0
  for (let kill = 1; kill <= kills; kill++) {
    await sleep(50 + Math.random() * 500)
    if (kill === 1) {
      const late = Promise.all(pairs.map((pair) => pair.shortlyBefore()))
      await Promise.race([late, sleep(Math.random() * 150)])
      if (pairs.length > 0 && round % 3 === 2) await late
      await sleep(Math.random() * 30)
    }
    acknowledged = pairs.reduce((sum, pair) => sum + pair.acknowledged, 0)
    if (options.one) server.killOne(options.one === 'hangs' ? 'SIGSTOP' : signal)
    else {
      stopMs = Math.max(stopMs, await server.kill(signal))
      await server.run()
    }
    await Promise.all(pairs.map((pair) => pair.afterwards(kill === kills)))
  }
  return {
    messages: pairs.reduce((sum, pair) => sum + pair.sender.sent, 0), acknowledged,
    faults: pairs.flatMap((pair) => pair.faults), stopMs, kills,
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '12' }, signal: { type: 'string', default: 'KILL' }, kind: { type: 'string' }, processes: { type: 'string', default: '1' }, one: { type: 'boolean', default: false } } })
  const rounds = Number(values.rounds)
  if (!Number.isInteger(rounds) || rounds < 1 || (values.signal !== 'KILL' && values.signal !== 'TERM')) {
    console.error('Usage: node conformance/durability.ts [--rounds N] [--signal KILL|TERM] [--kind online|silent|anew|offline|plain] [--processes N] [--one]')
    process.exitCode = 2
    return
  }
  const kinds = values.kind === undefined ? KINDS : KINDS.filter((kind) => kind === values.kind)
  await using server = await startServer(Number(values.processes))
  let messages = 0
  let acknowledged = 0
  let kills = 0
  let stopMs = 0
  let faults = 0
  for (let round = 0; round < rounds; round++) {
    const result = await runRound(server, round, `SIG${values.signal}`, { kinds, one: values.one })
    messages += result.messages
    acknowledged += result.acknowledged
    kills += result.kills
    stopMs = Math.max(stopMs, result.stopMs)
    faults += result.faults.length
    for (const fault of result.faults) console.error(`round ${round}: ${fault}`)
  }
  console.log(`SIG${values.signal}: ${rounds} rounds, ${kills} kills, ${messages} messages (${acknowledged} acknowledged at the last kill of their round), ${faults} faults; slowest stop ${Math.round(stopMs)} ms`)
  process.exitCode = faults === 0 ? 0 : 1
}

if (import.meta.main) await main()
