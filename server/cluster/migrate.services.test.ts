import { execFile } from 'node:child_process'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { startRedis } from '../../services/services.ts'
import { loadConfig } from '../config/config.ts'
import { fetchFile, fillAccount, PASSWORD, readAccount } from '../full-account.fixture.ts'
import { createLog } from '../log.ts'
import { createServer, type Server } from '../server.ts'
import { TEST_CONFIG, type TestServer } from '../test-server.ts'
import { STORES } from './stores.fixture.ts'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')

async function serve(config: string, dataDir: string): Promise<Server> {
  return await createServer({ config: loadConfig(config).config, dataDir, log: createLog('silent') })
}

/** A server as the helpers of tests know it. */
function siteOf(server: Server): TestServer {
  const portOf = (tls: boolean): number => server.ports.find((each) => each.module === 'ejabberd_c2s' && each.tls === tls)?.port ?? 0
  return {
    server, host: '127.0.0.1', domain: 'localhost', port: portOf(false), tlsPort: portOf(true), dataDir: server.dataDir,
    restart: () => Promise.reject(new Error('it is not restarted')),
    [Symbol.asyncDispose]: () => server.close(),
  }
}

for (const [storeName, configOf] of Object.entries(STORES)) describe(`tidings migrate to ${storeName}`, () => {
  it('brings a server into a cluster, where its users find everything', async function () {
    this.timeout(400_000)
    const store = await configOf(`migrate${process.pid}`)
    await using redis = await startRedis()
    const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    const [data, copy] = [path.join(dir, 'data'), path.join(dir, 'copy')]
    const [alone, node] = [path.join(dir, 'alone.yml'), path.join(dir, 'node.yml')]
    await writeFile(alone, TEST_CONFIG)
    await writeFile(node, `${TEST_CONFIG}
tidings:
  ${store}
  cluster: {node: one, redis: {url: "redis://127.0.0.1:${redis.ports[0]}"}}
`)
    const migrate = async (config: string): Promise<string> => {
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [BIN, 'migrate', '--config', config, '--data', data]).catch((error: { stdout: string; stderr: string }) => error)
      return stdout + stderr
    }
    try {
      let url = ''
      {
        await using server = await serve(alone, data)
        for (const user of ['juliet', 'romeo', 'stranger']) await server.register(`${user}@localhost`, PASSWORD)
        url = await fillAccount(siteOf(server))
        expect(await migrate(node)).to.match(/in use/)
      }
      await cp(data, copy, { recursive: true, filter: (each) => path.basename(each) !== 'lock' })
      const expected = await (async () => {
        await using server = await serve(alone, copy)
        return await readAccount(siteOf(server))
      })()
      expect(expected['archive']).to.have.lengthOf(3)
      expect(expected['offline']).to.have.lengthOf(1)
      expect(await migrate(alone)).to.match(/tidings.cluster is not configured/)
      expect(await migrate(node)).to.match(/^Brought \d+ records, 6 items of history, 1 offline stanzas, 0 streams and 0 files/m)
      expect(await migrate(node)).to.match(/localhost has been brought into this cluster already/)
      await using server = await serve(node, data)
      expect(await readAccount(siteOf(server))).to.deep.equal(expected)
      expect((await fetchFile(siteOf(server), url)).body).to.equal('rose')
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  })
})
