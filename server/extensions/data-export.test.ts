import { mkdtemp, readdir, rmdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { enter, fetchFile, fillAccount, PASSWORD, readAccount } from '../full-account.fixture.ts'
import { importFile } from '../admin/piefxis.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { adhoc } from './adhoc.ts'
import { dataExport } from './data-export.ts'
import type { Parts } from './extension.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const COMMAND = "<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:pie:0#export' action='execute'/></iq>"
const CONFIG = TEST_CONFIG.replace(/mod_http_upload: \{ put_url.*/, 'mod_http_upload: {}')
const ACCOUNTS = { juliet: PASSWORD, romeo: PASSWORD, stranger: PASSWORD }

describe('XEP-0227: what users take along', () => {
  async function addressOf(site: TestServer): Promise<string> {
    const juliet = await enter(site, 'juliet', 'balcony')
    const answer = (await juliet.sendIq(COMMAND)).getChild('command')
    await juliet.disconnect()
    expect(answer?.attrs['status']).to.equal('completed')
    return answer?.getChild('x')?.getChildren('field').find((field) => field.attrs['var'] === 'url')?.getChildText('value') ?? ''
  }

  it('is a file that another server takes in, without credentials', async () => {
    await using first = await startTestServer({ config: CONFIG, accounts: ACCOUNTS })
    await fillAccount(first)
    const address = await addressOf(first)
    expect(address).to.match(/^https:/)
    const { status, body } = await fetchFile(first, address)
    expect(status).to.equal(200)
    expect(body).to.not.contain('scram')
    await using second = await startTestServer({ config: CONFIG, accounts: { juliet: PASSWORD } })
    const file = path.join(second.dataDir, 'juliet.xml')
    await writeFile(file, body)
    const { server } = second
    const { accounts, problems } = await importFile({ accounts: server.accounts, register: (jid, password) => server.register(jid, password), accountData: (host) => server.hosts.get(host)?.accountData, committed: () => server.storage.committed() }, file)
    expect([accounts, problems]).to.deep.equal([1, ['juliet@localhost: exists already; its password stays as it is']])
    expect(await readAccount(second)).to.deep.equal(await readAccount(first))
  })

  it('is written where a process that is killed leaves nothing of it', async () => {
    await using site = await startTestServer({ config: CONFIG, accounts: ACCOUNTS })
    const { TMPDIR } = process.env
    const folder = await mkdtemp(path.join(tmpdir(), 'tidings-test-'))
    process.env['TMPDIR'] = folder
    const [writing, on] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    site.server.hosts.get('localhost')?.accountData.exports(async function* () {
      yield '<x/>'
      writing.resolve()
      await on.promise
    })
    const juliet = await enter(site, 'juliet', 'balcony')
    const answer = juliet.sendIq(COMMAND)
    await writing.promise
    if (TMPDIR === undefined) delete process.env['TMPDIR']
    else process.env['TMPDIR'] = TMPDIR
    expect(await readdir(folder)).to.deep.equal([])
    await rmdir(folder)
    on.resolve()
    expect((await answer).getChild('command')?.attrs['status']).to.equal('completed')
    await juliet.disconnect()
  })

  it('is there over a restart, and goes with the account', async () => {
    await using site = await startTestServer({ config: CONFIG, accounts: ACCOUNTS })
    const address = await addressOf(site)
    await site.restart()
    expect((await fetchFile(site, address)).status).to.equal(200)
    await site.server.unregister('juliet@localhost')
    expect((await fetchFile(site, address)).status).to.equal(404)
  })

  it('is for accounts of the host alone, one at a time for each, and for two at a time', async () => {
    const fake = fakeParts()
    const on = Promise.withResolvers<void>()
    let writing = 0
    fake.accountData.exports(async function* () {
      writing++
      yield '<x/>'
      await on.promise
    })
    const offered: string[] = []
    const files = { available: true, offer: ({ owner }: { owner: string }) => { offered.push(owner); return Promise.resolve(`https://example.net/${owner}`) } } as unknown as Parts['files']
    fake.start(adhoc)
    fake.start(dataExport, {}, { files })
    const ask = (from: string): Promise<Element> => fake.ask(from, 'set', "<command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:pie:0#export' action='execute'/>", 'example.net')
    for (const from of ['tybalt@example.org/a', 'sub.example.net', 'example.net', 'juliet@sub.example.net/a']) expect(conditionOf(await ask(from)), from).to.equal('forbidden')
    const first = ask('juliet@example.net/a')
    while (writing < 1) await new Promise(setImmediate)
    expect(conditionOf(await ask('juliet@example.net/a')), 'the same client').to.equal('resource-constraint')
    expect(conditionOf(await ask('juliet@example.net/b')), 'another client of the account').to.equal('resource-constraint')
    const second = ask('romeo@example.net/a')
    while (writing < 2) await new Promise(setImmediate)
    expect(conditionOf(await ask('nurse@example.net/a')), 'a third account').to.equal('resource-constraint')
    on.resolve()
    await Promise.all([first, second])
    expect(offered.sort()).to.deep.equal(['juliet@example.net', 'romeo@example.net'])
    expect((await ask('juliet@example.net/b')).getChild('command')?.attrs['status'], 'the next time').to.equal('completed')
  })

  it('is not to be had where no files are served', async () => {
    await using site = await startTestServer({ config: CONFIG.replace(/.*ejabberd_http.*\n/, '').replace(/ +mod_http_upload.*\n/, ''), accounts: ACCOUNTS })
    const juliet = await enter(site, 'juliet', 'balcony')
    const refused = await juliet.sendIq(COMMAND).then(() => 'nothing', (error: { condition: string }) => error.condition)
    expect(refused).to.equal('forbidden')
    const list = await juliet.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/></iq>")
    expect(list.toString()).to.not.contain('urn:xmpp:pie')
    await juliet.disconnect()
  })
})
