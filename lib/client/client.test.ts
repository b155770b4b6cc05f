import { once } from 'node:events'
import net from 'node:net'
import { expect } from 'chai'
import { type Client, connect, IqError, LoginError } from './client.ts'
import { StreamError } from '../stream/errors.ts'

const SM = 'urn:xmpp:sm:3'
const HEADER = "<?xml version='1.0'?><stream:stream from='example.org' id='s' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

/** A server that answers each of these texts, as they come, with the next. */
async function scripted(script: readonly (readonly [RegExp, string])[], run: (client: Client, seen: string[]) => Promise<void>, options: { resume?: boolean } = {}): Promise<void> {
  const seen: string[] = []
  const all: (readonly [RegExp, string])[] = [
    [/stream:stream/, `${HEADER}<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`],
    [/<auth/, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"],
    [/stream:stream/, `${HEADER}<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>`],
    ...(options.resume ? [] : [[/<bind/, "<iq type='result' id='c1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>romeo@example.org/orchard</jid></bind></iq>"] as const]),
    ...script,
  ]
  const server = net.createServer((socket) => {
    let step = 0
    let text = ''
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString()
      while (step < all.length && (all[step] as readonly [RegExp, string])[0].test(text)) {
        seen.push(text)
        text = ''
        socket.write((all[step++] as readonly [RegExp, string])[1])
      }
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  try {
    const client = await connect({
      host: '127.0.0.1', port, domain: 'example.org', tls: 'none', user: 'romeo', password: 'secret', sm: script.some(([match]) => match.test('<enable')), timeoutMs: 2000,
      ...(options.resume ? { resume: { id: 'sm1', jid: 'romeo@example.org/orchard', received: 7, acked: 2, unacked: ["<message id='a'/>", "<message id='b'/>", "<message id='c'/>"] } } : {}),
    })
    try {
      await run(client, seen)
    } finally {
      client.destroy()
    }
  } finally {
    server.close()
  }
}

describe('the client', () => {
  it('gives one stanza to each who waits, also when two come at once', () =>
    scripted([[/<presence/, "<message id='1'/><message id='2'/>"]], async (client) => {
      client.send('<presence/>')
      const ids = [await client.receive(() => true), await client.receive(() => true, 500)].map((element) => element.attrs['id'])
      expect(ids).to.deep.equal(['1', '2'])
    }))

  it('logs in, binds, and tells IQ results from errors', () =>
    scripted(
      [
        [/urn:a/, "<iq type='result' id='c2'><a xmlns='urn:a'/></iq>"],
        [/urn:b/, "<iq type='error' id='c3'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"],
      ],
      async (client) => {
        expect(client.jid).to.equal('romeo@example.org/orchard')
        expect((await client.sendIq("<iq type='get'><a xmlns='urn:a'/></iq>")).getChild('a', 'urn:a')).not.to.equal(undefined)
        const error: unknown = await client.sendIq("<iq type='get'><b xmlns='urn:b'/></iq>").catch((reason: unknown) => reason)
        expect(error).to.be.instanceOf(IqError)
        expect((error as IqError).condition).to.equal('item-not-found')
      },
    ))

  it('keeps what came before it was asked for', () =>
    scripted([[/<go/, "<message id='1'/><message id='2'/>"], [/<end/, "<iq type='get' id='x'/>"]], async (client) => {
      client.send('<go/>')
      await client.receive((element) => element.attrs['id'] === '2')
      expect(client.inbox.map((stanza) => stanza.id)).to.deep.equal(['1'])
      await client.receive((element) => element.attrs['id'] === '1')
    }))

  it('counts stanzas and keeps the unacknowledged ones (XEP-0198 §4)', () =>
    scripted(
      [
        [/<enable/, `<enabled xmlns='${SM}' id='sm1' resume='true'/>`],
        [/<message.*<presence/s, `<message/><iq type='set' id='z'/><r xmlns='${SM}'/>`],
        [/<a /, `<a xmlns='${SM}' h='1'/>`],
      ],
      async (client, seen) => {
        client.send('<message/>')
        client.send('<presence/>')
        await client.receive((element) => element.is('a', SM))
        expect(seen.at(-1)).to.include("h='2'")
        expect(client.unacked).to.deep.equal(['<presence/>'])
        expect(client.resumeState()).to.deep.equal({ id: 'sm1', jid: 'romeo@example.org/orchard', received: 2, acked: 1, unacked: ['<presence/>'] })
      },
    ))

  it('resumes, and sends again what was not acknowledged (XEP-0198 §5)', () =>
    scripted(
      [
        [/<resume/, `<resumed xmlns='${SM}' previd='sm1' h='4'/>`],
        [/id='c'/, "<message id='there'/>"],
      ],
      async (client, seen) => {
        expect(client.resumed).to.equal(true)
        await client.receive((element) => element.attrs['id'] === 'there')
        expect(seen.at(-1)).to.equal("<message id='c'/>")
        expect(seen.at(-2)).to.include("h='7'").and.include("previd='sm1'")
      },
      { resume: true },
    ))

  it('tells a stream error', () =>
    scripted([[/<go/, "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"]], async (client) => {
      client.send('<go/>')
      const error = await client.closed
      expect(error).to.be.instanceOf(StreamError)
      expect((error as StreamError).condition).to.equal('conflict')
      const late: unknown = await client.receive(() => true, 100).then(() => client.receive(() => true, 100)).catch((reason: unknown) => reason)
      expect(late).to.equal(error)
    }))

  it('tells why a login failed', async () => {
    const server = net.createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        socket.write(`${HEADER}<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`)
        socket.once('data', () => socket.write("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"))
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as net.AddressInfo
    const error: unknown = await connect({ host: '127.0.0.1', port, domain: 'example.org', tls: 'none', user: 'romeo', password: 'x' }).catch((reason: unknown) => reason)
    server.close()
    expect(error).to.be.instanceOf(LoginError)
    expect((error as LoginError).condition).to.equal('not-authorized')
  })
})
