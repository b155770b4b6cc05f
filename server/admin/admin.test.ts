import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { createAccounts } from '../accounts/accounts.ts'
import { Calls } from '../cluster/calls.ts'
import { createLog } from '../log.ts'
import { everySession } from '../sessions/everywhere.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { type Admin, type AdminParts, createAdmin } from './admin.ts'
import { askControl, askServer, controlPath, listenControl } from './control.ts'

describe('administration', () => {
  let removed: string[]
  let admin: Admin

  beforeEach(() => {
    const accounts = createAccounts(openMemory().records, { iterations: 1 })
    removed = []
    admin = createAdmin({
      hosts: () => ['localhost'],
      accounts,
      register: (jid, password) => accounts.register(jid, password),
      unregister: async (jid) => { removed.push(jid); await accounts.unregister(jid) },
    } satisfies AdminParts)
  })

  it('keeps accounts in the order of arguments that ejabberdctl has', async () => {
    expect(await admin.run('register', ['alice', 'localhost', 'secret'])).to.deep.equal({ code: 0, lines: ['User alice@localhost successfully registered'] })
    expect(await admin.run('register', ['alice', 'localhost', 'secret'])).to.deep.equal({ code: 1, lines: ['Error: User alice@localhost already registered'] })
    expect((await admin.run('check_password', ['alice', 'localhost', 'secret'])).code).to.equal(0)
    expect((await admin.run('change_password', ['alice', 'localhost', 'other'])).code).to.equal(0)
    expect((await admin.run('check_password', ['alice', 'localhost', 'secret'])).code).to.equal(1)
    await admin.run('register', ['bob', 'localhost', 'x'])
    expect((await admin.run('registered_users', ['localhost'])).lines).to.deep.equal(['alice', 'bob'])
    expect((await admin.run('stats', ['registeredusers'])).lines).to.deep.equal(['2'])
    expect((await admin.run('unregister', ['alice', 'localhost'])).code).to.equal(0)
    expect(removed).to.deep.equal(['alice@localhost'])
    expect((await admin.run('check_account', ['alice', 'localhost'])).code).to.equal(1)
  })

  it('bans an account and lets it in again, by the names that ejabberdctl has', async () => {
    await admin.run('register', ['alice', 'localhost', 'secret'])
    expect(await admin.run('get_ban_details', ['alice', 'localhost'])).to.deep.equal({ code: 0, lines: [] })
    expect(await admin.run('ban_account', ['alice', 'localhost', 'spam'])).to.deep.equal({ code: 0, lines: [] })
    const { lines } = await admin.run('get_ban_details', ['alice', 'localhost'])
    expect(lines[0]).to.match(/^bandate\t\d{4}-\d\d-\d\dT/)
    expect(lines[1]).to.equal('reason\tspam')
    expect((await admin.run('unban_account', ['alice', 'localhost'])).code).to.equal(0)
    expect((await admin.run('unban_account', ['alice', 'localhost'])).lines).to.deep.equal(['Error: alice@localhost is not banned'])
    expect((await admin.run('ban_account', ['nobody', 'localhost', ''])).lines).to.deep.equal(['Error: There is no account nobody@localhost'])
  })

  it('lifts the ban of one address', async () => {
    const lifted: string[] = []
    const running = { sessions: everySession({ all: () => [], of: () => [] }, new Calls({ homes: () => undefined, nodes: () => [], log: createLog('silent') })), status: () => { throw new Error('not asked') }, stop: () => undefined, restart: () => Promise.resolve(), stopKindly: () => undefined, reload: () => Promise.resolve([]), unban: (address: string) => lifted.push(address) === 1, operation: () => Promise.resolve(undefined) }
    const accounts = createAccounts(openMemory().records, { iterations: 1 })
    const able = createAdmin({ hosts: () => ['localhost'], accounts, register: () => Promise.resolve(), unregister: () => Promise.resolve(), running })
    expect((await able.run('unban_ip', ['::FFFF:192.0.2.7/128'])).lines).to.deep.equal(['1'])
    expect((await able.run('unban_ip', ['192.0.2.8'])).lines).to.deep.equal(['0'])
    for (const wrong of ['192.0.2.0/24', 'example.org', '']) expect((await able.run('unban_ip', [wrong])).lines[0]).to.contain('is not one IP address')
    expect(lifted).to.deep.equal(['::FFFF:192.0.2.7', '192.0.2.8'])
    expect((await admin.run('unban_ip', ['192.0.2.7'])).lines).to.deep.equal(['Error: The server is not running'])
  })

  it('hands invitations to the host\'s extensions', async () => {
    const asked: unknown[] = []
    const running = { sessions: everySession({ all: () => [], of: () => [] }, new Calls({ homes: () => undefined, nodes: () => [], log: createLog('silent') })), status: () => ({ healthy: true, sessions: 0, uptimeMs: 0, storage: { driver: 'memory' } }), stop: () => undefined, restart: () => Promise.resolve(), stopKindly: () => undefined, reload: () => Promise.resolve([]), unban: () => false,
      operation: (...call: unknown[]) => { asked.push(call); return Promise.resolve(call[1] === 'generate_invite' ? ['xmpp:localhost?register;preauth=T'] : undefined) } }
    const accounts = createAccounts(openMemory().records, { iterations: 1 })
    const able = createAdmin({ hosts: () => ['localhost'], accounts, register: () => Promise.resolve(), unregister: () => Promise.resolve(), running })
    expect(await able.run('generate_invite', ['localhost'])).to.deep.equal({ code: 0, lines: ['xmpp:localhost?register;preauth=T'] })
    expect((await able.run('generate_invite_with_username', ['juliet', 'localhost'])).lines).to.deep.equal(['Error: mod_invites is off on localhost'])
    expect(asked).to.deep.equal([['localhost', 'generate_invite', []], ['localhost', 'generate_invite_with_username', ['juliet']]])
    expect((await admin.run('generate_invite', ['localhost'])).lines).to.deep.equal(['Error: The server is not running'])
  })

  it('says what is wrong', async () => {
    expect((await admin.run('register', ['alice', 'example.net', 'x'])).lines[0]).to.contain('not a host of this server')
    expect(await admin.run('register', ['alice'])).to.deep.equal({ code: 2, lines: ['Usage: tidings register USER HOST PASSWORD'] })
    expect((await admin.run('constructor', [])).code).to.equal(2)
    expect((await admin.run('register', ['a b', 'localhost', 'x'])).code).to.equal(1)
    expect((await admin.run('connected_users', [])).lines).to.deep.equal(['Error: The server is not running'])
  })

  it('is waited for while a server starts, and not when nobody has the data directory', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'control-'))
    try {
      let looks = 0
      let control: { close(): Promise<void> } | undefined
      const isHeld = async (): Promise<boolean> => {
        if (++looks === 2) control = await listenControl(dir, admin, createLog('silent'))
        return true
      }
      expect(await askServer(dir, 'registered_vhosts', [], isHeld)).to.deep.equal({ code: 0, lines: ['localhost'] })
      expect(looks).to.equal(2)
      await control?.close()
      expect(await askServer(dir, 'registered_vhosts', [], () => Promise.resolve(false))).to.equal(undefined)
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  it('answers on a socket for its owner alone, also after a crash', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'control-'))
    try {
      expect(await askControl(dir, 'registered_vhosts', [])).to.equal(undefined)
      await writeFile(path.join(dir, 'control.sock'), '')
      const control = await listenControl(dir, admin, createLog('silent'))
      expect((await stat(controlPath(dir))).mode & 0o777).to.equal(0o600)
      expect(await askControl(dir, 'registered_vhosts', [])).to.deep.equal({ code: 0, lines: ['localhost'] })
      await control.close()
      expect(await askControl(dir, 'registered_vhosts', [])).to.equal(undefined)
    } finally {
      await rm(dir, { recursive: true })
    }
  })
})
