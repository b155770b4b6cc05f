/** Features in use: each function does with one what clients do, and throws when the server does not do its part. */
import { createHash, randomBytes } from 'node:crypto'
import { request } from 'node:https'
import { request as plainRequest } from 'node:http'
import net from 'node:net'
import tls from 'node:tls'
import { once } from 'node:events'
import { type Client, connect, IqError } from '../../lib/client/client.ts'
import type { Connection } from '../../lib/client/connection.ts'
import { type Element, escapeXml, xml } from '../../lib/xml/element.ts'
import { matches } from '../play.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { capsHash } from './capabilities.ts'
import { ask, FAST_NS, login2, mechanismsOf, openSecured, SASL2_NS, tokenRequest } from './sasl2.ts'
import { type Account, INFO_NS, ITEMS_NS, MUC_NS, need, type Visit } from './visit.ts'

const ANSWER_MS = 5000
/** What is not held back has come by then. */
const UNHELD_MS = 300
const DATA_NS = 'jabber:x:data'
export const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const MAM_NS = 'urn:xmpp:mam:2'
const SID_NS = 'urn:xmpp:sid:0'
const COMMANDS_NS = 'http://jabber.org/protocol/commands'
export const UPLOAD_NS = 'urn:xmpp:http:upload:0'
const CONTACTS_FORM = 'http://jabber.org/network/serverinfo'
/** XEP-0157 §6.2 */
const CONTACTS = new Set(['abuse', 'admin', 'feedback', 'sales', 'security', 'status', 'support'].map((each) => `${each}-addresses`))
const LABELS_NS = 'urn:xmpp:sec-label:catalog:2'
const BOOKMARKS_NS = 'urn:xmpp:bookmarks:1'
/** A PNG of one pixel. */
const PICTURE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

function random(): string {
  return randomBytes(6).toString('hex')
}

/** Waits for a stanza like this one, as plays do. */
async function receives(client: Client, template: string): Promise<Element> {
  const expected = parseElement(template)
  try {
    return await client.receive((element) => matches(expected, element), ANSWER_MS)
  } catch {
    throw new Error(`did not receive ${template}`)
  }
}

/** Sends a chat message from romeo to juliet, who has a client here. */
async function chat(visit: Visit, to: string): Promise<string> {
  const body = `Good night, good night! ${random()}`
  const romeo = await visit.asker(visit.romeo)
  romeo.send(`<message to='${to}' type='chat' id='${random()}'><body>${body}</body></message>`)
  return body
}

// Login and streams

/** The best password mechanism that the server offers somewhere in its features, by how clients choose; with channel binding if the server says that it has ours. */
async function bestMechanism(visit: Visit, parent: Element | undefined): Promise<string> {
  const binds = (await visit.before()).getChild('sasl-channel-binding', 'urn:xmpp:sasl-cb:0')?.getChildren('channel-binding').some((each) => each.attrs['type'] === 'tls-exporter') === true
  const offered = mechanismsOf(parent).filter((each) => binds || !each.endsWith('-PLUS'))
  return need(['SCRAM-SHA-512-PLUS', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-1-PLUS', 'SCRAM-SHA-512', 'SCRAM-SHA-256', 'SCRAM-SHA-1', 'PLAIN'].find((each) => offered.includes(each)), 'no mechanism that clients know')
}

async function authentication(visit: Visit): Promise<Element> {
  return visit.feature('before', 'authentication', SASL2_NS)
}

export async function loginBySasl2(visit: Visit): Promise<void> {
  const { connection, features } = await login2(visit.stage, visit.juliet, { mechanism: await bestMechanism(visit, await authentication(visit)) })
  try {
    need(features.element().getChild('bind', 'urn:ietf:params:xml:ns:xmpp-bind'), 'no classic bind in the features after <success/>')
    const bound = await ask(connection, "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    need(bound.getChild('bind')?.getChildText('jid')?.startsWith(visit.bare(visit.juliet)), 'classic bind after SASL2 gave no JID')
  } finally {
    connection.destroy()
  }
}

/** By the best mechanism of SASL; its name. */
export async function loginByBest(visit: Visit): Promise<string> {
  const mechanism = await bestMechanism(visit, await visit.feature('before', 'mechanisms', 'urn:ietf:params:xml:ns:xmpp-sasl'))
  const client = await visit.enter(visit.juliet, { mechanism }, false)
  await client.disconnect()
  return mechanism
}

const BIND2 = "<bind xmlns='urn:xmpp:bind:0'><tag>Checks</tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>"

/** Bind 2 with carbons and stream management in one round. */
export async function bindInline(visit: Visit): Promise<void> {
  const { connection, success } = await login2(visit.stage, visit.juliet, { mechanism: await bestMechanism(visit, await authentication(visit)), inline: BIND2 })
  try {
    const bound = need(success.getChild('bound', 'urn:xmpp:bind:0'), 'no <bound/> in <success/>')
    need(bound.getChild('enabled', 'urn:xmpp:sm:3'), 'no <enabled/> of stream management in <bound/>')
    const jid = success.getChildText('authorization-identifier') ?? ''
    need(jid.startsWith(`${visit.bare(visit.juliet)}/Checks`), `the authorization identity is ${jid}, without the tag that was asked for`)
    await ask(connection, `<iq type='get' to='${visit.domain}'><query xmlns='${INFO_NS}'/></iq>`)
  } finally {
    connection.destroy()
  }
}

/** Gets a token and logs in with it, in one round with Bind 2. */
export async function loginByToken(visit: Visit): Promise<void> {
  const offered = await authentication(visit)
  const fast = need(offered.getChild('inline')?.getChild('fast', FAST_NS), 'no <fast/> inline')
  const mechanism = need(['HT-SHA-256-EXPR', 'HT-SHA-256-NONE'].find((each) => mechanismsOf(fast).includes(each)), `FAST offers ${mechanismsOf(fast).join(' ')}`)
  const first = await login2(visit.stage, visit.juliet, { mechanism: await bestMechanism(visit, offered), inline: BIND2 + tokenRequest(mechanism) })
  first.connection.destroy()
  const token = need(first.success.getChild('token', FAST_NS)?.attrs['token'], 'no token in <success/>')
  const second = await login2(visit.stage, visit.juliet, { mechanism, token, inline: BIND2 })
  second.connection.destroy()
  need(second.success.getChild('bound', 'urn:xmpp:bind:0'), 'no <bound/> after a login by token')
}

export async function registersInBand(visit: Visit): Promise<void> {
  const { host, port, domain, tls: security } = visit.stage
  const client = await connect({ host, port, domain, tls: security, user: `mercutio-${random()}`, password: random(), register: true, mechanism: 'PLAIN', timeoutMs: ANSWER_MS })
  await client.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>", ANSWER_MS).catch((error: unknown) => { if (error instanceof IqError) throw error })
  client.destroy()
}

/**
 * XEP-0445 §3 and §4: an account is made with the token of an invitation, once; one that nobody issued is refused. Where an account
 * of ours gets no invitation that makes an account, only the latter can be seen.
 */
export async function registersByToken(visit: Visit): Promise<void> {
  const foreign = await showToken(visit, random())
  foreign.connection.destroy()
  need(foreign.answer.getChild('error')?.getChild('item-not-found'), `item-not-found expected for a token that nobody issued, but ${String(foreign.answer)} came`)
  const uri = await invitation(visit).catch(() => '')
  const token = /[?;]preauth=([^;]+)/.exec(uri)?.[1]
  if (token === undefined || !/[?;]ibr=y/.test(uri)) return
  const { connection, answer } = await showToken(visit, token)
  try {
    need(answer.attrs['type'] === 'result', `the token of an invitation is refused: ${String(answer)}`)
    const invited = { user: `benvolio-${random()}`, password: random() }
    await ask(connection, `<iq type='set' to='${visit.domain}'><query xmlns='jabber:iq:register'><username>${invited.user}</username><password>${invited.password}</password></query></iq>`)
    const client = await visit.enter(invited, {}, false)
    const again = await showToken(visit, token)
    again.connection.destroy()
    await client.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>", ANSWER_MS).catch((error: unknown) => { if (error instanceof IqError) throw error })
    need(again.answer.attrs['type'] === 'error', 'a token is good for two accounts')
  } finally {
    connection.destroy()
  }
}

async function showToken(visit: Visit, token: string): Promise<{ connection: Connection; answer: Element }> {
  const { connection } = await openSecured(visit.stage)
  connection.write(`<iq type='set' id='preauth' to='${visit.domain}'><preauth xmlns='urn:xmpp:pars:0' token='${escapeXml(token)}'/></iq>`)
  return { connection, answer: (await connection.nextElement(ANSWER_MS)).element() }
}

/** The password is set to what it is. Some servers end all sessions of the account then. */
export async function changesPassword(visit: Visit): Promise<void> {
  const account = await visit.spare()
  const client = await visit.enter(account, {}, false)
  await client.sendIq(`<iq type='set' to='${visit.domain}'><query xmlns='jabber:iq:register'><username>${escapeXml(account.user)}</username><password>${escapeXml(account.password)}</password></query></iq>`, ANSWER_MS)
  await visit.enter(account, {}, false)
}

export async function managesStream(visit: Visit): Promise<void> {
  const client = await visit.enter(visit.juliet, { sm: true, resource: 'resumed' })
  await client.requestAck(ANSWER_MS)
  const state = client.resumeState()
  client.destroy()
  const body = await chat(visit, client.jid)
  const again = await visit.enter(visit.juliet, { resume: state }, false)
  need(again.resumed, 'the stream could not be resumed')
  await receives(again, `<message><body>${body}</body></message>`)
  await again.disconnect()
}

export async function versionsRoster(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const first = await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster' ver=''/></iq>", ANSWER_MS)
  const ver = need(first.getChild('query', 'jabber:iq:roster')?.attrs['ver'], 'a roster without a version')
  const second = await client.sendIq(`<iq type='get'><query xmlns='jabber:iq:roster' ver='${escapeXml(ver)}'/></iq>`, ANSWER_MS)
  need(second.getChild('query') === undefined || second.getChild('query') === null, 'an unchanged roster was sent again')
}

/** RFC 6121 §3.4: who is approved before asking is told so at once. */
export async function approvesInAdvance(visit: Visit): Promise<void> {
  const juliet = await visit.enter(visit.juliet, { resource: 'approving' })
  const romeo = await visit.enter(visit.romeo, { resource: 'asking' })
  for (const client of [juliet, romeo]) await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>", ANSWER_MS)
  try {
    juliet.send(`<presence to='${romeo.bare}' type='subscribed'/>`)
    await juliet.ping(ANSWER_MS)
    romeo.send(`<presence to='${juliet.bare}' type='subscribe'/>`)
    await receives(romeo, `<presence type='subscribed' from='${juliet.bare}'/>`)
  } finally {
    for (const [client, contact] of [[juliet, romeo], [romeo, juliet]] as const) await client.sendIq(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${contact.bare}' subscription='remove'/></query></iq>`, ANSWER_MS).catch((error: unknown) => { if (!(error instanceof IqError)) throw error })
  }
}

/** RFC 6121: roster, subscription, presence and messages between two accounts. */
export async function talks(visit: Visit): Promise<void> {
  const juliet = await visit.enter(visit.juliet, { resource: 'im' })
  const romeo = await visit.enter(visit.romeo, { resource: 'im' })
  for (const client of [juliet, romeo]) await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>", ANSWER_MS)
  juliet.send(`<presence to='${romeo.bare}' type='subscribe'/>`)
  await receives(romeo, `<presence type='subscribe' from='${juliet.bare}'/>`)
  romeo.send(`<presence to='${juliet.bare}' type='subscribed'/>`)
  await receives(juliet, `<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${romeo.bare}' subscription='to'/></query></iq>`)
  await receives(juliet, `<presence from='${romeo.jid}'/>`)
  const body = random()
  juliet.send(`<message to='${romeo.bare}' type='chat'><body>${body}</body></message>`)
  await receives(romeo, `<message from='${juliet.jid}'><body>${body}</body></message>`)
  await juliet.sendIq(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${romeo.bare}' subscription='remove'/></query></iq>`, ANSWER_MS)
  await Promise.all([juliet.disconnect(), romeo.disconnect()])
}

/** What an inactive client needs reaches it, and what it does not need waits (XEP-0352 §5.1): here that others come and go. */
export async function toldOfState(visit: Visit): Promise<void> {
  const client = await visit.enter(visit.juliet, { resource: 'pocket' })
  client.send("<inactive xmlns='urn:xmpp:csi:0'/>")
  await client.ping(ANSWER_MS)
  const romeo = await visit.enter(visit.romeo, { resource: 'restless' }, false)
  const seen: string[] = []
  const stop = client.on((stanza) => { if (stanza.name === 'presence' && stanza.attrs['from'] === romeo.jid) seen.push(String(stanza)) })
  for (const show of ['away', 'dnd']) romeo.send(`<presence to='${client.jid}'><show>${show}</show></presence>`)
  await romeo.ping(ANSWER_MS)
  await new Promise((resolve) => setTimeout(resolve, UNHELD_MS))
  stop()
  need(seen.length === 0, 'presence comes to an inactive client at once')
  const body = await chat(visit, client.jid)
  await receives(client, `<message><body>${body}</body></message>`)
  client.send("<active xmlns='urn:xmpp:csi:0'/>")
  await client.ping(ANSWER_MS)
  await client.disconnect()
}

// Messages

export async function copiesToOthers(visit: Visit): Promise<void> {
  const phone = await visit.enter(visit.juliet, { resource: 'phone' })
  const desk = await visit.enter(visit.juliet, { resource: 'desk' })
  await phone.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>", ANSWER_MS)
  const body = random()
  desk.send(`<message to='${visit.bare(visit.romeo)}' type='chat'><body>${body}</body></message>`)
  await receives(phone, `<message from='${phone.bare}'><sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>${body}</body></message></forwarded></sent></message>`)
  await Promise.all([phone.disconnect(), desk.disconnect()])
}

export async function blocks(visit: Visit, report = ''): Promise<void> {
  const juliet = await visit.asker(visit.juliet)
  const romeo = await visit.asker(visit.romeo)
  await juliet.sendIq(`<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='${romeo.bare}'>${report}</item></block></iq>`, ANSWER_MS)
  try {
    const list = await juliet.sendIq("<iq type='get'><blocklist xmlns='urn:xmpp:blocking'/></iq>", ANSWER_MS)
    need(list.getChild('blocklist')?.getChildren('item').some((item) => item.attrs['jid'] === romeo.bare), 'the block list lacks what was blocked')
    const id = random()
    romeo.send(`<message to='${juliet.bare}' type='chat' id='${id}'><body>blocked</body></message>`)
    await receives(romeo, `<message type='error' id='${id}'/>`)
  } finally {
    await juliet.sendIq(`<iq type='set'><unblock xmlns='urn:xmpp:blocking'><item jid='${romeo.bare}'/></unblock></iq>`, ANSWER_MS)
  }
}

export function blocksWithReport(visit: Visit): Promise<void> {
  return blocks(visit, "<report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/>")
}

/** Messages of a page of an archive, by archive id; `to` is left out for the own one. */
async function page(client: Client, to: string | undefined, fields: Readonly<Record<string, string>> = {}): Promise<Map<string, Element>> {
  const queryId = random()
  const results = new Map<string, Element>()
  const stop = client.on((stanza) => {
    const result = stanza.name === 'message' ? stanza.element().getChild('result', MAM_NS) : undefined
    if (result && result.attrs['queryid'] === queryId) results.set(result.attrs['id'] ?? '', result)
  })
  try {
    const form = Object.keys(fields).length === 0 ? '' : `<x xmlns='${DATA_NS}' type='submit'><field var='FORM_TYPE' type='hidden'><value>${MAM_NS}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`
    const answer = await client.sendIq(`<iq type='set'${to === undefined ? '' : ` to='${to}'`}><query xmlns='${MAM_NS}' queryid='${queryId}'>${form}<set xmlns='http://jabber.org/protocol/rsm'><max>50</max><before/></set></query></iq>`, ANSWER_MS)
    need(answer.getChild('fin', MAM_NS), 'no <fin/>')
    return results
  } finally {
    stop()
  }
}

const WRITES_MS = 3000

/** Asks again for a while, for servers that write a little later. */
async function inArchive(client: Client, to: string | undefined, body: string): Promise<string> {
  const until = Date.now() + WRITES_MS
  for (;;) {
    for (const [id, result] of await page(client, to)) if (result.getChild('forwarded')?.getChild('message')?.getChildText('body') === body) return id
    if (Date.now() > until) throw new Error('the archive lacks a message')
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

export async function readsHistory(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const body = await chat(visit, client.bare)
  await inArchive(client, undefined, body)
}

/** The id on a message that arrives is its archive id, by which XEP-0313's extended query finds it. */
export async function namesMessages(visit: Visit): Promise<void> {
  const client = await visit.enter(visit.juliet, { resource: 'history' })
  const body = await chat(visit, client.bare)
  const message = await receives(client, `<message><body>${body}</body></message>`)
  const id = need(message.getChildren('stanza-id', SID_NS).find((each) => each.attrs['by'] === client.bare)?.attrs['id'], 'a message without a <stanza-id/> of the account')
  need((await inArchive(client, undefined, body)) === id, 'the <stanza-id/> of a message is not its archive id')
  need((await page(client, undefined, { ids: id })).has(id), 'a query by archive id does not find the message')
  await client.disconnect()
}

export async function keepsOffline(visit: Visit): Promise<void> {
  await (await visit.asker(visit.romeo)).ping(ANSWER_MS)
  const body = await chat(visit, visit.bare(visit.juliet))
  await (await visit.asker(visit.romeo)).ping(ANSWER_MS)
  const client = await visit.enter(visit.juliet, { resource: 'late' })
  const message = await receives(client, `<message><body>${body}</body></message>`)
  need(message.getChild('delay', 'urn:xmpp:delay'), 'an offline message without <delay/>')
  await client.disconnect()
}

/** XEP-0013 §2.1, §2.5 and §2.6: counts, fetches and purges. */
export async function countsOffline(visit: Visit): Promise<void> {
  const body = await chat(visit, visit.bare(visit.juliet))
  await (await visit.asker(visit.romeo)).ping(ANSWER_MS)
  const client = await visit.enter(visit.juliet, { resource: 'counting' }, false)
  const countOf = async (): Promise<string | null | undefined> => {
    const answer = await client.sendIq(`<iq type='get'><query xmlns='${INFO_NS}' node='http://jabber.org/protocol/offline'/></iq>`, ANSWER_MS)
    return answer.getChild('query')?.getChild('x', DATA_NS)?.getChildren('field').find((field) => field.attrs['var'] === 'number_of_messages')?.getChildText('value')
  }
  const count = await countOf()
  need(Number(count) > 0, 'number_of_messages is not above 0')
  const fetched = client.receive((stanza) => stanza.getName() === 'message' && stanza.getChildText('body') === body, ANSWER_MS)
  await client.sendIq("<iq type='get'><offline xmlns='http://jabber.org/protocol/offline'><fetch/></offline></iq>", ANSWER_MS)
  await fetched.catch(() => need(undefined, 'a message that waits is not fetched'))
  await client.sendIq("<iq type='set'><offline xmlns='http://jabber.org/protocol/offline'><purge/></offline></iq>", ANSWER_MS)
  need(await countOf() === '0', 'messages are there after they have been purged')
  await client.disconnect()
}

/** A client of romeo's plays the push service. */
export async function pushes(visit: Visit): Promise<void> {
  const service = await visit.enter(visit.romeo, { resource: 'push-service' })
  const node = random()
  service.on((stanza) => {
    if (stanza.name === 'iq' && stanza.type === 'set') service.send(`<iq type='result' id='${escapeXml(stanza.id ?? '')}' to='${escapeXml(stanza.from ?? '')}'/>`)
  })
  const phone = await visit.enter(visit.juliet, { resource: 'pushed', sm: true })
  await phone.sendIq(`<iq type='set'><enable xmlns='urn:xmpp:push:0' jid='${service.jid}' node='${node}'/></iq>`, ANSWER_MS)
  const state = phone.resumeState()
  try {
    phone.destroy()
    await phone.closed
    await chat(visit, phone.bare)
    await receives(service, `<iq type='set'><pubsub xmlns='${PUBSUB_NS}'><publish node='${node}'><item><notification xmlns='urn:xmpp:push:0'/></item></publish></pubsub></iq>`)
  } finally {
    await (await visit.asker(visit.juliet)).sendIq(`<iq type='set'><disable xmlns='urn:xmpp:push:0' jid='${service.jid}'/></iq>`, ANSWER_MS)
    // Its session would wait, and take what comes.
    await (await visit.enter(visit.juliet, { resume: state }, false)).disconnect()
  }
}

// PEP and what is kept in it

function options(fields: Readonly<Record<string, string>>): string {
  return `<publish-options><x xmlns='${DATA_NS}' type='submit'><field var='FORM_TYPE' type='hidden'><value>${PUBSUB_NS}#publish-options</value></field>${Object.entries(fields).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')}</x></publish-options>`
}

async function publish(client: Client, node: string, item: string, fields: Readonly<Record<string, string>> = {}, to?: string): Promise<void> {
  await client.sendIq(`<iq type='set'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${PUBSUB_NS}'><publish node='${node}'>${item}</publish>${Object.keys(fields).length === 0 ? '' : options(fields)}</pubsub></iq>`, ANSWER_MS)
}

/** As clients do: a node that is there already with another access model is configured first. */
async function publishOpen(client: Client, node: string, item: string): Promise<void> {
  try {
    await publish(client, node, item, { access_model: 'open' })
  } catch (error) {
    if (!(error instanceof IqError) || !error.element.getChild('error')?.getChild('precondition-not-met', `${PUBSUB_NS}#errors`)) throw error
    await client.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB_NS}#owner'><configure node='${node}'><x xmlns='${DATA_NS}' type='submit'><field var='FORM_TYPE' type='hidden'><value>${PUBSUB_NS}#node_config</value></field><field var='pubsub#access_model'><value>open</value></field></x></configure></pubsub></iq>`, ANSWER_MS)
    await publish(client, node, item, { access_model: 'open' })
  }
}

async function items(client: Client, node: string, to?: string): Promise<Element[]> {
  const answer = await client.sendIq(`<iq type='get'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${PUBSUB_NS}'><items node='${node}'/></pubsub></iq>`, ANSWER_MS)
  return answer.getChild('pubsub')?.getChild('items')?.getChildren('item') ?? []
}

const NOTE = "<note xmlns='urn:example:note'>Adieu</note>"

/** A client whose capabilities ask for a node's notifications (XEP-0163 §4.3.2, XEP-0115). */
async function listener(visit: Visit, account: Account, nodes: readonly string[]): Promise<Client> {
  const client = await visit.enter(account, { resource: `listener-${random()}` }, false)
  const query = xml('query', { xmlns: INFO_NS }, xml('identity', { category: 'client', type: 'pc' }), [`${INFO_NS}`, ...nodes.map((node) => `${node}+notify`)].map((feature) => xml('feature', { var: feature })))
  const ver = capsHash(query, 'sha-1')
  client.on((stanza) => {
    if (stanza.name !== 'iq' || stanza.type !== 'get' || stanza.find('query', INFO_NS) === undefined) return
    client.send(xml('iq', { type: 'result', id: stanza.id, to: stanza.from }, xml('query', { xmlns: INFO_NS, node: `urn:example:checks#${ver}` }, query.getChildElements())))
  })
  client.send(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:example:checks' ver='${ver}'/></presence>`)
  await receives(client, `<presence from='${client.jid}'/>`)
  return client
}

export async function notifies(visit: Visit): Promise<void> {
  const node = `urn:example:notified:${random()}`
  const client = await visit.asker(visit.juliet)
  const device = await listener(visit, visit.juliet, [node])
  // Until the server knows the capabilities nothing is filtered by them; the last item comes then, or the notification.
  await publish(client, node, `<item id='current'>${NOTE}</item>`)
  await receives(device, `<message from='${client.bare}'><event xmlns='${PUBSUB_NS}#event'><items node='${node}'><item id='current'>${NOTE}</item></items></event></message>`)
  await device.disconnect()
}

export async function heedsPublishOptions(visit: Visit): Promise<void> {
  const node = `urn:example:private:${random()}`
  const client = await visit.asker(visit.juliet)
  await publish(client, node, `<item id='1'>${NOTE}</item>`, { persist_items: 'true', access_model: 'whitelist' })
  need((await items(client, node)).length === 1, 'an item published with persist_items is not kept')
  const romeo = await visit.asker(visit.romeo)
  const refused = await items(romeo, node, client.bare).then(() => false, () => true)
  need(refused, 'a node of the access model whitelist was shown to another account')
  const conflict = await publish(client, node, `<item id='1'>${NOTE}</item>`, { access_model: 'open' }).then(() => undefined, (error: unknown) => error)
  need(conflict instanceof IqError && conflict.element.getChild('error')?.getChild('precondition-not-met', `${PUBSUB_NS}#errors`), 'publish options that the node does not meet were not refused with precondition-not-met')
}

/** As OMEMO and avatars need it: readable by those who are no contacts. */
export async function openToAll(visit: Visit): Promise<void> {
  await publishOpenItems(visit, ['current'], {})
}

export async function givesSeveralItems(visit: Visit): Promise<void> {
  await publishOpenItems(visit, ['1', '2'], { max_items: '5' })
}

async function publishOpenItems(visit: Visit, ids: readonly string[], fields: Readonly<Record<string, string>>): Promise<void> {
  const node = `urn:example:open:${random()}`
  const client = await visit.asker(visit.juliet)
  for (const id of ids) await publish(client, node, `<item id='${id}'>${NOTE}</item>`, { persist_items: 'true', access_model: 'open', ...fields })
  need((await items(await visit.asker(visit.romeo), node, client.bare)).length === ids.length, 'not all items of an open node were given to a stranger')
}

export async function keepsMax(visit: Visit): Promise<void> {
  const node = `urn:example:many:${random()}`
  const client = await visit.asker(visit.juliet)
  for (let id = 0; id < 12; id++) await publish(client, node, `<item id='${id}'>${NOTE}</item>`, { persist_items: 'true', access_model: 'whitelist', max_items: 'max', send_last_published_item: 'never' })
  need((await items(client, node)).length === 12, 'a node with max_items max does not keep 12 items')
}

/** XEP-0490 §4 */
export async function assistsDisplayed(visit: Visit): Promise<void> {
  const client = await visit.enter(visit.juliet, { resource: 'reader' })
  const body = await chat(visit, client.bare)
  const message = await receives(client, `<message><body>${body}</body></message>`)
  const id = need(message.getChildren('stanza-id', SID_NS).find((each) => each.attrs['by'] === client.bare)?.attrs['id'], 'a message without a <stanza-id/> of the account')
  const chatJid = visit.bare(visit.romeo)
  client.send(`<message to='${chatJid}' type='chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='${message.attrs['id']}'/><displayed xmlns='urn:xmpp:mds:displayed:0'><stanza-id xmlns='${SID_NS}' by='${client.bare}' id='${id}'/></displayed></message>`)
  await client.ping(ANSWER_MS)
  const item = (await items(client, 'urn:xmpp:mds:displayed:0')).find((each) => each.attrs['id'] === chatJid)
  need(item?.getChild('displayed')?.getChild('stanza-id')?.attrs['id'] === id, 'the server did not publish what was displayed')
  await client.disconnect()
}

export async function setsVcard(visit: Visit): Promise<void> {
  const name = random()
  const client = await visit.asker(visit.juliet)
  await client.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'><FN>${name}</FN></vCard></iq>`, ANSWER_MS)
  const answer = await (await visit.asker(visit.romeo)).sendIq(`<iq type='get' to='${client.bare}'><vCard xmlns='vcard-temp'/></iq>`, ANSWER_MS)
  need(answer.getChild('vCard', 'vcard-temp')?.getChildText('FN') === name, 'the vCard is not the one that was set')
}

/** An avatar in PEP is in the vCard too (XEP-0398), and in presence (XEP-0153). */
export async function convertsAvatar(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const id = createHash('sha1').update(Buffer.from(PICTURE, 'base64')).digest('hex')
  const bytes = Buffer.from(PICTURE, 'base64').length
  await publishOpen(client, 'urn:xmpp:avatar:data', `<item id='${id}'><data xmlns='urn:xmpp:avatar:data'>${PICTURE}</data></item>`)
  await publishOpen(client, 'urn:xmpp:avatar:metadata', `<item id='${id}'><metadata xmlns='urn:xmpp:avatar:metadata'><info id='${id}' bytes='${bytes}' type='image/png' width='1' height='1'/></metadata></item>`)
  const answer = await (await visit.asker(visit.romeo)).sendIq(`<iq type='get' to='${client.bare}'><vCard xmlns='vcard-temp'/></iq>`, ANSWER_MS)
  need(answer.getChild('vCard', 'vcard-temp')?.getChild('PHOTO')?.getChildText('BINVAL')?.replace(/\s/g, '') === PICTURE, 'the avatar published in PEP is not in the vCard')
  const device = await visit.enter(visit.juliet, { resource: 'pictured' }, false)
  device.send('<presence/>')
  await receives(device, `<presence from='${device.jid}'><x xmlns='vcard-temp:x:update'><photo>${id}</photo></x></presence>`)
  await device.disconnect()
}

function bookmark(room: string): string {
  return `<item id='${room}'><conference xmlns='${BOOKMARKS_NS}' name='Balcony' autojoin='true'><nick>juliet</nick></conference></item>`
}

const BOOKMARK_OPTIONS = { persist_items: 'true', max_items: 'max', send_last_published_item: 'never', access_model: 'whitelist' }

function storedIn(storage: Element | null | undefined, room: string): boolean {
  return storage?.getChildren('conference').some((each) => each.attrs['jid'] === room) === true
}

export async function storesPrivately(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const text = random()
  await client.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'><notes xmlns='urn:example:notes'>${text}</notes></query></iq>`, ANSWER_MS)
  const answer = await client.sendIq("<iq type='get'><query xmlns='jabber:iq:private'><notes xmlns='urn:example:notes'/></query></iq>", ANSWER_MS)
  need(answer.getChild('query')?.getChildText('notes', 'urn:example:notes') === text, 'private XML is not what was stored')
}

async function privateBookmarks(client: Client): Promise<Element | undefined | null> {
  const answer = await client.sendIq("<iq type='get'><query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'/></query></iq>", ANSWER_MS)
  return answer.getChild('query')?.getChild('storage', 'storage:bookmarks')
}

/** XEP-0048 in private XML, and XEP-0411: what is stored there is in the PEP node of XEP-0048. */
export async function convertsBookmarks(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const room = `${random()}@rooms.example`
  await client.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'><conference jid='${room}' name='Balcony' autojoin='true'><nick>juliet</nick></conference></storage></query></iq>`, ANSWER_MS)
  need(storedIn((await items(client, 'storage:bookmarks'))[0]?.getChild('storage', 'storage:bookmarks'), room), 'a bookmark of private XML is not in the PEP node storage:bookmarks')
}

export async function bookmarksInPrivateXml(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const room = `${random()}@rooms.example`
  await publish(client, BOOKMARKS_NS, bookmark(room), BOOKMARK_OPTIONS)
  need(storedIn(await privateBookmarks(client), room), `a bookmark of ${BOOKMARKS_NS} is not in private XML`)
}

export async function bookmarksInPep(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const room = `${random()}@rooms.example`
  await publish(client, BOOKMARKS_NS, bookmark(room), BOOKMARK_OPTIONS)
  need(storedIn((await items(client, 'storage:bookmarks'))[0]?.getChild('storage', 'storage:bookmarks'), room), `a bookmark of ${BOOKMARKS_NS} is not in the PEP node storage:bookmarks`)
}

// Services

/** Where it is served is asked of the server under test, whatever the name in the address resolves to. */
async function http(visit: Visit, method: string, url: string, headers: Readonly<Record<string, string>> = {}, body?: Buffer): Promise<{ status: number; body: Buffer }> {
  const { protocol, port, host, hostname, pathname, search } = new URL(url)
  const common = { method, host: visit.stage.host, port: port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port), path: pathname + search, headers: { Host: host, ...headers, ...(body === undefined ? {} : { 'Content-Length': String(body.length) }) }, timeout: ANSWER_MS }
  return new Promise((resolve, reject) => {
    const sent = protocol === 'https:' ? request({ ...common, rejectUnauthorized: false, ...(net.isIP(hostname) ? {} : { servername: hostname }) }) : plainRequest(common)
    sent.on('error', reject)
    sent.on('timeout', () => sent.destroy(new Error(`${method} ${url} was not answered`)))
    sent.on('response', (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }))
    })
    sent.end(body)
  })
}

async function uploadFile(visit: Visit, purpose: string): Promise<void> {
  const { jid } = await visit.serviceWith(UPLOAD_NS)
  const client = await visit.asker(visit.juliet)
  const body = randomBytes(1000)
  const answer = await client.sendIq(`<iq type='get' to='${jid}'><request xmlns='${UPLOAD_NS}' filename='rose.bin' size='${body.length}' content-type='application/octet-stream'>${purpose}</request></iq>`, ANSWER_MS)
  const slot = need(answer.getChild('slot', UPLOAD_NS), 'no <slot/>')
  const put = need(slot.getChild('put'), 'no <put/>')
  const headers = Object.fromEntries(put.getChildren('header').map((header) => [header.attrs['name'] ?? '', header.getText()]))
  const { status } = await http(visit, 'PUT', need(put.attrs['url'], 'no address to upload to'), { 'Content-Type': 'application/octet-stream', ...headers }, body)
  need(status === 200 || status === 201, `the upload was answered with ${status}`)
  const got = await http(visit, 'GET', need(slot.getChild('get')?.attrs['url'], 'no address to download from'))
  need(got.status === 200 && got.body.equals(body), `the download was answered with ${got.status}, or with something else than was uploaded`)
}

export function uploads(visit: Visit): Promise<void> { return uploadFile(visit, '') }
export function uploadsForProfile(visit: Visit): Promise<void> { return uploadFile(visit, "<profile xmlns='urn:xmpp:http:upload:purpose:0'/>") }

export async function findsRelays(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const answer = await client.sendIq(`<iq type='get' to='${visit.domain}'><services xmlns='urn:xmpp:extdisco:2'/></iq>`, ANSWER_MS)
  const services = answer.getChild('services', 'urn:xmpp:extdisco:2')?.getChildren('service') ?? []
  need(services.some(({ attrs }) => attrs['type'] === 'stun' || attrs['type'] === 'stuns'), 'no STUN service')
  need(services.some(({ attrs }) => (attrs['type'] === 'turn' || attrs['type'] === 'turns') && attrs['username'] && attrs['password']), 'no TURN service with credentials')
}

async function commands(visit: Visit): Promise<string[]> {
  const client = await visit.asker(visit.juliet)
  const answer = await client.sendIq(`<iq type='get' to='${visit.domain}'><query xmlns='${ITEMS_NS}' node='${COMMANDS_NS}'/></iq>`, ANSWER_MS)
  return answer.getChild('query')?.getChildren('item').map((item) => item.attrs['node'] ?? '') ?? []
}

/** The list of commands, and an answer to one of them. */
export async function runsCommands(visit: Visit): Promise<void> {
  const [node] = await commands(visit)
  const client = await visit.asker(visit.juliet)
  const answer = await client.sendIq(`<iq type='set' to='${visit.domain}'><command xmlns='${COMMANDS_NS}' node='${need(node, 'no command is offered')}' action='execute'/></iq>`, ANSWER_MS)
  const command = need(answer.getChild('command', COMMANDS_NS), 'no <command/> was answered')
  if (command.attrs['status'] === 'executing') await client.sendIq(`<iq type='set' to='${visit.domain}'><command xmlns='${COMMANDS_NS}' node='${node}' action='cancel' sessionid='${command.attrs['sessionid']}'/></iq>`, ANSWER_MS)
}

export async function offersInvitations(visit: Visit): Promise<void> {
  const nodes = await commands(visit)
  need(nodes.includes('urn:xmpp:invite#invite'), 'no command urn:xmpp:invite#invite')
}

/** XEP-0157 §3: addresses that can be written to, as URIs. */
export async function namesContacts(visit: Visit): Promise<void> {
  const form = need((await visit.host()).forms.get(CONTACTS_FORM), `no form ${CONTACTS_FORM}`)
  const element = (await visit.host()).query.getChildren('x', DATA_NS).find((each) => each.getChildren('field').some((field) => field.attrs['var'] === 'FORM_TYPE' && field.getChildText('value') === CONTACTS_FORM))
  need(element?.attrs['type'] === 'result', 'the form is not a result')
  for (const [name, values] of form) {
    if (!CONTACTS.has(name)) continue
    for (const value of values) need(/^(?:mailto:[^@\s]+@[^@\s]+|xmpp:(?:[^@/\s]+@)?[^@\s]+|https?:\/\/[^/\s]+\S*|sips?:\S+|tel:\+?[\d().-]+)$/i.test(value) && URL.canParse(value), `${name} has ${value}, which is no address that can be written to`)
  }
}

/** XEP-0258: the labels that may be used. */
export async function listsLabels(visit: Visit): Promise<void> {
  const client = await visit.asker(visit.juliet)
  const answer = await client.sendIq(`<iq type='get' to='${visit.domain}'><catalog xmlns='${LABELS_NS}' to='${visit.bare(visit.romeo)}'/></iq>`, ANSWER_MS)
  const items = need(answer.getChild('catalog', LABELS_NS), 'no catalog of labels').getChildren('item')
  need(items.some((item) => item.getChild('securitylabel', 'urn:xmpp:sec-label:0') !== undefined), 'the catalog has no label')
}

export async function invites(visit: Visit): Promise<void> {
  await invitation(visit)
}

/** XEP-0401 §4.1, in one step or with a form first: the URI of an invitation of juliet's. */
async function invitation(visit: Visit): Promise<string> {
  const client = await visit.asker(visit.juliet)
  const run = (attrs: string, form: string): Promise<Element> => client.sendIq(`<iq type='set' to='${visit.domain}'><command xmlns='${COMMANDS_NS}' node='urn:xmpp:invite#invite' ${attrs}>${form}</command></iq>`, ANSWER_MS)
  let command = (await run("action='execute'", '')).getChild('command', COMMANDS_NS)
  if (command?.attrs['status'] === 'executing') command = (await run(`action='complete' sessionid='${command.attrs['sessionid']}'`, `<x xmlns='${DATA_NS}' type='submit'/>`)).getChild('command', COMMANDS_NS)
  const form = command?.getChild('x', DATA_NS)
  const uri = form?.getChildren('field').find((field) => field.attrs['var'] === 'uri')?.getChildText('value') ?? form?.getChild('item')?.getChildren('field').find((field) => field.attrs['var'] === 'uri')?.getChildText('value')
  need(/^xmpp:.*preauth=/.test(uri ?? ''), `the invitation has no uri with a token: ${command?.toString() ?? 'nothing'}`)
  return uri ?? ''
}

export async function answersVersion(visit: Visit): Promise<void> {
  const answer = await (await visit.asker(visit.juliet)).sendIq(`<iq type='get' to='${visit.domain}'><query xmlns='jabber:iq:version'/></iq>`, ANSWER_MS)
  need(answer.getChild('query')?.getChildText('name'), 'no name')
}

export async function answersTime(visit: Visit): Promise<void> {
  const answer = await (await visit.asker(visit.juliet)).sendIq(`<iq type='get' to='${visit.domain}'><time xmlns='urn:xmpp:time'/></iq>`, ANSWER_MS)
  need(Math.abs(Date.parse(answer.getChild('time')?.getChildText('utc') ?? '') - Date.now()) < 60_000, 'the time is not the present one')
}

export async function answersPing(visit: Visit): Promise<void> {
  await (await visit.asker(visit.juliet)).sendIq(`<iq type='get' to='${visit.domain}'><ping xmlns='urn:xmpp:ping'/></iq>`, ANSWER_MS)
}

/** XEP-0065 §4: the proxy's address, and its greeting. */
export async function proxies(visit: Visit): Promise<void> {
  const { jid } = await visit.service('the identity proxy/bytestreams', ({ identities }) => identities.some(({ category, type }) => category === 'proxy' && type === 'bytestreams'))
  const answer = await (await visit.asker(visit.juliet)).sendIq(`<iq type='get' to='${jid}'><query xmlns='http://jabber.org/protocol/bytestreams'/></iq>`, ANSWER_MS)
  const streamhost = need(answer.getChild('query')?.getChild('streamhost'), 'no <streamhost/>')
  need(streamhost.attrs['host'] && Number(streamhost.attrs['port']) > 0, 'a <streamhost/> without host or port')
  const socket = net.connect({ host: visit.stage.host, port: Number(streamhost.attrs['port']) })
  try {
    socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('the proxy does not answer')))
    await once(socket, 'connect')
    // RFC 1928 §3: without authentication.
    socket.write(Buffer.from([5, 1, 0]))
    const [greeting] = (await once(socket, 'data')) as [Buffer]
    need(greeting.equals(Buffer.from([5, 0])), 'the proxy refuses SOCKS5 without authentication')
  } finally {
    socket.destroy()
  }
}

/** A node that romeo subscribes to, where everybody may make one; otherwise the list of nodes. */
export async function publishesAtService(visit: Visit): Promise<void> {
  const { jid } = await visit.service('the identity pubsub/service', ({ identities }) => identities.some(({ category, type }) => category === 'pubsub' && type === 'service'))
  const juliet = await visit.asker(visit.juliet)
  const node = random()
  try {
    await juliet.sendIq(`<iq type='set' to='${jid}'><pubsub xmlns='${PUBSUB_NS}'><create node='${node}'/></pubsub></iq>`, ANSWER_MS)
  } catch (error) {
    if (!(error instanceof IqError) || error.condition !== 'forbidden') throw error
    await juliet.sendIq(`<iq type='get' to='${jid}'><query xmlns='${ITEMS_NS}'/></iq>`, ANSWER_MS)
    return
  }
  const romeo = await visit.enter(visit.romeo, { resource: 'subscriber' })
  await romeo.sendIq(`<iq type='set' to='${jid}'><pubsub xmlns='${PUBSUB_NS}'><subscribe node='${node}' jid='${romeo.bare}'/></pubsub></iq>`, ANSWER_MS)
  await publish(juliet, node, `<item id='1'>${NOTE}</item>`, {}, jid)
  await receives(romeo, `<message from='${jid}'><event xmlns='${PUBSUB_NS}#event'><items node='${node}'/></event></message>`)
  await juliet.sendIq(`<iq type='set' to='${jid}'><pubsub xmlns='${PUBSUB_NS}#owner'><delete node='${node}'/></pubsub></iq>`, ANSWER_MS)
  await romeo.disconnect()
}

// Rooms

/** A message of the guest's, as the owner gets it. */
async function roomMessage(visit: Visit): Promise<{ message: Element; body: string }> {
  const { jid, owner, guest } = await visit.room()
  const body = `O, wilt thou leave me so unsatisfied? ${random()}`
  guest.send(`<message to='${jid}' type='groupchat' id='${random()}'><body>${body}</body></message>`)
  return { message: await receives(owner, `<message type='groupchat' from='${jid}/romeo'><body>${body}</body></message>`), body }
}

export async function talksInRoom(visit: Visit): Promise<void> {
  await roomMessage(visit)
}

export async function readsRoomHistory(visit: Visit): Promise<void> {
  const { jid, owner } = await visit.room()
  const { body } = await roomMessage(visit)
  await inArchive(owner, jid, body)
}

function roomStanzaId(message: Element, room: string): string {
  return need(message.getChildren('stanza-id', SID_NS).find((each) => each.attrs['by'] === room)?.attrs['id'], 'a message without a <stanza-id/> of the room')
}

export async function namesRoomMessages(visit: Visit): Promise<void> {
  const { jid, owner } = await visit.room()
  const { message, body } = await roomMessage(visit)
  const id = roomStanzaId(message, jid)
  need((await inArchive(owner, jid, body)) === id, 'the <stanza-id/> of a message is not its archive id')
  need((await page(owner, jid, { ids: id })).has(id), 'a query by archive id does not find the message')
}

export async function tellsOccupants(visit: Visit): Promise<void> {
  const { message } = await roomMessage(visit)
  need(message.getChild('occupant-id', 'urn:xmpp:occupant-id:0')?.attrs['id'], 'a message without <occupant-id/>')
}

/** XEP-0425 §5 */
export async function moderates(visit: Visit): Promise<void> {
  const { jid, owner, guest } = await visit.room()
  const { message } = await roomMessage(visit)
  const id = roomStanzaId(message, jid)
  await owner.sendIq(`<iq type='set' to='${jid}'><moderate id='${id}' xmlns='urn:xmpp:message-moderate:1'><retract xmlns='urn:xmpp:message-retract:1'/></moderate></iq>`, ANSWER_MS)
  await receives(guest, `<message type='groupchat' from='${jid}'><retract xmlns='urn:xmpp:message-retract:1' id='${id}'><moderated xmlns='urn:xmpp:message-moderate:1'/></retract></message>`)
}

/** XEP-0424 §4: the author's own retraction reaches the room. */
export async function retracts(visit: Visit): Promise<void> {
  const { jid, owner, guest } = await visit.room()
  const { message } = await roomMessage(visit)
  const id = roomStanzaId(message, jid)
  guest.send(`<message to='${jid}' type='groupchat' id='${random()}'><retract id='${id}' xmlns='urn:xmpp:message-retract:1'/></message>`)
  await receives(owner, `<message type='groupchat' from='${jid}/romeo'><retract id='${id}' xmlns='urn:xmpp:message-retract:1'/></message>`)
}

/** XEP-0317 §4: hats are made by commands. */
export async function givesHats(visit: Visit): Promise<void> {
  const { jid, owner } = await visit.room()
  const answer = await owner.sendIq(`<iq type='get' to='${jid}'><query xmlns='${ITEMS_NS}' node='${COMMANDS_NS}'/></iq>`, ANSWER_MS)
  need(answer.getChild('query')?.getChildren('item').some((item) => item.attrs['node'] === 'urn:xmpp:hats:commands:create'), 'the room offers its owner no command urn:xmpp:hats:commands:create')
}

export async function setsRoomAvatar(visit: Visit): Promise<void> {
  const { jid, owner, guest } = await visit.room()
  await owner.sendIq(`<iq type='set' to='${jid}'><vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>${PICTURE}</BINVAL></PHOTO></vCard></iq>`, ANSWER_MS)
  const answer = await guest.sendIq(`<iq type='get' to='${jid}'><vCard xmlns='vcard-temp'/></iq>`, ANSWER_MS)
  need(answer.getChild('vCard', 'vcard-temp')?.getChild('PHOTO')?.getChildText('BINVAL')?.replace(/\s/g, '') === PICTURE, 'the room does not show the avatar that its owner set')
}

/** XEP-0410: an occupant, and somebody who is none, ping themselves. */
export async function pingsItself(visit: Visit): Promise<void> {
  const { jid, owner } = await visit.room()
  await owner.sendIq(`<iq type='get' to='${jid}/juliet'><ping xmlns='urn:xmpp:ping'/></iq>`, ANSWER_MS)
  const stranger = await visit.asker(visit.romeo)
  const error = await stranger.sendIq(`<iq type='get' to='${jid}/nobody'><ping xmlns='urn:xmpp:ping'/></iq>`, ANSWER_MS).then(() => undefined, (reason: unknown) => reason)
  need(error instanceof IqError && error.condition === 'not-acceptable', `who is not in the room should get not-acceptable, but got ${error instanceof Error ? error.message : 'a result'}`)
}

export async function refreshesRoomInfo(visit: Visit): Promise<void> {
  const { jid } = await visit.room()
  const occupants = (await visit.info(jid)).forms.get(`${MUC_NS}#roominfo`)?.get('muc#roominfo_occupants')?.[0]
  need(occupants === '2', `muc#roominfo_occupants is ${occupants} with two occupants`)
}

/** XEP-0249: a room's invitation is a message like others. */
export async function invitesToRoom(visit: Visit): Promise<void> {
  const { jid, owner } = await visit.room()
  const guest = await visit.enter(visit.romeo, { resource: 'invited' })
  owner.send(`<message to='${guest.jid}'><x xmlns='jabber:x:conference' jid='${jid}'/></message>`)
  await receives(guest, `<message from='${owner.jid}'><x xmlns='jabber:x:conference' jid='${jid}'/></message>`)
  await guest.disconnect()
}

// Other ways in

/** The address of an alternative way to connect (XEP-0156), or where servers usually have it. */
async function alternative(visit: Visit, rel: string, usual: readonly string[]): Promise<readonly string[]> {
  const base = need(visit.stage.web, 'no HTTP listener is known: name it with --web')
  const { status, body } = await http(visit, 'GET', new URL('/.well-known/host-meta', base).href)
  const link = status === 200 ? parseElement(body.toString().replace(/^<\?xml.*?\?>/, '').trim()).getChildren('Link').find((each) => each.attrs['rel'] === rel)?.attrs['href'] : undefined
  // Its port is that of the listener, whatever a proxy in front of it would have.
  return link === undefined ? usual.map((path) => new URL(path, base).href) : [new URL(new URL(link).pathname, base).href]
}

/** RFC 7395: a stream is opened. */
export async function entersByWebSocket(visit: Visit): Promise<void> {
  const reasons: string[] = []
  for (const url of await alternative(visit, 'urn:xmpp:alt-connections:websocket', ['/xmpp-websocket', '/ws'])) {
    try {
      return await openWebSocket(visit, url)
    } catch (error) {
      reasons.push(`${new URL(url).pathname}: ${(error as Error).message}`)
    }
  }
  throw new Error(reasons.join('; '))
}

async function openWebSocket(visit: Visit, url: string): Promise<void> {
  const { protocol, port, host, pathname } = new URL(url)
  const options = { host: visit.stage.host, port: Number(port) }
  const socket = protocol === 'https:' ? tls.connect({ ...options, servername: visit.domain, rejectUnauthorized: false }) : net.connect(options)
  try {
    socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('no answer')))
    await once(socket, protocol === 'https:' ? 'secureConnect' : 'connect')
    socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n`)
    const [answer] = (await once(socket, 'data')) as [Buffer]
    const head = answer.toString('latin1')
    need(head.startsWith('HTTP/1.1 101 ') && /sec-websocket-protocol:\s*xmpp/i.test(head), `answered with ${head.split('\r\n')[0]}`)
    const text = Buffer.from(`<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='${visit.domain}' version='1.0'/>`)
    // RFC 6455 §5.2: one text frame, masked with zeros.
    socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | 126, text.length >> 8, text.length & 0xff, 0, 0, 0, 0]), text]))
    const [frame] = (await once(socket, 'data')) as [Buffer]
    need(frame.includes('<open'), 'no <open/> was answered')
  } finally {
    socket.destroy()
  }
}

/** XEP-0124 §7, XEP-0206: a session is opened. */
export async function entersByBosh(visit: Visit): Promise<void> {
  const reasons: string[] = []
  for (const url of await alternative(visit, 'urn:xmpp:alt-connections:xbosh', ['/http-bind', '/bosh'])) {
    const body = Buffer.from(`<body xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh' to='${visit.domain}' rid='${1 + Math.floor(Math.random() * 1e9)}' wait='1' hold='1' ver='1.11' xml:lang='en' xmpp:version='1.0'/>`)
    const answer = await http(visit, 'POST', url, { 'Content-Type': 'text/xml; charset=utf-8' }, body)
    if (answer.status === 200 && /<body[^>]*\ssid=/.test(answer.body.toString())) return
    reasons.push(`${new URL(url).pathname}: answered with ${answer.status}`)
  }
  throw new Error(reasons.join('; '))
}

/** XEP-0114 §3: the handshake, and a message to the component. */
export async function servesComponents(visit: Visit): Promise<void> {
  const { port, domain, secret } = need(visit.stage.component, 'no port of components is known: name it with --component')
  const socket = net.connect({ host: visit.stage.host, port })
  try {
    socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('the component was not answered')))
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    const until = async (pattern: RegExp): Promise<RegExpExecArray> => {
      for (;;) {
        const match = pattern.exec(text)
        if (match !== null) return match
        await once(socket, 'data')
      }
    }
    await once(socket, 'connect')
    socket.write(`<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='${domain}'>`)
    const [, id = ''] = await until(/<stream:stream[^>]*\sid=['"]([^'"]+)/)
    socket.write(`<handshake>${createHash('sha1').update(id + secret).digest('hex')}</handshake>`)
    await until(/<handshake\s*\/?>/)
    const body = await chat(visit, domain)
    await until(new RegExp(body.slice(-12)))
  } finally {
    socket.destroy()
  }
}

/** XEP-0368: TLS from the first byte, with ALPN. */
export async function entersByDirectTls(visit: Visit): Promise<void> {
  const port = need(visit.stage.tlsPort, 'no port of direct TLS is known: name it with --tls-port')
  const client = await visit.enter(visit.juliet, { port, tls: 'direct' }, false)
  await client.disconnect()
}

/** RFC 7590: TLS 1.2 or newer. */
export async function speaksModernTls(visit: Visit): Promise<void> {
  const port = need(visit.stage.tlsPort, 'no port of direct TLS is known: name it with --tls-port')
  const socket = tls.connect({ host: visit.stage.host, port, servername: visit.domain, rejectUnauthorized: false, minVersion: 'TLSv1.2' })
  try {
    await once(socket, 'secureConnect')
  } finally {
    socket.destroy()
  }
}
