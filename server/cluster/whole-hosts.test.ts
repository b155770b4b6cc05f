/** What belongs to a host as a whole, asked for at any of several nodes. */
import { request } from 'node:https'
import { expect } from 'chai'
import type { Element } from '../../lib/xml/element.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { runCommand, Sites, until, valuesOf } from './sites.fixture.ts'

const ADMIN = 'http://jabber.org/protocol/admin'
const CONFIG = TEST_CONFIG.replace('  mod_bosh: {}\n', '').replace('mod_mam: { default: always }', 'mod_mam: { default: always }\n  mod_muc: {}')
  .replace('access_rules:', 'acl: { admin: { user: [romeo@localhost] } }\naccess_rules:\n  configure: { allow: admin }')
  .replace('put_url: "https://@HOST@:5443/upload"', 'put_url: "https://files.example/upload"')
  .replace('mod_vcard: {}', 'mod_vcard: { search: true, allow_return_all: true }')

describe('a host of several nodes', () => {
  let sites: Sites

  beforeEach(async () => {
    sites = await Sites.start(['a', 'b', 'c'], CONFIG)
    for (const name of ['romeo', 'juliet', 'mercutio']) await sites.register(name)
  })
  afterEach(() => sites[Symbol.asyncDispose]())

  const message = (body: string) => (element: Element): boolean => element.getName() === 'message' && element.getChildText('body') === body

  describe('invites (XEP-0401)', () => {
    const tokenOf = (uri: string): string => /preauth=(\w+)/.exec(uri)?.[1] ?? ''

    it('at any node to an account that is made at another, and both become contacts', async () => {
      for (const [inviting, making] of [[0, 1], [1, 2], [2, 0]] as const) {
        const name = `nurse${inviting}`
        const inviter = await sites.login(inviting, 'juliet')
        await inviter.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
        const invited = await runCommand(inviter, 'urn:xmpp:invite#create-account', { 'roster-subscription': '1' })
        const token = tokenOf(valuesOf(invited, 'uri')[0] ?? '')
        const stranger = await sites.stranger(making)
        expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
        expect(await stranger(`<query xmlns='jabber:iq:register'><username>${name}</username><password>secret</password></query>`)).to.equal('result')
        await inviter.receive((element) => element.getName() === 'iq' && element.getChild('query')?.getChild('item')?.attrs['jid'] === `${name}@localhost`)
        const nurse = await sites.login(sites.homeOf(`${name}@localhost`), name)
        const roster = await nurse.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
        expect(roster.getChild('query')?.getChildren('item').map(({ attrs }) => [attrs['jid'], attrs['subscription']])).to.deep.equal([['juliet@localhost', 'both']])
        // It is good once.
        const other = await sites.stranger(making)
        expect(await other(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('item-not-found')
        await inviter.disconnect()
        for (const { node } of sites.sites) if (node.isHere('juliet@localhost')) node.release('juliet@localhost')
      }
    })

    it('to two who want the same one at different nodes: one gets it', async () => {
      const inviter = await sites.login(0, 'juliet')
      const token = tokenOf(valuesOf(await runCommand(inviter, 'urn:xmpp:invite#create-account', {}), 'uri')[0] ?? '')
      const strangers = await Promise.all([1, 2].map(async (index) => {
        const stranger = await sites.stranger(index)
        expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
        return stranger
      }))
      const made = await Promise.all(strangers.map((stranger, index) => stranger(`<query xmlns='jabber:iq:register'><username>new${index}</username><password>secret</password></query>`)))
      expect(made.toSorted()).to.deep.equal(['not-allowed', 'result'])
      const { accounts } = sites.at(0).site.server
      expect([await accounts.exists('new0@localhost'), await accounts.exists('new1@localhost')].filter(Boolean)).to.have.length(1)
    })

    it('contacts with a token that another node keeps (XEP-0379)', async () => {
      for (const [inviting, asking] of [[1, 0], [2, 1], [0, 2]] as const) {
        const juliet = await sites.login(inviting, 'juliet')
        const token = tokenOf(valuesOf(await runCommand(juliet, 'urn:xmpp:invite#invite'), 'uri')[0] ?? '')
        const romeo = await sites.login(asking, 'romeo')
        romeo.send(`<presence type='subscribe' to='juliet@localhost'><preauth xmlns='urn:xmpp:pars:0' token='${token}'/></presence>`)
        await romeo.receive((element) => element.getName() === 'presence' && element.attrs['type'] === 'subscribed')
        await romeo.receive((element) => element.getName() === 'presence' && element.attrs['type'] === 'subscribe')
        await romeo.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='juliet@localhost' subscription='remove'/></query></iq>")
        await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@localhost' subscription='remove'/></query></iq>")
        await Promise.all([romeo.disconnect(), juliet.disconnect()])
        for (const { node } of sites.sites) for (const name of ['romeo', 'juliet']) if (node.isHere(`${name}@localhost`)) node.release(`${name}@localhost`)
      }
    })

    it('also when the node that kept them has died', async () => {
      const dying = sites.homeOf('localhost')
      const [first, second] = [0, 1, 2].filter((index) => index !== dying) as [number, number]
      const inviter = await sites.login(first, 'juliet')
      const token = tokenOf(valuesOf(await runCommand(inviter, 'urn:xmpp:invite#create-account', {}), 'uri')[0] ?? '')
      sites.all.kill(sites.at(dying).node)
      const stranger = await sites.stranger(second)
      expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
      expect(await stranger("<query xmlns='jabber:iq:register'><username>nurse</username><password>secret</password></query>")).to.equal('result')
      expect(await sites.at(first).site.server.accounts.exists('nurse@localhost')).to.equal(true)
    })
  })

  describe('announces (XEP-0133)', () => {
    it('to who is online at any node, and counts them', async () => {
      const romeo = await sites.login(0, 'romeo')
      const juliet = await sites.login(1, 'juliet')
      const mercutio = await sites.login(2, 'mercutio')
      const told = await runCommand(romeo, `${ADMIN}#announce`, { announcement: 'We stop soon' })
      expect(told.getChild('command')?.getChildText('note')).to.equal('Sent to 3 clients')
      for (const client of [romeo, juliet, mercutio]) await client.receive(message('We stop soon'))
    })

    it('to all, once each, wherever they are at home or not at all', async () => {
      const juliet = await sites.login(1, 'juliet')
      const romeo = await sites.login(2, 'romeo')
      const heard: string[] = []
      for (const client of [romeo, juliet]) client.on((stanza) => { if (stanza.name === 'message') heard.push(client.jid) })
      await runCommand(romeo, `${ADMIN}#announce-all`, { announcement: 'Come all' })
      await romeo.receive(message('Come all'))
      await juliet.receive(message('Come all'))
      const home = await until(() => { const at = sites.homeOf('mercutio@localhost'); return at === -1 ? undefined : at })
      const mercutio = await sites.login(home, 'mercutio')
      await mercutio.receive(message('Come all'))
      await romeo.ping()
      await juliet.ping()
      expect(heard.toSorted()).to.deep.equal([juliet.jid, romeo.jid])
    })

    it('the message of the day at every node, once to each, and no more when it is deleted', async () => {
      const romeo = await sites.login(0, 'romeo')
      const juliet = await sites.login(1, 'juliet')
      await runCommand(romeo, `${ADMIN}#set-motd`, { motd: 'Carpe diem' })
      await juliet.receive(message('Carpe diem'))
      const mercutio = await sites.login(2, 'mercutio')
      await mercutio.receive(message('Carpe diem'))
      const edited = await sites.login(1, 'juliet', { resource: 'again' })
      const heard: string[] = []
      edited.on((stanza) => { if (stanza.name === 'message') heard.push(stanza.toString()) })
      await edited.ping()
      expect(heard).to.deep.equal([])
      await runCommand(romeo, `${ADMIN}#delete-motd`)
      await sites.register('nurse')
      const nurse = await sites.login(2, 'nurse')
      nurse.on((stanza) => { if (stanza.name === 'message') heard.push(stanza.toString()) })
      await nurse.ping()
      expect(heard).to.deep.equal([])
    })

    it('the message of the day at a node that has joined since', async () => {
      const romeo = await sites.login(0, 'romeo')
      await runCommand(romeo, `${ADMIN}#set-motd`, { motd: 'Carpe diem' })
      await using later = await Sites.joining(sites, 'd', CONFIG)
      const mercutio = await later.login(3, 'mercutio')
      await mercutio.receive(message('Carpe diem'))
    })
  })

  describe('takes files (XEP-0363)', () => {
    it('in slots that any node gives, and hands them out at every node', async () => {
      for (const index of [0, 1, 2]) {
        const name = ['romeo', 'juliet', 'mercutio'][index] as string
        const client = await sites.login(index, name)
        const answer = await client.sendIq("<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.txt' size='5'/></iq>")
        const slot = answer.getChild('slot') as Element
        const path = (kind: string): string => new URL(slot.getChild(kind)?.attrs['url'] as string).pathname
        expect(await http((index + 1) % 3, 'PUT', path('put'), 'hello')).to.deep.equal([201, ''])
        for (const reader of [0, 1, 2]) expect(await http(reader, 'GET', path('get'))).to.deep.equal([200, 'hello'])
        expect((await http(2, 'PUT', path('put'), 'other'))[0]).to.equal(409)
        expect((await http(index, 'GET', `${path('get')}x`))[0]).to.equal(404)
      }
    })

    it('and those of an account that is removed go', async () => {
      const client = await sites.login(1, 'juliet')
      const answer = await client.sendIq("<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.txt' size='5'/></iq>")
      const path = new URL(answer.getChild('slot')?.getChild('put')?.attrs['url'] as string).pathname
      expect((await http(0, 'PUT', path, 'hello'))[0]).to.equal(201)
      await sites.at(2).site.server.unregister('juliet@localhost')
      expect((await http(0, 'GET', path))[0]).to.equal(404)
    })
  })

  function http(index: number, method: string, path: string, body?: string): Promise<[number, string]> {
    const { site } = sites.at(index)
    const port = site.server.ports.find(({ module, tls }) => module === 'ejabberd_http' && tls)?.port as number
    return new Promise((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port, method, path, rejectUnauthorized: false, headers: body === undefined ? {} : { 'Content-Length': body.length } }, (response) => {
        let text = ''
        response.on('data', (chunk: Buffer) => { text += chunk.toString() })
        response.on('end', () => { resolve([response.statusCode as number, text]) })
      })
      sent.on('error', reject)
      sent.end(body)
    })
  }
})
