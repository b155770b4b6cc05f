import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { type OwnStage, ownStage } from '../stages.ts'
import { caps2Hash, capsHash } from './capabilities.ts'
import { type Check, judgeSuites, look, readKnownRed, type SuiteFeature } from './check.ts'
import { COUNTED, runCompliance, summary, table } from './compliance.ts'
import { MORE, UNCOUNTED } from './rows.ts'
import { SUITES } from './suites.ts'
import { Visit } from './visit.ts'

const visit = new Visit({ host: '127.0.0.1', port: 0, domain: 'localhost', tls: 'none' })

function check(shown: () => Promise<unknown>, works?: () => Promise<unknown>): Check {
  return { id: 'A1', title: 'Roses', where: 'a garden', shown, ...(works === undefined ? {} : { works }) }
}

const fine = (): Promise<void> => Promise.resolve()
const wrong = (): Promise<never> => Promise.reject(new Error('no rose\nanywhere'))

describe('compliance', () => {
  it('counts a row as green when the feature is shown and works', async () => {
    expect((await look(check(fine, fine), visit)).colour).to.equal('green')
    expect((await look(check(fine), visit)).colour).to.equal('green')
    const red = await look(check(wrong, fine), visit)
    expect([red.colour, red.reason]).to.deep.equal(['red', 'no rose anywhere'])
    expect((await look(check(fine, wrong), visit)).colour).to.equal('broken')
  })

  it('has 63 rows, each with an id of its own, and one that is shown beside them', () => {
    expect(COUNTED).to.have.length(63)
    expect(new Set([...COUNTED, ...UNCOUNTED, ...MORE].map((each) => each.id))).to.have.property('size', 63 + UNCOUNTED.length + MORE.length)
  })

  it('judges a suite by its own features and those of the Core suite', () => {
    const features: SuiteFeature[] = [
      { suite: 'Core', title: 'Streams', advanced: false, rows: ['A1'] },
      { suite: 'Core', title: 'Events', advanced: true, rows: ['A2'] },
      { suite: 'Web', title: 'WebSocket', advanced: false, rows: ['A3', 'A4'] },
    ]
    const levels = (...green: string[]): string[] => [...judgeSuites(features, new Set(green)).values()].map((each) => each.level)
    expect(levels('A1', 'A2', 'A3', 'A4')).to.deep.equal(['Advanced', 'Advanced'])
    expect(levels('A1', 'A3', 'A4')).to.deep.equal(['Core', 'Core'])
    expect(levels('A1', 'A2', 'A3')).to.deep.equal(['Advanced', 'none'])
    expect(levels('A2', 'A3', 'A4')).to.deep.equal(['none', 'none'])
    expect(judgeSuites(features, new Set(['A1', 'A3', 'A4'])).get('Web')?.missing).to.deep.equal(['Events (Core suite)'])
  })

  it('asks for rows that there are', () => {
    const ids = new Set([...COUNTED, ...MORE].map((each) => each.id))
    for (const { title, rows } of SUITES) for (const row of rows) expect(ids.has(row), `${title}: ${row}`).to.equal(true)
  })

  it('reads rows that are known to be red', () => {
    expect([...readKnownRed('# nothing\nA7    a TURN service\n\nE1 more\n')]).to.deep.equal([['A7', 'a TURN service'], ['E1', 'more']])
  })

  it('XEP-0115 §5.2: computes the hash of the example', () => {
    const query = parseElement(`<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' name='Exodus 0.9.1' type='pc'/><feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/></query>`)
    expect(capsHash(query, 'sha-1')).to.equal('QgayPKawpkPSDYmwT/WM94uAlu0=')
  })

  it('XEP-0115 §5.3: computes the hash of the example with a form', () => {
    const query = parseElement(`<query xmlns='http://jabber.org/protocol/disco#info'><identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/><identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/><feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/><x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field><field var='ip_version'><value>ipv4</value><value>ipv6</value></field><field var='os'><value>Mac</value></field><field var='os_version'><value>10.5.1</value></field><field var='software'><value>Psi</value></field><field var='software_version'><value>0.11</value></field></x></query>`)
    expect(capsHash(query, 'sha-1')).to.equal('q07IKJEyjvHSyhy//CH0CxmKi8w=')
  })

  it('XEP-0390 §5.1: computes the hash of the example', () => {
    const features = ['http://jabber.org/protocol/si', 'http://jabber.org/protocol/bytestreams', 'http://jabber.org/protocol/chatstates', 'http://jabber.org/protocol/disco#info', 'http://jabber.org/protocol/disco#items', 'urn:xmpp:ping', 'jabber:iq:time', 'jabber:iq:privacy', 'jabber:iq:version', 'http://jabber.org/protocol/rosterx', 'urn:xmpp:time', 'jabber:x:oob', 'http://jabber.org/protocol/ibb', 'http://jabber.org/protocol/si/profile/file-transfer', 'urn:xmpp:receipts', 'jabber:iq:roster', 'jabber:iq:last']
    const query = parseElement(`<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' name='BombusMod' type='mobile'/>${features.map((each) => `<feature var='${each}'/>`).join('')}</query>`)
    expect(caps2Hash(query, 'sha-256')).to.equal('kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8=')
  })

  describe('of our own server', () => {
    let own: OwnStage | undefined
    before(async () => { own = await ownStage() })
    after(async () => { await own?.[Symbol.asyncDispose]() })

    it('uses what it is shown, with accounts of its own', async () => {
      const { stage } = own as OwnStage
      const compliance = await runCompliance(stage, undefined, 'a')
      const colours = new Map(compliance.rows.map((each) => [each.check.id, `${each.colour} ${each.reason}`]))
      for (const id of ['A1', 'A2', 'A3', 'A5', 'A6', 'A12', 'D2', 'D3']) expect(colours.get(id), id).to.equal('green ')
      expect(table(compliance)).to.contain('A2   Carbons')
      expect(summary(compliance)).to.match(/^\d+ of \d+ green \(A \d+\/16/)
    }).timeout(60_000)

    it('can do with accounts that are there', async () => {
      const { stage } = own as OwnStage
      await using first = new Visit(stage)
      await first.begin()
      const { rows } = await runCompliance(stage, [first.juliet, first.romeo], 'change of password')
      expect(rows.map((each) => `${each.check.id} ${each.colour}`)).to.deep.equal(['D3 green'])
      await (await first.enter(first.juliet, {}, false)).disconnect()
    })
  })
})
