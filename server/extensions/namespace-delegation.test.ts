import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { ComponentClient } from '../../lib/client/component.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import { Machines, withComponents } from '../cluster/machines.fixture.ts'
import { until } from '../cluster/sites.fixture.ts'
import { startTestServer } from '../test-server.ts'
import { logIn } from './personal-clients.ts'

const NS = 'urn:xmpp:delegation:2'
const DOMAIN = 'answers.localhost'
const MOOD = 'x:delegated'
const CONFIG = withComponents(
  'hosts: {answers.localhost: {password: sesame}, other.localhost: {password: sesame}}, global_routes: false',
  `  mod_delegation:\n    namespaces:\n      ${MOOD}: { access: answers }\n      vcard-temp: { access: answers, filtering: [node, kind] }\n      x:nobody: {}\n`,
  'acl: { answers: { server: answers.localhost } }\n',
).replace('access_rules:\n', 'access_rules:\n  answers: { allow: answers }\n')

interface Place {
  component(domain?: string): Promise<ComponentClient>
  user(name: string): Promise<Client>
}

describe('XEP-0355: namespace delegation', () => {
  let place: Place
  let ends: (() => void | PromiseLike<void>)[]
  beforeEach(() => { ends = [] })
  afterEach(async () => { for (const end of ends.reverse()) await end() })

  async function alone(): Promise<void> {
    const site = await startTestServer({ config: CONFIG, accounts: { romeo: 'secret', juliet: 'secret' } })
    ends.push(() => site[Symbol.asyncDispose]())
    place = {
      async component(domain = DOMAIN) {
        const port = site.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
        const component = await ComponentClient.connect({ host: '127.0.0.1', port, domain, secret: 'sesame' })
        ends.push(() => component.connection.destroy())
        return component
      },
      async user(name) {
        const client = await logIn(site, name, 'r')
        ends.push(() => client.destroy())
        return client
      },
    }
  }
  async function apart(): Promise<void> {
    const all = await Machines.start(3, CONFIG, ['romeo', 'juliet'])
    ends.push(() => all[Symbol.asyncDispose]())
    for (const [index, name] of ['romeo', 'juliet'].entries()) {
      await until(() => (all.homeOf(`${name}@localhost`) === -1 ? true : undefined))
      await all.at(index).node.storage.claim(`${name}@localhost`)
      await all.user(name, { resource: 'stays' })
    }
    place = { component: (domain = DOMAIN) => all.component(2, domain), user: (name) => all.user(name) }
  }
  const conditionOf = (request: Promise<Element>): Promise<string> => request.then(() => 'accepted', (error: unknown) => (error as { condition?: string }).condition ?? String(error))
  const query = `<query xmlns='${MOOD}'><inside/></query>`
  const forwardedIn = (request: Stanza): Element => request.element().getChild('delegation', NS)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('iq', 'jabber:client') as Element
  const next = (component: ComponentClient): Promise<Stanza> => component.receive(({ name, type }) => name === 'iq' && type === 'set')
  /** Answers with the inner IQ that has these attributes. */
  const answer = (component: ComponentClient, request: Stanza, attrs: Readonly<Record<string, string | undefined>>, type = 'result', payload = '<done xmlns="x:delegated"/>'): void => {
    const written = Object.entries(attrs).map(([name, value]) => (value === undefined ? '' : ` ${name}='${value}'`)).join('')
    const content = type === 'error' ? "<error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>" : `<delegation xmlns='${NS}'><forwarded xmlns='urn:xmpp:forward:0'><iq xmlns='jabber:client'${written}>${payload}</iq></forwarded></delegation>`
    component.send(`<iq type='${type}' id='${request.id}' from='${request.to}' to='${request.from}'>${content}</iq>`)
  }

  it('§4.2: a component is told what it is to answer, and no other', async () => {
    await alone()
    const component = await place.component()
    const told = (await component.receive(({ name }) => name === 'message')).element().getChild('delegation', NS)
    expect(told?.getChildren('delegated').map(({ attrs, children }) => [attrs['namespace'], children.length])).to.deep.equal([[MOOD, 0], ['vcard-temp', 2]])
    const other = await place.component('other.localhost')
    expect(await other.receive(undefined, 100).catch(() => 'nothing')).to.equal('nothing')
  })

  for (const [where, start] of [['', alone], [', at another node', apart]] as const) {
    it(`§4.3: requests to the user's own account, to others and to the host are answered by the component${where}`, async () => {
      await start()
      const [juliet, component] = [await place.user('juliet'), await place.component()]
      for (const to of [undefined, 'juliet@localhost', 'romeo@localhost', 'localhost']) {
        const asked = juliet.sendIq(`<iq type='get'${to === undefined ? '' : ` to='${to}'`}>${query}</iq>`)
        const request = await next(component)
        const inner = forwardedIn(request)
        expect([request.from, request.to, inner.attrs['type'], inner.attrs['from'], inner.attrs['to'], inner.getChild('query', MOOD)?.getChild('inside') !== undefined]).to.deep.equal(['localhost', DOMAIN, 'get', juliet.jid, to, true])
        answer(component, request, { type: 'result', id: inner.attrs['id'], to: juliet.jid, from: to })
        const result = await asked
        expect([result.attrs['from'], result.getChild('done', MOOD) !== undefined]).to.deep.equal([to, true])
      }
    })
  }

  it('§4.3: whatever is wrong with the answer, service-unavailable is what is said', async () => {
    await alone()
    const [juliet, component] = [await place.user('juliet'), await place.component()]
    const good = (id: string | undefined): Record<string, string | undefined> => ({ type: 'result', id, to: juliet.jid, from: 'romeo@localhost' })
    for (const [wrong, type] of [[{ type: 'error' }, 'result'], [{ id: 'x' }, 'result'], [{ to: 'romeo@localhost' }, 'result'], [{ from: 'localhost' }, 'result'], [{}, 'error']] as const) {
      const asked = conditionOf(juliet.sendIq(`<iq type='get' to='romeo@localhost'>${query}</iq>`))
      const request = await next(component)
      answer(component, request, { ...good(forwardedIn(request).attrs['id']), ...wrong }, type)
      expect(await asked, JSON.stringify(wrong)).to.equal('service-unavailable')
    }
  })

  it('§4.3: without the component the namespace is not served; without the attributes, and where nobody may answer, the server answers as ever', async () => {
    await alone()
    const juliet = await place.user('juliet')
    expect(await conditionOf(juliet.sendIq(`<iq type='get'>${query}</iq>`))).to.equal('service-unavailable')
    expect(await conditionOf(juliet.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>"))).to.equal('accepted')
    const component = await place.component()
    expect((await juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp' node='1'/></iq>")).getChild('vCard')?.getChildText('FN')).to.equal('Juliet')
    void juliet.sendIq("<iq type='get'><vCard xmlns='vcard-temp' node='1' kind='2'/></iq>").catch(() => undefined)
    expect(forwardedIn(await next(component)).getChild('vCard', 'vcard-temp')?.attrs['kind']).to.equal('2')
    expect(await conditionOf(juliet.sendIq("<iq type='get'><query xmlns='x:nobody'/></iq>"))).to.equal('service-unavailable')
  })

  it('§4.3.1: what the component asks itself is answered by the server', async () => {
    await alone()
    const component = await place.component()
    component.send(`<iq type='get' id='own' from='${DOMAIN}' to='juliet@localhost'><vCard xmlns='vcard-temp' node='1' kind='2'/></iq>`)
    expect((await component.receive(({ id }) => id === 'own')).type).to.be.oneOf(['result', 'error'])
    component.send(`<iq type='get' id='user' from='a@${DOMAIN}' to='juliet@localhost'>${query}</iq>`)
    expect(forwardedIn(await next(component)).attrs['from']).to.equal(`a@${DOMAIN}`)
  })
})
