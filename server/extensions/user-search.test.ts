import { expect } from 'chai'
import { IqDispatcher } from '../router/iq.ts'
import { createDiscoRegistry } from './disco-registry.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { userSearch } from './user-search.ts'
import { vcard } from './vcard.ts'

const NS = 'jabber:iq:search'
const romeo = 'romeo@example.net/home'
const people = {
  juliet: "<FN>Juliet Capulet</FN><N><GIVEN>Juliet</GIVEN><FAMILY>Capulet</FAMILY></N><NICKNAME>JuliC</NICKNAME><EMAIL><USERID>juliet@shakespeare.example</USERID></EMAIL><PHOTO><BINVAL>QUJD</BINVAL></PHOTO>",
  tybalt: "<FN>Tybalt Capulet</FN><N><GIVEN>Tybalt</GIVEN><FAMILY>Capulet</FAMILY></N>",
  benvolio: "<FN>Benvolio Montague</FN><N><GIVEN>Benvolio</GIVEN><FAMILY>Montague</FAMILY></N>",
}

describe('XEP-0055 user search', () => {
  async function stage(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    const domains: string[] = []
    const router = { ...fake.parts.router, iqService: (domain: string) => { domains.push(domain); return domains.length === 1 ? { iq: fake.parts.iq, disco: fake.disco } : { iq: new IqDispatcher(fake.pending, fake.parts.log), disco: createDiscoRegistry() } } }
    fake.start(vcard)
    fake.start(userSearch, { search: true, ...options }, { router })
    for (const [name, card] of Object.entries(people)) await fake.ask(`${name}@example.net/x`, 'set', `<vCard xmlns='vcard-temp'>${card}</vCard>`)
    const ask = (content: string, type: 'get' | 'set' = 'set') => fake.ask(romeo, type, `<query xmlns='${NS}'>${content}</query>`, 'example.net')
    const jids = async (content: string) => (await ask(content)).getChild('query')?.getChildren('item').map((item) => item.attrs['jid'])
    return { fake, domains, ask, jids }
  }
  const form = (fields: Record<string, string>) => `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${NS}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`

  it('is off unless search says so, and answers at the domain it is told', async () => {
    expect((await stage({ search: false })).domains).to.deep.equal([])
    expect((await stage()).domains).to.deep.equal(['vjud.example.net'])
    expect((await stage({ hosts: ['users.@HOST@', 'people.example.org'] })).domains).to.have.length(2)
  })

  it('§2.1 and §3: tells its fields, plain and as a form', async () => {
    const { fake, ask } = await stage()
    const query = (await ask('', 'get')).getChild('query')
    expect(query?.getChildElements().map((child) => child.getName())).to.deep.equal(['instructions', 'first', 'last', 'nick', 'email', 'x'])
    expect(query?.getChild('x')?.getChildren('field').map((field) => field.attrs['var'])).to.include.members(['FORM_TYPE', 'user', 'fn', 'first', 'last', 'nick', 'email'])
    expect(fake.disco.ownInfo('host').toString()).to.contain('category="directory" type="user"').and.contain(NS)
  })

  it('§2.1: answers those who match all fields', async () => {
    const { ask, jids } = await stage()
    const item = (await ask('<last>capulet</last><first>Juliet</first>')).getChild('query')?.getChildren('item')
    expect(item).to.have.length(1)
    expect(item?.[0]?.toString()).to.equal('<item jid="juliet@example.net"><first>Juliet</first><last>Capulet</last><nick>JuliC</nick><email>juliet@shakespeare.example</email></item>')
    expect(await jids('<last>Capulet</last>')).to.deep.equal(['juliet@example.net', 'tybalt@example.net'])
    expect(await jids('<last>Cap</last>')).to.deep.equal([])
    expect(await jids('<last>cap*</last>')).to.deep.equal(['juliet@example.net', 'tybalt@example.net'])
    expect(await jids('<first>*ol*</first>')).to.deep.equal(['benvolio@example.net'])
    expect(await jids('<last>c*p*let</last>')).to.deep.equal(['juliet@example.net', 'tybalt@example.net'])
    expect(await jids('<last>capulet*t</last>')).to.deep.equal([])
    expect(await jids('<first>.*</first>'), 'no other patterns').to.deep.equal([])
  })

  it('§2.1: nobody is an empty answer; an empty search finds everybody where that is allowed', async () => {
    const { ask, jids } = await stage()
    expect((await ask('<last>Nobody</last>')).getChild('query')?.toString()).to.equal(`<query xmlns="${NS}"/>`)
    expect(await jids('')).to.deep.equal([])
    expect(await (await stage({ allow_return_all: true })).jids('')).to.have.length(3)
  })

  it('§3: a form is answered with a form', async () => {
    const { ask } = await stage()
    const x = (await ask(form({ user: 'tyb*' }))).getChild('query')?.getChild('x')
    expect(x?.attrs['type']).to.equal('result')
    expect(x?.getChild('reported')?.getChildren('field').map((field) => field.attrs['var'])).to.include.members(['jid', 'fn', 'last'])
    expect(x?.getChildren('item').map((item) => item.getChildren('field').find((field) => field.attrs['var'] === 'jid')?.getChildText('value'))).to.deep.equal(['tybalt@example.net'])
    expect(conditionOf(await ask(form({ user: 'a'.repeat(201) })))).to.equal('not-acceptable')
    expect(conditionOf(await ask("<x xmlns='jabber:x:data' type='result'/>"))).to.equal('bad-request')
  })

  it('answers at most `matches`, and pages (XEP-0059)', async () => {
    const { ask, jids } = await stage({ matches: 2, allow_return_all: true })
    expect(await jids('')).to.deep.equal(['benvolio@example.net', 'juliet@example.net'])
    const next = (await ask("<set xmlns='http://jabber.org/protocol/rsm'><max>10</max><after>juliet@example.net</after></set>")).getChild('query')
    expect(next?.getChildren('item').map((item) => item.attrs['jid'])).to.deep.equal(['tybalt@example.net'])
    expect(next?.getChild('set')?.getChildText('count')).to.equal('3')
  })

  it('follows the vCard, and goes with the account', async () => {
    const { fake, jids } = await stage()
    await fake.ask('juliet@example.net/x', 'set', "<vCard xmlns='vcard-temp'><FN>Mrs Montague</FN></vCard>")
    expect(await jids('<last>Capulet</last>')).to.deep.equal(['tybalt@example.net'])
    await fake.hooks.runAccountRemoved('tybalt@example.net')
    expect(await jids('<last>Capulet</last>')).to.deep.equal([])
  })
})
