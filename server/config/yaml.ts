/** YAML as ejabberd reads it: nodes with their file and line, duplicate keys kept, includes, macros and keywords. */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { isAlias, isMap, isPair, isScalar, isSeq, LineCounter, parseDocument, type Document } from 'yaml'
import { entryOf, show, textOf, toNode, type ConfigNode, type MapEntry, type MapNode, type Where } from './node.ts'
import { type Problem } from './problems.ts'

const NODES_MAX = 100_000
const INCLUDE_DEPTH_MAX = 10
const MACRO_DEPTH_MAX = 10
const KEYS_OF_THIS_READER = new Set(['define_macro', 'define_keyword', 'include_config_file'])

/** Parses one text. What is not YAML is a problem, and the part before it may be missing. */
export function parseYaml(text: string, file: string): { node: ConfigNode; problems: Problem[] } {
  const lines = new LineCounter()
  const document = parseDocument(text, { uniqueKeys: false, lineCounter: lines, version: '1.2', schema: 'core', prettyErrors: false, strict: false, logLevel: 'silent' })
  const problems: Problem[] = document.errors
    // Templates and files of several documents: only the first one counts.
    .filter((error) => error.code !== 'MULTIPLE_DOCS')
    .map((error) => ({ file, line: lines.linePos(error.pos[0]).line, option: 'yaml', level: 'error', text: `is not valid YAML: ${error.message}` }))
  let left = NODES_MAX
  function convert(node: unknown, line: number, depth: number): ConfigNode {
    // Aliases may repeat aliases: count what they unfold to.
    if (left-- <= 0 || depth > 100) throw new Error(`holds more than ${NODES_MAX} values`)
    const range = (node as { range?: [number, number, number] } | null)?.range
    const at = range ? lines.linePos(range[0]).line : line
    if (isAlias(node)) {
      const target = node.resolve(document as Document)
      if (target === undefined) problems.push({ file, line: at, option: 'yaml', level: 'error', text: `"*${node.source}" names no anchor; a text that begins with * needs quotes.` })
      return convert(target, at, depth + 1)
    }
    if (isMap(node)) {
      const entries: MapEntry[] = []
      for (const pair of node.items) {
        if (!isPair(pair)) continue
        const keyRange = (pair.key as { range?: [number, number, number] } | null)?.range
        const keyLine = keyRange ? lines.linePos(keyRange[0]).line : at
        const value = convert(pair.value, keyLine, depth + 1)
        const key = textOf(convert(pair.key, keyLine, depth + 1)) ?? ''
        if (key === '<<' && value.kind === 'map') entries.push(...value.entries)
        else entries.push({ key, value, file, line: keyLine })
      }
      return { kind: 'map', entries, file, line: at }
    }
    if (isSeq(node)) return { kind: 'list', items: node.items.map((item) => convert(item, at, depth + 1)), file, line: at }
    if (isScalar(node)) {
      const value = node.value
      if (typeof value === 'string') return { kind: 'scalar', value, source: value, file, line: at }
      if (typeof value === 'number' || typeof value === 'boolean') return { kind: 'scalar', value, source: node.source ?? String(value), file, line: at }
    }
    return { kind: 'scalar', value: null, source: '', file, line: at }
  }
  try {
    return { node: convert(document.contents, 1, 0), problems }
  } catch (error) {
    problems.push({ file, line: 1, option: 'yaml', level: 'error', text: (error as Error).message })
    return { node: toNode({}, { file, line: 1 }), problems }
  }
}

export interface ReadOptions {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Keywords that need no definition, such as `VERSION`. */
  readonly keywords: Readonly<Record<string, string>>
  readonly readText?: (file: string) => string
}

/** Reads a file with all it includes, and replaces macros and keywords. The answer's top-level keys are unique. */
export function readConfigTree(file: string, options: ReadOptions): { tree: MapNode; problems: Problem[] } {
  const readText = options.readText ?? ((path: string): string => readFileSync(path, 'utf8'))
  const problems: Problem[] = []
  const entries: MapEntry[] = []
  collect(file, { file, line: 1 }, undefined, [])

  const macros = new Map<string, ConfigNode>()
  const keywords = new Map<string, ConfigNode>()
  for (const [name, value] of Object.entries(options.keywords)) keywords.set(name, toNode(value, { file, line: 1 }))
  for (const entry of entries) {
    if (entry.key !== 'define_macro' && entry.key !== 'define_keyword') continue
    const target = entry.key === 'define_macro' ? macros : keywords
    for (const definition of definitions(entry)) target.set(definition.key, definition.value)
  }
  for (const [name, value] of Object.entries(options.env)) {
    const macro = /^EJABBERD_MACRO_(.+)$/.exec(name)?.[1]
    if (macro === undefined || value === undefined) continue
    const decoded = parseYaml(value, `$${name}`)
    problems.push(...decoded.problems)
    macros.set(macro, decoded.node)
  }
  const replaced = entries.filter((entry) => !KEYS_OF_THIS_READER.has(entry.key)).map((entry) => ({ ...entry, value: replace(entry.value, 0) }))
  return { tree: { kind: 'map', entries: join(replaced), file, line: 1 }, problems }

  function collect(path: string, from: Where, filter: ((key: string) => boolean) | undefined, stack: readonly string[]): void {
    const report = (text: string): void => { problems.push({ ...from, option: stack.length === 0 ? 'file' : 'include_config_file', level: 'error', text }) }
    if (stack.includes(path)) { report(`${path} includes itself.`); return }
    if (stack.length >= INCLUDE_DEPTH_MAX) { report(`more than ${INCLUDE_DEPTH_MAX} files include each other.`); return }
    let text
    try {
      text = readText(path)
    } catch (error) {
      report(`${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? (error as Error).message}).`)
      return
    }
    const parsed = parseYaml(text.replace(/^\uFEFF/, ''), path)
    problems.push(...parsed.problems)
    if (parsed.node.kind !== 'map') {
      if (parsed.problems.length === 0 && !(parsed.node.kind === 'scalar' && parsed.node.value === null)) {
        problems.push({ file: path, line: parsed.node.line, option: 'yaml', level: 'error', text: `holds ${show(parsed.node)} where a map of options is expected.` })
      }
      return
    }
    for (const entry of parsed.node.entries) {
      if (filter && !filter(entry.key)) {
        problems.push({ file: path, line: entry.line, option: entry.key, level: 'warning', text: `is left out, because ${from.file}:${from.line} does not allow it in this file.` })
        continue
      }
      if (entry.key === 'include_config_file') includes(entry, path, [...stack, path])
      else entries.push(entry)
    }
  }

  function includes(entry: MapEntry, path: string, stack: readonly string[]): void {
    const items = entry.value.kind === 'list' ? entry.value.items : [entry.value]
    for (const item of items) {
      const name = textOf(item)
      if (name !== undefined) collect(resolve(dirname(path), name), entry, undefined, stack)
      else if (item.kind === 'map') for (const one of item.entries) collect(resolve(dirname(path), one.key), one, filterOf(one.value), stack)
      else problems.push({ file: item.file, line: item.line, option: 'include_config_file', level: 'error', text: `${show(item)} is not allowed here; expected a file name.` })
    }
  }

  /** A macro's whole name, or `@NAME@` within a text. */
  function replace(node: ConfigNode, depth: number): ConfigNode {
    if (depth > MACRO_DEPTH_MAX + 100) return node
    if (node.kind === 'list') return { ...node, items: node.items.map((item) => replace(item, depth + 1)) }
    if (node.kind === 'map') {
      return { ...node, entries: node.entries.map((entry) => ({ ...entry, key: textOf(substitute(entry.key, entry, 0)) ?? entry.key, value: replace(entry.value, depth + 1) })) }
    }
    return typeof node.value === 'string' ? substitute(node.value, node, 0) : node
  }

  function substitute(text: string, at: Where, depth: number): ConfigNode {
    const { file, line } = at
    const plain = (value: string): ConfigNode => ({ kind: 'scalar', value, source: value, file, line })
    if (depth > MACRO_DEPTH_MAX) {
      problems.push({ file, line, option: text, level: 'error', text: 'is a macro that leads back to itself.' })
      return plain('')
    }
    const name = /^@([^@\s]+)@$/.exec(text)?.[1]
    const whole = name === undefined ? macros.get(text) ?? keywords.get(isDefined(text) ? text : '') : macros.get(name) ?? keywords.get(name)
    if (whole) return relocate(whole, at, depth)
    if (!text.includes('@')) return plain(text)
    return plain(text.replace(/@([A-Za-z0-9_]+)@/g, (written, inner: string) => {
      const value = macros.get(inner) ?? keywords.get(inner)
      return value === undefined ? written : textOf(relocate(value, at, depth)) ?? written
    }))
  }

  /** Predefined keywords count only as `@NAME@`. */
  function isDefined(name: string): boolean {
    return !Object.hasOwn(options.keywords, name)
  }

  function relocate(node: ConfigNode, at: Where, depth: number): ConfigNode {
    if (node.kind === 'list') return { ...node, items: node.items.map((item) => relocate(item, at, depth + 1)) }
    if (node.kind === 'map') return { ...node, entries: node.entries.map((entry) => ({ ...entry, value: relocate(entry.value, at, depth + 1) })) }
    const here: ConfigNode = { ...node, file: at.file, line: at.line }
    return typeof node.value === 'string' ? substitute(node.value, here, depth + 1) : here
  }

  /** Top-level keys written more than once are joined when they hold maps or lists; the first file's scalar stands. */
  function join(all: readonly MapEntry[]): MapEntry[] {
    const result = new Map<string, MapEntry>()
    for (const entry of all) {
      const before = result.get(entry.key)
      if (!before) { result.set(entry.key, entry); continue }
      const joined = joinValues(before.value, entry.value)
      if (joined) { result.set(entry.key, { ...before, value: joined }); continue }
      const sameFile = before.file === entry.file
      problems.push({
        file: entry.file, line: entry.line, option: entry.key, level: sameFile ? 'error' : 'warning',
        text: `is already set at ${before.file}:${before.line}, which stands.`,
      })
      // The main file stands whatever comes first.
      if (!sameFile && entry.file === file) result.set(entry.key, entry)
    }
    return [...result.values()]
  }

  function definitions(entry: MapEntry): readonly MapEntry[] {
    const maps = entry.value.kind === 'map' ? [entry.value] : entry.value.kind === 'list' ? entry.value.items : []
    const found = maps.flatMap((map) => map.kind === 'map' ? map.entries : [])
    if (found.length === 0 && textOf(entry.value) !== undefined) {
      problems.push({ file: entry.file, line: entry.line, option: entry.key, level: 'error', text: `${show(entry.value)} is not allowed here; expected a map of names and values.` })
    }
    return found
  }
}

/** Two maps or two lists as one; undefined when the values do not join. */
export function joinValues(one: ConfigNode, other: ConfigNode): ConfigNode | undefined {
  if (one.kind === 'map' && other.kind === 'map') return { ...one, entries: [...one.entries, ...other.entries] }
  if (one.kind === 'list' && other.kind === 'list') return { ...one, items: [...one.items, ...other.items] }
  if (one.kind === 'scalar' && one.value === null) return other
  if (other.kind === 'scalar' && other.value === null) return one
  return undefined
}

function filterOf(node: ConfigNode): (key: string) => boolean {
  const names = (key: string): Set<string> | undefined => {
    const value = entryOf(node, key)?.value
    return value === undefined ? undefined : new Set((value.kind === 'list' ? value.items : [value]).map((item) => textOf(item) ?? ''))
  }
  const disallowed = names('disallow')
  const allowed = names('allow_only')
  return (key) => !(disallowed?.has(key) ?? false) && (allowed?.has(key) ?? true)
}

/** The node with `@HOST@` and the like replaced in every text. */
export function withHost(node: ConfigNode, host: string): ConfigNode {
  if (node.kind === 'list') return { ...node, items: node.items.map((item) => withHost(item, host)) }
  if (node.kind === 'map') return { ...node, entries: node.entries.map((entry) => ({ ...entry, key: put(entry.key), value: withHost(entry.value, host) })) }
  if (typeof node.value !== 'string' || !node.value.includes('@HOST')) return node
  return { ...node, value: put(node.value), source: put(node.source) }

  function put(text: string): string {
    return text.replaceAll('@HOST@', host).replaceAll('@HOST_URL_ENCODE@', encodeURIComponent(host))
  }
}
