/** The command `s2s-check`: whether another server can be reached, and ours by others, with the configuration and certificates of this server. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { SecureContext } from 'node:tls'
import { createSecureContexts, type SecureContexts } from '../../lib/net/certificates.ts'
import { Jid } from '../../lib/jid.ts'
import type { Config } from '../config/config.ts'
import { createTrust } from '../s2s/certificate.ts'
import { checkDomain, checkOwn, type CheckOptions, type DomainReport, linesOf, type OwnReport, ownLinesOf } from '../s2s/check.ts'
import { createDns } from '../s2s/resolve.ts'

export interface S2sCheck {
  /** The other domain; without one, our own side alone is looked at. */
  readonly domain: string | undefined
  /** The host of ours that asks; the first unless given. */
  readonly from: string | undefined
}

export interface S2sReport {
  readonly works: boolean
  readonly remote: DomainReport | undefined
  readonly own: readonly OwnReport[]
}

/** Looks at the other server, and at the host of ours that asks, or at all of ours. Throws for a domain that cannot be one, and a host that is not ours. */
export async function checkFederation(config: Config, { domain, from }: S2sCheck): Promise<S2sReport> {
  const asked = from === undefined ? config.hosts[0] : domainOf(from)
  if (asked === undefined || !config.hosts.includes(asked)) throw new Error(`${from ?? 'nothing'} is not a host of this server`)
  const remote = domain === undefined ? undefined : domainOf(domain)
  const hosts = remote === undefined && from === undefined ? config.hosts : [asked]
  const certificates = await certificatesOf(config)
  const trust = createTrust(config.s2sTls.caFile)
  const optionsFor = (host: string): CheckOptions => {
    const { families, port, ipv4Address, ipv6Address, timeoutMs, dnsTimeoutMs, dnsRetries } = config.host(host).s2s.outgoing
    const secureContext = contextFor(certificates, config, host)
    return {
      dns: createDns({ servers: config.tidings.nameServers, timeoutMs: dnsTimeoutMs, retries: dnsRetries }),
      families, port, ipv4Address, ipv6Address, timeoutMs, trust, from: host, tls: secureContext === undefined ? {} : { secureContext },
    }
  }
  const found = remote === undefined ? undefined : await checkDomain(remote, optionsFor(asked))
  const own: OwnReport[] = []
  for (const host of hosts) own.push(await checkOwn(host, contextFor(certificates, config, host), optionsFor(host)))
  return { works: found === undefined ? own.every(({ works }) => works) : found.works, remote: found, own }
}

/** The report for people. */
export function reportLines(config: Config, { remote, own }: S2sReport): string[] {
  return [
    ...(remote === undefined ? [] : linesOf(remote)),
    ...own.flatMap((each) => ownLinesOf(each)),
    ...(config.federated ? [] : ['This configuration has no listener of ejabberd_s2s_in: it exchanges nothing with other servers.']),
  ]
}

function domainOf(text: string): string {
  const jid = Jid.tryParse(text)
  if (jid === undefined || jid.local !== '' || jid.resource !== '') throw new Error(`${text} is not a domain`)
  return jid.domain
}

/** Those of `certfiles`; one that the server has signed itself is worth nothing to others. */
async function certificatesOf(config: Config): Promise<SecureContexts | undefined> {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'tidings-check-'))
  try {
    return config.certfiles.length === 0 ? undefined : await createSecureContexts({ hosts: config.hosts, certfiles: config.certfiles, dataDir, selfSigned: false })
  } catch {
    return undefined
  } finally {
    await rm(dataDir, { recursive: true, force: true })
  }
}

function contextFor(certificates: SecureContexts | undefined, config: Config, host: string): SecureContext | undefined {
  return certificates?.optionsFor(config.s2sTls, host).secureContext
}
