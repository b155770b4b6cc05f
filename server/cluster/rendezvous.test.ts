import { expect } from 'chai'
import { chooseNode } from './rendezvous.ts'

const node = (name: string, more: { roles?: string[]; leaving?: boolean } = {}) => ({ name, roles: ['chat'], leaving: false, ...more })
const UNITS = Array.from({ length: 3000 }, (_, i) => `user${i}@example.org`)

describe('the node chosen for a unit', () => {
  const three = [node('a'), node('b'), node('c')]

  it('is the same whatever the order of nodes, and each has its share', () => {
    const shares = new Map<string, number>()
    for (const unit of UNITS) {
      const chosen = chooseNode(unit, three)?.name as string
      expect(chooseNode(unit, three.toReversed())?.name).to.equal(chosen)
      shares.set(chosen, (shares.get(chosen) ?? 0) + 1)
    }
    for (const name of ['a', 'b', 'c']) expect(shares.get(name)).to.be.within(900, 1100)
  })

  it('changes for those of a node that goes alone', () => {
    for (const unit of UNITS) {
      const before = chooseNode(unit, three)?.name
      const after = chooseNode(unit, three.slice(0, 2))?.name
      if (before !== 'c') expect(after).to.equal(before)
    }
  })

  it('is none that leaves or takes no clients, unless all leave', () => {
    for (const unit of UNITS.slice(0, 100)) {
      expect(chooseNode(unit, [node('a', { leaving: true }), node('b'), node('c', { roles: ['upload'] })])?.name).to.equal('b')
      expect(chooseNode(unit, [node('a', { leaving: true })])?.name).to.equal('a')
    }
    expect(chooseNode('x', [node('c', { roles: ['upload'] })])).to.equal(undefined)
  })
})
