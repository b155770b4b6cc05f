import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'

const PUBSUB = 'http://jabber.org/protocol/pubsub'
const DATA = 'urn:xmpp:avatar:data'
const METADATA = 'urn:xmpp:avatar:metadata'
const picture = Buffer.from('89504e470d0a1a0a00', 'hex')
const other = Buffer.from('ffd8ffe000104a46', 'hex')
const idOf = (bytes: Buffer): string => createHash('sha1').update(bytes).digest('hex')

describe('XEP-0398 avatars in nodes and in the vCard', () => {
  let tidings: TestServer
  const clients: Client[] = []

  async function login(user: string, presence = '<presence/>'): Promise<Client> {
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource: 'a' })
    clients.push(client)
    client.send(presence)
    await client.ping()
    return client
  }
  async function publishAvatar(client: Client, bytes: Buffer, model: string, id = idOf(bytes)): Promise<void> {
    const options = `<publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${PUBSUB}#publish-options</value></field><field var='pubsub#access_model'><value>${model}</value></field></x></publish-options>`
    const set = (node: string, payload: string): Promise<Element> => client.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB}'><publish node='${node}'><item id='${id}'>${payload}</item></publish>${options}</pubsub></iq>`)
    await set(DATA, `<data xmlns='${DATA}'>${bytes.toString('base64')}</data>`)
    await set(METADATA, `<metadata xmlns='${METADATA}'><info id='${id}' bytes='${bytes.length}' type='image/png'/></metadata>`)
  }
  async function photo(client: Client, of: string): Promise<string | null | undefined> {
    try {
      return (await client.sendIq(`<iq type='get' to='${of}'><vCard xmlns='vcard-temp'/></iq>`)).getChild('vCard', 'vcard-temp')?.getChild('PHOTO')?.getChildText('BINVAL')
    } catch (error) {
      return (error as Error).message
    }
  }
  const setVcard = (client: Client, inner: string): Promise<Element> => client.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'>${inner}</vCard></iq>`)
  const photoXml = (bytes: Buffer): string => `<PHOTO><TYPE>image/jpeg</TYPE><BINVAL>\n${bytes.toString('base64')}\n</BINVAL></PHOTO>`
  async function item(client: Client, node: string, of: string): Promise<Element | undefined> {
    return (await client.sendIq(`<iq type='get' to='${of}'><pubsub xmlns='${PUBSUB}'><items node='${node}'/></pubsub></iq>`)).getChild('pubsub', PUBSUB)?.getChild('items')?.getChild('item')
  }
  const hash = (element: Element): string | null | undefined => element.getChild('x', 'vcard-temp:x:update')?.getChildText('photo')
  const presence = (element: Element): boolean => element.name === 'presence' && element.attrs['type'] === undefined

  beforeEach(async () => { tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } }) })
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('§3.1: what is published for everybody is in the vCard, beside what is there', async () => {
    const romeo = await login('romeo')
    const juliet = await login('juliet')
    await setVcard(romeo, '<FN>Romeo</FN>')
    await publishAvatar(romeo, picture, 'open')
    expect(await photo(juliet, 'romeo@localhost')).to.equal(picture.toString('base64'))
    expect((await juliet.sendIq("<iq type='get' to='romeo@localhost'><vCard xmlns='vcard-temp'/></iq>")).getChild('vCard')?.getChildText('FN')).to.equal('Romeo')
  })

  it('§7: what is for contacts is not shown to others; nor a picture that its id does not fit', async () => {
    const romeo = await login('romeo')
    const juliet = await login('juliet')
    await publishAvatar(romeo, picture, 'presence')
    expect(await photo(juliet, 'romeo@localhost')).to.equal('service-unavailable')
    expect(await photo(romeo, 'romeo@localhost')).to.equal(picture.toString('base64'))
    await publishAvatar(juliet, picture, 'open', idOf(other))
    expect(await photo(romeo, 'juliet@localhost')).to.equal('service-unavailable')
  })

  it('§3.2: a picture of the vCard is published, and taken back with it', async () => {
    const romeo = await login('romeo')
    const juliet = await login('juliet')
    await setVcard(romeo, photoXml(other))
    expect((await item(juliet, DATA, 'romeo@localhost'))?.attrs['id']).to.equal(idOf(other))
    const info = (await item(juliet, METADATA, 'romeo@localhost'))?.getChild('metadata')?.getChild('info')
    expect(info?.attrs).to.deep.equal({ id: idOf(other), bytes: '8', type: 'image/jpeg' })
    await setVcard(romeo, '<FN>Romeo</FN>')
    expect((await item(juliet, METADATA, 'romeo@localhost'))?.getChild('metadata')?.getChildElements()).to.deep.equal([])
    expect(await photo(juliet, 'romeo@localhost')).to.equal(undefined)
  })

  it('§4: presence has the hash, and has the new one when the picture changes', async () => {
    const romeo = await login('romeo')
    romeo.inbox.splice(0)
    await publishAvatar(romeo, picture, 'open')
    expect(hash(await romeo.receive(presence))).to.equal(idOf(picture))
    await publishAvatar(romeo, other, 'open')
    expect(hash(await romeo.receive(presence))).to.equal(idOf(other))
    romeo.send("<presence to='romeo@localhost/a'/>")
    expect(hash(await romeo.receive(presence))).to.equal(idOf(other))
    romeo.send("<presence><x xmlns='vcard-temp:x:update'/></presence>")
    expect(hash(await romeo.receive(presence))).to.equal(idOf(other))
    romeo.send("<presence><x xmlns='vcard-temp:x:update'><photo/></x></presence>")
    expect(hash(await romeo.receive(presence))).to.equal('')
  })

  it('§4: presence says when the picture is gone, and when there is another', async () => {
    const romeo = await login('romeo')
    await publishAvatar(romeo, picture, 'open')
    await romeo.receive((element) => hash(element) === idOf(picture))
    await romeo.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB}'><publish node='${METADATA}'><item id='none'><metadata xmlns='${METADATA}'/></item></publish></pubsub></iq>`)
    await romeo.receive((element) => hash(element) === '')
    await publishAvatar(romeo, other, 'open')
    await romeo.receive((element) => hash(element) === idOf(other))
  })

  it('§7: a room does not get the hash of a picture that is for contacts', async () => {
    const romeo = await login('romeo')
    await publishAvatar(romeo, picture, 'presence')
    await romeo.receive((element) => hash(element) === idOf(picture))
    const juliet = await login('juliet')
    romeo.send("<presence to='juliet@localhost/a'/>")
    expect(hash(await juliet.receive((element) => presence(element) && element.attrs['from'] === 'romeo@localhost/a'))).to.equal(undefined)
  })
})
