/** XEP-0377: reports with blocking. */
import { check, play } from '../play.ts'

const NS = 'urn:xmpp:reporting:1'

play('XEP-0377 §2 §5 a contact is blocked and reported in one request', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  const info = await juliet.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, "<iq type='result'/>")
  check(info.getChild('query')?.getChildren('feature').some(({ attrs }) => attrs['var'] === NS) === true, 'the feature of the server')
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='urn:xmpp:blocking'><item jid='${romeo.bare}'><report xmlns='${NS}' reason='urn:xmpp:reporting:spam'><text xml:lang='en'>Never came trouble to my house like this.</text></report></item></block></iq>`, "<iq type='result'/>")
  await juliet.asks("<iq type='get' id='b2'><blocklist xmlns='urn:xmpp:blocking'/></iq>", `<iq type='result'><blocklist xmlns='urn:xmpp:blocking'><item jid='${romeo.bare}'/></blocklist></iq>`)
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body></message>`)
  await romeo.receives("<message type='error' id='m1'/>")
})
