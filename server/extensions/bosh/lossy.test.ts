/** BOSH over a network that loses and delays: everything arrives once and in order, both ways. */
import { expect } from 'chai'
import { readBody } from './body.ts'
import type { Exchange } from '../../c2s/passing.ts'
import { BoshSession, type BoshStream } from './session.ts'

const LIMITS = { stanzaBytes: 100_000, depth: 100, attributes: 100, children: 1000 }
const NS = 'http://jabber.org/protocol/httpbind'

/** Numbers below 1 that are the same each time (mulberry32). */
function chances(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

interface Flight {
  readonly rid: number
  readonly text: string
  /** The connection of the last try. */
  exchange: { gone: boolean; lost: () => void } | undefined
  answer: string | undefined
}

/** A client with a window of two that sends `count` stanzas, and asks again for what was lost. */
class Client {
  readonly received: string[] = []
  /** Not taken by the client yet, by rid. */
  flights: Flight[] = []
  #rid = 500
  sent = 0

  readonly #acknowledges: boolean

  constructor(acknowledges: boolean) {
    this.#acknowledges = acknowledges
  }

  /** What it would send now. */
  next(count: number): Flight | undefined {
    if (this.flights.length >= 2) return undefined
    const payload = this.sent < count ? `<message xmlns='jabber:client'><body>up ${this.sent}</body></message>` : ''
    if (payload === '' && this.flights.length > 0) return undefined
    if (payload !== '') this.sent++
    const ack = this.#acknowledges && this.flights.length > 0 ? ` ack='${(this.flights[0] as Flight).rid - 1}'` : ''
    const flight = { rid: ++this.#rid, text: `<body xmlns='${NS}' sid='S' rid='${this.#rid}'${ack}>${payload}</body>`, exchange: undefined, answer: undefined }
    this.flights.push(flight)
    return flight
  }

  /** §14.2: responses are taken in order. */
  take(): void {
    while (this.flights[0]?.answer !== undefined) {
      const [flight] = this.flights.splice(0, 1) as [Flight]
      for (const [, text] of (flight.answer as string).matchAll(/<body>(down \d+)<\/body>/g)) this.received.push(text as string)
    }
  }
}

async function run(seed: number, acknowledges: boolean): Promise<void> {
  const chance = chances(seed)
  const count = 40
  const heard: string[] = []
  const taken: boolean[] = []
  const client = new Client(acknowledges)
  let now = 0
  let ended = false
  const timers = new Set<{ at: number; run: () => void }>()
  const context = {
    now: () => now,
    after(ms: number, task: () => void) {
      const timer = { at: now + ms, run: task }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
    ended: () => undefined,
    forget: () => { ended = true },
  }
  const stream: BoshStream = {
    paused: false, open: () => undefined, heard: () => undefined,
    receive: (payload) => void heard.push(/<body>(.*)<\/body>/.exec(payload.toString())?.[1] ?? ''),
    close: () => undefined,
    lost: () => { ended = true },
  }
  const creation = readBody(Buffer.from(`<body xmlns='${NS}' rid='500' to='a' wait='20' hold='1' ver='1.6'${acknowledges ? " ack='1'" : ''}/>`), LIMITS)
  const session = new BoshSession('S', true, creation, { maxInactivityMs: 30_000, maxPauseMs: 1, maxConcat: 3, maxWaitS: 60 }, context, () => stream)
  session.request(creation, { gone: false, answer: () => undefined, onGone: () => undefined })
  session.emit(Buffer.from('<features/>'))
  await Promise.resolve()

  /** Requests under way. */
  const under: Flight[] = []
  const post = (flight: Flight): void => {
    const connection = { gone: false, lost: (): void => undefined }
    flight.exchange = connection
    const exchange: Exchange = {
      get gone() { return connection.gone },
      onGone(task) { connection.lost = task },
      answer(status, _type, bytes) {
        expect(status).to.equal(200)
        if (bytes.includes("type='error'")) return
        expect(bytes.toString()).not.to.contain('terminate')
        // The connection of an earlier try is closed.
        if (flight.exchange !== connection) return
        if (chance() < 0.25) connection.gone = true
        else flight.answer = bytes.toString()
      },
    }
    session.request(readBody(Buffer.from(flight.text), LIMITS), exchange)
  }
  let down = 0
  for (let step = 0; step < 5000 && (client.received.length < count || heard.length < count || taken.length < count); step++) {
    const what = chance()
    if (what < 0.3) {
      const flight = client.next(count)
      if (flight !== undefined) under.push(flight)
    } else if (what < 0.6 && under.length > 0) {
      const [flight] = under.splice(Math.floor(chance() * under.length), 1) as [Flight]
      // A request that is lost on the way is sent again, as is one whose connection broke.
      if (chance() < 0.15) under.push(flight)
      else post(flight)
    } else if (what < 0.7 && down < count) {
      session.emit(Buffer.from(`<message xmlns='jabber:client'><body>down ${down++}</body></message>`), (arrived) => void taken.push(arrived))
    } else if (what < 0.8) {
      const flight = client.flights.find(({ exchange, answer }) => exchange !== undefined && !exchange.gone && answer === undefined)
      if (flight?.exchange !== undefined && chance() < 0.3) {
        flight.exchange.gone = true
        flight.exchange.lost()
      }
    } else {
      now += 2_100
      for (const timer of timers) {
        if (timer.at <= now && timers.delete(timer)) timer.run()
      }
      for (const flight of client.flights) if (flight.exchange?.gone === true && flight.answer === undefined && !under.includes(flight)) under.push(flight)
    }
    await Promise.resolve()
    client.take()
    expect(ended, `seed ${seed}: the session goes on`).to.equal(false)
  }
  const all = Array.from({ length: count }, (_, i) => i)
  expect(heard, `seed ${seed}`).to.deep.equal(all.map((i) => `up ${i}`))
  expect(client.received, `seed ${seed}`).to.deep.equal(all.map((i) => `down ${i}`))
  expect(taken, `seed ${seed}`).to.deep.equal(all.map(() => true))
}

describe('BOSH over a network that loses', () => {
  for (const acknowledges of [false, true]) {
    it(`brings everything once and in order, ${acknowledges ? 'with' : 'without'} acknowledgements`, async () => {
      for (let seed = 1; seed <= 50; seed++) await run(seed, acknowledges)
    })
  }
})
