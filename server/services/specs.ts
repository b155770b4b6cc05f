/** Writes docs/specs.md and doap.xml from the declarations of the extensions and from the specs that the code names. */
import { readFileSync, writeFileSync } from 'node:fs'
import { glob } from 'node:fs/promises'
import path from 'node:path'
import type { Spec } from '../extensions/extension.ts'
import { extensions } from '../extensions/index.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')

/** What the core obeys, without an extension. */
const CORE: readonly Spec[] = [
  { rfc: 6120, status: 'complete' },
  { rfc: 6121, status: 'complete' },
  { rfc: 7395, status: 'complete' },
  { rfc: 7622, status: 'complete' },
  { rfc: 7590, status: 'complete' },
  { rfc: 5802, status: 'complete' },
  { rfc: 7677, status: 'complete' },
  { rfc: 5929, status: 'partial', note: 'tls-server-end-point' },
  { rfc: 9266, status: 'complete' },
  { rfc: 4505, status: 'complete' },
  { rfc: 7628, status: 'partial', note: 'bearer tokens that are JSON Web Tokens' },
  { xep: 175, version: '1.2', status: 'complete' },
  { xep: 178, version: '1.2', status: 'complete' },
  { xep: 388, version: '1.0.4', status: 'complete' },
  { xep: 386, version: '1.1.0', status: 'complete' },
  { xep: 440, version: '1.0.0', status: 'complete' },
  { xep: 474, version: '0.5.0', status: 'complete' },
  { xep: 368, version: '1.1.0', status: 'partial', note: 'TLS from the first byte; SRV records are the operator\'s' },
  { xep: 114, version: '1.6', status: 'complete', note: 'components that connect (jabber:component:accept)' },
]

const NAMES: Readonly<Record<string, string>> = {
  'RFC 2782': 'SRV Records', 'RFC 4013': 'SASLprep', 'RFC 4422': 'SASL', 'RFC 4505': 'SASL ANONYMOUS', 'RFC 4616': 'SASL PLAIN', 'RFC 4985': 'SRV Names in Certificates', 'RFC 5056': 'Channel bindings', 'RFC 5802': 'SASL SCRAM', 'RFC 5929': 'Channel bindings for TLS',
  'RFC 6120': 'XMPP: Core', 'RFC 6121': 'XMPP: Instant Messaging and Presence', 'RFC 6122': 'XMPP: Address Format (replaced by RFC 7622)', 'RFC 7395': 'XMPP over WebSocket',
  'RFC 7590': 'Use of TLS in XMPP', 'RFC 7622': 'XMPP: Address Format', 'RFC 7628': 'SASL OAUTHBEARER', 'RFC 7677': 'SCRAM-SHA-256', 'RFC 6125': 'Names in Certificates', 'RFC 8264': 'PRECIS Framework', 'RFC 8265': 'PRECIS: Usernames and Passwords', 'RFC 8305': 'Happy Eyeballs',
  'RFC 8996': 'Deprecating TLS 1.0 and 1.1', 'RFC 9110': 'HTTP Semantics', 'RFC 9112': 'HTTP/1.1', 'RFC 9266': 'Channel Bindings for TLS 1.3', 'RFC 9525': 'Service Identity in TLS',
  'XEP-0004': 'Data Forms', 'XEP-0013': 'Flexible Offline Message Retrieval', 'XEP-0055': 'Jabber Search', 'XEP-0012': 'Last Activity', 'XEP-0016': 'Privacy Lists', 'XEP-0030': 'Service Discovery', 'XEP-0045': 'Multi-User Chat', 'XEP-0048': 'Bookmarks',
  'XEP-0049': 'Private XML Storage', 'XEP-0050': 'Ad-Hoc Commands', 'XEP-0054': 'vcard-temp', 'XEP-0059': 'Result Set Management', 'XEP-0060': 'Publish-Subscribe',
  'XEP-0077': 'In-Band Registration', 'XEP-0078': 'Non-SASL Authentication', 'XEP-0082': 'Date and Time Profiles', 'XEP-0083': 'Nested Roster Groups', 'XEP-0084': 'User Avatar',
  'XEP-0085': 'Chat State Notifications', 'XEP-0092': 'Software Version', 'XEP-0100': 'Gateway Interaction', 'XEP-0106': 'JID Escaping', 'XEP-0114': 'Jabber Component Protocol',
  'XEP-0115': 'Entity Capabilities', 'XEP-0122': 'Data Forms Validation', 'XEP-0124': 'BOSH', 'XEP-0128': 'Service Discovery Extensions', 'XEP-0131': 'Stanza Headers and Internet Metadata',
  'XEP-0133': 'Service Administration', 'XEP-0138': 'Stream Compression', 'XEP-0141': 'Data Forms Layout', 'XEP-0144': 'Roster Item Exchange', 'XEP-0145': 'Annotations',
  'XEP-0153': 'vCard-Based Avatars', 'XEP-0156': 'Discovering Alternative Connection Methods', 'XEP-0157': 'Contact Addresses for XMPP Services', 'XEP-0160': 'Best Practices for Offline Messages',
  'XEP-0163': 'Personal Eventing Protocol', 'XEP-0170': 'Recommended Order of Stream Feature Negotiation', 'XEP-0175': 'SASL ANONYMOUS', 'XEP-0178': 'SASL EXTERNAL', 'XEP-0184': 'Message Delivery Receipts',
  'XEP-0185': 'Dialback Key Generation', 'XEP-0190': 'Closing Idle Streams', 'XEP-0191': 'Blocking Command', 'XEP-0193': 'Proposed Resource Binding Improvements', 'XEP-0198': 'Stream Management',
  'XEP-0199': 'XMPP Ping', 'XEP-0202': 'Entity Time', 'XEP-0203': 'Delayed Delivery', 'XEP-0205': 'Denial of Service', 'XEP-0206': 'XMPP over BOSH', 'XEP-0220': 'Server Dialback',
  'XEP-0223': 'Persistent Storage of Private Data via PubSub', 'XEP-0227': 'Portable Import/Export Format', 'XEP-0237': 'Roster Versioning', 'XEP-0249': 'Direct MUC Invitations',
  'XEP-0256': 'Last Activity in Presence', 'XEP-0280': 'Message Carbons', 'XEP-0288': 'Bidirectional Server-to-Server Connections', 'XEP-0286': 'Mobile Considerations', 'XEP-0296': 'Best Practices for Resource Locking', 'XEP-0297': 'Stanza Forwarding',
  'XEP-0300': 'Cryptographic Hash Functions', 'XEP-0308': 'Last Message Correction', 'XEP-0312': 'PubSub Since', 'XEP-0313': 'Message Archive Management', 'XEP-0317': 'Hats',
  'XEP-0333': 'Displayed Markers', 'XEP-0334': 'Message Processing Hints', 'XEP-0352': 'Client State Indication', 'XEP-0355': 'Namespace Delegation', 'XEP-0356': 'Privileged Entity',
  'XEP-0357': 'Push Notifications', 'XEP-0359': 'Unique and Stable Stanza IDs', 'XEP-0363': 'HTTP File Upload', 'XEP-0368': 'SRV Records for XMPP over TLS', 'XEP-0379': 'Pre-Authenticated Roster Subscription',
  'XEP-0386': 'Bind 2', 'XEP-0388': 'Extensible SASL Profile', 'XEP-0390': 'Entity Capabilities 2.0', 'XEP-0397': 'Instant Stream Resumption', 'XEP-0398': 'User Avatar to vCard-Based Avatars Conversion',
  'XEP-0401': 'Ad-Hoc Account Invitation Generation', 'XEP-0402': 'PEP Native Bookmarks', 'XEP-0410': 'MUC Self-Ping', 'XEP-0411': 'Bookmarks Conversion', 'XEP-0421': 'Occupant Identifiers for MUC',
  'XEP-0424': 'Message Retraction', 'XEP-0425': 'Moderated Message Retraction', 'XEP-0430': 'Inbox', 'XEP-0431': 'Full Text Search in MAM', 'XEP-0440': 'SASL Channel-Binding Type Capability',
  'XEP-0441': 'MAM Preferences', 'XEP-0445': 'Pre-Authenticated In-Band Registration', 'XEP-0474': 'SASL SCRAM Downgrade Protection', 'XEP-0478': 'Stream Limits Advertisement', 'XEP-0480': 'SASL Upgrade Tasks', 'XEP-0484': 'Fast Authentication Streamlining Tokens', 'XEP-0494': 'Client Access Management',
  'XEP-0486': 'MUC Avatars', 'XEP-0490': 'Message Displayed Synchronization', 'XEP-0503': 'Server-side Spaces',
}

interface Entry {
  readonly id: string
  readonly declared: Spec | undefined
  readonly by: readonly string[]
  code: string[]
  tests: string[]
}

function idOf(spec: Spec): string {
  return spec.xep !== undefined ? `XEP-${String(spec.xep).padStart(4, '0')}` : `RFC ${spec.rfc}`
}

function urlOf(id: string): string {
  return id.startsWith('XEP') ? `https://xmpp.org/extensions/${id.toLowerCase()}.html` : `https://www.rfc-editor.org/rfc/rfc${id.slice(4)}`
}

async function collect(): Promise<Entry[]> {
  const entries = new Map<string, Entry>()
  const declare = (spec: Spec, by: string): void => {
    const id = idOf(spec)
    const known = entries.get(id)
    entries.set(id, { id, declared: known?.declared ?? spec, by: [...(known?.by ?? []), by], code: [], tests: [] })
  }
  for (const spec of CORE) declare(spec, 'core')
  for (const extension of extensions) for (const spec of extension.specs) declare(spec, extension.ejabberd === undefined ? extension.name : `${extension.name} (\`${extension.ejabberd}\`)`)

  const files: string[] = []
  for await (const file of glob(['lib/**/*.ts', 'server/**/*.ts', 'conformance/**/*.ts'], { cwd: ROOT })) files.push(file.split(path.sep).join('/'))
  for (const file of files.sort()) {
    if (file === 'server/services/specs.ts' || file.endsWith('.fixture.ts')) continue
    const text = readFileSync(path.join(ROOT, file), 'utf8')
    const named = new Set([...text.matchAll(/\b(?:XEP-(\d{4})|RFC ?(\d{4}))\b/g)].map((match) => (match[1] ? `XEP-${match[1]}` : `RFC ${match[2]}`)))
    for (const id of named) {
      let entry = entries.get(id)
      if (entry === undefined) entries.set(id, (entry = { id, declared: undefined, by: [], code: [], tests: [] }))
      if (file.endsWith('.test.ts') || file.startsWith('conformance/')) entry.tests.push(file)
      else entry.code.push(file)
    }
  }
  return [...entries.values()].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
}

function markdown(entries: readonly Entry[]): string {
  const links = (files: readonly string[]): string => files.map((file) => `[${file.replace(/^server\/extensions\//, '')}](../${file})`).join('<br>')
  const title = (id: string): string => `[${id}](${urlOf(id)})${NAMES[id] === undefined ? '' : ` ${NAMES[id]}`}`
  const declared = entries.filter((entry) => entry.declared !== undefined).map((entry) => {
    const { version = '', status, note } = entry.declared as Spec
    return `| ${title(entry.id)} | ${version} | ${status}${note === undefined ? '' : `: ${note}`} | ${entry.by.join(', ')} | ${links(entry.code)} | ${links(entry.tests)} |`
  })
  const others = entries.filter((entry) => entry.declared === undefined && entry.code.length > 0).map((entry) => `| ${title(entry.id)} | ${links(entry.code)} | ${links(entry.tests)} |`)
  return `# Specifications

Written by \`npm run specs\` from the declarations of the extensions and from the places in the code that name a section.

| Specification | Version | Status | Where it is declared | Code | Tests |
|---|---|---|---|---|---|
${declared.join('\n')}

## Also named in the code

Rules of these are obeyed where the code says so; nothing is claimed about the rest of them.

| Specification | Code | Tests |
|---|---|---|
${others.join('\n')}
`
}

function doap(entries: readonly Entry[]): string {
  const about = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as { description: string }
  const supported = entries.filter((entry) => entry.declared !== undefined).map((entry) => {
    const { version, status, note } = entry.declared as Spec
    if (!entry.id.startsWith('XEP')) return `    <implements rdf:resource='${urlOf(entry.id)}'/>`
    const lines = [`        <xmpp:xep rdf:resource='${urlOf(entry.id)}'/>`]
    if (version !== undefined) lines.push(`        <xmpp:version>${escape(version)}</xmpp:version>`)
    lines.push(`        <xmpp:status>${status}</xmpp:status>`)
    if (note !== undefined) lines.push(`        <xmpp:note>${escape(note)}</xmpp:note>`)
    return `    <implements>\n      <xmpp:SupportedXep>\n${lines.join('\n')}\n      </xmpp:SupportedXep>\n    </implements>`
  })
  // XEP-0453: DOAP usage in XMPP
  return `<?xml version='1.0' encoding='UTF-8'?>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns='http://usefulinc.com/ns/doap#' xmlns:xmpp='https://linkmauve.fr/ns/xmpp-doap#'>
  <Project>
    <name>Tidings</name>
    <shortdesc xml:lang='en'>${escape(about.description)}</shortdesc>
    <programming-language>TypeScript</programming-language>
    <os>Linux</os>
    <os>macOS</os>
    <license rdf:resource='https://www.apache.org/licenses/LICENSE-2.0'/>
    <category rdf:resource='https://linkmauve.fr/ns/xmpp-doap#category-server'/>
${supported.join('\n')}
  </Project>
</rdf:RDF>
`
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function contentOf(file: string): string {
  try {
    return readFileSync(path.join(ROOT, file), 'utf8')
  } catch {
    return ''
  }
}

const entries = await collect()
const outputs = { 'docs/specs.md': markdown(entries), 'doap.xml': doap(entries) }
for (const [file, text] of Object.entries(outputs)) {
  if (contentOf(file) === text) continue
  if (process.argv.includes('--check')) {
    console.error(`${file} is out of date: run \`npm run specs\``)
    process.exitCode = 1
  } else {
    writeFileSync(path.join(ROOT, file), text)
    console.log(`wrote ${file}`)
  }
}
