import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { Redis } from 'ioredis'
import { Client } from 'ldapts'
import { Kafka as KafkaClient, logLevel } from 'kafkajs'
import { sharedCassandra, sharedHBase, sharedKafka, sharedS3, startKafka, startLdap, startRedis, startRedisCluster, startRedisSentinel } from './services.ts'
import { listens } from './daemon.ts'

const run = promisify(execFile)

describe('services', () => {
  it('keep what Redis has through kill -9', async () => {
    await using service = await startRedis()
    const redis = new Redis(service.url)
    redis.on('error', () => undefined)
    try {
      await redis.set('kept', 'yes')
      await service.kill()
      expect(await listens(service.ports[0] ?? 0)).to.equal(false)
      await service.restart()
      expect(await redis.get('kept')).to.equal('yes')
    } finally {
      redis.disconnect()
    }
  })

  it('have another primary when the first is killed', async () => {
    await using service = await startRedisSentinel()
    const redis = new Redis({ name: service.master, sentinels: [...service.sentinels] })
    redis.on('error', () => undefined)
    try {
      await redis.set('kept', 'yes')
      await redis.wait(1, 5000)
      const first = await service.primary()
      await first.kill()
      while ((await service.primary()).name === first.name) await new Promise((resolve) => setTimeout(resolve, 100))
      expect(await redis.get('kept')).to.equal('yes')
    } finally {
      redis.disconnect()
    }
  })

  it('spread keys over a Cluster', async () => {
    await using service = await startRedisCluster()
    const [port = 0] = service.ports
    for (const key of ['a', 'b', 'c', 'd']) await run('redis-cli', ['-c', '-p', String(port), 'set', key, key])
    const { stdout } = await run('redis-cli', ['-c', '-p', String(port), 'get', 'a'])
    expect(stdout).to.equal('a\n')
    await service.kill()
    await service.restart()
    // Each node finds out for itself that all slots are served again.
    for (const each of service.ports) {
      while (!(await run('redis-cli', ['-p', String(each), 'cluster', 'info'])).stdout.includes('cluster_state:ok')) await new Promise((resolve) => setTimeout(resolve, 100))
    }
    expect((await run('redis-cli', ['-c', '-p', String(port), 'get', 'd'])).stdout).to.equal('d\n')
  })

  it('have one Kafka for all that share it', async () => {
    const [one, other] = await Promise.all([sharedKafka(), sharedKafka()])
    expect(one).to.equal(other)
    expect(await listens(Number(one.brokers[0]?.split(':')[1]))).to.equal(true)
  })

  it('take Kafka clients by TLS and password', async () => {
    const { secured } = await sharedKafka()
    const { username, password } = secured
    for (const [given, is] of [[password, true], ['wrong', false]] as const) {
      const admin = new KafkaClient({
        brokers: [...secured.brokers], logLevel: logLevel.NOTHING, retry: { retries: 0 },
        ssl: { ca: secured.certificate }, sasl: { mechanism: 'plain', username, password: given },
      }).admin()
      const accepted = await admin.connect().then(() => true, () => false)
      await admin.disconnect()
      expect(accepted, given).to.equal(is)
    }
  })

  it('start Kafka anew with its topics after kill -9', async () => {
    await using service = await startKafka()
    const kafka = new KafkaClient({ brokers: [...service.brokers], logLevel: logLevel.NOTHING })
    const before = kafka.admin()
    await before.connect()
    await before.createTopics({ topics: [{ topic: 'kept', numPartitions: 2 }], waitForLeaders: true })
    await before.disconnect()
    await service.kill()
    await service.restart()
    const after = kafka.admin()
    await after.connect()
    expect(await after.listTopics()).to.include('kept')
    await after.disconnect()
  })

  it('serve HBase, Cassandra and S3', async () => {
    const [hbase, cassandra, s3] = await Promise.all([sharedHBase(), sharedCassandra(), sharedS3()])
    expect(await listens(Number(hbase.masters[0]?.split(':')[1]))).to.equal(true)
    expect(await listens(cassandra.port)).to.equal(true)
    expect((await fetch(`${s3.endpoint}/nothing`)).status).to.equal(403)
  })

  it('serve a directory by LDAP, with StartTLS and by TLS', async () => {
    await using service = await startLdap()
    for (const url of [service.url, `ldaps://127.0.0.1:${service.tlsPort}`]) {
      const tls = { ca: [service.certificate] }
      const client = new Client({ url, ...url.startsWith('ldaps') ? { tlsOptions: tls } : {} })
      try {
        if (!url.startsWith('ldaps')) await client.startTLS(tls)
        await client.bind(service.serviceDn, service.servicePassword)
        const { searchEntries } = await client.search(`ou=people,${service.base}`, { filter: '(memberOf=cn=staff,ou=groups,dc=example,dc=org)', attributes: ['uid'] })
        expect(searchEntries.map((each) => each['uid'])).to.have.members(Array.from({ length: 11 }, (_, i) => `user${String(i + 5).padStart(2, '0')}`))
      } finally {
        await client.unbind()
      }
    }
    const client = new Client({ url: service.url })
    await client.bind(`uid=user01,ou=people,${service.base}`, 'pw-user01')
    await client.unbind()
  })
})
