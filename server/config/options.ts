/** Options as data: type, default and a line of help. The reader, the checks and the manual page are made from the tables. */
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { definitionOf, isNode, show, textOf, toNode, toValue, type ConfigNode, type MapNode, type Where } from './node.ts'
import { moduleNames, removedModuleOptionNames } from './ejabberd-names.ts'
import { didYouMean, type Problem } from './problems.ts'

export interface OptionType<T> {
  /** What is allowed, for the manual and for problems: `an integer from 1 to 10`. */
  readonly expects: string
  /** For names of rules: which kind, so that undefined names are found. */
  readonly rule?: 'access' | 'shaper'
  /** Throws an OptionError when the value is not allowed. */
  parse(node: ConfigNode): T
}

export interface OptionSpec<T> {
  readonly type: OptionType<T>
  readonly default: T
  readonly help: string
  /** Accepted, but this server does something else: the text says what, or undefined where it does not. Reported as a warning. */
  readonly ignored?: string | (() => string | undefined)
}

export type OptionTable<O> = { readonly [K in keyof O]: OptionSpec<O[K]> }

/** A value that an option does not allow. */
export class OptionError extends Error {
  readonly node: ConfigNode
  constructor(node: ConfigNode, message: string) {
    super(message)
    this.name = 'OptionError'
    this.node = node
  }
}

function refuse(node: ConfigNode, expects: string): never {
  throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
}

const YES = new Set(['true', 'yes', 'on', 'y'])
const NO = new Set(['false', 'no', 'off', 'n'])
const INFINITE = new Set(['infinity', 'infinite', 'unlimited'])

/** `true false yes no on off y n`. */
export function bool(): OptionType<boolean> {
  const expects = 'true or false'
  return {
    expects,
    parse(node) {
      const text = textOf(node)?.toLowerCase() ?? ''
      if (YES.has(text)) return true
      if (NO.has(text)) return false
      return refuse(node, expects)
    },
  }
}

/** An integer; with `infinity: true` also `infinity`, as the number Infinity. */
export function int(range: { readonly min?: number; readonly max?: number; readonly infinity?: boolean } = {}): OptionType<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, infinity = false } = range
  const upTo = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`
  const expects = infinity ? `${upTo}, or infinity` : upTo
  return {
    expects,
    parse(node) {
      const text = textOf(node) ?? ''
      if (infinity && INFINITE.has(text)) return Infinity
      const value = /^[+-]?\d[\d_]*$/.test(text) ? Number(text.replaceAll('_', '')) : NaN
      return Number.isSafeInteger(value) && value >= min && value <= max ? value : refuse(node, expects)
    },
  }
}

/** Permissions of a file in octal digits, such as `0660`. */
export function octal(): OptionType<number | undefined> {
  const expects = 'permissions in octal digits such as "0660"'
  return {
    expects,
    parse(node) {
      const written = textOf(node)?.replace(/^0o/, '') ?? ''
      return /^0?[0-7]{1,3}$/.test(written) ? Number.parseInt(written, 8) : refuse(node, expects)
    },
  }
}

/** Any text; numbers and booleans are taken as written. */
export function text(): OptionType<string> {
  const expects = 'a text'
  return { expects, parse: (node) => textOf(node) ?? (node.kind === 'scalar' ? '' : refuse(node, expects)) }
}

/** A text of a certain form. */
export function matching(pattern: RegExp, expects: string): OptionType<string> {
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? ''
      return pattern.test(written) ? written : refuse(node, expects)
    },
  }
}

const UNITS: Readonly<Record<string, number>> = {
  ms: 1, millisecond: 1, milliseconds: 1,
  s: 1000, sec: 1000, secs: 1000, second: 1000, seconds: 1000,
  m: 60_000, min: 60_000, mins: 60_000, minute: 60_000, minutes: 60_000,
  h: 3_600_000, hour: 3_600_000, hours: 3_600_000,
  d: 86_400_000, day: 86_400_000, days: 86_400_000,
}

/** The longest a timer of Node's can wait, some 25 days; one that is told more fires at once. */
const TIMER_MAX_MS = 2 ** 31 - 1

interface DurationRange {
  /** What a bare number counts. */
  readonly unit?: string
  readonly min?: number
  readonly infinity?: boolean
  /** For timers: infinity and all that is longer is the longest they can wait. */
  readonly timer?: boolean
}

/** A time in milliseconds: a number of `unit` (seconds unless told), `5 minutes`, `30 s`, `1d`, or infinity unless that is not allowed. */
export function duration({ unit = 's', min = 1, infinity = true, timer = false }: DurationRange = {}): OptionType<number> {
  const expects = `a time such as "30 s", "5 minutes" or "1d"${infinity ? ', or infinity' : ''}; a bare number counts ${unit === 's' ? 'seconds' : unit}`
  const max = timer ? TIMER_MAX_MS : Infinity
  return {
    expects,
    parse(node) {
      const written = (textOf(node) ?? '').trim().toLowerCase()
      if (infinity && INFINITE.has(written)) return max
      const match = /^(\d+)\s*([a-z]*)$/.exec(written)
      const factor = match ? UNITS[match[2] === '' ? unit : match[2] ?? ''] : undefined
      const value = match && factor !== undefined ? Number(match[1]) * factor : NaN
      return Number.isSafeInteger(value) && value >= min ? Math.min(value, max) : refuse(node, expects)
    },
  }
}

const SIZES: Readonly<Record<string, number>> = { '': 1, b: 1, k: 1024, kb: 1024, kib: 1024, m: 1024 ** 2, mb: 1024 ** 2, mib: 1024 ** 2, g: 1024 ** 3, gb: 1024 ** 3, gib: 1024 ** 3 }

/** A number of bytes: `262144`, `256 KB`, `10mb`, or infinity. */
export function size({ min = 0 }: { readonly min?: number } = {}): OptionType<number> {
  const expects = 'a number of bytes such as 262144 or "10 MB", or infinity'
  return {
    expects,
    parse(node) {
      const written = (textOf(node) ?? '').trim().toLowerCase()
      if (INFINITE.has(written)) return Infinity
      const match = /^(\d[\d_]*)\s*([a-z]*)$/.exec(written)
      const factor = match ? SIZES[match[2] ?? ''] : undefined
      const value = match && factor !== undefined ? Number((match[1] ?? '').replaceAll('_', '')) * factor : NaN
      return Number.isSafeInteger(value) && value >= min ? value : refuse(node, expects)
    },
  }
}

/** A list, or a single value in place of a list of one. */
export function list<T>(of: OptionType<T>): OptionType<readonly T[]> {
  return {
    expects: `a list, each item ${of.expects}`,
    parse(node) {
      if (node.kind === 'list') return node.items.map((item) => of.parse(item))
      return node.kind === 'scalar' && node.value === null ? [] : [of.parse(node)]
    },
  }
}

/** One of a few words; `true`, `false` and numbers may be among them as text. */
export function oneOf<const Words extends readonly string[]>(...words: Words): OptionType<Words[number]> {
  const expects = words.length === 1 ? `"${words[0]}"` : `one of ${words.join(', ')}`
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? ''
      const found = words.find((word) => word === written)
        ?? (typeof written === 'string' && YES.has(written) ? words.find((word) => word === 'true') : undefined)
        ?? (NO.has(written) ? words.find((word) => word === 'false') : undefined)
      return found ?? refuse(node, expects)
    },
  }
}

/** Either of two types; the first that fits. */
export function either<A, B>(one: OptionType<A>, other: OptionType<B>): OptionType<A | B> {
  const expects = `${one.expects}, or ${other.expects}`
  return {
    expects,
    parse(node) {
      try { return one.parse(node) } catch { /* the other one then */ }
      try { return other.parse(node) } catch { return refuse(node, expects) }
    },
  }
}

/** The name of an access rule, or a definition in place: both are given to `access.allows(rule, …)` as they are. */
export function accessRule(): OptionType<string> {
  return { rule: 'access', expects: 'the name of an access rule, or a list of allow and deny rules', parse: (node) => textOf(node) ?? definitionOf(node) }
}

/** The name of a shaper rule or a shaper, a number, or a definition in place: given to `access.value` or `access.shaper`. */
export function shaperRule(): OptionType<string> {
  return { rule: 'shaper', expects: 'the name of a shaper or of a shaper rule', parse: (node) => textOf(node) ?? definitionOf(node) }
}

/** A domain, or several by `@HOST@`, which is replaced by the host that the module runs for. */
export function host(): OptionType<string> {
  const expects = 'a domain such as "upload.@HOST@"'
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? ''
      return written !== '' && !/[\s/@<>"'&]/.test(written.replaceAll('@HOST@', '')) ? written.toLowerCase().replaceAll('@host@', '@HOST@') : refuse(node, expects)
    },
  }
}

/** Any value at all, as plain data. */
export function anything(): OptionType<unknown> {
  return { expects: 'any value', parse: toValue }
}

/** A map with free keys; a list of one-key maps counts as one map. */
export function map<T>(of: OptionType<T>): OptionType<ReadonlyMap<string, T>> {
  const expects = `a map, each value ${of.expects}`
  return {
    expects,
    parse(node) {
      const result = new Map<string, T>()
      if (node.kind === 'scalar' && node.value === null) return result
      const maps = node.kind === 'map' ? [node] : node.kind === 'list' ? node.items : refuse(node, expects)
      for (const inner of maps) {
        if (inner.kind !== 'map') refuse(inner, expects)
        else for (const entry of inner.entries) result.set(entry.key, of.parse(entry.value))
      }
      return result
    },
  }
}

/** HTTP headers by name. */
export function headers(): OptionType<ReadonlyMap<string, string>> {
  const any = map(text())
  const expects = 'a map of HTTP headers'
  return {
    expects,
    parse(node) {
      const found = any.parse(node)
      for (const [name, value] of found) {
        try {
          validateHeaderName(name)
          validateHeaderValue(name, value)
        } catch (error) {
          throw new OptionError(node, `"${name}" is not allowed here; expected ${expects} (${(error as Error).message}).`)
        }
      }
      return found
    },
  }
}

/** A map with known keys, all optional. */
export function record<O extends object>(table: OptionTable<O>): OptionType<O> {
  const keys = Object.keys(table)
  return {
    expects: `a map with ${keys.join(', ')}`,
    parse(node) {
      const { options, problems } = parseOptions(table, node, { option: '' })
      const first = problems.find((problem) => problem.level === 'error')
      if (first) throw new OptionError({ ...node, file: first.file, line: first.line }, `${first.option}: ${first.text}`)
      return options
    },
  }
}

const UNUSED_NAMES = new Set(['db_type', 'ram_db_type', 'use_cache', 'cache_size', 'cache_missed', 'cache_life_time'])

/** What ejabberd calls a store of its own, which is what is used. */
const OWN_STORE = new Set(['mnesia', 'internal'])

export interface OptionsWhere {
  /** Path of the map itself, such as `modules.mod_mam`. */
  readonly option: string
  readonly file?: string
  readonly line?: number
  /** Names that ejabberd knows at this place: a warning with this text instead of an error. */
  readonly known?: { readonly names: Iterable<string>; readonly text: string }
}

/**
 * Reads a map of options by its table. Every value that is missing or wrong is its default, and every name or value that
 * cannot be used is a problem. `raw` is a module's value in `HostConfig.modules`; plain values do too.
 */
export function parseOptions<O extends object>(table: OptionTable<O>, raw: unknown, where: OptionsWhere): { options: O; problems: Problem[] } {
  const place: Where = { file: where.file ?? '-', line: where.line ?? 0 }
  const node = isNode(raw) ? raw : toNode(raw, place)
  const problems: Problem[] = []
  const specs = table as Readonly<Record<string, OptionSpec<unknown>>>
  const options: Record<string, unknown> = {}
  for (const [name, spec] of Object.entries(specs)) options[name] = spec.default
  const path = (name: string): string => where.option === '' ? name : `${where.option}.${name}`
  const seen = new Set<string>()
  for (const { key, value, file, line } of entriesOf(node, where.option, problems)) {
    const report = (level: Problem['level'], text: string, at: Where = { file, line }): void => {
      problems.push({ file: at.file, line: at.line, option: path(key), level, text })
    }
    const spec = Object.hasOwn(specs, key) ? specs[key] : undefined
    if (!spec) {
      const module = /^modules\.(\w+)$/.exec(where.option)?.[1] ?? ''
      if (where.known && new Set(where.known.names).has(key)) report('warning', where.known.text)
      // The one store of somebody else's that a module may have.
      else if (key === 'db_type' && textOf(value) === 'ldap' && Object.hasOwn(specs, 'ldap_base')) continue
      else if (OWN_STORE.has(textOf(value) ?? '') && (key === 'db_type' || key === 'ram_db_type') && moduleNames.get(module)?.has(key)) continue
      else if (moduleNames.get(module)?.has(key)) report('warning', UNUSED_NAMES.has(key) ? 'has no effect: everything is kept in this server\'s own store, with caches of its own.' : 'has no effect: this server does not have this option of ejabberd\'s.')
      else if (removedModuleOptionNames.has(key)) report('warning', 'has no effect: it is an option of older versions of ejabberd.')
      else report('error', `is not an option here.${didYouMean(key, Object.keys(specs)) || ` Known are ${Object.keys(specs).join(', ') || 'none'}.`}`)
      continue
    }
    if (seen.has(key)) { report('error', 'is set twice.'); continue }
    seen.add(key)
    try {
      const parsed = spec.type.parse(value)
      options[key] = parsed
      // What is set to the default asks for nothing else than what happens.
      if (spec.ignored === undefined || (typeof parsed !== 'object' && parsed === spec.default)) continue
      const ignored = typeof spec.ignored === 'string' ? spec.ignored : spec.ignored()
      if (ignored !== undefined) report('warning', ignored)
    } catch (error) {
      if (!(error instanceof OptionError)) throw error
      report('error', error.message, error.node)
    }
  }
  return { options: options as O, problems }
}

/** The entries of a map, or of a list of one-key maps as older files write them. */
function entriesOf(node: ConfigNode, option: string, problems: Problem[]): MapNode['entries'] {
  if (node.kind === 'map') return node.entries
  if (node.kind === 'scalar' && (node.value === null || node.value === '')) return []
  if (node.kind === 'list') {
    const maps = node.items.filter((item) => item.kind === 'map')
    if (maps.length === node.items.length) return maps.flatMap((item) => item.entries)
  }
  problems.push({ file: node.file, line: node.line, option, level: 'error', text: `${show(node)} is not allowed here; expected a map of options.` })
  return []
}
