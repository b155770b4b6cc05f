/** What users of two servers do with each other, for every two servers and both ways; run by `npm run test:federation`. */
import { randomBytes } from 'node:crypto'
import { request } from 'node:https'
import { type LookupFunction } from 'node:net'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { type Element, escapeXml } from '../../lib/xml/element.ts'
import type { Peer } from './peers.ts'
import { PAIRS, World } from './world.ts'

/** Before the first stanza a connection has to be made, and answers of old servers take their time. */
const PATIENCE_MS = 15_000
const DISCO = 'http://jabber.org/protocol/disco#info'
const MUC = 'http://jabber.org/protocol/muc'
const MAM = 'urn:xmpp:mam:2'
const PUBSUB = 'http://jabber.org/protocol/pubsub'
const NICK = 'http://jabber.org/protocol/nick'
const UPLOAD = 'urn:xmpp:http:upload:0'

describe('federation', () => {
  let world: World
  let count = 0

  before(async () => { world = await World.start() })
  after(async () => { await world[Symbol.asyncDispose]() })

  for (const [from, to] of PAIRS) {
    describe(`${from} and ${to}`, () => {
      let here: Peer
      let there: Peer
      let romeo: Client
      let juliet: Client

      beforeEach(async () => {
        here = world.peer(from)
        there = world.peer(to)
        const user = `u${++count}`
        ;[romeo, juliet] = await Promise.all([here.login(`romeo-${user}`), there.login(`juliet-${user}`)])
        for (const client of [romeo, juliet]) {
          answerDisco(client)
          await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
          client.send(`<presence>${CAPS}</presence>`)
          await client.receive((element) => element.is('presence') && element.attrs['from'] === client.jid)
        }
      })

      afterEach(async () => {
        await Promise.all([romeo, juliet].map((client) => client.disconnect()))
      })

      it('messages, both ways, to bare and full addresses', async () => {
        for (const [sender, receiver, address] of [[romeo, juliet, juliet.bare], [juliet, romeo, romeo.jid], [romeo, juliet, juliet.jid]] as const) {
          const body = text()
          sender.send(`<message to='${escapeXml(address)}' type='chat' id='${body}'><body>${body} ü &lt; 🜚</body></message>`)
          const got = await receiver.receive((element) => element.is('message') && element.getChildText('body') !== null, PATIENCE_MS)
          expect(got.getChildText('body')).to.equal(`${body} ü < 🜚`)
          expect(got.attrs).to.include({ from: sender.jid, id: body, type: 'chat' })
        }
      })

      it('what cannot be delivered comes back as the other server\'s error', async () => {
        romeo.send(`<iq type='get' to='nobody-${text()}@${there.domain}/none' id='gone'><ping xmlns='urn:xmpp:ping'/></iq>`)
        const error = await romeo.receive((element) => element.is('iq') && element.attrs['id'] === 'gone', PATIENCE_MS)
        expect(error.attrs['type']).to.equal('error')
        expect(error.getChild('error')?.getChildElements().map((each) => each.getName())).to.include('service-unavailable')
      })

      it('presence: a subscription, approved, seen, and ended', async () => {
        await subscribe(romeo, juliet)
        await subscribe(juliet, romeo)
        juliet.send('<presence><show>away</show><status>asleep</status></presence>')
        const away = await romeo.receive((element) => element.is('presence') && element.getChildText('show') === 'away', PATIENCE_MS)
        expect(away.attrs['from']).to.equal(juliet.jid)
        expect(away.getChildText('status')).to.equal('asleep')
        juliet.send('<presence type="unavailable"/>')
        await romeo.receive((element) => element.is('presence') && element.attrs['type'] === 'unavailable' && element.attrs['from'] === juliet.jid, PATIENCE_MS)
        romeo.send(`<presence to='${juliet.bare}' type='unsubscribe'/>`)
        await romeo.receive((element) => rosterState(element, juliet.bare) === 'from', PATIENCE_MS)
      })

      it('presence: who is subscribed is asked for it at login (probe)', async () => {
        await subscribe(romeo, juliet)
        await romeo.disconnect()
        romeo = await here.login(romeo.bare.split('@')[0] as string)
        romeo.send('<presence/>')
        const seen = await romeo.receive((element) => element.is('presence') && element.attrs['from'] === juliet.jid, PATIENCE_MS)
        expect(seen.attrs['type']).to.equal(undefined)
      })

      it('a room of one with users of both', async () => {
        const room = `room-${text()}@conference.${here.domain}`
        await enter(romeo, room, 'romeo')
        await romeo.sendIq(`<iq type='set' to='${room}'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
        await enter(juliet, room, 'juliet')
        await romeo.receive((element) => element.is('presence') && element.attrs['from'] === `${room}/juliet`, PATIENCE_MS)
        for (const [sender, nick] of [[romeo, 'romeo'], [juliet, 'juliet']] as const) {
          const body = text()
          sender.send(`<message to='${room}' type='groupchat' id='${body}'><body>${body}</body></message>`)
          for (const client of [romeo, juliet]) {
            const got = await client.receive((element) => element.getChildText('body') === body, PATIENCE_MS)
            expect(got.attrs).to.include({ from: `${room}/${nick}`, type: 'groupchat' })
          }
        }
        const history = await juliet.sendIq(`<iq type='set' to='${room}'><query xmlns='${MAM}' queryid='h'/></iq>`, PATIENCE_MS)
        expect(history.getChild('fin', MAM)).to.not.equal(undefined)
        expect(juliet.inbox.filter((stanza) => stanza.name === 'message' && stanza.find('result', MAM) !== undefined)).to.have.length.at.least(2)
        juliet.send(`<presence to='${room}/juliet' type='unavailable'/>`)
        const left = await romeo.receive((element) => element.is('presence') && element.attrs['type'] === 'unavailable', PATIENCE_MS)
        expect(left.attrs['from']).to.equal(`${room}/juliet`)
      })

      it('personal eventing: what one publishes, the other hears of, and can fetch', async () => {
        // What she wants to hear of, his server learns from her presence.
        await subscribe(romeo, juliet)
        await subscribe(juliet, romeo)
        juliet.send(`<presence>${CAPS}</presence>`)
        const nick = text()
        const publish = (): Promise<Element> => romeo.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB}'><publish node='${NICK}'><item id='current'><nick xmlns='${NICK}'>${nick}</nick></item></publish></pubsub></iq>`)
        const heard = juliet.receive((element) => element.is('message') && element.getChild('event', `${PUBSUB}#event`)?.toString().includes(nick) === true, PATIENCE_MS)
        await publish()
        // His server may still be asking her client what it wants to hear of.
        const again = setInterval(() => void publish(), 1000)
        const event = await heard.finally(() => { clearInterval(again) })
        expect(event.attrs['from']).to.equal(romeo.bare)
        const items = await juliet.sendIq(`<iq type='get' to='${romeo.bare}'><pubsub xmlns='${PUBSUB}'><items node='${NICK}'/></pubsub></iq>`, PATIENCE_MS)
        expect(items.toString()).to.contain(nick)
      })

      it('both archives have a chat in its order', async () => {
        const bodies: string[] = []
        for (const [sender, receiver] of [[romeo, juliet], [juliet, romeo], [romeo, juliet]] as const) {
          const body = text()
          bodies.push(body)
          sender.send(`<message to='${receiver.bare}' type='chat' id='${body}'><body>${body}</body></message>`)
          await receiver.receive((element) => element.getChildText('body') === body, PATIENCE_MS)
        }
        for (const [client, other] of [[romeo, juliet], [juliet, romeo]] as const) expect(await archived(client, other.bare)).to.deep.equal(bodies)
      })

      it('a file of one, fetched by the other', async () => {
        const bytes = randomBytes(100_000)
        const service = `upload.${here.domain}`
        const slot = (await romeo.sendIq(`<iq type='get' to='${service}'><request xmlns='${UPLOAD}' filename='a b.bin' size='${bytes.length}' content-type='application/octet-stream'/></iq>`)).getChild('slot', UPLOAD)
        const put = slot?.getChild('put')
        const get = slot?.getChild('get')?.attrs['url'] ?? ''
        expect((await http(here, 'PUT', put?.attrs['url'] ?? '', bytes, put)).status).to.be.oneOf([200, 201])
        romeo.send(`<message to='${juliet.bare}' type='chat'><body>${escapeXml(get)}</body><x xmlns='jabber:x:oob'><url>${escapeXml(get)}</url></x></message>`)
        const told = await juliet.receive((element) => element.getChild('x', 'jabber:x:oob') !== undefined, PATIENCE_MS)
        const fetched = await http(here, 'GET', told.getChild('x', 'jabber:x:oob')?.getChildText('url') ?? '')
        expect(fetched.status).to.equal(200)
        expect(fetched.body.equals(bytes)).to.equal(true)
      })
    })
  }

  /** HTTPS as a client does it whose names come from the servers' network. */
  async function http(peer: Peer, method: string, url: string, body?: Buffer, put?: Element): Promise<{ status: number; body: Buffer }> {
    const headers: Record<string, string> = Object.fromEntries((put?.getChildren('header') ?? []).map((each) => [each.attrs['name'] ?? '', each.getText()]))
    const lookup: LookupFunction = (_host, options, callback) => { if (options.all === true) callback(null, [{ address: peer.node.ipv4, family: 4 }]); else callback(null, peer.node.ipv4, 4) }
    return new Promise((resolve, reject) => {
      const sent = request(url, { method, headers: { ...headers, ...(body === undefined ? {} : { 'content-length': body.length, 'content-type': 'application/octet-stream' }) }, ca: world.authority.certificate, lookup, agent: false }, (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk)).once('end', () => { resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }) }).once('error', reject)
      })
      sent.once('error', reject).end(body)
    })
  }
})

function text(): string {
  return randomBytes(6).toString('hex')
}

/** What a client with entity capabilities does: it says what it is when it is asked. */
function answerDisco(client: Client): void {
  client.on((stanza) => {
    if (stanza.name !== 'iq' || stanza.type !== 'get') return
    const query = stanza.element().getChild('query', DISCO)
    if (query === undefined) return
    const node = query.attrs['node']
    client.send(`<iq type='result' id='${escapeXml(stanza.id ?? '')}' to='${escapeXml(stanza.attrs['from'] ?? '')}'><query xmlns='${DISCO}'${node === undefined ? '' : ` node='${escapeXml(node)}'`}>`
      + `<identity category='client' type='pc' name='Check'/><feature var='${DISCO}'/><feature var='${NICK}+notify'/></query></iq>`)
  })
}

/** XEP-0115 §5.1 of what `answerDisco` says. */
const CAPS = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='http://check.example' ver='XWQVZTuIrs7JdenGraw0wjFG/YA='/>"

/** `watcher` sees the presence of `watched` from now on. */
async function subscribe(watcher: Client, watched: Client): Promise<void> {
  watcher.send(`<presence to='${watched.bare}' type='subscribe'/>`)
  const asked = await watched.receive((element) => element.is('presence') && element.attrs['type'] === 'subscribe', PATIENCE_MS)
  expect(asked.attrs['from']).to.equal(watcher.bare)
  watched.send(`<presence to='${watcher.bare}' type='subscribed'/>`)
  await watcher.receive((element) => ['to', 'both'].includes(rosterState(element, watched.bare) ?? ''), PATIENCE_MS)
  await watcher.receive((element) => element.is('presence') && element.attrs['from'] === watched.jid && element.attrs['type'] === undefined, PATIENCE_MS)
}

/** What a roster push says of a contact. */
function rosterState(element: Element, contact: string): string | undefined {
  if (!element.is('iq') || element.attrs['type'] !== 'set') return undefined
  const item = element.getChild('query', 'jabber:iq:roster')?.getChild('item')
  return item?.attrs['jid'] === contact ? item.attrs['subscription'] : undefined
}

async function enter(client: Client, room: string, nick: string): Promise<void> {
  client.send(`<presence to='${room}/${nick}'><x xmlns='${MUC}'/></presence>`)
  const own = await client.receive((element) => element.is('presence') && element.attrs['from'] === `${room}/${nick}`, PATIENCE_MS)
  expect(own.attrs['type'], own.toString()).to.equal(undefined)
}

/** The bodies of a chat, as one's archive has them. */
async function archived(client: Client, other: string): Promise<string[]> {
  const queryId = text()
  const bodies: string[] = []
  const stop = client.on((stanza) => {
    const result = stanza.name === 'message' ? stanza.element().getChild('result', MAM) : undefined
    if (result?.attrs['queryid'] !== queryId) return
    const body = result.getChild('forwarded')?.getChild('message')?.getChildText('body')
    if (typeof body === 'string') bodies.push(body)
  })
  await client.sendIq(`<iq type='set'><query xmlns='${MAM}' queryid='${queryId}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${MAM}</value></field><field var='with'><value>${other}</value></field></x></query></iq>`, PATIENCE_MS)
  stop()
  return bodies
}
