import { expect } from 'chai'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { hostVcard, vcard } from './vcard.ts'

const juliet = 'juliet@example.net/balcony'
const GET = "<vCard xmlns='vcard-temp'/>"

describe('XEP-0054 vcard-temp', () => {
  it('§3.1 and §3.2: the owner sets it, everybody gets it', async () => {
    const fake = fakeParts()
    fake.start(vcard)
    expect((await fake.ask(juliet, 'get', GET)).getChild('vCard', 'vcard-temp')?.children).to.deep.equal([])
    expect((await fake.ask(juliet, 'set', "<vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard>")).attrs['type']).to.equal('result')
    expect((await fake.ask('romeo@example.org/x', 'get', GET, 'juliet@example.net')).getChild('vCard', 'vcard-temp')?.getChildText('FN')).to.equal('Juliet')
  })

  it('§3.2: nobody sets the vCard of another', async () => {
    const fake = fakeParts()
    fake.start(vcard)
    for (const to of ['juliet@example.net', 'example.net']) expect(conditionOf(await fake.ask('romeo@example.net/x', 'set', GET, to)), to).to.equal('forbidden')
  })

  it('§3.1: the missing vCard of another looks like a missing account', async () => {
    const fake = fakeParts()
    fake.start(vcard)
    await fake.accounts.register('juliet@example.net', 'secret')
    for (const to of ['juliet@example.net', 'nobody@example.net']) expect(conditionOf(await fake.ask('romeo@example.org/x', 'get', GET, to))).to.equal('service-unavailable')
  })

  it('has a limit on size, and goes with the account', async () => {
    const fake = fakeParts()
    fake.start(vcard)
    expect(conditionOf(await fake.ask(juliet, 'set', `<vCard xmlns='vcard-temp'><NOTE>${'x'.repeat(262_144)}</NOTE></vCard>`))).to.equal('policy-violation')
    await fake.ask(juliet, 'set', "<vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard>")
    await fake.hooks.runAccountRemoved('juliet@example.net')
    expect((await fake.ask(juliet, 'get', GET)).getChild('vCard')?.children).to.deep.equal([])
  })

  it('shows the vCard of the host as configured', async () => {
    const fake = fakeParts()
    fake.start(vcard, { vcard: { fn: 'Example', tel: [{ work: true, number: '1' }] } })
    expect((await fake.ask(juliet, 'get', GET, 'example.net')).getChild('vCard')?.toString()).to.contain('<FN>Example</FN><TEL><WORK/><NUMBER>1</NUMBER></TEL>')
    expect(hostVcard(undefined)).to.equal(undefined)
  })
})
