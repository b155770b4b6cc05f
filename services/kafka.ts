/** Apache Kafka: one server that is broker and controller (KRaft). */
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { selfSigned } from './certificate.ts'
import { listens } from './daemon.ts'
import { install } from './install.ts'
import { javaArgs, type JavaOptions, startJava } from './java.ts'
import { place, Service } from './service.ts'

export class Kafka extends Service {
  readonly brokers: readonly string[]
  /** The listener with TLS and SASL (mechanism PLAIN; user `tidings`, password `secret`), and the certificate that it shows. */
  readonly secured: { readonly brokers: readonly string[]; readonly username: string; readonly password: string; readonly certificate: string }

  constructor(dir: string, port: number, certificate: string, daemons: Service['daemons']) {
    super(`kafka://127.0.0.1:${port}`, dir, daemons)
    this.brokers = [`127.0.0.1:${port}`]
    this.secured = { brokers: [`127.0.0.1:${port + 2}`], username: 'tidings', password: 'secret', certificate }
  }
}

/** The plain listener on the first port, the controller on the second, the listener with TLS and SASL on the third. */
export async function startKafka(options: JavaOptions = {}): Promise<Kafka> {
  install(['kafka'])
  const { dir, port } = await place('kafka', options, 3)
  const certificate = await selfSigned(dir)
  const file = path.join(dir, 'server.properties')
  const properties: Readonly<Record<string, string>> = {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': `1@127.0.0.1:${port + 1}`,
    'listeners': `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${port + 1},SASL_SSL://127.0.0.1:${port + 2}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port},SASL_SSL://127.0.0.1:${port + 2}`,
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'PLAINTEXT',
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL',
    'sasl.enabled.mechanisms': 'PLAIN',
    'listener.name.sasl_ssl.plain.sasl.jaas.config': 'org.apache.kafka.common.security.plain.PlainLoginModule required user_tidings="secret";',
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': path.join(dir, 'both.pem'),
    'log.dirs': path.join(dir, 'data'),
    'offsets.topic.replication.factor': '1',
    'offsets.topic.num.partitions': '4',
    'transaction.state.log.replication.factor': '1',
    'transaction.state.log.min.isr': '1',
    'transaction.state.log.num.partitions': '4',
    'share.coordinator.state.topic.replication.factor': '1',
    'share.coordinator.state.topic.min.isr': '1',
    'group.initial.rebalance.delay.ms': '0',
    'auto.create.topics.enable': 'false',
  }
  writeFileSync(file, Object.entries(properties).map(([name, value]) => `${name}=${value}\n`).join(''))
  const log4j = path.join(dir, 'log4j2.xml')
  writeFileSync(log4j, `<Configuration><Appenders><Console name="C"><PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="INFO"><AppenderRef ref="C"/></Root></Loggers></Configuration>
`)
  const args = javaArgs('kafka', options.heap ?? '384m', [`-Dkafka.logs.dir=${dir}`, `-Dlog4j2.configurationFile=file:${log4j}`])
  if (!existsSync(path.join(dir, 'data/meta.properties'))) {
    execFileSync('java', [...args, 'kafka.tools.StorageTool', 'format', '-t', clusterId(), '-c', file], { stdio: 'pipe' })
  }
  // It listens only when it has all that it needs, on the plain port first.
  const daemon = await startJava({ name: 'kafka', dir, args: [...args, 'kafka.Kafka', file], ready: async () => await listens(port) && await listens(port + 2) }, options.stays)
  return new Kafka(dir, port, certificate, [daemon])
}

/** 16 random bytes in the form that Kafka takes, which must not begin as an option does. */
function clusterId(): string {
  const id = Buffer.from(crypto.randomUUID().replaceAll('-', ''), 'hex').toString('base64url')
  return id.startsWith('-') ? clusterId() : id
}
