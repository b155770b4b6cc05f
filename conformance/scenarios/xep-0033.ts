/** XEP-0033: one stanza for several recipients, where a service for it is found. */
import { check, play } from '../play.ts'

const NS = 'http://jabber.org/protocol/address'

play('XEP-0033 §6 a message goes to all addresses, and a blind copy to its recipient alone', { romeo: {}, juliet: {}, nurse: {} }, async ({ romeo, juliet, nurse }, stage) => {
  const items = await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`, "<iq type='result'/>")
  let service: string | undefined
  for (const { attrs: { jid } } of items.getChild('query')?.getChildren('item') ?? []) {
    const info = await romeo.asks(`<iq type='get' id='i-${jid}' to='${jid}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, '<iq/>')
    if (info.getChild('query')?.getChildren('feature').some(({ attrs }) => attrs['var'] === NS)) service = jid
  }
  check(service !== undefined, 'a service for several addresses among the items of the domain')
  romeo.sends(`<message to='${service}' type='chat' id='m1'><addresses xmlns='${NS}'><address type='to' jid='${juliet.bare}'/><address type='bcc' jid='${nurse.bare}'/></addresses><body>Hello</body></message>`)
  const addresses = async (each: typeof juliet): Promise<(string | undefined)[][]> => {
    const message = await each.receives(`<message from='${romeo.jid}' id='m1'><body>Hello</body></message>`)
    return message.getChild('addresses', NS)?.getChildren('address').map(({ attrs }) => [attrs['type'], attrs['jid'], attrs['delivered']]) ?? []
  }
  const open = ['to', juliet.bare, 'true']
  check(JSON.stringify(await addresses(juliet)) === JSON.stringify([open]), 'the address, delivered, without the blind copy')
  const [first, second] = await addresses(nurse)
  check(JSON.stringify(first) === JSON.stringify(open) && second?.[0] === 'bcc' && second[1] === nurse.bare, 'the address and the own blind one')
})
