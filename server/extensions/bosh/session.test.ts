/** A session of BOSH by itself: a stream that is told what to say, requests one by one, and a clock that stands still. */
import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { readBody } from './body.ts'
import { type BoshStream, BoshSession, type BoshSettings, type Opening } from './session.ts'

const LIMITS = { stanzaBytes: 100_000, depth: 100, attributes: 100, children: 1000 }
const SETTINGS: BoshSettings = { maxInactivityMs: 30_000, maxPauseMs: 120_000, maxConcat: Infinity, maxWaitS: 60 }
const CREATION = "to='example.net' wait='60' hold='1' ver='1.6' content='text/xml; charset=utf-8'"
const FEATURES = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>"

class Clock {
  now = 1_000_000
  #timers: { at: number; run: () => void }[] = []

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.now + ms, run }
    this.#timers.push(timer)
    return () => { this.#timers = this.#timers.filter((each) => each !== timer) }
  }

  pass(ms: number): void {
    const end = this.now + ms
    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (next === undefined) break
      this.#timers = this.#timers.filter((each) => each !== next)
      this.now = next.at
      next.run()
    }
    this.now = end
  }
}

class Response {
  gone = false
  status: number | undefined
  contentType = ''
  text: string | undefined
  #lost = (): void => undefined
  onGone(run: () => void): void { this.#lost = run }
  answer(status: number, contentType: string, bytes: Buffer): void {
    expect(this.text, 'answered once').to.equal(undefined)
    Object.assign(this, { status, contentType, text: bytes.toString() })
  }
  breakOff(): void {
    this.gone = true
    this.#lost()
  }
}

class Stage {
  readonly clock = new Clock()
  readonly heard: string[] = []
  readonly openings: Opening[] = []
  paused = false
  forgotten = false
  session!: BoshSession
  rid = 100

  constructor(creation = CREATION, settings = SETTINGS) {
    const isPaused = (): boolean => this.paused
    const stream: BoshStream = {
      get paused() { return isPaused() },
      open: (opening) => void this.openings.push(opening),
      receive: (payload) => void this.heard.push(payload.toString()),
      heard: () => undefined,
      close: () => void this.heard.push('closed'),
      lost: () => void this.heard.push('lost'),
    }
    const context = { now: () => this.clock.now, after: (ms: number, run: () => void) => this.clock.after(ms, run), ended: () => undefined, forget: () => { this.forgotten = true } }
    const body = readBody(Buffer.from(`<body xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh' xmpp:version='1.0' rid='${this.rid}' ${creation}/>`), LIMITS)
    this.session = new BoshSession('SID', true, body, settings, context, () => stream)
    this.created = new Response()
    this.session.request(body, this.created)
  }

  readonly created: Response

  /** A request of this rid. */
  ask(rid: number, attributes = '', payload = ''): Response {
    const response = new Response()
    this.session.request(readBody(Buffer.from(`<body xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh' sid='SID' rid='${rid}' ${attributes}>${payload}</body>`), LIMITS), response)
    return response
  }

  async say(element: string, taken?: (arrived: boolean) => void): Promise<void> {
    this.session.emit(Buffer.from(element), taken)
    await Promise.resolve()
  }

  /** With the stream's features sent. */
  async begin(): Promise<this> {
    await this.say(FEATURES)
    return this
  }
}

const message = (text: string): string => `<message xmlns='jabber:client'><body>${text}</body></message>`
const ended = (condition?: string): string => `<body xmlns='http://jabber.org/protocol/httpbind' type='terminate'${condition === undefined ? '' : ` condition='${condition}'`}/>`
const EMPTY = "<body xmlns='http://jabber.org/protocol/httpbind'/>"

describe('XEP-0124: sessions', () => {
  it('§7.2: the session response says what was agreed, with the features of the stream', async () => {
    const stage = new Stage("to='example.net' from='romeo@example.net' wait='600' hold='3' ver='1.6' xml:lang='de' ack='1' route='xmpp:example.net:5222'")
    expect(stage.openings).to.deep.equal([{ to: 'example.net', from: 'romeo@example.net', lang: 'de', version: '1.0' }])
    expect(stage.created.text).to.equal(undefined)
    stage.session.opened('stream-id')
    await stage.begin()
    expect(stage.created.status).to.equal(200)
    expect(stage.created.contentType).to.equal('text/xml; charset=utf-8')
    for (const attribute of ["sid='SID'", "wait='60'", "requests='2'", "hold='1'", "ver='1.6'", "polling='2'", "inactivity='30'", "maxpause='120'", "ack='100'", "from='example.net'", "authid='stream-id'",
      "xmlns:xmpp='urn:xmpp:xbosh'", "xmpp:version='1.0'", "xmpp:restartlogic='true'", "xmlns:stream='http://etherx.jabber.org/streams'"]) expect(stage.created.text).to.contain(` ${attribute}`)
    expect(stage.created.text).to.contain(`>${FEATURES}</body>`)
  })

  it('§7.2: the version is the lower of both, as numbers', async () => {
    for (const [theirs, ours] of [['1.6', '1.6'], ['1.10', '1.10'], ['1.12', '1.11'], ['2.0', '1.11'], ['0.99', '0.99']]) {
      const stage = await new Stage(`to='example.net' ver='${theirs}'`).begin()
      expect(stage.created.text).to.contain(` ver='${ours}'`)
    }
  })

  it('§7.1: the content type is the one the client asks for, unless it is none', async () => {
    const stage = await new Stage("to='example.net' ver='1.6' content='text/html; charset=utf-8'").begin()
    expect(stage.created.contentType).to.equal('text/html; charset=utf-8')
    for (const content of ['text/xml&#13;&#10;Set-Cookie: a=b', 'nonsense', 'text/xml; charset=utf-16']) {
      expect(() => new Stage(`to='example.net' ver='1.6' content='${content}'`)).to.throw('content type')
    }
  })

  it('§7.1: a session cannot begin without a rid that can be counted on from', () => {
    for (const rid of ['', '0', '-1', '1.5', '9007199254740992', '99999999999999999', 'a']) {
      expect(() => readAndCreate(rid), rid).to.throw('rid')
    }
    expect(() => readAndCreate('9007199254740991')).not.to.throw()
    function readAndCreate(rid: string): void {
      const body = readBody(Buffer.from(`<body xmlns='http://jabber.org/protocol/httpbind' rid='${rid}' to='a'/>`), LIMITS)
      new BoshSession('S', true, body, SETTINGS, { now: () => 0, after: () => () => undefined, ended: () => undefined, forget: () => undefined }, () => ({}) as BoshStream)
    }
  })

  it('§8: a request is held until there is something to say, or its time has come', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    expect(first.text).to.equal(undefined)
    await stage.say(message('one'))
    expect(first.text).to.contain('one')
    const second = stage.ask(102)
    stage.clock.pass(59_999)
    expect(second.text).to.equal(undefined)
    stage.clock.pass(1)
    expect(second.text).to.equal(EMPTY)
  })

  it('§8: what was said while no request was there goes with the next, in one response', async () => {
    const stage = await new Stage().begin()
    await stage.say(message('one'))
    await stage.say(message('two'))
    const next = stage.ask(101)
    await Promise.resolve()
    expect(next.text).to.equal(`<body xmlns='http://jabber.org/protocol/httpbind'>${message('one')}${message('two')}</body>`)
  })

  it('what is said in one turn is one response', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    stage.session.emit(Buffer.from(message('one')))
    stage.session.emit(Buffer.from(message('two')))
    await Promise.resolve()
    expect(first.text).to.contain('one').and.contain('two')
  })

  it('max_concat: so many elements go in one response', async () => {
    const stage = await new Stage(CREATION, { ...SETTINGS, maxConcat: 2 }).begin()
    for (const text of ['one', 'two', 'three']) await stage.say(message(text))
    expect(stage.ask(101).text).to.contain('one').and.contain('two').and.not.contain('three')
    expect(stage.ask(102).text).to.contain('three')
  })

  it('what waits is not all in one response when it is much', async () => {
    const stage = await new Stage().begin()
    for (let i = 0; i < 4; i++) await stage.say(message(`${i}${'x'.repeat(600_000)}`))
    expect(stage.ask(101).text?.match(/<message /g)).to.have.length(2)
    expect(stage.ask(102).text?.match(/<message /g)).to.have.length(2)
  })

  it('§8: no more requests are held than agreed, and the first says that the second is here (§9.1)', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    const second = stage.ask(102, '', message('hello'))
    expect(first.text).to.equal("<body xmlns='http://jabber.org/protocol/httpbind' ack='102'/>")
    expect(second.text).to.equal(undefined)
    expect(stage.heard).to.deep.equal([message('hello')])
  })

  it('§14.2: requests that come out of order are taken and answered in order', async () => {
    const stage = await new Stage().begin()
    const second = stage.ask(102, '', message('two'))
    expect(stage.heard).to.deep.equal([])
    const first = stage.ask(101, '', message('one'))
    expect(stage.heard).to.deep.equal([message('one'), message('two')])
    expect(first.text).to.equal("<body xmlns='http://jabber.org/protocol/httpbind' ack='102'/>")
    await stage.say(message('answer'))
    expect(second.text).to.contain('answer')
  })

  it('§14.2: a request that comes too early is not kept when its connection breaks, and taken when it comes again', async () => {
    const stage = await new Stage().begin()
    stage.ask(102, '', message('lost')).breakOff()
    stage.ask(101, '', message('one'))
    expect(stage.heard).to.deep.equal([message('one')])
    const moved = stage.ask(103, '', message('three'))
    const again = stage.ask(103, '', message('three'))
    moved.breakOff()
    stage.ask(102, '', message('two'))
    expect(stage.heard).to.deep.equal(['one', 'two', 'three'].map(message))
    expect(again.text).to.equal(undefined)
  })

  it('§14.2: a rid beyond the window ends the session', async () => {
    const stage = await new Stage().begin()
    const held = stage.ask(101)
    const far = stage.ask(104)
    expect(far.text).to.equal(ended('item-not-found'))
    expect(held.text).to.equal(ended('other-request'))
    expect(stage.heard).to.deep.equal(['lost'])
    expect(stage.forgotten).to.equal(true)
  })

  it('§11: the window is one wider for a request that ends or pauses', async () => {
    for (const attribute of ["type='terminate'", "pause='10'"]) {
      const stage = await new Stage().begin()
      expect(stage.ask(103, attribute).text, attribute).to.equal(undefined)
      expect(stage.heard).to.deep.equal([])
    }
    expect((await new Stage().begin()).ask(103).text).to.equal(ended('item-not-found'))
  })

  it('§14.3: a request that was answered gets the same bytes again, and nothing of it is taken twice', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101, '', message('hello'))
    await stage.say(message('answer'))
    const again = stage.ask(101, '', message('hello'))
    expect(again.text).to.equal(first.text).and.contain('answer')
    expect(stage.heard).to.deep.equal([message('hello')])
    expect(stage.ask(100).text).to.equal(stage.created.text)
  })

  it('§14.3: as many responses are kept as a client can ask for; beyond, the session ends', async () => {
    const stage = await new Stage().begin()
    for (let rid = 101; rid < 106; rid++) {
      stage.ask(rid, '', message('x'))
      await stage.say(message(`for ${rid}`))
    }
    expect(stage.ask(104).text).to.contain('for 104')
    expect(stage.ask(105).text).to.contain('for 105')
    expect(stage.ask(101).text).to.equal(ended('item-not-found'))
  })

  it('§14.3: a request that is held and comes again moves to the new connection', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    const second = stage.ask(101)
    expect(first.text).to.equal("<body xmlns='http://jabber.org/protocol/httpbind' type='error'/>")
    await stage.say(message('one'))
    expect(second.text).to.contain('one')
  })

  it('what is said after a connection broke goes to the same request on the next one', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    first.breakOff()
    await stage.say(message('one'))
    expect(first.text).to.equal(undefined)
    const again = stage.ask(101)
    await Promise.resolve()
    expect(again.text).to.contain('one')
  })

  it('a request whose connection broke is answered with nothing when its time is over, and the next one has all', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    first.breakOff()
    await stage.say(message('one'))
    const second = stage.ask(102, '', message('x'))
    expect(second.text).to.contain('one')
    expect(stage.ask(101).text).to.equal("<body xmlns='http://jabber.org/protocol/httpbind' ack='102'/>")
  })

  it('what was sent counts as taken when a later request shows that it was received', async () => {
    const stage = await new Stage().begin()
    const taken: string[] = []
    const say = (text: string): Promise<void> => stage.say(message(text), (arrived) => void taken.push(`${text} ${arrived}`))
    stage.ask(101, '', message('x'))
    await say('one')
    expect(stage.session.backlog).to.equal(Buffer.byteLength(message('one') + FEATURES))
    stage.ask(101)
    expect(taken, 'sent again, so not received').to.deep.equal([])
    stage.ask(102, '', message('x'))
    expect(taken, 'it may have been sent at the same time').to.deep.equal([])
    await say('two')
    stage.ask(103)
    expect(taken, 'nobody who has a request open sends an empty one').to.deep.equal(['one true', 'two true'])
    expect(stage.session.backlog).to.equal(0)
    await say('three')
    stage.ask(104, '', message('x'))
    stage.ask(105, '', message('x'))
    expect(taken).to.deep.equal(['one true', 'two true', 'three true'])
  })

  it('§9.2: a client that acknowledges says what it has', async () => {
    const stage = await new Stage(`${CREATION} ack='1'`).begin()
    const taken: string[] = []
    const say = (text: string): Promise<void> => stage.say(message(text), (arrived) => void taken.push(`${text} ${arrived}`))
    stage.ask(101, '', message('x'))
    await say('one')
    stage.ask(102, "ack='100'", message('x'))
    expect(taken).to.deep.equal([])
    stage.ask(103, "ack='101'", message('x'))
    expect(taken).to.deep.equal(['one true'])
    await say('two')
    stage.ask(104, '', message('x'))
    expect(taken, 'it has all').to.deep.equal(['one true', 'two true'])
  })

  it('§10: a session without requests ends as a connection that was lost; what was not received was not taken', async () => {
    const stage = await new Stage().begin()
    const taken: boolean[] = []
    stage.ask(101, '', message('x'))
    await stage.say(message('sent'), (arrived) => void taken.push(arrived))
    await stage.say(message('waiting'), (arrived) => void taken.push(arrived))
    stage.clock.pass(29_999)
    expect(stage.heard).to.deep.equal([message('x')])
    stage.clock.pass(1)
    expect(stage.heard).to.deep.equal([message('x'), 'lost'])
    expect(taken).to.deep.equal([false, false])
    expect(stage.forgotten).to.equal(true)
  })

  it('§10: it does not while a request is held, nor before a broken one is missed for as long', async () => {
    const stage = await new Stage().begin()
    const first = stage.ask(101)
    stage.clock.pass(50_000)
    expect(stage.heard).to.deep.equal([])
    first.breakOff()
    stage.clock.pass(29_999)
    expect(stage.heard).to.deep.equal([])
    stage.clock.pass(1)
    expect(stage.heard).to.deep.equal(['lost'])
  })

  it('§10: a request that never became due is told so when the session ends', async () => {
    const stage = await new Stage().begin()
    const early = stage.ask(102)
    stage.clock.pass(30_000)
    expect(early.text).to.equal(ended('item-not-found'))
    expect(stage.heard).to.deep.equal(['lost'])
  })

  it('§10: a pause answers all requests, with nothing in them, and lets the client be away for longer, once', async () => {
    const stage = await new Stage().begin()
    const held = stage.ask(101)
    const pause = stage.ask(102, "pause='100'")
    expect(held.text).to.equal("<body xmlns='http://jabber.org/protocol/httpbind' ack='102'/>")
    expect(pause.text).to.equal(EMPTY)
    await stage.say(message('meanwhile'))
    stage.clock.pass(99_999)
    expect(stage.heard).to.deep.equal([])
    const back = stage.ask(103)
    await Promise.resolve()
    expect(back.text).to.contain('meanwhile')
    stage.clock.pass(30_000)
    expect(stage.heard).to.deep.equal(['lost'])
  })

  it('§10: a pause longer than allowed ends the session', async () => {
    for (const pause of ['121', 'x', '']) {
      const stage = await new Stage().begin()
      expect(stage.ask(101, `pause='${pause}'`).text).to.equal(ended('policy-violation'))
      expect(stage.heard).to.deep.equal(['lost'])
    }
  })

  it('§11: an empty request right after another that is held ends the session; a later one does not', async () => {
    const stage = await new Stage().begin()
    stage.ask(101)
    stage.clock.pass(2_000)
    stage.ask(102)
    expect(stage.heard).to.deep.equal([])
    stage.clock.pass(1_999)
    expect(stage.ask(103).text).to.equal(ended('policy-violation'))
    expect(stage.heard).to.deep.equal(['lost'])
  })

  it('§12: a polling session is answered at once, and may not poll too often in vain', async () => {
    for (const creation of ["to='example.net' ver='1.6' hold='0'", "to='example.net' ver='1.6' wait='0' hold='1'"]) {
      const stage = await new Stage(creation).begin()
      expect(stage.created.text).to.contain("hold='0'").and.contain("requests='1'").and.contain("inactivity='34'")
      expect(stage.ask(101).text).to.equal(EMPTY)
      stage.clock.pass(2_000)
      expect(stage.ask(102).text).to.equal(EMPTY)
      await stage.say(message('one'))
      stage.clock.pass(2_000)
      expect(stage.ask(103).text).to.contain('one')
      expect(stage.ask(104).text, 'there was something the last time').to.equal(EMPTY)
      expect(stage.ask(105).text).to.equal(ended('policy-violation'))
    }
  })

  it('§13: a client ends its session; what it sends with that arrives, what it does not have is not taken', async () => {
    const stage = await new Stage().begin()
    const taken: boolean[] = []
    const held = stage.ask(101)
    const last = stage.ask(102, "type='terminate'", "<presence xmlns='jabber:client' type='unavailable'/>")
    expect(stage.heard).to.deep.equal(["<presence xmlns='jabber:client' type='unavailable'/>", 'closed'])
    expect(held.text).to.equal(ended())
    expect(last.text).to.equal(EMPTY)
    await stage.say(message('late'), (arrived) => void taken.push(arrived))
    expect(taken).to.deep.equal([false])
    expect(stage.ask(101).text, 'the response was lost').to.equal(ended())
    expect(stage.ask(103).text).to.equal(ended('item-not-found'))
    stage.clock.pass(30_000)
    expect(stage.forgotten).to.equal(true)
  })

  it('XEP-0206 §6: an error of the stream goes with what came before it, to the oldest request', async () => {
    const stage = await new Stage().begin()
    const held = stage.ask(101)
    stage.session.emit(Buffer.from("<iq xmlns='jabber:client' type='result'/>"))
    stage.session.emit(Buffer.from("<stream:error xmlns:stream='http://etherx.jabber.org/streams'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"))
    stage.session.streamEnded(true)
    expect(held.text).to.contain("type='terminate' condition='remote-stream-error'").and.contain("xmlns:stream=").and.contain('<iq ').and.contain('<conflict ')
  })

  it('an error that finds no request waits for the next one, without messages that would come again', async () => {
    const stage = await new Stage().begin()
    const taken: boolean[] = []
    await stage.say(message('stored'), (arrived) => void taken.push(arrived))
    await stage.say("<stream:error xmlns:stream='http://etherx.jabber.org/streams'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
    stage.session.streamEnded(true)
    expect(taken).to.deep.equal([false])
    const next = stage.ask(101)
    expect(next.text).to.contain('remote-stream-error').and.contain('<conflict ').and.not.contain('stored')
    expect(stage.ask(101).text).to.equal(next.text)
    expect(stage.ask(102).text).to.equal(ended('item-not-found'))
    expect(stage.heard).to.deep.equal([])
  })

  it('§17.2: conditions of a session that could not begin, and of a stream that was cut off', async () => {
    const unknown = new Stage()
    unknown.session.emit(Buffer.from("<stream:error xmlns:stream='http://etherx.jabber.org/streams'><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"))
    unknown.session.streamEnded(true)
    expect(unknown.created.text).to.equal(ended('host-unknown'))
    const cut = await new Stage().begin()
    const held = cut.ask(101)
    cut.session.streamEnded(false)
    expect(held.text).to.equal(ended('remote-connection-failed'))
  })

  it('§17.1: a client without a version hears of errors by the status', async () => {
    const stage = await new Stage("to='example.net' wait='60' hold='1'").begin()
    expect(stage.created.text).not.to.contain(' ver=')
    expect(stage.ask(199).status).to.equal(404)
    const paused = await new Stage("to='example.net' wait='60' hold='1'").begin()
    expect(paused.ask(101, "pause='9999'").status).to.equal(403)
  })

  it('XEP-0206 §5: a restart opens the stream again, and what comes with it is ignored', async () => {
    const stage = await new Stage().begin()
    const response = stage.ask(101, "xmpp:restart='true' to='example.net' xml:lang='fr'", message('x'))
    expect(stage.openings.at(-1)).to.deep.equal({ to: 'example.net', from: undefined, lang: 'fr', version: '1.0' })
    expect(stage.heard).to.deep.equal([])
    await stage.say(FEATURES)
    expect(response.text).to.equal(`<body xmlns='http://jabber.org/protocol/httpbind' xmlns:stream='http://etherx.jabber.org/streams'>${FEATURES}</body>`)
  })

  it('a stream that takes nothing for now is not given the next request', async () => {
    const stage = await new Stage().begin()
    stage.paused = true
    const waiting = stage.ask(101, '', message('one'))
    expect(stage.heard).to.deep.equal([])
    stage.clock.pass(40_000)
    expect(stage.heard, 'the client is not to blame').to.deep.equal([])
    stage.paused = false
    stage.session.resume()
    expect(stage.heard).to.deep.equal([message('one')])
    expect(waiting.text).to.equal(undefined)
  })

  describe('§15: keys', () => {
    const sha1 = (text: string): string => createHash('sha1').update(text).digest('hex')
    const k1 = sha1('seed')
    const k2 = sha1(k1)
    const k3 = sha1(k2)

    it('each request has the key before the last one, whatever its case', async () => {
      const other = sha1('another')
      const stage = await new Stage(`${CREATION} newkey='${k3}'`).begin()
      stage.ask(101, `key='${k2.toUpperCase()}'`, message('one'))
      stage.ask(102, `key='${k1}' newkey='${sha1(other)}'`, message('two'))
      stage.ask(103, `key='${other}'`, message('three'))
      expect(stage.heard).to.deep.equal([message('one'), message('two'), message('three')])
    })

    it('a wrong key, or none, ends the session and nothing is taken', async () => {
      for (const key of ['', `key='${k3}'`, `key='${k1}'`]) {
        const stage = await new Stage(`${CREATION} newkey='${k3}'`).begin()
        expect(stage.ask(101, key, message('one')).text).to.equal(ended('item-not-found'))
        expect(stage.heard).to.deep.equal(['lost'])
      }
    })

    it('a response is not given again to who does not know the key of its request', async () => {
      const stage = await new Stage(`${CREATION} newkey='${k3}'`).begin()
      stage.ask(101, `key='${k2}'`, message('one'))
      await stage.say(message('secret'))
      expect(stage.ask(101, `key='${k2}'`).text).to.contain('secret')
      expect(stage.ask(101).text).to.equal(ended('item-not-found'))
    })
  })
})
