import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const HANDLERS = '/upload: mod_http_upload, /xmpp: ejabberd_http_ws, /.well-known/host-meta: mod_host_meta'
const CONFIG = TEST_CONFIG.replace('/upload: mod_http_upload', HANDLERS)
const WEBSOCKET = 'urn:xmpp:alt-connections:websocket'
const BOSH = 'urn:xmpp:alt-connections:xbosh'

describe('XEP-0156: other ways to connect', () => {
  let site: TestServer
  afterEach(() => site[Symbol.asyncDispose]())

  const port = (): number => (site.server.ports.find(({ module }) => module === 'ejabberd_http') as { port: number }).port

  async function ask(path: string, host = 'localhost', method = 'GET'): Promise<{ response: IncomingMessage; body: string }> {
    const [response] = (await once(request({ host: '127.0.0.1', port: port(), path, method, headers: { Host: `${host}:${port()}`, Origin: 'https://chat.example' }, rejectUnauthorized: false, agent: false }).end(), 'response')) as [IncomingMessage]
    let body = ''
    for await (const chunk of response) body += String(chunk)
    return { response, body }
  }

  /** The links of both forms, which are the same. */
  async function links(host?: string): Promise<Record<string, string>> {
    const { response, body } = await ask('/.well-known/host-meta', host)
    expect([response.statusCode, response.headers['content-type'], response.headers['access-control-allow-origin']]).to.deep.equal([200, 'application/xrd+xml; charset=utf-8', '*'])
    const xrd = parseElement(body.slice(body.indexOf('?>') + 2).trim())
    expect([xrd.name, xrd.attrs['xmlns']]).to.deep.equal(['XRD', 'http://docs.oasis-open.org/ns/xri/xrd-1.0'])
    const found = xrd.getChildren('Link').map(({ attrs }) => ({ rel: attrs['rel'] as string, href: attrs['href'] as string }))
    const json = await ask('/.well-known/host-meta.json', host)
    expect([json.response.statusCode, json.response.headers['content-type'], json.response.headers['access-control-allow-origin']]).to.deep.equal([200, 'application/json; charset=utf-8', '*'])
    expect(JSON.parse(json.body)).to.deep.equal({ links: found })
    return Object.fromEntries(found.map(({ rel, href }) => [rel, href]))
  }

  it('§2.3: names what a listener with TLS has, in XRD and JRD, to any page', async () => {
    site = await startTestServer({ config: `${CONFIG}  mod_host_meta: {}\n` })
    const both = { [WEBSOCKET]: `wss://localhost:${port()}/xmpp`, [BOSH]: `https://localhost:${port()}/bosh` }
    expect(await links()).to.deep.equal(both)
    // The only host is the one that is meant.
    expect(await links('127.0.0.1')).to.deep.equal(both)
    const { response } = await ask('/.well-known/host-meta', 'localhost', 'OPTIONS')
    expect([response.statusCode, response.headers['access-control-allow-origin'], response.headers['access-control-allow-methods']]).to.deep.equal([204, '*', 'GET, HEAD, OPTIONS'])
    expect((await ask('/.well-known/host-meta', 'localhost', 'HEAD')).body).to.equal('')
  })

  it('§2.2: names nothing that is not over TLS', async () => {
    site = await startTestServer({ config: `${CONFIG.replace(HANDLERS, '/.well-known/host-meta: mod_host_meta').replace(' /bosh: mod_bosh,', '').replace('access_rules:', '  - { port: 0, ip: 127.0.0.1, module: ejabberd_http, request_handlers: { /xmpp: ejabberd_http_ws, /bosh: mod_bosh } }\naccess_rules:')}  mod_host_meta: {}\n` })
    expect(await links()).to.deep.equal({})
  })

  it('names what is configured, for the host that is asked for', async () => {
    site = await startTestServer({ config: `${CONFIG.replace('hosts: [localhost]', 'hosts: [localhost, other.example]')}  mod_host_meta: { websocket_url: "wss://@HOST@/ws", bosh_service_url: "https://web.example/@HOST@" }\nhost_config:\n  other.example:\n    modules: { mod_host_meta: { websocket_url: undefined, bosh_service_url: "https://b.example/" } }\n` })
    expect(await links()).to.deep.equal({ [WEBSOCKET]: 'wss://localhost/ws', [BOSH]: 'https://web.example/localhost' })
    expect(await links('other.example')).to.deep.equal({ [BOSH]: 'https://b.example/' })
    expect((await ask('/.well-known/host-meta', 'third.example')).response.statusCode).to.equal(404)
  })
})
