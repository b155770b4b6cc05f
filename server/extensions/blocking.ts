// XEP-0191: Blocking Command, version 1.3 (2015-03-12)
import { Jid } from '../../lib/jid.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { makeStanza } from '../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const NS = 'urn:xmpp:blocking'
/** XEP-0016 */
const PRIVACY_NS = 'jabber:iq:privacy'
const BLOCKED_XML = "<blocked xmlns='urn:xmpp:blocking:errors'/>"
/** Key [owner]; value: the blocked JIDs. */
const TABLE = 'blocked'
const BLOCKED_MAX = 2_000
/** Lists kept in memory, most of them empty. */
const CACHED_MAX = 50_000
/** In the session: it asked for the list, so it hears of changes (§3.3). */
const INTERESTED = 'blocking'
const NOBODY: ReadonlySet<string> = new Set()

export const blocking = defineExtension({
  name: 'blocking',
  ejabberd: 'mod_blocking',
  specs: [{ xep: 191, version: '1.3', status: 'complete' }],
  features: [NS],
  needs: ['host', 'here', 'iq', 'disco', 'hooks', 'blocked', 'router', 'sessions', 'rosters', 'storage', 'accountData'],
  start({ host, here, iq, disco, hooks, blocked, router, sessions, rosters, storage, accountData }) {
    const { records } = storage
    const cache = new Map<string, ReadonlySet<string>>()
    disco.feature('account', NS)

    function remember(owner: string, list: ReadonlySet<string>): ReadonlySet<string> {
      cache.delete(owner)
      cache.set(owner, list.size === 0 ? NOBODY : list)
      if (cache.size > CACHED_MAX) cache.delete(cache.keys().next().value as string)
      return list
    }

    async function load(owner: string): Promise<ReadonlySet<string>> {
      return cache.get(owner) ?? remember(owner, listOf(await records.get(TABLE, [owner])))
    }

    /** The list without waiting. A driver that cannot read at once has it for the next stanza, and from login on. */
    function known(owner: string): ReadonlySet<string> {
      const cached = cache.get(owner)
      if (cached !== undefined) return cached
      const stored = records.get(TABLE, [owner])
      if (!(stored instanceof Promise)) return remember(owner, listOf(stored))
      stored.then((value) => cache.has(owner) || remember(owner, listOf(value)), () => undefined)
      return NOBODY
    }

    /** Whether `owner` blocks `jid`; never themselves nor their own server. */
    function blocks(owner: string, jid: Jid): boolean {
      const list = known(owner)
      return list.size > 0 && jid.bare !== owner && !(jid.local === '' && jid.domain === host) && matches(list, jid)
    }

    hooks.bound((session) => { known(session.owner) })

    hooks.checkIncoming((delivery) => {
      const { to, from, stanza } = delivery
      if (to.local === '' || to.domain !== host || !blocks(to.bare, from)) return
      // §3.3: requests and messages are answered; presence, errors and results are dropped by whoever asked.
      throw new StanzaError('service-unavailable', undefined, stanza.name === 'presence' ? {} : { type: 'cancel' })
    })

    hooks.checkOutgoing((delivery) => {
      const { to, from } = delivery
      if (from.local === '' || from.domain !== host || !blocks(from.bare, to)) return
      throw new StanzaError('not-acceptable', undefined, { type: 'cancel', extra: BLOCKED_XML }) // §3.3
    })

    /** An account at another node is asked there. */
    const mayPass = (owner: Jid, other: Jid): boolean => owner.domain !== host || owner.local === '' || !here(owner.bare) || !blocks(owner.bare, other)
    hooks.checkBroadcast((from, to) => mayPass(to, from) && mayPass(from, to))

    iq.get(`${NS} blocklist`, 'account', async (request) => {
      requireOwner(request)
      request.session?.set(INTERESTED, true) // §3.2, §3.3
      return xml('blocklist', { xmlns: NS }, itemsOf(await load(request.from.bare)))
    })

    iq.set(`${NS} block`, 'account', async (request) => {
      requireOwner(request)
      const owner = request.from.bare
      const items = request.payload.getChildren('item')
      const added = jidsOf(request.payload)
      if (added.length === 0) throw new StanzaError('bad-request') // §3.3
      const before = await load(owner)
      const list = new Set([...before, ...added])
      if (list.size > BLOCKED_MAX) throw new StanzaError('resource-constraint', `at most ${BLOCKED_MAX} addresses can be blocked`)
      const news = new Set(added.filter((jid) => !before.has(jid)))
      // §3.3: before the list holds, for it would keep this presence back too
      tell(owner, added, (contact) => matches(news, contact) && !matches(before, contact), 'unavailable')
      save(owner, list)
      push(owner, 'block', added)
      for (const [index, jid] of added.entries()) blocked(owner, jid, items[index] as Element)
      await storage.committed()
    })

    iq.set(`${NS} unblock`, 'account', async (request) => {
      requireOwner(request)
      const owner = request.from.bare
      const removed = jidsOf(request.payload)
      const before = await load(owner)
      const list = new Set(removed.length === 0 ? [] : before) // §3.5: without items, everybody
      for (const jid of removed) list.delete(jid)
      save(owner, list)
      push(owner, 'unblock', removed)
      tell(owner, removed.length === 0 ? [...before] : removed, (contact) => matches(before, contact) && !matches(list, contact), 'available') // §3.4
      await storage.committed()
    })

    hooks.released((units) => { for (const unit of units) cache.delete(unit) })
    hooks.accountRemoved((owner) => {
      cache.delete(owner)
      records.delete(TABLE, [owner])
    })

    // XEP-0227 knows privacy lists alone; what is blocked is one of them, and readers of ours take the list of XEP-0191 too.
    accountData.exports(async function* (owner) {
      const list = [...await load(owner)]
      if (list.length === 0) return
      const items = list.map((jid, at) => xml('item', { type: 'jid', value: jid, action: 'deny', order: at + 1 }))
      yield xml('query', { xmlns: PRIVACY_NS }, xml('default', { name: 'blocked' }), xml('list', { name: 'blocked' }, items, xml('item', { action: 'allow', order: list.length + 1 }))).toString()
    })
    const take = async (owner: string, jids: readonly (string | undefined)[]): Promise<void> => {
      const known = jids.map((jid) => Jid.tryParse(jid ?? '')?.toString()).filter((jid) => jid !== undefined)
      save(owner, new Set([...await load(owner), ...known].slice(0, BLOCKED_MAX)))
    }
    accountData.imports(`${NS} blocklist`, (owner, list) => take(owner, list.getChildren('item').map((item) => item.attrs['jid'])))
    accountData.imports(`${PRIVACY_NS} query`, (owner, query) => {
      const name = query.getChild('default')?.attrs['name']
      const items = query.getChildren('list').find((list) => list.attrs['name'] === name)?.getChildren('item') ?? []
      // Rules for all that an address sends; of others there is no equal here.
      return take(owner, items.filter(({ attrs, children }) => attrs['type'] === 'jid' && attrs['action'] === 'deny' && children.length === 0).map((item) => item.attrs['value']))
    })

    function save(owner: string, list: ReadonlySet<string>): void {
      if (list.size === 0) records.delete(TABLE, [owner])
      else records.put(TABLE, [owner], [...list])
      remember(owner, list)
    }

    /** §3.3: all sessions that asked for the list hear of the change, the one that made it included. */
    function push(owner: string, name: 'block' | 'unblock', jids: readonly string[]): void {
      const text = xml(name, { xmlns: NS }, itemsOf(jids)).toString()
      for (const session of sessions.of(owner)) {
        if (session.get(INTERESTED) !== true) continue
        session.send(makeStanza('iq', { type: 'set', id: randomId(9), to: session.jid.toString() }, [{ name, xmlns: NS, text }]), { durable: true })
      }
    }

    /** Unavailable presence to contacts that become blocked, the current one to those that are no longer. */
    function tell(owner: string, listed: readonly string[], concerned: (jid: Jid) => boolean, what: 'available' | 'unavailable'): void {
      const online = sessions.of(owner).filter((session) => session.presence !== undefined)
      const show = (session: Session, to: string): void => {
        const from = session.jid.toString()
        if (what === 'unavailable') router.route(makeStanza('presence', { type: 'unavailable', from, to }))
        else if (session.presence) router.route(session.presence.withAttrs({ from, to }))
      }
      for (const { jid: address, subscription } of rosters.get(owner).items.values()) {
        const contact = Jid.tryParse(address)
        if (contact === undefined || !concerned(contact)) continue
        if (subscription === 'from' || subscription === 'both') for (const session of online) show(session, address)
        // What the contact did in the meantime was kept from us.
        if (what === 'available' && (subscription === 'to' || subscription === 'both')) router.route(makeStanza('presence', { type: 'probe', from: owner, to: address }))
      }
      // One resource of a contact whose others are not concerned.
      for (const address of listed) {
        const jid = Jid.parse(address)
        if (jid.local === '' || jid.resource === '' || !concerned(jid) || concerned(jid.toBare()) || !rosters.hasSubscriber(owner, jid.bare)) continue
        for (const session of online) show(session, address)
      }
      if (what === 'available') return
      for (const session of online) {
        for (const address of session.directed) {
          const jid = Jid.tryParse(address)
          if (jid === undefined || !concerned(jid) || rosters.hasSubscriber(owner, jid.bare)) continue
          session.directed.delete(address)
          router.route(makeStanza('presence', { type: 'unavailable', from: session.jid.toString(), to: address }))
        }
      }
    }
  },
})

/** §6: the address as listed, its bare form, its domain with resource, or its domain. */
export function matches(list: ReadonlySet<string>, jid: Jid): boolean {
  if (list.size === 0) return false
  return list.has(jid.domain) || list.has(jid.bare) ||
    (jid.resource !== '' && (list.has(jid.toString()) || list.has(`${jid.domain}/${jid.resource}`)))
}

function requireOwner({ from, to }: IqRequest): void {
  if (from.bare !== to.bare) throw new StanzaError('forbidden')
}

function jidsOf(payload: Element): string[] {
  return payload.getChildren('item').map((item) => {
    if (item.attrs['jid'] === undefined) throw new StanzaError('bad-request')
    const jid = Jid.tryParse(item.attrs['jid'])
    if (jid === undefined) throw new StanzaError('jid-malformed')
    return jid.toString()
  })
}

function itemsOf(jids: Iterable<string>): Element[] {
  return [...jids].map((jid) => xml('item', { jid }))
}

function listOf(value: unknown): ReadonlySet<string> {
  return Array.isArray(value) ? new Set(value.map(String)) : NOBODY
}
