import { expect } from 'chai'
import { type RoundResult, runRound, ServerProcess } from '../conformance/durability.ts'

/** How long a server may take to stop. */
const STOP_MS = 5000

describe('what was acknowledged is delivered once and stands once in both archives', () => {
  let server: ServerProcess

  before(async () => { server = await ServerProcess.start() })
  after(async () => { await server[Symbol.asyncDispose]() })

  // The ways of clients that come late differ from round to round.
  for (const [signal, round, kills] of [['SIGKILL', 0, 1], ['SIGKILL', 1, 2], ['SIGTERM', 0, 1], ['SIGTERM', 2, 1]] as const) {
    it(`${signal}, ${kills === 1 ? 'once' : 'twice'}, with recipients online, silent, away and logging in anew (round ${round})`, async () => {
      const result: RoundResult = await runRound(server, round, signal, { sent: 400, kills })
      expect(result.faults).to.deep.equal([])
      expect(result.acknowledged).to.be.greaterThan(0)
      if (signal === 'SIGTERM') expect(result.stopMs).to.be.lessThan(STOP_MS)
    })
  }
})
