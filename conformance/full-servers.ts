/** Servers with all that they are usually run with, to be asked the same questions: Tidings as it is shipped, ejabberd and Prosody with their modules on. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type Command, ejabberdCommand, installedServers, launch, type Place, prosodyCommand, type ServerName } from '../bench/servers.ts'
import type { Stage } from './play.ts'
import { ownStage } from './stages.ts'

export const FULL_SERVERS: readonly ServerName[] = ['tidings', 'ejabberd', 'prosody']

export interface FullServer extends AsyncDisposable {
  readonly stage: Stage
  readonly version: string
}

const COMPONENT = { domain: 'component.localhost', secret: 'sesame' }

/** Starts one; undefined when it is not installed. */
export async function startFullServer(name: ServerName): Promise<FullServer | undefined> {
  if (name === 'tidings') {
    const own = await ownStage()
    const { version } = JSON.parse(readFileSync(path.join(import.meta.dirname, '../package.json'), 'utf8')) as { version: string }
    return { stage: own.stage, version, [Symbol.asyncDispose]: () => own[Symbol.asyncDispose]() }
  }
  if (!installedServers().includes(name)) return undefined
  let ports: readonly number[] = []
  const server = await launch(name, (place) => {
    ports = place.morePorts
    return name === 'ejabberd' ? ejabberd(place) : prosody(place)
  }, 4)
  const { host, port, tlsPort, domain } = server
  const [https, component] = ports as [number, number]
  return {
    stage: { host, port, domain, tlsPort, tls: 'starttls', web: `https://localhost:${https}`, component: { port: component, ...COMPONENT } },
    version: installedVersion(name),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

function installedVersion(name: string): string {
  try {
    return execFileSync('dpkg-query', ['-W', '-f', '${Version}', name], { encoding: 'utf8' })
  } catch {
    return 'of unknown version'
  }
}

function ejabberd(place: Place): Command {
  const file = path.join(place.dir, 'ejabberd.yml')
  const [https, component, proxy] = place.morePorts as [number, number, number]
  mkdirSync(path.join(place.dir, 'log'))
  mkdirSync(path.join(place.dir, 'upload'))
  writeFileSync(file, `loglevel: error
log_rotate_count: 0
hosts: [localhost]
certfiles: ["${place.both}"]
registration_timeout: infinity
auth_password_format: plain
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
listen:
  - {port: ${place.port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: c2s, starttls: true}
  - {port: ${place.tlsPort}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, access: c2s, tls: true}
  - {port: ${component}, ip: "127.0.0.1", module: ejabberd_service, access: all, hosts: {${COMPONENT.domain}: {password: ${COMPONENT.secret}}}}
  - port: ${https}
    ip: "127.0.0.1"
    module: ejabberd_http
    tls: true
    request_handlers:
      /bosh: mod_bosh
      /ws: ejabberd_http_ws
      /upload: mod_http_upload
      /.well-known/host-meta: mod_host_meta
acl:
  local: {user_regexp: ""}
access_rules:
  local: {allow: local}
  c2s: {allow: all}
  register: {allow: all}
shaper_rules:
  max_user_sessions: 100
  max_user_offline_messages: 1000
modules:
  mod_adhoc: {}
  mod_admin_extra: {}
  mod_announce: {}
  mod_avatar: {}
  mod_blocking: {}
  mod_bosh: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_configure: {}
  mod_disco:
    server_info:
      - {modules: all, name: abuse-addresses, urls: ["mailto:abuse@localhost"]}
      - {modules: all, name: admin-addresses, urls: ["xmpp:admin@localhost"]}
  mod_host_meta: {bosh_service_url: "https://localhost:${https}/bosh", websocket_url: "wss://localhost:${https}/ws"}
  mod_http_upload: {put_url: "https://localhost:${https}/upload", docroot: "${place.dir}/upload", max_size: 104857600}
  mod_last: {}
  mod_mam: {default: always, assume_mam_usage: true}
  mod_muc: {access_create: local, access_persistent: local, default_room_options: {mam: true, allow_subscription: true}}
  mod_muc_admin: {}
  mod_multicast: {}
  mod_offline: {access_max_user_messages: max_user_offline_messages}
  mod_ping: {}
  mod_privacy: {}
  mod_private: {}
  mod_proxy65: {ip: "127.0.0.1", hostname: "127.0.0.1", port: ${proxy}, access: local}
  mod_pubsub:
    access_createnode: local
    ignore_pep_from_offline: false
    last_item_cache: false
    max_items_node: 1000
    plugins: [flat, pep]
    force_node_config:
      "eu.siacs.conversations.axolotl.*": {access_model: open}
      storage:bookmarks: {access_model: whitelist}
  mod_push: {}
  mod_push_keepalive: {}
  mod_register: {ip_access: all, access: register}
  mod_roster: {versioning: true}
  mod_stream_mgmt: {resend_on_timeout: if_offline}
  mod_stun_disco:
    secret: sesame
    services:
      - {host: 127.0.0.1, port: 3478, type: stun, transport: udp, restricted: false}
      - {host: 127.0.0.1, port: 3478, type: turn, transport: udp, restricted: true}
  mod_time: {}
  mod_vcard: {search: true}
  mod_vcard_xupdate: {}
  mod_version: {}
`)
  return ejabberdCommand(place, file)
}

const PROSODY_MODULES = '/usr/lib/prosody/modules'

/** Modules beyond Prosody's own are those of Debian's prosody-modules, where they are installed. Its sasl2 needs a newer Prosody. */
function prosody(place: Place): Command {
  const file = path.join(place.dir, 'prosody.cfg.lua')
  const [https, component, proxy] = place.morePorts as [number, number, number]
  const community = (...names: readonly string[]): string => names.filter((name) => existsSync(path.join(PROSODY_MODULES, `mod_${name}`)) || existsSync(path.join(PROSODY_MODULES, `mod_${name}.lua`))).map((name) => `"${name}"; `).join('')
  mkdirSync(path.join(place.dir, 'data'))
  writeFileSync(file, `run_as_root = true
daemonize = false
pidfile = "${place.dir}/prosody.pid"
data_path = "${place.dir}/data"
plugin_paths = { "${PROSODY_MODULES}" }
network_backend = "epoll"
interfaces = { "127.0.0.1" }
local_interfaces = { "127.0.0.1" }
c2s_ports = { ${place.port} }
c2s_direct_tls_ports = { ${place.tlsPort} }
s2s_ports = {}
component_ports = { ${component} }
component_interfaces = { "127.0.0.1" }
http_ports = {}
https_ports = { ${https} }
https_interfaces = { "127.0.0.1" }
http_default_host = "localhost"
proxy65_ports = { ${proxy} }
proxy65_interfaces = { "127.0.0.1" }
proxy65_address = "127.0.0.1"
modules_enabled = {
  "disco"; "roster"; "saslauth"; "tls"; "blocklist"; "bookmarks"; "carbons"; "pep"; "private"; "smacks"; "vcard4"; "vcard_legacy";
  "csi"; "csi_simple"; "invites"; "invites_adhoc"; "invites_register"; "lastactivity"; "mam"; "offline"; "ping"; "register"; "time"; "uptime"; "version";
  "admin_adhoc"; "announce"; "bosh"; "websocket"; "server_contact_info"; "external_services"; "tombstones"; "posix";
  ${community('cloud_notify', 'http_altconnect')}
}
modules_disabled = { "s2s"; }
allow_registration = true
registration_invite_only = false
allow_user_invites = true
c2s_require_encryption = false
authentication = "internal_plain"
storage = "internal"
archive_expires_after = "1w"
default_archive_policy = true
contact_info = { abuse = { "mailto:abuse@localhost" }; admin = { "xmpp:admin@localhost" }; }
external_services = {
  { type = "stun", transport = "udp", host = "127.0.0.1", port = 3478 };
  { type = "turn", transport = "udp", host = "127.0.0.1", port = 3478, secret = "sesame", ttl = 86400 };
}
ssl = { key = "${place.key}"; certificate = "${place.certificate}"; }
c2s_direct_tls_ssl = { key = "${place.key}"; certificate = "${place.certificate}"; }
https_ssl = { key = "${place.key}"; certificate = "${place.certificate}"; }
log = { error = "${place.dir}/prosody.log"; }

VirtualHost "localhost"
  disco_items = { { "conference.localhost", "Chatrooms" }; { "pubsub.localhost", "PubSub" }; { "upload.localhost", "Upload" }; { "proxy.localhost", "Proxy" }; }

Component "conference.localhost" "muc"
  modules_enabled = { "muc_mam"; ${community('vcard_muc', 'muc_moderation')} }
  muc_log_by_default = true
  muc_tombstones = false

Component "pubsub.localhost" "pubsub"
  autocreate_on_publish = true

Component "upload.localhost" "http_file_share"
  http_host = "localhost"
  http_external_url = "https://localhost:${https}/"

Component "proxy.localhost" "proxy65"
  proxy65_acl = { "localhost" }

Component "${COMPONENT.domain}"
  component_secret = "${COMPONENT.secret}"
`)
  return prosodyCommand(file)
}
