/** A configuration value that knows where it was written. Made from YAML by `yaml.ts`, or from plain values by `toNode`. */
export interface Where {
  readonly file: string
  readonly line: number
}

export interface ScalarNode extends Where { readonly kind: 'scalar'; readonly value: string | number | boolean | null; /** As written, for numbers that must stay text. */ readonly source: string }
export interface ListNode extends Where { readonly kind: 'list'; readonly items: readonly ConfigNode[] }
export interface MapEntry extends Where { readonly key: string; readonly value: ConfigNode }
/** Entries in the order written, with duplicate keys kept: in ACLs and access rules they add up. */
export interface MapNode extends Where { readonly kind: 'map'; readonly entries: readonly MapEntry[] }
export type ConfigNode = ScalarNode | ListNode | MapNode

/** Plain values as a node, for defaults and tests. */
export function toNode(value: unknown, where: Where = { file: '-', line: 0 }): ConfigNode {
  const { file, line } = where
  if (Array.isArray(value)) return { kind: 'list', items: value.map((item: unknown) => toNode(item, where)), file, line }
  if (value instanceof Map) {
    return { kind: 'map', entries: [...(value as Map<unknown, unknown>)].map(([key, inner]) => ({ key: String(key), value: toNode(inner, where), file, line })), file, line }
  }
  if (typeof value === 'object' && value !== null) return toNode(new Map(Object.entries(value)), where)
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return { kind: 'scalar', value, source: String(value), file, line }
  return { kind: 'scalar', value: null, source: '', file, line }
}

/** The node as a plain value; of duplicate keys the last one counts. */
export function toValue(node: ConfigNode): unknown {
  if (node.kind === 'scalar') return node.value
  if (node.kind === 'list') return node.items.map(toValue)
  const record: Record<string, unknown> = Object.create(null) as Record<string, unknown>
  for (const entry of node.entries) record[entry.key] = toValue(entry.value)
  return record
}

/** Whether a value is one of our nodes rather than a plain value. */
export function isNode(value: unknown): value is ConfigNode {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, 'kind') && Object.hasOwn(value, 'line')
}

/** How a value is quoted in a problem's text. */
export function show(node: ConfigNode): string {
  if (node.kind === 'scalar') return node.value === null ? 'nothing' : `"${node.source}"`
  return node.kind === 'list' ? 'a list' : 'a map'
}

/** A scalar's text as written; undefined for lists, maps and nothing. */
export function textOf(node: ConfigNode): string | undefined {
  if (node.kind !== 'scalar' || node.value === null) return undefined
  return typeof node.value === 'string' ? node.value : node.source
}

/** The last entry of a key. */
export function entryOf(node: ConfigNode, key: string): MapEntry | undefined {
  return node.kind === 'map' ? node.entries.findLast((entry) => entry.key === key) : undefined
}

/** A rule written in place of a rule's name, as a text that stands for it: `=` and the node. */
export function definitionOf(node: ConfigNode): string {
  return `=${JSON.stringify(node)}`
}

/** The node behind a text of `definitionOf`; undefined when the text is a name. */
export function definitionIn(text: string): ConfigNode | undefined {
  return text.startsWith('=') ? JSON.parse(text.slice(1)) as ConfigNode : undefined
}
