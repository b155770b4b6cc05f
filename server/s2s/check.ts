/** Explains whether another server can be reached, and ours by others: every step as two servers take it, up to where one has to prove who it is. */
import type { X509Certificate } from 'node:crypto'
import { duplexPair } from 'node:stream'
import { type SecureContext, TLSSocket, connect as connectTls } from 'node:tls'
import { Connection } from '../../lib/client/connection.ts'
import { namesInCertificate } from '../../lib/net/certificate-names.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { type CertificateCheck, type Trust, checkCertificate, peerPath } from './certificate.ts'
import { type ConnectOptions, connectTarget, serverName } from './connect.ts'
import { type Target, addressesOf, locate } from './resolve.ts'

const SERVER_NS = 'jabber:server'
const TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'

export interface CheckOptions extends ConnectOptions {
  /** The domain of ours that asks. */
  readonly from: string
  readonly trust: Trust
}

export interface ShownCertificate {
  readonly names: readonly string[]
  readonly issuer: string
  readonly from: string
  readonly until: string
  readonly trusted: boolean
  readonly problem?: string
}

/** What a server offers once TLS is there. */
export interface Offer {
  /** It lets us log in by our certificate (XEP-0178). */
  readonly external: boolean
  readonly dialback: boolean
  /** XEP-0288 */
  readonly bidi: boolean
  /** XEP-0198 */
  readonly streamManagement: boolean
}

export interface AddressReport {
  readonly address: string
  readonly family: 4 | 6
  /** What was done, one sentence each; the last is the failure, if there is one. */
  readonly steps: readonly string[]
  readonly isConnected: boolean
  /** The version; undefined where there is no TLS. */
  readonly tls?: string
  readonly certificate?: ShownCertificate
  readonly offer?: Offer
}

export interface TargetReport extends Target {
  readonly dns: readonly string[]
  readonly addresses: readonly AddressReport[]
}

export interface DomainReport {
  readonly domain: string
  readonly dns: readonly string[]
  readonly targets: readonly TargetReport[]
  /** Whether stanzas to the domain would arrive. */
  readonly works: boolean
  readonly conclusion: readonly string[]
}

/** How another server looks from here. Never rejects for what the other does. */
export async function checkDomain(domain: string, asked: CheckOptions): Promise<DomainReport> {
  const { trust: { ca } } = asked
  const options: CheckOptions = { ...asked, tls: { ...(ca === undefined ? {} : { ca: [...ca] }), ...asked.tls } }
  const { families = [6, 4], dns } = options
  const found = await locate(domain, options)
  const targets: TargetReport[] = []
  for (const target of found.targets) {
    const told: string[] = []
    const addresses: AddressReport[] = []
    for (const { family, addresses: ofFamily, problem } of await addressesOf(target.host, families, dns)) {
      told.push(problem ?? `${family === 6 ? 'AAAA' : 'A'} of ${target.host}: ${ofFamily.length === 0 ? 'none' : ofFamily.join(', ')}`)
      for (const address of ofFamily) addresses.push(await probe({ ...target, host: address }, family, domain, options))
    }
    targets.push({ ...target, dns: told, addresses })
  }
  return { domain, dns: found.steps, targets, ...conclude(domain, targets, found.isIncomplete) }
}

/** Connects to one address, and goes as far as the features behind TLS. */
async function probe(target: Target, family: 4 | 6, domain: string, options: CheckOptions): Promise<AddressReport> {
  const { host: address, port } = target
  const prefix = `${address} port ${port}: `
  const steps: string[] = []
  const { connection } = await connectTarget(target, domain, { ...options, families: [family] }, (step) => { if (step.startsWith(prefix)) steps.push(step.slice(prefix.length)) })
  const report = { address, family, steps, isConnected: connection !== undefined || steps.includes('connected') }
  if (connection === undefined) return report
  const stream = Connection.over(connection.socket, domain, SERVER_NS)
  let secured: TLSSocket | undefined = connection.isDirectTls ? connection.socket : undefined
  let shown: ShownCertificate | undefined = secured && shownBy(secured, domain, options.trust)
  let features: Stanza | undefined
  try {
    features = await featuresOf(stream, options)
    if (secured === undefined && features.find('starttls', TLS_NS) === undefined) steps.push('it does not offer STARTTLS')
    else if (secured === undefined) {
      stream.write(`<starttls xmlns='${TLS_NS}'/>`)
      const answer = await stream.nextElement(options.timeoutMs)
      if (answer.name !== 'proceed') throw new Error(`it answers STARTTLS with ${answer.name}`)
      secured = await stream.secureWithTls({ ...options.tls, ...serverName(domain) })
      steps.push(`STARTTLS (${secured.getProtocol() ?? 'unknown'})`)
      shown = shownBy(secured, domain, options.trust)
      features = await featuresOf(stream, options)
    }
    if (shown !== undefined) steps.push(certificateStep(shown))
    const offer = offerOf(features)
    steps.push(`it offers ${offered(offer)}`)
    return { ...report, offer, ...(secured === undefined ? {} : { tls: secured.getProtocol() ?? 'unknown' }), ...(shown === undefined ? {} : { certificate: shown }) }
  } catch (error) {
    if (shown !== undefined) steps.push(certificateStep(shown))
    steps.push(`then it fails: ${(error as Error).message}`)
    return { ...report, ...(shown === undefined ? {} : { certificate: shown }) }
  } finally {
    stream.write('</stream:stream>')
    stream.destroy()
  }
}

async function featuresOf(stream: Connection, { from, timeoutMs }: CheckOptions): Promise<Stanza> {
  stream.openStream({ from, 'xmlns:db': 'jabber:server:dialback' })
  return stream.nextElement(timeoutMs)
}

function offerOf(features: Stanza): Offer {
  const mechanisms = features.find('mechanisms', SASL_NS)
  const names = mechanisms === undefined ? [] : features.childElement(mechanisms).getChildElements().map((each) => each.getText())
  return {
    external: names.includes('EXTERNAL'),
    dialback: features.find('dialback', 'urn:xmpp:features:dialback') !== undefined,
    bidi: features.find('bidi', 'urn:xmpp:features:bidi') !== undefined,
    streamManagement: features.find('sm', 'urn:xmpp:sm:3') !== undefined,
  }
}

function offered({ external, dialback, bidi, streamManagement }: Offer): string {
  const names = [external && 'SASL EXTERNAL', dialback && 'dialback', bidi && 'bidirectional streams', streamManagement && 'stream management'].filter((each) => each !== false)
  return names.length === 0 ? 'nothing' : names.join(', ')
}

function shownBy(socket: TLSSocket, domain: string, trust: Trust): ShownCertificate | undefined {
  const check = checkCertificate(socket, domain, trust)
  const [certificate] = peerPath(socket)
  return certificate && describe(certificate, check)
}

function describe(certificate: X509Certificate, { trusted, problem }: CertificateCheck): ShownCertificate {
  const { dns, srv, xmpp, ip } = namesInCertificate(certificate.raw)
  return {
    names: [...dns, ...srv, ...xmpp, ...ip],
    issuer: certificate.issuer.replaceAll('\n', ', '),
    from: certificate.validFromDate.toISOString(),
    until: certificate.validToDate.toISOString(),
    trusted,
    ...(problem === undefined ? {} : { problem }),
  }
}

function certificateStep({ names, issuer, from, until, trusted, problem }: ShownCertificate): string {
  return `certificate for ${names.length === 0 ? 'nobody' : names.join(', ')}, by ${issuer}, from ${from.slice(0, 10)} until ${until.slice(0, 10)}: ${trusted ? 'believed' : `not believed, ${problem ?? ''}`}`
}

/** RFC 6120 §3.2: whether a stanza would find its way, over the first target that is there. */
function conclude(domain: string, targets: readonly TargetReport[], isIncomplete: boolean): Pick<DomainReport, 'works' | 'conclusion'> {
  if (targets.length === 0) return { works: false, conclusion: [`${domain} says in DNS that it has no server for other servers.`] }
  const all = targets.flatMap((target) => target.addresses.map((each) => ({ target, each })))
  if (all.length === 0) return { works: false, conclusion: [isIncomplete ? `DNS does not answer about ${domain}.` : `There is no server of ${domain}: no address is found for it.`] }
  const conclusion: string[] = []
  for (const { target, each } of all) if (!each.isConnected) conclusion.push(`${each.address} port ${target.port} cannot be connected to: ${each.steps.at(-1) ?? 'no reason is known'}.`)
  const working = all.find(({ each: { offer, certificate } }) => offer !== undefined && (offer.dialback || (offer.external && certificate !== undefined)))
  if (working === undefined) {
    const spoken = all.filter(({ each }) => each.isConnected)
    for (const { target, each } of spoken) conclusion.push(each.offer === undefined ? `${each.address} port ${target.port} does not speak XMPP as a server does: ${each.steps.at(-1) ?? ''}.` : `${each.address} port ${target.port} has no way for us to prove who we are: it offers neither SASL EXTERNAL nor dialback.`)
    return { works: false, conclusion: [...conclusion, `Nothing can be sent to ${domain}.`] }
  }
  const { target, each: { address, tls, certificate, offer } } = working
  const secured = tls === undefined ? 'without TLS' : certificate?.trusted === true ? 'over TLS, with a certificate that is believed here' : `over TLS, with a certificate that is not believed here (${certificate?.problem ?? 'none'})`
  conclusion.push(`${domain} is reached at ${address} port ${target.port}${target.isDirectTls ? ' by direct TLS' : ''}, ${secured}.`)
  conclusion.push(offer?.external === true ? 'It believes our certificate, and we log in by it.' : 'It lets us prove who we are by dialback alone: it has to find our server in DNS and connect to it.')
  if (certificate?.trusted !== true) conclusion.push('It has to prove who it is by dialback, where TLS and certificates are not required here.')
  if (tls === undefined) conclusion.push('What is exchanged can be read on the way; with s2s_use_starttls: required nothing is.')
  return { works: true, conclusion }
}

export interface OwnReport {
  readonly host: string
  readonly dns: readonly string[]
  readonly certificate: ShownCertificate | undefined
  /** How it looks to others, by DNS; undefined where that was not tried. */
  readonly seen: DomainReport | undefined
  readonly works: boolean
  readonly conclusion: readonly string[]
}

/** How a host of ours looks to others. `context` is what it shows them. */
export async function checkOwn(host: string, context: SecureContext | undefined, options: CheckOptions): Promise<OwnReport> {
  const certificate = context && (await shownFrom(context, host, options.trust))
  const seen = await checkDomain(host, options)
  const addresses = seen.targets.flatMap((target) => target.addresses)
  const conclusion = [
    addresses.length === 0 ? `Others do not find ${host} in DNS: it needs a record SRV of _xmpp-server._tcp.${host}, or A or AAAA.` : seen.works ? `Others reach ${host}.` : `${host} is in DNS, but it does not answer from here: ${seen.conclusion.at(0) ?? ''}`,
    certificate === undefined ? `There is no certificate for ${host}.` : certificate.trusted ? `Its certificate is good until ${certificate.until.slice(0, 10)}.` : `Others will not believe its certificate: ${certificate.problem ?? ''}.`,
  ]
  return { host, dns: seen.dns, certificate, seen, works: seen.works && certificate?.trusted === true, conclusion }
}

/** What a certificate of ours is worth to others: a handshake with ourselves, without a network. */
async function shownFrom(context: SecureContext, host: string, trust: Trust): Promise<ShownCertificate | undefined> {
  const [near, far] = duplexPair()
  const server = new TLSSocket(far as never, { isServer: true, secureContext: context })
  const client = connectTls({ socket: near as never, rejectUnauthorized: false, ...serverName(host), ...(trust.ca === undefined ? {} : { ca: [...trust.ca] }) })
  server.on('error', () => {})
  const { promise, resolve } = Promise.withResolvers<ShownCertificate | undefined>()
  client.once('secureConnect', () => { resolve(shownBy(client, host, trust)) }).once('error', () => { resolve(undefined) })
  try {
    return await promise
  } finally {
    client.destroy()
    server.destroy()
  }
}

/** A report as lines for people. */
export function linesOf(report: DomainReport): string[] {
  return [
    `DNS of ${report.domain}`,
    ...report.dns.map((step) => `  ${step}`),
    ...report.targets.flatMap((target) => [
      `${target.host} port ${target.port}${target.isDirectTls ? ', direct TLS' : ''}`,
      ...target.dns.map((step) => `  ${step}`),
      ...target.addresses.flatMap(({ address, steps }) => [`  ${address}`, ...steps.map((step) => `    ${step}`)]),
    ]),
    'Conclusion',
    ...report.conclusion.map((sentence) => `  ${sentence}`),
  ]
}

/** The same of our own side. */
export function ownLinesOf({ host, certificate, seen, conclusion }: OwnReport): string[] {
  return [
    `Our own host ${host}`,
    ...(certificate === undefined ? [] : [`  ${certificateStep(certificate)}`]),
    ...(seen === undefined ? [] : linesOf({ ...seen, conclusion: [] }).slice(0, -1).map((line) => `  ${line}`)),
    ...conclusion.map((sentence) => `  ${sentence}`),
  ]
}
