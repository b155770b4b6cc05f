import { expect } from 'chai'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import type { Element } from '../../lib/xml/element.ts'
import { abuseReports } from './abuse-reports.ts'
import { blocking } from './blocking.ts'
import type { Parts } from './extension.ts'
import { conditionOf, fakeParts, stanza } from './fake-parts.ts'

const NS = 'urn:xmpp:reporting:1'
const JULIET = 'juliet@example.net'
const CLIENT = `${JULIET}/balcony`
const SPAMMER = 'spammer@elsewhere.example'
const SPAM = 'urn:xmpp:reporting:spam'

describe('XEP-0377 reports of abuse', () => {
  function started(sendTo: readonly string[] = []) {
    const fake = fakeParts()
    fake.allowed.rules = (rule) => rule !== 'none' && rule !== 'local'
    const logged: Record<string, unknown>[] = []
    const log = { ...fake.parts.log, info: (entry: Record<string, unknown>) => { logged.push(entry) } } as unknown as Parts['log']
    const others = { log, config: { tidings: { reports: { sendTo } } } as unknown as Parts['config'] }
    fake.start(blocking, {}, others)
    fake.start(abuseReports, {}, others)
    const block = (inner: string, jid = SPAMMER): Promise<Element> => fake.ask(CLIENT, 'set', `<block xmlns='urn:xmpp:blocking'><item jid='${jid}'>${inner}</item></block>`)
    const list = async (): Promise<(string | undefined)[]> => (await fake.ask(CLIENT, 'get', "<blocklist xmlns='urn:xmpp:blocking'/>")).getChild('blocklist')?.getChildren('item').map((each) => each.attrs['jid']) ?? []
    const sent = async (): Promise<Element[]> => {
      await new Promise(setImmediate)
      return fake.routed.filter((each) => each.name === 'message').map((each) => each.element())
    }
    return { fake, logged, block, list, sent }
  }
  const report = (inner = '', reason = SPAM): string => `<report xmlns='${NS}' reason='${reason}'>${inner}</report>`

  it('§2: is a feature of the host', () => {
    const { fake } = started()
    expect(fake.disco.ownInfo('host').getChildren('feature').map((each) => each.attrs['var'])).to.include(NS)
  })

  it('§5: blocks, and logs who reports whom and why', async () => {
    const { logged, block, list, sent } = started()
    expect((await block(report("<text xml:lang='en'>Never came trouble to my house like this.</text>"))).attrs['type']).to.equal('result')
    expect(await list()).to.deep.equal([SPAMMER])
    expect(logged).to.deep.equal([{ what: 'abuse_reported', owner: JULIET, jid: SPAMMER, reason: SPAM, text: 'Never came trouble to my house like this.', messages: [] }])
    expect(await sent()).to.deep.equal([])
  })

  it('§5: blocks as without a report what is reported without a reason', async () => {
    const { logged, block, list } = started()
    await block(`<report xmlns='${NS}'/>`)
    expect(await list()).to.deep.equal([SPAMMER])
    expect(logged).to.deep.equal([])
    expect(conditionOf(await block(report(), '@'))).to.equal('jid-malformed')
    expect(logged).to.deep.equal([])
  })

  it('§7: a report is of its own address among several', async () => {
    const { fake, logged } = started()
    await fake.ask(CLIENT, 'set', `<block xmlns='urn:xmpp:blocking'><item jid='a@a.example'/><item jid='b@b.example'>${report('', 'urn:xmpp:reporting:abuse')}</item></block>`)
    expect(logged.map(({ jid, reason }) => [jid, reason])).to.deep.equal([['b@b.example', 'urn:xmpp:reporting:abuse']])
  })

  it('§5: sends it to whoever runs the server, with the messages that the archive has of the address', async () => {
    const { fake, block, sent } = started(['admin@example.net', 'abuse@example.net'])
    const ids = [nextMessageId(), nextMessageId()] as const
    const [spam, love] = [['spam@x', 'Buy!', SPAMMER], ['love@x', 'My secret', 'romeo@example.net']].map(([, body, from]) => stanza(`<message xmlns='jabber:client' from='${from}/x' to='${JULIET}'><body>${body}</body></message>`).bytes())
    fake.storage.archive.append({ id: ids[0], bytes: spam as Buffer, owners: [{ owner: JULIET, with: SPAMMER }] })
    fake.storage.archive.append({ id: ids[1], bytes: love as Buffer, owners: [{ owner: JULIET, with: 'romeo@example.net' }] })
    await block(report(`${[...ids, 'no-such-id'].map((id) => `<stanza-id xmlns='urn:xmpp:sid:0' by='${JULIET}' id='${id}'/>`).join('')}<text>Help</text>`))
    const messages = await sent()
    expect(messages.map((each) => [each.attrs['from'], each.attrs['to']])).to.deep.equal([['example.net', 'admin@example.net'], ['example.net', 'abuse@example.net']])
    for (const message of messages) {
      expect(message.getChildText('body')).to.equal(`${JULIET} reports ${SPAMMER}: spam\nHelp\n> Buy!`)
      expect(message.getChild('report', NS)?.attrs['reason']).to.equal(SPAM)
      expect(message.getChild('report', NS)?.getChildText('jid')).to.equal(SPAMMER)
      const forwarded = message.getChildren('forwarded', 'urn:xmpp:forward:0')
      expect(forwarded.map((each) => each.getChild('message', 'jabber:client')?.getChildText('body'))).to.deep.equal(['Buy!'])
      expect(forwarded[0]?.getChild('delay', 'urn:xmpp:delay')).to.not.equal(undefined)
    }
  })

  it('sends no more than so many bytes of what is reported, and the beginning of each message', async () => {
    const { fake, block, sent } = started(['admin@example.net'])
    const ids = Array.from({ length: 12 }, (_, at) => {
      const id = nextMessageId()
      const bytes = stanza(`<message xmlns='jabber:client' from='${SPAMMER}/x' to='${JULIET}'><body>${at} ${'x'.repeat(20_000)}</body></message>`).bytes()
      fake.storage.archive.append({ id, bytes, owners: [{ owner: JULIET, with: SPAMMER }] })
      return id
    })
    await block(report(`${ids.map((id) => `<stanza-id xmlns='urn:xmpp:sid:0' by='${JULIET}' id='${id}'/>`).join('')}${`<text>${'y'.repeat(3000)}</text>`.repeat(40)}`))
    const [message] = await sent()
    expect(Buffer.byteLength(String(message))).to.be.below(65_536 + 2 * 10 * 2000 + 10 * 2100 + 5000)
    expect(message?.getChildren('forwarded', 'urn:xmpp:forward:0')).to.have.length(3)
    expect(message?.getChildText('body')?.split('\n').filter((line) => line.startsWith('> '))).to.have.length(10)
    expect(message?.getChild('report', NS)?.getChildren('text')).to.have.length(10)
  })

  it('§4: sends it to others only if the user agrees', async () => {
    const { block, sent } = started(['reports@third.example', 'spam.example.net'])
    await block(report())
    expect((await sent()).map((each) => each.attrs['to'])).to.deep.equal(['spam.example.net'])
    await block(report('<third-party/>'))
    expect((await sent()).slice(1).map((each) => each.attrs['to'])).to.deep.equal(['reports@third.example', 'spam.example.net'])
  })

  it('sends so many of one account in an hour, and logs the others', async () => {
    const { fake, logged, block, sent } = started(['admin@example.net'])
    for (let at = 0; at < 22; at++) await block(report())
    expect(await sent()).to.have.length(20)
    expect(logged).to.have.length(22)
    fake.clock.now += 3_600_001
    await block(report())
    expect(await sent()).to.have.length(21)
  })
})
