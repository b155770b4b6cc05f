import { createHmac } from 'node:crypto'
import { expect } from 'chai'
import type { Element } from '../../lib/xml/element.ts'
import { parseOptions } from '../config/options.ts'
import { externalServices } from './external-services.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const NS = 'urn:xmpp:extdisco:2'
const JULIET = 'juliet@example.net/balcony'
const HOST = 'example.net'

describe('XEP-0215 external services', () => {
  function started(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    const read = parseOptions(externalServices.options as never, options, { option: 'modules.mod_stun_disco' })
    expect(read.problems).to.deep.equal([])
    fake.start(externalServices, read.options as Record<string, unknown>)
    const services = async (attrs = ''): Promise<Element[]> => (await fake.ask(JULIET, 'get', `<services xmlns='${NS}'${attrs}/>`, HOST)).getChild('services', NS)?.getChildren('service') ?? []
    return { fake, services }
  }
  const SERVICES = [
    { host: 'stun.example.org', type: 'stun' },
    { host: '203.0.113.3', port: 3479, type: 'turn', transport: 'udp', name: 'Relay' },
    { host: 'turn.example.org', type: 'turns' },
  ]

  it('§2, §6: is a feature, and an empty list where nothing is configured', async () => {
    const { fake, services } = started()
    expect(fake.disco.ownInfo('host').getChildren('feature').map((each) => each.attrs['var'])).to.include(NS)
    expect(await services()).to.deep.equal([])
    expect((await fake.ask(JULIET, 'get', `<services xmlns='${NS}'/>`, HOST)).getChild('services', NS)).to.not.equal(undefined)
  })

  it('§3.1: all services, with credentials that a TURN server with the same secret takes', async () => {
    const { fake, services } = started({ secret: 's3cret', credentials_lifetime: '1 hour', services: SERVICES })
    const [stun, turn, turns] = (await services()).map((each) => each.attrs) as [Record<string, string>, Record<string, string>, Record<string, string>]
    expect(stun).to.deep.equal({ host: 'stun.example.org', port: '3478', transport: 'udp', type: 'stun' })
    expect(turn).to.include({ host: '203.0.113.3', port: '3479', transport: 'udp', type: 'turn', name: 'Relay', restricted: '1', expires: '2026-01-01T01:00:00Z' })
    expect(turns).to.include({ port: '5349', transport: 'tcp', restricted: '1' })
    const [until, user] = (turn['username'] as string).split(':')
    expect(Number(until) * 1000).to.equal(fake.clock.now + 3_600_000)
    expect(user).to.match(/^[0-9a-f]{20}$/)
    expect(turn['password']).to.equal(createHmac('sha1', 's3cret').update(turn['username'] as string).digest('base64'))
  })

  it('§3.2: services of one type, which the answer names', async () => {
    const { fake, services } = started({ secret: 's', services: SERVICES })
    expect((await services(" type='stun'")).map((each) => each.attrs['host'])).to.deep.equal(['stun.example.org'])
    expect(await services(" type='ftp'")).to.deep.equal([])
    expect((await fake.ask(JULIET, 'get', `<services xmlns='${NS}' type='ftp'/>`, HOST)).getChild('services')?.attrs['type']).to.equal('ftp')
  })

  it('§3.3: credentials of a service that is known by other means', async () => {
    const { fake } = started({ secret: 's', services: [...SERVICES, { host: '203.0.113.3', type: 'turn' }] })
    const ask = (service: string): Promise<Element> => fake.ask(JULIET, 'get', `<credentials xmlns='${NS}'>${service}</credentials>`, HOST)
    const found = (await ask("<service host='203.0.113.3' type='turn'/>")).getChild('credentials', NS)?.getChildren('service') ?? []
    expect(found.map((each) => [each.attrs['port'], each.attrs['username'] !== undefined])).to.deep.equal([['3479', true], ['3478', true]])
    expect((await ask("<service host='203.0.113.3' type='turn' port='3478'/>")).getChild('credentials', NS)?.getChildren('service')).to.have.length(1)
    expect(conditionOf(await ask("<service host='elsewhere.example' type='turn'/>"))).to.equal('item-not-found')
    expect(conditionOf(await ask("<service host='stun.example.org' type='stun'/>"))).to.equal('item-not-found')
    expect(conditionOf(await ask("<service host='203.0.113.3'/>"))).to.equal('bad-request')
    expect(conditionOf(await ask(''))).to.equal('bad-request')
  })

  it('does not offer what nobody could use', async () => {
    const { services } = started({ services: [...SERVICES, { host: 'open.example.org', type: 'turn', restricted: false }, { type: 'stun' }] })
    expect((await services()).map((each) => each.attrs['host'])).to.deep.equal(['stun.example.org', 'open.example.org'])
  })

  it('answers those whom the access rule allows', async () => {
    const { fake } = started({ access: 'none', secret: 's', services: SERVICES })
    expect(conditionOf(await fake.ask(JULIET, 'get', `<services xmlns='${NS}'/>`, HOST))).to.equal('forbidden')
    expect(conditionOf(await fake.ask(JULIET, 'get', `<credentials xmlns='${NS}'><service host='203.0.113.3' type='turn'/></credentials>`, HOST))).to.equal('forbidden')
  })

  it('tells a service who is who without naming anybody', async () => {
    const { fake, services } = started({ secret: 's', services: SERVICES })
    const name = (list: Element[]): string | undefined => list[1]?.attrs['username']
    const own = name(await services())
    expect(name(await services())).to.equal(own)
    const other = (await fake.ask('romeo@example.net/x', 'get', `<services xmlns='${NS}'/>`, HOST)).getChild('services', NS)?.getChildren('service') ?? []
    expect(name(other)).to.not.equal(own)
  })
})
