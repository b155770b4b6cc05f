import { expect } from 'chai'
import { adhoc } from './adhoc.ts'
import { conditionOf, fakeParts, stanza } from './fake-parts.ts'
import { invites } from './invites.ts'
import { register } from './register.ts'

const host = 'example.net'
const romeo = 'romeo@example.net/orchard'
const FORMS = 'jabber:x:data'
const invite = "<command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:invite#invite' action='execute'/>"
const createAccount = (fields?: Record<string, string>, extra = '') => `<command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:invite#create-account' ${extra}>${fields === undefined ? '' : `<x xmlns='${FORMS}' type='submit'>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`}</command>`

describe('invitations (XEP-0401, XEP-0445, XEP-0379)', () => {
  async function stage(options: Record<string, unknown> = {}, registration: Record<string, unknown> = { ip_access: 'none' }) {
    const fake = fakeParts()
    const base = { add: () => () => undefined, baseUrl: (_host: string, path?: string) => `https://example.net:5443${path ?? ''}` } as unknown as typeof fake.parts.http
    fake.start(adhoc)
    fake.start(register, registration)
    fake.start(invites, { access_create_account: 'local', landing_page: 'auto', ...options }, { http: base })
    await fake.accounts.register('romeo@example.net', 'secret')
    const fieldsOf = (answer: Awaited<ReturnType<typeof fake.ask>>) => Object.fromEntries(answer.getChild('command')?.getChild('x', FORMS)?.getChildren('field').map((field) => [field.attrs['var'], field.getChildText('value')]) ?? [])
    const run = async (command: string, from = romeo) => fieldsOf(await fake.ask(from, 'set', command, host))
    const tokenOf = (uri: string | null | undefined) => /preauth=([A-Za-z0-9]+)/.exec(uri ?? '')?.[1] ?? ''
    const stranger = () => {
      const stream = { address: '192.0.2.7', secure: true, host, close: () => undefined }
      const send = async (payload: string, type: 'get' | 'set' = 'set') => {
        const iq = stanza(`<iq xmlns='jabber:client' type='${type}' id='p1' to='${host}'>${payload}</iq>`)
        const child = iq.children[0]!
        return (await fake.nonzas.before(`${child.xmlns} ${child.name}`)!(stream, iq)).element()
      }
      return {
        send,
        preauth: (token: string) => send(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`),
        register: (username: string, password = 'secret') => send(`<query xmlns='jabber:iq:register'><username>${username}</username><password>${password}</password></query>`),
        form: () => send("<query xmlns='jabber:iq:register'/>", 'get'),
      }
    }
    return { fake, run, tokenOf, stranger, fieldsOf }
  }

  it('XEP-0401 §4.1: an invitation is made at once, with URI, page and end', async () => {
    const { run, tokenOf } = await stage()
    const fields = await run(invite)
    const token = tokenOf(fields['uri'])
    expect(token).to.match(/^[A-Za-z0-9]{24}$/)
    expect(fields).to.deep.equal({
      FORM_TYPE: 'urn:xmpp:invite#invitation', uri: `xmpp:romeo@example.net?roster;preauth=${token};ibr=y`,
      'landing-url': `https://example.net:5443/invites/${token}`, expire: '2026-01-06T00:00:00Z',
    })
    expect(tokenOf((await run(invite))['uri'])).not.to.equal(token)
  })

  it('XEP-0401 §4.1: without ibr=y where the user may not invite to an account; strangers may not invite at all', async () => {
    const { fake, run } = await stage({ access_create_account: 'none', landing_page: 'https://{{ host }}/i#{{ invite.uri|strip_protocol }}' })
    fake.allowed.rules = (rule) => rule !== 'none' && rule !== 'configure'
    const fields = await run(invite)
    expect(fields['uri']).to.match(/^xmpp:romeo@example\.net\?roster;preauth=\w+$/)
    expect(fields['landing-url']).to.equal(`https://example.net/i#${fields['uri']?.slice('xmpp:'.length)}`)
    expect(conditionOf(await fake.ask('tybalt@example.org/a', 'set', invite, host))).to.equal('forbidden')
    expect(conditionOf(await fake.ask(romeo, 'set', createAccount(), host))).to.equal('forbidden')
  })

  it('XEP-0401 §4.4: an invitation to an account, with a name that is kept', async () => {
    const { fake, run, stranger, tokenOf } = await stage({}, {})
    const form = (await fake.ask(romeo, 'set', createAccount(), host)).getChild('command')
    expect(form?.attrs['status']).to.equal('executing')
    expect(form?.getChild('x', FORMS)?.getChildren('field').map((field) => field.attrs['var'])).to.deep.equal(['username', 'roster-subscription'])
    const fields = await run(createAccount({ username: 'Juliet' }, `sessionid='${form?.attrs['sessionid']}' action='complete'`))
    expect(fields['uri']).to.equal(`xmpp:juliet@example.net?register;preauth=${tokenOf(fields['uri'])}`)
    expect((await run(createAccount({})))['uri']).to.match(/^xmpp:example\.net\?register;preauth=\w+$/)
    // Kept, also where everybody may register.
    expect(conditionOf(await stranger().register('juliet'))).to.equal('conflict')
    expect(conditionOf(await fake.ask(romeo, 'set', createAccount({ username: 'juliet' }), host))).to.equal('conflict')
    expect(conditionOf(await fake.ask(romeo, 'set', createAccount({ username: 'romeo' }), host))).to.equal('conflict')
    expect(conditionOf(await fake.ask(romeo, 'set', createAccount({ username: 'a@b' }), host))).to.equal('not-acceptable')
    fake.clock.now += 6 * 86_400_000
    expect((await stranger().register('juliet')).attrs['type'], 'when it is over').to.equal('result')
  })

  it('XEP-0445 §3 and §4: a token opens registration where it is closed, for its stream alone', async () => {
    const { fake, run, stranger, tokenOf } = await stage()
    fake.allowed.rules = (rule) => rule !== 'none'
    expect(fake.features.before({ secure: true, address: '192.0.2.7' })).to.contain("<register xmlns='urn:xmpp:ibr-token:0'/>").and.contain("<register xmlns='http://jabber.org/features/iq-register'/>")
    const token = tokenOf((await run(invite))['uri'])
    const juliet = stranger()
    expect(conditionOf(await juliet.form())).to.equal('forbidden')
    const refused = await juliet.preauth('A'.repeat(24))
    expect([conditionOf(refused), refused.getChild('error')?.attrs['type']]).to.deep.equal(['item-not-found', 'cancel'])
    expect((await juliet.preauth(token)).attrs['type']).to.equal('result')
    expect(conditionOf(await stranger().register('mallory'))).to.equal('forbidden')
    expect((await juliet.form()).getChild('query')?.getChild('username')).not.to.equal(undefined)
    // An attempt that fails uses nothing up.
    expect(conditionOf(await juliet.register('romeo'))).to.equal('conflict')
    expect((await juliet.register('juliet')).attrs['type']).to.equal('result')
    expect(await fake.accounts.checkPassword('juliet@example.net', 'secret')).to.equal(true)
    expect(conditionOf(await juliet.register('nurse')), 'once').to.equal('not-allowed')
    expect(conditionOf(await stranger().preauth(token))).to.equal('item-not-found')
    expect(await fake.accounts.exists('nurse@example.net')).to.equal(false)
  })

  it('XEP-0401 §4.5: inviter and new account are contacts from the start', async () => {
    const { fake, run, stranger, tokenOf } = await stage()
    const pushed: string[] = []
    fake.rosters.onChange((owner, { item }) => pushed.push(`${owner} ${item?.jid} ${item?.subscription}`))
    const juliet = stranger()
    await juliet.preauth(tokenOf((await run(createAccount({ username: 'juliet' })))['uri']))
    expect((await juliet.form()).getChild('query')?.getChildText('username')).to.equal('juliet')
    expect(conditionOf(await juliet.register('nurse')), 'another name').to.equal('not-acceptable')
    expect((await juliet.register('juliet')).attrs['type']).to.equal('result')
    expect(pushed).to.deep.equal(['romeo@example.net juliet@example.net both', 'juliet@example.net romeo@example.net both'])
    pushed.length = 0
    const nurse = stranger()
    await nurse.preauth(tokenOf((await run(createAccount({ 'roster-subscription': '0' })))['uri']))
    await nurse.register('nurse')
    expect(pushed).to.deep.equal([])
  })

  it('XEP-0445 §4: the end of a token counts when it is shown, not later', async () => {
    const { fake, run, stranger, tokenOf } = await stage()
    const [first, second] = [tokenOf((await run(invite))['uri']), tokenOf((await run(invite))['uri'])]
    const juliet = stranger()
    await juliet.preauth(first)
    fake.clock.now += 432_000_000
    await fake.tasks[0]!()
    expect((await juliet.register('juliet')).attrs['type']).to.equal('result')
    expect(conditionOf(await stranger().preauth(second))).to.equal('item-not-found')
  })

  it('keeps no token, and forgets invitations that are over', async () => {
    const { fake, run, tokenOf } = await stage()
    const token = tokenOf((await run(createAccount({ username: 'juliet' })))['uri'])
    const kept = async () => JSON.stringify([await fake.storage.records.range('invites', []), await fake.storage.records.range('invites_by', []), await fake.storage.records.range('invite_names', [])])
    expect(await kept()).to.contain('juliet').and.not.contain(token)
    fake.clock.now += 7 * 86_400_000
    await fake.tasks[0]!()
    expect(await kept()).to.equal('[[],[],[]]')
  })

  it('an inviter\'s invitations go with the account', async () => {
    const { fake, run, stranger, tokenOf } = await stage()
    const token = tokenOf((await run(invite))['uri'])
    await fake.hooks.runAccountRemoved('romeo@example.net')
    expect(conditionOf(await stranger().preauth(token))).to.equal('item-not-found')
  })

  it('max_invites limits those that make accounts, except for administrators', async () => {
    const { fake, run } = await stage({ max_invites: 1 })
    fake.allowed.rules = (rule) => rule !== 'none' && rule !== 'configure'
    expect((await run(invite))['uri']).to.contain('ibr=y')
    expect((await run(invite))['uri']).not.to.contain('ibr=y')
    expect(conditionOf(await fake.ask(romeo, 'set', createAccount({}), host))).to.equal('resource-constraint')
    fake.allowed.rules = () => true
    expect((await run(createAccount({})))['uri']).to.contain('?register;')
  })

  it('XEP-0379 §3.4 and §3.5: a request with the token is approved and answered with one', async () => {
    const { fake, run, tokenOf } = await stage()
    const token = tokenOf((await run(invite))['uri'])
    const ask = (from: string, secret: string) => fake.hooks.runIncoming(fake.delivery(`<presence xmlns='jabber:client' type='subscribe' from='${from}' to='romeo@example.net'><preauth xmlns='urn:xmpp:pars:0' token='${secret}'/></presence>`))
    ask('tybalt@example.org', 'A'.repeat(24))
    expect(fake.rosters.item('romeo@example.net', 'tybalt@example.org'), '§4.1: not a good one').to.equal(undefined)
    ask('juliet@example.org', token)
    expect(fake.rosters.item('romeo@example.net', 'juliet@example.org')).to.include({ approved: true, ask: true })
    expect(fake.routed.map((each) => [each.type, each.from, each.to])).to.deep.equal([['subscribe', 'romeo@example.net', 'juliet@example.org']])
    ask('tybalt@example.org', token)
    expect(fake.rosters.item('romeo@example.net', 'tybalt@example.org'), '§5.2: once').to.equal(undefined)
  })

  it('an invitation is good for what it was made for, and for nothing else', async () => {
    const { fake, run, stranger, tokenOf } = await stage()
    await fake.accounts.register('nurse@example.net', 'secret')
    const subscribe = (from: string, to: string, token: string): void => { fake.hooks.runIncoming(fake.delivery(`<presence xmlns='jabber:client' type='subscribe' from='${from}' to='${to}'><preauth xmlns='urn:xmpp:pars:0' token='${token}'/></presence>`)) }
    const toAccount = tokenOf((await run(createAccount({ username: 'juliet' })))['uri'])
    subscribe('tybalt@example.org', 'romeo@example.net', toAccount)
    expect(fake.rosters.item('romeo@example.net', 'tybalt@example.org'), 'one to an account makes no contact').to.equal(undefined)
    const juliet = stranger()
    expect((await juliet.preauth(toAccount)).attrs['type'], 'and is not used up by that').to.equal('result')
    const ofRomeo = tokenOf((await run(invite))['uri'])
    subscribe('tybalt@example.org', 'nurse@example.net', ofRomeo)
    expect(fake.rosters.item('nurse@example.net', 'tybalt@example.org'), 'one of another makes no contact').to.equal(undefined)
    fake.allowed.rules = (rule) => rule !== 'none' && rule !== 'local' && rule !== 'configure'
    const toContact = tokenOf((await run(invite))['uri'])
    expect(conditionOf(await stranger().preauth(toContact)), 'one to be a contact makes no account').to.equal('item-not-found')
    subscribe('tybalt@example.org', 'romeo@example.net', toContact)
    expect(fake.rosters.item('romeo@example.net', 'tybalt@example.org')).to.include({ approved: true })
  })

  it('landing_page takes none, auto, or an address with variables that there are', () => {
    const parse = (value: string) => invites.options?.landing_page.type.parse({ kind: 'scalar', value, source: value, file: 'x', line: 1 } as never)
    for (const good of ['none', 'auto', 'https://a.example/i#{{ invite.uri|strip_protocol }}']) expect(parse(good)).to.equal(good)
    for (const wrong of ['yes', 'https://a.example/{{ token }}', 'https://a.example/{{ invite.uri|upper }}']) expect(() => parse(wrong), wrong).to.throw('expected none, auto')
  })

  it('allow_modules of mod_register turns it off', async () => {
    const { fake, run } = await stage({}, { allow_modules: ['mod_register'] })
    expect(fake.features.before({ secure: true, address: '192.0.2.7' })).not.to.contain('ibr-token')
    expect((await run(invite))['uri']).not.to.contain('ibr=y')
  })
})
