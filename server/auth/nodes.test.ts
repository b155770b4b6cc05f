/** Several auth processes that are nodes of one cluster, each with the accounts that it was asked for first. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { joinNode, newWorld, stopNode, type TestNode, type World } from '../cluster/nodes.fixture.ts'
import { loadConfig } from '../config/config.ts'
import { createLog } from '../log.ts'
import { createServer, type Server } from '../server.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { chatConfig, outcomeOf, startAuth, type TestAuth } from './auth.fixture.ts'
import { keptByNode } from './kept.ts'

const AGENT = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770' }
const FAST = 'urn:xmpp:fast:0'
const NAMES = ['juliet', 'romeo', 'mercutio', 'benvolio', 'tybalt', 'paris']

describe('auth processes that are nodes of a cluster', () => {
  let dir: string
  let world: World
  let server: Server
  let nodes: { readonly node: TestNode; readonly auth: TestAuth }[]

  /** Joins under the address on which it listens, which is chosen by asking for one first. */
  async function join(name: string): Promise<{ node: TestNode; auth: TestAuth }> {
    const probe = await startAuth(TEST_CONFIG, dir, { name })
    await probe.stop()
    const node = joinNode(world, name, {}, ['auth'], `127.0.0.1:${probe.port}`)
    const auth = await startAuth(TEST_CONFIG, dir, { name, port: probe.port, ...keptByNode({ storage: node.storage, units: node.storage, secret: Buffer.from('a secret of auth processes') }) })
    return { node, auth }
  }

  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    world = newWorld()
    nodes = [await join('a'), await join('b')]
    await writeFile(path.join(dir, 'chat.yml'), chatConfig(TEST_CONFIG, nodes.map(({ auth }) => auth.port)))
    server = await createServer({ config: loadConfig(path.join(dir, 'chat.yml')).config, dataDir: path.join(dir, 'data'), storage: openMemory(), log: createLog(process.env['TIDINGS_TEST_LOG'] ?? 'silent') })
    for (const name of NAMES) await server.register(`${name}@localhost`, `pw-${name}`)
  })
  afterEach(async () => {
    await server.close()
    for (const { node, auth } of nodes) {
      await auth[Symbol.asyncDispose]()
      await stopNode(node, world)
    }
    await rm(dir, { recursive: true, force: true })
  })

  const address = () => ({ host: '127.0.0.1', port: server.ports.find(({ module, tls }) => module === 'ejabberd_c2s' && tls)?.port ?? 0, domain: 'localhost', tls: 'direct' as const })

  const outcome = (user: string, password: string, mechanism: string): Promise<string> => outcomeOf({ ...address(), user, password, mechanism })

  it('answer for the accounts of one another by naming who has them', async () => {
    const [a, b] = nodes.map(({ node }) => NAMES.filter((name) => node.storage.isHere(`${name}@localhost`)))
    expect([...a ?? [], ...b ?? []].toSorted()).to.deep.equal(NAMES.toSorted())
    expect([a?.length, b?.length]).to.not.include(0)
    for (const name of NAMES) {
      for (const mechanism of ['PLAIN', 'SCRAM-SHA-256-PLUS']) {
        // Whichever is asked first.
        expect([await outcome(name, `pw-${name}`, mechanism), await outcome(name, `pw-${name}`, mechanism), await outcome(name, 'wrong', mechanism)]).to.deep.equal(['success', 'success', 'not-authorized'])
      }
    }
    expect(await outcome('nobody', 'x', 'PLAIN')).to.equal('not-authorized')
  })

  it('have the passwords and tokens of one that is gone', async () => {
    const { connection, success } = await loginBySasl2({ ...address(), user: 'juliet', password: 'pw-juliet', agent: AGENT, inline: `<request-token xmlns='${FAST}' mechanism='HT-SHA-256-NONE'/>` })
    connection.destroy()
    const token = success.getChild('token', FAST)?.attrs['token'] ?? ''
    await server.accounts.setPassword('romeo@localhost', 'new')
    const home = nodes.findIndex(({ node }) => node.storage.isHere('juliet@localhost'))
    const lost = nodes[home] as (typeof nodes)[number]
    // It is killed with what is in its log alone.
    world.cluster.kill(lost.node.inc)
    await lost.auth.stop()
    nodes.splice(home, 1)
    const ended = [outcome('juliet', 'pw-juliet', 'SCRAM-SHA-512'), outcome('juliet', 'wrong', 'SCRAM-SHA-512'), outcome('romeo', 'new', 'PLAIN'), outcome('romeo', 'pw-romeo', 'PLAIN')]
    expect(await Promise.all(ended)).to.deep.equal(['success', 'not-authorized', 'success', 'not-authorized'])
    const again = await loginBySasl2({ ...address(), user: 'juliet', token, mechanism: 'HT-SHA-256-NONE', agent: AGENT, fast: '' })
    again.connection.destroy()
  })
})
