/** What no client should send: whatever it is, the server answers every IQ, and goes on serving the others. */
import { randomInt } from 'node:crypto'
import { escapeXml } from '../../lib/xml/element.ts'
import { type Actor, check, play, Raw } from '../play.ts'

const RSM = 'http://jabber.org/protocol/rsm'
const FORM = 'jabber:x:data'
const PAYLOADS: readonly (readonly [string, string])[] = [
  ['query', 'jabber:iq:roster'], ['query', 'urn:xmpp:mam:2'], ['prefs', 'urn:xmpp:mam:2'], ['metadata', 'urn:xmpp:mam:2'],
  ['query', 'http://jabber.org/protocol/disco#info'], ['query', 'http://jabber.org/protocol/disco#items'], ['block', 'urn:xmpp:blocking'],
  ['unblock', 'urn:xmpp:blocking'], ['blocklist', 'urn:xmpp:blocking'], ['query', 'jabber:iq:private'], ['vCard', 'vcard-temp'],
  ['query', 'jabber:iq:last'], ['enable', 'urn:xmpp:carbons:2'], ['request', 'urn:xmpp:http:upload:0'],
  ['command', 'http://jabber.org/protocol/commands'], ['time', 'urn:xmpp:time'], ['ping', 'urn:xmpp:ping'],
  ['offline', 'http://jabber.org/protocol/offline'], ['bind', 'urn:ietf:params:xml:ns:xmpp-bind'], ['query', 'jabber:iq:version'], ['nothing', 'urn:nothing'],
]
const CHILDREN: readonly (readonly [string, string?])[] = [
  ['item'], ['item'], ['set', RSM], ['max', RSM], ['after', RSM], ['before', RSM], ['x', FORM], ['field', FORM], ['value'], ['always'], ['jid'], ['group'],
  ['purge'], ['fetch'], ['PHOTO'], ['BINVAL'], ['storage', 'storage:bookmarks'], ['resource'], ['received', 'urn:xmpp:carbons:2'],
  ['forwarded', 'urn:xmpp:forward:0'], ['message', 'jabber:client'], ['delay', 'urn:xmpp:delay'], ['stanza-id', 'urn:xmpp:sid:0'], ['no-store', 'urn:xmpp:hints'],
  ['priority'], ['show'], ['status'], ['body'], ['c', 'http://jabber.org/protocol/caps'], ['error'],
]
const ATTRIBUTES = ['jid', 'name', 'subscription', 'node', 'action', 'sessionid', 'filename', 'size', 'content-type', 'default', 'hash', 'ver', 'by', 'stamp', 'var', 'type', 'queryid', 'id', 'ask', 'xml:lang']
const KINDS = ['get', 'set', 'result', 'error', 'chat', 'groupchat', 'headline', 'subscribe', 'subscribed', 'unsubscribe', 'unsubscribed', 'probe', 'unavailable', 'unheard-of', '']
const VALUES = ['', '@', 'a@b', '-1', '0', '99999999999999999999', 'NaN', '__proto__', 'constructor', 'toString', 'true', 'submit', 'remove', 'both', 'none', 'é😀', '\u202e', '\ufeff', '&<>"\'', 'urn:xmpp:mam:2', '2020-01-01T00:00:00Z', 'start', 'with', 'x'.repeat(2000), 'a/'.repeat(200), '\t\n ']

const pick = <T>(from: readonly T[]): T => from[randomInt(from.length)] as T
const chance = (percent: number): boolean => randomInt(100) < percent

function element(name: string, xmlns: string | undefined, values: readonly string[], depth: number): string {
  let text = `<${name}${xmlns === undefined ? '' : ` xmlns='${xmlns}'`}`
  for (const attribute of new Set(Array.from({ length: randomInt(4) }, () => pick(ATTRIBUTES)))) text += ` ${attribute}='${escapeXml(pick(values))}'`
  text += '>'
  if (chance(30)) text += escapeXml(pick(values))
  for (let i = randomInt(4); i > 0 && depth < 4; i--) text += child(values, depth + 1)
  return `${text}</${name}>`
}

function child(values: readonly string[], depth: number): string {
  const [name, xmlns] = pick(CHILDREN)
  return element(name, xmlns, values, depth)
}

function attribute(name: string, percent: number, values: readonly string[]): string {
  return chance(percent) ? ` ${name}='${escapeXml(pick(values))}'` : ''
}

function stanza(values: readonly string[], id: string): string {
  const kind = randomInt(10)
  if (kind < 6) {
    const [name, xmlns] = pick(PAYLOADS)
    return `<iq type='${pick(['get', 'set'])}' id='${id}'${attribute('to', 40, values)}>${element(name, xmlns, values, 0)}</iq>`
  }
  const name = kind < 8 ? 'message' : 'presence'
  let children = ''
  for (let i = randomInt(3); i > 0; i--) children += child(values, 1)
  return `<${name}${attribute('id', 80, values)}${attribute('to', 80, values)}${attribute('type', 80, KINDS)}>${children}</${name}>`
}

async function attack(romeo: Actor, values: readonly string[], count: number): Promise<void> {
  const unanswered = new Map<string, string>()
  let broken: string | undefined
  const stop = romeo.client.on((answer) => {
    if (answer.name !== 'iq') return
    unanswered.delete(answer.id ?? '')
    if (answer.type === 'error' && answer.content.includes('<internal-server-error')) broken ??= String(answer)
  })
  for (let i = 0; i < count && romeo.online; i++) {
    const id = `attack-${i}`
    const text = stanza(values, id)
    if (text.startsWith('<iq')) unanswered.set(id, text)
    romeo.sends(text)
    if (chance(10)) await romeo.client.ping().catch(() => undefined)
  }
  if (romeo.online) await romeo.client.ping()
  stop()
  check(broken === undefined, `an internal error: ${broken}`)
  check(romeo.client.streamError?.condition !== 'internal-server-error', 'an internal error ended the stream')
  const [first] = unanswered.values()
  if (first !== undefined && romeo.online) {
    // IQs to other accounts may be answered by them, or by nobody when they do not answer.
    const lost = [...unanswered.values()].filter((text) => !/^<iq[^>]* to='[^']*(?:@|\/)/.test(text))
    check(lost.length === 0, `no answer to ${lost[0]}`)
  }
}

play('RFC 6120 §8.2.3 every IQ is answered, however odd', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const values = [...VALUES, romeo.bare, romeo.jid, juliet.bare, juliet.jid, stage.domain, `upload.${stage.domain}`]
  await attack(romeo, values, 400)
  await juliet.client.ping()
})

play('XEP-0198 odd stanzas on a stream that is resumed', { romeo: { sm: true }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const values = [...VALUES, romeo.bare, juliet.bare, juliet.jid, stage.domain]
  for (let i = 0; i < 5 && romeo.online; i++) {
    await attack(romeo, values, 40)
    if (!romeo.online) break
    const resume = romeo.client.resumeState()
    await romeo.vanishes()
    await romeo.enters({ resume, sm: true })
  }
  await juliet.client.ping()
})

play('RFC 6120 §4.9 broken streams leave the others alone', { juliet: {} }, async ({ juliet }, stage) => {
  const good = Buffer.from(`<?xml version='1.0'?><stream:stream to='${stage.domain}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth><iq type='get' id='a'><query xmlns='jabber:iq:register'/></iq>`)
  await Promise.all(Array.from({ length: 40 }, async () => {
    const bytes = Buffer.from(good)
    for (let i = randomInt(1, 4); i > 0; i--) bytes[randomInt(bytes.length)] = randomInt(256)
    const raw = await Raw.open(stage)
    raw.sends(bytes.subarray(0, randomInt(bytes.length)))
    await raw.connection.next(300).catch(() => undefined)
    raw.leave()
  }))
  await juliet.client.ping()
})
