/** What a login was answered with outlives a kill of the process right after it. */
import { expect } from 'chai'
import { ServerProcess } from '../../conformance/server-process.ts'
import { connect } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2, type Sasl2Options } from '../../lib/client/sasl2.ts'

const FAST = 'urn:xmpp:fast:0'
const SM = 'urn:xmpp:sm:3'
const MECHANISM = 'HT-SHA-256-ENDP'
const AGENT = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770' }

describe('a server killed after a login', () => {
  let server: ServerProcess
  before(async () => {
    server = await ServerProcess.start({
      config: ({ client, clientTls }) => `hosts: [localhost]\nloglevel: none\nauth_method: [internal, anonymous]\nregistration_timeout: infinity\nlisten:\n  - {port: ${client}, ip: 127.0.0.1, module: ejabberd_c2s, starttls: true}\n  - {port: ${clientTls}, ip: 127.0.0.1, module: ejabberd_c2s, tls: true}\nmodules: {mod_auth_fast: {}, mod_register: {ip_access: all}, mod_roster: {}, mod_mam: {default: always}, mod_offline: {}, mod_carboncopy: {}, mod_private: {}, mod_stream_mgmt: {}}\n`,
    })
    await (await connect({ host: '127.0.0.1', port: server.port, domain: 'localhost', user: 'romeo', password: 'secret', register: true })).disconnect()
  })
  after(async () => { await server[Symbol.asyncDispose]() })

  const login = (more: Partial<Sasl2Options>) => loginBySasl2({ host: '127.0.0.1', port: server.ports.clientTls, domain: 'localhost', tls: 'direct', user: 'romeo', agent: AGENT, ...more })
  const kill = async (...open: Connection[]): Promise<void> => {
    await server.kill('SIGKILL')
    for (const connection of open) connection.destroy()
    await server.run()
  }

  it('knows the token that it gave, and the session that it bound, and forgets neither when it gives another', async () => {
    const ask = `<request-token xmlns='${FAST}' mechanism='${MECHANISM}'/>`
    const bind = `<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='${SM}' resume='true'/></bind>`
    const first = await login({ password: 'secret', inline: ask + bind })
    const token = first.success.getChild('token', FAST)?.attrs['token'] as string
    const id = first.success.getChild('bound')?.getChild('enabled', SM)?.attrs['id']
    await kill(first.connection)
    const second = await login({ mechanism: MECHANISM, token, inline: `${ask}<resume xmlns='${SM}' previd='${id}' h='0'/>` })
    expect(second.success.getChild('resumed', SM)?.attrs['previd']).to.equal(id)
    const next = second.success.getChild('token', FAST)?.attrs['token'] as string
    await kill(second.connection)
    // The client may never have received the new one.
    const third = await login({ mechanism: MECHANISM, token })
    await kill(third.connection)
    const fourth = await login({ mechanism: MECHANISM, token: next })
    await kill(fourth.connection)
    const replaced = await login({ mechanism: MECHANISM, token }).catch((error: unknown) => error)
    expect((replaced as { condition?: string }).condition).to.equal('not-authorized')
    ;(await login({ mechanism: MECHANISM, token: next })).connection.destroy()
  })

  it('leaves nothing of an account without a name', async () => {
    const connection = await Connection.open({ host: '127.0.0.1', port: server.ports.clientTls, domain: 'localhost', direct: true })
    connection.openStream()
    await connection.nextElement()
    connection.write(`<authenticate xmlns='urn:xmpp:sasl:2' mechanism='ANONYMOUS'><bind xmlns='urn:xmpp:bind:0'><enable xmlns='${SM}' resume='true'/></bind></authenticate>`)
    const bare = (await connection.nextElement()).element().getChildText('authorization-identifier')?.split('/')[0] as string
    await connection.nextElement()
    connection.write("<iq type='set' id='p'><query xmlns='jabber:iq:private'><x xmlns='x:y'/></query></iq>")
    expect((await connection.nextElement()).type).to.equal('result')
    await kill(connection)
    const romeo = await connect({ host: '127.0.0.1', port: server.port, domain: 'localhost', user: 'romeo', password: 'secret' })
    romeo.send(`<message to='${bare}' type='chat' id='late'><body>Hi</body></message>`)
    expect((await romeo.receive((element) => element.attrs['id'] === 'late')).attrs['type']).to.equal('error')
    await romeo.disconnect()
  })
})
