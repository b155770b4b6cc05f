/** An account with something of everything, and what of it there is. */
import { request } from 'node:https'
import { type Client, connect } from '../lib/client/client.ts'
import { type Element } from '../lib/xml/element.ts'
import type { TestServer } from './test-server.ts'

const MAM_NS = 'urn:xmpp:mam:2'
const UPLOAD_NS = 'urn:xmpp:http:upload:0'

export const PASSWORD = 'wherefore-art-thou'

export function enter(site: TestServer, user: string, resource: string, password = PASSWORD): Promise<Client> {
  return connect({ host: site.host, port: site.port, domain: site.domain, user, password, resource })
}

/** Gives juliet whatever an account can have; romeo is her contact. Answers the address of what she uploaded. */
export async function fillAccount(site: TestServer): Promise<string> {
  const juliet = await enter(site, 'juliet', 'balcony')
  const romeo = await enter(site, 'romeo', 'orchard')
  for (const client of [juliet, romeo]) {
    await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    client.send('<presence/>')
  }
  for (const [one, other] of [[juliet, romeo], [romeo, juliet]] as const) {
    one.send(`<presence type='subscribe' to='${other.bare}'/>`)
    await other.receive((each) => each.attrs['type'] === 'subscribe')
    other.send(`<presence type='subscribed' to='${one.bare}'/>`)
    await one.receive((each) => each.attrs['type'] === 'subscribed')
  }
  await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@localhost' name='R &amp; M'><group>Friends</group></item></query></iq>")
  await juliet.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><FN>Juliet Capulet</FN></vCard></iq>")
  await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'><defaultnick>J</defaultnick></exodus></query></iq>")
  await juliet.sendIq("<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='paris@verona.example'/></block></iq>")
  romeo.send("<message to='juliet@localhost' type='chat' id='m1'><body>By love &amp; &lt;so&gt;</body></message>")
  await juliet.receive((each) => each.getChildText('body') === 'By love & <so>')
  juliet.send("<message to='romeo@localhost' type='chat' id='m2'><body>Good night</body></message>")
  await romeo.receive((each) => each.getChildText('body') === 'Good night')
  const url = await upload(site, juliet)
  await juliet.disconnect()
  romeo.send("<message to='juliet@localhost' type='chat' id='m3'><body>Late words</body></message>")
  await romeo.ping()
  const stranger = await enter(site, 'stranger', 'street')
  stranger.send("<presence type='subscribe' to='juliet@localhost'/>")
  await stranger.ping()
  await stranger.disconnect()
  await romeo.disconnect()
  return url
}

/** What juliet's clients find, in words. */
export async function readAccount(site: TestServer, password = PASSWORD): Promise<Record<string, readonly string[]>> {
  const juliet = await enter(site, 'juliet', 'balcony', password)
  try {
    const children = (answer: Element, name: string): string[] => (answer.getChildElements()[0]?.getChildElements() ?? []).filter((each) => each.getName() === name).map(String)
    const roster = children(await juliet.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>"), 'item')
    const vcard = children(await juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp'/></iq>"), 'FN')
    const kept = children((await juliet.sendIq("<iq type='get'><query xmlns='jabber:iq:private'><exodus xmlns='exodus:prefs'/></query></iq>")), 'exodus').filter((each) => each.includes('defaultnick'))
    const blocked = children(await juliet.sendIq("<iq type='get'><blocklist xmlns='urn:xmpp:blocking'/></iq>"), 'item')
    const archive: string[] = []
    const stop = juliet.on((stanza) => {
      const result = stanza.find('result', MAM_NS) === undefined ? undefined : stanza.element().getChild('result', MAM_NS)
      const message = result?.getChild('forwarded')?.getChild('message')
      if (result) archive.push(`${result.attrs['id']} ${result.getChild('forwarded')?.getChild('delay')?.attrs['stamp']} ${message?.attrs['from']} ${message?.getChildText('body')}`)
    })
    await juliet.sendIq(`<iq type='set'><query xmlns='${MAM_NS}'/></iq>`)
    stop()
    juliet.send('<presence/>')
    await juliet.ping()
    const offline = juliet.inbox.filter((each) => each.name === 'message' && each.find('body') !== undefined).map((each) => `${each.from} ${each.element().getChildText('body')} ${each.element().getChild('delay')?.attrs['stamp']}`)
    const requests = juliet.inbox.filter((each) => each.name === 'presence' && each.type === 'subscribe').map((each) => each.from ?? '')
    return { roster, vcard, kept, blocked, archive, offline, requests }
  } finally {
    await juliet.disconnect()
  }
}

async function upload(site: TestServer, client: Client): Promise<string> {
  const answer = await client.sendIq(`<iq type='get' to='upload.localhost'><request xmlns='${UPLOAD_NS}' filename='rose.txt' size='4'/></iq>`)
  const slot = answer.getChild('slot', UPLOAD_NS)
  const status = await fetchStatus(site, slot?.getChild('put')?.attrs['url'] ?? '', 'PUT', 'rose')
  if (status !== 201) throw new Error(`the upload was answered with ${status}`)
  return slot?.getChild('get')?.attrs['url'] ?? ''
}

/** The status that the server answers with, at whatever port it listens now. */
export async function fetchStatus(site: TestServer, url: string, method = 'GET', body?: string): Promise<number> {
  return (await fetchFile(site, url, method, body)).status
}

export async function fetchFile(site: TestServer, url: string, method = 'GET', body?: string): Promise<{ status: number; body: string }> {
  const { pathname } = new URL(url)
  const port = site.server.ports.find((each) => each.module === 'ejabberd_http')?.port
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path: pathname, method, rejectUnauthorized: false, agent: false, headers: body === undefined ? {} : { 'Content-Length': Buffer.byteLength(body) } }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => { text += chunk })
      response.on('error', reject)
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: text }))
    })
    sent.on('error', reject)
    sent.end(body)
  })
}
