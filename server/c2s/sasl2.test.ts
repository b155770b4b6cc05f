/** SASL2 and Bind 2 on a whole server, as clients use them: with one round trip, or for the login alone. */
import { expect } from 'chai'
import { connect, LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { authenticate, loginBySasl2, type Sasl2Login, type Sasl2Options } from '../../lib/client/sasl2.ts'
import { hashToken } from '../../lib/sasl/hashed-token.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import type { Element } from '../../lib/xml/element.ts'
import { openHeldStorage, startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const BIND = 'urn:xmpp:bind:0'
const SM = 'urn:xmpp:sm:3'
const SASL2 = 'urn:xmpp:sasl:2'
const FAST = 'urn:xmpp:fast:0'
const PHONE = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770', text: '<software>AwesomeXMPP</software><device>Kiva&apos;s Phone</device>' }
const LAPTOP = { id: '0b4d3f3e-9a8c-4c8f-8f5e-2a4a1f0c7f11' }
const BIND_ALL = `<bind xmlns='${BIND}'><tag>AwesomeXMPP</tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='${SM}' resume='true'/><inactive xmlns='urn:xmpp:csi:0'/></bind>`

describe('SASL2', () => {
  let site: TestServer
  const open: Connection[] = []
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function start(config = TEST_CONFIG, storage?: ReturnType<typeof openHeldStorage>): Promise<void> {
    site = await startTestServer({ config, accounts: { romeo: 'secret', juliet: 'secret' }, ...(storage === undefined ? {} : { storage }) })
  }

  async function login(more: Partial<Sasl2Options> = {}): Promise<Sasl2Login> {
    const result = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'romeo', password: 'secret', ...more })
    open.push(result.connection)
    return result
  }

  async function condition(more: Partial<Sasl2Options>): Promise<string> {
    try {
      await login(more)
      return 'in'
    } catch (error) {
      if (error instanceof LoginError) return error.condition
      if (error instanceof StreamError) return `stream ${error.condition}`
      throw error
    }
  }

  const jidOf = (success: Element): string => success.getChildText('authorization-identifier') ?? ''
  const boundIn = (success: Element): Element => success.getChild('bound', BIND) as Element
  const tokenIn = (success: Element): string => success.getChild('token', FAST)?.attrs['token'] ?? ''
  const sessionOf = (jid: string) => site.server.sessions.get(jid)

  it('§2.1 is offered over TLS alone, with what can be had together with it', async () => {
    await start()
    const { offer } = await login()
    const feature = offer.getChild('authentication', SASL2) as Element
    expect(feature.getChildren('mechanism').map((each) => each.getText())).to.include.members(['SCRAM-SHA-512-PLUS', 'SCRAM-SHA-1', 'PLAIN'])
    const inline = feature.getChild('inline') as Element
    const names = inline.getChild('bind', BIND)?.getChild('inline')?.getChildren('feature').map((each) => each.attrs['var'])
    expect(names).to.have.members(['urn:xmpp:carbons:2', 'urn:xmpp:csi:0', SM])
    expect(inline.getChild('sm', SM)).to.not.equal(undefined)
    expect(inline.getChild('fast', FAST)?.getChildren('mechanism').map((each) => each.getText())).to.deep.equal([
      'HT-SHA-512-EXPR', 'HT-SHA-256-EXPR', 'HT-SHA-512-ENDP', 'HT-SHA-256-ENDP', 'HT-SHA-512-NONE', 'HT-SHA-256-NONE'])
    expect(feature.toString()).to.not.contain('HT-SHA-256-UNIQ')

    const plain = await Connection.open({ host: site.host, port: site.port, domain: 'localhost' })
    open.push(plain)
    plain.openStream()
    expect((await plain.nextElement()).find('authentication', SASL2)).to.equal(undefined)
    plain.write(`<authenticate xmlns='${SASL2}' mechanism='SCRAM-SHA-1'/>`)
    expect(String(await plain.nextElement())).to.contain('<encryption-required')
  })

  it('§2.6.1 for the login alone: features follow at once, and classic binding, stream management and sessions work', async () => {
    await start()
    for (const mechanism of ['SCRAM-SHA-512-PLUS', 'SCRAM-SHA-1', 'PLAIN']) {
      const { connection, success } = await login({ mechanism, agent: LAPTOP })
      expect(jidOf(success)).to.equal('romeo@localhost')
      const features = (await connection.nextElement()).element()
      expect(features.getName()).to.equal('features')
      for (const [name, xmlns] of [['bind', 'urn:ietf:params:xml:ns:xmpp-bind'], ['session', 'urn:ietf:params:xml:ns:xmpp-session'], ['sm', SM], ['csi', 'urn:xmpp:csi:0']] as const) expect(features.getChild(name, xmlns), name).to.not.equal(undefined)
      connection.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>")
      expect(String(await connection.nextElement())).to.contain('romeo@localhost/x')
      connection.write(`<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq><enable xmlns='${SM}' resume='true'/>`)
      expect((await connection.nextElement()).type).to.equal('result')
      expect((await connection.nextElement()).name).to.equal('enabled')
      connection.write('</stream:stream>')
    }
  })

  it('§2.5 a wrong password fails with the conditions of RFC 6120, and the stream stays as it was', async () => {
    await start()
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    await connection.nextElement()
    const tries: [Partial<Sasl2Options>, string][] = [[{ password: 'wrong' }, 'not-authorized'], [{ mechanism: 'SCRAM-SHA-1', password: 'wrong' }, 'not-authorized']]
    for (const [more, expected] of tries) {
      const error = await authenticate(connection, { user: 'romeo', password: 'secret', inline: BIND_ALL, ...more }).catch((reason: unknown) => reason)
      expect((error as LoginError).condition).to.equal(expected)
    }
    expect([...site.server.sessions.all()]).to.have.length(0)
    expect(jidOf((await authenticate(connection, { user: 'romeo', password: 'secret', mechanism: 'PLAIN' })).success)).to.equal('romeo@localhost')
  })

  it('bad requests get the error that is named for them', async () => {
    await start()
    const outcomes: string[] = []
    for (const text of [
      `<authenticate xmlns='${SASL2}' mechanism='NOT-THERE'/>`,
      `<authenticate xmlns='${SASL2}'/>`,
      `<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>!</initial-response></authenticate>`,
      `<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>AA==</initial-response></authenticate>`,
      `<authenticate xmlns='${SASL2}' mechanism='HT-SHA-256-NONE'><initial-response>cm9tZW8AYWI=</initial-response></authenticate>`,
      `<authenticate xmlns='${SASL2}' mechanism='SCRAM-SHA-1'/><abort xmlns='${SASL2}'/>`,
      // §2.4: nothing else while it goes on; §5.7: and no second login.
      `<authenticate xmlns='${SASL2}' mechanism='SCRAM-SHA-1'/><presence/>`,
      `<authenticate xmlns='${SASL2}' mechanism='SCRAM-SHA-1'/><authenticate xmlns='${SASL2}' mechanism='SCRAM-SHA-1'/>`,
      `<response xmlns='${SASL2}'/>`,
    ]) {
      const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
      open.push(connection)
      connection.openStream()
      await connection.nextElement()
      connection.write(text)
      let answer = await connection.nextElement().catch((error: unknown) => error)
      if (String(answer).startsWith('<challenge')) answer = await connection.nextElement().catch((error: unknown) => error)
      outcomes.push(answer instanceof StreamError ? answer.condition : /<failure xmlns='urn:xmpp:sasl:2'><([a-z-]+) xmlns='urn:ietf:params:xml:ns:xmpp-sasl'\/>/.exec(String(answer))?.[1] ?? String(answer))
    }
    expect(outcomes).to.deep.equal(['invalid-mechanism', 'invalid-mechanism', 'incorrect-encoding', 'malformed-request', 'invalid-mechanism', 'aborted', 'policy-violation', 'policy-violation', 'policy-violation'])
  })

  it('§2.3 who claims to be another in the stream header does not get in', async () => {
    await start()
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream({ from: 'juliet@localhost' })
    await connection.nextElement()
    const error = await authenticate(connection, { user: 'romeo', password: 'secret' }).catch((reason: unknown) => reason)
    expect((error as StreamError).condition).to.equal('invalid-from')
    const stranger = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(stranger)
    stranger.openStream({ from: 'romeo@elsewhere.example' })
    expect(((await stranger.nextElement().catch((reason: unknown) => reason)) as StreamError).condition).to.equal('invalid-from')
    const other = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(other)
    other.openStream({ from: 'juliet@localhost' })
    await other.nextElement()
    other.write(`<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>${Buffer.from('romeo@localhost\0romeo\0secret').toString('base64')}</initial-response></authenticate>`)
    expect(String(await other.nextElement())).to.contain('<invalid-authzid')
  })

  it('counts failed logins as the other profile does', async () => {
    await start(`${TEST_CONFIG}\ntidings: {limits: {login_failures: 2}}\n`)
    expect([await condition({ password: 'wrong' }), await condition({ password: 'wrong', mechanism: 'PLAIN' }), await condition({})]).to.deep.equal(['not-authorized', 'not-authorized', 'temporary-auth-failure'])
    expect(await condition({ user: 'juliet', token: 'x', mechanism: 'HT-SHA-256-NONE', agent: PHONE })).to.equal('not-authorized')
    expect(await condition({ user: 'juliet', token: 'x', mechanism: 'HT-SHA-256-NONE', agent: PHONE })).to.equal('not-authorized')
    expect(await condition({ user: 'juliet' })).to.equal('temporary-auth-failure')
  })

  describe('with Bind 2', () => {
    it('one round trip binds a session with stream management, carbons and client state', async () => {
      await start()
      const { connection, success } = await login({ pipelined: true, agent: PHONE, inline: BIND_ALL })
      const jid = jidOf(success)
      expect(jid).to.match(/^romeo@localhost\/AwesomeXMPP\/[\w-]{12}$/)
      const bound = boundIn(success)
      expect(bound.getChild('metadata', 'urn:xmpp:mam:2')).to.not.equal(undefined)
      const enabled = bound.getChild('enabled', SM)
      expect(enabled?.attrs['resume']).to.equal('true')
      const session = sessionOf(jid)
      expect([session?.get('carbons'), session?.active, session?.management?.id]).to.deep.equal([true, false, enabled?.attrs['id']])
      const features = (await connection.nextElement()).element()
      expect(features.getName()).to.equal('features')
      for (const name of ['bind', 'session', 'sm']) expect(features.getChild(name), name).to.equal(undefined)
      expect(features.getChild('csi', 'urn:xmpp:csi:0')).to.not.equal(undefined)
      connection.write("<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
      expect((await connection.nextElement()).type).to.equal('result')
    })

    it('§3.2.1 one client keeps its resource, and its earlier session ends', async () => {
      await start()
      const bind = `<bind xmlns='${BIND}'><tag>A</tag></bind>`
      const first = await login({ agent: PHONE, inline: bind })
      await first.connection.nextElement()
      const other = await login({ agent: LAPTOP, inline: bind })
      const second = await login({ agent: PHONE, inline: `<bind xmlns='${BIND}'><tag>B</tag></bind>` })
      expect((await first.connection.nextElement().catch((error: unknown) => error) as StreamError).condition).to.equal('conflict')
      const third = await login({ agent: PHONE, inline: bind })
      expect(jidOf(third.success)).to.equal(jidOf(first.success))
      expect(new Set([first, other, second].map(({ success }) => jidOf(success))).size).to.equal(3)
      expect(site.server.sessions.of('romeo@localhost').map((each) => each.jid.toString())).to.have.members([jidOf(other.success), jidOf(third.success)])
      expect(jidOf(first.success)).to.not.contain(PHONE.id.slice(0, 8))
      const nameless = await login({ inline: `<bind xmlns='${BIND}'/>` })
      expect(jidOf(nameless.success)).to.match(/^romeo@localhost\/[\w-]+$/)
      const unfit = await login({ inline: `<bind xmlns='${BIND}'><tag>${'x'.repeat(2000)}</tag></bind>` })
      expect(jidOf(unfit.success)).to.match(/^romeo@localhost\/[\w-]+$/)
    })

    it('<success/> comes when what it says is on stable storage, and what is sent to the session after it', async () => {
      const storage = openHeldStorage()
      await start(TEST_CONFIG, storage)
      const juliet = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret' })
      open.push(juliet.connection)
      storage.hold()
      const pending = login({ agent: PHONE, inline: `<bind xmlns='${BIND}'><enable xmlns='${SM}' resume='true'/></bind>` })
      let answered = false
      void pending.then(() => { answered = true })
      while (site.server.sessions.of('romeo@localhost').length === 0) await new Promise((resolve) => { setTimeout(resolve, 2) })
      const [session] = site.server.sessions.of('romeo@localhost')
      juliet.send(`<message to='${session?.jid.toString()}' type='chat' id='early'><body>Hi</body></message>`)
      await juliet.ping()
      expect(answered).to.equal(false)
      storage.release()
      const { connection } = await pending
      expect((await connection.nextElement()).name).to.equal('features')
      expect((await connection.nextElement()).id).to.equal('early')
    })

    it('§3.2 messages that the archive has are not sent a second time; others are', async () => {
      await start(TEST_CONFIG)
      const juliet = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret' })
      open.push(juliet.connection)
      juliet.send("<message to='romeo@localhost' type='chat' id='archived'><body>1</body></message>")
      juliet.send("<message to='romeo@localhost' type='chat' id='unarchived'><body>2</body><no-permanent-store xmlns='urn:xmpp:hints'/></message>")
      await juliet.ping()
      expect(site.server.storage.offline.count('romeo@localhost')).to.equal(2)
      const { connection } = await login({ inline: `<bind xmlns='${BIND}'/>` })
      await connection.nextElement()
      connection.write('<presence/>')
      const messages: (string | undefined)[] = []
      connection.write("<iq type='get' id='end' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
      for (;;) {
        const stanza = await connection.nextElement()
        if (stanza.id === 'end') break
        if (stanza.name === 'message') messages.push(stanza.id)
      }
      while (messages.length === 0) messages.push((await connection.nextElement()).id)
      expect(messages).to.deep.equal(['unarchived'])
    })
  })

  describe('when storage fails', () => {
    it('a login that cannot be granted ends the stream; a feature that cannot be told is left out', async () => {
      await start()
      const { archive, records } = site.server.storage
      const bounds = archive.bounds.bind(archive)
      archive.bounds = () => Promise.reject(new Error('damaged'))
      const { success } = await login({ agent: PHONE, inline: BIND_ALL })
      expect([boundIn(success).getChild('metadata', 'urn:xmpp:mam:2'), boundIn(success).getChild('enabled', SM) === undefined]).to.deep.equal([undefined, false])
      archive.bounds = bounds
      const get = records.get.bind(records)
      records.get = (table, key) => (table === 'clients' ? Promise.reject(new Error('damaged')) : get(table, key))
      expect(await condition({ agent: PHONE })).to.equal('stream internal-server-error')
      records.get = get
      expect(await condition({ agent: PHONE })).to.equal('in')
    })
  })

  describe('with resumption', () => {
    const resume = (id: string | undefined, h = 0): string => `<resume xmlns='${SM}' previd='${id}' h='${h}'/>`

    it('XEP-0198 §9.2 a session goes on: no features, no binding, and what was missed follows', async () => {
      await start()
      const first = await login({ agent: PHONE, inline: BIND_ALL })
      const id = boundIn(first.success).getChild('enabled', SM)?.attrs['id']
      first.connection.destroy()
      const juliet = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret' })
      open.push(juliet.connection)
      juliet.send(`<message to='${jidOf(first.success)}' type='chat' id='missed'><body>Hi</body></message>`)
      await juliet.ping()
      const second = await login({ agent: PHONE, inline: resume(id) + BIND_ALL, pipelined: true })
      expect(second.success.getChild('resumed', SM)?.attrs).to.include({ previd: id, h: '0' })
      expect([second.success.getChild('bound', BIND), jidOf(second.success)]).to.deep.equal([undefined, jidOf(first.success)])
      expect((await second.connection.nextElement()).id).to.equal('missed')
    })

    it('XEP-0198 §9.2.1 one that cannot go on says so, and binding follows', async () => {
      await start()
      const { connection, success } = await login({ agent: PHONE, inline: resume('unknown') + BIND_ALL })
      expect(success.getChild('failed', SM)?.getChild('item-not-found')).to.not.equal(undefined)
      expect(boundIn(success).getChild('enabled', SM)).to.not.equal(undefined)
      expect((await connection.nextElement()).name).to.equal('features')
      const alone = await login({ inline: resume('unknown') })
      expect([jidOf(alone.success), alone.success.getChild('failed', SM) !== undefined]).to.deep.equal(['romeo@localhost', true])
      expect((await alone.connection.nextElement()).find('bind', 'urn:ietf:params:xml:ns:xmpp-bind')).to.not.equal(undefined)
      const other = await login({ user: 'juliet', inline: resume(boundIn(success).getChild('enabled', SM)?.attrs['id']) })
      expect(other.success.getChild('failed', SM)).to.not.equal(undefined)
    })

    it('acknowledging more than was sent ends the stream, as elsewhere', async () => {
      await start()
      const { success } = await login({ agent: PHONE, inline: BIND_ALL })
      expect(await condition({ inline: resume(boundIn(success).getChild('enabled', SM)?.attrs['id'], 99) })).to.equal('stream undefined-condition')
    })

    it('a session that was bound inline goes on after a restart', async () => {
      await start()
      const first = await login({ agent: PHONE, inline: BIND_ALL })
      const id = boundIn(first.success).getChild('enabled', SM)?.attrs['id']
      await site.restart()
      const second = await login({ agent: PHONE, inline: resume(id) })
      expect(second.success.getChild('resumed', SM)?.attrs['previd']).to.equal(id)
      expect(sessionOf(jidOf(first.success))?.get('carbons')).to.equal(true)
    })
  })

  describe('with tokens (XEP-0484)', () => {
    const ask = (mechanism: string): string => `<request-token xmlns='${FAST}' mechanism='${mechanism}'/>`

    for (const mechanism of ['HT-SHA-512-EXPR', 'HT-SHA-256-ENDP', 'HT-SHA-256-NONE', 'HT-SHA-512-NONE']) {
      it(`${mechanism}: a token of a login by password is good for the next, which shows that the server knows it too`, async () => {
        await start()
        const first = await login({ agent: PHONE, inline: ask(mechanism) })
        const token = tokenIn(first.success)
        expect(token).to.match(/^[\w-]{40,}$/)
        expect(Date.parse(first.success.getChild('token', FAST)?.attrs['expiry'] ?? '') - Date.now()).to.be.within(29 * 86_400_000, 31 * 86_400_000)
        for (let count = 0; count < 3; count++) {
          const again = await login({ agent: PHONE, mechanism, token, pipelined: true, inline: BIND_ALL })
          expect(boundIn(again.success).getChild('enabled', SM)).to.not.equal(undefined)
          expect(tokenIn(again.success)).to.equal('')
        }
        // §3.4: for this mechanism, this client and this account alone.
        const wrong: Partial<Sasl2Options>[] = [{ agent: LAPTOP }, { user: 'juliet' }, { mechanism: mechanism === 'HT-SHA-256-NONE' ? 'HT-SHA-512-NONE' : 'HT-SHA-256-NONE' }, { token: `${token}x` }]
        for (const more of wrong) expect(await condition({ agent: PHONE, mechanism, token, ...more }), JSON.stringify(more)).to.equal('not-authorized')
      })
    }

    it('on TLS 1.3 there is no mechanism with tls-unique, and no token for one', async () => {
      await start()
      expect(tokenIn((await login({ agent: PHONE, inline: ask('HT-SHA-256-UNIQ') })).success)).to.equal('')
      expect(await condition({ agent: PHONE, mechanism: 'HT-SHA-256-UNIQ', token: 'x' }).catch(() => 'no such data')).to.equal('invalid-mechanism')
    })

    it('no token without a client that says which it is, nor by another profile', async () => {
      await start()
      expect(tokenIn((await login({ inline: ask('HT-SHA-256-NONE') })).success)).to.equal('')
      const { success } = await login({ agent: PHONE, inline: ask('HT-SHA-256-NONE') })
      const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
      open.push(connection)
      connection.openStream()
      await connection.nextElement()
      const data = Buffer.concat([Buffer.from('romeo\0'), hashToken('HT-SHA-256-NONE', tokenIn(success), 'Initiator', undefined)])
      connection.write(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='HT-SHA-256-NONE'>${data.toString('base64')}</auth>`)
      expect(String(await connection.nextElement())).to.contain('<invalid-mechanism')
    })

    it('after a failure the client goes on with its password on the same stream', async () => {
      await start()
      const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
      open.push(connection)
      connection.openStream({ from: 'romeo@localhost' })
      const error = await authenticate(connection, { user: 'romeo', mechanism: 'HT-SHA-256-NONE', token: 'wrong', agent: PHONE, inline: BIND_ALL }).catch((reason: unknown) => reason)
      expect((error as LoginError).condition).to.equal('not-authorized')
      const { success } = await authenticate(connection, { user: 'romeo', password: 'secret', agent: PHONE, inline: BIND_ALL })
      expect(jidOf(success)).to.contain('/AwesomeXMPP/')
    })

    it('survive a restart; a new password ends them all, and so does the end of the account', async () => {
      await start()
      const mechanism = 'HT-SHA-256-NONE'
      const token = tokenIn((await login({ agent: PHONE, inline: ask(mechanism) })).success)
      await site.restart()
      expect(await condition({ agent: PHONE, mechanism, token })).to.equal('in')
      await site.server.accounts.setPassword('romeo@localhost', 'other')
      expect(await condition({ agent: PHONE, mechanism, token })).to.equal('not-authorized')
      const next = tokenIn((await login({ password: 'other', agent: PHONE, inline: ask(mechanism) })).success)
      await site.server.unregister('romeo@localhost')
      await site.server.register('romeo@localhost', 'secret')
      expect(await condition({ agent: PHONE, mechanism, token: next })).to.equal('not-authorized')
    })

    it('§3.6 a client gives its token back', async () => {
      await start()
      const mechanism = 'HT-SHA-256-NONE'
      const token = tokenIn((await login({ agent: PHONE, inline: ask(mechanism) })).success)
      const { success } = await login({ agent: PHONE, mechanism, token, fast: "invalidate='true'" })
      expect(tokenIn(success)).to.equal('')
      expect(await condition({ agent: PHONE, mechanism, token })).to.equal('not-authorized')
    })

    it('the account sees its clients (XEP-0494)', async () => {
      await start()
      const mechanism = 'HT-SHA-256-NONE'
      const token = tokenIn((await login({ agent: PHONE, inline: ask(mechanism) })).success)
      const { connection } = await login({ agent: PHONE, mechanism, token, inline: `<bind xmlns='${BIND}'/>` })
      await connection.nextElement()
      connection.write("<iq type='get' id='l'><list xmlns='urn:xmpp:cam:0'/></iq>")
      const clients = (await connection.nextElement()).element().getChild('clients')?.getChildren('client')
      expect(clients).to.have.length(1)
      const [client] = clients ?? []
      expect([client?.attrs['connected'], client?.getChild('auth')?.getChildElements().map((each) => each.name), client?.getChild('user-agent')?.getChildText('software')]).to.deep.equal(['true', ['password', 'fast'], 'AwesomeXMPP'])
      expect(client?.attrs['id']).to.not.contain(PHONE.id)
    })

    it('§3.4 a count that has been there is a replay', async () => {
      await start()
      const mechanism = 'HT-SHA-256-NONE'
      const token = tokenIn((await login({ agent: PHONE, inline: ask(mechanism) })).success)
      const outcomes: string[] = []
      for (const count of [0, 1, 1, 3, 2, 4, -5, '', 1764000000000, 1764000000000]) outcomes.push(await condition({ agent: PHONE, mechanism, token, fast: `count='${count}'` }))
      expect(outcomes).to.deep.equal(['in', 'in', 'not-authorized', 'in', 'not-authorized', 'in', 'not-authorized', 'not-authorized', 'in', 'not-authorized'])
    })
  })
})
