import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { loadConfig } from '../config/config.ts'
import { createHttp, httpLimits } from '../http/http.ts'
import { defaultLimits } from '../config/limits.ts'
import { createLog } from '../log.ts'
import type { Parts } from './extension.ts'
import { fakeParts } from './fake-parts.ts'
import { serviceStatus } from './service-status.ts'

const OUTAGE = `
    outage:
      planned: true
      beginning: "2026-01-12T01:01:01Z"
      expected_end: "2026-01-12T05:00:00Z"
      message: {default: "Mise a jour", en: "Update"}`

describe('XEP-0455 service outage status', () => {
  function config(status: string): Parts['config'] {
    const { config: read, problems } = loadConfig('main.yml', { readText: () => `hosts: [example.net]\ntidings:\n  service_status:${status}\n` })
    expect(problems.map((problem) => problem.text)).to.deep.equal([])
    return read.host('example.net')
  }
  const addresses = (fake: ReturnType<typeof fakeParts>): (string | undefined)[] => parseElement(fake.disco.ownInfo('host').toString()).getChildren('x', 'jabber:x:data')
    .filter((form) => form.getChild('field')?.getChildText('value') === 'urn:xmpp:sos:0')
    .flatMap((form) => form.getChildren('field')[1]?.getChildren('value').map((value) => value.text()) ?? [])

  it('§2.1: a form with the addresses of the configuration', () => {
    const fake = fakeParts()
    fake.start(serviceStatus, {}, { config: config('\n    addresses: ["https://status.example.org/@HOST@.json", "http://192.0.2.1/s"]') })
    expect(addresses(fake)).to.deep.equal(['https://status.example.org/example.net.json', 'http://192.0.2.1/s'])
  })

  it('no form where there is no address', () => {
    const fake = fakeParts()
    fake.start(serviceStatus, {}, { config: config(' {}') })
    expect(addresses(fake)).to.deep.equal([])
  })

  for (const [what, status, expected] of [
    ['nothing when all is well', ' {}', {}],
    ['an outage that is planned', OUTAGE, { planned: true, beginning: '2026-01-12T01:01:01Z', expected_end: '2026-01-12T05:00:00Z', message: { default: 'Mise a jour', en: 'Update' } }],
    ['an outage of which little is known', '\n    outage: {beginning: "2026-01-12T01:01:01Z"}', { planned: false, beginning: '2026-01-12T01:01:01Z' }],
  ] as const) {
    it(`§2.2: the address it names itself answers ${what}`, async () => {
      const fake = fakeParts()
      const http = createHttp({ log: createLog('silent'), metrics: fake.parts.metrics, limits: httpLimits(defaultLimits) })
      const listener = await http.listen({ port: 0, ip: '127.0.0.1', tls: false, requestHandlers: new Map([['/outage', 'tidings_status']]) } as never)
      try {
        fake.start(serviceStatus, {}, { config: config(status), http })
        const [address] = addresses(fake)
        expect(address).to.equal(`http://example.net:${listener.port}/outage`)
        const answer = await fetch(`http://127.0.0.1:${listener.port}/outage`)
        expect([answer.status, answer.headers.get('content-type'), answer.headers.get('access-control-allow-origin')]).to.deep.equal([200, 'application/json', '*'])
        expect(await answer.json()).to.deep.equal(expected)
      } finally {
        await listener.close()
      }
    })
  }

  it('refuses what clients could not read', () => {
    for (const status of ['\n    addresses: [status.example.org]', '\n    outage: {planned: true}', '\n    outage: {beginning: tomorrow}', '\n    outage: {beginning: "2026-01-12T01:01:01Z", message: {en: Update}}']) {
      const { problems } = loadConfig('main.yml', { readText: () => `hosts: [example.net]\ntidings:\n  service_status:${status}\n` })
      expect(problems.map(({ level }) => level), status).to.deep.equal(['error'])
    }
  })
})
