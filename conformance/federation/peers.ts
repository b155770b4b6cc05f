/** The servers that exchange stanzas: Tidings, Prosody, ejabberd, each in a namespace of its own, with certificates of one authority. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Place, ejabberdCommand, prosodyCommand } from '../../bench/servers.ts'
import { type Client, type ConnectOptions, connect as connectClient } from '../../lib/client/client.ts'
import type { ServerAuthority } from '../../server/s2s/certificates.fixture.ts'
import type { Zone } from '../../server/s2s/dns.fixture.ts'
import type { Network, Node } from './network.ts'

export type Kind = 'tidings' | 'prosody' | 'ejabberd'

const START_MS = 60_000
const CLIENT_PORT = 5222
const SERVER_PORT = 5269
const DIRECT_PORT = 5270
const HTTPS_PORT = 5443
/** Of ejabberd, which is found by its SRV records alone. */
const ODD_PORT = 5299
const SERVICES = ['conference', 'upload', 'pubsub']

export interface Command { readonly file: string; readonly args: readonly string[]; readonly env?: NodeJS.ProcessEnv }

export interface Choices {
  /** Whether messages are archived, as they are unless told otherwise. */
  readonly archive?: boolean
  /** Where Tidings leaves a CPU profile when it stops. */
  readonly profileDir?: string
}

/** What a configuration is made of. */
interface Settings extends Choices {
  readonly dir: string
  readonly domain: string
  readonly node: Node
  readonly ca: string
  readonly cert: string
  readonly key: string
  readonly both: string
}

const CONFIGURE: Record<Kind, (settings: Settings) => Command> = { tidings, prosody, ejabberd }

/** How others find each kind: by two services, by an odd port, by its address alone. */
export function zoneOf(domain: string, kind: Kind, { ipv4, ipv6 }: Node): Zone {
  const addresses = { A: [ipv4], AAAA: [ipv6] }
  const zone: Record<string, Zone[string]> = {}
  for (const name of [domain, ...SERVICES.map((service) => `${service}.${domain}`)]) {
    if (kind === 'prosody') zone[name] = addresses
    else {
      zone[`_xmpp-server._tcp.${name}`] = { SRV: [[10, 1, kind === 'ejabberd' ? ODD_PORT : SERVER_PORT, `xmpp.${domain}`]] }
      if (kind === 'tidings') zone[`_xmpps-server._tcp.${name}`] = { SRV: [[5, 1, DIRECT_PORT, `xmpp.${domain}`]] }
    }
  }
  zone[`xmpp.${domain}`] = addresses
  zone[`upload.${domain}`] = { ...addresses, ...zone[`upload.${domain}`] }
  return zone
}

export class Peer implements AsyncDisposable {
  readonly kind: Kind
  readonly name: string
  readonly domain: string
  readonly node: Node
  readonly dir: string
  readonly #command: Command
  #child: ChildProcess | undefined

  private constructor(kind: Kind, name: string, domain: string, node: Node, dir: string, command: Command) {
    this.kind = kind
    this.name = name
    this.domain = domain
    this.node = node
    this.dir = dir
    this.#command = command
    running.add(this)
  }

  /** Writes its configuration into a folder below `dir`; it does not run yet. */
  static async create(kind: Kind, name: string, network: Network, authority: ServerAuthority, dir: string, choices: Choices = {}): Promise<Peer> {
    const domain = `${name}.lan`
    const node = network.node(name)
    const own = path.join(dir, name)
    mkdirSync(own, { recursive: true })
    const { cert, key } = await authority.issue({ dns: [domain, ...SERVICES.map((service) => `${service}.${domain}`)], commonName: domain })
    const settings: Settings = { archive: true, ...choices, dir: own, domain, node, ca: path.join(own, 'ca.pem'), cert: path.join(own, 'cert.pem'), key: path.join(own, 'key.pem'), both: path.join(own, 'both.pem') }
    writeFileSync(settings.ca, authority.certificate)
    writeFileSync(settings.cert, cert)
    writeFileSync(settings.key, key, { mode: 0o600 })
    writeFileSync(settings.both, `${cert}\n${key}`, { mode: 0o600 })
    return new Peer(kind, name, domain, node, own, CONFIGURE[kind](settings))
  }

  get host(): string { return this.node.ipv4 }
  get port(): number { return CLIENT_PORT }
  get pid(): number { return this.#child?.pid ?? 0 }
  get #log(): string { return path.join(this.dir, 'output.log') }

  /** Logs in, and makes the account if there is none. */
  async login(user: string, options: Partial<ConnectOptions> = {}): Promise<Client> {
    return connectClient({
      host: this.host, port: CLIENT_PORT, domain: this.domain, user, password: 'thirty-two yards', register: true,
      // Of an age in which it knows no channel binding of TLS 1.3.
      ...(this.kind === 'ejabberd' ? { mechanism: 'SCRAM-SHA-1' } : {}), ...options,
    })
  }

  /** Starts it, anew or again; resolves when clients and servers can connect. */
  async run(): Promise<void> {
    const out = openSync(this.#log, 'a')
    const [file, ...args] = [...this.node.prefix, this.#command.file, ...this.#command.args]
    const child = spawn(file as string, args, { cwd: this.dir, stdio: ['ignore', out, out], env: { ...process.env, ...this.#command.env }, detached: true })
    closeSync(out)
    this.#child = child
    const until = performance.now() + START_MS
    for (const port of [CLIENT_PORT, this.kind === 'ejabberd' ? ODD_PORT : SERVER_PORT, HTTPS_PORT]) {
      while (!(await answers(this.node.ipv4, port))) {
        if (child.exitCode !== null || child.signalCode !== null || performance.now() > until) throw new Error(`${this.name} did not start (port ${port}):\n${readFileSync(this.#log, 'utf8').slice(-3000)}`)
        await sleep(100)
      }
    }
  }

  /** Ends it as a crash does. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** Lets it end by itself. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    this.#signal(signal)
    await exited
  }

  killNow(): void { this.#signal('SIGKILL') }

  #signal(signal: NodeJS.Signals): void {
    const pid = this.#child?.pid
    if (pid === undefined || this.#child?.exitCode !== null || this.#child.signalCode !== null) return
    try {
      process.kill(-pid, signal)
    } catch {
      // It has ended by itself.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    running.delete(this)
    await this.kill()
  }
}

const running = new Set<Peer>()
process.once('exit', () => { for (const peer of running) peer.killNow() })

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectSocket({ host, port })
    const settle = (isOpen: boolean): void => {
      socket.destroy()
      resolve(isOpen)
    }
    socket.setTimeout(1000, () => { settle(false) })
    socket.once('connect', () => { settle(true) }).once('error', () => { settle(false) })
  })
}

function tidings({ dir, domain, both, ca, archive, profileDir }: Settings): Command {
  const file = path.join(dir, 'tidings.yml')
  writeFileSync(file, `hosts: [${domain}]
loglevel: info
certfiles: ["${both}"]
ca_file: "${ca}"
s2s_cafile: "${ca}"
s2s_use_starttls: required
s2s_max_retry_delay: 2 seconds
registration_timeout: infinity
listen:
  - {port: ${CLIENT_PORT}, module: ejabberd_c2s, max_stanza_size: 262144, access: all, starttls: true}
  - {port: ${SERVER_PORT}, module: ejabberd_s2s_in, max_stanza_size: 524288}
  - {port: ${DIRECT_PORT}, module: ejabberd_s2s_in, max_stanza_size: 524288, tls: true}
  - port: ${HTTPS_PORT}
    module: ejabberd_http
    tls: true
    request_handlers: {/upload: mod_http_upload}
shaper_rules:
  max_user_sessions: 100
  max_user_offline_messages: infinity
modules:
  mod_caps: {}
  mod_carboncopy: {}
  mod_disco: {}
  mod_http_upload: {put_url: "https://upload.@HOST@:${HTTPS_PORT}/upload"}
${archive ? '  mod_mam: {default: always}\n' : ''}  mod_muc: {default_room_options: {mam: ${archive}}}
  mod_offline: {access_max_user_messages: max_user_offline_messages}
  mod_ping: {}
  mod_pubsub: {plugins: [flat, pep]}
  mod_register: {ip_access: all}
  mod_roster: {versioning: true}
  mod_s2s_bidi: {}
  mod_stream_mgmt: {}
  mod_vcard: {}
`)
  const program = path.join(import.meta.dirname, '../../bin/tidings.js')
  return { file: process.execPath, args: [...(profileDir === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profileDir]), program, 'serve', '--config', file, '--data', path.join(dir, 'data')] }
}

function ejabberd({ dir, domain, both, ca, archive }: Settings): Command {
  const file = path.join(dir, 'ejabberd.yml')
  for (const folder of ['log', 'upload']) mkdirSync(path.join(dir, folder), { recursive: true })
  writeFileSync(file, `loglevel: info
log_rotate_count: 0
hosts: [${domain}]
certfiles: ["${both}"]
ca_file: "${ca}"
s2s_cafile: "${ca}"
s2s_use_starttls: required
s2s_max_retry_delay: 2 seconds
registration_timeout: infinity
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
auth_password_format: scram
listen:
  - {port: ${CLIENT_PORT}, module: ejabberd_c2s, max_stanza_size: 262144, access: c2s, starttls: true}
  - {port: ${ODD_PORT}, module: ejabberd_s2s_in, max_stanza_size: 524288}
  - port: ${HTTPS_PORT}
    module: ejabberd_http
    tls: true
    request_handlers: {/upload: mod_http_upload}
acl:
  local: {user_regexp: ""}
access_rules:
  local: {allow: local}
  c2s: {allow: all}
  register: {allow: all}
shaper_rules:
  max_user_sessions: 100
  max_user_offline_messages: infinity
modules:
  mod_caps: {}
  mod_carboncopy: {}
  mod_disco: {}
  mod_http_upload: {put_url: "https://upload.@HOST@:${HTTPS_PORT}/upload", docroot: "${dir}/upload"}
${archive ? '  mod_mam: {default: always, assume_mam_usage: true}\n' : ''}  mod_muc: {access_create: local, default_room_options: {mam: ${archive}}}
  mod_offline: {access_max_user_messages: max_user_offline_messages}
  mod_ping: {}
  mod_pubsub: {access_createnode: local, plugins: [flat, pep], ignore_pep_from_offline: false, last_item_cache: false}
  mod_register: {ip_access: all, access: register, welcome_message: {}}
  mod_roster: {versioning: true}
  mod_s2s_dialback: {}
  mod_stream_mgmt: {resend_on_timeout: true}
  mod_vcard: {search: false}
`)
  return ejabberdCommand(placeOf(dir), file)
}

function prosody({ dir, domain, key, cert, ca, archive }: Settings): Command {
  const file = path.join(dir, 'prosody.cfg.lua')
  mkdirSync(path.join(dir, 'data'), { recursive: true })
  writeFileSync(file, `run_as_root = true
daemonize = false
pidfile = "${dir}/prosody.pid"
data_path = "${dir}/data"
plugin_paths = { "/usr/lib/prosody/modules" }
network_backend = "epoll"
gc = { mode = "generational" }
interfaces = { "*", "::" }
c2s_ports = { ${CLIENT_PORT} }
s2s_ports = { ${SERVER_PORT} }
http_ports = {}
https_ports = { ${HTTPS_PORT} }
https_interfaces = { "*", "::" }
s2s_require_encryption = true
s2s_secure_auth = true
modules_enabled = {
  "disco"; "roster"; "saslauth"; "tls"; "blocklist"; "carbons"; "pep"; "private"; "smacks"; "vcard4"; "vcard_legacy"; ${archive ? '"mam"; ' : ''}"offline";
  "ping"; "register"; "time"; "version"; "posix"; "dialback"; "s2s"; "s2s_bidi"; "s2s_auth_certs";
}
allow_registration = true
c2s_require_encryption = false
authentication = "internal_hashed"
storage = "internal"
archive_expires_after = "1w"
default_archive_policy = true
limits = {}
ssl = { key = "${key}"; certificate = "${cert}"; cafile = "${ca}"; capath = "/nonexistent"; }
https_ssl = { key = "${key}"; certificate = "${cert}"; }
log = { info = "${dir}/prosody.log"; }

VirtualHost "${domain}"
  disco_items = { { "conference.${domain}", "Chatrooms" }; { "upload.${domain}", "Upload" }; }

Component "conference.${domain}" "muc"
${archive ? '  modules_enabled = { "muc_mam" }\n  muc_log_by_default = true' : ''}

Component "upload.${domain}" "http_file_share"
  http_external_url = "https://upload.${domain}:${HTTPS_PORT}/"
`)
  return prosodyCommand(file)
}

/** What is needed of a place is its folder. */
function placeOf(dir: string): Place {
  return { dir, port: 0, tlsPort: 0, morePorts: [], certificate: '', key: '', both: '' }
}
