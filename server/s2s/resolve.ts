/** Where the server of a domain is: RFC 6120 §3.2 with the order of RFC 2782, and XEP-0368 (version 1.1.0). */
import { Resolver } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { isIP, isIPv6 } from 'node:net'
import { domainToASCII } from 'node:url'
import { plainAddress } from '../../lib/net/addresses.ts'

export type Family = 4 | 6

export interface SrvRecord {
  /** Without the dot at its end: empty for the root, by which a domain says that it has no such service. */
  readonly target: string
  readonly port: number
  readonly priority: number
  readonly weight: number
}

/** What is asked of DNS. Both answer with nothing when there is nothing, and reject with a DnsError when there is no answer, or the signal comes first. */
export interface Dns {
  srv(name: string, signal?: AbortSignal): Promise<readonly SrvRecord[]>
  addresses(name: string, family: Family, signal?: AbortSignal): Promise<readonly string[]>
}

/** No answer: the name servers are silent, fail, or cannot be reached. */
export class DnsError extends Error {
  override readonly name = 'DnsError'
}

export interface DnsOptions {
  /** Addresses of name servers, each with `:port` or not; the system's unless given, and then its file of hosts comes first. */
  readonly servers?: readonly string[] | undefined
  /** How long each question to each server waits; 10 s unless given. */
  readonly timeoutMs?: number
  /** How often a question is asked again; 2 unless given. */
  readonly retries?: number
}

/** What a domain says about its server. */
export interface Whereabouts {
  /** In the order in which they are to be tried; empty when there is none. */
  readonly targets: readonly Target[]
  /** Whether an answer is missing that might have named others. */
  readonly isIncomplete: boolean
  /** What was asked and answered, one sentence each. */
  readonly steps: readonly string[]
}

export interface Target {
  /** A name for A and AAAA, in ASCII; or an address. */
  readonly host: string
  readonly port: number
  readonly isDirectTls: boolean
}

const TIMEOUT_MS = 10_000
const RETRIES = 2
/** The port of a server that no SRV record names (RFC 6120 §3.2.2). */
export const PORT_DEFAULT = 5269
/** Others are not tried: whoever writes records for a domain does not choose how many strangers are called on. */
const TARGETS_MAX = 16
const ADDRESSES_MAX = 8
const HOSTS_FILE = '/etc/hosts'

/** Asks name servers anew each time: nothing is kept here, whatever its time to live. */
export function createDns({ servers, timeoutMs = TIMEOUT_MS, retries = RETRIES }: DnsOptions = {}): Dns {
  const ask = async <T>(question: string, run: (resolver: Resolver) => Promise<T[]>, signal: AbortSignal | undefined): Promise<T[]> => {
    // A new one reads anew which name servers the system has.
    const resolver = new Resolver({ timeout: timeoutMs, maxTimeout: timeoutMs, tries: retries + 1 })
    if (servers !== undefined && servers.length > 0) resolver.setServers(servers)
    const onAbort = (): void => { resolver.cancel() }
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      return await run(resolver)
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      if (NOTHING.has(code)) return []
      throw new DnsError(`${question}: ${REASONS[code] ?? code}`)
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }
  return {
    async srv(name, signal) {
      const found = await ask(`SRV of ${name}`, (resolver) => resolver.resolveSrv(name), signal)
      return found.map(({ name: target, port, priority, weight }) => ({ target: target.replace(/\.$/, ''), port, priority, weight }))
    },
    async addresses(name, family, signal) {
      const listed = servers === undefined || servers.length === 0 ? await listedAddresses(name) : []
      if (listed.length > 0) return listed.filter((address) => isIP(address) === family)
      const found = family === 6
        ? await ask(`AAAA of ${name}`, (resolver) => resolver.resolve6(name), signal)
        : await ask(`A of ${name}`, (resolver) => resolver.resolve4(name), signal)
      return found.slice(0, ADDRESSES_MAX)
    },
  }
}

/** There is no such name, or none with such records. */
const NOTHING: ReadonlySet<string> = new Set(['ENOTFOUND', 'ENODATA', 'EBADNAME', 'EBADQUERY'])
const REASONS: Readonly<Record<string, string>> = {
  ETIMEOUT: 'the name server does not answer', ESERVFAIL: 'the name server has failed (SERVFAIL)', EREFUSED: 'the name server refuses',
  ECONNREFUSED: 'no name server can be reached', EBADRESP: 'the name server answers nonsense', EFORMERR: 'the name server does not understand the question',
}

/** What the system's file of hosts has for a name. */
async function listedAddresses(name: string): Promise<readonly string[]> {
  const text = await readFile(HOSTS_FILE, 'utf8').catch(() => '')
  return addressesInHosts(text, name)
}

/** The addresses of a name in a file like /etc/hosts. */
export function addressesInHosts(text: string, name: string): readonly string[] {
  const found: string[] = []
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isIP(address) !== 0 && names.some((each) => each.toLowerCase() === name)) found.push(address)
  }
  return found.slice(0, ADDRESSES_MAX)
}

/** A domain as DNS and certificates write it; undefined when it can be no name there. Addresses stay as they are, without brackets. */
export function asciiDomain(domain: string): string | undefined {
  const literal = addressOf(domain)
  if (literal !== undefined) return literal
  const ascii = domainToASCII(domain).replace(/\.$/, '')
  return ascii === '' || ascii.length > 253 || ascii.split('.').some((label) => label === '' || label.length > 63) ? undefined : ascii
}

/** The address that a domain is in place of a name (RFC 7622 §3.2), if it is one. */
export function addressOf(domain: string): string | undefined {
  const bare = domain.startsWith('[') && domain.endsWith(']') ? domain.slice(1, -1) : domain
  return (bare === domain ? isIP(bare) === 4 : isIPv6(bare)) ? bare : undefined
}

export interface LocateOptions {
  readonly dns: Dns
  /** In place of 5269, for domains without SRV records. */
  readonly port?: number
  /** From 0 up to 1, for tests. */
  readonly random?: () => number
  readonly signal?: AbortSignal | undefined
}

/** Finds where the server of a domain may be. Never rejects for what DNS says. */
export async function locate(domain: string, { dns, port = PORT_DEFAULT, random = Math.random, signal }: LocateOptions): Promise<Whereabouts> {
  const name = asciiDomain(domain)
  if (name === undefined) return { targets: [], isIncomplete: false, steps: [`${domain} is not a name that DNS can have`] }
  if (addressOf(domain) !== undefined) return { targets: [{ host: name, port, isDirectTls: false }], isIncomplete: false, steps: [`${domain} is an address`] }

  const [direct, plain] = await Promise.all([ask(dns, `_xmpps-server._tcp.${name}`, signal), ask(dns, `_xmpp-server._tcp.${name}`, signal)])
  const steps = [direct, plain].map(({ step }) => step)
  const isIncomplete = direct.records === undefined || plain.records === undefined
  // XEP-0368 §2: priorities and weights of both services are mixed.
  const offered = [
    ...(direct.records ?? []).map((record) => ({ ...record, isDirectTls: true })),
    ...(plain.records ?? []).map((record) => ({ ...record, isDirectTls: false })),
  ]
  // RFC 6120 §3.2.1: without an answer, or with none in it, the domain itself; XEP-0368 §3: not when any record says that there is no service.
  if (offered.length === 0) {
    return { targets: [{ host: name, port, isDirectTls: false }], isIncomplete, steps: [...steps, `so ${name} itself is tried, on port ${port}`] }
  }
  const usable = offered.filter(({ target, port: offeredPort }) => target !== '' && offeredPort > 0 && asciiDomain(target) !== undefined)
  const targets = inOrder(usable, random).slice(0, TARGETS_MAX).map(({ target, port: offeredPort, isDirectTls }) => ({ host: target.toLowerCase(), port: offeredPort, isDirectTls }))
  return { targets, isIncomplete, steps: targets.length > 0 ? steps : [...steps, `so ${name} has no server for other servers`] }
}

async function ask(dns: Dns, name: string, signal: AbortSignal | undefined): Promise<{ records: readonly SrvRecord[] | undefined; step: string }> {
  try {
    const records = await dns.srv(name, signal)
    const told = records.map(({ target, port, priority, weight }) => `${priority} ${weight} ${port} ${target === '' ? '.' : target}`)
    return { records, step: `SRV of ${name}: ${told.length === 0 ? 'none' : told.slice(0, TARGETS_MAX).join(', ')}` }
  } catch (error) {
    if (!(error instanceof DnsError)) throw error
    return { records: undefined, step: error.message }
  }
}

/** RFC 2782: lower priorities first; among equals by chance, in proportion to their weights. */
export function inOrder<R extends Pick<SrvRecord, 'priority' | 'weight'>>(records: readonly R[], random: () => number = Math.random): R[] {
  const ordered: R[] = []
  for (const [, group] of [...Map.groupBy(records, ({ priority }) => priority)].sort(([one], [other]) => one - other)) {
    // Those of weight 0 stand first, so that they have a small chance too.
    const left = group.toSorted((one, other) => Math.sign(one.weight) - Math.sign(other.weight))
    while (left.length > 0) {
      const sum = left.reduce((total, { weight }) => total + weight, 0)
      const drawn = Math.floor(random() * (sum + 1))
      let running = 0
      const at = left.findIndex(({ weight }) => (running += weight) >= drawn)
      ordered.push(...left.splice(at, 1))
    }
  }
  return ordered
}

/** All addresses of a host in the order of the families, each with what was said of it. For those who explain; connecting begins before all are known. */
export async function addressesOf(host: string, families: readonly Family[], dns: Dns): Promise<readonly { readonly family: Family; readonly addresses: readonly string[]; readonly problem?: string }[]> {
  return Promise.all(families.map(async (family) => {
    try {
      return { family, addresses: await familyAddresses(host, family, dns) }
    } catch (error) {
      if (!(error instanceof DnsError)) throw error
      return { family, addresses: [], problem: error.message }
    }
  }))
}

/** Addresses of one family of a host, which may be an address itself. Rejects with a DnsError. */
export async function familyAddresses(host: string, family: Family, dns: Dns, signal?: AbortSignal): Promise<readonly string[]> {
  if (isIP(host) === 0) return dns.addresses(host, family, signal)
  const plain = plainAddress(host)
  return isIP(plain) === family ? [plain] : []
}
