/** XEP-0114: external components. */
import { ComponentClient } from '../../lib/client/component.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { check, play, type Stage } from '../play.ts'

function known({ component }: Stage): NonNullable<Stage['component']> {
  if (component === undefined) throw new Error('no port of components is known: name it with --component')
  return component
}

function component(stage: Stage, secret?: string): Promise<ComponentClient> {
  return ComponentClient.connect({ host: stage.host, ...known(stage), ...(secret === undefined ? {} : { secret }) })
}

const refusal = async (attempt: Promise<unknown>): Promise<string | undefined> => attempt.then(() => undefined, (error: unknown) => (error instanceof StreamError ? error.condition : String(error)))

play('XEP-0114 §3 a component gets what is for its users, and answers for them', { romeo: {} }, async ({ romeo }, stage) => {
  await using plays = await component(stage)
  const hamlet = `hamlet@${plays.domain}`
  romeo.sends(`<message to='${hamlet}' type='chat' id='m1'><body>Who's there?</body></message>`)
  const message = await plays.receive(({ name }) => name === 'message')
  check(message.from === romeo.jid && message.to === hamlet && message.has('body'), 'the message from its sender, in the namespace of the stream')
  plays.send(`<message from='${hamlet}/elsinore' to='${romeo.jid}' type='chat' id='m2'><body>Nay, answer me</body></message>`)
  await romeo.receives(`<message from='${hamlet}/elsinore' type='chat' id='m2'><body>Nay, answer me</body></message>`)
})

play('XEP-0114 §3 a component answers requests, and asks some', { romeo: {} }, async ({ romeo }, stage) => {
  await using plays = await component(stage)
  const answered = romeo.asks(`<iq type='get' id='q1' to='${plays.domain}'><query xmlns='urn:example:acts'/></iq>`, `<iq type='result' from='${plays.domain}'><query xmlns='urn:example:acts'><act>5</act></query></iq>`)
  const request = await plays.receive(({ name }) => name === 'iq')
  plays.send(`<iq type='result' id='${request.id}' from='${plays.domain}' to='${request.from}'><query xmlns='urn:example:acts'><act>5</act></query></iq>`)
  await answered
  plays.send(`<iq type='get' id='d1' from='${plays.domain}' to='${stage.domain}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)
  const info = await plays.receive(({ id }) => id === 'd1')
  check(info.type === 'result' && info.element().getChild('query')?.getChild('identity') !== undefined, 'the identity of the host')
})

play('XEP-0114 §3 a handshake with a wrong secret ends the stream with not-authorized', {}, async (_cast, stage) => {
  check(await refusal(component(stage, 'wrong')) === 'not-authorized', 'not-authorized')
})

play('XEP-0114 §3 a stanza from another domain ends the stream with invalid-from', { romeo: {} }, async ({ romeo }, stage) => {
  await using plays = await component(stage)
  plays.send(`<message from='${romeo.bare}' to='${romeo.jid}'><body>'Tis not I</body></message>`)
  check(await refusal(plays.receive()) === 'invalid-from', 'invalid-from')
})

play('XEP-0114 a message for a component that is not there comes back (RFC 6120 §10.4)', { romeo: {} }, async ({ romeo }, stage) => {
  romeo.sends(`<message to='hamlet@${known(stage).domain}' type='chat' id='m3'><body>Who's there?</body></message>`)
  await romeo.receives("<message type='error' id='m3'><error/></message>")
})
