/**
 * RFC 7622: addresses. A `Jid` is always prepared (PRECIS UsernameCaseMapped, IDNA, OpaqueString), so two addresses are
 * the same when their strings are.
 */
import { isIPv6 } from 'node:net'
import { domainToASCII } from 'node:url'
// @ts-expect-error tr46 ships no types
import * as tr46 from 'tr46'
import { hasRightToLeft, isFreeform, isIdentifier, obeysBidiRule } from './precis.ts'
import { Recent } from './recent.ts'

/** RFC 7622 §3.2 to §3.4: each part has at most this many bytes of UTF-8. */
export const PART_BYTES_MAX = 1023
/** Longer texts are not prepared: mapping and composing characters does not bring them within the limit of a part. */
const PART_CHARS_MAX = 2 * PART_BYTES_MAX
/** For domains beyond ASCII: DNS has none with more than 253 characters, and IDNA is slow. */
const IDNA_CHARS_MAX = 512

export type JidPart = 'local' | 'domain' | 'resource'

export class JidError extends Error {
  readonly part: JidPart
  constructor(part: JidPart, reason: string) {
    super(`${part}part ${reason}`)
    this.name = 'JidError'
    this.part = part
  }
}

export class Jid {
  /** Empty when absent, as is `resource`. */
  readonly local: string
  readonly domain: string
  readonly resource: string
  /** `local@domain`, or the domain alone. */
  readonly bare: string
  private readonly full: string
  private bareJid: Jid | undefined

  private constructor(local: string, domain: string, resource: string) {
    this.local = local
    this.domain = domain
    this.resource = resource
    this.bare = local === '' ? domain : `${local}@${domain}`
    this.full = resource === '' ? this.bare : `${this.bare}/${resource}`
    this.bareJid = undefined
  }

  /** The one object of an address, as long as it is remembered. */
  private static shared(jid: Jid): Jid {
    const known = recent.get(jid.full)
    if (known !== undefined) return known
    remember(jid.full, jid)
    return jid
  }

  /** Parses and prepares; throws a JidError. Addresses seen lately are answered from a cache. */
  static parse(text: string): Jid {
    const known = recent.get(text)
    if (known !== undefined) return known
    // RFC 7622 §3.1: the first slash ends what may hold an at sign.
    const slash = text.indexOf('/')
    const front = slash < 0 ? text : text.slice(0, slash)
    const at = front.indexOf('@')
    const jid = Jid.shared(new Jid(
      at < 0 ? '' : prepareLocal(front.slice(0, at)),
      prepareDomain(at < 0 ? front : front.slice(at + 1)),
      slash < 0 ? '' : prepareResource(text.slice(slash + 1)),
    ))
    if (jid.full !== text) remember(text, jid)
    return jid
  }

  static tryParse(text: string): Jid | undefined {
    try {
      return Jid.parse(text)
    } catch (error) {
      if (error instanceof JidError) return undefined
      throw error
    }
  }

  /** Prepares the parts; an empty string is an absent part. Throws a JidError. */
  static of(local: string, domain: string, resource = ''): Jid {
    return Jid.shared(new Jid(
      local === '' ? '' : prepareLocal(local),
      prepareDomain(domain),
      resource === '' ? '' : prepareResource(resource),
    ))
  }

  toString(): string {
    return this.full
  }

  toJSON(): string {
    return this.full
  }

  toBare(): Jid {
    if (this.resource === '') return this
    return (this.bareJid ??= Jid.shared(new Jid(this.local, this.domain, '')))
  }

  /** The same account with another resource, or without when it is empty. Throws a JidError. */
  withResource(resource: string): Jid {
    if (resource === '') return this.toBare()
    return Jid.shared(new Jid(this.local, this.domain, prepareResource(resource)))
  }

  equals(other: Jid): boolean {
    return this.full === other.full
  }
}

/** Addresses seen lately by what was parsed. Long texts are not kept, so that all stay within about 10 MB however hostile they are. */
const recent = new Recent<Jid>(20_000)
const RECENT_CHARS_MAX = 256

function remember(text: string, jid: Jid): void {
  if (text.length <= RECENT_CHARS_MAX) recent.set(text, jid)
}

/** Localparts of printable ASCII that preparation leaves as they are: no capitals, no space, none of "&'/:<>@. */
const PLAIN_LOCAL = /^[!#$%()*+,\-.0-9;=?[\\\]^_`a-z{|}~]{1,1023}$/
// RFC 7622 §3.3.1
const LOCAL_PROHIBITED = /["&'/:<>@]/

/** Prepares a localpart: RFC 7622 §3.3, UsernameCaseMapped of RFC 8265 §3.3. Throws a JidError. */
export function prepareLocal(text: string): string {
  if (PLAIN_LOCAL.test(text)) return text
  checkText('local', text)
  const prepared = stable('local', text, (before) => {
    // RFC 8265 §3.3.1: width mapping, then the string class; §3.3.2: case, normalization, direction.
    const narrow = before.replace(/[\uff01-\uffee\u3000]/g, (c) => c.normalize('NFKC'))
    if (!isIdentifier(narrow)) throw new JidError('local', 'has a character that is not allowed')
    const after = narrow.toLowerCase().normalize('NFC')
    if (hasRightToLeft(after) && !obeysBidiRule(after)) throw new JidError('local', 'mixes directions of writing')
    return after
  })
  if (LOCAL_PROHIBITED.test(prepared)) throw new JidError('local', 'has a character that is not allowed')
  return checkSize('local', prepared)
}

const PLAIN_RESOURCE = /^[ -~]{1,1023}$/

/** Prepares a resourcepart: RFC 7622 §3.4, OpaqueString of RFC 8265 §4.2. Throws a JidError. */
export function prepareResource(text: string): string {
  if (PLAIN_RESOURCE.test(text)) return text
  checkText('resource', text)
  const prepared = stable('resource', text, (before) => {
    if (!isFreeform(before)) throw new JidError('resource', 'has a character that is not allowed')
    return before.replace(/\p{Zs}/gu, ' ').normalize('NFC')
  })
  return checkSize('resource', prepared)
}

const PLAIN_DOMAIN = /^(?!..--|.*\...--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/
const IDNA = { checkHyphens: true, checkBidi: true, checkJoiners: true, useSTD3ASCIIRules: true }

/** Prepares a domainpart: RFC 7622 §3.2; its labels are U-labels. Throws a JidError. */
export function prepareDomain(text: string): string {
  if (text.length <= PART_BYTES_MAX) {
    if (PLAIN_DOMAIN.test(text)) return text
    // Only ASCII can match, and its case is all that changes.
    const lower = text.replace(/[A-Z]/g, (c) => c.toLowerCase())
    if (PLAIN_DOMAIN.test(lower)) return lower
  }
  checkText('domain', text)
  if (text.startsWith('[')) return prepareLiteral(text)
  // RFC 7622 §3.2: a final dot is stripped; IDNA knows three more characters for a dot.
  const name = text.replace(/[.\u3002\uff0e\uff61]$/u, '')
  const prepared = stable('domain', name, (before) => {
    const { domain, error } = (tr46 as unknown as Tr46).toUnicode(before, IDNA)
    if (error) throw new JidError('domain', 'is not a domain name')
    return domain
  })
  for (const label of prepared.split('.')) {
    // UTS 46 lets pass symbols that IDNA2008 (RFC 5892) does not.
    if (label === '' || !isIdentifier(label)) throw new JidError('domain', 'is not a domain name')
    if (label.length > 63 || asciiLength(label) > 63) throw new JidError('domain', 'has a label of more than 63 bytes')
  }
  return checkSize('domain', prepared)
}

interface Tr46 {
  toUnicode(domain: string, options: object): { domain: string; error: boolean }
  toASCII(domain: string, options: object): string | null
}

function asciiLength(label: string): number {
  const ascii = (tr46 as unknown as Tr46).toASCII(label, IDNA)
  return ascii === null ? Infinity : ascii.length
}

/** RFC 3986 IP-literal with an IPv6 address, in the spelling of RFC 5952; a zone (RFC 6874) stays as it is. */
function prepareLiteral(text: string): string {
  const match = /^\[([0-9A-Fa-f:.]+)(%25[A-Za-z0-9._~-]+)?\]$/.exec(text)
  const address = match?.[1]
  if (address === undefined || !isIPv6(address)) throw new JidError('domain', 'is not an IPv6 address')
  const canonical = domainToASCII(`[${address}]`)
  return checkSize('domain', `${canonical.slice(0, -1)}${match?.[2] ?? ''}]`)
}

function checkText(part: JidPart, text: string): void {
  if (text === '') throw new JidError(part, 'is empty')
  if (text.length > (part === 'domain' ? IDNA_CHARS_MAX : PART_CHARS_MAX)) throw new JidError(part, 'is too long')
  if (/\p{Surrogate}/u.test(text)) throw new JidError(part, 'is not Unicode')
}

function checkSize(part: JidPart, prepared: string): string {
  if (prepared === '') throw new JidError(part, 'is empty')
  if (prepared.length > PART_BYTES_MAX || Buffer.byteLength(prepared) > PART_BYTES_MAX) {
    throw new JidError(part, `has more than ${PART_BYTES_MAX} bytes`)
  }
  return prepared
}

/** RFC 8264 §7: the rules are applied until nothing changes, three times more at most. */
function stable(part: JidPart, text: string, apply: (text: string) => string): string {
  let before = text
  for (let round = 0; round < 4; round++) {
    const after = apply(before)
    if (after === before) return after
    before = after
  }
  throw new JidError(part, 'has no stable form')
}
