/** Clients for tests of what is kept in personal nodes (XEP-0163). */
import { type Client, connect } from '../../lib/client/client.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import type { TestServer } from '../test-server.ts'
import { capsVer } from './disco-registry.ts'

const NS = 'http://jabber.org/protocol/pubsub'
const EVENT = `${NS}#event`
const INFO = 'http://jabber.org/protocol/disco#info'

/** A client that is available, and wants events of the nodes in `notify`. */
export async function logIn({ host, port, domain }: TestServer, user: string, resource: string, notify: readonly string[] = [], presence = ''): Promise<Client> {
  const client = await connect({ host, port, domain, tls: 'none', user, password: 'secret', resource })
  const info = xml('query', { xmlns: INFO }, xml('identity', { category: 'client', type: 'pc' }), notify.map((node) => xml('feature', { var: `${node}+notify` })))
  client.on((stanza) => {
    if (stanza.name === 'iq' && stanza.type === 'get' && stanza.has('query', INFO)) {
      client.send(`<iq type='result' id='${stanza.id ?? ''}' to='${stanza.from ?? ''}'>${info.toString()}</iq>`)
    }
  })
  const caps = notify.length === 0 ? '' : `<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:test' ver='${capsVer(info)}'/>`
  client.send(`<presence>${caps}${presence}</presence>`)
  await client.ping()
  await client.ping() // what it wants to hear of is known
  return client
}

/** Romeo and Juliet see each other's presence from now on. */
export async function befriend(romeo: Client, juliet: Client): Promise<void> {
  for (const [one, other] of [[romeo, juliet], [juliet, romeo]] as const) {
    one.send(`<presence type='subscribe' to='${other.bare}'/>`)
    await other.receive(({ name, attrs }) => name === 'presence' && attrs['type'] === 'subscribe')
    other.send(`<presence type='subscribed' to='${one.bare}'/>`)
    await one.receive(({ name, attrs }) => name === 'presence' && attrs['type'] === 'subscribed')
  }
}

/** Publishes one item. `options` are fields of publish-options without `pubsub#`. */
export function publish(client: Client, node: string, item: string, options?: Readonly<Record<string, string>>): Promise<Element> {
  const fields = Object.entries(options ?? {}).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')
  const form = options === undefined ? '' : `<publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${NS}#publish-options</value></field>${fields}</x></publish-options>`
  return client.sendIq(`<iq type='set'><pubsub xmlns='${NS}'><publish node='${node}'>${item}</publish>${form}</pubsub></iq>`)
}

export function retract(client: Client, node: string, id: string): Promise<Element> {
  return client.sendIq(`<iq type='set'><pubsub xmlns='${NS}'><retract node='${node}' notify='true'><item id='${id}'/></retract></pubsub></iq>`)
}

export async function items(client: Client, node: string, of = client.bare): Promise<readonly Element[]> {
  const answer = await client.sendIq(`<iq type='get' to='${of}'><pubsub xmlns='${NS}'><items node='${node}'/></pubsub></iq>`)
  return answer.getChild('pubsub', NS)?.getChild('items')?.getChildren('item') ?? []
}

/** The next event of a node. */
export async function eventOf(client: Client, node: string): Promise<Element> {
  const message = await client.receive((stanza) => stanza.getChild('event', EVENT)?.getChild('items')?.attrs['node'] === node)
  return message.getChild('event', EVENT)?.getChild('items') as Element
}

export async function accountFeatures(client: Client): Promise<readonly (string | undefined)[]> {
  const answer = await client.sendIq(`<iq type='get' to='${client.bare}'><query xmlns='${INFO}'/></iq>`)
  return answer.getChild('query', INFO)?.getChildren('feature').map(({ attrs }) => attrs['var']) ?? []
}
