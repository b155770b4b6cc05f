import { createHash } from 'node:crypto'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { imageInfo } from './image-info.ts'
import { accountFeatures, befriend, eventOf, items, logIn, publish, retract } from './personal-clients.ts'

const AVATAR_DATA = 'urn:xmpp:avatar:data'
const AVATAR_METADATA = 'urn:xmpp:avatar:metadata'
const UPDATE = 'vcard-temp:x:update'
const CONVERSION = 'urn:xmpp:pep-vcard-conversion:0'
/** A PNG of one pixel, and what else is sent as an image. */
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
const GIF = Buffer.from('GIF89a\x02\x00\x03\x00\x80\x00\x00', 'latin1').toString('base64')
const hashOf = (base64: string): string => createHash('sha1').update(Buffer.from(base64, 'base64')).digest('hex')
const OPEN = { access_model: 'open' }

describe('XEP-0084, XEP-0153 and XEP-0398 avatars on the wire', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  async function publishAvatar(client: Client, base64: string, options?: Record<string, string>): Promise<void> {
    const id = hashOf(base64)
    await publish(client, AVATAR_DATA, `<item id='${id}'><data xmlns='${AVATAR_DATA}'>${base64}</data></item>`, options)
    await publish(client, AVATAR_METADATA, `<item id='${id}'><metadata xmlns='${AVATAR_METADATA}'><info id='${id}' bytes='70' type='image/png' width='1' height='1'/></metadata></item>`, options)
  }
  const setVcard = (client: Client, inner: string): Promise<Element> => client.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'>${inner}</vCard></iq>`)
  const photo = (base64: string, type = 'image/png'): string => `<PHOTO><TYPE>${type}</TYPE><BINVAL>${base64}</BINVAL></PHOTO>`
  async function vcardOf(client: Client, of = client.bare): Promise<Element> {
    return (await client.sendIq(`<iq type='get' to='${of}'><vCard xmlns='vcard-temp'/></iq>`)).getChild('vCard', 'vcard-temp') as Element
  }
  const photoOf = (vcard: Element): string | null | undefined => vcard.getChild('PHOTO')?.getChildText('BINVAL')
  /** The hash in the next presence from a client, whatever it is. */
  async function told(client: Client, from: string, wanted?: string): Promise<string | null | undefined> {
    const presence = await client.receive((stanza) => stanza.name === 'presence' && stanza.attrs['from'] === from && stanza.attrs['type'] === undefined
      && (wanted === undefined || stanza.getChild('x', UPDATE)?.getChildText('photo') === wanted))
    return presence.getChild('x', UPDATE)?.getChildText('photo')
  }

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret', nurse: 'secret' } })
    romeo = await logIn(tidings, 'romeo', 'a', [AVATAR_METADATA])
    juliet = await logIn(tidings, 'juliet', 'a')
    juliet.inbox.length = 0
  })
  afterEach(async () => {
    for (const client of [romeo, juliet]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('XEP-0084 §4.2.1: metadata that names many images which are not there is looked at no further', async () => {
    await setVcard(romeo, '<FN>Romeo</FN>')
    const wrong = Buffer.from('another').toString('base64')
    await publish(romeo, AVATAR_DATA, `<item id='${hashOf(PNG)}'><data xmlns='${AVATAR_DATA}'>${PNG}</data></item>`, { ...OPEN, max_items: 'max' })
    await publish(romeo, AVATAR_DATA, `<item id='wrong'><data xmlns='${AVATAR_DATA}'>${wrong}</data></item>`, { ...OPEN, max_items: 'max' })
    const metadata = (misses: number): Promise<Element> => publish(romeo, AVATAR_METADATA, `<item id='a'><metadata xmlns='${AVATAR_METADATA}'>${"<info id='wrong' bytes='7' type='image/png'/>".repeat(misses)}<info id='${hashOf(PNG)}' bytes='70' type='image/png'/></metadata></item>`, OPEN)
    await metadata(9)
    expect(photoOf(await vcardOf(juliet, romeo.bare))).to.equal(PNG)
    await metadata(2000)
    expect((await vcardOf(juliet, romeo.bare)).getChild('PHOTO')).to.equal(undefined)
  })

  it('XEP-0398 §2: says that it converts, on the account', async () => {
    expect(await accountFeatures(juliet)).to.include(CONVERSION)
  })

  it('XEP-0398 §3.1, §4: an open avatar is in the vCard for everybody, and its hash in presence', async () => {
    await befriend(romeo, juliet)
    await setVcard(juliet, '<FN>Juliet</FN>')
    await publishAvatar(juliet, PNG, OPEN)
    const nurse = await logIn(tidings, 'nurse', 'a')
    for (const client of [juliet, romeo, nurse]) {
      const vcard = await vcardOf(client, juliet.bare)
      expect(photoOf(vcard), client.bare).to.equal(PNG)
      expect(vcard.getChild('PHOTO')?.getChildText('TYPE')).to.equal('image/png')
      expect(vcard.getChildText('FN')).to.equal('Juliet')
    }
    expect(await told(romeo, juliet.jid, hashOf(PNG))).to.equal(hashOf(PNG))
    expect(await told(juliet, juliet.jid, hashOf(PNG))).to.equal(hashOf(PNG))
    juliet.send(`<presence to='${nurse.jid}'/>`)
    expect(await told(nurse, juliet.jid)).to.equal(hashOf(PNG))
    nurse.destroy()
  })

  it('XEP-0398 §7: an avatar for contacts is not shown to others, nor its hash', async () => {
    await befriend(romeo, juliet)
    await publishAvatar(juliet, PNG, { access_model: 'presence' })
    expect(photoOf(await vcardOf(romeo, juliet.bare))).to.equal(PNG)
    expect(await told(romeo, juliet.jid, hashOf(PNG))).to.equal(hashOf(PNG))
    const nurse = await logIn(tidings, 'nurse', 'a')
    const refused = await vcardOf(nurse, juliet.bare).then(() => undefined, ({ condition }: { condition: string }) => condition)
    expect(refused).to.equal('service-unavailable')
    juliet.send(`<presence to='${nurse.jid}'/>`)
    expect(await told(nurse, juliet.jid)).to.equal(undefined)
    await befriend(nurse, juliet)
    juliet.send(`<presence to='${nurse.jid}'/>`)
    expect(await told(nurse, juliet.jid, hashOf(PNG))).to.equal(hashOf(PNG))
    nurse.destroy()
  })

  it('XEP-0398 §3.1: takes the image that is not at a URL, and only one that matches its hash', async () => {
    const id = hashOf(PNG)
    await publish(juliet, AVATAR_DATA, `<item id='${id}'><data xmlns='${AVATAR_DATA}'>${PNG}</data></item>`, OPEN)
    await publish(juliet, AVATAR_METADATA, `<item id='${id}'><metadata xmlns='${AVATAR_METADATA}'><info id='${hashOf(GIF)}' bytes='1' type='image/gif' url='https://example.org/a.gif'/><info id='${id}' bytes='1' type='image/png'/></metadata></item>`, OPEN)
    expect(photoOf(await vcardOf(juliet))).to.equal(PNG)
    await publish(juliet, AVATAR_DATA, `<item id='${hashOf(GIF)}'><data xmlns='${AVATAR_DATA}'>${PNG}</data></item>`, OPEN)
    await publish(juliet, AVATAR_METADATA, `<item id='${hashOf(GIF)}'><metadata xmlns='${AVATAR_METADATA}'><info id='${hashOf(GIF)}' bytes='1' type='image/gif'/></metadata></item>`, OPEN)
    expect(photoOf(await vcardOf(juliet))).to.equal(undefined)
  })

  it('XEP-0398 §3.2, XEP-0084 §3.5: a photo in the vCard is published, and withdrawn with it; once for each change', async () => {
    await befriend(romeo, juliet)
    await setVcard(juliet, `<FN>Juliet</FN>${photo(GIF, 'image/x-wrong')}`)
    const event = await eventOf(romeo, AVATAR_METADATA)
    const item = event.getChild('item')
    expect(item?.attrs['id']).to.equal(hashOf(GIF))
    expect(item?.getChild('metadata', AVATAR_METADATA)?.getChild('info')?.attrs).to.deep.equal({ id: hashOf(GIF), bytes: '13', type: 'image/gif', width: '2', height: '3' })
    const [data] = await items(romeo, AVATAR_DATA, juliet.bare)
    expect(data?.attrs['id']).to.equal(hashOf(GIF))
    expect(data?.getChildText('data', AVATAR_DATA)).to.equal(GIF)
    expect(await told(romeo, juliet.jid, hashOf(GIF))).to.equal(hashOf(GIF))

    await setVcard(juliet, `<FN>Juliet C</FN>${photo(GIF)}`) // the same image
    await setVcard(juliet, '<FN>Juliet</FN>')
    const none = await eventOf(romeo, AVATAR_METADATA)
    expect(none.getChild('item')?.getChild('metadata')?.children).to.deep.equal([])
    expect(photoOf(await vcardOf(juliet))).to.equal(undefined)
    expect(await told(romeo, juliet.jid, '')).to.equal('')
  })

  it('an avatar that is withdrawn or replaced in PEP is no longer in the vCard that had one of its own', async () => {
    await setVcard(juliet, photo(GIF))
    await publishAvatar(juliet, PNG)
    expect(photoOf(await vcardOf(juliet))).to.equal(PNG)
    await retract(juliet, AVATAR_METADATA, hashOf(PNG))
    expect(photoOf(await vcardOf(juliet))).to.equal(undefined)
    expect(await told(juliet, juliet.jid, '')).to.equal('')
  })

  it('XEP-0398 §4: fills an empty update, corrects another hash, and leaves a client that shows no avatar alone', async () => {
    await publishAvatar(juliet, PNG, OPEN)
    await told(juliet, juliet.jid, hashOf(PNG))
    for (const x of ['', '<photo>0123456789012345678901234567890123456789</photo>', `<photo>${hashOf(PNG)}</photo>`]) {
      juliet.send(`<presence><status>${x.length}</status><x xmlns='${UPDATE}'>${x}</x></presence>`)
      const presence = await juliet.receive((stanza) => stanza.name === 'presence' && stanza.getChildText('status') === String(x.length))
      expect(presence.getChildren('x', UPDATE).map((each) => each.getChildText('photo')), x).to.deep.equal([hashOf(PNG)])
    }
    juliet.send(`<presence><status>none</status><x xmlns='${UPDATE}'><photo/></x></presence>`)
    await juliet.receive((stanza) => stanza.getChildText('status') === 'none' && stanza.getChild('x', UPDATE)?.getChildText('photo') === '')
    await publishAvatar(juliet, GIF)
    await juliet.ping()
    expect(juliet.inbox.filter((stanza) => stanza.name === 'presence').map(String)).to.deep.equal([])
  })

  it('the old hash is told until there are metadata of a new image', async () => {
    await publishAvatar(juliet, PNG, OPEN)
    await told(juliet, juliet.jid, hashOf(PNG))
    await publish(juliet, AVATAR_DATA, `<item id='${hashOf(GIF)}'><data xmlns='${AVATAR_DATA}'>${GIF}</data></item>`)
    juliet.send('<presence><status>still</status></presence>')
    expect(await told(juliet, juliet.jid)).to.equal(hashOf(PNG))
    await publishAvatar(juliet, GIF)
    expect(await told(juliet, juliet.jid)).to.equal(hashOf(GIF))
  })

  it('says nothing of avatars for who never had one', async () => {
    juliet.send('<presence><status>x</status></presence>')
    const presence = await juliet.receive((stanza) => stanza.getChildText('status') === 'x')
    expect(presence.getChild('x', UPDATE)).to.equal(undefined)
  })

  it('outlives a restart', async () => {
    await setVcard(juliet, photo(PNG))
    await tidings.restart()
    juliet.destroy()
    juliet = await logIn(tidings, 'juliet', 'b')
    expect(await told(juliet, juliet.jid)).to.equal(hashOf(PNG))
    expect(photoOf(await vcardOf(juliet))).to.equal(PNG)
  })
})

describe('XEP-0153 without mod_avatar', () => {
  it('tells the hash of the photo in the vCard, and says nothing of a conversion', async () => {
    const tidings = await startTestServer({ accounts: { juliet: 'secret' }, config: TEST_CONFIG.replace('  mod_avatar: {}\n', '') })
    const juliet = await logIn(tidings, 'juliet', 'a')
    await juliet.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'><PHOTO><BINVAL>${PNG}</BINVAL></PHOTO></vCard></iq>`)
    const presence = await juliet.receive((stanza) => stanza.name === 'presence' && stanza.getChild('x', UPDATE) !== undefined)
    expect(presence.getChild('x', UPDATE)?.getChildText('photo')).to.equal(hashOf(PNG))
    expect(await accountFeatures(juliet)).not.to.include(CONVERSION)
    juliet.destroy()
    await tidings[Symbol.asyncDispose]()
  })
})

describe('image headers', () => {
  it('tell type and size', () => {
    expect(imageInfo(Buffer.from(PNG, 'base64'))).to.deep.equal({ type: 'image/png', width: 1, height: 1 })
    expect(imageInfo(Buffer.from(GIF, 'base64'))).to.deep.equal({ type: 'image/gif', width: 2, height: 3 })
    const jpeg = Buffer.from('ffd8ffe000044a46ffc0000b08001000200101110000', 'hex')
    expect(imageInfo(jpeg)).to.deep.equal({ type: 'image/jpeg', width: 32, height: 16 })
    expect(imageInfo(jpeg.subarray(0, 11))).to.deep.equal({ type: 'image/jpeg', width: undefined, height: undefined })
    expect(imageInfo(Buffer.from('RIFF    WEBPVP8 '))?.type).to.equal('image/webp')
    expect(imageInfo(Buffer.from('no image'))).to.equal(undefined)
  })
})
