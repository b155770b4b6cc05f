import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { Connection } from '../../lib/client/connection.ts'
import { connect } from '../../lib/client/client.ts'
import { TEST_CONFIG, type TestServer, startTestServer } from '../test-server.ts'

describe('XEP-0158 §4: registration by captcha, on a whole server', () => {
  let site: TestServer
  let dir: string
  before(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'captcha-'))
    const program = path.join(dir, 'captcha.sh')
    // The operator's program: its picture holds the text as it is.
    await writeFile(program, "#!/bin/sh\nprintf '\\211PNG\\r\\n\\032\\n%s' \"$1\"\n", { mode: 0o755 })
    site = await startTestServer({ config: TEST_CONFIG.replace('mod_register: { ip_access: all }', 'mod_register: { captcha_protected: true }').replace('hosts:', `captcha_cmd: ${program}\nhosts:`) })
  })
  after(async () => {
    await site[Symbol.asyncDispose]()
    await rm(dir, { recursive: true })
  })

  async function openStream(): Promise<{ ask(type: string, payload: string): Promise<ReturnType<Awaited<ReturnType<Connection['nextElement']>>['element']>>; close(): void }> {
    const stream = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    stream.openStream()
    await stream.nextElement()
    return {
      async ask(type, payload) {
        stream.write(`<iq type='${type}' id='r' to='localhost'>${payload}</iq>`)
        return (await stream.nextElement()).element()
      },
      close: () => stream.destroy(),
    }
  }

  it('the form of one stream may be answered on another', async () => {
    const first = await openStream()
    const query = (await first.ask('get', "<query xmlns='jabber:iq:register'/>")).getChild('query')
    first.close()
    const challenge = query?.getChild('x')?.getChildren('field').find((field) => field.attrs['var'] === 'challenge')?.getChildText('value')
    const text = Buffer.from(query?.getChildText('data') ?? '', 'base64').subarray(8).toString()
    expect(text).to.match(/^\d{6}$/)
    const second = await openStream()
    const bob = await second.ask('get', `<data xmlns='urn:xmpp:bob' cid='${query?.getChild('data')?.attrs['cid']}'/>`)
    expect(bob.getChildText('data')).to.equal(query?.getChildText('data'))
    const fields = Object.entries({ FORM_TYPE: 'jabber:iq:register', username: 'juliet', password: 'secret', challenge: challenge ?? '', ocr: text })
    const answer = await second.ask('set', `<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>${fields.map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x></query>`)
    second.close()
    expect(answer.attrs['type']).to.equal('result')
    await (await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret' })).disconnect()
  })
})
