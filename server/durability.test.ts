import { expect } from 'chai'
import { type RoundResult, runRound, startServer } from '../conformance/durability.ts'
import type { ServerProcess } from '../conformance/server-process.ts'
import { connect, type ConnectOptions, IqError } from '../lib/client/client.ts'
import { Connection } from '../lib/client/connection.ts'
import { nextMessageId } from '../lib/stanza/ids.ts'
import { type Admin, createAdmin } from './admin/admin.ts'
import { type HeldStorage, openHeldStorage, startTestServer, type TestServer } from './test-server.ts'

/** How long a server may take to stop. */
const STOP_MS = 5000

describe('what was acknowledged is delivered once and stands once in both archives', () => {
  let server: ServerProcess

  before(async () => { server = await startServer() })
  after(async () => { await server[Symbol.asyncDispose]() })

  // The ways of clients that come late differ from round to round.
  for (const [signal, round, kills] of [['SIGKILL', 0, 1], ['SIGKILL', 1, 2], ['SIGTERM', 0, 1], ['SIGTERM', 2, 1]] as const) {
    it(`${signal}, ${kills === 1 ? 'once' : 'twice'}, with recipients online, silent, away and logging in anew (round ${round})`, async function () {
      // As long as a busy machine needs.
      this.timeout(300_000)
      const result: RoundResult = await runRound(server, round, signal, { sent: 400, kills })
      expect(result.faults).to.deep.equal([])
      expect(result.acknowledged).to.be.greaterThan(0)
      if (signal === 'SIGTERM') expect(result.stopMs).to.be.lessThan(STOP_MS)
    })
  }
})

describe('what changes an account is answered after its commit', () => {
  let storage: HeldStorage
  let server: TestServer
  let admin: Admin

  beforeEach(async () => {
    storage = openHeldStorage()
    server = await startTestServer({ storage, accounts: { juliet: 'pencil' } })
    const running = server.server
    admin = createAdmin({
      hosts: () => ['localhost'], accounts: running.accounts,
      register: (jid, password) => running.register(jid, password),
      unregister: (jid) => running.unregister(jid),
      running: { sessions: running.everySession, status: () => running.status(), stop() {}, restart: async () => {}, stopKindly() {}, reload: async () => [], unban: (address) => running.unban(address), operation: async () => undefined },
    })
  })
  afterEach(async () => {
    storage.release()
    await server[Symbol.asyncDispose]()
  })

  const options = (user: string, more: Partial<ConnectOptions> = {}): ConnectOptions => ({ host: server.host, port: server.port, domain: server.domain, tls: 'none', user, password: 'pencil', ...more })

  /** Whether it answers only after the commit; `written` tells when there is something to commit. */
  async function waits(answer: Promise<unknown>, written: () => Promise<boolean>): Promise<void> {
    let answered = false
    void answer.then(() => { answered = true })
    await until(written)
    await turns(20)
    expect(answered).to.equal(false)
    storage.release()
    await answer
  }

  it('when an operator makes an account, changes its password, bans it, lets it in and removes it', async () => {
    const { accounts } = server.server
    const run = async (name: string, ...args: string[]): Promise<void> => { expect(await admin.run(name, args)).to.have.property('code', 0) }
    storage.hold()
    await waits(run('register', 'romeo', 'localhost', 'pencil'), async () => accounts.exists('romeo@localhost'))
    storage.hold()
    await waits(run('change_password', 'romeo', 'localhost', 'other'), () => accounts.checkPassword('romeo@localhost', 'other'))
    storage.hold()
    await waits(run('ban_account', 'romeo', 'localhost', ''), async () => (await accounts.disabled('romeo@localhost')) !== undefined)
    storage.hold()
    await waits(run('unban_account', 'romeo', 'localhost'), async () => (await accounts.disabled('romeo@localhost')) === undefined)
    storage.hold()
    await waits(run('unregister', 'romeo', 'localhost'), async () => !(await accounts.exists('romeo@localhost')))
  })

  it('when a client makes an account (XEP-0077 §3.1)', async () => {
    const connection = await Connection.open({ host: server.host, port: server.port, domain: server.domain })
    connection.openStream()
    await connection.nextElement()
    storage.hold()
    connection.write("<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>romeo</username><password>pencil</password></query></iq>")
    await waits(connection.nextElement(), async () => server.server.accounts.exists('romeo@localhost'))
    connection.destroy()
  })

  it('when a client changes its password (XEP-0077 §3.3)', async () => {
    const client = await connect(options('juliet'))
    storage.hold()
    await waits(
      client.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><username>juliet</username><password>other</password></query></iq>"),
      () => server.server.accounts.checkPassword('juliet@localhost', 'other'),
    )
    await client.disconnect()
  })

  it('when a client blocks somebody, for its other clients too (XEP-0191 §3.3)', async () => {
    const [client, other] = [await connect(options('juliet')), await connect(options('juliet', { resource: 'other' }))]
    await other.sendIq("<iq type='get'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
    storage.hold()
    const push = other.receive((stanza) => stanza.getChild('block', 'urn:xmpp:blocking') !== undefined)
    client.send("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>")
    await waits(push, async () => (await storage.records.range('blocked', [])).length > 0)
    await client.disconnect()
    await other.disconnect()
  })

  it('when a client removes its account (XEP-0077 §3.2)', async () => {
    const client = await connect(options('juliet'))
    storage.hold()
    await waits(
      client.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>"),
      async () => !(await server.server.accounts.exists('juliet@localhost')),
    )
    await client.closed
    expect(client.streamError?.condition).to.equal('not-authorized')
  })

  it('and a removal that was cut short is finished by the next process, before anybody takes the name', async () => {
    const { records, offline } = storage
    offline.push('juliet@localhost', { id: nextMessageId(), bytes: Buffer.from('<message/>') })
    records.put('vcard', ['juliet@localhost'], 'kept')
    await storage.committed()
    storage.hold()
    const removal = server.server.unregister('juliet@localhost')
    await until(async () => !(await server.server.accounts.exists('juliet@localhost')))
    // As the killed process leaves it: the account is gone, and what belongs to it is not.
    expect(records.range('removals', [])).to.have.length(1)
    expect(offline.count('juliet@localhost')).to.equal(1)
    const refused: unknown = await server.server.register('juliet@localhost', 'x').catch((error: unknown) => error)
    expect(refused).to.have.property('condition', 'conflict')
    const next = await startTestServer({ storage: storage.survivor })
    try {
      expect(offline.count('juliet@localhost')).to.equal(0)
      expect(records.range('vcard', ['juliet@localhost'])).to.have.length(0)
      expect(records.range('removals', [])).to.have.length(0)
      await next.server.register('juliet@localhost', 'x')
    } finally {
      storage.release()
      await removal
      await next[Symbol.asyncDispose]()
    }
  })

  it('and refused while nothing can be stored', async () => {
    storage.healthy = false
    for (const command of [['register', 'romeo', 'localhost', 'x'], ['change_password', 'juliet', 'localhost', 'x'], ['unregister', 'juliet', 'localhost']]) {
      expect(await admin.run(command[0] as string, command.slice(1))).to.deep.equal({ code: 1, lines: ['Error: The server cannot store anything at the moment: no space left'] })
    }
    const failure: unknown = await connect(options('romeo', { register: true })).catch((error: unknown) => error)
    expect(failure).to.be.instanceOf(IqError).and.have.property('condition', 'resource-constraint')
    expect(await server.server.accounts.exists('romeo@localhost')).to.equal(false)
    expect(await server.server.accounts.checkPassword('juliet@localhost', 'pencil')).to.equal(true)
  })
})

/** Waits until it is so; fails after 5 s. */
async function until(so: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 5000
  while (!(await so())) {
    if (Date.now() > end) throw new Error('it never came to pass')
    await turns(1)
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}
