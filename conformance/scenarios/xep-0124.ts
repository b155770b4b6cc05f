/** XEP-0124 and XEP-0206: BOSH, against any server whose HTTP listener is known. */
import { randomInt } from 'node:crypto'
import { Agent, request } from 'node:https'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import { check, play, type Stage } from '../play.ts'

const NS = 'http://jabber.org/protocol/httpbind'
const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'
const PATHS = ['/bosh', '/http-bind']
const ANSWER_MS = 20_000

/** A web client. */
class Web {
  readonly #url: URL
  readonly #domain: string
  readonly #agent = new Agent({ keepAlive: true })
  rid = randomInt(1, 2 ** 32)
  sid = ''

  private constructor(url: URL, domain: string) {
    this.#url = url
    this.#domain = domain
  }

  /** With a session; undefined where there is no HTTP listener. */
  static async open(stage: Stage): Promise<Web | undefined> {
    if (stage.web === undefined) return undefined
    for (const path of PATHS) {
      const web = new Web(new URL(path, stage.web), stage.domain)
      const body = await web.post(`<body xmlns='${NS}' xmlns:xmpp='urn:xmpp:xbosh' rid='${web.rid}' to='${stage.domain}' wait='3' hold='1' ver='1.6' xml:lang='en' xmpp:version='1.0'/>`).catch(() => undefined)
      if (body?.attrs['sid'] === undefined) {
        web.leave()
        continue
      }
      web.sid = body.attrs['sid']
      if (features(body) === undefined) check(features(await web.send()) !== undefined, 'the features of the stream')
      return web
    }
    throw new Error(`no session at ${PATHS.join(' or ')}`)
  }

  post(text: string): Promise<Element> {
    return new Promise((resolve, reject) => {
      const { hostname, port, pathname } = this.#url
      const asked = request({ host: '127.0.0.1', servername: hostname, port, path: pathname, method: 'POST', headers: { Host: this.#url.host, 'Content-Type': 'text/xml; charset=utf-8', 'Content-Length': Buffer.byteLength(text) }, agent: this.#agent, rejectUnauthorized: false, timeout: ANSWER_MS }, (response) => {
        const parts: Buffer[] = []
        response.on('data', (part: Buffer) => parts.push(part)).on('error', reject).on('end', () => {
          try {
            resolve(parseElement(Buffer.concat(parts)))
          } catch (error) {
            reject(error as Error)
          }
        })
      })
      asked.on('error', reject).on('timeout', () => asked.destroy(new Error('no answer')))
      asked.end(text)
    })
  }

  wrap(rid: number, payload = '', attributes = ''): string {
    return `<body xmlns='${NS}' xmlns:xmpp='urn:xmpp:xbosh' rid='${rid}' sid='${this.sid}' ${attributes}>${payload}</body>`
  }

  send(payload = '', attributes = ''): Promise<Element> {
    return this.post(this.wrap(++this.rid, payload, attributes))
  }

  /** What is sent, and empty requests after it, until this is answered. */
  async until<Found>(wanted: (body: Element) => Found | undefined, payload = '', attributes = ''): Promise<Found> {
    let body = await this.send(payload, attributes)
    for (let tries = 0; tries < 10; tries++) {
      const found = wanted(body)
      if (found !== undefined) return found
      check(body.attrs['type'] !== 'terminate', `the session goes on: ${body.toString()}`)
      body = await this.send()
    }
    throw new Error('it has not come')
  }

  async login(user: string, password: string): Promise<this> {
    const plain = Buffer.from(`\0${user}\0${password}`).toString('base64')
    await this.until((body) => body.getChild('success', SASL_NS), `<auth xmlns='${SASL_NS}' mechanism='PLAIN'>${plain}</auth>`)
    await this.until(features, '', `to='${this.#domain}' xmpp:restart='true'`)
    await this.until((body) => stanza(body, 'iq', 'bind'), "<iq xmlns='jabber:client' type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    await this.until((body) => stanza(body, 'presence'), "<presence xmlns='jabber:client'/>")
    return this
  }

  leave(): void {
    this.#agent.destroy()
  }
}

function features(body: Element): Element | undefined {
  return body.getChildElements().find((child) => child.getName() === 'features' || child.getName() === 'stream:features')
}

/** Servers may leave the namespace of stanzas out (XEP-0206 §2). */
function stanza(body: Element, name: string, id?: string): Element | undefined {
  return body.getChildElements().find((child) => child.getName() === name && (id === undefined || child.attrs['id'] === id))
}

function textOf(body: Element): string | undefined {
  const message = stanza(body, 'message')
  return message?.getChildElements().find((child) => child.getName() === 'body')?.getText()
}

play('XEP-0206 §5 a web client logs in, and chats with one on TCP', { romeo: { online: false }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const web = await (await Web.open(stage))?.login(romeo.user, romeo.password)
  if (web === undefined) return
  try {
    const answer = web.send(`<message xmlns='jabber:client' to='${juliet.jid}' type='chat'><body>by the web</body></message>`)
    const { attrs } = await juliet.receives("<message type='chat'><body>by the web</body></message>")
    juliet.sends(`<message to='${attrs['from']}' type='chat'><body>by TCP</body></message>`)
    if (textOf(await answer) !== 'by TCP') await web.until((body) => (textOf(body) === 'by TCP' ? body : undefined))
  } finally {
    web.leave()
  }
})

play('XEP-0124 §14.3 a request sent again has its answer again, and is not taken again', { romeo: { online: false }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const web = await (await Web.open(stage))?.login(romeo.user, romeo.password)
  if (web === undefined) return
  try {
    const text = web.wrap(++web.rid, `<message xmlns='jabber:client' to='${juliet.jid}' type='chat'><body>once</body></message><iq xmlns='jabber:client' type='get' id='ping' to='${stage.domain}'><ping xmlns='urn:xmpp:ping'/></iq>`)
    const first = await web.post(text)
    const second = await web.post(text)
    check(second.toString() === first.toString(), `the same answer, not ${second.toString()}`)
    await juliet.receives("<message type='chat'><body>once</body></message>")
    await juliet.receivesNothing("<message type='chat'><body>once</body></message>")
  } finally {
    web.leave()
  }
})

play('XEP-0124 §14.2 a rid beyond the window, and an unknown session, are item-not-found', { romeo: { online: false } }, async (_cast, stage) => {
  const web = await Web.open(stage)
  if (web === undefined) return
  try {
    const far = await web.post(web.wrap(web.rid + 100))
    check(far.attrs['type'] === 'terminate' && far.attrs['condition'] === 'item-not-found', `answered with ${far.toString()}`)
    const gone = await web.send()
    check(gone.attrs['type'] === 'terminate' && gone.attrs['condition'] === 'item-not-found', `the session is over, not ${gone.toString()}`)
  } finally {
    web.leave()
  }
})

play('XEP-0124 §13 a session that a client ends is unavailable to its contacts', { romeo: { online: false }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const web = await (await Web.open(stage))?.login(romeo.user, romeo.password)
  if (web === undefined) return
  try {
    // Directed presence (RFC 6121 §4.6) needs no subscription.
    void web.send(`<presence xmlns='jabber:client' to='${juliet.jid}'/>`).catch(() => undefined)
    await juliet.receives('<presence/>')
    const last = await web.send("<presence xmlns='jabber:client' type='unavailable'/>", "type='terminate'")
    check(last.attrs['condition'] === undefined, `no error, but ${last.toString()}`)
    await juliet.receives("<presence type='unavailable'/>")
  } finally {
    web.leave()
  }
})
