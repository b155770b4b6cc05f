/** Apache HBase, standalone: master, region server and ZooKeeper in one process, on the local file system. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { listens } from './daemon.ts'
import { install } from './install.ts'
import { javaArgs, type JavaOptions, startJava } from './java.ts'
import { place, Service } from './service.ts'

const JAVA_OPTIONS = [
  '-Djava.net.preferIPv4Stack=true', '-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true', '--add-modules', 'jdk.unsupported',
  ...['java.nio', 'sun.nio.ch', 'java.lang', 'jdk.internal.ref', 'java.lang.reflect', 'java.util', 'java.util.concurrent'].flatMap((each) => ['--add-opens', `java.base/${each}=ALL-UNNAMED`]),
  ...['java.base/jdk.internal.misc', 'java.security.jgss/sun.security.krb5', 'java.base/sun.net.dns', 'java.base/sun.net.util'].flatMap((each) => ['--add-exports', `${each}=ALL-UNNAMED`]),
]

export interface HBaseOptions extends JavaOptions {
  /** Beside the one in the first process, so many region servers in processes of their own: `daemons` has them after it. */
  readonly moreRegionServers?: number
}

export class HBase extends Service {
  /** Of each master, `host:port`. */
  readonly masters: readonly string[]

  constructor(dir: string, port: number, daemons: Service['daemons']) {
    super(`hbase://localhost:${port}`, dir, daemons)
    this.masters = [`localhost:${port}`]
  }
}

/** The master on the first port, the region server on the second, ZooKeeper on the third. */
export async function startHBase(options: HBaseOptions = {}): Promise<HBase> {
  install(['hbase'])
  const { moreRegionServers = 0 } = options
  const { dir, port } = await place('hbase', options, 3 + moreRegionServers)
  const properties: Readonly<Record<string, string | number>> = {
    'hbase.rootdir': `file://${dir}/data`,
    'hbase.tmp.dir': path.join(dir, 'tmp'),
    'hbase.cluster.distributed': 'false',
    'hbase.unsafe.stream.capability.enforce': 'false',
    'hbase.wal.provider': 'filesystem',
    'hbase.zookeeper.quorum': '127.0.0.1',
    'hbase.zookeeper.property.clientPort': port + 2,
    'hbase.zookeeper.property.dataDir': path.join(dir, 'zookeeper'),
    'hbase.master.hostname': 'localhost',
    'hbase.unsafe.regionserver.hostname': 'localhost',
    'hbase.master.ipc.address': '127.0.0.1',
    'hbase.regionserver.ipc.address': '127.0.0.1',
    'hbase.master.port': port,
    'hbase.regionserver.port': port + 1,
    'hbase.master.info.port': -1,
    'hbase.regionserver.info.port': -1,
    // Small and quick to start.
    'hbase.regionserver.handler.count': 10,
    'hbase.master.wait.on.regionservers.mintostart': 1,
    'hbase.master.wait.on.regionservers.maxtostart': 1,
    'hbase.master.wait.on.regionservers.timeout': 1000,
    'hbase.regionserver.msginterval': 500,
    // How long one that was killed is waited for.
    ...moreRegionServers > 0 ? { 'zookeeper.session.timeout': 20_000 } : {},
  }
  const conf = writeConf(path.join(dir, 'conf'), properties)
  const log = path.join(dir, 'hbase.log')
  const daemon = await startJava({
    name: 'hbase',
    dir,
    args: [...javaArgs('hbase', options.heap ?? '512m', JAVA_OPTIONS, conf), 'org.apache.hadoop.hbase.master.HMaster', 'start'],
    // It takes connections before it has what it needs; of that only its log tells.
    ready: async () => await listens(port + 1) && readFileSync(log, 'utf8').includes('Master has completed initialization'),
  }, options.stays)
  const others = await Promise.all(Array.from({ length: moreRegionServers }, async (_, i) => {
    const name = `regionserver${i + 2}`
    const own = { 'hbase.cluster.distributed': 'true', 'hbase.regionserver.port': port + 3 + i, 'hbase.tmp.dir': path.join(dir, `tmp-${name}`) }
    return await startJava({
      name,
      dir,
      args: [...javaArgs('hbase', options.heap ?? '512m', JAVA_OPTIONS, writeConf(path.join(dir, `conf-${name}`), { ...properties, ...own })), 'org.apache.hadoop.hbase.regionserver.HRegionServer', 'start'],
      ready: async () => await listens(port + 3 + i) && readFileSync(path.join(dir, `${name}.log`), 'utf8').includes('Serving as '),
    }, options.stays)
  }))
  return new HBase(dir, port, [daemon, ...others])
}

function writeConf(conf: string, properties: Readonly<Record<string, string | number>>): string {
  mkdirSync(conf, { recursive: true })
  const lines = Object.entries(properties).map(([name, value]) => `<property><name>${name}</name><value>${value}</value></property>\n`)
  writeFileSync(path.join(conf, 'hbase-site.xml'), `<?xml version="1.0"?>\n<configuration>\n${lines.join('')}</configuration>\n`)
  writeFileSync(path.join(conf, 'log4j.properties'), [
    'log4j.rootLogger=INFO,C', 'log4j.appender.C=org.apache.log4j.ConsoleAppender', 'log4j.appender.C.layout=org.apache.log4j.PatternLayout',
    'log4j.appender.C.layout.ConversionPattern=%d{ISO8601} %-5p [%t] %c{2}: %m%n', 'log4j.logger.org.apache.zookeeper=WARN', '',
  ].join('\n'))
  return conf
}
