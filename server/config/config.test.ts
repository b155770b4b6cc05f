import { expect } from 'chai'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { generate } from 'selfsigned'
import { Jid } from '../../lib/jid.ts'
import { authTable } from './auth.ts'
import { checkChatNode, clusterRedisTable, clusterTable } from './cluster.ts'
import { checkModules, formatProblem, globalTable, hostTable, loadConfig, metricsTable, reportsTable, serviceStatusTable, snakeCase, tidingsTable, uploadTable, type Config, type LoadOptions } from './config.ts'
import { limitTable } from './limits.ts'
import { listenTables } from './listen.ts'
import { accessRule, bool, duration, oneOf, type OptionTable } from './options.ts'

/** Loads `main.yml` from texts. */
function load(main: string, more: Record<string, string> & { env?: never } = {}, options: LoadOptions = {}): { config: Config; problems: string[] } {
  const { config, problems } = loadConfig('/etc/x/main.yml', {
    env: {},
    readText(file) {
      const text = file === '/etc/x/main.yml' ? main : more[file.replace('/etc/x/', '')]
      if (text === undefined) throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
      return text
    },
    ...options,
  })
  return { config, problems: problems.map((problem) => formatProblem(problem).replaceAll('/etc/x/', '')) }
}

/** Loads without a problem. */
function good(main: string, more?: Record<string, string> & { env?: never }, options?: LoadOptions): Config {
  const { config, problems } = load(main, more, options)
  expect(problems).to.deep.equal([])
  return config
}

/** As `good`, of what is of no use without the rest. */
function parts(main: string): Config {
  const { config, problems } = load(main)
  expect(problems.filter((problem) => !/tidings\.\w+: needs tidings\./.test(problem))).to.deep.equal([])
  return config
}

const jid = (text: string): { jid: Jid } => ({ jid: Jid.parse(text) })

describe('configuration', () => {
  it('reads the options of WebSocket', () => {
    expect(good('hosts: [a.example]\n').webSocket).to.deep.equal({ origins: [], pingIntervalMs: 60_000, timeoutMs: 300_000 })
    expect(good('hosts: [a.example]\nwebsocket_origin: ["https://Chat.example/", "http://localhost:8080"]\nwebsocket_ping_interval: 0\nwebsocket_timeout: 10\n').webSocket).to.deep.equal({ origins: ['https://chat.example', 'http://localhost:8080'], pingIntervalMs: 0, timeoutMs: 10_000 })
    expect(good('hosts: [a.example]\nwebsocket_origin: ignore\n').webSocket.origins).to.deep.equal([])
    const [listener] = good('hosts: [a.example]\nlisten: [{port: 1, module: ejabberd_http, access: none, max_stanza_size: 5000}]\n').listen
    expect([listener?.access, listener?.maxStanzaBytes]).to.deep.equal(['none', 5000])
  })

  it('reads the file that is served by default without a problem', () => {
    const file = new URL('../../config/ejabberd-compat.yml', import.meta.url).pathname
    const { config, problems } = loadConfig(file, { env: {}, strict: true })
    expect(problems).to.deep.equal([])
    expect(config.hosts).to.deep.equal(['localhost'])
    expect(config.listen.map(({ port, module, tls, starttlsRequired }) => [port, module, tls, starttlsRequired])).to.deep.equal([
      [5222, 'ejabberd_c2s', false, true], [5223, 'ejabberd_c2s', true, false], [5443, 'ejabberd_http', true, false],
    ])
    expect([...config.listen[2]?.requestHandlers ?? []]).to.deep.equal([['/status', 'tidings_status'], ['/upload', 'mod_http_upload'], ['/bosh', 'mod_bosh'], ['/invites', 'mod_invites'], ['/ws', 'ejabberd_http_ws'], ['/.well-known/host-meta', 'mod_host_meta']])
    expect(config.tidings.metrics).to.deep.equal({ port: 5280, ip: '127.0.0.1' })
    const host = config.host('localhost')
    expect(host.access.allows('trusted_network', { address: '::ffff:127.0.0.1' })).to.equal(true)
    expect(host.access.allows('trusted_network', { address: '192.0.2.1' })).to.equal(false)
    expect(host.access.value('max_user_sessions', jid('a@localhost/x'))).to.equal(10)
    expect(host.access.shaper('c2s_shaper', jid('a@localhost/x'))).to.deep.equal({ rate: 100_000, burst: 1_000_000 })
    expect(readFileSync(file, 'utf8')).to.contain('mod_mam')
  })

  it('names file, line, option, value and what is allowed', () => {
    const { problems } = load('hosts: [a.example]\nlisten:\n  -\n    port: 99999\n    module: ejabberd_c2s\nloglevel: loud\n')
    expect(problems).to.have.length(2)
    expect(problems[0]).to.equal('main.yml:4: error: listen.port: "99999" is not allowed here; expected a port from 0 to 65535 or "unix:/path".')
    expect(problems[1]).to.match(/^main\.yml:6: error: loglevel: "loud" is not allowed here; expected one of 0, 1/)
  })

  it('suggests a name for a slip of the pen', () => {
    const { problems } = load('hosts: [a.example]\nacces_rules: {}\n')
    expect(problems).to.deep.equal(['main.yml:2: error: acces_rules: is not an option that this server or ejabberd knows. Did you mean "access_rules"?'])
  })

  it('says what happens to options of ejabberd that are not here', () => {
    const { problems } = load('hosts: [a.example]\nsql_type: mysql\nlog_rate_limit: 100\ns2s_use_starttls: optional\ndefault_db: mnesia\n')
    expect(problems).to.have.length(3)
    expect(problems[0]).to.match(/^main\.yml:2: warning: sql_type: has no effect: .*store/)
    expect(problems[1]).to.match(/^main\.yml:3: warning: log_rate_limit/)
    expect(problems[2]).to.match(/^main\.yml:4: warning: s2s_use_starttls: .*other servers/)
  })

  it('makes every warning an error when strict', () => {
    const { problems } = load('hosts: [a.example]\nsql_type: mysql\n', {}, { strict: true })
    expect(problems[0]).to.match(/^main\.yml:2: error: sql_type/)
  })

  it('reads where an LDAP directory is, for each host', () => {
    const config = good(`hosts: [a.example, b.example, c.example]
auth_method: [ldap]
ldap_servers: [one.example, two.example]
ldap_backups: three.example
ldap_encrypt: tls
ldap_tls_verify: hard
ldap_uids: [uid, {mail: "%u@a.example"}]
ldap_filter: "(& (objectClass=person) (memberOf=cn=chat,dc=example) )"
ldap_dn_filter: {"(&(name=%s)(owner=%D))": [sn]}
host_config:
  b.example: {ldap_encrypt: none, ldap_uids: {cn: "x%u"}, auth_use_cache: false}
  c.example: {auth_method: internal}
`)
    const { ldap, authMethods } = config.host('a.example')
    expect(authMethods).to.deep.equal(['ldap'])
    expect(ldap).to.deep.include({
      servers: ['one.example', 'two.example'], backups: ['three.example'], port: 636, verify: 'hard', deref: 'never',
      uids: [{ attribute: 'uid', format: '%u' }, { attribute: 'mail', format: '%u@a.example' }],
      filter: '(&(objectClass=person)(memberOf=cn=chat,dc=example))', dnFilter: { filter: '(&(name=%s)(owner=%D))', attributes: ['sn'] },
    })
    const other = config.host('b.example')
    expect(other.ldap).to.deep.include({ port: 389, uids: [{ attribute: 'cn', format: 'x%u' }] })
    expect(other.authCache.lifeMs).to.equal(0)
  })

  it('names what of an LDAP directory cannot be', () => {
    const first = (line: string): string | undefined => load(`hosts: [a.example]\nauth_method: ldap\n${line}\n`).problems[0]
    for (const wrong of ['ldap_filter: "(uid=%u"', 'ldap_uids: "u id"', 'ldap_uids: {mail: "nobody"}', 'ldap_uids: []', 'ldap_dn_filter: {"(a=b)": [], "(c=d)": []}', 'ldap_encrypt: ssl', 'ldap_tls_cacertfile: /nowhere/ca.pem', 'ldap_port: 70000', 'ldap_deref_aliases: sometimes']) {
      expect(first(wrong), wrong).to.match(/^main\.yml:3: error: ldap_/)
    }
    expect(load('hosts: [a.example]\nldap_base: dc=example\nauth_cache_size: 10\n').problems.map((each) => each.slice(0, 30))).to.deep.equal(['main.yml:2: warning: ldap_base:', 'main.yml:3: warning: auth_cache_size:'].map((each) => each.slice(0, 30)))
  })

  it('refuses to serve from another account store than the one asked for', () => {
    expect(load('hosts: [a.example]\nauth_method: pam\n').problems[0]).to.match(/^main\.yml:2: error: auth_method: "pam".*internal/)
    expect(load('hosts: [a.example]\nauth_method: [internal, pam]\n').problems[0]).to.match(/^main\.yml:2: warning: auth_method: "pam" is not available.*; internal is used alone/)
    good('hosts: [a.example]\nauth_method: mnesia\n')
    expect(load('hosts: [a.example]\nhost_config:\n  a.example:\n    auth_method: [internal, sql]\n').problems[0]).to.match(/^main\.yml:4: warning: host_config\.a\.example\.auth_method/)
    expect(good('hosts: [a.example, b.example]\nhost_config: {b.example: {auth_method: [anonymous, mnesia]}}\n').host('b.example').authMethods).to.deep.equal(['anonymous', 'internal'])
    expect(load('hosts: [a.example]\nauth_method: anonymous\nanonymous_protocol: both\n').problems).to.deep.equal(['main.yml:3: warning: anonymous_protocol: "both" is not available: nobody logs in with a name and any password; SASL ANONYMOUS alone is offered.'])
  })

  it('has tokens checked by the key in a file', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tidings-'))
    writeFileSync(join(dir, 'good.jwk'), '{"kty":"oct","k":"c2VjcmV0"}')
    writeFileSync(join(dir, 'bad.jwk'), 'secret')
    const { jwt } = good(`hosts: [a.example]\nauth_method: jwt\njwt_key: ${join(dir, 'good.jwk')}\njwt_jid_field: sub\n`).host('a.example')
    expect(jwt).to.include({ jidField: 'sub', onlyRule: 'none' })
    expect(load('hosts: [a.example]\nhost_config:\n  a.example:\n    auth_method: jwt\n').problems[0]).to.match(/^main\.yml:4: error: host_config\.a\.example\.jwt_key: is missing/)
    for (const name of ['bad.jwk', 'gone.jwk']) expect(load(`hosts: [a.example, b.example]\nauth_method: [jwt]\njwt_key: ${join(dir, name)}\n`).problems).to.have.length(1)
    rmSync(dir, { recursive: true })
  })

  it('reports text that is not YAML with its line', () => {
    const { config, problems } = load('hosts:\n  - a.example\nacl:\n  x: *nothing\n')
    expect(problems.join('\n')).to.match(/main\.yml:4: error: yaml/)
    expect(config.hosts).to.have.length(1)
  })

  it('reports a missing file, an empty one and one without hosts', () => {
    expect(loadConfig('/nowhere/at/all.yml').problems[0]?.text).to.match(/cannot be read \(ENOENT\)/)
    expect(load('').problems).to.deep.equal(['main.yml:1: error: hosts: is missing; expected a list of the domains to serve.'])
    expect(load('- a\n').problems[0]).to.match(/main\.yml:1: error: yaml: holds a list/)
  })

  it('bounds what aliases unfold to', () => {
    const lines = ['hosts: [a.example]', 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    for (let depth = 1; depth < 10; depth++) lines.push(`a${depth}: &a${depth} [${Array.from({ length: 10 }, () => `*a${depth - 1}`).join(', ')}]`)
    expect(load(lines.join('\n')).problems.join('\n')).to.match(/more than 100000 values|Excessive alias/)
  })

  it('reads hosts as prepared domains', () => {
    expect(good('hosts:\n  - Example.ORG\n  - "b.example"\n').hosts).to.deep.equal(['example.org', 'b.example'])
    expect(good('hosts: a.example\n').hosts).to.deep.equal(['a.example'])
    expect(load('hosts: ["a b"]\n').problems[0]).to.match(/^main\.yml:1: error: hosts: "a b"/)
  })

  it('keeps history as long as tidings says, unless the module does', () => {
    const config = good('hosts: [a.example, b.example]\ntidings: {archive_retention: 30 days}\nmodules: {mod_mam: {}}\nhost_config: {b.example: {modules: {mod_mam: {expire: 1d}}}}\n')
    expect(JSON.stringify(config.host('a.example').modules.get('mod_mam'))).to.contain('"2592000000 ms"')
    expect(JSON.stringify(config.host('b.example').modules.get('mod_mam'))).to.contain('"1d"').and.not.contain('2592000000')
  })

  it('reads log levels by number and name', () => {
    for (const [written, level] of [['0', 'silent'], ['3', 'warn'], ['5', 'debug'], ['warning', 'warn'], ['critical', 'fatal'], ['none', 'silent']]) {
      expect(good(`hosts: [a.example]\nloglevel: ${written}\n`).loglevel).to.equal(level)
    }
  })

  describe('macros and includes', () => {
    it('replaces macros, quoted or not, within texts, and by the environment first', () => {
      const config = good(`
define_macro:
  PORT: 5333
  DOMAIN: a.example
  'QUOTED': b.example
  SECTION:
    mod_ping: {}
hosts: [DOMAIN, "QUOTED", "c.@DOMAIN@"]
listen:
  - { port: PORT, module: ejabberd_c2s }
  - { port: "@HTTP@", module: ejabberd_http }
modules: SECTION
`, {}, { env: { EJABBERD_MACRO_HTTP: '5444', EJABBERD_MACRO_PORT: '5334' } })
      expect(config.hosts).to.deep.equal(['a.example', 'b.example', 'c.a.example'])
      expect(config.listen.map(({ port }) => port)).to.deep.equal([5334, 5444])
      expect([...config.host('a.example').modules.keys()]).to.deep.equal(['mod_ping'])
    })

    it('lets a macro win over a keyword, and joins several define_macro', () => {
      const config = good('define_keyword: {NAME: k.example, OTHER: o.example}\ndefine_macro: {NAME: m.example}\ndefine_macro: {LAST: l.example}\nhosts: ["@NAME@", "@OTHER@", LAST]\n')
      expect(config.hosts).to.deep.equal(['m.example', 'o.example', 'l.example'])
    })

    it('survives macros that lead back to themselves', () => {
      expect(load('define_macro: {A: B, B: A}\nhosts: [a.example, A]\n').problems.join('\n')).to.match(/leads back to itself/)
    })

    it('replaces @HOST@ in modules for each host', () => {
      const config = good('hosts: [a.example, b.example]\nmodules:\n  mod_http_upload:\n    put_url: "https://@HOST@:5443/upload"\n')
      const node = config.host('b.example').modules.get('mod_http_upload')
      expect(JSON.stringify(node)).to.contain('https://b.example:5443/upload')
    })

    it('includes files, with allow_only and disallow', () => {
      const { config, problems } = load(`
hosts: [a.example]
include_config_file:
  acl.yml:
    allow_only: [acl]
  more.yml:
    disallow: loglevel
loglevel: 2
`, { 'acl.yml': 'acl:\n  admin:\n    user: root@a.example\nlisten: []\n', 'more.yml': 'loglevel: 5\nresource_conflict: closeold\nacl:\n  friends: {user: f@a.example}\n' })
      expect(problems).to.have.length(2)
      expect(problems[0]).to.match(/^acl\.yml:4: warning: listen: is left out/)
      expect(problems[1]).to.match(/^more\.yml:1: warning: loglevel: is left out/)
      expect(config.loglevel).to.equal('error')
      expect(config.host('a.example').resourceConflict).to.equal('closeold')
      const { access } = config.host('a.example')
      expect(access.allows(`=${JSON.stringify(allowNode('admin'))}`, jid('root@a.example'))).to.equal(true)
      expect(access.allows(`=${JSON.stringify(allowNode('friends'))}`, jid('f@a.example'))).to.equal(true)
    })

    it('keeps the main file\'s value, whatever comes first', () => {
      const { config, problems } = load('include_config_file: a.yml\nhosts: [a.example]\nloglevel: 2\n', { 'a.yml': 'loglevel: 5\n' })
      expect(config.loglevel).to.equal('error')
      expect(problems).to.have.length(1)
    })

    it('reports files that are missing or include each other', () => {
      expect(load('hosts: [a.example]\ninclude_config_file: gone.yml\n').problems[0]).to.match(/^main\.yml:2: error: include_config_file: gone\.yml cannot be read \(ENOENT\)/)
      expect(load('hosts: [a.example]\ninclude_config_file: a.yml\n', { 'a.yml': 'include_config_file: main.yml\n' }).problems[0]).to.match(/^a\.yml:1: error: .*includes itself/)
    })

    it('joins top-level maps and lists written twice, and reports scalars', () => {
      const config = good('hosts: [a.example]\nmodules: {mod_ping: {}}\nmodules: {mod_time: {}}\nlisten:\n  - {port: 1, module: ejabberd_c2s}\nlisten:\n  - {port: 2, module: ejabberd_c2s}\n')
      expect([...config.host('a.example').modules.keys()]).to.deep.equal(['mod_ping', 'mod_time'])
      expect(config.listen).to.have.length(2)
      expect(load('hosts: [a.example]\nlanguage: en\nlanguage: de\n').problems[0]).to.match(/^main\.yml:3: error: language: is already set at main\.yml:2/)
    })
  })

  describe('access', () => {
    const rules = (text: string): Config['host'] extends (name: string) => infer H ? H extends { access: infer A } ? A : never : never => good(`hosts: [a.example, b.example]\n${text}`).host('a.example').access

    it('asks for all of duplicate keys under allow', () => {
      const access = rules(`
acl:
  loopback: {ip: 127.0.0.1/8}
  admin: {user: root@a.example}
access_rules:
  both:
    allow:
      acl: loopback
      acl: admin
`)
      expect(access.allows('both', { ...jid('root@a.example'), address: '127.0.0.1' })).to.equal(true)
      expect(access.allows('both', { ...jid('root@a.example'), address: '192.0.2.1' })).to.equal(false)
      expect(access.allows('both', { ...jid('user@a.example'), address: '127.0.0.1' })).to.equal(false)
    })

    it('adds up duplicate keys in acl', () => {
      const access = rules('acl:\n  admin:\n    user: one@a.example\n    user: two@a.example\n  admin: {user: three@a.example}\naccess_rules: {x: {allow: admin}}\n')
      for (const name of ['one', 'two', 'three']) expect(access.allows('x', jid(`${name}@a.example`)), name).to.equal(true)
      expect(access.allows('x', jid('four@a.example'))).to.equal(false)
    })

    it('takes every form of user', () => {
      const access = rules(`
acl:
  u:
    user:
      - full@b.example
      - anyhost
      - "old": "elsewhere.example"
      - map: b.example
access_rules: {x: [{allow: u}]}
`)
      for (const allowed of ['full@b.example', 'anyhost@a.example', 'anyhost@b.example', 'old@elsewhere.example', 'map@b.example']) expect(access.allows('x', jid(allowed)), allowed).to.equal(true)
      for (const refused of ['full@a.example', 'anyhost@elsewhere.example', 'old@a.example', 'map@a.example', 'x@a.example']) expect(access.allows('x', jid(refused)), refused).to.equal(false)
    })

    it('matches local users by an empty user_regexp', () => {
      const access = rules('acl: {local: {user_regexp: ""}}\naccess_rules: {local: {allow: local}}\n')
      expect(access.allows('local', jid('x@b.example'))).to.equal(true)
      expect(access.allows('local', jid('x@elsewhere.example'))).to.equal(false)
      expect(access.allows('local', jid('a.example'))).to.equal(false)
      expect(access.allows('local', { address: '127.0.0.1' })).to.equal(false)
    })

    it('matches by pattern, glob, server and resource', () => {
      const access = rules(`
acl:
  re: {user_regexp: "^adm"}
  reat: {user_regexp: "^x@b.example"}
  glob: {user_glob: "t?st*"}
  server: {server: other.example}
  sre: {server_regexp: "\\\\.org$"}
  res: {resource: phone}
  node: {node_regexp: "^n@^b"}
  nested: {acl: re}
access_rules:
  re: {allow: re}
  reat: {allow: reat}
  glob: {allow: glob}
  server: {allow: server}
  sre: {allow: sre}
  res: {allow: res}
  node: {allow: node}
  nested: {allow: nested}
`)
      const cases: [string, string, boolean][] = [
        ['re', 'admin@a.example', true], ['re', 'admin@other.example', false], ['re', 'badm@a.example', false],
        ['reat', 'xy@b.example', true], ['reat', 'xy@a.example', false],
        ['glob', 'tests@a.example', true], ['glob', 'atest@a.example', false],
        ['server', 'x@other.example', true], ['server', 'x@a.example', false],
        ['sre', 'x@y.org', true], ['sre', 'x@y.org.example', false],
        ['res', 'x@y.org/phone', true], ['res', 'x@y.org/phone2', false],
        ['node', 'nn@bb.example', true], ['node', 'nn@ab.example', false],
        ['nested', 'adm@a.example', true], ['nested', 'x@a.example', false],
      ]
      for (const [rule, who, allowed] of cases) expect(access.allows(rule, jid(who)), `${rule} ${who}`).to.equal(allowed)
    })

    it('takes the first section that matches, in the order written', () => {
      const access = rules('acl: {blocked: {user: bad@a.example}}\naccess_rules:\n  c2s: {deny: blocked, allow: all}\n  list:\n    - deny: blocked\n    - allow\n  bare: allow\n')
      for (const rule of ['c2s', 'list']) {
        expect(access.allows(rule, jid('bad@a.example')), rule).to.equal(false)
        expect(access.allows(rule, jid('good@a.example')), rule).to.equal(true)
      }
      expect(access.allows('bare', jid('bad@a.example'))).to.equal(true)
    })

    it('knows all, none, local and loopback, and refuses names that are not defined', () => {
      const access = rules('access_rules: {here: {allow: loopback}}\n')
      expect(access.allows('all', {})).to.equal(true)
      expect(access.allows('none', jid('x@a.example'))).to.equal(false)
      expect(access.allows('local', jid('x@a.example'))).to.equal(true)
      expect(access.allows('local', jid('x@elsewhere.example'))).to.equal(false)
      expect(access.allows('here', { address: '::1' })).to.equal(true)
      expect(access.allows('nothing', jid('x@a.example'))).to.equal(false)
      expect(access.allows('constructor', jid('x@a.example'))).to.equal(false)
    })

    it('takes the old forms', () => {
      const access = rules(`
acl: {blocked: {user: bad@a.example}, admin: {user: root@a.example}}
shaper: {slow: "maxrate 1000", normal: 5000}
access:
  c2s:
    blocked: deny
    all: allow
  max_user_sessions:
    admin: 50
    all: 3
  c2s_shaper:
    admin: none
    all: slow
`)
      expect(access.allows('c2s', jid('bad@a.example'))).to.equal(false)
      expect(access.allows('c2s', jid('x@a.example'))).to.equal(true)
      expect(access.value('max_user_sessions', jid('root@a.example'))).to.equal(50)
      expect(access.value('max_user_sessions', jid('x@a.example'))).to.equal(3)
      expect(access.shaper('c2s_shaper', jid('root@a.example'))).to.equal(undefined)
      expect(access.shaper('c2s_shaper', jid('x@a.example'))).to.deep.equal({ rate: 1000, burst: 1000 })
    })

    it('reads shapers and shaper rules in every form', () => {
      const access = rules(`
acl: {admin: {user: root@a.example}}
shaper:
  normal: {rate: 3000, burst_size: 20000}
  fast: 50000
  open: none
shaper_rules:
  max_user_sessions: 7
  max_user_offline_messages:
    - 5000: admin
    - 100
  c2s_shaper: {none: admin, normal: all}
  hard_upload_quota: {infinity: admin, 10: all}
`)
      expect(access.value('max_user_sessions', jid('x@a.example'))).to.equal(7)
      expect(access.value('max_user_offline_messages', jid('root@a.example'))).to.equal(5000)
      expect(access.value('max_user_offline_messages', jid('x@a.example'))).to.equal(100)
      expect(access.value('hard_upload_quota', jid('root@a.example'))).to.equal(Infinity)
      expect(access.value('undefined_rule', jid('x@a.example'))).to.equal(undefined)
      expect(access.value('500', jid('x@a.example'))).to.equal(500)
      expect(access.shaper('c2s_shaper', jid('x@a.example'))).to.deep.equal({ rate: 3000, burst: 20_000 })
      expect(access.shaper('c2s_shaper', jid('root@a.example'))).to.equal(undefined)
      expect(access.shaper('fast', jid('x@a.example'))).to.deep.equal({ rate: 50_000, burst: 50_000 })
      for (const free of ['none', 'missing']) expect(access.shaper(free, jid('x@a.example')), free).to.equal(undefined)
    })

    it('has the defaults of ejabberd\'s example', () => {
      const access = rules('')
      expect(access.value('max_user_sessions', jid('x@a.example'))).to.equal(undefined)
      expect(good('hosts: [a.example]\n').limits.sessionsPerUser).to.equal(10)
      expect(access.value('max_user_offline_messages', jid('x@a.example'))).to.equal(5000)
      expect(access.shaper('c2s_shaper', jid('x@a.example'))).to.equal(undefined)
    })

    it('lets a rule that cannot be judged allow nobody and deny everybody', () => {
      const { config, problems } = load('hosts: [a.example]\nacl: {team: {shared_group: team}}\naccess_rules:\n  in: {allow: team}\n  out: {deny: team, allow: all}\n')
      expect(problems.join('\n')).to.match(/main\.yml:2: warning: acl\.shared_group/)
      const { access } = config.host('a.example')
      expect(access.allows('in', jid('x@a.example'))).to.equal(false)
      expect(access.allows('out', jid('x@a.example'))).to.equal(false)
    })

    it('reports ACLs that are wrong or not defined', () => {
      expect(load('hosts: [a.example]\nacl: {x: {ip: 300.1.1.1}}\n').problems[0]).to.match(/^main\.yml:2: error: acl\.x: "300\.1\.1\.1"/)
      expect(load('hosts: [a.example]\nacl: {x: {user_regexp: "("}}\n').problems[0]).to.match(/^main\.yml:2: error: acl\.x: .*regular expression/)
      expect(load('hosts: [a.example]\nacl: {x: {usr: a@b.example}}\n').problems[0]).to.match(/Did you mean "user"/)
      expect(load('hosts: [a.example]\nacl: {trusted: {ip: 10.0.0.0/8}}\naccess_rules:\n  x:\n    allow: trused\n').problems[0]).to.match(/^main\.yml:5: warning: acl\.trused: is not defined.*Did you mean "trusted"/)
      expect(load('hosts: [a.example]\naccess_rules: {x: {alow: all}}\n').problems[0]).to.match(/^main\.yml:2: error: access_rules\.x: "alow"/)
      expect(load('hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_c2s, access: c2z}\naccess_rules: {c2s: {allow: all}}\n').problems[0]).to.match(/^main\.yml:3: warning: listen\.access: "c2z" is not defined.*Did you mean "c2s"/)
    })

    it('does not loop on ACLs that lead back to themselves', () => {
      const access = rules('acl: {x: {acl: y}, y: {acl: x}}\naccess_rules: {z: {allow: x}}\n')
      expect(access.allows('z', jid('x@a.example'))).to.equal(false)
    })
  })

  describe('listen', () => {
    it('reads client listeners', () => {
      const [one, two] = good(`
hosts: [a.example]
listen:
  - port: 5222
    ip: "::"
    module: ejabberd_c2s
    starttls: yes
    max_stanza_size: 65536
    protocol_options: [no_sslv3, no_tlsv1_2, cipher_server_preference]
    ciphers: HIGH
  - port: "unix:/run/x.sock"
    module: ejabberd_http
`).listen
      expect(one).to.include({ port: 5222, ip: '::', starttls: true, starttlsRequired: false, tls: false, maxStanzaBytes: 65_536, preAuthMaxStanzaBytes: 65_536, access: 'all', shaper: 'none', line: 4 })
      expect(one?.tlsOptions).to.include({ minVersion: 'TLSv1.3', ciphers: 'HIGH', honorCipherOrder: true })
      expect(two).to.include({ unixPath: '/run/x.sock', maxStanzaBytes: 262_144 })
    })

    it('gives each listener TLS options of its own, and clients those of the top level', () => {
      const { listen } = good(`
hosts: [a.example]
c2s_protocol_options: no_tlsv1_3
c2s_ciphers: "HIGH:!aNULL"
listen:
  - {port: 1, module: ejabberd_http, tls: true}
  - {port: 2, module: ejabberd_c2s, starttls: true}
  - {port: 3, module: ejabberd_c2s, tls: true, protocol_options: [no_tlsv1_2]}
  - {port: 4, module: ejabberd_http, tls: true, protocol_options: "no_tlsv1_2|cipher_server_preference", ciphers: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384]}
`)
      expect(listen.map(({ tlsOptions }) => [tlsOptions.minVersion, tlsOptions.maxVersion, tlsOptions.ciphers, tlsOptions.honorCipherOrder])).to.deep.equal([
        ['TLSv1.2', undefined, undefined, false],
        ['TLSv1.2', 'TLSv1.2', 'HIGH:!aNULL', false],
        ['TLSv1.3', undefined, 'HIGH:!aNULL', false],
        ['TLSv1.3', undefined, 'ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384', true],
      ])
    })

    it('gives no tickets where no_ticket is among the options of TLS', () => {
      const { listen } = good('hosts: [a.example]\nc2s_protocol_options: [no_ticket]\nlisten:\n  - {port: 2, module: ejabberd_c2s, tls: true}\n  - {port: 3, module: ejabberd_c2s, tls: true, protocol_options: [no_tlsv1_2]}\n')
      expect(listen.map(({ tlsOptions }) => tlsOptions.tickets)).to.deep.equal([false, true])
    })

    it('reports ciphers and DH parameters that OpenSSL does not take', () => {
      expect(load('hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_http, tls: true, ciphers: NONSENSE}\n').problems.join()).to.match(/^main\.yml:3: error: listen\.ciphers: "NONSENSE" .*no cipher match/i)
      expect(load('hosts: [a.example]\nc2s_dhfile: /gone.pem\n').problems.join()).to.match(/^main\.yml:2: error: c2s_dhfile: "\/gone.pem" does not exist/)
      const { pathname } = new URL(import.meta.url)
      expect(load(`hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_c2s, tls: true, dhfile: ${pathname}}\n`).problems.join()).to.match(/^main\.yml:3: error: listen\.dhfile: .*Diffie-Hellman/)
    })

    it('says that TLS options and the queue cannot differ between hosts', () => {
      expect(load('hosts: [a.example]\nhost_config:\n  a.example:\n    c2s_ciphers: HIGH\n    max_fsm_queue: 5\n').problems).to.deep.equal([
        'main.yml:4: warning: host_config.a.example.c2s_ciphers: has no effect on one host: set it at the top level or on a listener.',
        'main.yml:5: warning: host_config.a.example.max_fsm_queue: has no effect on one host: set it at the top level or on a listener.',
      ])
    })

    it('says that SASL2 needs TLS', () => {
      expect(load('hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_c2s, allow_unencrypted_sasl2: true}\n  - {port: 2, module: ejabberd_c2s, allow_unencrypted_sasl2: false}\n').problems).to.deep.equal([
        'main.yml:3: warning: listen.allow_unencrypted_sasl2: has no effect: SASL2 is offered over TLS alone (XEP-0388 §3).',
      ])
    })

    it('asks clients for certificates where there are authorities for them', async () => {
      const authority = (await generate([{ name: 'commonName', value: 'Authority' }], { keyType: 'ec', algorithm: 'sha256' })).cert
      const dir = mkdtempSync(join(tmpdir(), 'tidings-'))
      writeFileSync(join(dir, 'ca.pem'), authority)
      writeFileSync(join(dir, 'none.pem'), 'nothing')
      const ca = join(dir, 'ca.pem')
      const { config, problems } = load(`hosts: [a.example]\nc2s_cafile: ${ca}\nlisten:\n  - {port: 1, module: ejabberd_c2s, tls_verify: true}\n  - {port: 2, module: ejabberd_c2s, tls_verify: false}\n  - {port: 3, module: ejabberd_http, cafile: ${ca}}\n`)
      expect(config.listen.map(({ tlsOptions }) => tlsOptions.caFile)).to.deep.equal([ca, undefined, undefined])
      expect(problems).to.have.length(1)
      expect(problems[0]).to.match(/^main\.yml:6: warning: listen\.cafile: has no effect/)
      expect(load('hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_c2s, tls_verify: true}\n').problems[0]).to.match(/^main\.yml:3: warning: listen\.tls_verify: has no effect without cafile/)
      expect(load(`hosts: [a.example]\nc2s_cafile: ${join(dir, 'none.pem')}\n`).problems[0]).to.match(/error: c2s_cafile: ".*" is not allowed here; expected a file of certificates in PEM/)
      expect(load(`hosts: [a.example]\nc2s_cafile: ${join(dir, 'gone.pem')}\n`).problems[0]).to.match(/error: c2s_cafile: ".*" does not exist/)
      rmSync(dir, { recursive: true })
    })

    it('reads Unix sockets with their rights, and the PROXY protocol', () => {
      const [one, two, three] = good(`
hosts: [a.example]
listen:
  - {port: "unix:/run/c2s.sock", module: ejabberd_c2s, use_proxy_protocol: true, unix_socket: {mode: 0660, owner: 117, group: 0}}
  - {port: "unix:web.sock", module: ejabberd_http, unix_socket: {mode: "0775"}}
  - {port: 5222, module: ejabberd_c2s}
`).listen
      expect(one).to.deep.include({ unixPath: '/run/c2s.sock', proxyProtocol: true, unixSocket: { mode: 0o660, owner: 117, group: 0 } })
      expect(two).to.deep.include({ unixPath: '/etc/x/web.sock', proxyProtocol: false, unixSocket: { mode: 0o775, owner: undefined, group: undefined } })
      expect(three).to.include({ unixPath: undefined })
      expect(load('hosts: [a.example]\nlisten:\n  - {port: "unix:/x", module: ejabberd_c2s, unix_socket: {mode: "0980"}}\n').problems[0]).to.match(/^main\.yml:3: error: listen\.unix_socket: mode: "0980".*octal/)
      expect(load('hosts: [a.example]\nlisten:\n  - {port: 1, module: ejabberd_c2s, unix_socket: {mode: "0660"}}\n').problems[0]).to.match(/^main\.yml:3: warning: listen\.unix_socket: has no effect/)
      expect(load('hosts: [a.example]\nlisten:\n  - {port: "unix:/x", module: ejabberd_c2s}\n  - {port: "unix:/x", module: ejabberd_http}\n').problems[0]).to.match(/^main\.yml:4: error: listen\.port: "\/x" is already opened/)
    })

    it('bounds elements and queues by ejabberd\'s names, on a listener or for all', () => {
      const config = good(`
hosts: [a.example]
max_fsm_queue: 2000
listen:
  - {port: 1, module: ejabberd_c2s, max_stanza_elements: 300, max_fsm_queue: 40000}
  - {port: 2, module: ejabberd_c2s, pre_auth_max_stanza_elements: 20, max_fsm_queue: 10}
  - {port: 3, module: ejabberd_c2s}
`)
      expect(config.listen.map(({ maxStanzaElements, preAuthMaxStanzaElements, outboundBytes }) => [maxStanzaElements, preAuthMaxStanzaElements, outboundBytes])).to.deep.equal([
        [300, 300, 40_000 * 1024], [10_000, 20, 1_048_576], [10_000, 10_000, 2000 * 1024],
      ])
      expect(config.limits.outboundBytes).to.equal(40_000 * 1024)
      expect(good('hosts: [a.example]\nmax_fsm_queue: 10000\ntidings: {limits: {outbound_bytes: 5000000}}\nlisten: [{port: 3, module: ejabberd_c2s}]\n').listen[0]?.outboundBytes).to.equal(5_000_000)
    })

    it('never goes below TLS 1.2', () => {
      const config = good('hosts: [a.example]\nc2s_protocol_options: no_sslv3\nlisten:\n  - {port: 1, module: ejabberd_c2s}\n')
      expect(config.listen[0]?.tlsOptions.minVersion).to.equal('TLSv1.2')
      expect(load('hosts: [a.example]\nc2s_protocol_options: [no_tlsv1_2, no_tlsv1_3]\n').problems[0]).to.match(/leaves no version/)
    })

    it('turns old booleans into request handlers and old names into new', () => {
      const [listener] = good('hosts: [a.example]\nlisten:\n  - port: 5280\n    module: ejabberd_http\n    http_bind: true\n    web_admin: false\n    request_handlers: {"/bind2": mod_http_bind, upload: mod_http_upload}\n').listen
      expect([...listener?.requestHandlers ?? []]).to.deep.equal([['/bosh', 'mod_bosh'], ['/bind2', 'mod_bosh'], ['/upload', 'mod_http_upload']])
    })

    it('reports listeners that are not here, doubled ports, and options of other versions', () => {
      const { config, problems } = load(`hosts: [a.example]
listen:
  - {port: 5269, module: ejabberd_sip}
  - {port: 5222, module: ejabberd_c2s, resend_on_timeout: true}
  - {port: 5222, ip: 127.0.0.1, module: ejabberd_c2s}
  - {port: 1, module: ejabberd_c2}
  - {port: 2}
  - {port: 3, module: ejabberd_c2s, startls: true}
  - {port: 4, module: ejabberd_c2s, max_stanza_size: infinity, zlib: true}
`)
      expect(config.listen.map(({ port }) => port)).to.deep.equal([5222, 3, 4])
      expect(config.listen[2]?.maxStanzaBytes).to.equal(262_144)
      for (const expected of [
        /^main\.yml:3: warning: listen\.module: "ejabberd_sip".*5269 is not opened/m,
        /^main\.yml:4: warning: listen\.resend_on_timeout/m,
        /^main\.yml:5: error: listen\.port: .*main\.yml:4/m,
        /^main\.yml:6: error: listen\.module: .*Did you mean "ejabberd_c2s"/m,
        /^main\.yml:7: error: listen\.module: is missing/m,
        /^main\.yml:8: error: listen\.startls: .*Did you mean "starttls"/m,
        /^main\.yml:9: warning: listen\.max_stanza_size/m,
        /^main\.yml:9: warning: listen\.zlib/m,
      ]) expect(problems.join('\n')).to.match(expected)
      expect(problems).to.have.length(8)
    })
  })

  describe('host_config', () => {
    const text = `
hosts: [a.example, b.example]
acl: {admin: {user: root@a.example}}
access_rules: {x: {allow: admin}, y: {allow: admin}}
modules: {mod_ping: {}, mod_time: {}}
host_config:
  b.example:
    resource_conflict: closenew
    modules: {mod_mam: {default: always}}
    acl: {admin: {user: boss@b.example}}
append_host_config:
  a.example:
    modules: {mod_vcard: {}}
`
    it('replaces modules and ACLs for one host, and adds to them', () => {
      const config = good(text)
      expect([...config.host('a.example').modules.keys()]).to.deep.equal(['mod_ping', 'mod_time', 'mod_vcard'])
      expect([...config.host('b.example').modules.keys()]).to.deep.equal(['mod_mam'])
      expect(config.host('b.example').resourceConflict).to.equal('closenew')
      expect(config.host('a.example').resourceConflict).to.equal('acceptnew')
      expect(config.host('b.example').access.allows('x', jid('boss@b.example'))).to.equal(true)
      expect(config.host('b.example').access.allows('x', jid('root@a.example'))).to.equal(false)
      expect(config.host('a.example').access.allows('x', jid('root@a.example'))).to.equal(true)
    })

    it('refuses what cannot differ, and names unknown hosts', () => {
      expect(load('hosts: [a.example]\nhost_config:\n  a.example:\n    loglevel: 5\n').problems[0]).to.match(/^main\.yml:4: error: host_config\.a\.example\.loglevel: cannot differ/)
      expect(load('hosts: [a.example]\nhost_config:\n  b.example:\n    language: de\n').problems[0]).to.match(/^main\.yml:3: warning: host_config\.b\.example: is not among hosts.*"a.example"/)
      expect(() => good('hosts: [a.example]\n').host('b.example')).to.throw('not a host')
    })
  })

  describe('modules', () => {
    interface Mam { default: 'always' | 'never' | 'roster'; access_preferences: string; keep: number }
    const options: OptionTable<Mam> = {
      default: { type: oneOf('always', 'never', 'roster'), default: 'never', help: '' },
      access_preferences: { type: accessRule(), default: 'all', help: '' },
      keep: { type: duration(), default: 1000, help: '' },
    }
    const declarations = [{ name: 'archive', ejabberd: 'mod_mam', options }, { name: 'ping', ejabberd: 'mod_ping' }, { name: 'upload', ejabberd: 'mod_http_upload' }, { name: 'upload-more', ejabberd: 'mod_mam', options: { extra: { type: bool(), default: false, help: '' } } }]
    const check = (text: string): string[] => checkModules(good(text), declarations).map((problem) => formatProblem(problem).replaceAll('/etc/x/', ''))

    it('accepts what is declared, by any extension of the module', () => {
      expect(check('hosts: [a.example, b.example]\nmodules:\n  mod_mam:\n    default: always\n    keep: 5 minutes\n    extra: yes\n  mod_ping: {}\n')).to.deep.equal([])
    })

    it('reports modules, options and values, once for all hosts', () => {
      const problems = check(`hosts: [a.example, b.example]
modules:
  mod_mam:
    default: sometimes
    db_type: sql
    assume_mam_usage: true
    defualt: always
    access_preferences: nobodys
  mod_muc_log: {}
  mod_irc: {}
  mod_pingg: {}
  mod_completely_private: {}
`)
      for (const expected of [
        /^main\.yml:4: error: modules\.mod_mam\.default: "sometimes".*always, never, roster/m,
        /^main\.yml:5: warning: modules\.mod_mam\.db_type: .*store/m,
        /^main\.yml:6: warning: modules\.mod_mam\.assume_mam_usage/m,
        /^main\.yml:7: error: modules\.mod_mam\.defualt: .*Did you mean "default"/m,
        /^main\.yml:8: warning: modules\.mod_mam\.access_preferences: "nobodys" is not defined/m,
        /^main\.yml:9: warning: modules\.mod_muc_log: .*off/m,
        /^main\.yml:10: warning: modules\.mod_irc/m,
        /^main\.yml:11: error: modules\.mod_pingg: .*Did you mean "mod_ping"/m,
        /^main\.yml:12: warning: modules\.mod_completely_private/m,
      ]) expect(problems.join('\n')).to.match(expected)
      expect(problems).to.have.length(9)
    })

    it('takes a module\'s own store for what it is', () => {
      expect(check('hosts: [a.example]\nmodules: {mod_mam: {db_type: mnesia}}\n')).to.deep.equal([])
      expect(check('hosts: [a.example]\nmodules: {mod_ping: {db_type: mnesia}}\n')).to.have.length(1)
    })

    it('reports request handlers nobody serves', () => {
      const problems = check('hosts: [a.example]\nlisten:\n  - port: 1\n    module: ejabberd_http\n    request_handlers:\n      /admin: ejabberd_web_admin\n      /upload: mod_http_upload\n')
      expect(problems).to.have.length(2)
      expect(problems[0]).to.match(/\/admin: ejabberd_web_admin is not part/)
      expect(problems[1]).to.match(/\/upload: mod_http_upload is not among the modules/)
    })

    it('takes old names and empty forms', () => {
      const config = good('hosts: [a.example]\nmodules:\n  mod_http_bind: {}\n  mod_offline_odbc: {}\n  mod_ping:\n  mod_time: []\n')
      expect([...config.host('a.example').modules.keys()]).to.deep.equal(['mod_bosh', 'mod_offline', 'mod_ping', 'mod_time'])
    })
  })

  describe('tidings', () => {
    it('says how many processes serve clients', () => {
      const of = (value: string): number => good(`hosts: [a.example]\ntidings: { processes: ${value} }\n`).tidings.processes
      expect([of('1'), of('4')]).to.deep.equal([1, 4])
      expect(of('auto')).to.equal(availableParallelism())
      for (const value of ['0', '-1', '100', 'many']) expect(load(`hosts: [a.example]\ntidings: { processes: ${value} }\n`).problems.join(), value).to.match(/tidings\.processes: .*an integer from 1 to 99, or auto/)
    })

    it('sets limits, retention and metrics', () => {
      const config = good('hosts: [a.example]\nnegotiation_timeout: 10\ntidings:\n  data: ./d\n  archive_retention: 30\n  upload: {quota: 1 GB, expiry: infinity}\n  metrics: {port: 0}\n  limits: {stanza_bytes: 20000, pre_auth_timeout: 5 s}\n')
      expect(config.limits).to.include({ stanzaBytes: 20_000, preAuthTimeoutMs: 5000, depth: 100 })
      expect(config.tidings).to.deep.equal({
        data: './d', processes: 1, metrics: { port: 0, ip: '127.0.0.1' }, archiveRetentionMs: 30 * 86_400_000,
        upload: { quotaBytes: 1024 ** 3, expiryMs: Infinity }, s3: undefined, kafka: undefined, hbase: undefined, cassandra: undefined, cluster: undefined, auth: undefined, nameServers: [], selfSigned: true,
        reports: { sendTo: [] }, serviceStatus: { addresses: [], outage: undefined },
      })
      expect(good('hosts: [a.example]\ntidings: { s3: { endpoint: "http://s3.example:9000", access_key: a, secret_key: b } }\n').tidings.s3).to.deep.equal({
        endpoint: 'http://s3.example:9000', region: 'us-east-1', bucket: 'tidings', prefix: '', accessKey: 'a', secretKey: 'b', pathStyle: true,
      })
      expect(parts('hosts: [a.example]\ntidings: { kafka: { brokers: ["k1:9092", "[::1]:9092"], tls: { cafile: ca.pem }, sasl: { username: u, password: p } } }\n').tidings.kafka).to.deep.equal({
        brokers: ['k1:9092', '[::1]:9092'], topic: 'archive', partitions: 12, replication: -1, backlogBytes: 67_108_864, group: 'tidings-archive-worker',
        tls: { caFile: '/etc/x/ca.pem', certFile: undefined, keyFile: undefined, verify: true }, sasl: { mechanism: 'scram-sha-512', username: 'u', password: 'p' },
      })
      expect(parts('hosts: [a.example]\ntidings: { archive_retention: 1, hbase: { masters: ["m1:16000"] } }\n').tidings.hbase).to.deep.equal({
        masters: ['m1:16000'], user: 'tidings', namespace: 'default', prefix: '', regions: 8, compression: 'NONE', retentionSeconds: 86_400,
      })
      const cassandraOf = (lines: string): unknown => parts(`hosts: [a.example]\ntidings: { ${lines} }\n`).tidings.cassandra
      const cassandra = { contactPoints: ['c1'], localDatacenter: 'datacenter1', keyspace: 'tidings', replication: 3, consistency: 'local_quorum', login: undefined, tls: undefined }
      expect(cassandraOf('cassandra: { contact_points: c1 }')).to.deep.equal(cassandra)
      expect(cassandraOf('archive_retention: 1, cassandra: { contact_points: ["c1:9043", "[::1]"], local_datacenter: dc1, keyspace: chat_2, replication: {dc1: 3, dc2: 2}, consistency: quorum, username: u, password: p, tls: {cafile: ca.pem, server_name: c.example} }')).to.deep.equal({
        contactPoints: ['c1:9043', '[::1]'], localDatacenter: 'dc1', keyspace: 'chat_2', replication: { dc1: 3, dc2: 2 }, consistency: 'quorum', login: { username: 'u', password: 'p' },
        tls: { caFile: '/etc/x/ca.pem', certFile: undefined, keyFile: undefined, verify: true, serverName: 'c.example' }, retentionSeconds: 86_400,
      })
      expect(cassandraOf('cassandra: { contact_points: c1, tls: true }')).to.deep.equal({ ...cassandra, tls: { caFile: undefined, certFile: undefined, keyFile: undefined, verify: true, serverName: undefined } })
      expect(parts('hosts: [a.example]\ntidings: { kafka: { brokers: ["k1:9092"], tls: true } }\n').tidings.kafka?.tls).to.deep.equal({ caFile: undefined, certFile: undefined, keyFile: undefined, verify: true })
      expect(good('hosts: [a.example]\nnegotiation_timeout: 10\n').limits).to.include({ preAuthTimeoutMs: 10_000 })
      // A timer would take infinity for nothing.
      expect(good('hosts: [a.example]\nnegotiation_timeout: infinity\n').limits.preAuthTimeoutMs).to.equal(2 ** 31 - 1)
    })

    it('says where the Redis of a cluster is', () => {
      const redisOf = (lines: string): unknown => parts(`hosts: [a.example]\n${lines}\n`).tidings.cluster?.redis
      const plain = {
        server: { host: 'localhost', port: 6379 }, sentinels: [], name: '', cluster: [], username: '', password: '', sentinelPassword: '', database: 0, tls: false, ca: undefined,
        connectTimeoutMs: 1000, keyPrefix: 'tidings:', minReplicas: 0,
      }
      expect(good('hosts: [a.example]\n').tidings.cluster).to.equal(undefined)
      expect(parts('hosts: [a.example]\ntidings: {cluster: {node: one, address: "10.0.0.1:5300", secret: 0123456789abcdef}}\n').tidings.cluster).to.deep.include({ node: 'one', address: '10.0.0.1:5300', secret: '0123456789abcdef', redis: plain })
      expect(load('hosts: [a.example]\ntidings: {cluster: {secret: short}}\n').problems.join()).to.match(/error: tidings\.cluster\.secret: .*at least 16 characters/)
      expect(redisOf('redis_server: redis.example\nredis_port: 6380\nredis_password: secret\nredis_db: 2\nredis_connect_timeout: 3\ntidings: {cluster: {}}')).to.deep.equal({
        ...plain, server: { host: 'redis.example', port: 6380 }, password: 'secret', database: 2, connectTimeoutMs: 3000,
      })
      expect(redisOf('tidings: {cluster: {redis: {url: "rediss://tim:p%40ss@[::1]:6390/3", key_prefix: "x:", connect_timeout: 5 s}}}')).to.deep.equal({
        ...plain, server: { host: '::1', port: 6390 }, username: 'tim', password: 'p@ss', database: 3, tls: true, keyPrefix: 'x:', connectTimeoutMs: 5000,
      })
      expect(redisOf('tidings: {cluster: {redis: {sentinels: [one, "two:26380"], name: main, password: a, sentinel_password: b, min_replicas: 2}}}')).to.deep.equal({
        ...plain, server: undefined, sentinels: [{ host: 'one', port: 26_379 }, { host: 'two', port: 26_380 }], name: 'main', password: 'a', sentinelPassword: 'b', minReplicas: 2,
      })
      expect(redisOf('tidings: {cluster: {redis: {nodes: ["[::1]:7000", two], tls: true}}}')).to.deep.equal({
        ...plain, server: undefined, cluster: [{ host: '::1', port: 7000 }, { host: 'two', port: 6379 }], tls: true, minReplicas: 1,
      })
      expect(redisOf('tidings: {cluster: {redis: {sentinels: [one]}}}')).to.include({ minReplicas: 1 })
    })

    it('waits for a replica where one may take the place of the primary, and warns when it is told not to', () => {
      const warned = (redis: string): string => load(`hosts: [a.example]\ntidings: {cluster: {redis: {${redis}}}}\n`).problems.join('\n')
      for (const redis of ['sentinels: [one]', 'nodes: [one]']) {
        expect(warned(redis)).to.equal('')
        expect(warned(`${redis}, min_replicas: 0`)).to.match(/main\.yml:2: warning: tidings\.cluster\.redis\.min_replicas: is 0 where a replica may take the place/)
      }
      expect(warned('url: "redis://one", min_replicas: 0')).to.equal('')
    })

    it('refuses what cannot be Cassandra, and two stores of history', () => {
      const problemsOf = (lines: string): string => load(`hosts: [a.example]\ntidings:\n${lines}\n`).problems.join('\n')
      expect(problemsOf('  cassandra: {contact_points: [c1]}\n  hbase: {masters: [m]}')).to.match(/main\.yml:3: error: tidings\.cassandra: is set beside tidings\.hbase/)
      expect(problemsOf('  cassandra: {}')).to.match(/main\.yml:3: error: tidings\.cassandra\.contact_points: At least one node/)
      for (const [name, value] of [['keyspace', 'My-Chat'], ['replication', '0'], ['replication', '{dc1: x}'], ['consistency', 'any'], ['tls', '{ca: x}']] as const) {
        expect(problemsOf(`  cassandra:\n    contact_points: [c1]\n    ${name}: ${value}`), `${name}: ${value}`).to.match(new RegExp(`main\\.yml:5: error: tidings\\.cassandra\\.${name}`))
      }
      expect(problemsOf('  cassandra: {contact_points: ["a b"]}')).to.match(/main\.yml:3: error: tidings\.cassandra\.contact_points/)
    })

    it('says what several nodes need beside each other', () => {
      const problemsOf = (lines: string): string => load(`hosts: [a.example]\ntidings:\n${lines}\n`).problems.join('\n')
      expect(problemsOf('  cluster: {}\n  kafka: {brokers: ["k:9092"]}')).to.match(/main\.yml:4: error: tidings\.kafka: needs tidings\.hbase/)
      expect(problemsOf('  hbase: {masters: [m]}\n  kafka: {brokers: ["k:9092"]}')).to.match(/main\.yml:3: error: tidings\.hbase: needs tidings\.cluster/)
      expect(problemsOf('  hbase: {masters: [m]}\n  kafka: {brokers: ["k:9092"]}')).to.match(/main\.yml:4: error: tidings\.kafka: needs tidings\.cluster/)
      expect(problemsOf('  cassandra: {contact_points: [c]}')).to.match(/main\.yml:3: error: tidings\.cassandra: needs tidings\.cluster/)
      for (const store of ['hbase: {masters: [m]}', 'cassandra: {contact_points: [c]}']) expect(problemsOf(`  cluster: {}\n  ${store}\n  kafka: {brokers: ["k:9092"]}`)).to.equal('')
      const ofNode = (lines: string): string => checkChatNode(load(`hosts: [a.example]\ntidings:\n${lines}\n`).config).map(formatProblem).join('\n')
      expect(ofNode('  data: x')).to.equal('')
      expect(ofNode('  cluster: {}')).to.match(/main\.yml:3: error: tidings\.cluster: needs tidings\.hbase[^]*main\.yml:3: warning: tidings\.cluster: is set without tidings\.s3/)
      for (const store of ['hbase: {masters: [m]}', 'cassandra: {contact_points: [c]}']) expect(ofNode(`  cluster: {}\n  ${store}\n  s3: {bucket: b}`)).to.equal('')
    })

    it('reports what cannot be the Redis of a cluster', () => {
      const problemsOf = (lines: string): string => load(`hosts: [a.example]\n${lines}\n`).problems.join('\n')
      expect(problemsOf('redis_server: redis.example')).to.match(/main\.yml:2: warning: redis_server: has no effect.*unless tidings\.cluster/)
      expect(problemsOf('redis_pool_size: 5\ntidings: {cluster: {}}')).to.match(/warning: redis_pool_size: has no effect/)
      expect(problemsOf('tidings: {cluster: {redis: {url: "redis://a", nodes: [b]}}}')).to.match(/error: tidings\.cluster\.redis\.nodes: is set beside url/)
      expect(problemsOf('tidings: {cluster: {redis: {url: "http://a"}}}')).to.match(/error: tidings\.cluster\.redis\.url: .*redis:\/\//)
      expect(problemsOf('tidings: {cluster: {redis: {url: "redis://a/b"}}}')).to.match(/error: tidings\.cluster\.redis\.url: .*no number/)
      expect(problemsOf('tidings: {cluster: {redis: {nodes: ["a b"]}}}')).to.match(/error: tidings\.cluster\.redis\.nodes/)
      expect(problemsOf('tidings: {cluster: {redis: {nodes: [a], db: 1}}}')).to.match(/error: tidings\.cluster\.redis\.db: .*one database/)
      expect(problemsOf('tidings: {cluster: {redis: {key_prefix: "a{b}"}}}')).to.match(/error: tidings\.cluster\.redis\.key_prefix: .*without braces/)
      expect(problemsOf('tidings: {cluster: {redis: {ca_file: /gone.pem}}}')).to.match(/error: tidings\.cluster\.redis\.ca_file: cannot be read/)
      expect(problemsOf('tidings: {cluster: {node: "a b"}}')).to.match(/error: tidings\.cluster\.node/)
    })

    it('says where passwords are checked, and which secrets are of no use then', () => {
      const { config, problems } = load('hosts: [a.example]\nauth_method: [ldap, jwt]\njwt_key: /gone.jwk\nldap_password: x\nauth_cache_size: 5\ntidings: { auth: { servers: ["auth1:5290", "[::1]:1"], secret: "0123456789 0123456789" } }\n')
      expect(config.tidings.auth).to.deep.equal({ servers: [{ host: 'auth1', port: 5290 }, { host: '::1', port: 1 }], listen: { host: '127.0.0.1', port: 5290 }, address: undefined, secret: '0123456789 0123456789', accounts: false })
      expect(config.host('a.example').jwt).to.deep.equal({ key: undefined, jidField: 'jid', onlyRule: 'none' })
      expect(problems).to.have.length(2)
      expect(problems[0]).to.match(/warning: jwt_key: has no effect: auth processes check tokens/)
      expect(problems[1]).to.match(/warning: ldap_password: has no effect.*auth processes do/)
      expect(load('hosts: [a.example]\ntidings: { auth: { secret: short } }\n').problems.join()).to.match(/error: tidings\.auth\.secret: must have at least 20 characters/)
      expect(load('hosts: [a.example]\ntidings: { auth: { servers: ["a:b"], secret: "0123456789 0123456789" } }\n').problems.join()).to.match(/error: tidings\.auth\.servers: .*host:port/)
    })

    it('reports wrong names and values', () => {
      const { problems } = load('hosts: [a.example]\ntidings:\n  limits:\n    stanza_byte: 1\n    depth: zero\n  metric: {}\n')
      expect(problems.join('\n')).to.match(/main\.yml:4: error: tidings\.limits\.stanza_byte: .*Did you mean "stanza_bytes"/)
      expect(problems.join('\n')).to.match(/main\.yml:5: error: tidings\.limits\.depth: "zero"/)
      expect(problems.join('\n')).to.match(/main\.yml:6: error: tidings\.metric: .*Did you mean "metrics"/)
    })
  })

  it('keeps domains and passwords that look like numbers as text', () => {
    expect(load('hosts: [a.example]\nlanguage: 1234\n').config.host('a.example').language).to.equal('1234')
    const host = good('hosts: [a.example]\ndisable_sasl_mechanisms: digest-md5\nresource_conflict: closeold\n').host('a.example')
    expect(host).to.include({ resourceConflict: 'closeold', registrationTimeoutMs: 600_000 })
    expect(host.disabledMechanisms).to.deep.equal(['DIGEST-MD5'])
  })

  it('is described whole in the manual', () => {
    const manual = readFileSync(new URL('../../docs/configuration.md', import.meta.url), 'utf8')
    const names = [globalTable, hostTable, tidingsTable, metricsTable, clusterTable, clusterRedisTable, uploadTable, reportsTable, serviceStatusTable, authTable, ...Object.values(listenTables)].flatMap((table) => Object.keys(table))
    for (const name of [...names, ...Object.keys(limitTable).map(snakeCase)]) expect(manual.match(new RegExp(`\\b${name}\\b`)), name).to.not.equal(null)
  })

  it('collects certificates from old names and reports what matches no file', () => {
    const { config, problems } = load('hosts: [a.example]\ndomain_certfile: /gone/one.pem\nhost_config: {a.example: {domain_certfile: /gone/three.pem}}\ncertfiles:\n  - /gone/*.pem\nlisten:\n  - {port: 1, module: ejabberd_c2s, certfile: /gone/two.pem}\n')
    expect(config.certfiles).to.deep.equal([])
    expect(problems).to.have.length(4)
    for (const problem of problems) expect(problem).to.match(/warning: certfiles: "\/gone.*matches no file/)
  })
})

/** `- allow: name` as a node. */
function allowNode(name: string): unknown {
  const at = { file: 'x', line: 1 }
  return { kind: 'list', items: [{ kind: 'map', entries: [{ key: 'allow', value: { kind: 'scalar', value: name, source: name, ...at }, ...at }], ...at }], ...at }
}

