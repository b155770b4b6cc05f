/** `tidings serve` as several processes, as its users run it: chat among them, and kills. */
import { expect } from 'chai'
import { runRound, startServer } from './durability.ts'
import type { ServerProcess } from './server-process.ts'

describe('a server of several processes', function () {
  // Processes take their time to start where others work, too.
  this.timeout(300_000)

  let server: ServerProcess
  before(async () => { server = await startServer(2) })
  after(async () => { await server[Symbol.asyncDispose]() })

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
})
