import { expect } from 'chai'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { flexibleOffline } from './flexible-offline.ts'

const juliet = 'juliet@example.net'
const full = `${juliet}/balcony`
const NS = 'http://jabber.org/protocol/offline'
const query = (kind: string) => `<query xmlns='http://jabber.org/protocol/disco#${kind}' node='${NS}'/>`
const offline = (content: string) => `<offline xmlns='${NS}'>${content}</offline>`

describe('XEP-0013 flexible offline message retrieval', () => {
  function stage() {
    const fake = fakeParts()
    fake.start(flexibleOffline)
    fake.disco.feature('account', 'x')
    for (const id of ['id1', 'id2', 'id3']) fake.storage.offline.push(juliet, { id, bytes: Buffer.from(`<message from='romeo@example.org/x' to='${juliet}' type='chat'><body>text of ${id}</body></message>`) })
    fake.parts.iq.get('http://jabber.org/protocol/disco#info query', 'account', (request) => fake.disco.info('account', request))
    fake.parts.iq.get('http://jabber.org/protocol/disco#items query', 'account', (request) => fake.disco.itemList('account', request))
    return { fake, session: fake.login(full) }
  }

  it('§2.2: the number of messages; and there is no flood any more', async () => {
    const { fake, session } = stage()
    const info = (await fake.ask(full, 'get', query('info'))).getChild('query')
    expect(info?.getChild('identity')?.attrs).to.include({ category: 'automation', type: 'message-list' })
    expect(info?.getChild('x', 'jabber:x:data')?.getChildren('field').find((field) => field.attrs['var'] === 'number_of_messages')?.getChildText('value')).to.equal('3')
    expect((session as unknown as { get(name: string): unknown }).get('flexibleOffline')).to.equal(true)
  })

  it('§2.3: the header of each', async () => {
    const { fake } = stage()
    const items = (await fake.ask(full, 'get', query('items'))).getChild('query')?.getChildren('item').map((item) => item.attrs)
    expect(items?.[0]).to.deep.equal({ jid: juliet, node: 'id1', name: 'romeo@example.org/x' })
    expect(items).to.have.length(3)
    expect(conditionOf(await fake.ask('nurse@example.net/x', 'get', query('items'), juliet))).to.equal('forbidden')
  })

  it('§2.4 and §2.6: messages are sent with their node and stay', async () => {
    const { fake, session } = stage()
    expect((await fake.ask(full, 'get', offline("<item action='view' node='id2'/>"))).attrs['type']).to.equal('result')
    expect(session.sent[0]?.element().getChildText('body')).to.equal('text of id2')
    expect(session.sent[0]?.element().getChild('offline', NS)?.getChild('item')?.attrs['node']).to.equal('id2')
    await fake.ask(full, 'get', offline('<fetch/>'))
    expect(session.sent).to.have.length(4)
    expect(fake.storage.offline.count(juliet)).to.equal(3)
    expect(conditionOf(await fake.ask(full, 'get', offline("<item action='view' node='id9'/>")))).to.equal('item-not-found')
  })

  it('§2.5 and §2.7: removes some and all', async () => {
    const { fake } = stage()
    expect(conditionOf(await fake.ask(full, 'set', offline("<item action='remove' node='id1'/><item action='remove' node='id9'/>")))).to.equal('item-not-found')
    expect(fake.storage.offline.count(juliet)).to.equal(3)
    await fake.ask(full, 'set', offline("<item action='remove' node='id1'/>"))
    expect((await fake.storage.offline.list(juliet, 10)).map((entry) => entry.id)).to.deep.equal(['id2', 'id3'])
    await fake.ask(full, 'set', offline('<purge/>'))
    expect(fake.storage.offline.count(juliet)).to.equal(0)
    expect(conditionOf(await fake.ask('nurse@example.net/x', 'set', offline('<purge/>'), juliet))).to.equal('forbidden')
    expect(conditionOf(await fake.ask(full, 'set', offline('')))).to.equal('bad-request')
  })
})
