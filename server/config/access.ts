/** Who may do what: ejabberd's ACLs, access rules and shaper rules. */
import { BlockList, isIP } from 'node:net'
import { Jid } from '../../lib/jid.ts'
import { definitionIn, show, textOf, type ConfigNode, type MapEntry, type Where } from './node.ts'
import { OptionError } from './options.ts'
import { didYouMean, type Problem } from './problems.ts'

export interface Subject {
  readonly jid?: Jid | undefined
  /** The peer's IP address. */
  readonly address?: string | undefined
}

/** Bytes per second, and how many may come at once. */
export interface Shaper {
  readonly rate: number
  readonly burst: number
}

export interface Access {
  /** Whether a rule (its name, or a definition in place) allows the subject. A name that is not defined allows nobody. */
  allows(rule: string, subject: Subject): boolean
  /** The first matching value of a shaper rule such as `max_user_sessions`; `infinity` is the number Infinity. */
  value(rule: string, subject: Subject): string | number | undefined
  /** The shaper that a shaper rule gives the subject, or that of this name; undefined when none slows it. */
  shaper(rule: string, subject: Subject): Shaper | undefined
}

/** The maps of one host's configuration; a name missing there is looked for in the next layer. */
export interface AccessLayer {
  readonly acl?: ConfigNode | undefined
  readonly accessRules?: ConfigNode | undefined
  readonly shaperRules?: ConfigNode | undefined
  /** The top-level `access` of older files: `name: {acl: result}`. */
  readonly oldAccess?: ConfigNode | undefined
}

/** Whether a subject matches; undefined when this server cannot tell, which allows nothing and denies everything. */
type Matcher = (subject: Subject) => boolean | undefined
type Result = string | number
interface Section { readonly result: Result; readonly matches: Matcher }
type Rule = readonly Section[]

/** Without `max_user_sessions` the limit `sessions_per_user` counts. */
const DEFAULT_SHAPER_RULES: Readonly<Record<string, Result>> = { max_user_offline_messages: 5000 }
const LOOPBACK = ['127.0.0.0/8', '::1/128']
const ACL_KINDS = ['user', 'user_regexp', 'user_glob', 'server', 'server_regexp', 'server_glob', 'resource', 'resource_regexp', 'resource_glob', 'node_regexp', 'node_glob', 'ip', 'acl', 'shared_group', 'access', 'all', 'none']
const EVERYBODY: Matcher = () => true
const NOBODY: Matcher = () => false
const BUILT_IN_ACLS = ['all', 'none', 'local', 'loopback', 'admin', 'blocked', 'anonymous']

/**
 * Compiles the rules. `hosts` are the local domains. `layers` go from the host's own to the global one; problems of each
 * definition are reported where it is written.
 */
export function createAccess(hosts: readonly string[], layers: readonly AccessLayer[], shapers: ReadonlyMap<string, Shaper>): { access: Access; problems: Problem[]; check: (rule: string, kind: 'access' | 'shaper', where: Where & { readonly option: string }) => Problem[] } {
  const problems: Problem[] = []
  const localHosts = new Set(hosts)
  const acls = new Map<string, Matcher>([['all', EVERYBODY], ['none', NOBODY], ['local', ({ jid }) => jid !== undefined && localHosts.has(jid.domain)]])
  acls.set('loopback', networks(LOOPBACK))
  const accessRules = new Map<string, Rule>([['all', allowing('all')], ['none', []], ['local', allowing('local')], ['allow', allowing('all')], ['deny', []], ['configure', allowing('admin')]])
  const shaperRules = new Map<string, Rule>()
  for (const [name, result] of Object.entries(DEFAULT_SHAPER_RULES)) shaperRules.set(name, [{ result, matches: EVERYBODY }])
  const defined = new Set(BUILT_IN_ACLS)
  // The last layer is the global one; the host's own names replace its names.
  for (const layer of layers.toReversed()) {
    for (const { key } of entriesOf(layer.acl, 'acl')) defined.add(key)
  }
  for (const layer of layers.toReversed()) {
    for (const [name, entries] of grouped(entriesOf(layer.acl, 'acl'))) {
      guarded(`acl.${name}`, () => acls.set(name, anyOf(entries.map((entry) => aclRule(entry.value)))))
    }
    for (const { key, value } of entriesOf(layer.oldAccess, 'access')) guarded(`access.${key}`, () => {
      const rule = oldRule(value)
      if (rule.every(({ result }) => result === 'allow' || result === 'deny')) accessRules.set(key, rule)
      else shaperRules.set(key, rule)
    })
    for (const [name, entries] of grouped(entriesOf(layer.accessRules, 'access_rules'))) {
      guarded(`access_rules.${name}`, () => accessRules.set(name, entries.flatMap((entry) => accessRuleOf(entry.value))))
    }
    for (const [name, entries] of grouped(entriesOf(layer.shaperRules, 'shaper_rules'))) {
      guarded(`shaper_rules.${name}`, () => shaperRules.set(name, entries.flatMap((entry) => shaperRuleOf(entry.value))))
    }
  }

  const inPlace = new Map<string, Rule>()
  function ruleInPlace(text: string, compile: (node: ConfigNode) => Rule): Rule | undefined {
    const node = definitionIn(text)
    if (!node) return undefined
    let rule = inPlace.get(text)
    if (!rule) {
      rule = []
      guarded('access', () => { rule = compile(node) })
      inPlace.set(text, rule)
    }
    return rule
  }

  function value(name: string, subject: Subject): Result | undefined {
    const rule = ruleInPlace(name, shaperRuleOf) ?? shaperRules.get(name)
    if (rule) return rule.find(({ matches }) => matches(subject) === true)?.result
    // A number in place of a rule's name stands for itself.
    const number = numberOr(name)
    return typeof number === 'number' ? number : undefined
  }

  const access: Access = {
    allows(name, subject) {
      const rule = ruleInPlace(name, accessRuleOf) ?? accessRules.get(name)
      // First match wins; no match, or no such rule, is a refusal.
      return rule?.find(({ result, matches }) => matches(subject) ?? result === 'deny')?.result === 'allow'
    },
    value,
    shaper(name, subject) {
      const isRule = name.startsWith('=') || shaperRules.has(name)
      const result = isRule ? value(name, subject) : numberOr(name)
      if (typeof result === 'number') return Number.isFinite(result) ? { rate: result, burst: result } : undefined
      return result === undefined ? undefined : shapers.get(result)
    },
  }
  return { access, problems, check }

  /** Problems of a rule that an option names or defines in place. */
  function check(rule: string, kind: 'access' | 'shaper', { file, line, option }: Where & { readonly option: string }): Problem[] {
    const before = problems.length
    if (kind === 'access' ? ruleInPlace(rule, accessRuleOf) : ruleInPlace(rule, shaperRuleOf)) return problems.splice(before)
    const known = kind === 'access' ? accessRules : new Map<string, unknown>([...shaperRules, ...shapers, ['none', true]])
    if (known.has(rule) || (kind === 'shaper' && typeof numberOr(rule) === 'number')) return []
    const happens = kind === 'access' ? 'so it allows nobody' : 'so it slows nobody'
    return [{ file, line, option, level: 'warning', text: `"${rule}" is not defined in ${kind === 'access' ? 'access_rules' : 'shaper or shaper_rules'}, ${happens}.${didYouMean(rule, known.keys())}` }]
  }

  /** Compiles one definition; what cannot be compiled is a problem, and its rule matches nobody. */
  function guarded(option: string, compile: () => void): void {
    try {
      compile()
    } catch (error) {
      if (!(error instanceof OptionError)) throw error
      problems.push({ file: error.node.file, line: error.node.line, option, level: 'error', text: error.message })
    }
  }

  function entriesOf(node: ConfigNode | undefined, option: string): readonly MapEntry[] {
    if (node === undefined || (node.kind === 'scalar' && node.value === null)) return []
    if (node.kind === 'map') return node.entries
    if (node.kind === 'list' && node.items.every((item) => item.kind === 'map')) return node.items.flatMap((item) => item.kind === 'map' ? item.entries : [])
    problems.push({ file: node.file, line: node.line, option, level: 'error', text: `${show(node)} is not allowed here; expected a map of names.` })
    return []
  }

  function allowing(acl: string): Rule {
    return [{ result: 'allow', matches: byName(acl) }]
  }

  /** ACLs may be used before they are defined. */
  function byName(name: string, node?: ConfigNode): Matcher {
    if (node && !defined.has(name)) {
      problems.push({ file: node.file, line: node.line, option: `acl.${name}`, level: 'warning', text: `is not defined, so it matches nobody.${didYouMean(name, defined)}` })
    }
    let running = false
    return (subject) => {
      // An ACL that leads back to itself matches nobody.
      if (running) return false
      running = true
      try { return acls.get(name)?.(subject) ?? (acls.has(name) ? undefined : false) } finally { running = false }
    }
  }

  /** One ACL's value: kinds with values, of which any may match. */
  function aclRule(node: ConfigNode): Matcher {
    if (node.kind === 'list') return anyOf(node.items.map(aclRule))
    if (node.kind === 'map') return anyOf(node.entries.map(kindOf))
    const name = textOf(node)
    return name === undefined ? NOBODY : byName(name, node)
  }

  function kindOf({ key, value: node, file, line }: MapEntry): Matcher {
    const patterns = (): [ConfigNode, ConfigNode | undefined][] => pairsOf(node)
    switch (key) {
      case 'user': return anyOf(patterns().map(([user, server]) => userMatcher(user, server)))
      case 'server': return anyOf(texts(node).map((item) => { const server = domainOf(item); return ({ jid }) => jid?.domain === server }))
      case 'resource': return anyOf(texts(node).map((item) => { const resource = textOf(item); return ({ jid }) => jid !== undefined && jid.resource === resource }))
      case 'user_regexp': case 'user_glob': return anyOf(patterns().map(([pattern, server]) => userPattern(key === 'user_glob', pattern, server)))
      case 'server_regexp': case 'server_glob': return anyOf(texts(node).map((item) => { const test = patternOf(key === 'server_glob', item); return ({ jid }) => jid !== undefined && test(jid.domain) }))
      case 'resource_regexp': case 'resource_glob': return anyOf(texts(node).map((item) => { const test = patternOf(key === 'resource_glob', item); return ({ jid }) => jid !== undefined && test(jid.resource) }))
      case 'node_regexp': case 'node_glob': return anyOf(patterns().map(([user, server]) => nodePattern(key === 'node_glob', user, server)))
      case 'ip': return networks(texts(node).map((item) => networkOf(item)))
      case 'acl': return anyOf(texts(node).map((item) => byName(textOf(item) ?? '', item)))
      case 'access': return anyOf(texts(node).map((item) => { const name = textOf(item) ?? ''; return (subject) => access.allows(name, subject) }))
      case 'all': return EVERYBODY
      case 'none': return NOBODY
      case 'shared_group':
        problems.push({ file, line, option: 'acl.shared_group', level: 'warning', text: 'Shared roster groups are not part of this server: the rule allows nobody, and where it denies it denies everybody.' })
        return () => undefined
      default: {
        // ejabberd also takes a plain ACL name here, as in `allow: {admin: true}`; an unknown kind is a slip of the pen.
        const at = { kind: 'scalar', value: key, source: key, file, line } as const
        throw new OptionError(at, `"${key}" is not a kind of ACL.${didYouMean(key, ACL_KINDS) || ` Known are ${ACL_KINDS.join(', ')}.`}`)
      }
    }
  }

  /** `admin@example.org`, `admin` at any local host, `{admin: example.org}`. */
  function userMatcher(user: ConfigNode, server: ConfigNode | undefined): Matcher {
    const written = textOf(user) ?? ''
    if (server === undefined && written.includes('@')) {
      const jid = Jid.tryParse(written)
      if (!jid || jid.local === '') throw new OptionError(user, `"${written}" is not an address of a user.`)
      const { bare } = jid.toBare()
      return (subject) => subject.jid?.bare === bare
    }
    const local = Jid.tryParse(`${written}@localhost`)?.local
    if (!local) throw new OptionError(user, `"${written}" is not the name of a user.`)
    const domain = server && domainOf(server)
    return ({ jid }) => jid?.local === local && (domain === undefined ? localHosts.has(jid.domain) : jid.domain === domain)
  }

  function userPattern(glob: boolean, pattern: ConfigNode, server: ConfigNode | undefined): Matcher {
    const written = textOf(pattern) ?? ''
    const at = server === undefined ? written.lastIndexOf('@') : -1
    if (at > 0) {
      const test = patternOf(glob, { ...scalarOf(pattern), value: written.slice(0, at), source: written.slice(0, at) })
      const domain = written.slice(at + 1).toLowerCase()
      return ({ jid }) => jid !== undefined && jid.local !== '' && jid.domain === domain && test(jid.local)
    }
    const test = patternOf(glob, pattern)
    const domain = server && domainOf(server)
    return ({ jid }) => jid !== undefined && jid.local !== '' && (domain === undefined ? localHosts.has(jid.domain) : jid.domain === domain) && test(jid.local)
  }

  function nodePattern(glob: boolean, user: ConfigNode, server: ConfigNode | undefined): Matcher {
    const written = textOf(user) ?? ''
    const at = written.lastIndexOf('@')
    if (server === undefined && at < 0) throw new OptionError(user, `"${written}" is not allowed here; expected user@server, each a pattern.`)
    const [local, domain] = server === undefined ? [written.slice(0, at), written.slice(at + 1)] : [written, textOf(server) ?? '']
    const testLocal = patternOf(glob, { ...scalarOf(user), value: local, source: local })
    const testDomain = patternOf(glob, { ...scalarOf(server ?? user), value: domain, source: domain })
    return ({ jid }) => jid !== undefined && testLocal(jid.local) && testDomain(jid.domain)
  }

  /** `- allow: acl`, `- allow`, `{allow: acl, deny: acl}`, also old `{acl: allow}`. */
  function accessRuleOf(node: ConfigNode): Rule {
    return sectionsOf(node).map(([key, condition]) => {
      const name = textOf(key)
      if (name === 'allow' || name === 'deny') return { result: name, matches: conditionOf(condition) }
      const result = condition && textOf(condition)
      if (result === 'allow' || result === 'deny') return { result, matches: byName(name ?? '', key) }
      throw new OptionError(key, `${show(key)} is not allowed here; expected allow or deny.`)
    })
  }

  /** `10`, `normal`, `{5000: admin, 100: all}`, `- none: admin`. */
  function shaperRuleOf(node: ConfigNode): Rule {
    return sectionsOf(node).map(([key, condition]) => {
      const result = numberOr(textOf(key) ?? '')
      if (typeof result === 'string' && result !== 'none' && !shapers.has(result)) {
        problems.push({ file: key.file, line: key.line, option: `shaper.${result}`, level: 'warning', text: `is not defined, so it slows nobody.${didYouMean(result, shapers.keys())}` })
      }
      return { result, matches: conditionOf(condition) }
    })
  }

  /** Older files: `{acl: result}`. */
  function oldRule(node: ConfigNode): Rule {
    if (node.kind === 'scalar') return [{ result: numberOr(textOf(node) ?? ''), matches: EVERYBODY }]
    const maps = node.kind === 'map' ? [node] : node.items
    return maps.flatMap((map) => map.kind === 'map' ? map.entries : []).map((entry) => ({
      result: numberOr(textOf(entry.value) ?? ''), matches: byName(entry.key, { kind: 'scalar', value: entry.key, source: entry.key, file: entry.file, line: entry.line }),
    }))
  }

  /** What stands under `allow`: all of it must match. */
  function conditionOf(node: ConfigNode | undefined): Matcher {
    if (node === undefined) return EVERYBODY
    if (node.kind === 'list') return allOf(node.items.map(conditionOf))
    if (node.kind === 'map') return allOf(node.entries.map(kindOf))
    const name = textOf(node)
    return name === undefined ? EVERYBODY : byName(name, node)
  }
}

/** Sections in the order written: the key, and the condition under it if any. */
function sectionsOf(node: ConfigNode): [ConfigNode, ConfigNode | undefined][] {
  if (node.kind === 'list') return node.items.flatMap(sectionsOf)
  if (node.kind === 'map') {
    return node.entries.map((entry) => [{ kind: 'scalar', value: entry.key, source: entry.key, file: entry.file, line: entry.line }, entry.value])
  }
  return node.value === null ? [] : [[node, undefined]]
}

/** Items with a partner: texts, `{user: server}`, or lists of these. */
function pairsOf(node: ConfigNode): [ConfigNode, ConfigNode | undefined][] {
  return sectionsOf(node)
}

function texts(node: ConfigNode): readonly ConfigNode[] {
  const items = node.kind === 'list' ? node.items : [node]
  for (const item of items) if (textOf(item) === undefined) throw new OptionError(item, `${show(item)} is not allowed here; expected a text.`)
  return items
}

function scalarOf(node: ConfigNode): Extract<ConfigNode, { kind: 'scalar' }> {
  if (node.kind !== 'scalar') throw new OptionError(node, `${show(node)} is not allowed here; expected a text.`)
  return node
}

function domainOf(node: ConfigNode): string {
  const written = textOf(node) ?? ''
  const jid = Jid.tryParse(written)
  if (!jid || jid.local !== '' || jid.resource !== '') throw new OptionError(node, `${show(node)} is not allowed here; expected a domain.`)
  return jid.domain
}

/** A regular expression, found anywhere in the text; or a glob, matching the whole of it. */
function patternOf(glob: boolean, node: ConfigNode): (text: string) => boolean {
  const written = textOf(node)
  if (written === undefined) throw new OptionError(node, `${show(node)} is not allowed here; expected a pattern.`)
  try {
    const expression = new RegExp(glob ? `^${globSource(written)}$` : written, 'u')
    return (text) => expression.test(text)
  } catch (error) {
    throw new OptionError(node, `"${written}" is not a regular expression (${(error as Error).message}).`)
  }
}

function globSource(glob: string): string {
  return glob.replace(/\[!?[^\]]*\]|[\s\S]/gu, (part) => {
    if (part === '*') return '.*'
    if (part === '?') return '.'
    if (part.length > 1 && part.startsWith('[')) return part.replace(/^\[!/, '[^').replaceAll('\\', '\\\\')
    return part.replace(/[\\^$.|+(){}[\]/-]/u, (char) => char === '-' ? '-' : `\\${char}`)
  })
}

function networkOf(node: ConfigNode): string {
  const written = textOf(node) ?? ''
  if (!isNetwork(written)) throw new OptionError(node, `"${written}" is not allowed here; expected an IP address or a network such as 127.0.0.0/8.`)
  return written
}

/** Whether a text is an IP address, or a network such as `10.0.0.0/8`. */
export function isNetwork(written: string): boolean {
  const [address = '', bits, ...rest] = written.split('/')
  const family = isIP(address)
  if (family === 0 || rest.length > 0) return false
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128))
}

/** Matches subjects whose address lies in one of the networks. */
function networks(list: readonly string[]): Matcher {
  const contains = addressMatcher(list)
  return ({ address }) => address !== undefined && contains(address)
}

/** Whether an address lies in one of the networks; IPv4 in IPv6 counts as IPv4. */
export function addressMatcher(list: readonly string[]): (address: string) => boolean {
  const block = new BlockList()
  for (const written of list) {
    const [address = '', bits] = unmapped(written).split('/')
    const family = isIP(address) === 4 ? 'ipv4' : 'ipv6'
    if (bits === undefined) block.addAddress(address, family)
    else block.addSubnet(address, Number(bits), family)
  }
  return (written) => {
    const address = unmapped(written).replace(/%.*$/, '')
    const family = isIP(address)
    return family !== 0 && block.check(address, family === 4 ? 'ipv4' : 'ipv6')
  }
}

function unmapped(address: string): string {
  const match = /^::ffff:(\d+\.\d+\.\d+\.\d+)(?:\/(\d+))?$/i.exec(address)
  if (!match) return address
  return match[2] === undefined ? match[1] ?? '' : `${match[1]}/${Math.max(0, Number(match[2]) - 96)}`
}

/** `infinity` as Infinity, digits as a number, everything else as it is. */
function numberOr(written: string): Result {
  if (written === 'infinity' || written === 'infinite' || written === 'unlimited') return Infinity
  return /^\d+$/.test(written) ? Number(written) : written
}

function grouped(entries: readonly MapEntry[]): Map<string, MapEntry[]> {
  const groups = new Map<string, MapEntry[]>()
  for (const entry of entries) {
    const group = groups.get(entry.key)
    if (group) group.push(entry)
    else groups.set(entry.key, [entry])
  }
  return groups
}

function anyOf(matchers: readonly Matcher[]): Matcher {
  return (subject) => {
    let unsure = false
    for (const matches of matchers) {
      const result = matches(subject)
      if (result === true) return true
      if (result === undefined) unsure = true
    }
    return unsure ? undefined : false
  }
}

function allOf(matchers: readonly Matcher[]): Matcher {
  return (subject) => {
    let unsure = false
    for (const matches of matchers) {
      const result = matches(subject)
      if (result === false) return false
      if (result === undefined) unsure = true
    }
    return unsure ? undefined : true
  }
}
