// XEP-0084: User Avatar, version 1.1.4 (2019-09-20)
// XEP-0398: User Avatar to vCard-Based Avatars Conversion, version 1.0.0 (2024-05-06)
// XEP-0153: vCard-Based Avatars, version 1.1.1 (2024-06-10)
import { createHash } from 'node:crypto'
import type { Jid } from '../../lib/jid.ts'
import { Recent } from '../../lib/recent.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { int, map, oneOf, OptionError, type OptionType } from '../config/options.ts'
import type { Records } from '../storage/shapes.ts'
import { type Conversions, type ConversionRules, createConversions } from './avatars/conversions.ts'
import { canConvert, createConverter } from './avatars/converter.ts'
import { IMAGE_FORMATS } from './avatars/converter-work.ts'
import { defineExtension, type PersonalItem, type PersonalNodes } from './extension.ts'
import { imageInfo } from './image-info.ts'
import { VCARD_TABLE } from './vcard.ts'

const DATA = 'urn:xmpp:avatar:data'
const METADATA = 'urn:xmpp:avatar:metadata'
const CONVERSION = 'urn:xmpp:pep-vcard-conversion:0'
const VCARD = 'vcard-temp'
const UPDATE = 'vcard-temp:x:update'
/** Of a session: its client says that it shows no avatar (XEP-0398 §4). */
const OWN_CHOICE = 'no avatar'
const ACCOUNTS_MAX = 20_000
/** Images that metadata may name before one of them is there (XEP-0084 §4.2.1). */
const IMAGES_MAX = 10

/** An image with the hash under which clients keep it. */
interface Avatar {
  /** SHA-1 in hexadecimal; empty when the account says that it has no avatar, or the image is not there. */
  readonly hash: string
  readonly type: string
  readonly image: Buffer
}

/** ejabberd's name of the rule for formats that no other names; `jpg` stands for `jpeg`. */
const SOURCES: readonly string[] = ['default', 'jpg', ...IMAGE_FORMATS]

function conversionRules(): OptionType<ConversionRules> {
  const rules = map(oneOf('jpg', ...IMAGE_FORMATS))
  const expects = `a map from ${SOURCES.join(', ')} to ${SOURCES.slice(1).join(', ')}`
  const named = <Name extends string>(name: Name): Exclude<Name, 'jpg'> | 'jpeg' => (name === 'jpg' ? 'jpeg' : name as Exclude<Name, 'jpg'>)
  return {
    expects,
    parse(node) {
      const entries = [...rules.parse(node)]
      const wrong = entries.find(([from]) => !SOURCES.includes(from))
      if (wrong !== undefined) throw new OptionError(node, `"${wrong[0]}" is not allowed here; expected ${expects}.`)
      return new Map(entries.map(([from, to]) => [named(from), named(to)]))
    },
  }
}

const NO_AVATAR: Avatar = { hash: '', type: '', image: Buffer.alloc(0) }

export const avatars = defineExtension({
  name: 'avatars',
  ejabberd: 'mod_avatar',
  specs: [
    { xep: 84, version: '1.1.4', status: 'complete' },
    { xep: 398, version: '1.0.0', status: 'complete' },
  ],
  needs: ['host', 'disco', 'hooks', 'pep', 'pin', 'storage', 'log', 'now', 'enabled', 'lasting'],
  options: {
    convert: {
      type: conversionRules(),
      default: new Map() as ConversionRules,
      help: 'Image formats that are converted, as a map from one to another; default: all that are not named.',
      ignored: () => (canConvert() ? undefined : 'has no effect: the package sharp, which converts images, is not there or cannot be loaded here.'),
    },
    rate_limit: { type: int({ min: 1, infinity: true }), default: 10, help: 'Images of one user that are converted in a minute.' },
  },
  start({ host, disco, hooks, pep, pin, storage, log, now, enabled, lasting }, { convert, rate_limit: perMinute }) {
    const nodes = pep.of(host)
    if (nodes === undefined || !enabled('vcard')) return
    // §4: it says that the hash is in presence as well.
    if (enabled('avatar-presence')) disco.feature('account', CONVERSION)
    let converting = false

    // §3.2
    hooks.vcardWritten((owner, vcard) => {
      const photo = photoOf(vcard)
      const before = personalAvatar(nodes, owner)
      if (photo === undefined || (photo.hash === (before?.hash ?? ''))) return
      converting = true
      try {
        if (photo.hash === '') nodes.publish(owner, METADATA, randomId(), xml('metadata', { xmlns: METADATA })) // XEP-0084 §3.5
        else publish(nodes, owner, photo)
      } catch (error) {
        if (!(error instanceof StanzaError)) throw error
        log.warn({ what: 'avatar_not_converted', owner, error: error.condition })
      } finally {
        converting = false
      }
    })

    // What the vCard says of its own is out of date, and not for everybody who reads the vCard.
    nodes.watch(METADATA, ({ owner }) => { if (!converting) dropPhoto(storage.records, owner) })

    // §3.1 and §7: the image is put into the vCard as it is read, for those who may read the nodes.
    hooks.vcardRead((owner, asker, vcard) => {
      const shown = personalAvatar(nodes, owner)
      if (shown === undefined) return
      for (const photo of vcard.getChildren('PHOTO')) vcard.remove(photo)
      if (shown.hash === '' || !mayReadAvatar(nodes, owner, asker)) return
      vcard.append(photoElement(shown))
    })
    if (convert.size === 0 || !canConvert()) return undefined

    const converter = lasting('avatar converter', () => createConverter())
    const conversions = createConversions({ rules: convert, perMinute, converter, now, pin })
    hooks.accountRemoved((owner) => { conversions.forget(owner) })
    hooks.vcardWriting((owner, vcard) => {
      const photo = photoOf(vcard)
      if (!conversions.busy(owner) && (photo === undefined || !conversions.concerns(photo.image))) return undefined
      return conversions.inTurn(owner, async () => {
        if (photo === undefined || !conversions.concerns(photo.image)) return
        const image = await conversions.converted(owner, photo.image)
        for (const old of vcard.getChildren('PHOTO')) vcard.remove(old)
        vcard.append(photoElement(avatarOf(image, photo.type)))
      })
    })
    nodes.prepare(METADATA, (owner, item) => {
      const avatar = shownBy(nodes, owner, item.payload)
      if (!conversions.busy(owner) && !conversions.concerns(avatar.image)) return undefined
      return conversions.inTurn(owner, () => preparePublication(nodes, conversions, owner, item))
    })
    return () => { converter.close() }
  },
})

export const avatarPresence = defineExtension({
  name: 'avatar-presence',
  ejabberd: 'mod_vcard_xupdate',
  specs: [{ xep: 153, version: '1.1.1', status: 'complete', note: 'the server tells the hash on behalf of its users' }],
  needs: ['host', 'hooks', 'pep', 'storage', 'sessions', 'announce', 'log', 'enabled'],
  start({ host, hooks, pep, storage, sessions, announce, log, enabled }) {
    const nodes = enabled('avatars') ? pep.of(host) : undefined
    /** By account. An empty hash: it has no avatar; undefined: nothing is known of one. `personal`: it is in the account's nodes. */
    const known = new Recent<{ readonly hash: string | undefined; readonly personal: boolean }>(ACCOUNTS_MAX)

    hooks.released((units) => { for (const unit of units) known.delete(unit) })

    function current(owner: string): { readonly hash: string | undefined; readonly personal: boolean } {
      let found = known.get(owner)
      if (found === undefined) {
        const personal = nodes === undefined ? undefined : personalAvatar(nodes, owner)
        const vcard = personal === undefined ? storedVcard(storage.records, owner) : undefined
        found = { hash: personal?.hash ?? (vcard && photoOf(vcard)?.hash), personal: personal !== undefined }
        known.set(owner, found)
      }
      return found
    }

    /** The hash for a recipient, or for all contacts. Contacts who may not see the image are told that there is none, others nothing. */
    function hashFor(owner: string, to: Jid | undefined): string | undefined {
      const { hash, personal } = current(owner)
      if (nodes === undefined || !personal || hash === undefined || hash === '') return hash
      const seen = to === undefined
        ? [DATA, METADATA].every((node) => ['open', 'presence'].includes(String(nodes.setting(owner, node, 'access_model'))))
        : mayReadAvatar(nodes, owner, to)
      if (seen) return hash
      return to === undefined ? '' : undefined
    }

    /** Tells contacts what is new, once it is on stable storage. */
    function changed(owner: string): void {
      known.delete(owner)
      storage.committed().then(() => {
        for (const session of sessions.of(owner)) {
          const { presence } = session
          if (presence === undefined || session.get(OWN_CHOICE) === true) continue
          if ((photoIn(presence) ?? '') !== (hashFor(owner, undefined) ?? '')) announce(session)
        }
      }).catch((error: unknown) => { log.error({ what: 'avatar_not_announced', owner, error: String(error) }) })
    }

    // XEP-0398 §4
    hooks.stampOutgoing((delivery) => {
      const { stanza, from, session } = delivery
      if (stanza.name !== 'presence' || stanza.type !== undefined || session === undefined) return
      const broadcast = stanza.to === undefined
      const again = broadcast && stanza === session.presence
      if (again ? session.get(OWN_CHOICE) === true : hasEmptyPhoto(stanza)) {
        if (broadcast && !again) session.set(OWN_CHOICE, true)
        return
      }
      if (broadcast && !again && session.get(OWN_CHOICE) !== undefined) session.set(OWN_CHOICE, undefined)
      const hash = hashFor(from.bare, broadcast ? undefined : delivery.to)
      const told = stanza.has('x', UPDATE)
      if (hash === undefined && !told) return
      if (told && hash !== undefined && hash !== '' && photoIn(stanza) === hash) return
      delivery.stanza = stanza.without((child) => child.name === 'x' && child.xmlns === UPDATE)
        .append('x', UPDATE, `<x xmlns='${UPDATE}'>${hash === undefined || hash === '' ? '<photo/>' : `<photo>${hash}</photo>`}</x>`)
    })

    hooks.vcardWritten((owner) => { changed(owner) })
    hooks.accountRemoved((owner) => { known.delete(owner) })
    nodes?.watch(METADATA, ({ owner }) => { changed(owner) })
    // The image comes before its metadata (XEP-0084 §3.1): until these are there, the avatar is what it was.
    nodes?.watch(DATA, ({ owner }) => { if (known.get(owner)?.hash === '' || nodes.newest(owner, DATA) === undefined) changed(owner) })
  },
})

/** The avatar in an account's nodes; undefined when nothing is said there. An image that does not match its hash is none. */
function personalAvatar(nodes: PersonalNodes, owner: string): Avatar | undefined {
  if (!nodes.has(owner, METADATA)) return undefined
  const metadata = nodes.newest(owner, METADATA)
  return metadata && shownBy(nodes, owner, metadata)
}

/** The image that metadata show of those in the account's node. */
function shownBy(nodes: PersonalNodes, owner: string, metadata: Element): Avatar {
  const here = metadata.getChildren('info', METADATA).filter(({ attrs }) => attrs['url'] === undefined)
  for (const { attrs: { id, type } } of here.slice(0, IMAGES_MAX)) {
    if (id === undefined) continue
    const image = decoded(nodes.item(owner, DATA, id)?.text() ?? '')
    if (image === undefined || image.length === 0) continue
    const hash = sha1(image)
    if (hash === id.toLowerCase()) return { hash, type: type ?? imageInfo(image)?.type ?? 'image/png', image }
  }
  return NO_AVATAR
}

/**
 * Converts the image that metadata show. Both are published in the same turn, under the hash of the result; what else the metadata name stays
 * when it is at a URL. When another image has come into the node meanwhile, there are metadata of that to come, and these say what they said.
 */
async function preparePublication(nodes: PersonalNodes, conversions: Conversions, owner: string, item: PersonalItem): Promise<() => PersonalItem> {
  const before = shownBy(nodes, owner, item.payload)
  if (!conversions.concerns(before.image)) return () => item
  const image = await conversions.converted(owner, before.image)
  return () => {
    if (image === before.image || shownBy(nodes, owner, item.payload).hash !== before.hash) return item
    const after = avatarOf(image, before.type)
    nodes.publish(owner, DATA, after.hash, dataElement(after))
    const elsewhere = item.payload.getChildren('info', METADATA).filter(({ attrs }) => attrs['url'] !== undefined)
    return { id: after.hash, payload: xml('metadata', { xmlns: METADATA }, infoElement(after), elsewhere) }
  }
}

/** Whether somebody may read both nodes. */
function mayReadAvatar(nodes: PersonalNodes, owner: string, asker: Jid): boolean {
  return nodes.has(owner, DATA) && nodes.mayRead(owner, DATA, asker) && nodes.mayRead(owner, METADATA, asker)
}

/** The image in a vCard (XEP-0153 §4.5, §5); undefined when there is a photo that is not an image in base64. */
function photoOf(vcard: Element): Avatar | undefined {
  const photo = vcard.getChild('PHOTO', VCARD)
  if (photo === undefined) return NO_AVATAR
  if (photo.getChild('EXTVAL', VCARD) !== undefined) return undefined
  const image = decoded(photo.getChild('BINVAL', VCARD)?.text() ?? '')
  if (image === undefined) return undefined
  if (image.length === 0) return NO_AVATAR
  return avatarOf(image, photo.getChild('TYPE', VCARD)?.text().trim() ?? 'image/png')
}

/** `type`: of an image that does not say it itself. */
function avatarOf(image: Buffer, type: string): Avatar {
  return { hash: sha1(image), type: imageInfo(image)?.type ?? type, image }
}

function publish(nodes: PersonalNodes, owner: string, avatar: Avatar): void {
  nodes.publish(owner, DATA, avatar.hash, dataElement(avatar), accessOf(nodes, owner, DATA))
  nodes.publish(owner, METADATA, avatar.hash, xml('metadata', { xmlns: METADATA }, infoElement(avatar)), accessOf(nodes, owner, METADATA))
}

function dataElement({ image }: Avatar): Element {
  return xml('data', { xmlns: DATA }, image.toString('base64'))
}

function infoElement({ hash, type, image }: Avatar): Element {
  const size = imageInfo(image)
  return xml('info', { id: hash, bytes: image.length, type, width: size?.width, height: size?.height })
}

function photoElement({ type, image }: Avatar): Element {
  return xml('PHOTO', null, xml('TYPE', null, type), xml('BINVAL', null, image.toString('base64')))
}

/** The configuration of a node that is to be made: like the other one, or open as the vCard is. */
function accessOf(nodes: PersonalNodes, owner: string, node: string): Record<string, unknown> | undefined {
  if (nodes.has(owner, node)) return undefined
  const other = node === DATA ? METADATA : DATA
  if (!nodes.has(owner, other)) return { access_model: 'open' }
  return Object.fromEntries(['access_model', 'roster_groups_allowed'].map((field) => [field, nodes.setting(owner, other, field)]))
}

/** The vCard as it is stored. */
function storedVcard(records: Records, owner: string): Element | undefined {
  const stored = records.get(VCARD_TABLE, [owner])
  return typeof stored === 'string' ? buildElement(Buffer.from(stored)) : undefined
}

function dropPhoto(records: Records, owner: string): void {
  const vcard = storedVcard(records, owner)
  const photos = vcard?.getChildren('PHOTO') ?? []
  if (vcard === undefined || photos.length === 0) return
  for (const photo of photos) vcard.remove(photo)
  records.put(VCARD_TABLE, [owner], vcard.toString())
}

/** RFC 4648 §4 with white space; undefined when it is something else. */
function decoded(text: string): Buffer | undefined {
  const base64 = text.replace(/\s+/g, '')
  return /^[A-Za-z0-9+/]*={0,2}$/.test(base64) ? Buffer.from(base64, 'base64') : undefined
}

function sha1(image: Buffer): string {
  return createHash('sha1').update(image).digest('hex')
}

/** The text of the photo element; undefined when there is none. */
function photoIn(stanza: Stanza): string | undefined {
  const child = stanza.find('x', UPDATE)
  return child === undefined ? undefined : stanza.childElement(child).getChild('photo', UPDATE)?.text().trim()
}

function hasEmptyPhoto(stanza: Stanza): boolean {
  return photoIn(stanza) === ''
}
