import { expect } from 'chai'
import { connect } from '../../lib/client/client.ts'
import { startTestServer } from '../test-server.ts'
import { delayedDelivery } from './delayed-delivery.ts'
import { fakeParts } from './fake-parts.ts'

describe('XEP-0203 delayed delivery', () => {
  const delay = (from: string) => `<delay xmlns='urn:xmpp:delay' from='${from}' stamp='2002-09-10T23:08:25Z'/>`
  const left = (run: 'runIncoming' | 'runOutgoing', from: string, to: string) => {
    const fake = fakeParts()
    fake.start(delayedDelivery)
    const delivery = fake.delivery(`<message xmlns='jabber:client' from='${from}' to='${to}'><body>hi</body>${delay('example.net')}${delay('EXAMPLE.net')}${delay('gateway.example.net')}<delay xmlns='urn:xmpp:delay' stamp='2002-09-10T23:08:25Z'/></message>`)
    fake.hooks[run](delivery)
    return delivery.stanza.element().getChildren('delay').map((each) => each.attrs['from'])
  }

  it('§7: a note that claims to be the server\'s is discarded, those of others stay', () => {
    expect(left('runIncoming', 'romeo@example.org/x', 'juliet@example.net')).to.deep.equal(['gateway.example.net', undefined])
    expect(left('runOutgoing', 'juliet@example.net/x', 'romeo@example.org')).to.deep.equal(['gateway.example.net', undefined])
    expect(left('runIncoming', 'example.net', 'juliet@example.net')).to.have.length(4)
  })

  it('a message that waits has the time at which it came, whatever its sender writes', async () => {
    await using tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } })
    const login = (user: string) => connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret' })
    const romeo = await login('romeo')
    const forged = [delay('localhost'), delay('romeo@localhost').replace('/>', "> from='localhost' </delay>")]
    for (const each of forged) romeo.send(`<message to='juliet@localhost' type='chat'><body>hi</body>${each}</message>`)
    await romeo.ping()
    const juliet = await login('juliet')
    juliet.send('<presence/>')
    for (const _ of forged) {
      const message = await juliet.receive((element) => element.name === 'message')
      const stamps = message.getChildren('delay', 'urn:xmpp:delay').filter((each) => each.attrs['from'] === 'localhost').map((each) => each.attrs['stamp'] ?? '')
      expect(stamps).to.have.length(1)
      expect(Date.now() - Date.parse(stamps[0] as string)).to.be.lessThan(60_000)
    }
    await juliet.disconnect()
    await romeo.disconnect()
  })
})
