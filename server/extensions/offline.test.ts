import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { makeStanza } from '../../lib/stanza/stanza.ts'
import { HostAccountData } from '../accounts/account-data.ts'
import { HostBind2 } from '../host.ts'
import { HookRunner } from '../router/hook-runner.ts'
import type { Delivery } from '../router/hooks.ts'
import { Gate } from '../sessions/gate.ts'
import { createManagement, Session, type Taken } from '../sessions/session.ts'
import { openMemory } from '../storage/memory/memory.ts'
import type { Parts } from './extension.ts'
import { offline, type OfflineOptions } from './offline.ts'

const OPTIONS: OfflineOptions = { access_max_user_messages: 'max_user_offline_messages', store_empty_body: 'unless_chat_state', store_groupchat: false, bounce_groupchat: false, use_mam_for_storage: false }
const OWNER = 'juliet@capulet.example'
const QUIET = { info() {}, error() {}, warn() {}, debug() {} }

function setUp(options: Partial<OfflineOptions> = {}, max: number | undefined = 5) {
  const storage = openMemory()
  const online: Session[] = []
  const hooks = new HookRunner()
  const bind2 = new HostBind2()
  offline.start({ host: 'capulet.example', hooks, bind2, storage, accountData: new HostAccountData(), sessions: { of: () => online, available: () => online.filter((session) => session.takesMessages) }, access: { value: () => max, allows: () => true, shaper: () => undefined }, metrics: { counter: () => ({ inc() {} }) }, log: QUIET, waiting() {}, lasting: <Value>(_name: string, make: () => Value): Value => make() } as unknown as Parts, { ...OPTIONS, ...options })
  const delivery = (content: string, type = 'chat', changes: Partial<Delivery> = {}): Delivery => {
    const id = nextMessageId()
    return {
      stanza: readStanza(Buffer.from(`<message from='romeo@montague.example/o' to='${OWNER}' type='${type}'>${content}</message>`)),
      from: Jid.parse('romeo@montague.example/o'), to: Jid.parse(OWNER), session: undefined, id, time: timeOfMessageId(id) as number, fromLocal: false, toLocal: true,
      noArchive: false, noCopy: false, noOffline: false, archivedFrom: false, archivedTo: false, durable: false, reached: [], ...changes,
    }
  }
  const store = (content: string, type?: string, changes?: Partial<Delivery>): boolean => hooks.runUndeliverable(delivery(content, type, changes))
  const gate = new Gate(storage)
  const bind = (kind: 'plain' | 'resumable', { queueMax = 1000, slow = false } = {}) => {
    const written: string[] = []
    const untaken: Taken[] = []
    /** The network takes what was written, or the connection is gone. */
    const take = (arrived = true): void => { for (const callback of untaken.splice(0)) setImmediate(callback, arrived) }
    const session: Session = new Session(Jid.parse(`${OWNER}/${kind}`), { address: '', secure: true, backlog: 0, write: (bytes) => { written.push(bytes.toString()) }, whenTaken: (callback) => { untaken.push(callback); if (!slow) take() }, close() {} }, {
      storage, gate,
      whileInactive: () => 'send',
      ended: (ended, undelivered) => {
        online.splice(online.indexOf(ended), 1)
        for (const { stanza, id } of undelivered) hooks.runUndeliverable(delivery('', 'chat', { stanza, accepted: true, ...(id !== undefined && { id, time: timeOfMessageId(id) as number }) }))
      },
      detached() {},
      limits: { outboundBytes: 1e6, held: 10 },
      now: () => Date.now(),
    })
    if (kind === 'resumable') {
      session.management = createManagement({ id: 's', resumable: true, resumeMs: 1000, queueMax })
    }
    online.push(session)
    return { session, take, messages: () => written.filter((text) => text.startsWith('<message')) }
  }
  const available = (session: Session, priority = 0): void => {
    session.presence = makeStanza('presence', {})
    session.priority = priority
    hooks.runAvailable(session, makeStanza('presence', {}), true)
  }
  return { storage, hooks, bind2, delivery, store, bind, available, count: () => storage.offline.count(OWNER) }
}

const bodies = (texts: readonly string[]): string[] => texts.map((text) => /<body>(.*)<\/body>/.exec(text)?.[1] ?? '')
const stamped = (id: string): string => `<stanza-id xmlns='urn:xmpp:sid:0' by='${OWNER}' id='${id}'/>`

describe('offline messages (XEP-0160)', () => {
  it('are delivered in order with the time they were sent, and once', async () => {
    const { storage, delivery, hooks, bind, available, count } = setUp()
    const first = delivery('<body>1</body>')
    expect(hooks.runUndeliverable(first)).to.equal(true)
    expect(first.durable).to.equal(true)
    expect(hooks.runUndeliverable(delivery('<body>2</body>', 'normal'))).to.equal(true)
    const { session, messages } = bind('plain')
    available(session)
    expect(messages(), 'nothing before the commit').to.deep.equal([])
    const second = bind('plain')
    available(second.session)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1', '2'])
    expect(messages()[0]).to.contain(`<delay xmlns='urn:xmpp:delay' from='capulet.example' stamp='${new Date(first.time).toISOString()}'/>`)
    await turns()
    expect(second.messages()).to.deep.equal([])
    expect(count()).to.equal(0)
  })

  it('leave the queue in the turn in which a resumable stream takes them', async () => {
    const { storage, store, bind, available, count } = setUp()
    store('<body>1</body>')
    const { session, messages } = bind('resumable')
    available(session)
    expect(count()).to.equal(0)
    expect(session.management?.queue.length).to.equal(1)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1'])
  })

  it('come back as they were when the session ends without acknowledging them', () => {
    const { store, bind, available, storage, count } = setUp()
    const id = nextMessageId()
    store(`<body>1</body>${stamped(id)}`, 'chat', { id, time: timeOfMessageId(id) as number })
    const before = storage.offline.list(OWNER, 10) as { id: string; bytes: Buffer }[]
    const { session } = bind('resumable')
    available(session)
    session.close()
    expect(count()).to.equal(1)
    expect(storage.offline.list(OWNER, 10)).to.deep.equal(before)
  })

  it('stay until the network has taken them, for nobody else', async () => {
    const { store, bind, available, storage, count } = setUp()
    for (const body of ['1', '2']) store(`<body>${body}</body>`)
    const { session, messages, take } = bind('plain', { slow: true })
    available(session)
    await storage.committed()
    await turns()
    expect(bodies(messages())).to.deep.equal(['1', '2'])
    expect(count()).to.equal(2)
    const second = bind('plain')
    available(second.session)
    await storage.committed()
    expect(second.messages()).to.deep.equal([])
    take()
    await turns()
    expect(count()).to.equal(0)
  })

  it('go to whoever has come since when the network did not take them', async () => {
    const { store, bind, available, storage, count } = setUp()
    for (const body of ['1', '2']) store(`<body>${body}</body>`)
    const { session, take } = bind('plain', { slow: true })
    available(session)
    await storage.committed()
    const second = bind('plain')
    available(second.session)
    session.close()
    take(false)
    await turns()
    await storage.committed()
    await turns()
    expect(bodies(second.messages())).to.deep.equal(['1', '2'])
    expect(count()).to.equal(0)
  })

  it('are no longer in the queue once the stream that they are on can be resumed', async () => {
    const { store, bind, available, storage, count } = setUp()
    store('<body>1</body>')
    const { session, messages, take } = bind('plain', { slow: true })
    available(session)
    session.manage(createManagement({ id: 's', resumable: true, resumeMs: 1000, queueMax: 10 }))
    session.hold()
    session.openWhenStored(() => {})
    session.storeStream()
    expect(count()).to.equal(0)
    await storage.committed()
    await turns()
    expect(bodies(messages())).to.deep.equal(['1'])
    take(false)
    await turns()
    expect(count()).to.equal(0)
    session.close()
    expect(count()).to.equal(1)
  })

  it('hold what is being sent to sessions that do not outlive the process, until one has taken it', async () => {
    const { hooks, delivery, store, bind, available, storage, count } = setUp({}, 1)
    store('<body>1</body>')
    const live = delivery('<body>2</body>')
    const taken = hooks.runSafeguard(live) as Taken
    expect(live.durable).to.equal(true)
    expect(count()).to.equal(2)
    const { session, messages } = bind('resumable')
    available(session)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1'])
    taken(true)
    expect(count()).to.equal(0)
    const lost = hooks.runSafeguard(delivery('<body>3</body>')) as Taken
    lost(false)
    await turns()
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1', '3'])
  })

  it('hold nothing that would not be kept, nor what is for somebody else', () => {
    const { hooks, delivery, count } = setUp()
    for (const each of [
      delivery('<body>1</body>', 'headline'), delivery('<body>1</body>', 'error'), delivery('<body>1</body>', 'groupchat'),
      delivery("<body>1</body><no-store xmlns='urn:xmpp:hints'/>"), delivery("<composing xmlns='http://jabber.org/protocol/chatstates'/>"),
      delivery('<body>1</body>', 'chat', { toLocal: false }),
    ]) {
      expect(hooks.runSafeguard(each)).to.equal(undefined)
      expect(each.durable).to.equal(false)
    }
    expect(count()).to.equal(0)
  })

  it('stay when a session without stream management ends before the commit', async () => {
    const { store, bind, available, storage, count } = setUp()
    const id = nextMessageId()
    store(`<body>1</body>${stamped(id)}`, 'chat', { id, time: timeOfMessageId(id) as number })
    store('<body>2</body>')
    const { session, messages } = bind('plain')
    available(session)
    session.close()
    await storage.committed()
    await storage.committed()
    expect(messages()).to.deep.equal([])
    expect(count()).to.equal(2)
    const next = bind('plain')
    available(next.session)
    await storage.committed()
    expect(bodies(next.messages()).sort()).to.deep.equal(['1', '2'])
  })

  it('are more than a session may have unacknowledged, and count again as offline when it ends', async () => {
    const { store, delivery, bind, available, storage, count } = setUp({}, 9)
    for (let i = 0; i < 9; i++) {
      const id = nextMessageId()
      store(`<body>${i}</body>${i % 2 ? stamped(id) : ''}`, 'chat', { id, time: timeOfMessageId(id) as number })
    }
    const { session, messages } = bind('resumable', { queueMax: 3 })
    available(session)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['0', '1', '2', '3', '4', '5', '6', '7', '8'])
    for (const body of ['9', 'a', 'b']) {
      const live = delivery(`<body>${body}</body>`)
      session.send(live.stanza, { id: live.id })
    }
    expect(session.ended).to.equal(false)
    const last = delivery('<body>c</body>')
    session.send(last.stanza, { id: last.id })
    expect(session.ended).to.equal(true)
    expect(count()).to.equal(13)
    expect(store('<body>refused</body>')).to.equal(false)
    const next = bind('resumable', { queueMax: 3 })
    available(next.session)
    await storage.committed()
    expect(bodies(next.messages())).to.deep.equal(['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c'])
  })

  it('keep the limits of a session open once they are acknowledged', () => {
    const { store, delivery, bind, available } = setUp({}, 9)
    for (let i = 0; i < 5; i++) store(`<body>${i}</body>`)
    const { session } = bind('resumable', { queueMax: 3 })
    available(session)
    session.acknowledged(5)
    for (let i = 0; i < 3; i++) session.send(delivery('<body>live</body>').stanza)
    expect(session.ended).to.equal(false)
    session.send(delivery('<body>live</body>').stanza)
    expect(session.ended).to.equal(true)
  })

  it('wait for a priority that is not negative, and for clients that fetch them themselves (XEP-0013)', async () => {
    const { store, bind, available, storage, count } = setUp()
    store('<body>1</body>')
    const { session, messages } = bind('plain')
    available(session, -1)
    session.set('flexibleOffline', true)
    available(session, 1)
    expect(count()).to.equal(1)
    session.set('flexibleOffline', undefined)
    available(session, 1)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1'])
  })

  it('go to no client while another fetches them itself, whichever was here first (XEP-0013 §2.2)', async () => {
    const { store, bind, available, storage, count } = setUp()
    store('<body>1</body>')
    const { session, messages } = bind('plain')
    const reader = bind('resumable').session
    reader.set('flexibleOffline', true)
    available(session)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal([])
    expect(count()).to.equal(1)
    reader.close()
    available(session)
    await storage.committed()
    expect(bodies(messages())).to.deep.equal(['1'])
  })

  it('are those that are worth keeping (§3)', () => {
    const { store, count } = setUp({}, Infinity)
    expect(store('<body>1</body>', 'error')).to.equal(false)
    expect(store('<body>1</body>', 'headline')).to.equal(false)
    expect(store('<body>1</body>', 'groupchat'), 'dropped').to.equal(true)
    expect(store("<composing xmlns='http://jabber.org/protocol/chatstates'/><thread>t</thread>"), 'dropped').to.equal(true)
    expect(store("<body>1</body><no-store xmlns='urn:xmpp:hints'/>"), 'refused').to.equal(false)
    expect(store("<received xmlns='urn:xmpp:receipts' id='1'/><no-store xmlns='urn:xmpp:hints'/>"), 'dropped').to.equal(true)
    expect(store('<body>1</body>', 'chat', { noOffline: true })).to.equal(false)
    expect(store('<body>1</body>', 'chat', { toLocal: false })).to.equal(false)
    expect(count()).to.equal(0)
    expect(store("<received xmlns='urn:xmpp:receipts' id='1'/>")).to.equal(true)
    expect(count()).to.equal(1)
    expect(store("<active xmlns='http://jabber.org/protocol/chatstates'/><store xmlns='urn:xmpp:hints'/>")).to.equal(true)
    expect(count()).to.equal(2)
  })

  it('obey the options', () => {
    expect(setUp({ bounce_groupchat: true }).store('<body>1</body>', 'groupchat')).to.equal(false)
    const rooms = setUp({ store_groupchat: true })
    rooms.store('<body>1</body>', 'groupchat')
    expect(rooms.count()).to.equal(1)
    const never = setUp({ store_empty_body: 'false' })
    never.store("<received xmlns='urn:xmpp:receipts' id='1'/>")
    expect(never.count()).to.equal(0)
    const always = setUp({ store_empty_body: 'true' })
    always.store("<active xmlns='http://jabber.org/protocol/chatstates'/>")
    expect(always.count()).to.equal(1)
  })

  it('are limited for each account (RFC 6121 §8.5.2.2.1)', () => {
    const { store, count } = setUp({}, 2)
    expect([store('<body>1</body>'), store('<body>2</body>'), store('<body>3</body>')]).to.deep.equal([true, true, false])
    expect(count()).to.equal(2)
    const unruled = setUp({})
    expect(unruled.store('<body>1</body>')).to.equal(true)
  })

  it('go with their account', async () => {
    const { store, hooks, count } = setUp()
    store('<body>1</body>')
    await hooks.runAccountRemoved(OWNER)
    expect(count()).to.equal(0)
  })

  it('of those that the archive has, a client that binds by Bind 2 is sent none (XEP-0386 §3.2)', async () => {
    const { storage, bind2, store, bind, available, count } = setUp({}, 1000)
    for (let sent = 0; sent < 450; sent++) store(`<body>${sent}</body>`)
    const entries = await storage.offline.list(OWNER, 1000)
    for (const [index, { id, bytes }] of entries.entries()) if (index % 3 !== 0) storage.archive.append({ id, bytes, owners: [{ owner: OWNER, with: 'romeo@montague.example' }] })
    const { session, messages } = bind('plain')
    expect(await bind2.answer(session)).to.equal('')
    expect(count()).to.equal(150)
    available(session)
    await storage.committed()
    await new Promise((resolve) => { setImmediate(resolve) })
    expect(messages().map((text) => Number(/<body>(\d+)</.exec(text)?.[1]))).to.deep.equal(Array.from({ length: 150 }, (_, index) => index * 3))
  })

})

/** Long enough for what the network tells, and for what follows from it. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
}
