import { expect } from 'chai'
import { type RoundResult, runRound, ServerProcess } from '../conformance/durability.ts'

/** How long a server may take to stop. */
const STOP_MS = 5000

describe('what was acknowledged is delivered once and stands once in both archives', () => {
  let server: ServerProcess

  before(async () => { server = await ServerProcess.start() })
  after(async () => { await server[Symbol.asyncDispose]() })

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    for (const round of [0, 1]) {
      it(`${signal}, ${round === 0 ? 'once' : 'twice'}, with recipients online, silent, away and logging in anew`, async () => {
        const result: RoundResult = await runRound(server, round, signal, { sent: 400, kills: 1 + round })
        expect(result.faults).to.deep.equal([])
        expect(result.acknowledged).to.be.greaterThan(0)
        if (signal === 'SIGTERM') expect(result.stopMs).to.be.lessThan(STOP_MS)
      })
    }
  }
})
