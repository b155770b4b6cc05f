// XEP-0115: what clients say they can do, by the hash in their presence; here only what they want to be notified of (XEP-0163 §4.2).
import { Recent } from '../../lib/recent.ts'
import { makeStanza, stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { xml } from '../../lib/xml/element.ts'
import { capsText, capsVer } from '../extensions/disco-registry.ts'

const CAPS_NS = 'http://jabber.org/protocol/caps'
const DISCO_INFO_NS = 'http://jabber.org/protocol/disco#info'
const NOTIFY = '+notify'
const TIMEOUT_MS = 30_000
/** Hashes remembered. A client can make up as many as it likes. */
const KNOWN_MAX = 20_000
/** Callbacks that wait for one answer. */
const WAITING_MAX = 200
const NOTIFY_NODES_MAX = 500
/** Characters of their names. */
const NOTIFY_LENGTH_MAX = 16_384

/** The nodes whose events somebody wants. */
export type Interests = ReadonlySet<string>

export interface Capabilities {
  /**
   * The nodes that the client which sent this presence wants events of: none when its presence has no hash, undefined when its hash
   * is not known yet.
   */
  interests(presence: Stanza): Interests | undefined
  /**
   * Calls back with them: at once when they are known, otherwise when the client has answered, or with none when it does not. An
   * answer that does not fit the hash counts for this client alone (§5.4). `asker`: who asks the client, a host or a bare JID.
   */
  whenKnown(presence: Stanza, asker: string, callback: (interests: Interests) => void): void
}

interface Hash {
  readonly node: string
  readonly ver: string
  /** Undefined for the form before version 1.4, whose `ver` is no hash. */
  readonly algorithm: string | undefined
}

const NONE: Interests = new Set()

/** `request` sends an IQ and resolves with its answer, or undefined when there is none in time (ms). */
export function createCapabilities(request: (stanza: Stanza, timeoutMs: number) => Promise<Stanza | undefined>): Capabilities {
  const known = new Recent<Interests>(KNOWN_MAX)
  const waiting = new Map<string, ((interests: Interests) => void)[]>()
  const hashes = new WeakMap<Stanza, Hash | null>()

  function hashOf(presence: Stanza): Hash | null {
    const before = hashes.get(presence)
    if (before !== undefined) return before
    const hash = readHash(presence)
    hashes.set(presence, hash)
    return hash
  }

  function find(hash: Hash, client: string): Interests | undefined {
    return known.get(keyOf(hash)) ?? known.get(ownKeyOf(hash, client))
  }

  async function ask(hash: Hash, client: string, asker: string, key: string): Promise<void> {
    let interests = NONE
    try {
      const query = xml('query', { xmlns: DISCO_INFO_NS, node: `${hash.node}#${hash.ver}` })
      const answer = await request(stanzaOf('iq', { type: 'get', from: asker, to: client }, query), TIMEOUT_MS)
      if (answer === undefined) return
      const span = answer.type === 'result' ? answer.find('query', DISCO_INFO_NS) : undefined
      if (span === undefined) return
      const info = answer.childElement(span)
      // §5.4: a hash that does not fit must not speak for other clients.
      const fits = hash.algorithm === 'sha-1' && capsVer(info) === hash.ver
      // §8.1: one that fits says what its text says, however the answer was made up.
      interests = interestsIn(fits ? capsText(info).split('<') : info.getChildren('feature').map(({ attrs }) => attrs['var'] ?? ''))
      known.set(fits ? keyOf(hash) : ownKeyOf(hash, client), interests)
    } finally {
      const callbacks = waiting.get(key) ?? []
      waiting.delete(key)
      for (const callback of callbacks) callback(interests)
    }
  }

  return {
    interests(presence) {
      const hash = hashOf(presence)
      return hash === null ? NONE : find(hash, presence.from ?? '')
    },
    whenKnown(presence, asker, callback) {
      const hash = hashOf(presence)
      if (hash === null) return callback(NONE)
      const client = presence.from ?? ''
      const found = find(hash, client)
      if (found !== undefined) return callback(found)
      // Each client is asked itself: one that never answers must not keep the others waiting.
      const key = ownKeyOf(hash, client)
      const callbacks = waiting.get(key)
      if (callbacks !== undefined) {
        if (callbacks.length < WAITING_MAX) callbacks.push(callback)
        return
      }
      waiting.set(key, [callback])
      void ask(hash, client, asker, key)
    },
  }
}

function interestsIn(features: readonly string[]): Interests {
  const found = new Set<string>()
  let length = 0
  for (const feature of features) {
    if (!feature.endsWith(NOTIFY)) continue
    length += feature.length
    if (length > NOTIFY_LENGTH_MAX || found.size === NOTIFY_NODES_MAX) break
    found.add(feature.slice(0, -NOTIFY.length))
  }
  return found
}

function readHash(presence: Stanza): Hash | null {
  const span = presence.find('c', CAPS_NS)
  if (span === undefined) return null
  const { node, ver, hash } = presence.childElement(span).attrs
  if (node === undefined || ver === undefined || node.length + ver.length > 1024) return null
  return { node, ver, algorithm: hash }
}

function keyOf({ ver, algorithm }: Hash): string {
  return `${algorithm ?? ''} ${ver}`
}

function ownKeyOf(hash: Hash, client: string): string {
  return `${client} ${hash.node} ${keyOf(hash)}`
}

/** A presence that says no more than the capabilities of the client that sent it, to keep long. */
export function capabilitiesOf(presence: Stanza): Stanza {
  const span = presence.find('c', CAPS_NS)
  const kept = makeStanza('presence', { from: presence.from })
  return span === undefined ? kept : kept.append('c', CAPS_NS, presence.content.toString('utf8', span.start, span.end))
}
