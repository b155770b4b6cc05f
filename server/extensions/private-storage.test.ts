import { expect } from 'chai'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { privateStorage } from './private-storage.ts'

const juliet = 'juliet@example.net/balcony'
const set = (content: string) => `<query xmlns='jabber:iq:private'>${content}</query>`

describe('XEP-0049 private XML storage', () => {
  function stage() {
    const fake = fakeParts()
    fake.start(privateStorage)
    return fake
  }

  it('§2.3: answers what was stored, or an empty element', async () => {
    const fake = stage()
    expect((await fake.ask(juliet, 'get', set("<storage xmlns='storage:bookmarks'/>"))).getChild('query')?.toString()).to.contain("<storage xmlns=\"storage:bookmarks\"/>")
    const stored = await fake.ask(juliet, 'set', set("<storage xmlns='storage:bookmarks'><conference jid='a@b' name='&lt;x&gt;'><nick>J</nick></conference></storage><exodus xmlns='exodus:prefs'/>"))
    expect(stored.attrs['type']).to.equal('result')
    const storage = (await fake.ask(juliet, 'get', set("<storage xmlns='storage:bookmarks'/>"))).getChild('query')?.getChild('storage', 'storage:bookmarks')
    expect(storage?.getChild('conference')?.attrs).to.include({ jid: 'a@b', name: '<x>' })
    expect(storage?.getChild('conference')?.getChildText('nick')).to.equal('J')
    const other = await fake.ask('romeo@example.net/x', 'get', set("<storage xmlns='storage:bookmarks'/>"))
    expect(other.getChild('query')?.getChild('storage')?.children).to.deep.equal([])
  })

  it('§4: nobody reads or writes the storage of another', async () => {
    const fake = stage()
    for (const to of ['juliet@example.net', 'example.net']) {
      for (const type of ['get', 'set'] as const) expect(conditionOf(await fake.ask('romeo@example.net/x', type, set("<a xmlns='b'/>"), to)), `${type} ${to}`).to.equal('forbidden')
    }
  })

  it('§2.3: refuses what has no element or no namespace of its own', async () => {
    const fake = stage()
    for (const type of ['get', 'set'] as const) expect(conditionOf(await fake.ask(juliet, type, set(''))), type).to.equal('not-acceptable')
    expect(conditionOf(await fake.ask(juliet, 'get', set("<a xmlns='b'/><c xmlns='d'/>")))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(juliet, 'set', set('<a/>')))).to.equal('not-acceptable')
  })

  it('keeps a limit on size and number', async () => {
    const fake = stage()
    expect(conditionOf(await fake.ask(juliet, 'set', set(`<a xmlns='b'>${'x'.repeat(262_144)}</a>`)))).to.equal('policy-violation')
    for (let i = 0; i < 200; i += 50) await fake.ask(juliet, 'set', set(Array.from({ length: 50 }, (_, n) => `<a xmlns='ns:${i + n}'/>`).join('')))
    expect(conditionOf(await fake.ask(juliet, 'set', set("<a xmlns='ns:more'/>")))).to.equal('resource-constraint')
    expect((await fake.ask(juliet, 'set', set("<a xmlns='ns:1'>new</a>"))).attrs['type']).to.equal('result')
  })

  it('is erased with the account', async () => {
    const fake = stage()
    await fake.ask(juliet, 'set', set("<a xmlns='b'>text</a>"))
    await fake.hooks.runAccountRemoved('juliet@example.net')
    expect(await fake.storage.records.range('private', ['juliet@example.net'])).to.deep.equal([])
  })
})
