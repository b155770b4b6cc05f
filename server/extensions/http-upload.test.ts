import { once } from 'node:events'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { Readable } from 'node:stream'
import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { makeStanza, type Stanza, stanzaOf } from '../../lib/stanza/stanza.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { Calls, callsOf } from '../cluster/calls.ts'
import { defaultLimits } from '../config/limits.ts'
import { HostFiles } from '../host.ts'
import { type Http, createHttp } from '../http/http.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { type HeldStorage, openHeldStorage } from '../test-server.ts'
import type { IqHandler, Parts } from './extension.ts'
import { httpUpload, httpUploadQuota } from './http-upload.ts'

const NS = 'urn:xmpp:http:upload:0'
const ROMEO = 'romeo@montague.tld/garden'

describe('XEP-0363: HTTP File Upload', () => {
  let http: Http
  let storage: HeldStorage
  let files: HostFiles
  let time = Date.UTC(2026, 0, 1)
  let ask: IqHandler
  let features: string[]
  let forms: (Element | undefined)[]
  let job: () => void | Promise<void>
  let removeAccount: (jid: string) => void | Promise<void>
  let moderate: (author: string, message: Stanza) => void | Promise<void>
  let stop: (() => void | Promise<void>) | void

  async function start(changes: object = {}): Promise<void> {
    http = createHttp({ log: createLog('silent') })
    const { port } = await http.listen({ port: 0, ip: '127.0.0.1', tls: false })
    storage = openHeldStorage()
    files = new HostFiles()
    features = []
    forms = []
    const options = Object.fromEntries(Object.entries(httpUpload.options ?? {}).map(([name, spec]) => [name, (spec as { default: unknown }).default]))
    const parts = {
      host: 'localhost',
      http, storage,
      files,
      log: createLog('silent'),
      metrics: createMetrics({ processMetrics: false }),
      limits: defaultLimits,
      now: () => time,
      lasting: <Value>(_name: string, make: () => Value): Value => make(),
      access: { allows: (_rule: string, { jid }: { jid?: Jid }) => jid?.domain === 'montague.tld', value: (rule: string) => (rule === 'hard' ? 0.001 : rule === 'soft' ? 0.0005 : undefined), shaper: () => undefined },
      every: (_ms: number, run: () => void | Promise<void>) => { job = run },
      here: () => true,
      calls: callsOf(new Calls({ homes: () => undefined, nodes: () => [], log: createLog('silent') }), 'localhost', () => undefined),
      hooks: {
        accountRemoved: (run: (jid: string) => void | Promise<void>) => { removeAccount = run },
        moderated: (run: typeof moderate) => { moderate = run },
      },
      router: {
        iqService: (domain: string) => {
          expect(domain).to.equal('upload.localhost')
          return {
            iq: { get: (payload: string, _target: unknown, handler: IqHandler) => { expect(payload).to.equal(`${NS} request`); ask = handler } },
            disco: { identity: () => undefined, feature: (_target: string, ...vars: string[]) => { features.push(...vars) }, form: (_target: string, form: () => Element | undefined) => { forms.push(form()) } },
          }
        },
      },
    } as unknown as Parts
    stop = httpUpload.start(parts, { ...options, put_url: `http://127.0.0.1:${port}/upload`, ...changes } as never)
  }

  afterEach(async () => {
    await stop?.()
    await http.close(0)
    await storage[Symbol.asyncDispose]()
  })

  async function slot(attrs: Record<string, string | number | undefined>, from = ROMEO, ...children: Element[]): Promise<{ put: string; get: string }> {
    const payload = xml('request', { xmlns: NS, ...attrs }, ...children)
    const answer = await ask({ stanza: makeStanza('iq', {}), payload, from: Jid.parse(from), to: Jid.parse('upload.localhost'), session: undefined })
    const url = (name: string): string => (answer?.getChild(name)?.attrs['url'] ?? '')
    return { put: url('put'), get: url('get') }
  }

  async function refusal(...args: Parameters<typeof slot>): Promise<StanzaError> {
    try {
      await slot(...args)
    } catch (error) {
      if (error instanceof StanzaError) return error
      throw error
    }
    throw new Error('a slot was given')
  }

  it('§4: says what it does and how large a file may be', async () => {
    await start({ max_size: 5242880 })
    expect(features).to.include(NS).and.include('urn:xmpp:http:upload:purpose:0#ephemeral')
    expect(forms[0]?.toString()).to.contain('<value>5242880</value>')
  })

  it('§5: takes a file once and gives it back', async () => {
    await start()
    const { put, get } = await slot({ filename: 'très cool.jpg', size: 5, 'content-type': 'image/jpeg' })
    expect(put).to.match(/\/tr%C3%A8s%20cool\.jpg$/)
    expect((await fetch(get)).status).to.equal(404)
    const sent = { method: 'PUT', body: 'hello', headers: { 'Content-Type': 'image/jpeg' } }
    expect((await fetch(put, sent)).status).to.equal(201)
    expect((await fetch(put, sent)).status).to.equal(409)
    const response = await fetch(get)
    expect(await response.text()).to.equal('hello')
    expect(response.headers.get('content-type')).to.equal('image/jpeg')
    expect(response.headers.get('content-disposition')).to.contain('inline').and.contain("filename*=UTF-8''tr%C3%A8s%20cool.jpg")
    expect(response.headers.get('x-content-type-options')).to.equal('nosniff')
    expect(response.headers.get('content-security-policy')).to.contain("default-src 'none'")
    expect(response.headers.get('access-control-allow-origin')).to.equal('*')
    expect((await fetch(get, { headers: { 'If-None-Match': response.headers.get('etag') ?? '' } })).status).to.equal(304)
  })

  it('gives parts of a file, and its head', async () => {
    await start()
    const { put, get } = await slot({ filename: 'a.bin', size: 10 })
    await fetch(put, { method: 'PUT', body: '0123456789' })
    const part = await fetch(get, { headers: { Range: 'bytes=2-4' } })
    expect([part.status, part.headers.get('content-range'), await part.text()]).to.deep.equal([206, 'bytes 2-4/10', '234'])
    expect(await (await fetch(get, { headers: { Range: 'bytes=-3' } })).text()).to.equal('789')
    expect((await fetch(get, { headers: { Range: 'bytes=10-' } })).status).to.equal(416)
    const head = await fetch(get, { method: 'HEAD' })
    expect([head.status, head.headers.get('content-length'), await head.text()]).to.deep.equal([200, '10', ''])
    const partOfHead = await fetch(get, { method: 'HEAD', headers: { Range: 'bytes=2-4' } })
    expect([partOfHead.status, partOfHead.headers.get('content-length'), partOfHead.headers.get('content-range')], 'RFC 9110 §14.2: ranges are for GET').to.deep.equal([200, '10', null])
  })

  it('§8: refuses another size or type than that of the slot', async () => {
    await start()
    const { put } = await slot({ filename: 'a.txt', size: 5, 'content-type': 'text/plain' })
    const status = async (body: string, type: string): Promise<number> => (await fetch(put, { method: 'PUT', body, headers: { 'Content-Type': type } })).status
    expect(await status('hell', 'text/plain')).to.equal(400)
    expect(await status('hello!', 'text/plain')).to.equal(413)
    expect(await status('hello', 'text/html')).to.equal(415)
    expect(await status('hello', 'text/plain; charset=utf-8')).to.equal(201)
  })

  it('shows nothing that could run in the browser', async () => {
    await start()
    for (const type of ['image/svg+xml', 'text/html', 'application/pdf']) {
      const { put, get } = await slot({ filename: 'a', size: 1, 'content-type': type })
      await fetch(put, { method: 'PUT', body: 'x', headers: { 'Content-Type': type } })
      expect((await fetch(get)).headers.get('content-disposition'), type).to.match(/^attachment/)
    }
  })

  it('§7: tells the largest size when a file is too large', async () => {
    await start({ max_size: 20000 })
    const error = await refusal({ filename: 'a', size: 20001 })
    expect(error.toXml()).to.contain("<error type='modify'><not-acceptable").and.contain('<max-file-size>20000</max-file-size>')
  })

  it('§7: refuses strangers, and names and sizes that cannot be', async () => {
    await start()
    expect((await refusal({ filename: 'a', size: 1 }, 'mallory@evil.tld/x')).condition).to.equal('forbidden')
    expect((await refusal({ filename: 'a' })).condition).to.equal('bad-request')
    for (const filename of ['', '..', 'a/b', 'a\nb', 'x'.repeat(256)]) expect((await refusal({ filename, size: 1 })).condition, filename).to.equal('not-acceptable')
    for (const size of ['0', '-1', '1.5', 'many']) expect((await refusal({ filename: 'a', size })).condition, size).to.equal('bad-request')
    expect((await refusal({ filename: 'a', size: 1, 'content-type': 'text/html\r\nX: y' })).condition).to.equal('not-acceptable')
  })

  it('§9: a slot ends', async () => {
    await start()
    const { put } = await slot({ filename: 'a', size: 1 })
    time += 301_000
    expect((await fetch(put, { method: 'PUT', body: 'x' })).status).to.equal(404)
    await job()
    expect(await storage.records.range('uploads', [])).to.deep.equal([])
    expect(await storage.records.range('upload-ends', [])).to.deep.equal([])
  })

  it('§6.3: an ephemeral file is gone after its time', async () => {
    await start()
    const { put, get } = await slot({ filename: 'a', size: 1 }, ROMEO, xml('ephemeral', { xmlns: 'urn:xmpp:http:upload:purpose:0', 'expire-before': new Date(time + 3600_000).toISOString() }))
    expect((await fetch(put, { method: 'PUT', body: 'x' })).status).to.equal(201)
    time += 3599_000
    expect((await fetch(get)).status).to.equal(200)
    time += 1000
    expect((await fetch(get)).status).to.equal(404)
    await job()
    expect(await storage.records.range('uploads', [])).to.deep.equal([])
  })

  it('§6.3: the time before which a file ends has to be one', async () => {
    await start()
    for (const before of ['tomorrow', '2026-02-30T00:00:00Z', undefined]) {
      const purpose = xml('ephemeral', { xmlns: 'urn:xmpp:http:upload:purpose:0', 'expire-before': before })
      expect((await refusal({ filename: 'a', size: 1 }, ROMEO, purpose)).condition, before).to.equal('bad-request')
    }
  })

  it('§5: gives no address without TLS that nobody has written down', async () => {
    await start({ put_url: '' })
    expect((await refusal({ filename: 'a', size: 1 })).condition).to.equal('service-unavailable')
  })

  it('§7: a file that no quota will ever hold is too large', async () => {
    await start()
    httpUploadQuota.start({
      host: 'localhost', storage, access: { allows: () => true, value: (rule: string) => (rule === 'hard' ? 1000 / 1048576 : undefined), shaper: () => undefined },
    }, { max_days: Infinity, access_hard_quota: 'hard', access_soft_quota: 'none' })
    await slot({ filename: 'a', size: 1000 })
    expect((await refusal({ filename: 'b', size: 1 })).condition).to.equal('resource-constraint')
    expect((await refusal({ filename: 'b', size: 1001 })).toXml()).to.contain("<error type='modify'><not-acceptable").and.contain('<max-file-size>1000</max-file-size>')
    const profile = xml('profile', { xmlns: 'urn:xmpp:http:upload:purpose:0' })
    expect((await refusal({ filename: 'b', size: 21 * 1024 * 1024 }, 'nurse@montague.tld/x', profile)).toXml()).to.contain('<max-file-size>1000</max-file-size>')
  })

  it('§8: takes no part of a file', async () => {
    await start()
    const { put } = await slot({ filename: 'a', size: 5 })
    expect((await fetch(put, { method: 'PUT', body: 'hello', headers: { 'Content-Range': 'bytes 0-4/10' } })).status, 'RFC 9110 §14.5').to.equal(400)
    expect((await fetch(put, { method: 'PUT', body: 'hello' })).status).to.equal(201)
  })

  it('counts what it gives at once', async () => {
    await start()
    httpUploadQuota.start({
      host: 'localhost', storage, access: { allows: () => true, value: (rule: string) => (rule === 'hard' ? 1000 / 1048576 : undefined), shaper: () => undefined },
    }, { max_days: Infinity, access_hard_quota: 'hard', access_soft_quota: 'none' })
    const given = await Promise.allSettled(Array.from({ length: 9 }, () => slot({ filename: 'a', size: 400 })))
    expect(given.filter(({ status }) => status === 'fulfilled')).to.have.length(2)
    await slot({ filename: 'a', size: 400 }, 'juliet@montague.tld/balcony')
  })

  it('refuses at once while nothing can be stored', async () => {
    await start()
    const { put } = await slot({ filename: 'a', size: 1 })
    storage.healthy = false
    storage.hold()
    expect((await refusal({ filename: 'b', size: 1 })).toXml()).to.contain("<error type='wait'><resource-constraint")
    expect((await fetch(put, { method: 'PUT', body: 'x' })).status).to.equal(507)
  })

  it('§7: says when to come back, when the quota is reached; a soft quota makes room', async () => {
    await start()
    const quota = (soft: string): ReturnType<typeof httpUploadQuota.start> => httpUploadQuota.start({
      host: 'localhost', storage, access: { allows: () => true, value: (rule: string) => (rule === 'hard' ? 1000 / 1048576 : rule === 'soft' ? 500 / 1048576 : undefined), shaper: () => undefined },
    }, { max_days: Infinity, access_hard_quota: 'hard', access_soft_quota: soft })
    const first = await slot({ filename: 'a', size: 600 })
    expect((await fetch(first.put, { method: 'PUT', body: 'x'.repeat(600) })).status).to.equal(201)
    quota('none')
    expect((await refusal({ filename: 'b', size: 500 })).toXml()).to.match(/<error type='wait'><resource-constraint.*<retry xmlns='urn:xmpp:http:upload:0' stamp='20\d\d-.*Z'\/>/)
    quota('soft')
    await slot({ filename: 'b', size: 500 })
    expect((await fetch(first.get)).status).to.equal(404)
  })

  it('removes the files of a removed account', async () => {
    await start()
    const { put, get } = await slot({ filename: 'a', size: 1 })
    await fetch(put, { method: 'PUT', body: 'x' })
    await removeAccount('romeo@montague.tld')
    expect((await fetch(get)).status).to.equal(404)
    for (const table of ['uploads', 'upload-secrets', 'upload-times', 'upload-ends']) expect(await storage.records.range(table, []), table).to.deep.equal([])
  })

  it('rm_on_unregister: false leaves the files of a removed account', async () => {
    await start({ rm_on_unregister: false })
    const { put, get } = await slot({ filename: 'a', size: 1 })
    await fetch(put, { method: 'PUT', body: 'x' })
    await removeAccount('romeo@montague.tld')
    expect((await fetch(get)).status).to.equal(200)
  })

  /** Two bytes, the second when `second` resolves; `first` does when it is asked for. */
  function slowBody(): { body: ReadableStream<Uint8Array>; first: PromiseWithResolvers<void>; second: PromiseWithResolvers<void> } {
    const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    let sent = 0
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (sent++ === 0) return controller.enqueue(new Uint8Array([1]))
        first.resolve()
        await second.promise
        controller.enqueue(new Uint8Array([2]))
        controller.close()
      },
    })
    return { body, first, second }
  }

  /** Sends a file of two bytes; answers when it is in work. */
  async function beginUpload(url: string): Promise<{ finish: () => Promise<number> }> {
    const { port, pathname } = new URL(url)
    const sending = httpRequest({ host: '127.0.0.1', port, path: pathname, method: 'PUT', headers: { 'Content-Length': '2', Expect: '100-continue' } })
    const answered = once(sending, 'response') as Promise<[IncomingMessage]>
    const asked = once(sending, 'continue')
    sending.flushHeaders()
    await asked
    sending.write('a')
    return {
      async finish() {
        sending.end('b')
        const [response] = await answered
        response.resume()
        return response.statusCode ?? 0
      },
    }
  }

  it('an upload that goes on when its account is removed leaves nothing', async () => {
    await start()
    const { put, get } = await slot({ filename: 'a', size: 2 })
    const upload = await beginUpload(put)
    await removeAccount('romeo@montague.tld')
    expect(await upload.finish()).to.equal(404)
    expect((await fetch(get)).status).to.equal(404)
    for (const table of ['uploads', 'upload-secrets', 'upload-times', 'upload-ends']) expect(await storage.records.range(table, []), table).to.deep.equal([])
    expect(await storage.blobs.stat(get.split('/').at(-2) ?? '')).to.equal(undefined)
  })

  it('§7: an upload that goes on when its slot ends stays in the quota, and becomes a file', async () => {
    await start()
    httpUploadQuota.start({
      host: 'localhost', storage, access: { allows: () => true, value: (rule: string) => (rule === 'hard' ? 3 / 1048576 : undefined), shaper: () => undefined },
    }, { max_days: Infinity, access_hard_quota: 'hard', access_soft_quota: 'none' })
    const { put, get } = await slot({ filename: 'a', size: 2 })
    const upload = await beginUpload(put)
    time += 301_000
    await job()
    expect((await refusal({ filename: 'b', size: 2 })).condition).to.equal('resource-constraint')
    expect(await upload.finish()).to.equal(201)
    expect((await fetch(get)).status).to.equal(200)
  })

  it('§6: neither age nor a soft quota ends a file of a profile or a permanent one', async () => {
    await start()
    const kept: string[] = []
    for (const purpose of ['profile', 'permanent', 'message']) {
      const { put, get } = await slot({ filename: 'a', size: 300 }, ROMEO, xml(purpose, { xmlns: 'urn:xmpp:http:upload:purpose:0' }))
      expect((await fetch(put, { method: 'PUT', body: 'x'.repeat(300) })).status).to.equal(201)
      kept.push(get)
      time += 1000
    }
    httpUploadQuota.start({
      host: 'localhost', storage, access: { allows: () => true, value: (rule: string) => (rule === 'hard' ? 1000 / 1048576 : rule === 'soft' ? 800 / 1048576 : undefined), shaper: () => undefined },
    }, { max_days: 1, access_hard_quota: 'hard', access_soft_quota: 'soft' })
    const status = async (url: string): Promise<number> => (await fetch(url)).status
    await slot({ filename: 'b', size: 200 })
    expect(await Promise.all(kept.map(status))).to.deep.equal([200, 200, 404])
    time += 3 * 86_400_000
    await job()
    expect(await Promise.all(kept.map(status))).to.deep.equal([200, 200, 404])
  })

  it('an address is that of one account and one name', async () => {
    await start()
    const { put, get } = await slot({ filename: 'a', size: 1 })
    expect((await fetch(put, { method: 'PUT', body: 'x' })).status).to.equal(201)
    const parts = get.split('/')
    expect((await fetch([...parts.slice(0, -1), 'b'].join('/'))).status).to.equal(404)
    expect((await fetch([...parts.slice(0, -3), 'f'.repeat(40), ...parts.slice(-2)].join('/'))).status).to.equal(404)
  })

  it('keeps one file of its own making for an account, and none for one that is removed meanwhile', async () => {
    await start()
    const offered = { owner: 'romeo@montague.tld', name: 'data.xml', type: 'application/xml', size: 2, lifeMs: 3_600_000 }
    const first = await files.offer({ ...offered, body: Readable.from([Buffer.from('ab')]) })
    const { put, get } = await slot({ filename: 'a', size: 1 })
    expect((await fetch(put, { method: 'PUT', body: 'x' })).status).to.equal(201)
    const second = await files.offer({ ...offered, body: Readable.from([Buffer.from('cd')]) })
    expect((await fetch(first ?? '')).status).to.equal(404)
    expect(await (await fetch(second ?? '')).text()).to.equal('cd')
    expect((await fetch(get)).status).to.equal(200)
    const { body, first: begun, second: rest } = slowBody()
    const third = files.offer({ ...offered, body })
    await begun.promise
    await removeAccount('romeo@montague.tld')
    rest.resolve()
    expect(await third).to.equal(undefined)
    for (const table of ['uploads', 'upload-secrets', 'upload-times', 'upload-ends']) expect(await storage.records.range(table, []), table).to.deep.equal([])
  })

  it('XEP-0425: removes what the author of a moderated message had uploaded for it, and nothing else', async () => {
    await start()
    const put = async (from: string, ...children: Element[]): Promise<string> => {
      const { put: address, get } = await slot({ filename: "what's up & why.png", size: 3 }, from, ...children)
      expect((await fetch(address, { method: 'PUT', body: 'abc' })).status).to.equal(201)
      return get
    }
    const status = async (url: string): Promise<number> => (await fetch(url)).status
    const shown = await put(ROMEO)
    const quoted = await put(ROMEO)
    const picture = await put(ROMEO, xml('profile', { xmlns: 'urn:xmpp:http:upload:purpose:0' }))
    const unrelated = await put(ROMEO)
    const foreign = await put('mercutio@montague.tld/street')
    const message = stanzaOf('message', { type: 'groupchat', from: 'balcony@rooms.localhost/romeo' },
      xml('body', null, `Look: ${quoted}#part, ${foreign} and ${picture}`), xml('x', { xmlns: 'jabber:x:oob' }, xml('url', null, shown)))
    await moderate('romeo@montague.tld', message)
    expect(await Promise.all([shown, quoted, picture, unrelated, foreign].map(status))).to.deep.equal([404, 404, 200, 200, 200])
    await moderate('romeo@montague.tld', message)
    await moderate('tybalt@capulet.tld', message)
    expect(await status(foreign)).to.equal(200)
  })

  it('answers preflights of web clients', async () => {
    await start()
    const { put } = await slot({ filename: 'a', size: 1 })
    const response = await fetch(put, { method: 'OPTIONS', headers: { Origin: 'https://web.test', 'Access-Control-Request-Method': 'PUT' } })
    expect([response.status, response.headers.get('access-control-allow-methods')]).to.deep.equal([204, 'OPTIONS, HEAD, GET, PUT'])
  })
})
