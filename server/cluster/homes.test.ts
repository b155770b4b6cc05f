import { expect } from 'chai'
import { createLog } from '../log.ts'
import { decodeFrame, encodeFrame } from './frames.ts'
import { Homes } from './homes.ts'
import type { Units } from './shapes.ts'

const JULIET = 'juliet@capulet.lit'
const nothing = (): void => undefined

/** A node's units; what a test does not speak of does nothing. */
function unitsWith(more: Partial<Units>): Units {
  return {
    inc: 'a', nodes: [],
    isHere: () => false,
    claim: () => Promise.reject(new Error('not asked for')),
    find: () => Promise.resolve(undefined),
    outgoing: nothing, keep: () => nothing, incoming: nothing, returned: nothing, left: () => Promise.resolve(), onChange: nothing, pin: () => nothing,
    onClaimed: nothing, onReleased: nothing, beforeMove: nothing, onLost: nothing, leaving: () => Promise.resolve(), leave: () => Promise.resolve(),
    ...more,
  }
}

describe('homes of units', () => {
  it('that come here: what comes back takes effect before who sends later is heard', async () => {
    const left = Promise.withResolvers<void>()
    const handled: string[] = []
    let here = false
    let returned: Parameters<Units['returned']>[0] = () => undefined
    let changed: (gone: readonly string[]) => void = () => undefined
    const units = unitsWith({
      isHere: () => here,
      claim: () => Promise.resolve('a'),
      find: () => Promise.resolve(here ? 'a' : 'b'),
      returned: (handler) => { returned = handler },
      left: () => left.promise,
      onChange: (listener) => { changed = listener },
    })
    const homes = new Homes({ units, log: createLog('silent'), handle: ({ id }) => { handled.push(id) }, lost: () => undefined })
    await homes.wait(JULIET)
    changed(['b'])
    // Who recovers that node is this one, and has the unit already.
    here = true
    const mayBeHeard = homes.wait(JULIET)?.then(() => handled.push('heard'))
    returned(encodeFrame({ kind: 'stanza', unit: JULIET, id: '1' }), () => undefined, 'b')
    left.resolve()
    await mayBeHeard
    expect(handled).to.deep.equal(['1', 'heard'])
    expect(homes.wait(JULIET)).to.equal(undefined)
  })

  it('that come here with what a lost node had not done: that takes effect before what was sent there and has come back', async () => {
    const handled: string[] = []
    const claimed = Promise.withResolvers<string>()
    let here = false
    let returned: Parameters<Units['returned']>[0] = () => undefined
    const units = unitsWith({
      isHere: () => here,
      claim: () => claimed.promise,
      returned: (handler) => { returned = handler },
    })
    const homes = new Homes({ units, log: createLog('silent'), handle: ({ id }) => { handled.push(id) }, lost: nothing })
    returned(encodeFrame({ kind: 'stanza', unit: JULIET, id: '2' }), nothing, 'b')
    await new Promise(setImmediate)
    here = true
    returned(encodeFrame({ kind: 'stanza', unit: JULIET, id: '1' }), nothing, undefined)
    claimed.resolve('a')
    await homes.wait(JULIET)
    await new Promise(setImmediate)
    expect(handled).to.deep.equal(['1', '2'])
  })

  it('that have just come here: what waited for that takes effect before who sends now is heard', async () => {
    const handled: string[] = []
    const claimed = Promise.withResolvers<string>()
    let here = false
    let incoming: Parameters<Units['incoming']>[0] = () => undefined
    const units = unitsWith({
      isHere: () => here,
      claim: () => claimed.promise,
      incoming: (handler) => { incoming = handler },
    })
    const homes = new Homes({ units, log: createLog('silent'), handle: ({ id }) => { handled.push(id) }, lost: nothing })
    incoming('b', encodeFrame({ kind: 'stanza', unit: JULIET, id: '1' }), nothing)
    here = true
    const mayBeHeard = homes.wait(JULIET)?.then(() => handled.push('heard'))
    claimed.resolve('a')
    await mayBeHeard
    expect(handled).to.deep.equal(['1', 'heard'])
  })

  it('that come here from a node that passes on what it gets: what was sent there takes effect before who sends later is heard', async () => {
    const handled: string[] = []
    let here = false
    let incoming: Parameters<Units['incoming']>[0] = () => undefined
    let came: Parameters<Units['onClaimed']>[0] = nothing
    const sent: { readonly inc: string; readonly frame: Buffer }[] = []
    const node = (inc: string): Units['nodes'][number] => ({ inc, name: inc, address: '', roles: [], leaving: inc === 'b' })
    const units = unitsWith({
      nodes: [node('a'), node('b')],
      isHere: () => here,
      claim: () => {
        here = true
        came(JULIET, [])
        return Promise.resolve('a')
      },
      onClaimed: (listener) => { came = listener },
      find: () => Promise.resolve(here ? 'a' : 'b'),
      outgoing: (inc, frame) => { sent.push({ inc, frame }) }, 
      incoming: (handler) => { incoming = handler },
    })
    const homes = new Homes({ units, log: createLog('silent'), handle: ({ id }) => { handled.push(id) }, lost: () => undefined })
    await homes.wait(JULIET)
    for (const id of ['1', '2']) homes.send({ kind: 'stanza', unit: JULIET, id, durable: true })
    // It passes them on, one after the other, as this node is the home now.
    incoming('b', sent[0]?.frame as Buffer, () => undefined)
    await new Promise(setImmediate)
    expect(handled).to.deep.equal(['1'])
    const mayBeHeard = homes.wait(JULIET)?.then(() => handled.push('heard'))
    for (const { inc, frame } of sent.slice(1)) {
      expect(inc).to.equal('b')
      incoming('b', frame, () => undefined)
    }
    await mayBeHeard
    expect(handled).to.deep.equal(['1', '2', 'heard'])
    expect(homes.wait(JULIET)).to.equal(undefined)
  })

  it('that are not known: what is durable is kept until it leaves, once it is known', async () => {
    const found = Promise.withResolvers<string>()
    const events: string[] = []
    const units = unitsWith({
      find: () => found.promise,
      outgoing: (_inc, frame) => { events.push(`sent ${decodeFrame(frame).id}`) },
      keep: (frame) => {
        const { id } = decodeFrame(frame)
        events.push(`kept ${id}`)
        return () => { events.push(`over ${id}`) }
      },
    })
    const homes = new Homes({ units, log: createLog('silent'), handle: nothing, lost: nothing })
    homes.send({ kind: 'stanza', unit: JULIET, id: '1', durable: true })
    homes.send({ kind: 'stanza', unit: JULIET, id: '2' })
    expect(events).to.deep.equal(['kept 1'])
    found.resolve('b')
    await homes.wait(JULIET)
    expect(events).to.deep.equal(['kept 1', 'sent 1', 'over 1', 'sent 2'])
  })

  for (const isTold of [true, false]) {
    it(`that are gone: what comes back leaves before what was sent later, ${isTold ? 'once it is known that the node is over' : 'though nobody has said so yet'}`, async () => {
      let home = 'b'
      const sent: string[] = []
      const left = Promise.withResolvers<void>()
      let returned: Parameters<Units['returned']>[0] = () => undefined
      let changed: (gone: readonly string[]) => void = () => undefined
      const units = unitsWith({
        find: () => Promise.resolve(home),
        outgoing: (inc, frame) => { sent.push(`${inc} ${decodeFrame(frame).id}`) },
        returned: (handler) => { returned = handler },
        left: () => left.promise,
        onChange: (listener) => { changed = listener },
      })
      const frames: Buffer[] = []
      const homes = new Homes({ units: { ...units, outgoing: (inc, frame) => { frames.push(frame); units.outgoing(inc, frame, true) } }, log: createLog('silent'), handle: () => undefined, lost: () => undefined })
      await homes.wait(JULIET)
      for (const id of ['1', '2']) homes.send({ kind: 'stanza', unit: JULIET, id })
      expect(sent.splice(0)).to.deep.equal(['b 1', 'b 2'])
      home = 'c'
      const [first, second] = frames as [Buffer, Buffer]
      if (isTold) changed(['b'])
      else returned(first, () => undefined, 'b')
      homes.send({ kind: 'stanza', unit: JULIET, id: '3' })
      // A directory answers sooner than this.
      await new Promise((resolve) => { setTimeout(resolve, 20) })
      expect(sent).to.deep.equal([])
      if (isTold) returned(first, () => undefined, 'b')
      returned(second, () => undefined, 'b')
      left.resolve()
      await homes.wait(JULIET)
      homes.send({ kind: 'stanza', unit: JULIET, id: '4' })
      expect(sent).to.deep.equal(['c 1', 'c 2', 'c 3', 'c 4'])
    })
  }
})
