/** Logins that another process checks: which of them it lets in, and what becomes of them when it is away. */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect as connectSocket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { SignJWT } from 'jose'
import type { LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { createSaslClient } from '../../lib/sasl/client.ts'
import { loadConfig } from '../config/config.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { createServer, type Server } from '../server.ts'
import { openMemory } from '../storage/memory/memory.ts'
import type { Storage } from '../storage/shapes.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { authConfig, chatConfig, outcomeOf, SECRET, startAuth, type TestAuth } from './auth.fixture.ts'
import { AuthClient, AuthUnavailable } from './client.ts'
import { createAuthRole } from './role.ts'
import { connectWire, keyOf } from './wire.ts'

const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const AGENT = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770' }
const FAST = 'urn:xmpp:fast:0'

describe('logins that an auth process checks', () => {
  let dir: string
  let server: Server | undefined
  let auths: TestAuth[] = []
  const open: Connection[] = []

  beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'tidings-')) })
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.destroy()
    await server?.close()
    server = undefined
    for (const auth of auths.splice(0)) await auth[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  /** A chat process beside as many auth processes, which share what they keep. */
  async function serve({ text = TEST_CONFIG, processes = 1, accounts = true, storage = openMemory() as Storage, kept = openMemory() as Storage, patience = '3 s' } = {}): Promise<Server> {
    auths = []
    for (let i = 0; i < processes; i++) auths.push(await startAuth(text, dir, { accounts, name: `auth${i}`, storage: kept }))
    const chat = `${text}\ntidings: { limits: { auth_patience: ${patience} } }\n`
    await writeFile(path.join(dir, 'chat.yml'), chatConfig(chat, auths.map(({ port }) => port), accounts))
    return start(storage)
  }

  async function start(storage: Storage): Promise<Server> {
    const { config, problems } = loadConfig(path.join(dir, 'chat.yml'))
    expect(problems.filter(({ level }) => level === 'error')).to.deep.equal([])
    return server = await createServer({ config, dataDir: path.join(dir, 'data'), storage, log: createLog(process.env['TIDINGS_TEST_LOG'] ?? 'silent') })
  }

  const port = (): number => server?.ports.find(({ module, tls: isTls }) => module === 'ejabberd_c2s' && isTls)?.port ?? 0
  const address = () => ({ host: '127.0.0.1', port: port(), domain: 'localhost', tls: 'direct' as const })

  const outcome = (user: string, password: string, mechanism = 'PLAIN'): Promise<string> => outcomeOf({ ...address(), user, password, mechanism })

  async function stream(): Promise<Connection> {
    const connection = await Connection.open({ host: '127.0.0.1', port: port(), domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    await connection.nextElement()
    return connection
  }

  it('PLAIN and SCRAM with channel binding, of accounts whose keys are there alone', async () => {
    const storage = openMemory()
    const kept = openMemory()
    await serve({ storage, kept })
    await server?.register('juliet@localhost', 'secret')
    for (const mechanism of ['PLAIN', 'SCRAM-SHA-1', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-512-PLUS']) {
      expect(await outcome('juliet', 'secret', mechanism), mechanism).to.equal('success')
      expect(await outcome('juliet', 'Secret', mechanism), mechanism).to.equal('not-authorized')
      expect(await outcome('nobody', 'secret', mechanism), mechanism).to.equal('not-authorized')
    }
    const here = await storage.records.get('accounts', ['localhost', 'juliet']) as { keys: object; elsewhere: readonly string[] }
    expect([here.keys, here.elsewhere]).to.deep.equal([{}, ['SHA-1', 'SHA-256', 'SHA-512']])
    expect(Object.keys((await kept.records.get('accounts', ['localhost', 'juliet']) as { keys: object }).keys)).to.have.length(3)
    expect(await storage.records.range('tokens', [])).to.deep.equal([])
  })

  it('passwords that change, accounts that end and come again', async () => {
    const kept = openMemory()
    await serve({ kept })
    await server?.register('juliet@localhost', 'first')
    const refused = await server?.register('juliet@localhost', 'other').then(() => 'made', (error: { condition: string }) => error.condition)
    expect(refused).to.equal('conflict')
    const { connection, success } = await loginBySasl2({ ...address(), user: 'juliet', password: 'first', agent: AGENT, inline: `<request-token xmlns='${FAST}' mechanism='HT-SHA-256-NONE'/>` })
    connection.destroy()
    const token = success.getChild('token', FAST)?.attrs['token'] ?? ''
    const byToken = () => loginBySasl2({ ...address(), user: 'juliet', token, mechanism: 'HT-SHA-256-NONE', agent: AGENT, fast: '' }).then((done) => { done.connection.destroy(); return 'success' }, (error: LoginError) => error.condition)
    expect(await byToken()).to.equal('success')
    await server?.accounts.setPassword('juliet@localhost', 'second')
    expect([await outcome('juliet', 'first'), await outcome('juliet', 'second'), await byToken()]).to.deep.equal(['not-authorized', 'success', 'not-authorized'])
    expect([await server?.accounts.checkPassword('juliet@localhost', 'second'), await server?.accounts.checkPassword('juliet@localhost', 'first')]).to.deep.equal([true, false])
    await server?.unregister('juliet@localhost')
    expect([await outcome('juliet', 'second'), await server?.accounts.exists('juliet@localhost')]).to.deep.equal(['not-authorized', false])
    expect([...await kept.records.range('accounts', []), ...await kept.records.range('tokens', [])]).to.deep.equal([])
    await server?.register('juliet@localhost', 'third')
    expect(await outcome('juliet', 'third', 'SCRAM-SHA-256')).to.equal('success')
  })

  it('keys that are here are handed over at the start, and so are those of passwords that were set while nobody ran', async () => {
    const storage = openMemory()
    await writeFile(path.join(dir, 'chat.yml'), TEST_CONFIG)
    await start(storage)
    await server?.register('juliet@localhost', 'first')
    await server?.accounts.disable('juliet@localhost', 'for now')
    await server?.close()
    const kept = openMemory()
    await serve({ storage, kept })
    expect((await storage.records.get('accounts', ['localhost', 'juliet']) as { keys: object }).keys).to.deep.equal({})
    expect(await outcome('juliet', 'first', 'SCRAM-SHA-512-PLUS')).to.equal('account-disabled')
    await server?.accounts.enable('juliet@localhost')
    expect(await outcome('juliet', 'first', 'SCRAM-SHA-512-PLUS')).to.equal('success')
    await server?.close()
    const { createAccounts } = await import('../accounts/accounts.ts')
    await createAccounts(storage.records).setPassword('juliet@localhost', 'second')
    await start(storage)
    expect([await outcome('juliet', 'first'), await outcome('juliet', 'second')]).to.deep.equal(['not-authorized', 'success'])
  })

  it('tokens that somebody else has signed, without the key in the configuration of the chat process', async () => {
    const secret = randomBytes(32)
    await writeFile(path.join(dir, 'key.jwk'), JSON.stringify({ kty: 'oct', k: secret.toString('base64url') }))
    const token = (jid: string, key = secret): Promise<string> => new SignJWT({ jid }).setProtectedHeader({ alg: 'HS256' }).setExpirationTime('1 h').sign(key)
    const bearer = (text: string): string => `<auth xmlns='${SASL}' mechanism='OAUTHBEARER'>${Buffer.from(`n,,\x01auth=Bearer ${text}\x01\x01`).toString('base64')}</auth>`
    const ask = async (request: string): Promise<string> => {
      const connection = await stream()
      connection.write(request)
      return String(await connection.nextElement())
    }
    for (const [methods, accounts] of [['jwt', false], ['[internal, jwt]', false], ['[internal, jwt]', true]] as const) {
      await serve({ text: `${TEST_CONFIG}\nauth_method: ${methods}\njwt_key: ${dir}/key.jwk\n`, accounts })
      const { config } = loadConfig(path.join(dir, 'chat.yml'))
      expect(config.host('localhost').jwt?.key).to.equal(undefined)
      if (methods !== 'jwt') await server?.register('juliet@localhost', 'secret')
      expect(await outcome('romeo', await token('romeo@localhost'))).to.equal('success')
      expect(await outcome('romeo', await token('juliet@localhost'))).to.equal('not-authorized')
      expect(await outcome('romeo', await token('romeo@localhost', randomBytes(32)))).to.equal('not-authorized')
      expect(await ask(bearer(await token('benvolio@localhost')))).to.contain('<success')
      expect(await ask(bearer(await token('benvolio@localhost', randomBytes(32))))).to.contain('<challenge')
      expect([await server?.accounts.exists('romeo@localhost'), await server?.accounts.exists('benvolio@localhost')]).to.deep.equal([true, true])
      if (methods !== 'jwt') {
        expect([await outcome('juliet', 'secret'), await outcome('juliet', 'wrong'), await outcome('juliet', 'secret', 'SCRAM-SHA-256')]).to.deep.equal(['success', 'not-authorized', 'success'])
      }
      await auths[0]?.stop()
      expect(await outcome('romeo', await token('romeo@localhost'))).to.equal('temporary-auth-failure')
      await server?.close()
      for (const auth of auths.splice(0)) await auth[Symbol.asyncDispose]()
    }
  })

  it('stay with the process that began them: when it goes, they fail for now, and nothing is said of the password', async () => {
    await serve({ processes: 2 })
    await server?.register('juliet@localhost', 'secret')
    const connection = await stream()
    const scram = createSaslClient('SCRAM-SHA-256', { user: 'juliet', password: 'secret' })
    const first = await scram.respond(Buffer.alloc(0))
    connection.write(`<auth xmlns='${SASL}' mechanism='SCRAM-SHA-256'>${first.toString('base64')}</auth>`)
    expect(String(await connection.nextElement())).to.contain('<challenge')
    for (const auth of auths) await auth.stop()
    await auths[1]?.start()
    connection.write(`<response xmlns='${SASL}'>eA==</response>`)
    expect(String(await connection.nextElement())).to.contain('<temporary-auth-failure')
    // The other one answers meanwhile.
    expect(await outcome('juliet', 'secret', 'SCRAM-SHA-256-PLUS')).to.equal('success')
    expect(await outcome('juliet', 'wrong', 'SCRAM-SHA-256-PLUS')).to.equal('not-authorized')
  })

  it('wait for a process that is away, and fail for now when it stays away', async () => {
    await serve({ patience: '1 s' })
    await server?.register('juliet@localhost', 'secret')
    await auths[0]?.stop()
    expect(await outcome('juliet', 'secret')).to.equal('temporary-auth-failure')
    expect(await outcome('juliet', 'wrong')).to.equal('temporary-auth-failure')
    expect(await outcome('juliet', 'secret', 'SCRAM-SHA-256')).to.equal('temporary-auth-failure')
    const problem = async (work: Promise<void> | undefined): Promise<string> => work?.then(() => 'done', (error: { condition: string }) => error.condition) ?? ''
    expect(await problem(server?.register('romeo@localhost', 'x'))).to.equal('resource-constraint')
    expect(await server?.accounts.exists('romeo@localhost')).to.equal(false)
    expect(await problem(server?.accounts.setPassword('juliet@localhost', 'x'))).to.equal('resource-constraint')
    const waiting = outcome('juliet', 'secret')
    await sleep(200)
    await auths[0]?.start()
    expect(await waiting).to.equal('success')
  })

  it('are neither refused nor let in wrongly while processes go and come', async () => {
    await serve({ processes: 2, text: TEST_CONFIG.replace('max_user_sessions: 20', 'max_user_sessions: 1000') })
    await server?.register('juliet@localhost', 'secret')
    const outcomes: { right: boolean; ended: string }[] = []
    let started = 0
    const logIn = async (): Promise<void> => {
      while (started < 160) {
        const right = started++ % 4 !== 0
        outcomes.push({ right, ended: await outcome('juliet', right ? 'secret' : 'wrong', ['PLAIN', 'SCRAM-SHA-1', 'SCRAM-SHA-256-PLUS'][started % 3]) })
      }
    }
    const logins = Array.from({ length: 8 }, logIn)
    for (const [at, which] of [[20, 0], [60, 1], [100, 0]] as const) {
      while (outcomes.length < at) await sleep(2)
      await auths[which]?.stop()
      await sleep(50)
      await auths[which]?.start()
    }
    await Promise.all(logins)
    expect(outcomes.filter(({ right, ended }) => right && ended !== 'success' && ended !== 'temporary-auth-failure')).to.deep.equal([])
    expect(outcomes.filter(({ right, ended }) => !right && ended !== 'not-authorized' && ended !== 'temporary-auth-failure')).to.deep.equal([])
    expect(outcomes.filter(({ ended }) => ended === 'success').length).to.be.greaterThan(80)
  })

  it('the end of an account goes on when the process is back, and nobody logs in meanwhile', async () => {
    const storage = openMemory()
    await serve({ storage, patience: '300 ms' })
    await server?.register('juliet@localhost', 'secret')
    await auths[0]?.stop()
    const ended = await server?.unregister('juliet@localhost').then(() => 'done', (error: { condition: string }) => error.condition)
    expect(ended).to.equal('resource-constraint')
    await auths[0]?.start()
    expect(await outcome('juliet', 'secret')).to.equal('temporary-auth-failure')
    // Another process finds what this one has not finished.
    await server?.close()
    await start(storage)
    expect([await outcome('juliet', 'secret'), await server?.accounts.exists('juliet@localhost')]).to.deep.equal(['not-authorized', false])
  })

  it('too many wrong passwords are counted by the process that checks them', async () => {
    await serve({ text: `${TEST_CONFIG}\ntidings: { limits: { login_failures: 3, login_failure_every: 1d } }\n` })
    await server?.register('juliet@localhost', 'secret')
    for (let i = 0; i < 3; i++) expect(await outcome('juliet', 'wrong')).to.equal('not-authorized')
    expect(await outcome('juliet', 'secret')).to.equal('temporary-auth-failure')
  })

  describe('connections between the processes', () => {
    const log = createLog('silent')
    const client = (secret: string, ...ports: number[]): AuthClient => new AuthClient({ servers: ports.map((each) => ({ host: '127.0.0.1', port: each })), secret, limits: { authPatienceMs: 300, authWaiting: 2 }, log, metrics: createMetrics({ processMetrics: false }) })

    it('are for those alone who have the secret', async () => {
      const auth = await startAuth(TEST_CONFIG, dir)
      auths.push(auth)
      const stranger = client('another secret of chat and auth processes', auth.port)
      const refused = await stranger.ask('checkPassword', { account: 'juliet@localhost', password: 'x' }).catch((error: unknown) => error)
      expect(refused).to.be.instanceOf(AuthUnavailable)
      stranger.close()
      // Nor does a chat process tell anything to somebody who listens where an auth process was.
      const heard: Buffer[] = []
      const impostor = tls.createServer({ ciphers: 'ECDHE-PSK-CHACHA20-POLY1305', maxVersion: 'TLSv1.2', pskCallback: () => randomBytes(32) }, (socket) => { socket.on('data', (chunk: Buffer) => heard.push(chunk)).on('error', () => undefined) })
      impostor.on('tlsClientError', () => undefined)
      await new Promise<void>((resolve) => { impostor.listen(0, '127.0.0.1', resolve) })
      const betrayed = client(SECRET, (impostor.address() as { port: number }).port)
      expect(await betrayed.ask('checkPassword', { account: 'juliet@localhost', password: 'x' }).catch((error: unknown) => error)).to.be.instanceOf(AuthUnavailable)
      expect(heard).to.deep.equal([])
      betrayed.close()
      impostor.close()
    })

    it('end when they carry nonsense, and the others go on', async () => {
      const auth = await startAuth(TEST_CONFIG, dir)
      auths.push(auth)
      const friend = client(SECRET, auth.port)
      for (const nonsense of [Buffer.from([0xff, 0xff, 0xff, 0xff]), Buffer.from([0, 0, 0, 1, 0xc1]), Buffer.from([0, 0, 0, 2, 0x91, 0x01])]) {
        const socket = connectWire({ host: '127.0.0.1', port: auth.port }, keyOf(SECRET), () => socket.write(nonsense))
        await new Promise((resolve) => { socket.on('error', () => undefined).on('close', resolve).resume() })
      }
      const raw = connectSocket(auth.port, '127.0.0.1', () => raw.write('<stream:stream>'))
      await new Promise((resolve) => { raw.on('error', () => undefined).on('close', resolve).resume() })
      expect((await friend.ask('checkPassword', { account: 'juliet@localhost', password: 'x' })).body).to.deep.equal({ right: false })
      for (const [operation, args] of [['nothing', {}], ['begin', {}], ['step', { exchange: 5, input: Buffer.from('x') }], ['begin', { host: 'elsewhere.example', mechanism: 'PLAIN', input: Buffer.from('x'), types: [], offered: [] }], ['register', { account: 'juliet@elsewhere.example', password: 'x' }], ['toString', {}]] as const) {
        expect(await friend.ask(operation, args).catch((error: unknown) => error), operation).to.be.instanceOf(AuthUnavailable)
      }
      friend.close()
    })

    it('carry only so many questions at once', async () => {
      const away = client(SECRET, 1)
      const asked = Array.from({ length: 3 }, () => away.ask('find', { host: 'localhost', local: 'x' }).catch((error: Error) => error.message))
      expect((await Promise.all(asked)).filter((message) => message === 'too many logins wait')).to.have.length(1)
      away.close()
    })
  })

  it('a process that has nothing to check with, or no secret, does not start', async () => {
    const problem = async (text: string): Promise<string> => {
      await writeFile(path.join(dir, 'auth.yml'), text)
      const { config, problems } = loadConfig(path.join(dir, 'auth.yml'))
      const error = problems.find(({ level }) => level === 'error')
      return error?.text ?? await createAuthRole({ config, dataDir: dir, log: createLog('silent') }).then(async (role) => { await role.close(0); return 'started' }, (reason: Error) => reason.message)
    }
    expect(await problem(TEST_CONFIG)).to.contain('needs tidings.auth')
    expect(await problem(authConfig(TEST_CONFIG, false))).to.contain('nothing to check passwords with')
    expect(await problem(authConfig(TEST_CONFIG).replace(SECRET, 'short'))).to.contain('at least 20 characters')
    expect(await problem(chatConfig(TEST_CONFIG, [1]))).to.contain('a process that asks')
    expect(await problem(authConfig(TEST_CONFIG))).to.equal('started')
  })
})
