/** Components that are connected to other nodes, as this node knows of them. */
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Value } from '../storage/shapes.ts'
import type { Outgoing } from './component-stream.ts'

/** What components need of the place of their server among several. */
export interface OtherNodes {
  /** All nodes by their incarnations, with whether they are about to leave; this one among them. */
  nodes(): readonly { readonly inc: string; readonly leaving: boolean }[]
  readonly inc: string
  /** Whether this node is the domain's home. */
  here(domain: string): boolean
  claim(domain: string): Promise<boolean>
  pin(domain: string): () => void
  toNode(inc: string, list: readonly string[], stanza?: Buffer): void
  /** Lost when the domain has no home. */
  toHome(domain: string, list: readonly string[]): void
}

/** What a node says of one of its connections. */
export interface Announced {
  /** Higher than those of connections made before. */
  readonly number: string
  readonly domain: string
  /** The domains that it may get stanzas for. */
  readonly domains: readonly string[]
}

export function announcement(connections: readonly Announced[]): Value {
  return connections.map(({ number, domain, domains }) => ({ number, domain, domains }))
}

/** A connection at another node. Stanzas go there in order; the node says of each message that is kept whether the network has taken it. */
export class RemoteStream implements Announced {
  readonly inc: string
  readonly number: string
  readonly domain: string
  readonly domains: readonly string[]
  readonly #nodes: OtherNodes
  /** What is kept until it is taken there, by the last part of its key. */
  readonly #underWay = new Map<string, Outgoing>()
  #bytes = 0

  constructor(nodes: OtherNodes, inc: string, { number, domain, domains }: Announced) {
    this.#nodes = nodes
    this.inc = inc
    this.number = number
    this.domain = domain
    this.domains = domains
  }

  /** Bytes of messages that are under way. */
  get bytes(): number { return this.#bytes }

  send(stanza: Stanza, key?: Outgoing['key']): void {
    const bytes = stanza.bytes()
    const id = key?.[1] ?? ''
    if (id !== '') {
      this.#underWay.set(id, { stanza, key })
      this.#bytes += bytes.length
    }
    this.#nodes.toNode(this.inc, ['to', this.number, key?.[0] ?? '', id], bytes)
  }

  /** It is not under way any more; undefined when it was not. */
  settle(id: string): Outgoing | undefined {
    const found = this.#underWay.get(id)
    if (found !== undefined && this.#underWay.delete(id)) this.#bytes -= found.stanza.bytes().length
    return found
  }

  /** All that is under way, oldest first, which it is no more. */
  settleAll(): readonly Outgoing[] {
    const all = [...this.#underWay.values()]
    this.#underWay.clear()
    this.#bytes = 0
    return all
  }
}
