/** What is measured. Every scenario is bounded in count and in time. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client } from '../lib/client/client.ts'
import { loginBySasl2, type Sasl2Options } from '../lib/client/sasl2.ts'
import { PASSWORD, Tally, type Tls, chatMessage, each, jidOf, logIn, makeUsers, parseId, userName } from './load.ts'
import { cpuMicros, pssKib } from './process.ts'
import { RawUser } from './raw-user.ts'
import type { RunningServer, ServerName, Variant } from './servers.ts'

/** How long a measurement, or what warms the server up for it, may go on: a slow server gets fewer messages. */
const MEASURE_MS = 8_000
/** How long an answer may take. */
const ANSWER_MS = 60_000
/** How long a message may be missing before it counts as lost. */
const MISSING_MS = 10_000

/** Figures by name; the unit is in the name. `errors` says what was lost, twice or out of order. */
export interface Figures {
  readonly values: Readonly<Record<string, number>>
  readonly errors: string
}

export interface Scenario {
  readonly name: string
  readonly help: string
  readonly variant: Variant
  /** Whether each round needs a server that has done nothing before. */
  readonly fresh: boolean
  /** The servers that can play it; all when left out. */
  readonly only?: readonly ServerName[]
  prepare(server: RunningServer): Promise<void>
  measure(server: RunningServer): Promise<Figures>
}

const CHAT_USERS = 100

function chat(name: string, help: string, variant: Variant, messages: number): Scenario {
  const archive = variant === 'archive'
  return {
    name, help, variant, fresh: false,
    prepare: (server) => makeUsers(server, CHAT_USERS),
    async measure(server) {
      const users: RawUser[] = []
      try {
        await each(CHAT_USERS, async (index) => { users[index] = await RawUser.logIn(server, userName(index), PASSWORD, archive) })
        // Warm, so that what is compiled on the way is compiled.
        await talk(server, users, messages >> 1, archive)
        return await talk(server, users, messages, archive)
      } finally {
        for (const user of users) user?.destroy()
      }
    },
  }
}

/** Every user has one message in flight to a fixed partner: the next leaves when it has arrived. */
async function talk(server: RunningServer, users: readonly RawUser[], messages: number, acks: boolean): Promise<Figures> {
  const tally = new Tally()
  const sequences = new Uint32Array(users.length)
  const targets = users.map((_, index) => (users[(index + (users.length >> 1)) % users.length] as RawUser).jid)
  const startedAt = performance.now()
  let lastAt = startedAt
  const send = (index: number): void => {
    if (tally.sent >= messages || lastAt - startedAt > MEASURE_MS) return
    const sequence = sequences[index] as number
    sequences[index] = sequence + 1
    tally.sent++
    const message = chatMessage(targets[index] as string, `b${index}-${sequence}`)
    // XEP-0198: as clients do, now and then.
    users[index]?.send(acks && sequence % 10 === 9 ? `${message}<r xmlns='urn:xmpp:sm:3'/>` : message)
  }
  for (const user of users) {
    user.onMessage = (text) => {
      const id = parseId(text)
      if (id === undefined) return
      tally.took(id[0], id[1])
      lastAt = performance.now()
      send(id[0])
    }
  }
  const own = process.cpuUsage()
  const before = cpuMicros(server.pid)
  for (let i = 0; i < users.length; i++) send(i)
  while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(20)
  const used = cpuMicros(server.pid) - before
  const ownUsed = process.cpuUsage(own)
  for (const user of users) user.onMessage = undefined
  return {
    values: {
      'CPU us/message': used / tally.sent,
      'messages/s': tally.received / (lastAt - startedAt) * 1000,
      'generator us/message': (ownUsed.user + ownUsed.system) / tally.sent,
    },
    errors: tally.toString(),
  }
}

const LOGIN_USERS = 20
const LOGINS = 1000

const loginScenario: Scenario = {
  name: 'login', help: `up to ${LOGINS} times TLS from the first byte, SCRAM-SHA-1, bind and logout, 8 at a time`, variant: 'plain', fresh: false,
  prepare: (server) => makeUsers(server, LOGIN_USERS),
  async measure(server) {
    return measureLogins(server, async (index) => {
      const client = await logIn(server, index % LOGIN_USERS, { tls: 'direct', presence: false, resource: `r${index % 8}-${Math.floor(index / LOGIN_USERS)}` })
      await client.disconnect()
    })
  },
}

/** Logs in so often, twice: the first round warms up. */
async function measureLogins(server: RunningServer, login: (index: number) => Promise<void>): Promise<Figures> {
  const round = async (): Promise<{ done: number; failed: number; wallMs: number; used: number }> => {
    const before = cpuMicros(server.pid)
    const startedAt = performance.now()
    let done = 0
    let failed = 0
    await each(LOGINS, async (index) => {
      if (performance.now() - startedAt > MEASURE_MS) return
      try {
        await login(index)
        done++
      } catch {
        failed++
      }
    })
    return { done, failed, wallMs: performance.now() - startedAt, used: cpuMicros(server.pid) - before }
  }
  await round()
  const { done, failed, wallMs, used } = await round()
  return { values: { 'CPU ms/login': used / done / 1000, 'logins/s': done / wallMs * 1000 }, errors: failed === 0 ? '0' : `${failed} failed` }
}

const FAST_MECHANISM = 'HT-SHA-256-EXPR'

const fastLogin: Scenario = {
  name: 'login-fast', help: `up to ${LOGINS} times TLS from the first byte, then one round trip: login by token, bind, stream management and carbons; and logout, 8 at a time`, variant: 'archive', fresh: false,
  only: ['tidings'],
  prepare: (server) => makeUsers(server, LOGIN_USERS),
  async measure(server) {
    const { host, tlsPort: port, domain } = server
    const agentOf = (client: number): { id: string } => ({ id: `d4565fa7-4d72-4749-b3d3-${String(client).padStart(12, '0')}` })
    const options = (client: number): Sasl2Options => ({ host, port, domain, tls: 'direct', user: userName(client % LOGIN_USERS), password: PASSWORD, agent: agentOf(client) })
    const tokens: string[] = []
    // As many clients as log in at the same time have an account each.
    await each(LOGIN_USERS, async (client) => {
      const { connection, success } = await loginBySasl2({ ...options(client), inline: `<request-token xmlns='urn:xmpp:fast:0' mechanism='${FAST_MECHANISM}'/>` })
      tokens[client] = success.getChild('token', 'urn:xmpp:fast:0')?.attrs['token'] ?? ''
      connection.destroy()
    })
    return measureLogins(server, async (index) => {
      const client = index % LOGIN_USERS
      const { connection, success } = await loginBySasl2({
        ...options(client), mechanism: FAST_MECHANISM, token: tokens[client] as string, pipelined: true,
        inline: "<bind xmlns='urn:xmpp:bind:0'><tag>bench</tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>",
      })
      if (success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', 'urn:xmpp:sm:3') === undefined) throw new Error('no stream management')
      connection.write('</stream:stream>')
      while ((await connection.next()).kind !== 'close');
    })
  },
}

const IDLE_USERS = 200
/** Memory is compared between so many connections and so many more, for the first ones make the heap grow once. */
const IDLE_FIRST = 400
const IDLE_CONNECTIONS = 2000
/** How long a server may tidy up before its memory is read. */
const SETTLE_MS = 3000

function idle(name: string, tls: Tls): Scenario {
  return {
    name, help: `memory of ${IDLE_CONNECTIONS} available sessions beyond the first ${IDLE_FIRST}, ${tls === 'direct' ? 'with TLS' : 'without TLS'}`, variant: 'plain', fresh: true,
    prepare: (server) => makeUsers(server, IDLE_USERS),
    async measure(server) {
      const empty = pssKib(server.pid)
      const clients: Client[] = []
      const open = async (from: number, count: number): Promise<number> => {
        await each(count, async (index) => {
          const number = from + index
          clients.push(await logIn(server, number % IDLE_USERS, { tls, resource: `r${Math.floor(number / IDLE_USERS)}` }))
        })
        await sleep(SETTLE_MS)
        return pssKib(server.pid)
      }
      try {
        const before = await open(0, IDLE_FIRST)
        const held = await open(IDLE_FIRST, IDLE_CONNECTIONS)
        const lost = clients.filter((client) => client.ended).length
        return { values: { 'KiB/connection': (held - before) / IDLE_CONNECTIONS, 'MiB empty': empty / 1024, 'MiB held': held / 1024 }, errors: lost === 0 ? '0' : `${lost} closed` }
      } finally {
        for (const client of clients) client.destroy()
      }
    },
  }
}

const OFFLINE_USERS = 10
const OFFLINE_EACH = 300

const offline: Scenario = {
  name: 'offline', help: `up to ${OFFLINE_EACH} messages for each of ${OFFLINE_USERS} absent users, and their delivery`, variant: 'plain', fresh: false,
  prepare: (server) => makeUsers(server, OFFLINE_USERS + 1),
  async measure(server) {
    const tally = new Tally()
    const sender = await logIn(server, OFFLINE_USERS)
    const stored = { before: cpuMicros(server.pid), used: 0 }
    const startedAt = performance.now()
    for (let sequence = 0; sequence < OFFLINE_EACH && performance.now() - startedAt < MEASURE_MS; sequence++) {
      for (let user = 0; user < OFFLINE_USERS; user++) {
        sender.send(chatMessage(jidOf(server, user), `b${user}-${sequence}`))
        tally.sent++
      }
      // Not more in flight than a socket's buffers hold.
      if (sequence % 10 === 9) await sender.ping(ANSWER_MS)
    }
    await sender.ping(ANSWER_MS)
    stored.used = cpuMicros(server.pid) - stored.before
    const before = cpuMicros(server.pid)
    const clients: Client[] = []
    let lastAt = performance.now()
    try {
      await each(OFFLINE_USERS, async (user) => {
        const client = await logIn(server, user, { presence: false })
        clients.push(client)
        client.on((stanza) => {
          const id = stanza.name === 'message' ? parseId(stanza.id) : undefined
          if (id === undefined) return
          lastAt = performance.now()
          tally.took(id[0], id[1])
        })
        client.send('<presence/>')
      })
      while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(20)
      // A second copy would follow.
      await Promise.all(clients.map((client) => client.ping(ANSWER_MS)))
    } finally {
      for (const client of [...clients, sender]) await client.disconnect()
    }
    return {
      values: { 'store CPU us/message': stored.used / tally.sent, 'delivery CPU us/message': (cpuMicros(server.pid) - before) / tally.sent },
      errors: tally.toString(),
    }
  },
}

const CONTACTS = 100
const BROADCASTS = 100

const presence: Scenario = {
  name: 'presence', help: `up to ${BROADCASTS} presence changes of a user, each to ${CONTACTS} contacts`, variant: 'plain', fresh: false,
  async prepare(server) {
    await makeUsers(server, CONTACTS + 1)
    const star = await logIn(server, CONTACTS)
    const approve = star.on((stanza) => {
      if (stanza.name === 'presence' && stanza.type === 'subscribe') star.send(`<presence to='${(stanza.from ?? '').split('/')[0]}' type='subscribed'/>`)
    })
    await star.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    await each(CONTACTS, async (index) => {
      const client = await logIn(server, index)
      const approved = new Promise<void>((resolve) => {
        client.on((stanza) => { if (stanza.name === 'presence' && stanza.type === 'subscribed') resolve() })
        setTimeout(resolve, MISSING_MS).unref()
      })
      await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
      client.send(`<presence to='${jidOf(server, CONTACTS)}' type='subscribe'/>`)
      await approved
      await client.disconnect()
    })
    approve()
    await star.disconnect()
  },
  async measure(server) {
    const tally = new Tally()
    const clients: Client[] = []
    let arrived: (() => void) | undefined
    let missing = 0
    await each(CONTACTS, async (index) => {
      const client = await logIn(server, index)
      clients.push(client)
      client.on((stanza) => {
        if (stanza.name !== 'presence' || stanza.type !== undefined) return
        const sequence = /<status>n(\d+)<\/status>/.exec(stanza.content.toString('latin1'))?.[1]
        if (sequence === undefined) return
        tally.took(index, Number(sequence))
        if (--missing === 0) arrived?.()
      })
    })
    const star = await logIn(server, CONTACTS)
    const broadcast = async (from: number, count: number): Promise<number> => {
      const startedAt = performance.now()
      for (let sequence = from; sequence < from + count; sequence++) {
        if (performance.now() - startedAt > MEASURE_MS) return sequence - from
        missing = CONTACTS
        tally.sent += CONTACTS
        const all = new Promise<void>((resolve) => { arrived = resolve })
        star.send(`<presence><show>away</show><status>n${sequence}</status></presence>`)
        await Promise.race([all, sleep(MISSING_MS, undefined, { ref: false })])
        if (missing > 0) return sequence - from + 1
      }
      return count
    }
    try {
      await broadcast(0, 20)
      const before = cpuMicros(server.pid)
      const startedAt = performance.now()
      const deliveries = await broadcast(20, BROADCASTS) * CONTACTS
      const used = cpuMicros(server.pid) - before
      return {
        values: { 'CPU us/delivery': used / deliveries, 'deliveries/s': deliveries / (performance.now() - startedAt) * 1000 },
        errors: tally.toString(),
      }
    } finally {
      for (const client of [...clients, star]) client.destroy()
    }
  },
}

const OCCUPANTS = 100
/** Who speaks, each with one message in flight. */
const SPEAKERS = 5

function muc(name: string, help: string, enhanced: boolean, messages: number): Scenario {
  return {
    name, help, variant: 'archive', fresh: false,
    prepare: (server) => makeUsers(server, OCCUPANTS),
    async measure(server) {
      const room = `${name}${Math.random().toString(36).slice(2)}@conference.${server.domain}`
      const users: RawUser[] = []
      try {
        for (let index = 0; index < OCCUPANTS; index++) {
          const user = users[index] = await RawUser.logIn(server, userName(index), PASSWORD, enhanced)
          user.send(`<presence to='${room}/${userName(index)}'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>`)
          // The first makes the room, and opens it.
          if (index > 0) continue
          user.send(`<iq type='set' id='open' to='${room}'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
          await sleep(500)
        }
        await sleep(1500)
        await discuss(server, users, room, messages >> 1, enhanced)
        return await discuss(server, users, room, messages, enhanced)
      } finally {
        for (const user of users) user?.destroy()
      }
    },
  }
}

/** Speakers send the next message when their last one has come back. */
async function discuss(server: RunningServer, users: readonly RawUser[], room: string, messages: number, acks: boolean): Promise<Figures> {
  const tally = new Tally()
  const sequences = new Uint32Array(SPEAKERS)
  const startedAt = performance.now()
  let sent = 0
  let lastAt = startedAt
  const send = (index: number): void => {
    if (sent >= messages || lastAt - startedAt > MEASURE_MS) return
    const sequence = sequences[index] as number
    sequences[index] = sequence + 1
    sent++
    tally.sent += users.length
    const message = chatMessage(room, `b${index}-${sequence}`).replace("type='chat'", "type='groupchat'")
    users[index]?.send(acks && sequence % 10 === 9 ? `${message}<r xmlns='urn:xmpp:sm:3'/>` : message)
  }
  for (const [receiver, user] of users.entries()) {
    user.onMessage = (text) => {
      const id = parseId(text)
      if (id === undefined) return
      tally.took(receiver * SPEAKERS + id[0], id[1])
      lastAt = performance.now()
      if (receiver === id[0]) send(receiver)
    }
  }
  const before = cpuMicros(server.pid)
  for (let index = 0; index < SPEAKERS; index++) send(index)
  while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(20)
  const used = cpuMicros(server.pid) - before
  for (const user of users) user.onMessage = undefined
  return {
    values: { 'CPU us/delivery': used / tally.sent, 'deliveries/s': tally.received / (lastAt - startedAt) * 1000 },
    errors: tally.toString(),
  }
}

const MAM_MESSAGES = 1000
const MAM_PAGE = 50
const MAM_READS = 10

const mam: Scenario = {
  name: 'mam', help: `an archive of ${MAM_MESSAGES} messages read from its end in pages of ${MAM_PAGE}, ${MAM_READS} times`, variant: 'archive', fresh: false,
  async prepare(server) {
    await makeUsers(server, 2)
    const sender = await logIn(server, 0)
    const reader = await logIn(server, 1)
    for (let sequence = 0; sequence < MAM_MESSAGES; sequence++) {
      sender.send(chatMessage(reader.jid, `b0-${sequence}`))
      if (sequence % 50 === 49) await sender.ping(ANSWER_MS)
    }
    await sleep(1000)
    await reader.disconnect()
    await sender.disconnect()
  },
  async measure(server) {
    const reader = await logIn(server, 1, { presence: false })
    let tally = new Tally()
    let ids: string[] = []
    let sent = 0
    const errors: string[] = []
    reader.on((stanza) => {
      if (stanza.name !== 'message') return
      const id = /<message[^>]*\bid=['"]b0-(\d+)['"]/.exec(stanza.content.toString('latin1'))?.[1]
      if (id !== undefined) ids.push(id)
    })
    const read = async (): Promise<number> => {
      tally = new Tally()
      tally.sent = MAM_MESSAGES
      let pages = 0
      let before = ''
      const all: number[] = []
      for (; pages < MAM_MESSAGES / MAM_PAGE + 1;) {
        ids = []
        const answer = await reader.sendIq(`<iq type='set' id='m${++sent}'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>${MAM_PAGE}</max><before>${before}</before></set></query></iq>`, ANSWER_MS)
        if (ids.length > 0) pages++
        all.unshift(...ids.map(Number))
        const fin = answer.getChild('fin', 'urn:xmpp:mam:2')
        before = fin?.getChild('set', 'http://jabber.org/protocol/rsm')?.getChildText('first') ?? ''
        if (before === '' || fin?.attrs['complete'] === 'true') break
      }
      for (const sequence of all) tally.took(0, sequence)
      if (tally.toString() !== '0') errors.push(tally.toString())
      return pages
    }
    try {
      await read()
      const before = cpuMicros(server.pid)
      const startedAt = performance.now()
      let pages = 0
      for (let i = 0; i < MAM_READS && performance.now() - startedAt < MEASURE_MS; i++) pages += await read()
      return {
        values: { 'CPU ms/page': (cpuMicros(server.pid) - before) / pages / 1000, 'pages/s': pages / (performance.now() - startedAt) * 1000 },
        errors: errors[0] ?? '0',
      }
    } finally {
      await reader.disconnect()
    }
  },
}

export const SCENARIOS: readonly Scenario[] = [
  chat('chat', `${CHAT_USERS} users with one message in flight each, no archive`, 'plain', 40_000),
  chat('chat-archive', 'the same with stream management, carbons and the archive', 'archive', 15_000),
  loginScenario,
  fastLogin,
  idle('idle', 'none'),
  idle('idle-tls', 'direct'),
  offline,
  presence,
  mam,
  muc('muc', `a room of ${OCCUPANTS} with an archive, ${SPEAKERS} of them speaking`, false, 2000),
  muc('muc-sm', 'the same with stream management', true, 2000),
]
