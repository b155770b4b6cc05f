/**
 * XEP-0030 as data: what a host, its accounts or a service say about themselves, and the hashes of it.
 *
 * `createDiscoRegistry` is what extensions get as the part `disco`; `serveDisco` answers queries from it.
 */
import { createHash } from 'node:crypto'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import type { DiscoIdentity, DiscoItem, DiscoRegistry, DiscoTarget, IqRegistry, IqRequest } from './extension.ts'

export const DISCO_INFO_NS = 'http://jabber.org/protocol/disco#info'
export const DISCO_ITEMS_NS = 'http://jabber.org/protocol/disco#items'
const FORM_NS = 'jabber:x:data'

/** XEP-0115 §4: names the software, not the host. */
export const CAPS_NODE = 'urn:uuid:0c3a1d2e-8f0b-4c55-9a57-7464696e6773'
/** XEP-0390 §4.3: prefix of the nodes that name a hash. */
const CAPS2_NODE_PREFIX = 'urn:xmpp:caps#'
/** XEP-0390 §7 asks for these two. */
const CAPS2_HASHES = ['sha-256', 'sha3-256'] as const
/** Stands for every node that has no answer of its own. */
const ANY_NODE = '*'

export interface HostDisco extends DiscoRegistry {
  /** disco#info without a node: the same for everybody. */
  ownInfo(target: DiscoTarget): Element
  /** Another text whenever `ownInfo` answers something else; it costs less. */
  revision(target: DiscoTarget): string
  /** disco#info as asked, its node included; throws `item-not-found` for a node nobody knows. */
  info(target: DiscoTarget, request: IqRequest | undefined): Element | Promise<Element>
  /** disco#items as asked, its node included. */
  itemList(target: DiscoTarget, request: IqRequest): Promise<Element>
}

type NodeAnswer = Parameters<DiscoRegistry['node']>[2]

interface Description {
  readonly identities: Map<string, DiscoIdentity>
  readonly features: Set<string>
  readonly forms: (() => Element | undefined)[]
  readonly items: Map<string, DiscoItem>
  readonly listers: ((request: IqRequest) => readonly DiscoItem[] | Promise<readonly DiscoItem[]>)[]
  readonly nodes: Map<string, NodeAnswer>
}

/**
 * An empty registry. It knows the features of XEP-0030 itself; the identities are for whoever makes it to say. A later identity
 * of the same category, type and language replaces the earlier. The node `*` answers for all nodes not named otherwise.
 * `isAnonymous`: whether the account of a bare JID lasts as long as its session.
 */
export function createDiscoRegistry(isAnonymous: (bare: string) => boolean = () => false): HostDisco {
  const targets: Record<DiscoTarget, Description> = { host: emptyDescription(), account: emptyDescription() }
  let additions = 0

  function ownInfo(target: DiscoTarget): Element {
    const described = targets[target]
    return xml('query', { xmlns: DISCO_INFO_NS },
      [...described.identities.values()].map((identity) =>
        xml('identity', { category: identity.category, type: identity.type, name: identity.name, 'xml:lang': identity.lang })),
      [...described.features].map((feature) => xml('feature', { var: feature })),
      described.forms.map((form) => form()))
  }

  /** The node that a caps hash in presence or stream features leads to (XEP-0115 §6.2, XEP-0390 §4.3). */
  function isHashNode(node: string, info: Element): boolean {
    if (node.startsWith(`${CAPS_NODE}#`)) return node.slice(CAPS_NODE.length + 1) === capsVer(info)
    if (!node.startsWith(CAPS2_NODE_PREFIX)) return false
    const [algorithm, value] = splitOnce(node.slice(CAPS2_NODE_PREFIX.length), '.')
    return CAPS2_HASHES.some((name) => name === algorithm && value === caps2Hash(info, name))
  }

  return {
    feature(target, ...vars) {
      for (const feature of vars) targets[target].features.add(feature)
      additions++
    },
    identity(target, identity) {
      targets[target].identities.set(JSON.stringify([identity.category, identity.type, identity.lang ?? '']), identity)
      additions++
    },
    form(target, form) {
      targets[target].forms.push(form)
      additions++
    },
    item(target, item) {
      targets[target].items.set(JSON.stringify([item.jid, item.node ?? '']), item)
    },
    items(target, lister) {
      targets[target].listers.push(lister)
    },
    node(target, node, answer) {
      targets[target].nodes.set(node, answer)
    },
    ownInfo,
    revision: (target) => targets[target].forms.reduce((text, form) => text + (form()?.toString() ?? ''), `${additions}`),
    info(target, request) {
      const node = request?.payload.attrs['node'] ?? ''
      const info = ownInfo(target)
      if (target === 'account' && request !== undefined && isAnonymous(request.to.bare)) {
        // XEP-0175 §4
        for (const { name, attrs } of info.getChildElements()) if (name === 'identity' && attrs['category'] === 'account') attrs['type'] = 'anonymous'
      }
      if (node === '' || request === undefined) return info
      const { nodes } = targets[target]
      const answer = nodes.get(node)?.info ?? nodes.get(ANY_NODE)?.info
      if (target === 'host' && isHashNode(node, info)) {
        info.attrs['node'] = node // XEP-0030 §3.2: the answer repeats the node
        return info
      }
      if (answer === undefined) throw new StanzaError('item-not-found') // XEP-0030 §3.2
      return answer(request)
    },
    async itemList(target, request) {
      const described = targets[target]
      const node = request.payload.attrs['node'] ?? ''
      if (node !== '') {
        const answer = described.nodes.get(node) ?? described.nodes.get(ANY_NODE)
        if (answer === undefined) throw new StanzaError('item-not-found') // XEP-0030 §4.2
        // XEP-0030 §4.1: a node that exists but has no items answers an empty list
        return answer.items === undefined ? xml('query', { xmlns: DISCO_ITEMS_NS, node }) : answer.items(request)
      }
      const items = [...described.items.values()]
      for (const lister of described.listers) items.push(...await lister(request))
      return xml('query', { xmlns: DISCO_ITEMS_NS }, items.map((item) => xml('item', { jid: item.jid, node: item.node, name: item.name })))
    },
  }
}

/**
 * Answers disco queries to one target from a registry. To whom `mayKnow` says no, the target is not there and has no items
 * (XEP-0030 §8); left out, everybody may know.
 */
export function serveDisco(iq: IqRegistry, disco: DiscoRegistry, target: DiscoTarget, mayKnow?: (request: IqRequest) => boolean | Promise<boolean>): void {
  const registry = disco as HostDisco
  registry.feature(target, DISCO_INFO_NS, DISCO_ITEMS_NS)
  iq.get(`${DISCO_INFO_NS} query`, target, async (request) => {
    if (mayKnow !== undefined && !await mayKnow(request)) throw new StanzaError('service-unavailable')
    return registry.info(target, request)
  })
  iq.get(`${DISCO_ITEMS_NS} query`, target, async (request) =>
    mayKnow === undefined || await mayKnow(request) ? registry.itemList(target, request) : noItems(request))
}

/** An empty list of items. */
export function noItems({ payload }: IqRequest): Element {
  return xml('query', { xmlns: DISCO_ITEMS_NS, node: payload.attrs['node'] })
}

export interface CapsHash {
  /** XEP-0115 `ver`, with SHA-1. */
  readonly ver: string
  /** XEP-0390 hashes in base64, by the name of the algorithm. */
  readonly caps2: readonly { readonly algorithm: string; readonly value: string }[]
}

/** The hashes of each registry, with the revision they are of: they cost more than all the rest of a login's stream features. */
const hashed = new WeakMap<DiscoRegistry, { readonly revision: string; readonly hash: CapsHash }>()

/** The hashes of what the host says of itself, as it stands now. */
export function capsHash(registry: DiscoRegistry): CapsHash {
  const host = registry as HostDisco
  const revision = host.revision('host')
  const known = hashed.get(registry)
  if (known?.revision === revision) return known.hash
  const info = host.ownInfo('host')
  const hash = { ver: capsVer(info), caps2: CAPS2_HASHES.map((algorithm) => ({ algorithm, value: caps2Hash(info, algorithm) })) }
  hashed.set(registry, { revision, hash })
  return hash
}

/** XEP-0115 §5.1: the verification string of a disco#info answer. */
export function capsVer(info: Element): string {
  return createHash('sha1').update(capsText(info)).digest('base64')
}

/** What the hash is made of. Different answers can have the same text: `<` may stand in a part of it, and a form may say what a feature does. */
export function capsText(info: Element): string {
  const identities = info.getChildren('identity').map((identity) =>
    `${attribute(identity, 'category')}/${attribute(identity, 'type')}/${attribute(identity, 'xml:lang')}/${attribute(identity, 'name')}`)
  const features = info.getChildren('feature').map((feature) => attribute(feature, 'var'))
  const forms = info.getChildren('x', FORM_NS).flatMap((form) => {
    const fields = form.getChildren('field')
    const type = fields.find((field) => field.attrs['var'] === 'FORM_TYPE')?.getChildText('value')
    if (type === null || type === undefined) return []
    const rest = fields.filter((field) => field.attrs['var'] !== 'FORM_TYPE')
      .map((field) => ({ name: attribute(field, 'var'), text: `${attribute(field, 'var')}<${sortBytes(valuesOf(field)).map((value) => `${value}<`).join('')}` }))
      .sort((a, b) => compareBytes(a.name, b.name))
    return [{ type, text: `${type}<${rest.map((field) => field.text).join('')}` }]
  }).sort((a, b) => compareBytes(a.type, b.type))
  return [...sortBytes(identities), ...sortBytes(features)].map((part) => `${part}<`).join('') + forms.map((form) => form.text).join('')
}

/** XEP-0390 §4.1 and §4.2: one hash of a disco#info answer. */
export function caps2Hash(info: Element, algorithm: 'sha-256' | 'sha3-256'): string {
  const features = info.getChildren('feature').map((feature) => `${attribute(feature, 'var')}\x1f`)
  const identities = info.getChildren('identity').map((identity) =>
    `${['category', 'type', 'xml:lang', 'name'].map((name) => `${attribute(identity, name)}\x1f`).join('')}\x1e`)
  const forms = info.getChildren('x', FORM_NS).map((form) => {
    const fields = form.getChildren('field').map((field) =>
      `${attribute(field, 'var')}\x1f${sortBytes(valuesOf(field).map((value) => `${value}\x1f`)).join('')}\x1e`)
    return `${sortBytes(fields).join('')}\x1d`
  })
  const input = [features, identities, forms].map((parts) => `${sortBytes(parts).join('')}\x1c`).join('')
  return createHash(algorithm === 'sha-256' ? 'sha256' : algorithm).update(input).digest('base64')
}

function emptyDescription(): Description {
  return { identities: new Map(), features: new Set(), forms: [], items: new Map(), listers: [], nodes: new Map() }
}

function attribute(element: Element, name: string): string {
  return element.attrs[name] ?? ''
}

function valuesOf(field: Element): string[] {
  return field.getChildren('value').map((value) => value.getText())
}

/** The collation i;octet (RFC 4790 §9.3). */
function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

function sortBytes(texts: readonly string[]): string[] {
  return [...texts].sort(compareBytes)
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator)
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + separator.length)]
}
