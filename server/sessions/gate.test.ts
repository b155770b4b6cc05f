import { expect } from 'chai'
import type { Storage } from '../storage/shapes.ts'
import { Gate } from './gate.ts'

describe('the gate', () => {
  it('gives one ticket a turn, and another to what comes after a commit in the same turn', () => {
    const callbacks: (() => void)[] = []
    const gate = new Gate({ afterCommit: (callback: () => void) => void callbacks.push(callback) } as unknown as Storage)
    const released: string[] = []
    const waiter = (name: string): { released(ticket: number): void } => ({ released: (ticket) => void released.push(`${name} ${ticket}`) })
    expect(gate.wait(waiter('a'))).to.equal(gate.wait(waiter('b')))
    expect(callbacks).to.have.length(1)
    callbacks[0]?.()
    expect(released).to.deep.equal(['a 1', 'b 1'])
    expect(gate.wait(waiter('c'))).to.equal(2)
    expect(callbacks).to.have.length(2)
    callbacks[1]?.()
    expect(released.at(-1)).to.equal('c 2')
  })
})
