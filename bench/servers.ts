/** The servers that are measured, each an instance of its own on 127.0.0.1 with its data in a temporary folder. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { generate } from 'selfsigned'

const START_MS = 30_000
const STOP_MS = 10_000

export type ServerName = 'tidings' | 'ejabberd' | 'prosody'
/** `plain` has no archive; `archive` keeps every message (XEP-0313). */
export type Variant = 'plain' | 'archive'

export interface RunningServer extends AsyncDisposable {
  readonly name: ServerName
  readonly pid: number
  readonly host: string
  readonly port: number
  /** TLS from the first byte. */
  readonly tlsPort: number
  readonly domain: string
}

/** What a server is configured with: a folder of its own, free ports, and a certificate. */
export interface Place {
  readonly dir: string
  readonly port: number
  readonly tlsPort: number
  /** As many as were asked for. */
  readonly morePorts: readonly number[]
  readonly certificate: string
  readonly key: string
  readonly both: string
}

interface BenchPlace extends Place {
  readonly archive: boolean
  readonly profileDir: string | undefined
  /** Of Tidings: how many serve clients. */
  readonly processes: number
}

export interface Command {
  readonly file: string
  readonly args: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  /** What it says once all of it serves; unless given its ports tell. */
  readonly ready?: string
}

const EXECUTABLES: Record<ServerName, string | undefined> = { tidings: undefined, ejabberd: 'ejabberdctl', prosody: 'prosody' }

/** Tidings, and what else is installed. */
export function installedServers(): ServerName[] {
  return (Object.keys(EXECUTABLES) as ServerName[]).filter((name) => EXECUTABLES[name] === undefined || onPath(EXECUTABLES[name]) !== undefined)
}

export function onPath(name: string): string | undefined {
  for (const dir of [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin']) {
    try {
      accessSync(path.join(dir, name), constants.X_OK)
      return path.join(dir, name)
    } catch {
      // Not here.
    }
  }
  return undefined
}

/** Children that a process which is itself ended must take with it. */
const running = new Set<ChildProcess>()
const folders = new Set<string>()
process.on('exit', () => {
  for (const child of running) kill(child, 'SIGKILL')
  for (const dir of folders) rmSync(dir, { recursive: true, force: true })
})

/** Starts a server and waits until both its ports are open. With `profileDir`, Tidings leaves a CPU profile of each process there when it stops. */
export async function startServer(name: ServerName, variant: Variant, profileDir?: string, processes = 1): Promise<RunningServer> {
  return launch(name, (place) => ({ tidings, ejabberd, prosody })[name]({ ...place, archive: variant === 'archive', profileDir, processes }))
}

/** Starts what `configure` makes for a place, and waits until both its ports for clients are open. */
export async function launch(name: ServerName, configure: (place: Place) => Command | Promise<Command>, morePorts = 0): Promise<RunningServer> {
  const dir = mkdtempSync(path.join(tmpdir(), `tidings-other-${name}-`))
  folders.add(dir)
  const [port, tlsPort, ...more] = (await freePorts(2 + morePorts)) as [number, number, ...number[]]
  const made = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec', algorithm: 'sha256', curve: 'P-256', extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }] }],
  })
  const place: Place = { dir, port, tlsPort, morePorts: more, certificate: path.join(dir, 'cert.pem'), key: path.join(dir, 'key.pem'), both: path.join(dir, 'both.pem') }
  writeFileSync(place.certificate, made.cert, { mode: 0o600 })
  writeFileSync(place.key, made.private, { mode: 0o600 })
  writeFileSync(place.both, `${made.cert}\n${made.private}`, { mode: 0o600 })
  const command = await configure(place)
  const log = path.join(dir, 'output.log')
  const out = openSync(log, 'a')
  // A group of its own, so that all it starts ends with it.
  const child = spawn(command.file, command.args, { cwd: dir, stdio: ['ignore', out, out], env: { ...process.env, ...command.env }, detached: true })
  closeSync(out)
  running.add(child)
  let ended = false
  const exit = new Promise<void>((resolve) => {
    const end = (): void => {
      ended = true
      running.delete(child)
      resolve()
    }
    child.once('exit', end)
    child.once('error', end)
  })
  const stop = async (): Promise<void> => {
    if (!ended) {
      kill(child, 'SIGTERM')
      await Promise.race([exit, sleep(STOP_MS, undefined, { ref: false })])
      if (!ended) {
        kill(child, 'SIGKILL')
        await exit
      }
    }
    rmSync(dir, { recursive: true, force: true })
    folders.delete(dir)
  }
  const deadline = performance.now() + START_MS
  while (!(await answers(port)) || !(await answers(tlsPort)) || !readFileSync(log, 'utf8').includes(command.ready ?? '')) {
    if (ended || performance.now() > deadline) {
      const said = readFileSync(log, 'utf8').slice(-2000)
      await stop()
      throw new Error(`${name} did not start:\n${said}`)
    }
    await sleep(100)
  }
  return { name, pid: child.pid as number, host: '127.0.0.1', port, tlsPort, domain: 'localhost', [Symbol.asyncDispose]: stop }
}

function kill(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch {
    // It has ended by itself.
  }
}

async function freePorts(count: number): Promise<number[]> {
  const listeners = Array.from({ length: count }, () => createServer())
  const ports: number[] = []
  for (const each of listeners) {
    each.listen(0, '127.0.0.1')
    await once(each, 'listening')
    ports.push((each.address() as AddressInfo).port)
  }
  for (const each of listeners) {
    each.close()
    await once(each, 'close')
  }
  return ports
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port })
    socket.once('connect', () => { socket.destroy(); resolve(true) })
    socket.once('error', () => resolve(false))
  })
}

function tidings(place: BenchPlace): Command {
  const file = path.join(place.dir, 'tidings.yml')
  writeFileSync(file, `hosts: [localhost]
loglevel: error
certfiles: ["${place.both}"]
registration_timeout: infinity
tidings: {processes: ${place.processes}}
listen:
  - {port: ${place.port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: all, starttls: true}
  - {port: ${place.tlsPort}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: all, tls: true}
shaper_rules:
  max_user_sessions: 20
  max_user_offline_messages: infinity
modules:
  mod_auth_fast: {}
  mod_blocking: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_disco: {}
  mod_last: {}
${place.archive ? '  mod_mam: {default: always}\n  mod_muc: {default_room_options: {mam: true}}\n' : ''}  mod_offline: {access_max_user_messages: max_user_offline_messages}
  mod_ping: {}
  mod_private: {}
  mod_register: {ip_access: all}
  mod_roster: {versioning: true}
  mod_stream_mgmt: {}
  mod_time: {}
  mod_vcard: {}
  mod_version: {}
`)
  const program = path.join(import.meta.dirname, '../bin/tidings.js')
  return { file: process.execPath, ...(place.processes > 1 && { ready: 'processes take clients' }), args: [...(place.profileDir === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', place.profileDir]), program, 'serve', '--config', file, '--data', path.join(place.dir, 'data')] }
}

/** As Debian sets it up, at its best: no busy-waiting schedulers, no shapers, logging errors alone; the archive in Mnesia, its default. */
function ejabberd(place: BenchPlace): Command {
  const file = path.join(place.dir, 'ejabberd.yml')
  mkdirSync(path.join(place.dir, 'log'))
  writeFileSync(file, `loglevel: error
log_rotate_count: 0
hosts: [localhost]
certfiles: ["${place.both}"]
listen:
  - {port: ${place.port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: c2s, starttls: true, backlog: 1000}
  - {port: ${place.tlsPort}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: c2s, tls: true, backlog: 1000}
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
auth_password_format: scram
registration_timeout: infinity
acl:
  local: {user_regexp: ""}
  loopback: {ip: [127.0.0.0/8]}
access_rules:
  local: {allow: local}
  c2s: {allow: all}
  register: {allow: all}
  trusted_network: {allow: loopback}
shaper_rules:
  max_user_sessions: 20
  max_user_offline_messages: infinity
modules:
  mod_adhoc: {}
  mod_admin_extra: {}
  mod_blocking: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_disco: {}
  mod_last: {}
${place.archive ? '  mod_mam: {default: always, assume_mam_usage: true}\n  mod_muc: {default_room_options: {mam: true}}\n' : ''}  mod_offline: {access_max_user_messages: max_user_offline_messages}
  mod_ping: {}
  mod_privacy: {}
  mod_private: {}
  mod_register: {ip_access: trusted_network, access: register, welcome_message: {}}
  mod_roster: {versioning: true}
  mod_stream_mgmt: {resend_on_timeout: if_offline}
  mod_vcard: {search: false}
  mod_version: {}
`)
  return ejabberdCommand(place, file)
}

export function ejabberdCommand(place: Place, file: string): Command {
  return {
    file: onPath('erl') ?? 'erl',
    args: ['-noinput', '+K', 'true', '+P', '250000', '+sbwt', 'none', '+sbwtdcpu', 'none', '+sbwtdio', 'none', '-mnesia', 'dir', `"${path.join(place.dir, 'db')}"`, '-ejabberd', 'log_rotate_count', '0', '-s', 'ejabberd'],
    env: {
      EJABBERD_CONFIG_PATH: file, EJABBERD_LOG_PATH: path.join(place.dir, 'log/ejabberd.log'), ERL_CRASH_DUMP: '/dev/null',
      ERL_MAX_PORTS: '32000', ERL_MAX_ETS_TABLES: '1400', ERL_LIBS: `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`, HOME: place.dir,
    },
  }
}

/** As Debian sets it up, at its best: the generational collector, no limits, logging errors alone; the archive in its files, its default. */
function prosody(place: BenchPlace): Command {
  const file = path.join(place.dir, 'prosody.cfg.lua')
  mkdirSync(path.join(place.dir, 'data'))
  writeFileSync(file, `run_as_root = true
daemonize = false
pidfile = "${place.dir}/prosody.pid"
data_path = "${place.dir}/data"
network_backend = "epoll"
gc = { mode = "generational" }
modules_enabled = {
  "disco"; "roster"; "saslauth"; "tls"; "blocklist"; "carbons"; "private"; "smacks"; "vcard4"; "vcard_legacy"; "csi_simple";
  "ping"; "register"; "time"; "version"; "posix"; ${place.archive ? '"mam";' : ''}
}
modules_disabled = { "s2s"; }
allow_registration = true
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
storage = "internal"
archive_expires_after = "1w"
interfaces = { "127.0.0.1" }
c2s_ports = { ${place.port} }
c2s_direct_tls_ports = { ${place.tlsPort} }
s2s_ports = {}
http_ports = {}
https_ports = {}
network_settings = { tcp_backlog = 1000 }
ssl = { key = "${place.key}"; certificate = "${place.certificate}"; }
c2s_direct_tls_ssl = { key = "${place.key}"; certificate = "${place.certificate}"; }
log = { error = "${place.dir}/prosody.log"; }
VirtualHost "localhost"
${place.archive ? 'Component "conference.localhost" "muc"\n  modules_enabled = { "muc_mam" }\n  muc_log_by_default = true\n' : ''}`)
  return prosodyCommand(file)
}

export function prosodyCommand(file: string): Command {
  const root = process.getuid?.() === 0
  return { file: onPath('prosody') ?? 'prosody', args: [...(root ? ['--root'] : []), '--config', file, '-F'] }
}
