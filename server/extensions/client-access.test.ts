import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { clientAccess } from './client-access.ts'
import type { ClientAgent, Login } from './extension.ts'
import { conditionOf, fakeParts, stanza } from './fake-parts.ts'

const NS = 'urn:xmpp:cam:0'
const OWNER = 'juliet@example.net'
const DAY = 86_400_000

describe('client access management (XEP-0494)', () => {
  function stage(limits = {}) {
    const fake = fakeParts()
    fake.start(clientAccess, {}, { limits: { ...fake.parts.limits, ...limits } })
    const { sasl2, accounts } = fake
    const login = async (id: string, mechanism = 'SCRAM-SHA-1', more: Partial<ClientAgent> = {}): Promise<void> => {
      const request: Login = { mechanism, request: stanza("<authenticate xmlns='urn:xmpp:sasl:2'/>"), client: { id, software: undefined, device: undefined, ...more }, context: { host: 'example.net', accounts, secure: true, channelBinding: undefined, offeredPlus: false, disabled: [] } }
      expect(await sasl2.success(OWNER, request)).to.equal('')
    }
    const session = fake.login(`${OWNER}/phone`)
    const online = (id: string) => fake.parts.sessions.of(OWNER).find((each) => each.jid.resource === id)
    const list = async () => (await fake.ask(`${OWNER}/phone`, 'get', `<list xmlns='${NS}'/>`)).getChild('clients', NS)?.getChildren('client') ?? []
    const revoke = (id: string) => fake.ask(`${OWNER}/phone`, 'set', `<revoke xmlns='${NS}' id='${id}'/>`)
    return { ...fake, signIn: login, session, online, list, revoke }
  }

  it('lists clients with what they said of themselves, when they came, and how (§3.1)', async () => {
    const { clock, session, signIn, list, tokens } = stage()
    await signIn('phone', 'SCRAM-SHA-1', { software: 'AwesomeXMPP', device: 'Juliet\'s phone' })
    ;(session as unknown as { set(name: string, value: string): void }).set('client', 'phone')
    clock.now += DAY
    await signIn('laptop', 'HT-SHA-256-NONE')
    await signIn('phone', 'PLAIN')
    await tokens.issue(OWNER, 'laptop', 'HT-SHA-256-NONE', DAY)
    const [laptop, phone] = await list()
    expect(phone?.toString()).to.equal(parseElement(`<client connected='true' id='phone' type='session'><first-seen>2026-01-01T00:00:00.000Z</first-seen><last-seen>2026-01-02T00:00:00.000Z</last-seen><auth><password/></auth><permission status='unrestricted'/><user-agent><software>AwesomeXMPP</software><device>Juliet's phone</device></user-agent></client>`).toString())
    expect([laptop?.attrs['connected'], laptop?.getChild('auth')?.getChildElements().map((each) => each.name)]).to.deep.equal(['false', ['fast']])
  })

  it('one that did not say who it is stands there as long as it is connected', async () => {
    const { list, revoke } = stage()
    const [only, ...others] = await list()
    expect([only?.attrs['connected'], only?.getChild('auth')?.getChild('password') !== undefined, only?.getChild('user-agent'), others]).to.deep.equal(['true', true, undefined, []])
    expect(conditionOf(await revoke(only?.attrs['id'] ?? ''))).to.equal('service-unavailable')
  })

  it('a client that has only a token loses it, and its session (§3.2)', async () => {
    const fake = stage()
    const { tokens, signIn, revoke, list } = fake
    await signIn('laptop', 'HT-SHA-256-NONE')
    const { token } = await tokens.issue(OWNER, 'laptop', 'HT-SHA-256-NONE', DAY)
    const laptop = fake.login(`${OWNER}/laptop`)
    fake.online('laptop')?.set('client', 'laptop')
    expect((await revoke('laptop')).attrs['type']).to.equal('result')
    expect(laptop.closed).to.equal('not-authorized')
    expect((await tokens.check(OWNER, 'laptop', 'HT-SHA-256-NONE', undefined, (each) => each === token)).outcome).to.equal('wrong')
    fake.hooks.runClosed(laptop as never)
    fake.logout(laptop)
    expect((await list()).map((each) => each.attrs['id'])).to.not.include('laptop')
  })

  it('one that knows the password keeps it until there is another', async () => {
    const { storage, hooks, signIn, revoke, list } = stage()
    await signIn('laptop')
    await signIn('laptop', 'HT-SHA-256-NONE')
    const refused = await revoke('laptop')
    expect([conditionOf(refused), refused.getChild('error')?.getChild('password-reset-required', NS) !== undefined]).to.deep.equal(['service-unavailable', true])
    expect(await list()).to.have.length(2)
    hooks.runPasswordChanged(OWNER)
    expect(await storage.records.range('clients', [OWNER])).to.have.length(0)
    expect(conditionOf(await revoke('laptop'))).to.equal('item-not-found')
  })

  it('is for the account itself', async () => {
    const fake = stage()
    fake.login('romeo@example.net/x')
    for (const [type, payload] of [['get', `<list xmlns='${NS}'/>`], ['set', `<revoke xmlns='${NS}' id='x'/>`]] as const) expect(conditionOf(await fake.ask('romeo@example.net/x', type, payload, OWNER))).to.equal('forbidden')
    expect(conditionOf(await fake.ask(`${OWNER}/phone`, 'set', `<revoke xmlns='${NS}'/>`))).to.equal('bad-request')
  })

  it('forgets clients after a while, the oldest when there are too many, and all with the account', async () => {
    const { clock, tasks, storage, accounts, hooks, signIn } = stage({ clientsPerAccount: 3, clientsKeptMs: 10 * DAY })
    await accounts.register(OWNER, 'secret')
    const ids = async (): Promise<(string | undefined)[]> => (await storage.records.range('clients', [OWNER])).map(({ key }) => key[1])
    for (const id of ['a', 'b', 'c', 'd']) {
      await signIn(id)
      clock.now += DAY
    }
    expect(await ids()).to.deep.equal(['b', 'c', 'd'])
    clock.now += 7 * DAY
    for (const task of tasks) await task()
    expect(await ids()).to.deep.equal(['c', 'd'])
    await hooks.runAccountRemoved(OWNER)
    expect(await ids()).to.deep.equal([])
  })
})
