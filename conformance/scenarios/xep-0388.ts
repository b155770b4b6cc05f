/** XEP-0388: SASL2, with what can be had together with a login: XEP-0386 (Bind 2), XEP-0198 §9, XEP-0484 (tokens). */
import { LoginError } from '../../lib/client/client.ts'
import { loginBySasl2, type Sasl2Login, type Sasl2Options } from '../../lib/client/sasl2.ts'
import type { Element } from '../../lib/xml/element.ts'
import { type Actor, check, fail, play, type Stage } from '../play.ts'

const SASL2 = 'urn:xmpp:sasl:2'
const BIND = 'urn:xmpp:bind:0'
const SM = 'urn:xmpp:sm:3'
const FAST = 'urn:xmpp:fast:0'
const CLASSIC_BIND = 'urn:ietf:params:xml:ns:xmpp-bind'
const BIND_ALL = `<bind xmlns='${BIND}'><tag>Orchard</tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='${SM}' resume='true'/></bind>`

/** Another client for each play, for tokens and resources are those of a client. */
const agent = (): { id: string; text: string } => ({ id: crypto.randomUUID(), text: '<software>Orchard</software><device>A wall</device>' })

async function enter({ user, password }: Actor, stage: Stage, more: Partial<Sasl2Options> = {}): Promise<Sasl2Login> {
  return loginBySasl2({ host: stage.host, port: stage.port, domain: stage.domain, user, password, mechanism: 'SCRAM-SHA-1', ...more })
}

async function refused(attempt: Promise<Sasl2Login>): Promise<string> {
  const outcome = await attempt.catch((error: unknown) => error)
  if (outcome instanceof LoginError) return outcome.condition
  return fail(`the login should be refused, not ${outcome instanceof Error ? outcome.message : 'granted'}`)
}

const jidIn = (success: Element): string => success.getChildText('authorization-identifier') ?? ''
const inlineOf = ({ offer }: Sasl2Login): Element | undefined => offer.getChild('authentication', SASL2)?.getChild('inline')

play('XEP-0388 §2.6.1 features follow the success at once, and a resource is bound as ever', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  const { connection, success } = await enter(romeo, stage)
  check(jidIn(success) === romeo.bare, `the bare JID, not ${jidIn(success)}`)
  const features = (await connection.nextElement()).element()
  check(features.getName() === 'features' && features.getChild('bind', CLASSIC_BIND) !== undefined, `features with bind, not ${features.toString()}`)
  connection.write(`<iq type='set' id='b'><bind xmlns='${CLASSIC_BIND}'><resource>orchard</resource></bind></iq>`)
  const bound = (await connection.nextElement()).element()
  check(bound.attrs['type'] === 'result', 'bound')
  connection.destroy()
})

play('XEP-0388 §2.6.2 a wrong password fails with a condition of RFC 6120', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  check(await refused(enter(romeo, stage, { password: 'wrong', inline: BIND_ALL })) === 'not-authorized', 'not-authorized')
})

play('XEP-0386 §3.1 says what can be had with a resource', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  const login = await enter(romeo, stage)
  const names = inlineOf(login)?.getChild('bind', BIND)?.getChild('inline')?.getChildren('feature').map((each) => each.attrs['var']) ?? []
  for (const name of ['urn:xmpp:carbons:2', SM]) check(names.includes(name), `${name} is offered`)
  check(inlineOf(login)?.getChild('sm', SM) !== undefined, 'resumption is offered')
  login.connection.destroy()
})

play('XEP-0386 §3.2 one request, sent before the features have come, logs in, binds and enables', { romeo: { online: false }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  if (stage.tls === 'none') return
  const { connection, success } = await enter(romeo, stage, { agent: agent(), inline: BIND_ALL, pipelined: true })
  const jid = jidIn(success)
  check(jid.startsWith(`${romeo.bare}/Orchard`), `the tag begins the resource of ${jid}`)
  check(success.getChild('bound', BIND)?.getChild('enabled', SM)?.attrs['resume'] === 'true', 'stream management is on')
  check((await connection.nextElement()).name === 'features', 'features')
  juliet.sends(`<message to='${jid}' type='chat' id='hello'><body>Hi</body></message>`)
  for (;;) {
    const stanza = await connection.nextElement()
    if (stanza.name === 'message' && stanza.id === 'hello') break
  }
  connection.destroy()
})

play('XEP-0386 §3.2 a client that comes again takes the place of its session', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  const same = agent()
  const bind = `<bind xmlns='${BIND}'><tag>Orchard</tag></bind>`
  const first = await enter(romeo, stage, { agent: same, inline: bind })
  const second = await enter(romeo, stage, { agent: same, inline: bind })
  for (;;) {
    const incoming = await first.connection.next()
    if (incoming.kind === 'close') break
  }
  second.connection.destroy()
})

play('XEP-0198 §9.2 a session is resumed with the login, and what was missed follows', { romeo: { online: false }, juliet: {} }, async ({ romeo, juliet }, stage) => {
  if (stage.tls === 'none') return
  const same = agent()
  const first = await enter(romeo, stage, { agent: same, inline: BIND_ALL })
  const jid = jidIn(first.success)
  const id = first.success.getChild('bound', BIND)?.getChild('enabled', SM)?.attrs['id'] ?? ''
  await first.connection.nextElement()
  first.connection.destroy()
  juliet.sends(`<message to='${jid}' type='chat' id='missed'><body>Hi</body></message>`)
  await juliet.client.ping()
  const second = await enter(romeo, stage, { agent: same, inline: `<resume xmlns='${SM}' previd='${id}' h='0'/>${BIND_ALL}`, pipelined: true })
  check(second.success.getChild('resumed', SM)?.attrs['previd'] === id, 'resumed')
  check(second.success.getChild('bound', BIND) === undefined, 'not bound anew')
  const next = await second.connection.nextElement()
  check(next.name === 'message' && next.id === 'missed', `the message and no features, not ${String(next)}`)
  second.connection.destroy()
})

play('XEP-0198 §9.2.1 where nothing can be resumed, a resource is bound', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  const { connection, success } = await enter(romeo, stage, { agent: agent(), inline: `<resume xmlns='${SM}' previd='unknown' h='0'/>${BIND_ALL}` })
  check(success.getChild('failed', SM) !== undefined, 'failed')
  check(success.getChild('bound', BIND)?.getChild('enabled', SM) !== undefined, 'bound')
  connection.destroy()
})

for (const mechanism of ['HT-SHA-256-NONE', 'HT-SHA-256-EXPR', 'HT-SHA-256-ENDP']) {
  play(`XEP-0484 §3 a token for ${mechanism} logs its client in, and nobody else`, { romeo: { online: false } }, async ({ romeo }, stage) => {
    if (stage.tls === 'none') return
    const same = agent()
    const first = await enter(romeo, stage, { agent: same, inline: `<request-token xmlns='${FAST}' mechanism='${mechanism}'/>` })
    const offered = inlineOf(first)?.getChild('fast', FAST)?.getChildren('mechanism').map((each) => each.getText()) ?? []
    first.connection.destroy()
    // §3.1: which there are depends on TLS.
    if (!offered.includes(mechanism)) return check(offered.length > 0, 'there are mechanisms')
    const token = first.success.getChild('token', FAST)?.attrs['token'] ?? fail('a token was asked for')
    check(Date.parse(first.success.getChild('token', FAST)?.attrs['expiry'] ?? '') > Date.now(), 'it lasts')
    const again = await enter(romeo, stage, { agent: same, mechanism, token, inline: BIND_ALL, pipelined: true })
    check(jidIn(again.success).startsWith(`${romeo.bare}/`), 'logged in')
    again.connection.destroy()
    check(await refused(enter(romeo, stage, { agent: agent(), mechanism, token })) === 'not-authorized', 'another client has no use for it')
    check(await refused(enter(romeo, stage, { agent: same, mechanism, token: `${token}x` })) === 'not-authorized', 'no other token will do')
  })
}

play('XEP-0484 §3.6 a token that is given back is worth nothing', { romeo: { online: false } }, async ({ romeo }, stage) => {
  if (stage.tls === 'none') return
  const same = agent()
  const mechanism = 'HT-SHA-256-NONE'
  const first = await enter(romeo, stage, { agent: same, inline: `<request-token xmlns='${FAST}' mechanism='${mechanism}'/>` })
  first.connection.destroy()
  const token = first.success.getChild('token', FAST)?.attrs['token'] ?? fail('a token was asked for')
  const last = await enter(romeo, stage, { agent: same, mechanism, token, fast: "invalidate='true'" })
  last.connection.destroy()
  await refused(enter(romeo, stage, { agent: same, mechanism, token }))
})
