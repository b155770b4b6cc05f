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
import { anything, int } from '../config/options.ts'
import type { Records } from '../storage/shapes.ts'
import { defineExtension, type PersonalNodes } from './extension.ts'
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

const NO_AVATAR: Avatar = { hash: '', type: '', image: Buffer.alloc(0) }

export const avatars = defineExtension({
  name: 'avatars',
  ejabberd: 'mod_avatar',
  specs: [
    { xep: 84, version: '1.1.4', status: 'complete' },
    { xep: 398, version: '1.0.0', status: 'complete' },
  ],
  needs: ['host', 'disco', 'hooks', 'pep', 'storage', 'log', 'enabled'],
  options: {
    convert: { type: anything(), default: undefined as unknown, help: 'Image formats that are converted, as a map from one to another.', ignored: 'has no effect: images are passed on as they are.' },
    rate_limit: { type: int({ infinity: true }), default: 10, help: 'Images of one user that are converted in a minute.', ignored: 'has no effect: images are passed on as they are.' },
  },
  start({ host, disco, hooks, pep, storage, log, enabled }) {
    const nodes = pep.of(host)
    if (nodes === undefined || !enabled('vcard')) return
    // §4: it says that the hash is in presence as well.
    if (enabled('avatar-presence')) disco.feature('account', CONVERSION)
    let converting = false

    // §3.2
    hooks.vcardWritten((owner, vcard) => {
      const photo = photoOf(vcard)
      const now = personalAvatar(nodes, owner)
      if (photo === undefined || (photo.hash === (now?.hash ?? ''))) return
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
      const now = personalAvatar(nodes, owner)
      if (now === undefined) return
      for (const photo of vcard.getChildren('PHOTO')) vcard.remove(photo)
      if (now.hash === '' || !mayReadAvatar(nodes, owner, asker)) return
      vcard.append(xml('PHOTO', null, xml('TYPE', null, now.type), xml('BINVAL', null, now.image.toString('base64'))))
    })
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
  if (metadata === undefined) return undefined
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
  return { hash: sha1(image), type: imageInfo(image)?.type ?? photo.getChild('TYPE', VCARD)?.text().trim() ?? 'image/png', image }
}

function publish(nodes: PersonalNodes, owner: string, { hash, type, image }: Avatar): void {
  const size = imageInfo(image)
  nodes.publish(owner, DATA, hash, xml('data', { xmlns: DATA }, image.toString('base64')), accessOf(nodes, owner, DATA))
  const info = xml('info', { id: hash, bytes: image.length, type, width: size?.width, height: size?.height })
  nodes.publish(owner, METADATA, hash, xml('metadata', { xmlns: METADATA }, info), accessOf(nodes, owner, METADATA))
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
