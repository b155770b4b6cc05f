/** XEP-0401, XEP-0445 and XEP-0379: invitations. */
import { Connection } from '../../lib/client/connection.ts'
import { connect } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { type Actor, check, play, type Stage } from '../play.ts'

const NS = 'http://jabber.org/protocol/commands'
const PARS = 'urn:xmpp:pars:0'

/** The fields of an invitation that an actor makes. */
async function invite(actor: Actor, stage: Stage): Promise<ReadonlyMap<string, string>> {
  const answer = await actor.asks(`<iq type='set' id='invite' to='${stage.domain}'><command xmlns='${NS}' node='urn:xmpp:invite#invite' action='execute'/></iq>`,
    `<iq type='result'><command xmlns='${NS}' node='urn:xmpp:invite#invite' status='completed'><x xmlns='jabber:x:data' type='result'/></command></iq>`)
  const fields = answer.getChild('command')?.getChild('x')?.getChildren('field') ?? []
  return new Map(fields.map((field: Element) => [field.attrs['var'] ?? '', field.getChildText('value') ?? '']))
}

function tokenOf(uri: string | undefined): string {
  const token = /[?;]preauth=([^;]+)/.exec(uri ?? '')?.[1]
  check(token !== undefined, `${uri} has a token`)
  return token as string
}

/** A stream before its login, secured where the stage is. */
async function openStream(stage: Stage): Promise<{ connection: Connection; features: Element }> {
  const connection = await Connection.open({ host: stage.host, port: stage.port, domain: stage.domain })
  connection.openStream()
  let features = await connection.nextElement()
  if (stage.tls === 'starttls') {
    connection.write("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await connection.nextElement()
    await connection.secureWithTls()
    connection.openStream()
    features = await connection.nextElement()
  }
  return { connection, features: features.element() }
}

async function ask(connection: Connection, payload: string): Promise<Element> {
  connection.write(`<iq type='set' id='r' to='${connection.domain}'>${payload}</iq>`)
  return (await connection.nextElement()).element()
}

play('XEP-0401 §4.1 an invitation has a URI, an end, and a page on HTTPS if any', { romeo: {} }, async ({ romeo }, stage) => {
  const fields = await invite(romeo, stage)
  check(fields.get('FORM_TYPE') === 'urn:xmpp:invite#invitation', 'the type of the form')
  check(fields.get('uri')?.startsWith(`xmpp:${romeo.bare}?roster;preauth=`) === true, `the URI leads to the inviter, not ${fields.get('uri')}`)
  check(Date.parse(fields.get('expire') ?? '') > Date.now(), 'it ends later')
  const page = fields.get('landing-url')
  check(page === undefined || page.startsWith('https://'), 'HTTPS')
  check(tokenOf((await invite(romeo, stage)).get('uri')) !== tokenOf(fields.get('uri')), 'each has its own token')
})

play('XEP-0445 §4 the invited register with the token, once, and are contacts at once', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'/>")
  const uri = (await invite(romeo, stage)).get('uri') ?? ''
  check(uri.endsWith(';ibr=y'), 'it allows to register')
  const { connection, features } = await openStream(stage)
  check(features.getChild('register', 'urn:xmpp:ibr-token:0') !== undefined, 'the stream feature (§3)')
  const refused = await ask(connection, `<preauth xmlns='${PARS}' token='nobody-made-this-one'/>`)
  check(refused.getChild('error')?.getChild('item-not-found') !== undefined, 'item-not-found for a token that is none')
  check((await ask(connection, `<preauth xmlns='${PARS}' token='${tokenOf(uri)}'/>`)).attrs['type'] === 'result', 'the token is taken')
  const user = `${romeo.user}-guest`
  const registered = await ask(connection, `<query xmlns='jabber:iq:register'><username>${user}</username><password>pencil</password></query>`)
  check(registered.attrs['type'] === 'result', `registered: ${registered.toString()}`)
  const again = await ask(connection, `<preauth xmlns='${PARS}' token='${tokenOf(uri)}'/>`)
  check(again.getChild('error')?.getChild('item-not-found') !== undefined, 'once')
  connection.destroy()
  await romeo.receives(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${user}@${stage.domain}' subscription='both'/></query></iq>`)
  const guest = await connect({ ...stage, user, password: 'pencil' })
  try {
    const roster = await guest.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    check(roster.getChild('query')?.getChildren('item').some((item) => item.attrs['jid'] === romeo.bare && item.attrs['subscription'] === 'both') === true, 'the inviter is a contact')
    guest.send('<presence/>')
    await romeo.receives(`<presence from='${guest.jid}'/>`)
    guest.send("<iq type='set' id='gone'><query xmlns='jabber:iq:register'><remove/></query></iq>")
    await guest.closed
  } finally {
    await guest.disconnect().catch(() => undefined)
  }
})

play('XEP-0379 §3.4 §3.5 a request with the token is approved, and answered with one', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const token = tokenOf((await invite(romeo, stage)).get('uri'))
  juliet.sends(`<presence type='subscribed' to='${romeo.bare}'/>`)
  juliet.sends(`<presence type='subscribe' to='${romeo.bare}'><preauth xmlns='${PARS}' token='${token}'/></presence>`)
  await juliet.receives(`<presence type='subscribed' from='${romeo.bare}'/>`)
  await juliet.receives(`<presence from='${romeo.jid}'/>`)
  await romeo.receives(`<presence from='${juliet.jid}'/>`)
  await romeo.receivesNothing("<presence type='subscribe'/>")
})
