/**
 * Names of keys. Everything that one script touches is in one slot of a Redis Cluster, told by what stands in braces: a unit, an
 * incarnation of a node, or the word `nodes`.
 *
 *     home:{UNIT}        hash    inc: home, `~` before it once another node is recovering it; by, seq: last operation; last: ms; rec: recovery
 *     offline:{UNIT}     list    offline stanzas, in order of id: {"id", "time", "from", "stanza"}
 *     streams:{UNIT}     hash    streams that can be resumed, and what else waits: key of the row -> value
 *     tail:{UNIT}        string  what of its history the history's store may not have yet
 *     {INC}:node         string  its name; there until everything of it is recovered
 *     {INC}:log          stream  segment-number -> l: ms of the last id, p: payload
 *     {INC}:at           string  number of the last record
 *     {INC}:fence        string  number of the recovery that has closed log and inbox
 *     {INC}:inbox        stream  s: source, f: number of the first piece, p: pieces
 *     {INC}:ways         hash    unit -> incarnations of nodes that were sent, by a recovery, what was on its way to it, in JSON
 *     {INC}:over         hash    last: ms; `r:` and a source: the highest number that it had
 *     {nodes}            hash    incarnation -> NodeInfo, also of lost nodes
 *     {nodes}:leases     hash    incarnation -> renewals; of live nodes alone
 *     {nodes}:lost       sorted set  in the order of their turns
 *     {nodes}:turn       hash    inc: is being recovered; by: by this one; token: number of the recovery
 *     {nodes}:numbers    hash    incarnation -> its number, below 1024
 *     {nodes}:secret     string  of the whole cluster, made by the first node unless it is configured
 */

export interface UnitKeys {
  readonly home: string
  readonly offline: string
  readonly streams: string
  readonly tail: string
}

export interface NodeKeys {
  readonly node: string
  readonly log: string
  readonly at: string
  readonly fence: string
  readonly inbox: string
  readonly ways: string
  readonly over: string
}

export class Keys {
  readonly #prefix: string
  readonly nodes: string
  readonly leases: string
  readonly lost: string
  readonly turn: string
  readonly numbers: string
  readonly secret: string

  constructor(prefix: string) {
    this.#prefix = prefix
    this.nodes = `${prefix}{nodes}`
    this.leases = `${this.nodes}:leases`
    this.lost = `${this.nodes}:lost`
    this.turn = `${this.nodes}:turn`
    this.numbers = `${this.nodes}:numbers`
    this.secret = `${this.nodes}:secret`
  }

  unit(unit: string): UnitKeys {
    const tag = tagOf(unit)
    const prefix = this.#prefix
    return { home: `${prefix}home:${tag}`, offline: `${prefix}offline:${tag}`, streams: `${prefix}streams:${tag}`, tail: `${prefix}tail:${tag}` }
  }

  node(inc: string): NodeKeys {
    const start = `${this.#prefix}${tagOf(inc)}`
    return { node: `${start}:node`, log: `${start}:log`, at: `${start}:at`, fence: `${start}:fence`, inbox: `${start}:inbox`, ways: `${start}:ways`, over: `${start}:over` }
  }
}

/** A hash tag ends at the first `}`, and an empty one is none: names with braces are escaped. */
export function tagOf(name: string): string {
  return name === '' ? '{%}' : `{${name.replaceAll(/[%{}]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)}}`
}
