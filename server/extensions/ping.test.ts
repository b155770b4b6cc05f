import { expect } from 'chai'
import { makeStanza } from '../../lib/stanza/stanza.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { ping } from './ping.ts'

const PING = "<ping xmlns='urn:xmpp:ping'/>"
const turn = () => new Promise((resolve) => setTimeout(resolve, 5))

describe('XEP-0199 ping', () => {
  it('§4.1: the host and the own account answer, strangers learn nothing', async () => {
    const fake = fakeParts()
    fake.start(ping)
    expect((await fake.ask('juliet@example.net/a', 'get', PING, 'example.net')).attrs['type']).to.equal('result')
    expect((await fake.ask('juliet@example.net/a', 'get', PING)).attrs['type']).to.equal('result')
    expect(conditionOf(await fake.ask('romeo@example.org/a', 'get', PING, 'juliet@example.net'))).to.equal('service-unavailable')
  })

  it('§4.2: pings silent clients, and ends those that do not answer when told so', async () => {
    const fake = fakeParts()
    fake.start(ping, { send_pings: true, ping_interval: 60_000, ping_ack_timeout: 1, timeout_action: 'kill' })
    const session = fake.login('juliet@example.net/a')
    await fake.tasks[0]?.()
    expect(fake.routed).to.have.length(0)
    fake.clock.now += 60_000
    void fake.tasks[0]?.()
    expect(fake.routed[0]?.attrs).to.include({ type: 'get', from: 'example.net', to: 'juliet@example.net/a' })
    fake.pending.answered(makeStanza('iq', { type: 'error', id: fake.routed[0]?.id, from: 'juliet@example.net/a', to: 'example.net' }))
    await turn()
    expect(session.closed).to.equal(undefined)
    await fake.tasks[0]?.()
    expect(fake.routed).to.have.length(1)
    fake.clock.now += 60_000
    // The timer of the request does not keep a process alive by itself.
    const kept = setInterval(() => undefined, 1)
    await fake.tasks[0]?.()
    clearInterval(kept)
    expect(fake.routed).to.have.length(2)
    expect(session.closed).to.equal('connection-timeout')
  })
})
