// XEP-0033: Extended Stanza Addressing, version 1.2.1 (2017-01-11)
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import { accessRule, anything, host as hostType, int, list, record, text } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import { defineExtension } from './extension.ts'
import { standalone } from './standalone-element.ts'

const NS = 'http://jabber.org/protocol/address'
const RECIPIENTS = new Set(['to', 'cc', 'bcc'])
const TYPES = new Set([...RECIPIENTS, 'replyto', 'replyroom', 'noreply', 'ofrom'])
/** Addresses of a stanza beyond those that it may be delivered to: answers' addresses, and whom others have delivered it to. */
const OTHERS_MAX = 100
/** In a session: whom it shows its presence through the service. */
const SHOWN = 'multicast'

interface Limits {
  readonly message: number
  readonly presence: number
}

export interface MulticastOptions {
  readonly host: string
  readonly hosts: readonly string[]
  readonly name: string
  readonly access: string
  readonly limits: { readonly local: Limits; readonly remote: Limits }
  readonly vcard: unknown
}

const count = int({ min: 0, infinity: true })
const limitsOf = (usual: number) => record<Limits>({
  message: { type: count, default: usual, help: 'Addresses of a message.' },
  presence: { type: count, default: usual, help: 'Addresses of a presence.' },
})
const LOCAL = { message: 100, presence: 100 }
const REMOTE = { message: 20, presence: 20 }

export const multicast = defineExtension({
  name: 'multicast',
  ejabberd: 'mod_multicast',
  specs: [{ xep: 33, version: '1.2.1', status: 'complete' }],
  needs: ['host', 'router', 'sessions', 'access', 'limits'],
  options: {
    host: { type: hostType(), default: 'multicast.@HOST@', help: 'Domain of the service.' },
    hosts: { type: list(hostType()), default: [] as readonly string[], help: 'Several domains in place of host.' },
    name: { type: text(), default: 'Multicast', help: 'Name of the service in the list of services.' },
    access: { type: accessRule(), default: 'all', help: 'Who may send to several addresses at once.' },
    limits: {
      type: record<MulticastOptions['limits']>({
        local: { type: limitsOf(100), default: LOCAL, help: 'For users of this server: message and presence.' },
        remote: { type: limitsOf(20), default: REMOTE, help: 'For others.' },
      }),
      default: { local: LOCAL, remote: REMOTE },
      help: 'How many addresses one stanza may have: message and presence, for local and remote senders.',
    },
    vcard: { type: anything(), default: undefined, help: 'vCard of the service.', ignored: 'has no effect: the service has no vCard.' },
  },
  start({ host, router, sessions, access, limits: { directedPresences } }, options: MulticastOptions) {
    for (const domain of (options.hosts.length > 0 ? options.hosts : [options.host]).map((each) => each.replaceAll('@HOST@', host))) {
      const { disco } = router.iqService(domain, options.name, (stanza) => {
        if (stanza.name === 'iq' || stanza.to !== domain) return false
        deliver(domain, stanza, sessions.get(stanza.from ?? ''))
        return true
      })
      disco.identity('host', { category: 'service', type: 'multicast', name: options.name })
      disco.feature('host', NS)
    }

    function isLocal(jid: Jid): boolean {
      return access.allows('local', { jid }) || jid.domain === host || jid.domain.endsWith(`.${host}`)
    }

    /** §6 */
    function deliver(domain: string, stanza: Stanza, session: Session | undefined): void {
      if (stanza.type === 'error') return
      const span = stanza.find('addresses', NS)
      if (span === undefined) {
        if (stanza.name === 'message') throw new StanzaError('bad-request', 'a message for several has their addresses')
        if (stanza.type === 'unavailable' && session !== undefined) hide(stanza, session)
        return
      }
      const from = Jid.parse(stanza.from ?? '')
      if (!access.allows(options.access, { jid: from })) throw new StanzaError('forbidden')
      const local = isLocal(from)
      const max = (local ? options.limits.local : options.limits.remote)[stanza.name === 'message' ? 'message' : 'presence']
      const addresses = readAddresses(stanza.childElement(span), max + OTHERS_MAX)
      const recipients = new Map<string, Address>()
      for (const each of addresses) if (each.jid !== undefined && each.isDue && !recipients.has(each.jid.toString())) recipients.set(each.jid.toString(), each)
      if (recipients.size > max) throw new StanzaError('not-acceptable', `at most ${max} addresses`)
      for (const { jid } of recipients.values()) {
        // §2.2: nobody uses this server to reach others. And what comes back to the service would never end.
        if (jid !== undefined && ((!local && !isLocal(jid)) || jid.domain === domain)) throw new StanzaError('forbidden')
      }
      if (stanza.name === 'presence' && stanza.type === undefined && session !== undefined) show(session, [...recipients.keys()])
      const bare = stanza.without((child) => child.name === 'addresses' && child.xmlns === NS)
      const forAll = marked(addresses)
      const open = withAddresses(bare, forAll)
      for (const [to, { type, element }] of recipients) {
        const copy = type === 'bcc' ? withAddresses(bare, forAll + standalone(element).toString()) : open
        router.route(copy.withAttrs({ to }), session === undefined ? {} : { session })
      }
    }

    // §5.1. The server itself tells them when the session ends, as it does with all directed presence.
    function show(session: Session, jids: readonly string[]): void {
      const shown = new Set([...shownBy(session), ...jids])
      session.set(SHOWN, [...shown].slice(-directedPresences))
    }

    function hide(stanza: Stanza, session: Session): void {
      const shown = shownBy(session)
      session.set(SHOWN, undefined)
      for (const to of shown) router.route(stanza.withAttrs({ to }), { session })
    }
  },
})

function shownBy(session: Session): readonly string[] {
  const value = session.get(SHOWN)
  return Array.isArray(value) ? value.map(String) : []
}

interface Address {
  readonly type: string
  readonly jid: Jid | undefined
  /** Whether the stanza is to be delivered there. */
  readonly isDue: boolean
  readonly element: Element
}

/** §4. Throws `not-acceptable` when there are more than `max`, whatever they are for. */
function readAddresses(addresses: Element, max: number): Address[] {
  const elements = addresses.getChildren('address', NS)
  if (elements.length > max) throw new StanzaError('not-acceptable', `at most ${max} addresses of all types`)
  return elements.map((element) => {
    const { type, jid, uri, node, desc, delivered } = element.attrs
    if (type === undefined || !TYPES.has(type)) throw new StanzaError('bad-request', 'an address has a type')
    const isRecipient = RECIPIENTS.has(type)
    if (jid !== undefined && uri !== undefined) throw new StanzaError('bad-request', 'an address has a jid or a uri')
    if (type !== 'noreply' && jid === undefined && uri === undefined && (isRecipient || (node === undefined && desc === undefined))) throw new StanzaError('bad-request', 'an address without a jid')
    const isDue = isRecipient && delivered !== 'true'
    // §4.2, §8: of other systems none is known.
    if (isDue && uri !== undefined) throw new StanzaError('jid-malformed')
    const parsed = jid === undefined ? undefined : Jid.tryParse(jid)
    if (jid !== undefined && parsed === undefined) throw new StanzaError('jid-malformed')
    return { type, jid: parsed, isDue, element }
  })
}

/** §4.5, §4.6.3: as all recipients see them, without those that nobody else is to see; serialised once for all. */
function marked(addresses: readonly Address[]): string {
  return addresses.filter(({ type }) => type !== 'bcc').map(({ isDue, element }) => {
    const copy = standalone(element)
    if (isDue) copy.attrs['delivered'] = 'true'
    return copy.toString()
  }).join('')
}

function withAddresses(stanza: Stanza, addresses: string): Stanza {
  return addresses === '' ? stanza : stanza.append('addresses', NS, `<addresses xmlns='${NS}'>${addresses}</addresses>`)
}
