import { expect } from 'chai'
import fc from 'fast-check'
import { startNameServer } from './dns.fixture.ts'
import { DnsError, addressesInHosts, addressesOf, asciiDomain, createDns, inOrder, locate } from './resolve.ts'

const SERVER = '_xmpp-server._tcp.'
const DIRECT = '_xmpps-server._tcp.'

describe('where the server of a domain is', () => {
  it('both services are one list, lower priorities first (RFC 2782; XEP-0368 §2)', async () => {
    await using names = await startNameServer({
      [`${SERVER}a.example`]: { SRV: [[20, 0, 5269, 'Late.example'], [5, 0, 5269, 'first.example']] },
      [`${DIRECT}a.example`]: { SRV: [[10, 0, 5270, 'middle.example']] },
    })
    const found = await locate('a.example', { dns: createDns({ servers: [names.address] }) })
    expect(found.targets).to.deep.equal([
      { host: 'first.example', port: 5269, isDirectTls: false },
      { host: 'middle.example', port: 5270, isDirectTls: true },
      { host: 'late.example', port: 5269, isDirectTls: false },
    ])
    expect(found.steps).to.deep.equal([`SRV of ${DIRECT}a.example: 10 0 5270 middle.example`, `SRV of ${SERVER}a.example: 20 0 5269 Late.example, 5 0 5269 first.example`])
  })

  it('without records the domain itself is tried on port 5269, or on the one that is configured (RFC 6120 §3.2.2)', async () => {
    await using names = await startNameServer({})
    const dns = createDns({ servers: [names.address] })
    expect((await locate('a.example', { dns })).targets).to.deep.equal([{ host: 'a.example', port: 5269, isDirectTls: false }])
    expect((await locate('a.example', { dns, port: 7000 })).targets).to.deep.equal([{ host: 'a.example', port: 7000, isDirectTls: false }])
  })

  it('a target "." says that there is no service, and nothing else is tried (RFC 6120 §3.2.1)', async () => {
    await using names = await startNameServer({ [`${SERVER}a.example`]: { SRV: [[0, 0, 0, '.']] } })
    const found = await locate('a.example', { dns: createDns({ servers: [names.address] }) })
    expect(found.targets).to.deep.equal([])
    expect(found.steps.at(-1)).to.equal('so a.example has no server for other servers')
  })

  it('a target "." for direct TLS leaves the records for STARTTLS, and no others (XEP-0368 §3)', async () => {
    await using names = await startNameServer({
      [`${DIRECT}a.example`]: { SRV: [[0, 0, 0, '.']] },
      [`${SERVER}a.example`]: { SRV: [[0, 0, 5269, 'x.example']] },
      [`${DIRECT}b.example`]: { SRV: [[0, 0, 0, '.']] },
    })
    const dns = createDns({ servers: [names.address] })
    expect((await locate('a.example', { dns })).targets).to.deep.equal([{ host: 'x.example', port: 5269, isDirectTls: false }])
    expect((await locate('b.example', { dns })).targets).to.deep.equal([])
  })

  it('names beyond ASCII are asked for as A-labels', async () => {
    await using names = await startNameServer({ [`${SERVER}xn--bcher-kva.example`]: { SRV: [[0, 0, 5269, 'xn--mller-kva.example']] } })
    expect((await locate('bücher.example', { dns: createDns({ servers: [names.address] }) })).targets.map(({ host }) => host)).to.deep.equal(['xn--mller-kva.example'])
  })

  it('CNAMEs are followed, of records as of addresses', async () => {
    await using names = await startNameServer({
      [`${SERVER}a.example`]: { CNAME: `${SERVER}elsewhere.example` },
      [`${SERVER}elsewhere.example`]: { SRV: [[0, 0, 5269, 'alias.example']] },
      'alias.example': { CNAME: 'real.example' },
      'real.example': { A: ['192.0.2.1'], AAAA: ['2001:db8::1'] },
    })
    const dns = createDns({ servers: [names.address] })
    const [target] = (await locate('a.example', { dns })).targets
    expect(target?.host).to.equal('alias.example')
    expect(await addressesOf('alias.example', [6, 4], dns)).to.deep.equal([{ family: 6, addresses: ['2001:db8::1'] }, { family: 4, addresses: ['192.0.2.1'] }])
  })

  it('addresses are their own server, and DNS is not asked', async () => {
    await using names = await startNameServer({})
    const dns = createDns({ servers: [names.address] })
    expect((await locate('192.0.2.7', { dns })).targets).to.deep.equal([{ host: '192.0.2.7', port: 5269, isDirectTls: false }])
    expect((await locate('[2001:db8::7]', { dns })).targets).to.deep.equal([{ host: '2001:db8::7', port: 5269, isDirectTls: false }])
    expect(await addressesOf('192.0.2.7', [6, 4], dns)).to.deep.equal([{ family: 6, addresses: [] }, { family: 4, addresses: ['192.0.2.7'] }])
    expect(names.questions).to.deep.equal([])
  })

  it('questions without an answer are asked as often as configured, and the domain itself is tried then (RFC 6120 §3.2.1)', async () => {
    await using names = await startNameServer({ [`${SERVER}a.example`]: { fails: 'silent' }, [`${DIRECT}a.example`]: { fails: 'silent' }, 'a.example': { fails: 'SERVFAIL' } })
    const dns = createDns({ servers: [names.address], timeoutMs: 100, retries: 2 })
    const found = await locate('a.example', { dns })
    expect(found.isIncomplete).to.equal(true)
    expect(found.targets).to.deep.equal([{ host: 'a.example', port: 5269, isDirectTls: false }])
    expect(found.steps[1]).to.equal(`SRV of ${SERVER}a.example: the name server does not answer`)
    expect(names.questions.filter((each) => each === `SRV ${SERVER}a.example`)).to.have.length(3)
    const failed = await dns.addresses('a.example', 4).catch((error: unknown) => error)
    expect(failed).to.be.instanceOf(DnsError)
    expect((failed as Error).message).to.equal('A of a.example: the name server has failed (SERVFAIL)')
  })

  it('one service is enough when there is no answer about the other', async () => {
    await using names = await startNameServer({ [`${DIRECT}a.example`]: { fails: 'SERVFAIL' }, [`${SERVER}a.example`]: { SRV: [[0, 0, 5269, 'x.example']] } })
    const found = await locate('a.example', { dns: createDns({ servers: [names.address] }) })
    expect(found.targets.map(({ host }) => host)).to.deep.equal(['x.example'])
    expect(found.isIncomplete).to.equal(true)
  })

  it('a signal ends the questions that are open', async () => {
    await using names = await startNameServer({ [`${SERVER}a.example`]: { fails: 'silent' }, [`${DIRECT}a.example`]: { fails: 'silent' } })
    const stop = new AbortController()
    const locating = locate('a.example', { dns: createDns({ servers: [names.address] }), signal: stop.signal })
    setTimeout(() => { stop.abort() }, 50)
    expect((await locating).isIncomplete).to.equal(true)
  })

  it('long answers come over TCP, and of many targets sixteen are tried', async () => {
    await using names = await startNameServer({ [`${SERVER}a.example`]: { SRV: Array.from({ length: 60 }, (_, at) => [at, 0, 5269, `x${at}.example`] as const) } })
    const { targets } = await locate('a.example', { dns: createDns({ servers: [names.address] }) })
    expect(targets.map(({ host }) => host)).to.deep.equal(Array.from({ length: 16 }, (_, at) => `x${at}.example`))
  })

  it('records with what cannot be connected to are left out', async () => {
    await using names = await startNameServer({ [`${SERVER}a.example`]: { SRV: [[0, 0, 0, 'x.example'], [1, 0, 5269, 'y.example']] } })
    expect((await locate('a.example', { dns: createDns({ servers: [names.address] }) })).targets.map(({ host }) => host)).to.deep.equal(['y.example'])
  })

  it('no name server at all is no answer', async () => {
    const gone = await startNameServer({})
    await gone[Symbol.asyncDispose]()
    const found = await locate('a.example', { dns: createDns({ servers: [gone.address], timeoutMs: 200, retries: 0 }) })
    expect(found.isIncomplete).to.equal(true)
  })

  it('the file of hosts is read as the system reads it', () => {
    const text = '127.0.0.1 localhost\n# 192.0.2.9 a.example\n2001:db8::1\tA.example  b.example # two\n192.0.2.1 a.example\nnonsense a.example\n'
    expect(addressesInHosts(text, 'a.example')).to.deep.equal(['2001:db8::1', '192.0.2.1'])
    expect(addressesInHosts(text, 'two')).to.deep.equal([])
  })

  it('what cannot be a name is none', () => {
    for (const domain of ['a..example', `${'a'.repeat(64)}.example`, `${'abcdefg.'.repeat(40)}example`]) expect(asciiDomain(domain), domain).to.equal(undefined)
    expect(asciiDomain('A.Example.')).to.equal('a.example')
  })
})

describe('the order of SRV records (RFC 2782)', () => {
  const record = (target: string, priority: number, weight: number): { target: string; priority: number; weight: number } => ({ target, priority, weight })

  it('among equals each comes first as often as its weight says', () => {
    const counts: Record<string, number> = {}
    const total = 4001
    for (let at = 0; at < total; at++) {
      const [first] = inOrder([record('a', 0, 3000), record('b', 0, 1000), record('c', 0, 0)], () => at / total)
      if (first !== undefined) counts[first.target] = (counts[first.target] ?? 0) + 1
    }
    // Drawn from 0 to 4000, each number once: 0 is what is left to a weight of 0.
    expect(counts).to.deep.equal({ a: 3000, b: 1000, c: 1 })
  })

  it('weights of nothing but 0 leave nobody out', () => {
    expect(inOrder([record('a', 0, 0), record('b', 0, 0)], () => 0.999).map(({ target }) => target)).to.deep.equal(['a', 'b'])
  })

  it('every record is in the order once, and priorities rise', () => {
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(65535))), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (drawn, random) => {
      const records = drawn.map(([priority, weight], at) => record(String(at), priority, weight))
      const ordered = inOrder(records, () => random)
      expect(ordered.map(({ target }) => target).toSorted()).to.deep.equal(records.map(({ target }) => target).toSorted())
      for (const [at, { priority }] of ordered.entries()) if (at > 0) expect(priority).to.be.at.least(ordered[at - 1]?.priority ?? 0)
    }))
  })
})
