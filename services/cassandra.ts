/** Apache Cassandra: one node. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { listens } from './daemon.ts'
import { selfSigned } from './certificate.ts'
import { install } from './install.ts'
import { javaArgs, type JavaOptions, startJava } from './java.ts'
import { place, Service } from './service.ts'

const OPENS = [
  'java.lang', 'java.lang.module', 'java.lang.reflect', 'java.util', 'java.util.concurrent', 'java.util.concurrent.atomic', 'java.io', 'java.net', 'java.nio', 'java.math',
  'java.time', 'jdk.internal.loader', 'jdk.internal.ref', 'jdk.internal.reflect', 'jdk.internal.math', 'jdk.internal.module', 'jdk.internal.util.jar', 'sun.nio.ch',
].map((each) => `java.base/${each}`)
const EXPORTS = [
  'java.base/jdk.internal.misc', 'java.base/jdk.internal.ref', 'java.base/sun.nio.ch', 'java.management.rmi/com.sun.jmx.remote.internal.rmi',
  'java.rmi/sun.rmi.registry', 'java.rmi/sun.rmi.server', 'java.sql/java.sql',
]

export interface CassandraOptions extends JavaOptions {
  /** Clients need TLS, and a login: `cassandra`, with the same password. */
  readonly isSecure?: boolean
}

export class Cassandra extends Service {
  readonly host = '127.0.0.1'
  readonly port: number
  readonly datacenter = 'datacenter1'

  constructor(dir: string, port: number, daemons: Service['daemons']) {
    super(`cassandra://127.0.0.1:${port}`, dir, daemons)
    this.port = port
  }

  /** Of one that is secure: the file of the certificate, signed by itself. */
  get certificate(): string { return path.join(this.dir, 'certificate.pem') }
}

/** Clients on the first port, other nodes on the second. */
export async function startCassandra(options: CassandraOptions = {}): Promise<Cassandra> {
  install(['cassandra'])
  const { dir, port } = await place('cassandra', options, 2)
  const conf = path.join(dir, 'conf')
  mkdirSync(conf, { recursive: true })
  if (options.isSecure === true) await selfSigned(dir)
  writeFileSync(path.join(conf, 'cassandra.yaml'), `cluster_name: tidings
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: batch
data_file_directories: ["${dir}/data"]
commitlog_directory: ${dir}/commitlog
saved_caches_directory: ${dir}/saved_caches
hints_directory: ${dir}/hints
cdc_raw_directory: ${dir}/cdc_raw
endpoint_snitch: SimpleSnitch
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: ${port}
storage_port: ${port + 1}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{seeds: "127.0.0.1:${port + 1}"}]
${options.isSecure === true ? secureLines(dir) : ''}`)
  writeFileSync(path.join(conf, 'logback.xml'), `<configuration><appender name="C" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%-5level %date %logger{0}: %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="C"/></root></configuration>
`)
  const args = javaArgs('cassandra', options.heap ?? '512m', [
    '-Djdk.attach.allowAttachSelf=true',
    ...EXPORTS.flatMap((each) => ['--add-exports', `${each}=ALL-UNNAMED`]),
    ...[...OPENS, 'jdk.management/com.sun.management.internal', 'java.management/sun.management'].flatMap((each) => ['--add-opens', `${each}=ALL-UNNAMED`]),
    `-Dcassandra.config=file://${conf}/cassandra.yaml`, `-Dcassandra.storagedir=${dir}`, `-Dlogback.configurationFile=${conf}/logback.xml`,
    // It is alone: nobody to wait for.
    '-Dcassandra.skip_wait_for_gossip_to_settle=0', '-Dcassandra.ring_delay_ms=100', '-Dcassandra.superuser_setup_delay_ms=0',
  ], conf)
  const daemon = await startJava({ name: 'cassandra', dir, args: [...args, 'org.apache.cassandra.service.CassandraDaemon'], ready: async () => await listens(port) }, options.stays)
  return new Cassandra(dir, port, [daemon])
}

function secureLines(dir: string): string {
  return `authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
client_encryption_options:
  enabled: true
  optional: false
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: ${dir}/both.pem
  truststore: ${dir}/certificate.pem
`
}
