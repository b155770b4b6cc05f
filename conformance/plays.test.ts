/** All plays, against a server of our own. */
import { loadPlays, ownStage } from './stages.ts'

const plays = await loadPlays()

describe('conformance', () => {
  let own: Awaited<ReturnType<typeof ownStage>> | undefined
  before(async () => { own = await ownStage() })
  after(async () => { await own?.close() })
  for (const play of plays) {
    it(play.title, async () => {
      if (own !== undefined) await play.run(own.stage)
    })
  }
})
