import { expect } from 'chai'
import { connect } from '../../../lib/client/client.ts'
import type { Element } from '../../../lib/xml/element.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { openHeldStorage, startTestServer, TEST_CONFIG } from '../../test-server.ts'
import type { Parts } from '../extension.ts'
import { fakeParts } from '../fake-parts.ts'
import { MAM, MUC, Person, ROOM, setStage } from './muc.fixture.ts'
import { muc } from './muc.ts'

const DESTROY = `<query xmlns='${MUC}#owner'><destroy/></query>`
const keeps = (config: string): string => config.replace('mod_mam: { default: always }', 'mod_mam: { default: always, clear_archive_on_room_destroy: false }')

async function found(who: Person, more = ''): Promise<(string | null | undefined)[]> {
  await who.ask('set', `<query xmlns='${MAM}'>${more}</query>`)
  return (await who.stanzas()).map(wrapped).filter((each) => each !== undefined).map((each) => each.getChildText('body'))
}

function wrapped(stanza: Element): Element | undefined {
  return stanza.getChild('result', MAM)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
}

const idIn = (message: Element | undefined): string => message?.getChild('stanza-id', 'urn:xmpp:sid:0')?.attrs['id'] ?? ''
const ends = (metadata: Element | undefined): (string | undefined)[] => ['start', 'end'].map((name) => metadata?.getChild(name)?.attrs['id'])
const after = (id: string): string => `<set xmlns='http://jabber.org/protocol/rsm'><after>${id}</after></set>`

describe('the archive of a room that is gone, where it is kept (clear_archive_on_room_destroy: false)', () => {
  it('is not for those who make a room of the same name', async () => {
    await using stage = await setStage('{ default_room_options: { mam: true } }', keeps)
    const crone = await stage.login('crone')
    const hag = await stage.login('hag')
    await crone.found('first', { 'muc#roomconfig_membersonly': '1' })
    crone.say('secret')
    const old = idIn((await crone.stanzas())[0])
    expect(await crone.tries('set', DESTROY)).to.equal('done')
    await crone.news()
    hag.join('hag')
    expect(await hag.configure()).to.equal('done')
    expect((await hag.news()).filter((each) => each.includes('secret')), 'on entering').to.deep.equal([])
    expect(await found(hag)).to.deep.equal([])
    expect(ends(await hag.ask('get', `<metadata xmlns='${MAM}'/>`))).to.deep.equal([undefined, undefined])
    expect(await hag.tries('set', `<query xmlns='${MAM}'>${after(old)}</query>`)).to.equal('item-not-found')
    expect(await hag.tries('set', `<moderate xmlns='urn:xmpp:message-moderate:1' id='${old}'><retract xmlns='urn:xmpp:message-retract:1'/></moderate>`)).to.equal('item-not-found')
    hag.say('new')
    const id = idIn((await hag.stanzas()).at(-1))
    expect(await found(hag)).to.deep.equal(['new'])
    expect(ends(await hag.ask('get', `<metadata xmlns='${MAM}'/>`))).to.deep.equal([id, id])
    hag.join('hag')
    expect((await hag.news()).filter((each) => each.endsWith('delayed'))).to.deep.equal(['message:hag new owner hag@localhost delayed'])
    // Its first owner has no part in the new room either.
    expect(await found(crone)).to.deep.equal(['new'])
  })

  it('is for those to read who run the service, and is not changed', async () => {
    await using stage = await setStage('{ access_admin: runs_rooms, default_room_options: { mam: true } }', (config) => `${keeps(config)}\nacl: { hecate: { user: [hecate@localhost] } }\n`.replace('access_rules:', 'access_rules:\n  runs_rooms: { allow: hecate }'))
    const crone = await stage.login('crone')
    const hecate = await stage.login('hecate')
    await crone.found('first')
    crone.say('kept')
    const old = idIn((await crone.stanzas())[0])
    await crone.tries('set', DESTROY)
    await crone.found('first')
    crone.say('new')
    await crone.news()
    expect(await found(hecate)).to.deep.equal(['kept', 'new'])
    expect(await found(hecate, after(old))).to.deep.equal(['new'])
    expect(ends(await hecate.ask('get', `<metadata xmlns='${MAM}'/>`))[0]).to.equal(old)
  })

  it('expires with the others', async () => {
    const storage = openHeldStorage()
    const config = `${TEST_CONFIG.replace('mod_mam: { default: always }', 'mod_mam: { default: always, expire: 1 day, clear_archive_on_room_destroy: false }')}  mod_muc: { default_room_options: { mam: true } }\n`
    await using stage = await startTestServer({ accounts: { crone: 'secret' }, storage, config })
    const client = await connect({ host: stage.host, port: stage.port, domain: stage.domain, tls: 'none', user: 'crone', password: 'secret', resource: 'desktop' })
    const crone = new Person(client)
    await crone.found('first')
    crone.say('hello')
    await crone.tries('set', DESTROY)
    client.destroy()
    storage.archive.append({ id: `${firstIdOf(Date.now() - 2 * 86_400_000).slice(0, 9)}0010000000000`, bytes: Buffer.from(`<message from='${ROOM}/first' type='groupchat'><body>old</body></message>`), owners: [{ owner: ROOM, with: crone.bare }] })
    const every: (() => void | Promise<void>)[] = []
    let now = Date.now()
    const defaults = Object.fromEntries(Object.entries(muc.options ?? {}).map(([name, spec]) => [name, (spec as { default: unknown }).default]))
    muc.start({ ...fakeParts('localhost').parts, storage, config: stage.server.hosts.get('localhost')?.config, now: () => now, every: (_ms: number, run: () => void) => { every.push(run) } } as unknown as Parts, defaults as never)
    for (const run of every) await run()
    expect(await storage.archive.count(ROOM, {}, 10)).to.equal(1)
    expect(storage.records.get('muc-past', ['conference.localhost', 'coven'])).to.equal(true)
    now = Date.parse('3000-01-01T00:00:00Z')
    for (const run of every) await run()
    expect(await storage.archive.count(ROOM, {}, 10)).to.equal(0)
    expect(storage.records.get('muc-past', ['conference.localhost', 'coven'])).to.equal(undefined)
  })
})
