/** OpenLDAP's slapd with a small directory: twenty people, three groups, one account of a service. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { selfSigned } from './certificate.ts'
import { Daemon, listens } from './daemon.ts'
import { install, programPath } from './install.ts'
import { place, Service, type ServiceOptions } from './service.ts'

const START_MS = 20_000
const BASE = 'dc=example,dc=org'
const SERVICE_DN = `cn=xmpp,ou=services,${BASE}`
const ADMIN_DN = `cn=admin,${BASE}`
const NAMES = ['Zoë Müller', 'Łukasz Nowak', '山田 太郎']
/** The smallest thing that calls itself a JPEG. */
const PHOTO = Buffer.from(`ffd8ffe000104a46494600010100000100010000ffdb004300${'08'.repeat(64)}ffd9`, 'hex')
const GROUPS = [{ name: 'friends', first: 1, last: 10 }, { name: 'staff', first: 5, last: 15 }, { name: 'all', first: 1, last: 20 }]

export interface LdapOptions extends ServiceOptions {
  /** Connections on which nothing happens are closed after so many seconds; never unless given. */
  readonly idleSeconds?: number
}

export class Ldap extends Service {
  readonly host = '127.0.0.1'
  readonly port: number
  /** Of ldaps; on `port` StartTLS is offered. */
  readonly tlsPort: number
  /** The certificate that it shows, PEM, and its file. */
  readonly certificate: string
  readonly certificateFile: string
  readonly base = BASE
  /** May search and read; password `svc-pw`. The password of `user01` to `user20` is `pw-user01` and so on. */
  readonly serviceDn = SERVICE_DN
  readonly servicePassword = 'svc-pw'
  readonly adminDn = ADMIN_DN
  readonly adminPassword = 'adminpw'

  constructor(dir: string, port: number, certificate: string, daemons: Service['daemons']) {
    super(`ldap://127.0.0.1:${port}`, dir, daemons)
    this.port = port
    this.tlsPort = port + 1
    this.certificate = certificate
    this.certificateFile = path.join(dir, 'certificate.pem')
  }
}

/** LDAP on the first port, LDAP over TLS on the second. */
export async function startLdap(options: LdapOptions = {}): Promise<Ldap> {
  install(['ldap'])
  const { dir, port } = await place('ldap', options, 2)
  const certificate = await selfSigned(dir)
  const conf = path.join(dir, 'slapd.conf')
  const db = path.join(dir, 'db')
  writeFileSync(conf, configuration(dir, db, options.idleSeconds ?? 0))
  const isNew = !existsSync(db)
  if (isNew) {
    mkdirSync(db)
    const ldif = path.join(dir, 'people.ldif')
    writeFileSync(ldif, people())
    execFileSync(program('slapadd'), ['-q', '-f', conf, '-l', ldif], { stdio: 'pipe' })
  }
  const daemon = await Daemon.start({
    name: 'slapd',
    dir,
    command: program('slapd'),
    args: ['-f', conf, '-h', `ldap://127.0.0.1:${port} ldaps://127.0.0.1:${port + 1}`, '-d', '0'],
    startMs: START_MS,
    ...options.stays === undefined ? {} : { stays: options.stays },
    ready: async () => await listens(port) && await listens(port + 1),
  })
  if (isNew) {
    // Over the wire: slapadd leaves out who is a member of what.
    execFileSync('ldapadd', ['-x', '-H', `ldap://127.0.0.1:${port}`, '-D', ADMIN_DN, '-w', 'adminpw'], { input: groups(), stdio: 'pipe' })
  }
  return new Ldap(dir, port, certificate, [daemon])
}

function program(name: string): string {
  return programPath(name) ?? name
}

function configuration(dir: string, db: string, idleSeconds: number): string {
  return `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
pidfile ${dir}/slapd.run
argsfile ${dir}/slapd.args
TLSCertificateFile ${dir}/certificate.pem
TLSCertificateKeyFile ${dir}/key.pem
TLSCACertificateFile ${dir}/certificate.pem
sizelimit 500
idletimeout ${idleSeconds}
access to attrs=userPassword by self write by anonymous auth by dn.exact="${SERVICE_DN}" read by * none
access to * by dn.exact="${SERVICE_DN}" read by self write by users read by * none
database mdb
suffix "${BASE}"
rootdn "${ADMIN_DN}"
rootpw adminpw
directory ${db}
maxsize 67108864
index objectClass,uid,mail,member eq
overlay memberof
overlay ppolicy
`
}

function uidOf(i: number): string {
  return `user${String(i).padStart(2, '0')}`
}

function entry(dn: string, ...attributes: readonly string[]): string {
  return `dn: ${dn}\n${attributes.join('\n')}\n\n`
}

function base64(value: string | Buffer): string {
  return Buffer.from(value as string).toString('base64')
}

/** A salted hash as of RFC 2307's successors: SHA-1 of password and salt, then the salt. */
function ssha(password: string, salt: string): string {
  return `{SSHA}${Buffer.concat([createHash('sha1').update(password + salt).digest(), Buffer.from(salt)]).toString('base64')}`
}

function people(): string {
  const entries = [
    entry(BASE, 'objectClass: dcObject', 'objectClass: organization', 'o: Example', 'dc: example'),
    ...['people', 'groups', 'services'].map((ou) => entry(`ou=${ou},${BASE}`, 'objectClass: organizationalUnit', `ou: ${ou}`)),
    entry(SERVICE_DN, 'objectClass: organizationalRole', 'objectClass: simpleSecurityObject', 'cn: xmpp', `userPassword: ${ssha('svc-pw', 'salt0000')}`),
  ]
  for (let i = 1; i <= 20; i++) {
    const uid = uidOf(i)
    const name = NAMES[i - 1] ?? `User ${String(i).padStart(2, '0')}`
    const [given = '', surname = ''] = name.split(' ')
    entries.push(entry(`uid=${uid},ou=people,${BASE}`,
      'objectClass: inetOrgPerson', `uid: ${uid}`, `cn:: ${base64(name)}`, `sn:: ${base64(surname)}`, `givenName:: ${base64(given)}`, `displayName:: ${base64(name)}`,
      `mail: ${uid}@example.org`, `telephoneNumber: +44 20 7946 0${String(i).padStart(3, '0')}`, `title: Tester ${i}`, `jpegPhoto:: ${base64(PHOTO)}`,
      `userPassword: ${ssha(`pw-${uid}`, uid)}`))
  }
  return entries.join('')
}

function groups(): string {
  return GROUPS.map(({ name, first, last }) => entry(`cn=${name},ou=groups,${BASE}`, 'objectClass: groupOfNames', `cn: ${name}`, `description: Roster group ${name}`,
    ...Array.from({ length: last - first + 1 }, (_, i) => `member: uid=${uidOf(first + i)},ou=people,${BASE}`))).join('')
}
