// XEP-0398: User Avatar to vCard-Based Avatars Conversion 1.0.0 (2024-05-06)
// XEP-0153: vCard-Based Avatars, version 1.1.1 (2024-06-10)
import { createHash } from 'node:crypto'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import { anything, int } from '../config/options.ts'
import { defineExtension, type PersonalNodes } from './extension.ts'

const CONVERSION_NS = 'urn:xmpp:pep-vcard-conversion:0'
const DATA_NS = 'urn:xmpp:avatar:data'
const METADATA_NS = 'urn:xmpp:avatar:metadata'
const UPDATE_NS = 'vcard-temp:x:update'
/** A picture, in base64, that a node can hold. */
const BASE64_MAX = 250_000

export const avatars = defineExtension({
  name: 'avatars',
  ejabberd: 'mod_avatar',
  specs: [
    { xep: 84, version: '1.1.4', status: 'complete' },
    { xep: 398, version: '1.0.0', status: 'complete' },
  ],
  needs: ['host', 'disco', 'hooks', 'pep', 'log'],
  options: {
    convert: { type: anything(), default: undefined as unknown, help: 'Formats to convert pictures between.', ignored: 'has no effect: pictures keep their format.' },
    rate_limit: { type: int(), default: 10, help: 'Conversions of one account each minute.', ignored: 'has no effect: pictures are not converted.' },
  },
  start({ host, disco, hooks, pep, log }) {
    const found = pep.of(host)
    if (found === undefined) return
    const nodes = found
    disco.feature('account', CONVERSION_NS)

    // §3.1, by §6.2: the picture of the nodes is shown in the vCard to whoever may read the nodes.
    hooks.vcardRead((owner, asker, vcard) => {
      if (!nodes.has(owner, METADATA_NS)) return
      const info = currentInfo(nodes, owner)
      const kept = vcard.getChild('PHOTO')
      const readable = nodes.mayRead(owner, METADATA_NS, asker) && nodes.mayRead(owner, DATA_NS, asker)
      // What the owner has published in the vCard itself is for everybody.
      if (!readable && kept !== undefined && hashOf(kept) === info?.attrs['id']) return
      for (const photo of vcard.getChildren('PHOTO')) vcard.remove(photo)
      const picture = readable && info !== undefined ? pictureOf(nodes, owner, info) : undefined
      if (picture !== undefined) vcard.append(xml('PHOTO', null, xml('TYPE', null, info?.attrs['type'] ?? typeOf(Buffer.from(picture, 'base64'))), xml('BINVAL', null, picture)))
    })

    // §3.2
    hooks.vcardWritten((owner, vcard, before) => {
      const photo = vcard.getChild('PHOTO')
      const picture = photo === undefined ? undefined : readPhoto(photo)
      try {
        if (picture !== undefined) publish(owner, picture, photo?.getChildText('TYPE') ?? '')
        else if (photo === undefined && before?.getChild('PHOTO') !== undefined && currentInfo(nodes, owner) !== undefined) {
          nodes.publish(owner, METADATA_NS, 'current', xml('metadata', { xmlns: METADATA_NS })) // XEP-0084 §4.2.3: no avatar
        }
      } catch (error) {
        // The vCard is not refused because its picture does not go into a node.
        if (!(error instanceof StanzaError)) throw error
        log.info({ what: 'avatar_not_converted', owner, condition: error.condition })
      }
    })

    function publish(owner: string, picture: Buffer, type: string): void {
      const id = createHash('sha1').update(picture).digest('hex')
      if (currentInfo(nodes, owner)?.attrs['id'] === id) return
      // A vCard is for everybody; nodes that are there stay as they are.
      const config = (node: string): Record<string, unknown> => (nodes.has(owner, node) ? {} : { access_model: 'open' })
      nodes.publish(owner, DATA_NS, id, xml('data', { xmlns: DATA_NS }, picture.toString('base64')), config(DATA_NS))
      nodes.publish(owner, METADATA_NS, id, xml('metadata', { xmlns: METADATA_NS }, xml('info', { id, bytes: picture.length, type: type.startsWith('image/') ? type : typeOf(picture) })), config(METADATA_NS))
    }
  },
})

export const avatarPresence = defineExtension({
  name: 'avatar-presence',
  ejabberd: 'mod_vcard_xupdate',
  specs: [{ xep: 153, version: '1.1.1', status: 'complete' }],
  needs: ['host', 'hooks', 'pep', 'storage', 'sessions', 'announce'],
  start({ host, hooks, pep, storage, sessions, announce }) {
    const nodes = pep.of(host)
    /** Sessions whose presence the server, and not their client, made say that there is no picture. */
    const without = new WeakSet<Session>()

    /** The hash to show: empty when the account says that it has no picture, undefined when it says nothing. */
    function shown(owner: string, toOne: boolean): string | undefined {
      if (nodes?.has(owner, METADATA_NS) === true) {
        // Rooms and others that get a presence of their own are no contacts.
        if (toOne && nodes.setting(owner, DATA_NS, 'access_model') !== 'open') return undefined
        return currentInfo(nodes, owner)?.attrs['id'] ?? ''
      }
      const kept = storage.records.get(HASHES, [owner])
      return typeof kept === 'string' ? kept : undefined
    }

    // XEP-0398 §4: in broadcast and in directed presence
    hooks.stampOutgoing((delivery) => {
      const { stanza, from, session } = delivery
      if (stanza.name !== 'presence' || stanza.type !== undefined || session === undefined) return
      const hash = shown(from.bare, stanza.to !== undefined)
      if (hash === undefined) return
      const span = stanza.find('x', UPDATE_NS)
      const photo = span === undefined ? undefined : stanza.childElement(span).getChild('photo')
      const said = photo?.getText().trim()
      if (said === hash) return
      if (said === '' && !without.has(session)) return
      if (hash === '') {
        if (said === undefined) return
        without.add(session)
      }
      delivery.stanza = stanza.without(({ name, xmlns }) => name === 'x' && xmlns === UPDATE_NS)
        .append('x', UPDATE_NS, `<x xmlns='${UPDATE_NS}'>${hash === '' ? '<photo/>' : `<photo>${hash}</photo>`}</x>`)
    })

    hooks.vcardWritten((owner, vcard) => {
      const photo = vcard.getChild('PHOTO')
      const hash = photo === undefined ? '' : hashOf(photo)
      if (hash === undefined || storage.records.get(HASHES, [owner]) === hash) return
      storage.records.put(HASHES, [owner], hash)
      if (nodes?.has(owner, METADATA_NS) !== true) tell(owner)
    })
    nodes?.watch(METADATA_NS, ({ owner }) => { tell(owner) })
    hooks.accountRemoved((owner) => { storage.records.delete(HASHES, [owner]) })

    function tell(owner: string): void {
      for (const session of sessions.of(owner)) if (session.presence !== undefined) announce(session)
    }
  },
})

/** Key [owner]; value: the hash of the picture in the vCard, in hex, or empty. */
const HASHES = 'vcard_photo_hash'

/** What the metadata says of the picture that is in the data node (XEP-0084 §4.2.1); undefined when there is none. */
function currentInfo(nodes: PersonalNodes, owner: string): Element | undefined {
  const metadata = [...nodes.items(owner, METADATA_NS).values()].at(-1)
  const info = metadata?.getChildren('info').find((each) => each.attrs['url'] === undefined)
  return /^[0-9a-fA-F]{40}$/.test(info?.attrs['id'] ?? '') ? info : undefined
}

/** The picture in base64, if it is the one that the metadata names. */
function pictureOf(nodes: PersonalNodes, owner: string, info: Element): string | undefined {
  const id = info.attrs['id'] ?? ''
  const picture = nodes.item(owner, DATA_NS, id)?.getText().replaceAll(/\s/g, '')
  if (picture === undefined || picture === '') return undefined
  return createHash('sha1').update(Buffer.from(picture, 'base64')).digest('hex') === id.toLowerCase() ? picture : undefined
}

function readPhoto(photo: Element): Buffer | undefined {
  const text = photo.getChildText('BINVAL')?.replaceAll(/\s/g, '') ?? ''
  if (text === '' || text.length > BASE64_MAX || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return undefined
  return Buffer.from(text, 'base64')
}

function hashOf(photo: Element): string | undefined {
  const picture = readPhoto(photo)
  return picture === undefined ? undefined : createHash('sha1').update(picture).digest('hex')
}

/** By how the file begins. */
function typeOf(picture: Buffer): string {
  if (picture.subarray(0, 3).toString('hex') === 'ffd8ff') return 'image/jpeg'
  if (picture.subarray(0, 4).toString('latin1') === 'GIF8') return 'image/gif'
  if (picture.subarray(8, 12).toString('latin1') === 'WEBP') return 'image/webp'
  return 'image/png'
}
