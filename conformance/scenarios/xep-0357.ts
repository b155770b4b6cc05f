/** XEP-0357: push notifications. An account plays the app server. */
import { check, play } from '../play.ts'

const NS = 'urn:xmpp:push:0'
const PUBSUB = 'http://jabber.org/protocol/pubsub'
const OPTIONS = 'http://jabber.org/protocol/pubsub#publish-options'
const form = `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${OPTIONS}</value></field><field var='secret'><value>eruio234vzxc2kla-91</value></field></x>`

play('XEP-0357 §4.1 §5 §6 §7 a message to somebody who is away is published, until that is disabled', { app: {}, romeo: {}, juliet: {} }, async ({ app, romeo, juliet }) => {
  const info = await juliet.asks(`<iq type='get' id='d1' to='${juliet.bare}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, "<iq type='result'/>")
  check(info.getChild('query')?.getChildren('feature').some(({ attrs }) => attrs['var'] === NS) === true, 'the feature of the account')
  await juliet.asks(`<iq type='set' id='e1'><enable xmlns='${NS}' jid='${app.jid}' node='n1'>${form}</enable></iq>`, "<iq type='result'/>")
  await juliet.leaves()
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Wherefore</body></message>`)
  const publish = `<iq type='set'><pubsub xmlns='${PUBSUB}'><publish node='n1'><item><notification xmlns='${NS}'/></item></publish></pubsub></iq>`
  const request = await app.receives(publish)
  check(!(request.attrs['from'] ?? '@').includes('@'), 'from the server (version 0.3)')
  const fields = request.getChild('pubsub')?.getChild('publish-options')?.getChild('x')?.getChildren('field') ?? []
  check(fields.some((field) => field.attrs['var'] === 'secret' && field.getChildText('value') === 'eruio234vzxc2kla-91'), 'with the options that were given')
  app.sends(`<iq type='result' id='${request.attrs['id']}' to='${request.attrs['from']}'/>`)
  await juliet.enters()
  await juliet.asks(`<iq type='set' id='e2'><disable xmlns='${NS}' jid='${app.jid}' node='n1'/></iq>`, "<iq type='result'/>")
  await juliet.leaves()
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m2'><body>art thou</body></message>`)
  await app.receivesNothing(publish)
})

play('XEP-0357 §7.1 an app server that knows the node no more is not asked again', { app: {}, romeo: {}, juliet: {} }, async ({ app, romeo, juliet }) => {
  await juliet.asks(`<iq type='set' id='e1'><enable xmlns='${NS}' jid='${app.jid}' node='n2'/></iq>`, "<iq type='result'/>")
  await juliet.leaves()
  const publish = `<iq type='set'><pubsub xmlns='${PUBSUB}'><publish node='n2'/></pubsub></iq>`
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Wherefore</body></message>`)
  const { attrs: { id, from } } = await app.receives(publish)
  app.sends(`<iq type='error' id='${id}' to='${from}'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`)
  await app.forgets()
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m2'><body>art thou</body></message>`)
  await app.receivesNothing(publish)
})
