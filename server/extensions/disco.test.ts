import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { xml } from '../../lib/xml/element.ts'
import { caps } from './caps.ts'
import { CAPS_NODE, caps2Hash, capsVer } from './disco-registry.ts'
import { disco } from './disco.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const INFO = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
const ITEMS = "<query xmlns='http://jabber.org/protocol/disco#items'/>"
const juliet = 'juliet@example.net'

describe('XEP-0030 service discovery', () => {
  function stage() {
    const fake = fakeParts()
    fake.disco.identity('host', { category: 'server', type: 'im', name: 'Tidings' })
    fake.disco.identity('account', { category: 'account', type: 'registered' })
    fake.start(disco)
    fake.start(caps)
    return fake
  }

  it('§3.1: answers for the host with identities, features and forms', async () => {
    const fake = stage()
    fake.disco.feature('host', 'urn:x')
    fake.disco.form('host', () => xml('x', { xmlns: 'jabber:x:data', type: 'result' }))
    const query = (await fake.ask(`${juliet}/a`, 'get', INFO, 'example.net')).getChild('query')
    expect(query?.getChild('identity')?.attrs).to.include({ category: 'server', type: 'im', name: 'Tidings' })
    expect(query?.getChildren('feature').map((each) => each.attrs['var'])).to.include.members(['urn:x', 'http://jabber.org/protocol/disco#info', 'http://jabber.org/protocol/caps'])
    expect(query?.getChildren('x', 'jabber:x:data')).to.have.length(1)
  })

  it('§3.2: an unknown node is not found, a known one answers for itself', async () => {
    const fake = stage()
    fake.disco.node('account', 'mine', { info: () => xml('query', { xmlns: 'http://jabber.org/protocol/disco#info', node: 'mine' }) })
    const other = await fake.ask(`${juliet}/a`, 'get', INFO.replace('/>', " node='other'/>"))
    expect(conditionOf(other)).to.equal('item-not-found')
    const mine = await fake.ask(`${juliet}/a`, 'get', INFO.replace('/>', " node='mine'/>"))
    expect(mine.getChild('query')?.attrs['node']).to.equal('mine')
    fake.disco.node('account', '*', { items: ({ payload }) => xml('query', { xmlns: 'http://jabber.org/protocol/disco#items', node: payload.attrs['node'] }) })
    expect((await fake.ask(`${juliet}/a`, 'get', ITEMS.replace('/>', " node='any'/>"))).getChild('query')?.attrs['node']).to.equal('any')
  })

  it('§4.1: lists fixed items and those that depend on who asks', async () => {
    const fake = stage()
    fake.disco.item('host', { jid: 'upload.example.net', name: 'Files' })
    fake.disco.items('host', ({ from }) => [{ jid: 'example.net', node: from.bare }])
    const items = (await fake.ask(`${juliet}/a`, 'get', ITEMS, 'example.net')).getChild('query')?.getChildren('item').map((each) => each.attrs)
    expect(items).to.deep.equal([{ jid: 'upload.example.net', name: 'Files' }, { jid: 'example.net', node: juliet }])
  })

  it('§8: tells strangers nothing of an account, subscribers and the owner everything', async () => {
    const fake = stage()
    await fake.accounts.register(juliet, 'secret')
    const asked = async (from: string) => fake.ask(from, 'get', INFO, juliet)
    expect((await asked(`${juliet}/a`)).getChild('query')?.getChild('identity')?.attrs['category']).to.equal('account')
    expect(conditionOf(await asked('romeo@example.org/b'))).to.equal('service-unavailable')
    expect(conditionOf(await fake.ask('romeo@example.org/b', 'get', INFO, 'nobody@example.net'))).to.equal('service-unavailable')
    fake.disco.item('account', { jid: juliet, node: 'diary' })
    const items = async (from: string, to: string, node = '') => (await fake.ask(from, 'get', ITEMS.replace('/>', `${node === '' ? '' : ` node='${node}'`}/>`), to)).getChild('query')
    expect((await items(`${juliet}/a`, juliet))?.children).to.have.length(1)
    for (const to of [juliet, 'nobody@example.net']) {
      expect((await items('romeo@example.org/b', to))?.children).to.deep.equal([])
      expect((await items('romeo@example.org/b', to, 'diary'))?.toString()).to.equal('<query xmlns="http://jabber.org/protocol/disco#items" node="diary"/>')
    }
    fake.rosters.set(juliet, { jid: 'romeo@example.org', subscription: 'from', ask: false, approved: false, groups: [] })
    expect((await asked('romeo@example.org/b')).attrs['type']).to.equal('result')
  })

  it('XEP-0115 §6.2: the node of the hash in the stream features answers with what the hash is of', async () => {
    const fake = stage()
    const [c, c2] = parseElement(`<f>${fake.features.after()}</f>`).getChildElements()
    expect(c?.attrs['node']).to.equal(CAPS_NODE)
    const node = `${c?.attrs['node']}#${c?.attrs['ver']}`
    const info = (await fake.ask(`${juliet}/a`, 'get', INFO.replace('/>', ` node='${node}'/>`), 'example.net')).getChild('query')
    expect(info?.attrs['node']).to.equal(node)
    expect(capsVer(info!)).to.equal(c?.attrs['ver'])
    const hash = c2?.getChildren('hash').find((each) => each.attrs['algo'] === 'sha-256')?.getText()
    const second = await fake.ask(`${juliet}/a`, 'get', INFO.replace('/>', ` node='urn:xmpp:caps#sha-256.${hash}'/>`), 'example.net')
    expect(second.attrs['type']).to.equal('result')
    expect(caps2Hash(second.getChild('query')!, 'sha-256')).to.equal(hash)
    expect(conditionOf(await fake.ask(`${juliet}/a`, 'get', INFO.replace('/>', ` node='${CAPS_NODE}#old'/>`), 'example.net'))).to.equal('item-not-found')
  })

  it('XEP-0115 §5.2 and §5.3: the examples of the verification string', () => {
    const simple = `<query xmlns='http://jabber.org/protocol/disco#info'><identity xmlns='http://jabber.org/protocol/disco#info' category='client' name='Exodus 0.9.1' type='pc'/>
      <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/muc'/></query>`
    expect(capsVer(parseElement(simple))).to.equal('QgayPKawpkPSDYmwT/WM94uAlu0=')
    const complex = `<query xmlns='http://jabber.org/protocol/disco#info'><identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/><identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>
      <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>
      <x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field><field var='ip_version'><value>ipv4</value><value>ipv6</value></field>
      <field var='os'><value>Mac</value></field><field var='os_version'><value>10.5.1</value></field><field var='software'><value>Psi</value></field><field var='software_version'><value>0.11</value></field></x></query>`
    expect(capsVer(parseElement(complex))).to.equal('q07IKJEyjvHSyhy//CH0CxmKi8w=')
  })

  it('XEP-0115 §5.1: features are sorted before `<` stands behind each', () => {
    const info = parseElement("<query xmlns='http://jabber.org/protocol/disco#info'><feature var='urn:a'/><feature var='urn:a#b'/></query>")
    expect(capsVer(info)).to.equal(createHash('sha1').update('urn:a<urn:a#b<').digest('base64'))
  })

  it('XEP-0390 §4.4.1: the simple example', () => {
    const info = parseElement(`<query xmlns="http://jabber.org/protocol/disco#info"><identity category="client" name="BombusMod" type="mobile"/>${['http://jabber.org/protocol/si', 'http://jabber.org/protocol/bytestreams', 'http://jabber.org/protocol/chatstates', 'http://jabber.org/protocol/disco#info', 'http://jabber.org/protocol/disco#items', 'urn:xmpp:ping', 'jabber:iq:time', 'jabber:iq:privacy', 'jabber:iq:version', 'http://jabber.org/protocol/rosterx', 'urn:xmpp:time', 'jabber:x:oob', 'http://jabber.org/protocol/ibb', 'http://jabber.org/protocol/si/profile/file-transfer', 'urn:xmpp:receipts', 'jabber:iq:roster', 'jabber:iq:last'].map((each) => `<feature var="${each}"/>`).join('')}</query>`)
    expect(caps2Hash(info, 'sha-256')).to.equal('kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8=')
    expect(caps2Hash(info, 'sha3-256')).to.equal('79mdYAfU9rEdTOcWDO7UEAt6E56SUzk/g6TnqUeuD9Q=')
  })
})
