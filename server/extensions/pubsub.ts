// XEP-0060: Publish-Subscribe, version 1.30.0 (2025-11-11)
// XEP-0163: Personal Eventing Protocol, version 1.2.2 (2022-02-16)
import { Jid } from '../../lib/jid.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { seen } from '../sessions/rosters.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { capabilitiesOf, type Interests } from '../sessions/capabilities.ts'
import type { Session } from '../sessions/session.ts'
import { accessRule, anything, bool, duration, either, host as hostType, int, list, map, oneOf, text } from '../config/options.ts'
import { defineExtension, type IqRegistry, type IqTarget, type PersonalNodes } from './extension.ts'
import { createCommands } from './commands-registry.ts'
import { getPending, takeDecision } from './pubsub/authorization.ts'
import { describeAccount, describeService } from './pubsub/disco.ts'
import { createEngine, reviewSubscriptions, type Engine } from './pubsub/engine.ts'
import { configOf, meets, type NodeConfig } from './pubsub/node-config.ts'
import { exportNodes, importConfigurations, importItems } from './pubsub/moving.ts'
import { createNodeStore, isAccount } from './pubsub/node-store.ts'
import { meetOtherHomes } from './pubsub/other-homes.ts'
import { answerOwnerGet, answerOwnerSet, OWNER_NS } from './pubsub/owner-requests.ts'
import { answerGet, answerSet, PUBSUB_NS } from './pubsub/requests.ts'

/** Of older versions of ejabberd; flat does for them. */
const OLD_PLUGINS = ['hometree', 'default', 'buddy', 'club', 'dag', 'dispatch', 'mb', 'mix', 'online', 'private', 'public'] as const
const EXPIRE_EVERY_MS = 60_000
/** What nodes say to each other for an account: a client of a contact's, whose presence the account does not see, is there. */
const INTERESTED = 'pep interested'

export const pubsub = defineExtension({
  name: 'pubsub',
  ejabberd: 'mod_pubsub',
  specs: [
    { xep: 60, version: '1.30.0', status: 'partial', note: 'leaf nodes; an address has one subscription of a node; no digests' },
    { xep: 163, version: '1.2.2', status: 'complete' },
    { xep: 172, version: '1.1', status: 'complete', note: 'as personal events' },
    { xep: 223, version: '1.1.1', status: 'complete' },
    { xep: 292, version: '0.12.0', status: 'partial', note: 'as personal nodes' },
    { xep: 384, version: '0.9.1', status: 'complete', note: 'the nodes of devices and bundles' },
  ],
  needs: ['host', 'here', 'calls', 'iq', 'disco', 'hooks', 'router', 'rosters', 'sessions', 'capabilities', 'pep', 'access', 'storage', 'limits', 'lasting', 'every', 'now', 'log', 'accountData', 'metrics'],
  options: {
    access_createnode: { type: accessRule(), default: 'all', help: 'Who may create nodes at the service.' },
    host: { type: hostType(), default: 'pubsub.@HOST@', help: 'Domain of the service.' },
    hosts: { type: list(hostType()), default: [] as readonly string[], help: 'Several domains in place of host.' },
    name: { type: text(), default: 'Publish-Subscribe', help: 'Name of the service in service discovery.' },
    plugins: { type: list(oneOf('flat', 'pep', ...OLD_PLUGINS)), default: ['flat'] as readonly string[], help: 'flat: nodes with names of any form. pep: personal nodes of each account.' },
    pep_mapping: { type: map(oneOf('flat', 'pep', ...OLD_PLUGINS)), default: new Map<string, string>() as ReadonlyMap<string, string>, help: 'Plugins of personal nodes by name; pep does for all.' },
    nodetree: { type: oneOf('tree', 'virtual', 'dag'), default: 'tree', help: 'How nodes are kept.' },
    ignore_pep_from_offline: { type: bool(), default: true, help: 'Whether the last items of contacts that are offline are kept from clients that log in.' },
    last_item_cache: { type: bool(), default: false, help: 'Whether last items are kept at hand; here they are in any case.' },
    max_items_node: { type: int({ infinity: true }), default: 1000, help: 'Items that a node can be configured to keep.' },
    max_item_expire_node: { type: duration({ unit: 's' }), default: Infinity, help: 'The longest time that items are kept.' },
    max_nodes_discoitems: { type: int({ infinity: true }), default: 100, help: 'Nodes that service discovery lists.' },
    max_subscriptions_node: { type: either(int(), oneOf('undefined')), default: 'undefined' as number | 'undefined', help: 'Subscriptions of one node.' },
    default_node_config: { type: map(anything()), default: new Map() as ReadonlyMap<string, unknown>, help: 'Configuration of new nodes, in place of the defaults.' },
    force_node_config: { type: map(map(anything())), default: new Map() as ReadonlyMap<string, ReadonlyMap<string, unknown>>, help: 'By patterns of names, configuration that nodes have whatever is asked for.' },
    vcard: { type: anything(), default: undefined as unknown, help: 'The vCard of the service.', ignored: 'has no effect: the service has no vCard.' },
  },
  start(parts, options) {
    const { host, here, calls, iq, disco, hooks, router, rosters, sessions, capabilities, pep, access, storage, limits, lasting, every, accountData, now, log } = parts
    for (const plugin of options.plugins) if (plugin !== 'flat' && plugin !== 'pep') log.warn({ what: 'pubsub_plugin_gone', plugin })
    const domains = (options.hosts.length > 0 ? options.hosts : [options.host]).map((each) => each.replaceAll('@HOST@', host))
    const forced = [...options.force_node_config].map(([pattern, fields]) => ({ matches: globOf(pattern), config: configOf(Object.fromEntries(fields)) }))
    const maxSubscriptions = options.max_subscriptions_node === 'undefined' ? Infinity : options.max_subscriptions_node
    const engine = createEngine(parts, lasting('pubsub store', () => createNodeStore(storage.records)), {
      maxItems: options.max_items_node,
      maxExpireSeconds: options.max_item_expire_node / 1000,
      maxSubscriptions: Math.min(maxSubscriptions, limits.pubsubSubscriptions),
      hasNodes: (service) => isAccount(service) || domains.includes(service),
      mayCreate: (_service, jid) => access.allows(options.access_createnode, { jid }),
      defaults: configOf(Object.fromEntries(options.default_node_config)),
      forced(name) {
        let config: Partial<NodeConfig> = {}
        for (const each of forced) if (each.matches.test(name)) config = { ...config, ...each.config }
        return config
      },
    })

    for (const domain of domains) {
      const service = router.iqService(domain, options.name, (stanza) =>
        stanza.name === 'message' && stanza.type !== 'error' && stanza.to === domain && takeDecision(engine, domain, Jid.parse(stanza.from ?? ''), stanza), 'domain')
      answerRequests(service.iq, ['host'], engine)
      describeService(service.disco, engine, domain, options.max_nodes_discoitems)
      createCommands({ jid: domain, iq: service.iq, disco: service.disco, now }).add(getPending(engine))
    }
    every(EXPIRE_EVERY_MS, () => { engine.expire() })
    hooks.unavailable((session) => { engine.left(session.jid) })
    hooks.started(() => { engine.left() })
    if (!calls.alone) meetOtherHomes(parts, engine, domains)
    /** XEP-0060 §4.3: a subscriber that has become available hears the last items of the services' nodes. */
    hooks.available((session, _presence, first) => {
      if (first) engine.welcome(session)
    })
    hooks.accountRemoved((owner) => { engine.forget(owner) })
    hooks.released((units) => { engine.store.forgetAll(units) })
    accountData.exports((owner) => exportNodes(engine.store, owner))
    accountData.imports('http://jabber.org/protocol/pubsub#owner pubsub', (owner, element) => { importConfigurations(engine.store, owner, element, now()) })
    accountData.imports('http://jabber.org/protocol/pubsub pubsub', (owner, element) => { importItems(engine.store, owner, element, now()) })
    if (!options.plugins.includes('pep')) return undefined

    // The host says that accounts have nodes, and answers that it has none itself.
    answerRequests(iq, ['account', 'nobody', 'host'], engine)
    describeAccount(disco, engine, options.max_nodes_discoitems)
    const known = new WeakMap<Session, Interests>()

    /** XEP-0163 §4.3.4: a client that has become available, or whose interests have changed, hears the last items that are news to it. */
    hooks.available((session, presence, first) => {
      capabilities.whenKnown(presence, host, (interests) => {
        if (session.ended || session.presence === undefined) return
        const before = first ? undefined : known.get(session)
        known.set(session, interests)
        const fresh = before === undefined ? interests : new Set([...interests].filter((node) => !before.has(node)))
        if (fresh.size === 0) return
        engine.events.greet(session.owner, session.jid, fresh, session)
        for (const contact of rosters.subscriptions(session.owner)) {
          const nodes = pep.of(contact.slice(contact.indexOf('@') + 1))
          if (nodes === undefined || (options.ignore_pep_from_offline && !isAvailable(contact))) continue
          nodes.greet(contact, session.jid, fresh, session)
        }
      })
    })

    // A contact whose presence an account sees, and who does not see the account's, has its home at another node perhaps: that hears of the account's clients from here.
    const isOneWay = (owner: string, contact: string): boolean => !here(contact) && pep.of(contact.slice(contact.indexOf('@') + 1)) !== undefined && rosters.item(owner, contact)?.subscription === 'to'
    const hint = (contact: string, client: Jid, presence: Stanza): void => { router.hint(contact, INTERESTED, host, client.toString(), (presence.type === undefined ? capabilitiesOf(presence) : presence).toString()) }
    const hintAll = (session: Session, presence: Stanza): void => {
      for (const contact of rosters.subscriptions(session.owner)) if (isOneWay(session.owner, contact)) hint(contact, session.jid, presence)
    }
    if (!calls.alone) {
      hooks.available((session, presence) => { hintAll(session, presence) })
      hooks.unavailable((session) => { hintAll(session, makeStanza('presence', { type: 'unavailable', from: session.jid.toString() })) })
      hooks.stampIncoming(({ stanza, from, to }) => {
        // The contact has come, or has become one.
        if (stanza.name !== 'presence' || (stanza.type !== undefined && stanza.type !== 'subscribed') || from.bare === to.bare) return
        queueMicrotask(() => {
          if (!isOneWay(to.bare, from.bare)) return
          for (const session of sessions.of(to.bare)) if (session.presence !== undefined) hint(from.bare, session.jid, session.presence)
        })
      })
      hooks.told((owner, [what, domain, client = '', presence = '']) => {
        if (what !== INTERESTED || domain === undefined || Jid.parse(owner).domain !== host) return
        const from = Jid.parse(client)
        if (!rosters.hasSubscriber(owner, from.bare) || sessions.get(client) !== undefined) return
        const stanza = readStanza(Buffer.from(presence))
        if (!engine.remote.heard(owner, from.bare, client, stanza)) return
        if (options.ignore_pep_from_offline && !isAvailable(owner)) return
        capabilities.whenKnown(stanza, host, (interests) => { engine.events.greet(owner, from, interests) })
      })
    }

    function isAvailable(owner: string): boolean {
      return sessions.of(owner).some((session) => session.presence !== undefined)
    }

    hooks.stampOutgoing(({ stanza, from, to }) => {
      // §4.3.4: a new subscriber gets the last items, once it is one.
      if (stanza.name !== 'presence' || stanza.type !== 'subscribed' || rosters.hasSubscriber(from.bare, to.bare)) return
      queueMicrotask(() => {
        if (!rosters.hasSubscriber(from.bare, to.bare)) return
        for (const session of sessions.of(to.bare)) {
          const interests = session.presence === undefined ? undefined : capabilities.interests(session.presence)
          if (interests !== undefined) engine.events.greet(from.bare, session.jid, interests, session)
        }
      })
    })

    hooks.stampIncoming(({ stanza, from, to, fromLocal }) => {
      if (stanza.name !== 'presence' || fromLocal || (stanza.type !== undefined && stanza.type !== 'unavailable')) return
      if (from.resource === '' || !rosters.hasSubscriber(to.bare, from.bare) || sessions.get(from.toString()) !== undefined) return
      if (!engine.remote.heard(to.bare, from.bare, from.toString(), stanza)) return
      const owner = to.bare
      capabilities.whenKnown(stanza, host, (interests) => { engine.events.greet(owner, from, interests) })
    })

    // XEP-0060 §8.6: an owner answers by a message to the service, which is the account itself.
    hooks.checkIncoming(({ stanza, from, to }) => {
      if (stanza.name === 'message' && stanza.has('x', 'jabber:x:data') && from.bare === to.bare) takeDecision(engine, to.bare, from, stanza)
    })

    // XEP-0163 §8.1
    const unwatch = rosters.onChange((owner, { contact, item }) => {
      if (!owner.endsWith(`@${host}`)) return
      for (const { node: name, kind } of engine.store.placesOf(contact, owner)) {
        const node = kind === 's' ? engine.store.node(owner, name) : undefined
        if (node !== undefined && (node.config.access_model === 'roster' || (node.config.access_model === 'presence' && !seen(item)))) reviewSubscriptions(engine, node, new Set([contact]))
      }
    })
    const withdraw = pep.provide(host, personalNodes(engine))
    return () => {
      unwatch()
      withdraw()
    }
  },
})

function answerRequests(iq: IqRegistry, target: readonly IqTarget[], engine: Engine): void {
  iq.get(`${PUBSUB_NS} pubsub`, target, (request) => answerGet(engine, request))
  iq.set(`${PUBSUB_NS} pubsub`, target, (request) => answerSet(engine, request))
  iq.get(`${OWNER_NS} pubsub`, target, (request) => answerOwnerGet(engine, request))
  iq.set(`${OWNER_NS} pubsub`, target, (request) => answerOwnerSet(engine, request))
}

/** What other extensions see of the accounts' nodes. */
function personalNodes(engine: Engine): PersonalNodes {
  const { store } = engine
  return {
    has: (owner, name) => store.node(owner, name) !== undefined,
    newest(owner, name) {
      const [found] = store.items(owner, name, 1)
      return found === undefined || found.payload === '' ? undefined : buildElement(Buffer.from(found.payload))
    },
    fits(owner, name, length) {
      let sum = 0
      return store.order(owner, name).every(({ id }) => (sum += store.item(owner, name, id)?.payload.length ?? 0) <= length)
    },
    items: (owner, name) => new Map(store.items(owner, name).map(({ id, payload }) => [id, buildElement(Buffer.from(payload))])),
    item(owner, name, id) {
      const found = store.item(owner, name, id)
      return found === undefined || found.payload === '' ? undefined : buildElement(Buffer.from(found.payload))
    },
    setting: (owner, name, field) => (store.node(owner, name)?.config as unknown as Record<string, unknown> | undefined)?.[field],
    mayRead(owner, name, asker) {
      const node = store.node(owner, name)
      return node !== undefined && engine.access.mayRead(node, asker)
    },
    publish(owner, name, id, payload, config = {}) {
      const wanted = configOf(config)
      let node = store.node(owner, name) ?? engine.create(owner, name, Jid.parse(owner), wanted)
      if (!meets(node.config, wanted)) node = engine.configure(node, wanted)
      engine.publish(node, [{ id, payload: payload.toString() }], undefined)
    },
    retract(owner, name, id) {
      const node = store.node(owner, name)
      if (node !== undefined && store.item(owner, name, id) !== undefined) engine.retract(node, [id], true, undefined)
    },
    watch(name, watcher) {
      engine.watch(({ service, node, publisher }) => { if (node === name && isAccount(service)) watcher({ owner: service, byServer: publisher === undefined }) })
    },
    prepare(name, prepare) {
      engine.preparing.set(name, (owner, { id, payload }) => {
        const prepared = payload === '' ? undefined : prepare(owner, { id, payload: buildElement(Buffer.from(payload)) })
        return prepared?.then((item) => () => {
          const changed = item()
          return { id: changed.id, payload: changed.payload.toString() }
        })
      })
    },
    greet: (owner, client, interests, session) => { engine.events.greet(owner, client, interests, session) },
  }
}

/** A pattern of node names with `*` and `?`. */
function globOf(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll(/[\\^$.|+(){}[\]]/g, '\\$&').replaceAll('*', '.*').replaceAll('?', '.')}$`, 's')
}
