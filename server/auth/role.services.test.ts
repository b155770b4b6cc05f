/** The role `auth` as processes, with a real LDAP directory; and the tests of logins with an auth process in place. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer as createProbe } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { ServerProcess } from '../../conformance/server-process.ts'
import { login, LoginError } from '../../lib/client/client.ts'
import { startLdap, type Ldap } from '../../services/services.ts'
import { SECRET } from './auth.fixture.ts'

const CLI = path.join(import.meta.dirname, '../services/cli.ts')

/** `tidings auth`, which can be killed and started again where it was. */
class AuthProcess {
  readonly port: number
  readonly #file: string
  readonly #dir: string
  #child: ChildProcess | undefined

  private constructor(dir: string, file: string, port: number) {
    this.#dir = dir
    this.#file = file
    this.port = port
    process.once('exit', () => this.#child?.kill('SIGKILL'))
  }

  static async start(dir: string, name: string, config: string): Promise<AuthProcess> {
    const probe = createProbe().listen(0, '127.0.0.1')
    await once(probe, 'listening')
    const { port } = probe.address() as { port: number }
    probe.close()
    const file = path.join(dir, `${name}.yml`)
    await writeFile(file, `${config}\ntidings: { auth: { listen: "127.0.0.1:${port}", secret: "${SECRET}" } }\n`)
    const auth = new AuthProcess(dir, file, port)
    await auth.run()
    return auth
  }

  async run(): Promise<void> {
    const child = this.#child = spawn(process.execPath, [CLI, 'auth', '--config', this.#file, '--data', path.join(this.#dir, 'data-auth')], { stdio: ['ignore', 'ignore', 'pipe'] })
    const ready = Promise.withResolvers<void>()
    let said = ''
    child.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString()
      if (said.includes('checks logins on port')) ready.resolve()
    })
    child.once('exit', (code) => ready.reject(new Error(`the auth process ended with ${code}: ${said}`)))
    await ready.promise
  }

  /** Its exit code; null when it was killed. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<number | null> {
    const child = this.#child as ChildProcess
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode
    const exited = once(child, 'exit')
    child.kill(signal)
    return ((await exited) as [number | null])[0]
  }
}

describe('the role auth', () => {
  describe('with an LDAP directory', () => {
    let dir: string
    let ldap: Ldap
    let auths: AuthProcess[]
    let server: ServerProcess

    before(async () => {
      dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
      ldap = await startLdap()
      const config = `hosts: [localhost]\nloglevel: none\nauth_method: ldap\nldap_servers: [127.0.0.1]\nldap_port: ${ldap.port}\nldap_base: "ou=people,${ldap.base}"\nldap_rootdn: "${ldap.serviceDn}"\nldap_password: "${ldap.servicePassword}"\n`
      auths = [await AuthProcess.start(dir, 'one', config), await AuthProcess.start(dir, 'two', config)]
      server = await ServerProcess.start({
        config: ({ client, clientTls }) => `hosts: [localhost]\nloglevel: none\nauth_method: ldap\nshaper_rules: { max_user_sessions: 1000 }\nlisten:\n  - {port: ${client}, ip: 127.0.0.1, module: ejabberd_c2s, starttls: true}\n  - {port: ${clientTls}, ip: 127.0.0.1, module: ejabberd_c2s, tls: true}\nmodules: {mod_roster: {}, mod_offline: {}}\ntidings: { auth: { servers: ["127.0.0.1:${auths[0]?.port}", "127.0.0.1:${auths[1]?.port}"], secret: "${SECRET}" } }\n`,
      })
    })
    after(async () => {
      await (server as ServerProcess | undefined)?.[Symbol.asyncDispose]()
      for (const auth of auths ?? []) await auth.kill()
      await (ldap as Ldap | undefined)?.[Symbol.asyncDispose]()
      await rm(dir, { recursive: true, force: true })
    })

    async function outcome(user: string, password: string): Promise<string> {
      try {
        const { connection } = await login({ host: '127.0.0.1', port: server.ports.clientTls, domain: 'localhost', tls: 'direct', user, password, mechanism: 'PLAIN', timeoutMs: 30_000 })
        connection.destroy()
        return 'success'
      } catch (error) {
        if (error instanceof LoginError) return error.condition
        throw error
      }
    }

    it('lets in who has the password, for a process that knows neither it nor the directory', async () => {
      expect([await outcome('user01', 'pw-user01'), await outcome('user01', 'pw-user02'), await outcome('user99', 'pw-user99')]).to.deep.equal(['success', 'not-authorized', 'not-authorized'])
    })

    it('refuses nobody and lets nobody in wrongly while its processes are killed in the middle of logins', async function () {
      this.timeout(240_000)
      const outcomes: { readonly right: boolean; readonly ended: string }[] = []
      let started = 0
      const logIn = async (): Promise<void> => {
        while (started < 240) {
          const at = started++
          const user = `user${String(1 + at % 19).padStart(2, '0')}`
          const right = at % 3 !== 0
          outcomes.push({ right, ended: await outcome(user, right ? `pw-${user}` : 'wrong') })
        }
      }
      const logins = Array.from({ length: 12 }, logIn)
      for (const [at, which] of [[20, 0], [70, 1], [120, 0], [170, 1]] as const) {
        while (outcomes.length < at) await sleep(2)
        await auths[which]?.kill()
        await sleep(100)
        await auths[which]?.run()
      }
      await Promise.all(logins)
      expect(outcomes).to.have.length(240)
      // One is always there, and what it had begun for the other is asked of it.
      expect(new Set(outcomes.filter(({ right }) => right).map(({ ended }) => ended))).to.deep.equal(new Set(['success']))
      expect(new Set(outcomes.filter(({ right }) => !right).map(({ ended }) => ended))).to.deep.equal(new Set(['not-authorized']))
    })

    it('ends when it is told to, and logins fail for now when nobody is left', async function () {
      this.timeout(120_000)
      expect(await auths[0]?.kill('SIGTERM')).to.equal(0)
      expect(await outcome('user05', 'pw-user05')).to.equal('success')
      await auths[1]?.kill()
      expect([await outcome('user05', 'pw-user05'), await outcome('user05', 'wrong')]).to.deep.equal(['temporary-auth-failure', 'temporary-auth-failure'])
      const waiting = outcome('user05', 'pw-user05')
      await auths[0]?.run()
      expect(await waiting).to.equal('success')
    })
  })

  describe('in place of passwords of the server\'s own', () => {
    const FILES = ['c2s/sasl2', 'c2s/logins', 'c2s/other-logins', 'c2s/external', 'extensions/fast', 'extensions/register.server', 'extensions/scram-upgrade', 'extensions/client-access'].map((file) => path.join(import.meta.dirname, '..', `${file}.test.ts`))
    const LDAP = [path.join(import.meta.dirname, '../ldap/auth.services.test.ts')]
    /** What reads the configuration of one process alone anew. */
    const OTHERWISE = 'what the account has already'

    for (const [auth, files] of [['accounts', FILES], ['others', FILES], ['accounts', LDAP], ['others', LDAP]] as const) {
      it(`changes nothing of how logins go (${auth}, ${files === LDAP ? 'with a directory' : 'without'})`, async function () {
        this.timeout(550_000)
        const mocha = path.join(import.meta.dirname, '../../node_modules/mocha/bin/mocha.js')
        const child = spawn(process.execPath, [mocha, '--no-parallel', '--reporter', 'dot', '--grep', OTHERWISE, '--invert', ...files], { cwd: path.join(import.meta.dirname, '../..'), env: { ...process.env, TIDINGS_TEST_AUTH: auth }, stdio: ['ignore', 'pipe', 'pipe'] })
        let said = ''
        for (const output of [child.stdout, child.stderr]) output.on('data', (chunk: Buffer) => { said += chunk.toString() })
        const [code] = (await once(child, 'exit')) as [number | null]
        expect(code, said.slice(-4000)).to.equal(0)
        expect(said).to.match(/\d\d? passing/)
      })
    }
  })
})
