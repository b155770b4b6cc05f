import { expect } from 'chai'
import { connect, type ConnectOptions } from '../lib/client/client.ts'
import { startTestServer, TEST_CONFIG } from './test-server.ts'

describe('the server', () => {
  it('opens the listener for operators that the configuration names, and closes it with the rest', async () => {
    const site = await startTestServer({ config: `${TEST_CONFIG}tidings: {metrics: {port: 0}}\n` })
    const port = site.server.ports.find((each) => each.module === 'metrics')?.port
    try {
      const health = await fetch(`http://127.0.0.1:${port}/health`)
      expect([health.status, (await health.json() as { healthy: boolean }).healthy]).to.deep.equal([200, true])
      expect(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).to.contain('tidings_storage_healthy 1')
    } finally {
      await site[Symbol.asyncDispose]()
    }
    expect(await fetch(`http://127.0.0.1:${port}/health`).then(() => 'open', () => 'closed')).to.equal('closed')
  })
})

describe('an account that is being removed', () => {
  it('leaves its name to nobody before all of it is gone', async () => {
    await using site = await startTestServer({ accounts: { juliet: 'pencil' } })
    const [begun, on] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    site.server.hosts.get('localhost')?.hooks.accountRemoved(async () => {
      begun.resolve()
      await on.promise
    })
    const outcome = (attempt: Promise<unknown>): Promise<string> => attempt.then(() => 'done', (error: { condition: string }) => error.condition)
    const removing = site.server.unregister('juliet@localhost')
    await begun.promise
    expect(await outcome(site.server.register('juliet@localhost', 'other'))).to.equal('conflict')
    expect(await outcome(site.server.unregister('juliet@localhost'))).to.equal('item-not-found')
    on.resolve()
    await removing
    expect(await outcome(site.server.register('juliet@localhost', 'other'))).to.equal('done')
    expect(await site.server.accounts.checkPassword('juliet@localhost', 'other')).to.equal(true)
  })
})

describe('a server that stops', () => {
  it('leaves the streams that can be resumed unfinished, and closes the others with system-shutdown (XEP-0198 §5)', async () => {
    const site = await startTestServer({ accounts: { juliet: 'pencil' } })
    const options: ConnectOptions = { host: site.host, port: site.port, domain: site.domain, tls: 'none', user: 'juliet', password: 'pencil' }
    try {
      const resumable = await connect({ ...options, resource: 'balcony', sm: true })
      const plain = await connect({ ...options, resource: 'chamber' })
      const heard: string[] = []
      resumable.connection.onIncoming = ({ kind }) => { heard.push(kind) }
      await site.restart()
      await plain.closed
      expect(plain.streamError?.condition).to.equal('system-shutdown')
      expect(heard).to.include('close').and.not.include('end')
      const back = await connect({ ...options, port: site.port, resume: resumable.resumeState() })
      expect(back.resumed).to.equal(true)
      await back.disconnect()
    } finally {
      await site[Symbol.asyncDispose]()
    }
  })
})
