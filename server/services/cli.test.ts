import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')

function start(...args: readonly string[]): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [BIN, ...args])
}

async function tidings(args: readonly string[], input = ''): Promise<{ code: number | null; out: string; err: string }> {
  const child = start(...args)
  let out = ''
  let err = ''
  child.stdout.on('data', (data) => { out += String(data) })
  child.stderr.on('data', (data) => { err += String(data) })
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

describe('the command line', () => {
  let dir: string
  let data: string
  let config: string
  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'cli-'))
    data = path.join(dir, 'data')
    config = path.join(dir, 'tidings.yml')
    await writeFile(config, `hosts: [localhost, example.org]
loglevel: info
listen:
  - {port: 0, ip: "127.0.0.1", module: ejabberd_c2s, starttls: true, starttls_required: true}
  - {port: 0, ip: "127.0.0.1", module: ejabberd_http, tls: true, request_handlers: {/upload: mod_http_upload}}
modules:
  mod_http_upload: {}
`)
  })
  afterEach(() => rm(dir, { recursive: true }))

  it('exits with 2 when it is called the wrong way', async () => {
    for (const args of [[], ['nonsense'], ['register', 'alice'], ['serve', '--nonsense'], ['serve', '--role', 'chat,nonsense'], ['serve', '--role', 'constructor'], ['constructor']]) expect((await tidings(args)).code, args.join(' ')).to.equal(2)
    expect((await tidings(['--help'])).out).to.contain('register USER HOST PASSWORD')
  })

  it('names what of a configuration cannot be used', async () => {
    await writeFile(config, 'hosts: [localhost]\nlogelvel: info\n')
    const { code, out } = await tidings(['check-config', config])
    expect(code).to.equal(1)
    expect(out).to.match(/tidings\.yml:2: .*loglevel/)
    expect((await tidings(['serve', '--config', config, '--data', data])).code).to.equal(1)
  })

  it('serves with a small young generation, unless Node was told its size', async () => {
    const report = 'data:text/javascript,console.error(process.pid, ...process.execArgv)'
    const flags = async (...given: readonly string[]): Promise<string[]> => {
      const child = spawn(process.execPath, ['--import', report, ...given, BIN, 'serve', '--nonsense'])
      let err = ''
      child.stderr.on('data', (data) => { err += String(data) })
      await once(child, 'close')
      const starts = err.split('\n').filter((line) => line.startsWith(String(child.pid)))
      return (starts.at(-1) ?? '').split(' ').filter((word) => word.startsWith('--max-semi-space-size'))
    }
    expect(await flags()).to.deep.equal(['--max-semi-space-size=16'])
    expect(await flags('--max-semi-space-size=8')).to.deep.equal(['--max-semi-space-size=8'])
  })

  it('runs several roles as processes that end together', async () => {
    const where = ['--config', config, '--data', data]
    const lacking = await tidings(['serve', '--role', 'chat,archive-worker', ...where])
    expect(lacking.code).to.equal(1)
    expect(lacking.err).to.contain('tidings.kafka is not configured')
    const child = start('serve', ...where, '--role=chat')
    let err = ''
    child.stderr.on('data', (part) => { err += String(part) })
    await until(() => err.includes('npx tidings register'))
    child.kill('SIGHUP')
    child.kill('SIGTERM')
    expect((await once(child, 'close'))[0]).to.equal(0)
  })

  it('works on the data directory when no server runs', async () => {
    const where = ['--config', config, '--data', data]
    expect((await tidings(['register', 'alice', 'localhost', '-', ...where], 'secret\n')).out).to.equal('User alice@localhost successfully registered\n')
    expect((await tidings(['check_password', 'alice', 'localhost', 'secret', ...where])).code).to.equal(0)
    expect((await tidings(['register', 'alice', 'localhost', 'x', ...where])).code).to.equal(1)
    expect((await tidings(['register', 'alice', 'example.net', 'x', ...where])).err).to.contain('localhost, example.org')
    expect((await tidings(['status', ...where])).err).to.contain('not running')
    expect((await tidings(['unregister', 'alice', 'localhost', ...where])).code).to.equal(0)
    expect((await tidings(['registered_users', 'localhost', ...where])).out).to.equal('')
  })

  it('serves, obeys its commands, reads its configuration again and stops', async () => {
    // Code is kept in a directory that is in use, and only that of this version of Node.
    expect((await tidings(['registered_users', 'localhost', '--config', config, '--data', data])).code).to.equal(0)
    await mkdir(path.join(data, 'code-cache', 'v1'), { recursive: true })
    const server = start('serve', '--config', config, '--data', data)
    const exited = once(server, 'exit')
    let log = ''
    server.stdout.on('data', (text) => { log += String(text) })
    let welcome = ''
    server.stderr.on('data', (text) => { welcome += String(text) })
    try {
      await until(() => welcome.includes('npx tidings register'))
      expect(await readdir(path.join(data, 'code-cache'))).to.have.length(1).and.not.include('v1')
      expect(welcome).to.match(/certificate of localhost is self-signed, SHA-256 ([0-9A-F]{2}:){31}/)
      expect((await tidings(['register', 'alice', 'localhost', 'secret', '--data', data])).code).to.equal(0)
      expect((await tidings(['registered_users', 'localhost', '--data', data])).out).to.equal('alice\n')
      expect((await tidings(['serve', '--config', config, '--data', data])).code).to.equal(1)
      await writeFile(config, 'hosts: [localhost]\nlisten: []\n')
      server.kill('SIGHUP')
      await until(() => log.includes('configuration_reloaded'))
      expect((await tidings(['registered_vhosts', '--data', data])).out).to.equal('localhost\n')
      // What could not start again goes on.
      await writeFile(config, 'hosts: []\n')
      expect((await tidings(['restart', '--data', data])).code).to.equal(1)
      await writeFile(config, 'hosts: [localhost, example.org]\nlisten: []\n')
      expect((await tidings(['restart', '--data', data])).code).to.equal(0)
      await until(() => log.split('server_ready').length === 3)
      await until(() => welcome.split('npx tidings register').length === 3)
      expect((await tidings(['registered_vhosts', '--data', data])).out).to.equal('localhost\nexample.org\n')
      expect((await tidings(['check_account', 'alice', 'localhost', '--data', data])).code).to.equal(0)
      expect((await tidings(['stop_kindly', 'soon', '', '--data', data])).code).to.equal(2)
      expect((await tidings(['stop_kindly', '300', 'Soon', '--data', data])).code).to.equal(0)
      server.kill('SIGTERM')
      expect(await exited).to.deep.equal([0, null])
      await access(path.join(data, 'control.sock')).then(() => { throw new Error('the socket is still there') }, () => undefined)
    } finally {
      server.kill('SIGKILL')
    }
  })
})

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 15_000; !condition(); ) {
    if (Date.now() > end) throw new Error('waited too long')
    await new Promise((resolve) => { setTimeout(resolve, 20) })
  }
}
