import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
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

  it('units of systemd are as it wants them, and run roles that have a configuration', function () {
    const template = readFileSync(path.join(import.meta.dirname, 'systemd/tidings@.service'), 'utf8')
    const roles = [...(template.split('\n', 1)[0] ?? '').matchAll(/tidings@([a-z-]+)/g)].map(([, role]) => `${role}.yml`)
    expect(roles).to.have.lengthOf(5)
    expect(files).to.include.members(roles)
    if (spawnSync('systemd-analyze', ['--version']).error) this.skip()
    const folder = mkdtempSync(path.join(tmpdir(), 'tidings-'))
    const units = ['tidings.service', 'tidings@.service'].map((name) => {
      const text = readFileSync(path.join(import.meta.dirname, 'systemd', name), 'utf8')
      // The program is not installed here.
      writeFileSync(path.join(folder, name), text.replaceAll('/usr/bin/tidings', '/bin/true'))
      return path.join(folder, name.replace('@', '@chat'))
    })
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...units], { encoding: 'utf8' })
    rmSync(folder, { recursive: true })
    expect([status, stdout + stderr]).to.deep.equal([0, ''])
  })

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
