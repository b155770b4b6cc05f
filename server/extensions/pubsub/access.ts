/** XEP-0060 §4: who may read a node and publish to it. */
import type { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { seen, type Rosters } from '../../sessions/rosters.ts'
import { pubsubError } from './errors.ts'
import { isAccount, type Affiliation, type Node, type NodeStore } from './node-store.ts'

export interface NodeAccess {
  affiliation(node: Node, asker: Jid): Affiliation
  isOwner(node: Node, asker: Jid): boolean
  /** Whether somebody may subscribe and retrieve items (§4.5). */
  mayRead(node: Node, asker: Jid): boolean
  /** Throws the error that says why somebody may not retrieve items (§6.5.9). */
  requireRead(node: Node, asker: Jid): void
  /** Throws the error that says why somebody may not subscribe (§6.1.3). With `authorize`, anybody may ask. */
  requireSubscribe(node: Node, asker: Jid): void
  mayPublish(node: Node, asker: Jid): boolean
  requireOwner(node: Node, asker: Jid): void
}

export function createNodeAccess(store: NodeStore, rosters: Rosters): NodeAccess {
  function affiliation(node: Node, asker: Jid): Affiliation {
    return store.affiliation(node.service, node.name, asker.bare)
  }

  /** Whose contacts a node of model `presence` or `roster` is for: the account, or who made the node of a service. */
  function personOf(node: Node): string {
    return isAccount(node.service) ? node.service : node.creator
  }

  function isSubscribed(node: Node, bare: string): boolean {
    return store.placesOf(bare, node.service, node.name).some(({ kind, jid }) => kind === 's' && store.subscription(node.service, node.name, jid)?.state === 'subscribed')
  }

  function refusal(node: Node, asker: Jid): StanzaError | undefined {
    const role = affiliation(node, asker)
    if (role === 'owner') return undefined
    if (role === 'outcast') return new StanzaError('forbidden')
    const { access_model: model } = node.config
    if (role === 'publish-only') return new StanzaError('forbidden') // §4.1
    if (role !== 'none') return undefined
    switch (model) {
      case 'open': return undefined
      case 'presence':
        return rosters.hasSubscriber(personOf(node), asker.bare) ? undefined : pubsubError('not-authorized', 'presence-subscription-required')
      case 'roster': {
        const item = rosters.item(personOf(node), asker.bare)
        const allowed = seen(item) && item?.groups.some((group) => node.config.roster_groups_allowed.includes(group)) === true
        return allowed ? undefined : pubsubError('not-authorized', 'not-in-roster-group')
      }
      case 'whitelist': return pubsubError('not-allowed', 'closed-node')
      case 'authorize': return isSubscribed(node, asker.bare) ? undefined : pubsubError('not-authorized', 'not-subscribed')
      default: return model satisfies never
    }
  }

  return {
    affiliation,
    isOwner: (node, asker) => affiliation(node, asker) === 'owner',
    mayRead: (node, asker) => refusal(node, asker) === undefined,
    requireRead(node, asker) {
      const error = refusal(node, asker)
      if (error !== undefined) throw error
    },
    requireSubscribe(node, asker) {
      const error = refusal(node, asker)
      if (error !== undefined && (node.config.access_model !== 'authorize' || error.condition === 'forbidden')) throw error
    },
    mayPublish(node, asker) {
      const role = affiliation(node, asker)
      if (role === 'owner' || role === 'publisher' || role === 'publish-only') return true
      if (role === 'outcast' || node.config.publish_model === 'publishers') return false
      return node.config.publish_model === 'open' ? true : isSubscribed(node, asker.bare)
    },
    requireOwner(node, asker) {
      if (affiliation(node, asker) !== 'owner') throw new StanzaError('forbidden')
    },
  }
}
