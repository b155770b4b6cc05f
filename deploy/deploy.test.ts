import { readFileSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { expect } from 'chai'
import { parse } from 'yaml'
import { checkChatNode } from '../server/config/cluster.ts'
import { checkModules, loadConfig } from '../server/config/config.ts'
import { formatProblem } from '../server/config/problems.ts'
import { extensions } from '../server/extensions/index.ts'

const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.yml'))

describe('the examples of a deployment', () => {
  for (const file of files) {
    it(`${file} is a configuration without a mistake`, () => {
      const { config, problems } = loadConfig(path.join(import.meta.dirname, file))
      const found = [...problems, ...checkModules(config, extensions, { handlers: ['tidings_status', 'ejabberd_http_ws'] }), ...checkChatNode(config)]
      // Certificates are not here.
      expect(found.map(formatProblem).filter((line) => !line.includes('certfiles'))).to.deep.equal([])
    })
  }

  it('compose.yaml starts what has a configuration, with services that this names', () => {
    const { services } = parse(readFileSync(path.join(import.meta.dirname, 'compose.yaml'), 'utf8'), { merge: true }) as { services: Record<string, { command?: readonly string[] }> }
    for (const { command = [] } of Object.values(services)) {
      const config = command.find((each) => each.startsWith('/etc/tidings/'))
      if (config !== undefined) expect(files).to.include(path.basename(config))
    }
    const { tidings } = parse(readFileSync(path.join(import.meta.dirname, 'compose-cluster.yml'), 'utf8')) as { tidings: { kafka: { brokers: string[] }; cassandra: { contact_points: string[] }; cluster: { redis: { url: string } }; s3: { endpoint: string } } }
    const hosts = [...tidings.kafka.brokers, ...tidings.cassandra.contact_points].map((each) => each.split(':')[0])
    expect(Object.keys(services)).to.include.members([...hosts, new URL(tidings.cluster.redis.url).hostname, new URL(tidings.s3.endpoint).hostname])
  })
})
