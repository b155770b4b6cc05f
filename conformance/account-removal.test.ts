/** An account that is removed leaves nothing behind, also when the server is killed on the way; who registers the same name finds it empty. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect } from '../lib/client/client.ts'
import { enter, fetchStatus, fillAccount, PASSWORD, readAccount } from '../server/full-account.fixture.ts'
import { startTestServer, type TestServer } from '../server/test-server.ts'
import { openMemory } from '../server/storage/memory/memory.ts'
import type { Key, Records, Storage, Value } from '../server/storage/shapes.ts'
import { login2, tokenRequest } from './compliance/sasl2.ts'
import { staged } from './stages.ts'

const JULIET = 'juliet@localhost'
const MUC_NS = 'http://jabber.org/protocol/muc'
const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const ACCOUNTS = { juliet: PASSWORD, romeo: PASSWORD, stranger: PASSWORD }

/** Storage in memory that tells all rows of its records. */
function openReadable(): { storage: Storage; rows(): { table: string; key: Key; value: Value }[] } {
  const memory = openMemory()
  const all = new Map<string, { table: string; key: Key; value: Value }>()
  const name = (table: string, key: Key): string => JSON.stringify([table, ...key])
  const records: Records = {
    get: (table, key) => memory.records.get(table, key),
    range: (table, prefix, options) => memory.records.range(table, prefix, options),
    put(table, key, value) {
      memory.records.put(table, key, value)
      all.set(name(table, key), { table, key, value })
    },
    delete(table, key) {
      memory.records.delete(table, key)
      all.delete(name(table, key))
    },
    deleteRange(table, prefix) {
      for (const [id, row] of all) if (row.table === table && prefix.every((part, at) => row.key[at] === part)) all.delete(id)
      return memory.records.deleteRange(table, prefix)
    },
  }
  const storage: Storage = {
    records, archive: memory.archive, offline: memory.offline, streams: memory.streams, blobs: memory.blobs, healthy: true,
    afterCommit: (callback) => memory.afterCommit(callback), committed: () => memory.committed(), status: () => memory.status(),
    get dirty() { return memory.dirty },
    [Symbol.asyncDispose]: () => memory[Symbol.asyncDispose](),
  }
  return { storage, rows: () => [...all.values()] }
}

/** Rows that are about juliet, in short. What contacts wrote into their own rosters is theirs. */
function traces(rows: readonly { table: string; key: Key; value: Value }[]): string[] {
  const text = (value: Value): string => JSON.stringify(value, (_key, each: unknown) => (each instanceof Uint8Array ? Buffer.from(each).toString('latin1') : each))
  return rows.filter(({ table, key }) => !table.startsWith('roster') || key[0] === JULIET).filter(({ table, key, value }) => `${table} ${key.join(' ')} ${text(value)}`.includes(JULIET) || (key[0] === 'localhost' && key[1] === 'juliet')).map(({ table, key }) => `${table} ${key.join(' ')}`)
}

/** What services keep for her: a room of her own and one where she is a member, a push service, a token, nodes, bookmarks. */
async function fillServices(site: TestServer): Promise<void> {
  const juliet = await enter(site, 'juliet', 'balcony')
  const romeo = await enter(site, 'romeo', 'orchard')
  const own = 'balcony@conference.localhost'
  const his = 'orchard@conference.localhost'
  await makeRoom(juliet, own)
  await makeRoom(romeo, his)
  await romeo.sendIq(`<iq type='set' to='${his}'><query xmlns='${MUC_NS}#admin'><item affiliation='member' jid='${JULIET}' nick='jules'/></query></iq>`)
  await juliet.sendIq("<iq type='set'><enable xmlns='urn:xmpp:push:0' jid='push.example' node='n'/></iq>")
  for (const [node, item] of [['urn:xmpp:avatar:metadata', "<metadata xmlns='urn:xmpp:avatar:metadata'/>"], ['urn:xmpp:bookmarks:1', "<conference xmlns='urn:xmpp:bookmarks:1' autojoin='true'/>"]] as const) {
    await juliet.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB_NS}'><publish node='${node}'><item id='${his}'>${item}</item></publish></pubsub></iq>`)
  }
  await juliet.disconnect()
  await romeo.disconnect()
  const { connection } = await login2({ host: site.host, port: site.port, domain: 'localhost', tls: 'starttls' }, { user: 'juliet', password: PASSWORD }, {
    mechanism: 'SCRAM-SHA-256-PLUS', inline: `<bind xmlns='urn:xmpp:bind:0'/>${tokenRequest('HT-SHA-256-NONE')}`,
  })
  connection.destroy()
}

async function makeRoom(client: Client, room: string): Promise<void> {
  client.send(`<presence to='${room}/me'><x xmlns='${MUC_NS}'/></presence>`)
  await client.receive((each) => each.attrs['from'] === `${room}/me`)
  await client.sendIq(`<iq type='set' to='${room}'><query xmlns='${MUC_NS}#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${MUC_NS}#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query></iq>`)
}

async function config(): Promise<string> {
  const shipped = await readFile(path.join(import.meta.dirname, '../config/ejabberd-compat.yml'), 'utf8')
  return staged(shipped, { client: 0, clientTls: 0, https: 0, component: 0 }).replace('loglevel: debug', 'loglevel: none')
}

describe('a removed account', () => {
  let site: TestServer
  let stored: ReturnType<typeof openReadable>
  let file: string
  beforeEach(async () => {
    stored = openReadable()
    site = await startTestServer({ config: await config(), accounts: ACCOUNTS, storage: stored.storage })
    file = await fillAccount(site)
    await fillServices(site)
    expect(await fetchStatus(site, file)).to.equal(200)
    expect(traces(stored.rows())).to.have.length.above(8)
  })
  afterEach(() => site[Symbol.asyncDispose]())

  /** Nothing of her is there, and what is hers alone comes back with none of it. */
  async function expectNothing(): Promise<void> {
    expect(traces(stored.rows())).to.deep.equal([])
    expect(await stored.storage.archive.bounds(JULIET)).to.equal(undefined)
    expect(stored.storage.offline.count(JULIET)).to.equal(0)
    expect((await stored.storage.streams.load()).filter((each) => each.owner === JULIET)).to.deep.equal([])
    expect(await fetchStatus(site, file)).to.equal(404)
    expect(site.server.sessions.of(JULIET)).to.deep.equal([])
    await (await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'another', register: true })).disconnect()
    const found = await readAccount(site, 'another')
    for (const [what, entries] of Object.entries(found)) expect(entries, what).to.deep.equal([])
  }

  it('is gone with all it had, at once', async () => {
    const romeo = await enter(site, 'romeo', 'orchard')
    await romeo.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    romeo.send('<presence/>')
    const juliet = await enter(site, 'juliet', 'balcony')
    await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>")
    await romeo.receive((each) => each.attrs['type'] === 'unsubscribed' && each.attrs['from'] === JULIET)
    const roster = await romeo.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    expect(roster.toString()).to.contain(`jid="${JULIET}" subscription="none"`)
    await romeo.disconnect()
    await expectNothing()
  }).timeout(60_000)

  it('is gone when the server was killed after the first write of its removal', async () => {
    const { storage } = stored
    // What is committed first (server.ts): the account is no more, and it is written down that the rest has to go.
    storage.records.put('removals', [JULIET], 0)
    await site.server.accounts.unregister(JULIET)
    await site.restart()
    expect(traces(stored.rows())).to.deep.equal([])
    await expectNothing()
  }).timeout(60_000)
})
