/** One round of each fault, with fewer users; `node conformance/faults.ts` has more. */
import { expect } from 'chai'
import { Cluster, FAULTS, whyNoCut } from './faults.ts'

const whyNot = whyNoCut()

describe('nodes of a cluster under load', function () {
  this.timeout(600_000)
  let cluster: Cluster

  before(async () => { cluster = await Cluster.start({ rate: 200, pairs: 6, canCut: whyNot === undefined }) })
  after(async () => { await cluster?.[Symbol.asyncDispose]() })

  for (const fault of FAULTS) {
    const title = fault === 'cut' ? 'a node that is cut off from all others' : fault === 'between' ? 'two nodes between which nothing gets through' : `the death of ${fault === 'node' ? 'a node' : fault === 'worker' ? 'the archive worker' : fault}`
    it(`lose and double nothing by ${title}`, async function () {
      if ((fault === 'cut' || fault === 'between') && whyNot !== undefined) {
        console.log(`      ${whyNot}`)
        this.skip()
      }
      const { messages, acknowledged, faults, notResumed } = await cluster.run(fault)
      expect(faults).to.deep.equal([])
      expect(notResumed).to.equal(0)
      expect(acknowledged).to.be.above(0)
      expect(messages).to.be.above(acknowledged)
    })
  }
})
