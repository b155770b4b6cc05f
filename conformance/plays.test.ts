/** All plays, against a server of our own. */
import { loadPlays, type OwnStage, ownStage } from './stages.ts'

const plays = await loadPlays()

describe('conformance', () => {
  let own: OwnStage | undefined
  before(async () => { own = await ownStage() })
  after(async () => { await own?.[Symbol.asyncDispose]() })
  for (const play of plays) {
    it(play.title, async () => {
      if (own !== undefined) await play.run(own.stage)
    })
  }
})
