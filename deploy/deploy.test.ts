import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
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

  describe('compose.yaml', () => {
    const { services, volumes } = parse(readFileSync(path.join(import.meta.dirname, 'compose.yaml'), 'utf8'), { merge: true }) as Compose
    const ours = Object.entries(services).filter(([, { image }]) => image === 'tidings')

    it('starts each role, and what they need, with what it names', () => {
      expect(ours.map(([name]) => name)).to.have.members(['proxy', 'chat', 'archive-worker', 'upload', 'auth'])
      const mounted: string[] = []
      for (const [name, { volumes: mounts = [], depends_on: needed = [], ports = [] }] of Object.entries(services)) {
        expect(Object.keys(services), name).to.include.members(needed)
        for (const mount of mounts) {
          const [source = '', target = ''] = mount.split(':')
          expect(target, `${name}: ${mount}`).to.match(/^\//)
          if (source.startsWith('./')) expect(readdirSync(import.meta.dirname), mount).to.include.members(source === './' ? [] : [source.slice(2)])
          else mounted.push(source)
        }
        for (const port of ports) expect(port, name).to.match(/^\d{2,5}:\d{2,5}$/)
      }
      expect(Object.keys(volumes)).to.have.members(mounted)
    })

    it('has services at the addresses that its configuration names', () => {
      const { tidings } = parse(readFileSync(path.join(import.meta.dirname, 'compose-cluster.yml'), 'utf8')) as { tidings: { auth: { servers: string[]; secret: string }; kafka: { brokers: string[] }; cassandra: { contact_points: string[] }; cluster: { redis: { url: string } }; s3: { endpoint: string } } }
      const hosts = [...tidings.auth.servers, ...tidings.kafka.brokers, ...tidings.cassandra.contact_points].map((each) => each.split(':')[0])
      expect(Object.keys(services)).to.include.members([...hosts, new URL(tidings.cluster.redis.url).hostname, new URL(tidings.s3.endpoint).hostname])
      const { tidings: { auth } } = parse(readFileSync(path.join(import.meta.dirname, 'compose-auth.yml'), 'utf8')) as { tidings: { auth: { secret: string } } }
      expect(auth.secret).to.equal(tidings.auth.secret)
    })

    for (const [name, { command = [], volumes: mounts = [] }] of ours) {
      it(`starts ${name} with a command line and a configuration that this version takes`, async () => {
        const folder = mkdtempSync(path.join(tmpdir(), 'tidings-'))
        try {
          // As the container has them, a later volume within an earlier one.
          for (const mount of mounts) {
            const [source = '', target = ''] = mount.split(':')
            const to = path.join(folder, target)
            if (source === './') for (const file of files) cpSync(path.join(import.meta.dirname, file), path.join(to, file))
            else if (source.startsWith('./')) cpSync(path.join(import.meta.dirname, source), to)
          }
          const at = command.indexOf('--config') + 1
          const file = path.join(folder, command[at] ?? '')
          const checked = await tidings('check-config', file)
          expect(checked.out.split('\n').filter((line) => / (error|warning): /.test(line) && !line.includes('certfiles'))).to.deep.equal([])
          expect(checked.code).to.equal(0)
          // The options are read before the file is.
          const { code, err } = await tidings(...command.with(at, path.join(folder, 'missing.yml')))
          expect(err).to.contain('There is no configuration')
          expect(code).to.equal(1)
        } finally {
          rmSync(folder, { recursive: true })
        }
      })
    }
  })
})

interface Compose {
  readonly services: Readonly<Record<string, { readonly image?: string; readonly command?: readonly string[]; readonly volumes?: readonly string[]; readonly depends_on?: readonly string[]; readonly ports?: readonly string[] }>>
  readonly volumes: Readonly<Record<string, unknown>>
}

async function tidings(...args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, '../bin/tidings.js'), ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let err = ''
  child.stdout.on('data', (data: Buffer) => { out += String(data) })
  child.stderr.on('data', (data: Buffer) => { err += String(data) })
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}
