import { expect } from 'chai'
import { COMMANDS_NS } from './commands-registry.ts'
import { adhoc } from './adhoc.ts'
import { disco } from './disco.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const juliet = 'juliet@example.net/balcony'
const host = 'example.net'
const command = (attrs: string, content = '') => `<command xmlns='${COMMANDS_NS}' ${attrs}>${content}</command>`
const form = (fields: Record<string, string>, type = 'submit') =>
  `<x xmlns='jabber:x:data' type='${type}'>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`

describe('XEP-0050 ad-hoc commands', () => {
  function stage() {
    const fake = fakeParts()
    fake.start(disco)
    fake.start(adhoc)
    const chosen: string[] = []
    fake.commands.add({
      node: 'config', name: 'Configure', mayRun: ({ from }) => from.local !== 'romeo',
      run: () => ({
        form: { fields: [{ var: 'service', label: 'Service', required: true }] }, more: true,
        submit: (first) => ({
          form: { fields: [{ var: 'state' }] },
          submit(second) {
            chosen.push(`${first.value('service')} ${second.value('state')}`)
            return { notes: [{ type: 'info', text: 'configured' }] }
          },
        }),
      }),
    })
    const run = async (attrs: string, content = '', from = juliet) => fake.ask(from, 'set', command(attrs, content), host)
    const specific = (answer: Awaited<ReturnType<typeof run>>) => answer.getChild('error')?.getChildElements().find((each) => each.getNS() === COMMANDS_NS)?.getName()
    return { fake, run, specific, chosen }
  }
  const items = `<query xmlns='http://jabber.org/protocol/disco#items' node='${COMMANDS_NS}'/>`
  const info = (node: string) => `<query xmlns='http://jabber.org/protocol/disco#info' node='${node}'/>`

  it('§2.1 and §2.2: lists what the requester may run, and describes each', async () => {
    const { fake } = stage()
    expect(fake.disco.ownInfo('host').toString()).to.contain(COMMANDS_NS)
    const names = async (from: string) => (await fake.ask(from, 'get', items, host)).getChild('query')?.getChildren('item').map((item) => item.attrs['node'])
    expect(await names(juliet)).to.deep.equal(['ping', 'config'])
    expect(await names('romeo@example.net/orchard')).to.deep.equal(['ping'])
    const list = (await fake.ask(juliet, 'get', info(COMMANDS_NS), host)).getChild('query')
    expect(list?.getChild('identity')?.attrs).to.include({ category: 'automation', type: 'command-list' })
    const described = (await fake.ask(juliet, 'get', info('config'), host)).getChild('query')
    expect(described?.getChild('identity')?.attrs).to.include({ category: 'automation', type: 'command-node', name: 'Configure' })
    expect(described?.getChildren('feature').map((feature) => feature.attrs['var'])).to.deep.equal([COMMANDS_NS, 'jabber:x:data'])
    expect(conditionOf(await fake.ask('romeo@example.net/orchard', 'get', info('config'), host))).to.equal('forbidden')
  })

  it('is no feature while there is no command', () => {
    const fake = fakeParts()
    fake.start(disco)
    expect(fake.disco.ownInfo('host').toString()).not.to.contain(COMMANDS_NS)
  })

  it('§2.4.1: simple execution', async () => {
    const answer = (await stage().run(`node='ping'`)).getChild('command')
    expect(answer?.attrs).to.include({ node: 'ping', status: 'completed' })
    expect(answer?.attrs['sessionid']).to.be.a('string').that.is.not.equal('')
    expect(answer?.getChild('note')?.attrs['type']).to.equal('info')
  })

  it('§2.4.2: stages, forth and back', async () => {
    const { run, chosen } = stage()
    const first = (await run(`node='config' action='execute'`)).getChild('command')
    expect(first?.attrs['status']).to.equal('executing')
    expect(first?.getChild('actions')?.toString()).to.equal('<actions execute="next"><next/></actions>')
    const id = first?.attrs['sessionid']
    const second = (await run(`node='config' sessionid='${id}'`, form({ service: 'httpd' }))).getChild('command')
    expect(second?.attrs).to.include({ sessionid: id, status: 'executing' })
    expect(second?.getChild('actions')?.toString()).to.equal('<actions execute="complete"><prev/><complete/></actions>')
    const back = (await run(`node='config' sessionid='${id}' action='prev'`)).getChild('command')
    expect(back?.getChild('x')?.getChild('field')?.attrs['var']).to.equal('service')
    await run(`node='config' sessionid='${id}' action='next'`, form({ service: 'jabberd' }))
    const done = (await run(`node='config' sessionid='${id}' action='complete'`, form({ state: 'on' }))).getChild('command')
    expect(done?.attrs).to.include({ sessionid: id, status: 'completed' })
    expect(chosen).to.deep.equal(['jabberd on'])
  })

  it('§2.4.3: cancelling ends the session', async () => {
    const { run, specific } = stage()
    const id = (await run(`node='config'`)).getChild('command')?.attrs['sessionid']
    expect((await run(`node='config' sessionid='${id}' action='cancel'`)).getChild('command')?.attrs).to.include({ sessionid: id, status: 'canceled' })
    const after = await run(`node='config' sessionid='${id}'`, form({ service: 'a' }))
    expect([conditionOf(after), specific(after)]).to.deep.equal(['not-allowed', 'session-expired'])
  })

  it('a session is the requester\'s alone, and ends after half an hour', async () => {
    const { fake, run, specific } = stage()
    const id = (await run(`node='config'`)).getChild('command')?.attrs['sessionid']
    expect(specific(await run(`node='config' sessionid='${id}'`, form({ service: 'a' }), 'juliet@example.net/other'))).to.equal('bad-sessionid')
    expect(specific(await run(`node='config' sessionid='invented'`, form({ service: 'a' })))).to.equal('bad-sessionid')
    fake.clock.now += 31 * 60_000
    expect(specific(await run(`node='config' sessionid='${id}'`, form({ service: 'a' })))).to.equal('session-expired')
  })

  it('keeps a limited number of sessions for an account', async () => {
    const { run, specific } = stage()
    const first = (await run(`node='config'`)).getChild('command')?.attrs['sessionid']
    for (let i = 0; i < 20; i++) await run(`node='config'`)
    expect(specific(await run(`node='config' sessionid='${first}'`, form({ service: 'a' })))).to.equal('session-expired')
  })

  it('§4.4: each error has its condition', async () => {
    const { run, specific } = stage()
    expect(conditionOf(await run(`node='nothing'`))).to.equal('item-not-found')
    expect(conditionOf(await run(`node='config'`, '', 'romeo@example.net/orchard'))).to.equal('forbidden')
    expect(specific(await run(`node='config' action='dance'`))).to.equal('malformed-action')
    expect(specific(await run(`node='config' action='prev'`))).to.equal('bad-action')
    const id = (await run(`node='config'`)).getChild('command')?.attrs['sessionid']
    expect(specific(await run(`node='config' sessionid='${id}' action='complete'`, form({ service: 'a' })))).to.equal('bad-action')
    expect(specific(await run(`node='config' sessionid='${id}' action='prev'`))).to.equal('bad-action')
    expect(specific(await run(`node='config' sessionid='${id}'`))).to.equal('bad-payload')
    expect(specific(await run(`node='config' sessionid='${id}'`, form({})))).to.equal('bad-payload')
    expect(specific(await run(`node='config' sessionid='${id}'`, form({ service: 'a' }, 'result')))).to.equal('bad-payload')
    // None of these ended it; a form of type cancel counts as submitted (§3.5.1).
    expect((await run(`node='config' sessionid='${id}'`, form({ service: 'a' }, 'cancel'))).getChild('command')?.attrs['status']).to.equal('executing')
  })

  it('the list is among the items of the host when report_commands_node says so', async () => {
    const fake = fakeParts()
    fake.start(disco)
    fake.start(adhoc, { report_commands_node: true })
    expect((await fake.ask(juliet, 'get', `<query xmlns='http://jabber.org/protocol/disco#items'/>`, host)).getChild('query')?.getChild('item')?.attrs['node']).to.equal(COMMANDS_NS)
  })
})
