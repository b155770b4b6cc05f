// XEP-0356: Privileged Entity, version 0.4.1 (2023-04-24)
import { Jid } from '../../lib/jid.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { CLIENT_NS, makeStanza, stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { accessRule, map, record } from '../config/options.ts'
import type { RosterChange } from '../sessions/rosters.ts'
import type { Session } from '../sessions/session.ts'
import { defineExtension, type IqRequest, type Parts } from './extension.ts'

const NS = 'urn:xmpp:privilege:2'
/** Of versions before 0.4; without requests on behalf of users. */
const OLD_NS = 'urn:xmpp:privilege:1'
const FORWARD_NS = 'urn:xmpp:forward:0'
const ROSTER_NS = 'jabber:iq:roster'
const ANSWER_MS = 30_000
/** To the home of an account: a component sends a message in its name. */
const SENT = 'privileged message'

/** Who may do what: access rules. */
interface Kinds {
  both: string
  get: string
  set: string
}

const kinds = {
  both: { type: accessRule(), default: 'none', help: 'Who may do both.' },
  get: { type: accessRule(), default: 'none', help: 'Who may read.' },
  set: { type: accessRule(), default: 'none', help: 'Who may change.' },
} as const
const NOBODY: Kinds = { both: 'none', get: 'none', set: 'none' }

export interface PrivilegeOptions {
  roster: Kinds
  iq: ReadonlyMap<string, Kinds>
  message: { outgoing: string }
  presence: { managed_entity: string; roster: string }
}

type Access = 'none' | 'get' | 'set' | 'both'

/** What a component is granted. */
interface Permissions {
  readonly roster: Access
  readonly message: 'none' | 'outgoing'
  readonly presence: 'none' | 'managed_entity' | 'roster'
  /** By namespace. */
  readonly iq: ReadonlyMap<string, Access>
}

export const privilegedEntity = defineExtension({
  name: 'privileged-entity',
  ejabberd: 'mod_privilege',
  specs: [{ xep: 356, version: '0.4.1', status: 'partial', note: 'components; of contacts elsewhere they learn what comes while they are connected' }],
  needs: ['host', 'iq', 'hooks', 'router', 'components', 'sessions', 'rosters', 'accounts', 'access', 'here', 'log'],
  options: {
    roster: { type: record<Kinds>(kinds), default: NOBODY, help: 'Which components may read and change the rosters of users.' },
    iq: { type: map(record<Kinds>(kinds)), default: new Map() as ReadonlyMap<string, Kinds>, help: 'By namespaces: which components may send requests of these in the name of users.' },
    message: { type: record<{ outgoing: string }>({ outgoing: { type: accessRule(), default: 'none', help: 'Who may send.' } }), default: { outgoing: 'none' }, help: 'Which components may send messages in the name of users and of the host.' },
    presence: {
      type: record<{ managed_entity: string; roster: string }>({ managed_entity: { type: accessRule(), default: 'none', help: 'Who hears of users.' }, roster: { type: accessRule(), default: 'none', help: 'Who hears of their contacts too.' } }),
      default: { managed_entity: 'none', roster: 'none' }, help: 'Which components hear when users come and go; with `roster` also their contacts, if they may read rosters.',
    },
  },
  start(parts, options: PrivilegeOptions) {
    return startPrivileges(parts, options)
  },
})

type Needed = Pick<Parts, 'host' | 'iq' | 'hooks' | 'router' | 'components' | 'sessions' | 'rosters' | 'accounts' | 'access' | 'here' | 'log'>

function startPrivileges({ host, iq, hooks, router, components, sessions, rosters, accounts, access, here, log }: Needed, options: PrivilegeOptions): () => void {
  const isAllowed = (rule: string, jid: Jid): boolean => rule !== 'none' && access.allows(rule, { jid })
  const accessOf = (jid: Jid, rules: Kinds): Access => {
    if (isAllowed(rules.both, jid)) return 'both'
    const [get, set] = [isAllowed(rules.get, jid), isAllowed(rules.set, jid)]
    return get ? (set ? 'both' : 'get') : set ? 'set' : 'none'
  }
  /** Undefined for whoever is no component that is connected, and for one that has none. */
  function permissionsOf(jid: Jid): Permissions | undefined {
    if (jid.local !== '' || jid.resource !== '' || !components.isConnected(jid.domain)) return undefined
    const roster = accessOf(jid, options.roster)
    const granted: Permissions = {
      roster,
      message: isAllowed(options.message.outgoing, jid) ? 'outgoing' : 'none',
      // §7.2: what contacts say is for who may read rosters alone.
      presence: isAllowed(options.presence.roster, jid) && (roster === 'get' || roster === 'both') ? 'roster' : isAllowed(options.presence.managed_entity, jid) || isAllowed(options.presence.roster, jid) ? 'managed_entity' : 'none',
      iq: new Map(Array.from(options.iq, ([namespace, rules]) => [namespace, accessOf(jid, rules)] as const).filter(([, each]) => each !== 'none')),
    }
    return roster === 'none' && granted.message === 'none' && granted.presence === 'none' && granted.iq.size === 0 ? undefined : granted
  }
  const privileged = (): readonly { readonly domain: string; readonly granted: Permissions }[] =>
    components.domains().flatMap((domain) => {
      const granted = permissionsOf(Jid.parse(domain))
      return granted === undefined ? [] : [{ domain, granted }]
    })

  hooks.componentConnected((domain, tell) => {
    const granted = permissionsOf(Jid.parse(domain))
    if (granted === undefined) return
    if (tell !== undefined) {
      log.info({ what: 'component_privileged', host, domain, roster: granted.roster, message: granted.message, presence: granted.presence, iq: [...granted.iq.keys()] })
      tell(stanzaOf('message', { from: host, to: domain, id: randomId(9) }, advertised(NS, granted), advertised(OLD_NS, granted)))
    }
    // §7.3
    if (granted.presence === 'none') return
    for (const { host: of, jid, presence } of sessions.all()) if (of === host && presence !== undefined) router.route(presence.withAttrs({ from: jid.toString(), to: domain }))
  })

  // --- §4, rosters

  hooks.managesRoster((owner, manager, type) => {
    if (!owner.endsWith(`@${host}`)) return false
    const granted = permissionsOf(manager)
    if (granted === undefined) return false
    if (granted.roster !== 'both' && granted.roster !== type) throw new StanzaError('forbidden')
    return true
  })
  const stop = rosters.onChange((owner, change) => {
    if (!owner.endsWith(`@${host}`) || change.item?.hidden === true) return
    for (const { domain, granted } of privileged()) if (granted.roster === 'get' || granted.roster === 'both') router.route(rosterPush(owner, domain, change), { durable: true })
  })

  // --- §5, messages

  hooks.toHost(({ stanza, from, to }) => {
    const span = stanza.find('privilege', NS) ?? stanza.find('privilege', OLD_NS)
    if (span === undefined || to.domain !== host) return false
    if (permissionsOf(from)?.message !== 'outgoing') throw new StanzaError('forbidden')
    const inner = stanza.childElement(span).getChild('forwarded', FORWARD_NS)?.getChild('message', CLIENT_NS)
    if (inner === undefined) throw new StanzaError('bad-request', 'There is no forwarded message')
    const sender = Jid.tryParse(inner.attrs['from'] ?? '')
    if (sender === undefined || sender.domain !== host || sender.resource !== '') throw new StanzaError('forbidden', 'The message is not from a bare address of this host')
    const message = stanzaOf('message', { ...inner.attrs, xmlns: undefined, from: sender.bare }, ...inner.getChildElements())
    if (sender.local === '') router.route(message)
    else if (here(sender.bare)) send(sender.bare, message, from.domain, stanza.id)
    else router.tell(sender.bare, SENT, from.domain, stanza.id ?? '', message.toString())
    return true
  })
  hooks.told((owner, [word, component = '', id = '', message = '']) => {
    if (word === SENT && owner.endsWith(`@${host}`)) send(owner, readStanza(Buffer.from(message)), component, id)
  })

  /** At the home of the account. */
  function send(owner: string, message: Stanza, component: string, id: string | undefined): void {
    if (accounts.exists(owner) !== false) return router.route(message)
    router.route(stanzaOf('message', { type: 'error', from: host, to: component, id: id === '' ? undefined : id }, xml('error', { type: 'auth' }, xml('forbidden', { xmlns: 'urn:ietf:params:xml:ns:xmpp-stanzas' }))))
  }

  // --- §6, requests

  const answer = async ({ stanza, payload, from, to }: IqRequest): Promise<Element> => {
    const inner = payload.getChild('iq')
    const type = stanza.type as 'get' | 'set'
    const namespace = inner?.getChildElements()[0]?.getNS() ?? ''
    const granted = permissionsOf(from)?.iq.get(namespace)
    if (inner === undefined || inner.getNS() !== CLIENT_NS || inner.attrs['type'] !== type || (granted !== 'both' && granted !== type)) throw new StanzaError('forbidden')
    const sender = inner.attrs['from']
    if (sender !== undefined && Jid.tryParse(sender)?.toString() !== to.bare) throw new StanzaError('forbidden')
    const response = await iq.request(stanzaOf('iq', { ...inner.attrs, xmlns: undefined, from: to.bare, to: inner.attrs['to'] ?? to.bare }, ...inner.getChildElements()), ANSWER_MS)
    if (response === undefined) throw new StanzaError('remote-server-timeout')
    const element = response.element()
    return xml('privilege', { xmlns: NS }, xml('forwarded', { xmlns: FORWARD_NS }, xml('iq', { ...element.attrs, xmlns: CLIENT_NS, id: inner.attrs['id'] }, element.getChildElements())))
  }
  for (const type of ['get', 'set'] as const) iq[type](`${NS} privileged_iq`, 'account', answer)

  // --- §7, presence

  const announce = (presence: Stanza, isAllowedTo: (granted: Permissions) => boolean): void => {
    for (const { domain, granted } of privileged()) if (isAllowedTo(granted)) router.route(presence.withAttrs({ to: domain }))
  }
  const ofUser = (session: Session, presence: Stanza): void => { announce(presence.withAttrs({ from: session.jid.toString() }), ({ presence: of }) => of !== 'none') }
  hooks.available((session, presence, first) => { if (first && session.host === host) ofUser(session, presence) })
  hooks.unavailable((session) => { if (session.host === host) ofUser(session, makeStanza('presence', { type: 'unavailable' })) })
  // What a component says to a presence that the user has not sent there is no matter of theirs (§3).
  hooks.checkIncoming(({ stanza, from, to }) => {
    if (stanza.name !== 'presence' || stanza.type !== 'error' || (permissionsOf(from)?.presence ?? 'none') === 'none') return
    if (sessions.get(to.toString())?.directed.has(from.domain) !== true && rosters.item(to.bare, from.domain) === undefined) throw new StanzaError('not-acceptable')
  })
  hooks.stampIncoming(({ stanza, from, to }) => {
    if (stanza.name !== 'presence' || (stanza.type !== undefined && stanza.type !== 'unavailable') || from.domain === host || from.resource === '') return
    if (rosters.isSubscribedTo(to.bare, from.bare)) announce(stanza, ({ presence: of }) => of === 'roster')
  })
  return stop
}

/** §4.2, §5.1, §6.2, §7.1 */
function advertised(namespace: string, { roster, message, presence, iq }: Permissions): Element {
  const perm = (access: string, type: string): Element | undefined => (type === 'none' ? undefined : xml('perm', { access, type }))
  return xml('privilege', { xmlns: namespace },
    perm('roster', roster), perm('message', message), perm('presence', presence),
    namespace === NS && iq.size > 0 && xml('perm', { access: 'iq' }, Array.from(iq, ([ns, type]) => xml('namespace', { ns, type }))))
}

/** §4.4 */
function rosterPush(owner: string, to: string, { contact, item }: RosterChange): Stanza {
  const shown = item === undefined
    ? xml('item', { jid: contact, subscription: 'remove' })
    : xml('item', { jid: item.jid, name: item.name, subscription: item.subscription, ask: item.ask ? 'subscribe' : undefined }, item.groups.map((group) => xml('group', null, group)))
  return stanzaOf('iq', { type: 'set', id: `push-${randomId(6)}`, from: owner, to }, xml('query', { xmlns: ROSTER_NS }, shown))
}
