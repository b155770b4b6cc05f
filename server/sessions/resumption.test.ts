import { expect } from 'chai'
import fc from 'fast-check'
import { Jid } from '../../lib/jid.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { CLIENT_NS, makeStanza } from '../../lib/stanza/stanza.ts'
import { openMemory } from '../storage/memory/memory.ts'
import type { Storage, StoredStream } from '../storage/shapes.ts'
import { Gate } from './gate.ts'
import { type Carrier, createManagement, Session, type SessionContext, type Taken } from './session.ts'

type Step =
  | { readonly kind: 'message' | 'presence' | 'request' | 'iq' | 'page'; readonly size: number }
  | { readonly kind: 'read'; readonly count: number }
  | { readonly kind: 'commit' | 'acknowledge' | 'lose' | 'resume' | 'rival' | 'restart' }

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom('message', 'presence', 'request', 'iq', 'page'), size: fc.nat(300) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('read'), count: fc.nat(6) }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constantFrom('commit', 'acknowledge', 'lose', 'resume', 'rival', 'restart') }) },
)

/** A connection with a client that reads when it is told to. */
class Wire implements Carrier {
  readonly address = ''
  readonly secure = true
  readonly backlog = 0
  readonly unread: string[] = []
  closed = false
  write(bytes: Buffer): void { if (!this.closed) this.unread.push(bytes.toString()) }
  whenTaken(callback: Taken): void { setImmediate(callback, !this.closed) }
  close(): void { this.closed = true }
}

/** A session, and the client that resumes it as XEP-0198 says. */
class Pair {
  readonly #storage: Storage = openMemory()
  readonly #context: SessionContext
  session: Session
  restarted = false
  #wire: Wire | undefined = new Wire()
  #h = 0
  #counting = false
  readonly sent: string[] = []
  readonly received: string[] = []

  constructor(start: number) {
    this.#context = {
      storage: this.#storage, gate: new Gate(this.#storage), now: () => Date.now(),
      whileInactive: () => 'send', ended: () => undefined, detached: () => undefined,
      // Every few stanzas wait for the network.
      limits: { outboundBytes: 2000, held: 10 },
    }
    this.session = new Session(Jid.parse('juliet@localhost/balcony'), this.#wire, this.#context)
    const management = createManagement({ id: 's', resumable: true, resumeMs: 1000, queueMax: 10_000 })
    this.session.manage(management)
    this.session.hold()
    this.session.openWhenStored(() => { this.#wire?.write(Buffer.from('<enabled/>')) })
    // Counts as if so many had been sent before.
    management.sent = management.acknowledged = this.#h = start
    this.session.storeStream()
  }

  send(kind: 'message' | 'presence' | 'request' | 'iq' | 'page', size: number): void {
    const id = `${kind}${this.sent.length}`
    const body = { name: 'body', xmlns: CLIENT_NS, text: `<body>${'x'.repeat(size)}</body>` }
    const name = kind === 'page' ? 'message' : kind === 'request' ? 'presence' : kind
    const type = kind === 'iq' ? 'result' : kind === 'request' ? 'subscribe' : undefined
    // A request is in the roster.
    if (kind === 'request') this.#storage.records.put('roster', [id], true)
    this.session.send(makeStanza(name, { id, type }, [body]), { volatile: kind === 'page', durable: kind === 'request' })
    if (kind === 'message' || kind === 'request' || kind === 'iq') this.sent.push(id)
  }

  /** The client reads some stanzas; nonzas in between are not counted. */
  read(count: number): void {
    const { unread } = this.#wire ?? new Wire()
    for (let left = count; left > 0 && unread.length > 0;) {
      const text = unread.shift() as string
      if (text === '<enabled/>') this.#counting = true
      if (!/^<(message|presence|iq)/.test(text) || !this.#counting) continue
      this.#h = (this.#h + 1) % 2 ** 32
      left--
      const id = / id='((?:message|request|iq)\d+)'/.exec(text)?.[1]
      if (id !== undefined) this.received.push(id)
    }
  }

  acknowledge(): void {
    if (this.#wire !== undefined && !this.#wire.closed && this.#counting) expect(this.session.acknowledged(this.#h), `h=${this.#h} can be`).to.equal(true)
  }

  lose(): void {
    const wire = this.#wire
    // Before it is enabled there is nothing to resume.
    if (wire === undefined || !this.#counting) return
    this.#wire = undefined
    wire.closed = true
    this.session.lostCarrier(wire)
  }

  resume(): void {
    if (this.#wire !== undefined) return
    const wire = new Wire()
    const { restarted } = this
    expect(this.session.canHaveReceived(this.#h, restarted), `h=${this.#h} can be`).to.equal(true)
    const old = this.session.carrier
    if (old !== undefined) {
      this.session.detach(old)
      old.close()
    }
    this.session.resume(wire, this.#h, restarted, (_, sendAgain) => {
      this.restarted = false
      sendAgain()
      this.session.requestAck()
    })
    this.#wire = wire
  }

  /** Another connection of the same client, while this one is open. */
  rival(): void {
    if (!this.#counting) return
    this.#wire = undefined
    this.resume()
  }

  async commit(): Promise<void> {
    await this.#storage.committed()
    await new Promise((resolve) => setImmediate(resolve))
  }

  /** Another process: what was committed is there. */
  async restart(): Promise<void> {
    await this.commit()
    if (!this.#counting) return
    this.#wire = undefined
    const [stream] = await this.#storage.streams.load()
    this.session = new Session(this.session.jid, undefined, { ...this.#context, gate: new Gate(this.#storage) })
    this.session.restore((stream as StoredStream).state, readStanza)
    this.session.restoreManagement(stream as StoredStream, { resumeMs: 1000, queueMax: 10_000 }, readStanza)
    this.restarted = true
  }

  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3;) {
      await this.commit()
      this.read(Infinity)
      quiet++
    }
  }
}

describe('resumption', () => {
  for (const [start, name] of [[0, 'from zero'], [2 ** 32 - 5, 'over the edge of the counter']] as const) {
    it(`brings messages, requests and answers once and in order, whatever is lost, resumed and restarted when, ${name} (XEP-0198 §5)`, async () => {
      await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 80, size: 'max' }), async (steps) => {
        const pair = new Pair(start)
        for (const each of steps) {
          switch (each.kind) {
            case 'read': pair.read(each.count); break
            case 'commit': await pair.commit(); break
            case 'acknowledge': pair.acknowledge(); break
            case 'lose': pair.lose(); break
            case 'resume': pair.resume(); break
            case 'rival': pair.rival(); break
            case 'restart': await pair.restart(); break
            default: pair.send(each.kind, each.size)
          }
        }
        await pair.settle()
        pair.resume()
        for (let times = 0; times < 40; times++) await pair.settle()
        expect(pair.received).to.deep.equal(pair.sent)
        pair.acknowledge()
        expect(pair.session.management?.queue).to.have.length(0)
      }), { numRuns: 300 })
    })
  }
})
