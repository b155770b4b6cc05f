import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { loadConfig } from '../config/config.ts'
import { World } from '../s2s/federation.fixture.ts'
import type { S2sReport } from './s2s-check.ts'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')

describe('the command s2s-check', () => {
  let world: World
  let dir: string

  beforeEach(async () => {
    world = await World.begin()
    dir = await mkdtemp(path.join(tmpdir(), 'tidings-s2s-check-'))
    const { cert, key } = await world.authority.issue({ dns: ['a.test'] })
    await writeFile(path.join(dir, 'a.pem'), cert + key)
    await writeFile(path.join(dir, 'ca.pem'), world.authority.certificate)
    await writeFile(path.join(dir, 'a.yml'), `hosts: [a.test, other.test]
certfiles: [a.pem]
ca_file: ca.pem
listen: [{port: 5269, module: ejabberd_s2s_in}]
tidings: {s2s: {nameservers: ["${world.names.address}"]}}
`)
  })
  afterEach(async () => {
    await world[Symbol.asyncDispose]()
    await rm(dir, { recursive: true })
  })

  async function run(...args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, [BIN, 's2s-check', ...args, '--config', path.join(dir, 'a.yml')])
    let [out, err] = ['', '']
    child.stdout.on('data', (data) => { out += String(data) })
    child.stderr.on('data', (data) => { err += String(data) })
    const [code] = (await once(child, 'close')) as [number | null]
    return { code, out, err }
  }

  it('goes to another server with the certificate and the name servers of the configuration', async () => {
    const site = await world.site('b.test', { modules: '', certified: true })
    const { code, out } = await run('b.test')
    expect(out).to.contain(`SRV of _xmpp-server._tcp.b.test: 0 0 ${site.s2sPort} here.test`)
    expect(out).to.contain(`b.test is reached at 127.0.0.1 port ${site.s2sPort}, over TLS, with a certificate that is believed here.`)
    expect(out).to.contain('It believes our certificate, and we log in by it.')
    expect(out).to.match(/Our own host a\.test\n {2}certificate for a\.test, .* believed\n/)
    expect(out).to.contain('Others do not find a.test in DNS')
    expect(out).to.not.contain('other.test')
    expect(code).to.equal(0)
    const asData = await run('b.test', '--json')
    const report = JSON.parse(asData.out) as S2sReport
    expect(report.works).to.equal(true)
    expect(report.remote?.targets[0]?.addresses[0]?.offer?.external).to.equal(true)
    expect(report.own.map(({ host }) => host)).to.deep.equal(['a.test'])
  })

  it('without a domain it looks at all hosts of ours', async () => {
    const { code, out } = await run()
    expect(code).to.equal(1)
    expect(out).to.contain('Our own host a.test').and.contain('Our own host other.test')
    expect(out).to.contain('Others will not believe its certificate: its certificate is for a.test, not for other.test')
  })

  it('ends with 1 when nothing can be sent, and for what is no domain or no host of ours', async () => {
    const gone = await run('gone.test')
    expect(gone.code).to.equal(1)
    expect(gone.out).to.contain('There is no server of gone.test')
    for (const [args, text] of [[['romeo@b.test'], 'romeo@b.test is not a domain'], [['b.test', '--from', 'c.test'], 'c.test is not a host of this server']] as const) {
      const { code, err } = await run(...args)
      expect(code).to.equal(1)
      expect(err).to.contain(text)
    }
    expect((await run('a', 'b')).code).to.equal(2)
  })

  it('name servers are addresses, and ca_file stands in for s2s_cafile', async () => {
    const file = path.join(dir, 'a.yml')
    expect(loadConfig(file).config.s2sTls.caFile).to.equal(path.join(dir, 'ca.pem'))
    await writeFile(file, 'hosts: [a.test]\nlisten: [{port: 1, module: ejabberd_s2s_in}]\nca_file: gone.pem\ntidings: {s2s: {nameservers: [ns.example]}}\n')
    const { problems } = loadConfig(file)
    expect(problems.map(({ option, level }) => [option, level])).to.deep.include.members([['tidings.s2s.nameservers', 'error'], ['s2s_cafile', 'error']])
  })
})
