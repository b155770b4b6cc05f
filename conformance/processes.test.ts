/** `tidings serve` as several processes, as its users run it: chat and rooms among them, kills, a change of its configuration. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { expect } from 'chai'
import { type Client, connect } from '../lib/client/client.ts'
import { chooseNode } from '../server/cluster/rendezvous.ts'
import { configOf, runRound } from './durability.ts'
import { ServerProcess } from './server-process.ts'

const MUC_NS = 'http://jabber.org/protocol/muc'
const ROOM = 'coven@conference.localhost'

/** The process, from 1, that has a unit which nobody had before. */
function processOf(unit: string): number {
  return Number(chooseNode(unit, [1, 2].map((name) => ({ name: String(name), roles: [], leaving: false })))?.name)
}

/** A name for an account that lives in one of two processes. */
function nameAt(place: number, name: string): string {
  for (let i = 0; ; i++) if (processOf(`${name}${i}@localhost`) === place) return `${name}${i}`
}

describe('a server of several processes', function () {
  // Processes take their time to start where others work, too.
  this.timeout(300_000)

  const modules = '  mod_disco: {}\n  mod_muc: {access_create: local}\n  mod_ping: {}\n'
  let server: ServerProcess
  before(async () => { server = await ServerProcess.start({ config: configOf(2, modules) }) })
  after(async () => { await server[Symbol.asyncDispose]() })

  const client = (user: string, register = true): Promise<Client> => connect({ host: '127.0.0.1', port: server.port, domain: 'localhost', tls: 'none', user, password: 'pencil', register, timeoutMs: 30_000 })

  it('loses and doubles nothing when one of them is killed', async () => {
    const { faults, messages } = await runRound(server, 0, 'SIGKILL', { kinds: ['online', 'silent', 'offline'], sent: 200, kills: 1, one: true })
    expect(faults).to.deep.equal([])
    expect(messages).to.be.greaterThan(0)
  })

  it('loses and doubles nothing when all are killed with the main process', async () => {
    const { faults } = await runRound(server, 1, 'SIGKILL', { kinds: ['online', 'silent', 'offline'], sent: 200, kills: 1 })
    expect(faults).to.deep.equal([])
  })

  it('stops in good order, and goes on', async () => {
    const { faults } = await runRound(server, 2, 'SIGTERM', { kinds: ['online'], sent: 200, kills: 1 })
    expect(faults).to.deep.equal([])
  })

  it('goes on when one of them stops in good order', async () => {
    const { faults } = await runRound(server, 3, 'SIGTERM', { kinds: ['online', 'silent', 'offline'], sent: 200, kills: 1, one: true })
    expect(faults).to.deep.equal([])
  })

  it('kills one that hangs, and goes on with its accounts', async () => {
    await whole()
    const before = server.children
    const { faults } = await runRound(server, 4, 'SIGKILL', { kinds: ['online', 'silent', 'offline'], sent: 200, kills: 1, one: 'hangs' })
    expect(faults).to.deep.equal([])
    await whole()
    expect(server.children.filter((pid) => !before.includes(pid))).to.have.length(1)
  })

  it('has rooms with occupants in all processes, who stay in it when its process is killed', async () => {
    await whole()
    const [home, other] = processOf(ROOM) === 1 ? [1, 2] : [2, 1]
    const users = [nameAt(home, 'witch'), nameAt(other, 'hag')]
    let witch = await client(users[0] as string)
    let hag = await client(users[1] as string)
    // Any process may have taken the connection, and made the account its own; it has to outlive the first.
    for (let name = 'hags'; await takes(await pidOf(home), hag); name += 's') {
      hag.destroy()
      users[1] = nameAt(other, name)
      hag = await client(users[1])
    }
    for (const [i, one] of [witch, hag].entries()) {
      one.send(`<presence to='${ROOM}/${users[i]}'><x xmlns='${MUC_NS}'/></presence>`)
      await one.receive((stanza) => stanza.name === 'message' && stanza.getChild('subject') !== undefined)
      if (i === 0) await one.sendIq(`<iq type='set' to='${ROOM}'><query xmlns='${MUC_NS}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
    }
    const talk = async (from: Client, text: string, to: readonly Client[]): Promise<void> => {
      from.send(`<message to='${ROOM}' type='groupchat'><body>${text}</body></message>`)
      await Promise.all(to.map((one) => one.receive((stanza) => stanza.attrs['type'] === 'groupchat' && stanza.getChildText('body') === text, 30_000)))
    }
    await talk(witch, 'When shall we three meet again?', [witch, hag])
    await talk(hag, 'When the hurly-burly is done.', [witch, hag])
    process.kill(await pidOf(home), 'SIGKILL')
    // Who was in that process has lost the connection.
    await talk(hag, 'Fair is foul', [hag])
    witch.destroy()
    witch = await client(users[0] as string, false)
    witch.send(`<presence to='${ROOM}/${users[0]}'><x xmlns='${MUC_NS}'/></presence>`)
    await talk(witch, 'and foul is fair.', [witch, hag])
    await Promise.all([witch, hag].map((one) => one.disconnect()))
  })

  it('takes another configuration in all processes, at a command and at a signal', async () => {
    await whole()
    const users = [1, 2].map((place) => nameAt(place, 'nurse'))
    const clients = await Promise.all(users.map((user) => client(user)))
    const knows = (xmlns: string): Promise<boolean[]> => Promise.all(clients.map(async (one) => {
      const answer = await one.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
      return answer.getChildren('query')[0]?.getChildren('feature').some((feature) => feature.attrs['var'] === xmlns) === true
    }))
    expect(await knows('urn:xmpp:time')).to.deep.equal([false, false])
    await server.configure(configOf(2, `${modules}  mod_time: {}\n`))
    expect(await server.command('reload-config')).to.include({ code: 0 })
    expect(await knows('urn:xmpp:time')).to.deep.equal([true, true])
    await server.configure(configOf(3, modules))
    const { output } = await server.command('reload-config')
    expect(output).to.match(/tidings\.processes: the change takes effect at the next start/)
    expect(await knows('urn:xmpp:time')).to.deep.equal([false, false])
    await server.configure(configOf(2, `${modules}  mod_time: {}\n`))
    server.signal('SIGHUP')
    while ((await knows('urn:xmpp:time')).includes(false)) await pause()
    await server.configure(() => 'hosts: [')
    expect((await server.command('reload-config')).code).to.not.equal(0)
    expect(await knows('urn:xmpp:time')).to.deep.equal([true, true])
    await server.configure(configOf(2, modules))
    await Promise.all(clients.map((one) => one.disconnect()))
  })

  /** Resolves when all processes serve. */
  async function whole(): Promise<void> {
    while ((await server.command('status')).code !== 0) await pause()
  }

  /** Whether a process has a client's connection (Linux). */
  async function takes(pid: number, one: Client): Promise<boolean> {
    const port = (number: number): string => `:${number.toString(16).toUpperCase().padStart(4, '0')}`
    const inode = ['tcp', 'tcp6'].map((name) => readFileSync(`/proc/net/${name}`, 'utf8')).join('\n').split('\n').map((line) => line.trim().split(/\s+/)).find(([, local, remote]) => local?.endsWith(port(server.port)) && remote?.endsWith(port(one.connection.localPort)))?.[9]
    expect(inode).to.match(/^[1-9]/)
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`
      } catch {
        return false
      }
    })
  }

  /** The process at a place. */
  async function pidOf(place: number): Promise<number> {
    return server.children.find((pid) => readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`TIDINGS_PROCESS=${place}\0`)) as number
  }
})

function pause(): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, 50) })
}
