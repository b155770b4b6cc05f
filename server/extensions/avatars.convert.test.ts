import { createHash } from 'node:crypto'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { parseOptions } from '../config/options.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { canConvert } from './avatars/converter.ts'
import { noise, picture } from './avatars/pictures.fixture.ts'
import { avatars } from './avatars.ts'
import { imageInfo } from './image-info.ts'
import { befriend, items, logIn, publish } from './personal-clients.ts'

const DATA = 'urn:xmpp:avatar:data'
const EVENT = 'http://jabber.org/protocol/pubsub#event'
const METADATA = 'urn:xmpp:avatar:metadata'
const UPDATE = 'vcard-temp:x:update'
const sha1 = (image: Buffer): string => createHash('sha1').update(image).digest('hex')

describe('avatars in the formats that the operator wants', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  const publishData = (image: Buffer): Promise<Element> => publish(juliet, DATA, `<item id='${sha1(image)}'><data xmlns='${DATA}'>${image.toString('base64')}</data></item>`)
  function publishMetadata(image: Buffer, more = ''): Promise<Element> {
    const id = sha1(image)
    return publish(juliet, METADATA, `<item id='${id}'><metadata xmlns='${METADATA}'><info id='${id}' bytes='${image.length}' type='${imageInfo(image)?.type ?? ''}'/>${more}</metadata></item>`)
  }
  async function publishAvatar(image: Buffer): Promise<void> {
    await publishData(image)
    await publishMetadata(image)
  }
  const setVcard = (inner: string): Promise<Element> => juliet.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'>${inner}</vCard></iq>`)
  const photo = (image: Buffer): string => `<PHOTO><TYPE>image/x-wrong</TYPE><BINVAL>${image.toString('base64')}</BINVAL></PHOTO>`
  const condition = (answer: Promise<unknown>): Promise<string> => answer.then(() => 'none', (error: { condition: string }) => error.condition)
  const metadataSeen = (): Element[] => romeo.inbox.flatMap((stanza) => {
    const event = stanza.find('event', EVENT)
    return event === undefined ? [] : stanza.childElement(event).getChild('items')?.getChildren('item') ?? []
  })

  /** What everybody sees of Juliet's avatar is the same image, of this type and size. */
  async function expectAvatar(type: string, width: number, size: 'size' | 'no size' = 'size'): Promise<Buffer> {
    const [data] = await items(romeo, DATA, juliet.bare)
    const image = Buffer.from(data?.getChildText('data', DATA) ?? '', 'base64')
    const id = sha1(image)
    expect(imageInfo(image)).to.include({ type, width })
    expect(data?.attrs['id']).to.equal(id)
    const metadata = await items(romeo, METADATA, juliet.bare)
    expect(metadata.map(({ attrs }) => attrs['id'])).to.deep.equal([id])
    expect(metadata[0]?.getChild('metadata')?.getChildren('info')[0]?.attrs).to.deep.equal({ id, bytes: String(image.length), type, ...(size === 'size' ? { width: String(width), height: String(imageInfo(image)?.height) } : {}) })
    const vcard = (await romeo.sendIq(`<iq type='get' to='${juliet.bare}'><vCard xmlns='vcard-temp'/></iq>`)).getChild('vCard', 'vcard-temp')
    const shown = vcard?.getChildren('PHOTO') ?? []
    expect(shown.map((each) => [each.getChildText('TYPE'), each.getChildText('BINVAL')])).to.deep.equal([[type, image.toString('base64')]])
    juliet.send(`<presence to='${romeo.jid}'/>`)
    const presence = await romeo.receive((stanza) => stanza.name === 'presence' && stanza.attrs['from'] === juliet.jid && stanza.attrs['to'] === romeo.jid)
    expect(presence.getChild('x', UPDATE)?.getChildText('photo')).to.equal(id)
    return image
  }

  before(function () {
    if (!canConvert()) this.skip()
  })
  beforeEach(async () => {
    tidings = await startTestServer({
      accounts: { romeo: 'secret', juliet: 'secret' },
      config: TEST_CONFIG.replace('mod_avatar: {}', 'mod_avatar: { convert: { webp: jpg, default: png }, rate_limit: 3 }'),
    })
    romeo = await logIn(tidings, 'romeo', 'a', [METADATA])
    juliet = await logIn(tidings, 'juliet', 'a')
    await befriend(romeo, juliet)
    romeo.inbox.length = 0
  })
  afterEach(async () => {
    romeo.destroy()
    juliet.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('reads the rules of ejabberd, and refuses formats that it does not know', () => {
    const read = (convert: unknown): unknown => parseOptions(avatars.options as never, { convert }, { option: 'x' })
    expect(read({ webp: 'jpg', jpg: 'png', default: 'gif' })).to.deep.equal({ options: { convert: new Map([['webp', 'jpeg'], ['jpeg', 'png'], ['default', 'gif']]), rate_limit: 10 }, problems: [] })
    expect(read([])).to.deep.equal({ options: { convert: new Map(), rate_limit: 10 }, problems: [] })
    for (const wrong of [{ tiff: 'png' }, { png: 'tiff' }, 'png']) expect((read(wrong) as { problems: { level: string }[] }).problems.map(({ level }) => level), JSON.stringify(wrong)).to.deep.equal(['error'])
  })

  it('an avatar that is published is converted before anybody sees it, and published once', async () => {
    const image = await picture('webp', 40, 30)
    await publishData(image)
    const answer = await publishMetadata(image, "<info id='other' bytes='9' type='image/png' url='https://example.org/a.png'/>")
    const converted = await expectAvatar('image/jpeg', 40)
    expect(answer.getChild('pubsub')?.getChild('publish')?.getChild('item')?.attrs['id']).to.equal(sha1(converted))
    const seen = metadataSeen()
    expect(seen.map(({ attrs }) => attrs['id'])).to.deep.equal([sha1(converted)])
    expect(seen[0]?.getChild('metadata')?.getChildren('info').map(({ attrs }) => attrs['id'])).to.deep.equal([sha1(converted), 'other'])
  })

  it('a photo in a vCard is converted before anybody sees it, and published once; the rest of the vCard stays', async () => {
    await setVcard(`<FN>Juliet</FN>${photo(await picture('gif', 20, 10))}<NICKNAME>J</NICKNAME>`)
    const converted = await expectAvatar('image/png', 20)
    expect(metadataSeen().map(({ attrs }) => attrs['id'])).to.deep.equal([sha1(converted)])
    const vcard = (await juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp'/></iq>")).getChild('vCard', 'vcard-temp')
    expect([vcard?.getChildText('FN'), vcard?.getChildText('NICKNAME')]).to.deep.equal(['Juliet', 'J'])
  })

  it('what has its format already stays as it is, byte for byte', async () => {
    const image = await picture('png', 20, 10)
    await publishAvatar(image)
    const [data] = await items(romeo, DATA, juliet.bare)
    expect(data?.attrs['id']).to.equal(sha1(image))
    expect(metadataSeen().map(({ attrs }) => attrs['id'])).to.deep.equal([sha1(image)])
  })

  it('a second avatar that comes while the first is converted is the one that stays, whatever it is', async () => {
    const slow = await noise('webp', 300, 300)
    for (const [second, type] of [[await picture('webp', 50, 50), 'image/jpeg'], [await picture('png', 60, 60), 'image/png']] as const) {
      const first = publishAvatar(slow)
      await publishData(slow)
      const converting = publishMetadata(slow)
      await Promise.all([converting, publishAvatar(second), first])
      await expectAvatar(type, imageInfo(second)?.width ?? 0, type === 'image/png' ? 'no size' : 'size') // as its client said it
    }
  })

  it('a vCard that comes while the one before is converted is the one that stays', async () => {
    const first = setVcard(`<FN>First</FN>${photo(await noise('webp', 300, 300))}`)
    await Promise.all([first, setVcard(`<FN>Second</FN>${photo(await picture('png', 70, 70))}`)])
    await expectAvatar('image/png', 70)
    const slow = setVcard(`<FN>Third</FN>${photo(await noise('webp', 300, 300))}`)
    await Promise.all([slow, setVcard('<FN>Fourth</FN>')])
    const vcard = (await romeo.sendIq(`<iq type='get' to='${juliet.bare}'><vCard xmlns='vcard-temp'/></iq>`)).getChild('vCard', 'vcard-temp')
    expect([vcard?.getChildText('FN'), vcard?.getChild('PHOTO')]).to.deep.equal(['Fourth', undefined])
  })

  it('metadata that may not be published leave the image that was there', async () => {
    const old = await picture('png', 20, 10)
    await publishAvatar(old)
    const image = await picture('webp', 40, 30)
    const item = `<item id='${sha1(image)}'><metadata xmlns='${METADATA}'><info id='${sha1(image)}' bytes='1' type='image/webp'/></metadata></item>`
    await publishData(image)
    expect(await condition(publish(juliet, METADATA, item, { access_model: 'whitelist' }))).to.equal('conflict')
    expect((await items(romeo, DATA, juliet.bare)).map(({ attrs }) => attrs['id'])).to.deep.equal([sha1(image)])
  })

  it('what should be converted and cannot be is refused, and changes nothing', async () => {
    const broken = (await noise('webp', 50, 50)).subarray(0, 2000)
    await publishData(broken)
    expect(await condition(publishMetadata(broken))).to.equal('not-acceptable')
    expect(await condition(setVcard(`<FN>J</FN>${photo(broken)}`))).to.equal('not-acceptable')
    await romeo.ping()
    expect(metadataSeen()).to.deep.equal([])
    expect(await condition(juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp'/></iq>"))).to.equal('none')
  })

  it('so many are converted in a minute; those of others do not count', async () => {
    for (const width of [1, 2, 3]) await setVcard(photo(await picture('webp', width, 9)))
    const fourth = photo(await picture('webp', 4, 9))
    expect(await condition(setVcard(fourth))).to.equal('resource-constraint')
    await expectAvatar('image/jpeg', 3)
    expect(await condition(romeo.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'>${fourth}</vCard></iq>`))).to.equal('none')
    expect(await condition(setVcard(photo(await picture('png', 5, 9))))).to.equal('none')
    await expectAvatar('image/png', 5)
  })

  it('an account that is removed meanwhile leaves nothing behind', async () => {
    const converting = setVcard(photo(await noise('webp', 300, 300))).catch(() => undefined)
    await juliet.ping()
    await tidings.server.unregister('juliet@localhost')
    juliet.destroy()
    await converting
    await tidings.server.register('juliet@localhost', 'secret')
    juliet = await logIn(tidings, 'juliet', 'b')
    const vcard = (await juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp'/></iq>")).getChild('vCard', 'vcard-temp')
    expect(vcard?.children).to.deep.equal([])
    expect(await condition(items(juliet, DATA))).to.equal('item-not-found')
  })
})
