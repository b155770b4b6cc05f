/** What becomes of acknowledged messages when one of two servers is killed under load and starts again; run by `npm run test:federation`. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import type { Client, ResumeState } from '../../lib/client/client.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { Peer } from './peers.ts'
import { PAIRS, World, kindOf } from './world.ts'

const MAM = 'urn:xmpp:mam:2'
const RSM = 'http://jabber.org/protocol/rsm'
const MESSAGES = 400
const BURST = 5
const BURST_MS = 40
/** Messages that were sent when a server is killed. */
const KILL_AT = 120
const DOWN_MS = 500
/** Nothing more is waited for when nothing has arrived for so long. */
const QUIET_MS = 15_000
const LOGIN_MS = 5_000

describe('federation with a server that is killed', function () {
  this.timeout(240_000)
  let world: World
  let count = 0

  before(async () => { world = await World.start() })
  after(async () => { await world[Symbol.asyncDispose]() })

  for (const [from, to] of PAIRS) {
    for (const victim of [from, to]) {
      it(`messages from ${from} to ${to} while ${victim} is killed and starts again`, async () => {
        const user = `k${++count}`
        await using romeo = await Lasting.start(world.peer(from), `romeo-${user}`)
        await using juliet = await Lasting.start(world.peer(to), `juliet-${user}`)
        const restarted = (async () => {
          while (romeo.sent < KILL_AT) await sleep(10)
          await world.peer(victim).kill()
          await sleep(DOWN_MS)
          await world.peer(victim).run()
        })()
        for (let id = 0; id < MESSAGES; id++) {
          romeo.send(`<message to='${juliet.bare}' type='chat' id='${user}-${id}'><body>${user}-${id}</body></message>`)
          if (id % BURST === BURST - 1) await sleep(BURST_MS)
        }
        await restarted
        await romeo.acknowledged()
        await juliet.quiet(MESSAGES)
        const archive = tally(await juliet.archivedBodies(), user)
        const live = tally(juliet.bodies, user)
        const refused = new Set(romeo.errors).size
        const told = (name: string, { lost, doubled }: Tally): string => `${name}: ${lost} lost, ${doubled} doubled`
        console.log(`        ${MESSAGES} acknowledged; ${told('seen by the client', live)}; ${told('in the archive', archive)}; ${refused} sent back`)
        const kinds = [kindOf(from), kindOf(to)]
        if (kinds.every((kind) => kind === 'tidings')) {
          expect(archive).to.deep.equal({ lost: 0, doubled: 0 })
          expect(live).to.deep.equal({ lost: 0, doubled: 0 })
        // Prosody says what it has handled (XEP-0198); what ejabberd was sent before it was killed, only it could know.
        } else if (kinds[0] === 'tidings' && (kinds[1] === 'prosody' || victim === from)) expect(archive.lost).to.be.at.most(refused)
      })
    }
  }
})

interface Tally { readonly lost: number; readonly doubled: number }

function tally(bodies: readonly string[], user: string): Tally {
  const counts = new Map<string, number>()
  for (const body of bodies) if (body.startsWith(`${user}-`)) counts.set(body, (counts.get(body) ?? 0) + 1)
  return { lost: MESSAGES - counts.size, doubled: [...counts.values()].filter((each) => each > 1).length }
}

/** A user who connects again whenever the connection is lost, with the stream resumed when the server can. */
class Lasting implements AsyncDisposable {
  readonly #peer: Peer
  readonly #user: string
  #client: Client
  #isOver = false
  #lastAt = performance.now()
  /** What was to be sent while there was no connection. */
  readonly #waiting: string[] = []
  sent = 0
  readonly bodies: string[] = []
  /** Ids of messages that came back. */
  readonly errors: string[] = []

  private constructor(peer: Peer, user: string, client: Client) {
    this.#peer = peer
    this.#user = user
    this.#client = client
    this.#attach(client)
  }

  static async start(peer: Peer, user: string): Promise<Lasting> {
    const client = await peer.login(user, { sm: true })
    client.send('<presence/>')
    return new Lasting(peer, user, client)
  }

  get bare(): string { return escapeXml(this.#client.bare) }

  send(text: string): void {
    this.sent++
    if (this.#client.ended) this.#waiting.push(text)
    else this.#client.send(text)
  }

  /** Until the server has acknowledged all that was sent. */
  async acknowledged(): Promise<void> {
    while (this.#waiting.length > 0 || this.#client.unacked.length > 0) {
      const client = this.#client
      if (!client.ended) await client.requestAck(1000).catch(() => undefined)
      await sleep(20)
    }
  }

  /** Until so many different messages came, or none for a while. */
  async quiet(wanted: number): Promise<void> {
    this.#lastAt = performance.now()
    while (new Set(this.bodies).size < wanted && performance.now() - this.#lastAt < QUIET_MS) await sleep(50)
    // What comes twice comes soon.
    await sleep(1000)
  }

  /** Every body in the archive of this user. */
  async archivedBodies(): Promise<string[]> {
    const client = await this.#peer.login(this.#user, { inbox: false })
    const bodies: string[] = []
    client.on((stanza) => {
      if (stanza.name !== 'message' || stanza.find('result', MAM) === undefined) return
      const body = stanza.element().getChild('result', MAM)?.getChild('forwarded')?.getChild('message')?.getChildText('body')
      if (typeof body === 'string') bodies.push(body)
    })
    for (let after: string | undefined = ''; after !== undefined;) {
      const page: string = after === '' ? '' : `<after>${escapeXml(after)}</after>`
      const fin = (await client.sendIq(`<iq type='set'><query xmlns='${MAM}'><set xmlns='${RSM}'><max>50</max>${page}</set></query></iq>`, 15_000)).getChild('fin', MAM)
      after = fin?.attrs['complete'] === 'true' ? undefined : fin?.getChild('set', RSM)?.getChildText('last') ?? undefined
    }
    await client.disconnect()
    return bodies
  }

  #attach(client: Client): void {
    const take = (stanza: Stanza): void => {
      if (stanza.name !== 'message') return
      this.#lastAt = performance.now()
      if (stanza.type === 'error') this.errors.push(stanza.id ?? '')
      else {
        const body = stanza.element().getChildText('body')
        if (body !== null) this.bodies.push(body)
      }
    }
    // What came with the answer to the login is in the inbox.
    for (const stanza of client.inbox.splice(0)) take(stanza)
    client.on(take)
    void client.closed.then(() => this.#again(client))
  }

  async #again(lost: Client): Promise<void> {
    const resume: ResumeState = lost.resumeState()
    while (!this.#isOver) {
      try {
        const client = await this.#peer.login(this.#user, { sm: true, resume, register: false, timeoutMs: LOGIN_MS })
        this.#client = client
        this.#attach(client)
        if (!client.resumed) client.send('<presence/>')
        for (const text of this.#waiting.splice(0)) client.send(text)
        return
      } catch {
        await sleep(200)
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true
    await this.#client.disconnect()
  }
}
