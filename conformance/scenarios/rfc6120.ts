/** RFC 6120: streams, TLS, SASL, binding, stanzas. */
import { connect, IqError, LoginError } from '../../lib/client/client.ts'
import { check, fail, play, Raw, type Stage } from '../play.ts'

const HEADER = (stage: Stage): string => `<?xml version='1.0'?><stream:stream to='${stage.domain}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`

play('RFC 6120 §4.7 the response header has from, id, version and xml:lang', {}, async (_, stage) => {
  const raw = await Raw.open(stage)
  raw.sends(HEADER(stage))
  const incoming = await raw.connection.next()
  if (incoming.kind !== 'header') fail('no stream header')
  const { attrs } = incoming.header
  check(attrs['from'] === stage.domain, 'from is the domain')
  check((attrs['id'] ?? '') !== '', 'id is there')
  check(attrs['version'] === '1.0', 'version is 1.0')
  check((attrs['xml:lang'] ?? '') !== '', 'xml:lang is there')
  raw.leave()
})

play('RFC 6120 §4.4 a closed stream is closed from the other side too', {}, async (_, stage) => {
  const raw = await Raw.opened(stage)
  raw.sends('</stream:stream>')
  const incoming = await raw.connection.next()
  check(incoming.kind === 'end', 'the server ends its stream')
  raw.leave()
})

const headerErrors: [string, string[], (header: string) => string][] = [
  ['§4.9.3.6 an unknown host', ['host-unknown'], (header) => header.replace(/to='[^']*'/, "to='unknown.invalid'")],
  ['§4.9.3.10 a wrong stream namespace', ['invalid-namespace'], (header) => header.replace('etherx.jabber.org', 'wrong.invalid')],
  ['§4.8.2 a wrong content namespace', ['invalid-namespace'], (header) => header.replace('jabber:client', 'jabber:wrong')],
  ['§4.9.3.2 an undeclared prefix', ['bad-namespace-prefix', 'not-well-formed'], (header) => header.replace('xmlns:stream', 'xmlns:foobar')],
  ['§4.9.3.1 a root that is no stream', ['bad-format', 'invalid-xml', 'not-well-formed'], (header) => header.replace('stream:stream', 'stream:river')],
  ['§4.9.3.25 a version that is not supported', ['unsupported-version'], (header) => header.replace("version='1.0' xmlns", "version='11.0' xmlns")],
  ['§4.9.3.22 another encoding', ['unsupported-encoding', 'not-well-formed'], (header) => header.replace("?>", " encoding='ISO-8859-1'?>")],
]
for (const [title, conditions, change] of headerErrors) {
  play(`RFC 6120 ${title} ends the stream`, {}, async (_, stage) => {
    const raw = await Raw.open(stage)
    raw.sends(change(HEADER(stage)))
    if (conditions[0] === 'unsupported-version') {
      // §4.7.5: the server may also answer with the version that it has.
      const incoming = await raw.connection.next()
      if (incoming.kind === 'header' && incoming.header.attrs['version'] === '1.0') return raw.leave()
    }
    await raw.streamError(...conditions)
  })
}

const streamErrors: [string, string[], string | Buffer][] = [
  ['§11.1 a comment', ['restricted-xml'], '<!-- comment -->'],
  ['§11.1 a processing instruction', ['restricted-xml', 'not-well-formed'], '<?foo bar?>'],
  ['§11.1 a document type', ['restricted-xml', 'not-well-formed'], "<!DOCTYPE foo [<!ENTITY a 'b'>]>"],
  ['§11.1 an entity that is not predefined', ['restricted-xml', 'not-well-formed'], '<message>&foo;</message>'],
  ['§4.9.3.13 tags that do not match', ['not-well-formed', 'bad-format'], '<message><body></message>'],
  ['§11.3 an undeclared prefix', ['not-well-formed', 'bad-namespace-prefix'], '<message><a:b/></message>'],
  ['§11.3 an attribute twice', ['not-well-formed'], "<message to='a' to='b'/>"],
  ['§11.6 invalid UTF-8', ['not-well-formed', 'bad-format', 'unsupported-encoding'], Buffer.from([0x3c, 0x61, 0x3e, 0xc3, 0x28])],
  ['§4.9.3.12 a stanza before authentication', ['not-authorized'], "<message to='a@b.invalid'><body>hi</body></message>"],
]
for (const [title, conditions, bytes] of streamErrors) {
  play(`RFC 6120 ${title} ends the stream`, {}, async (_, stage) => {
    const raw = await Raw.opened(stage)
    raw.sends(bytes)
    await raw.streamError(...conditions)
  })
}

play('RFC 6120 §13.12 a stanza without end is not taken forever', {}, async (_, stage) => {
  const raw = await Raw.opened(stage)
  for (let i = 0; i < 400 && !raw.connection.closed; i++) raw.sends(`${i === 0 ? '<message>' : ''}${'a'.repeat(10_000)}`)
  await raw.streamError('policy-violation', 'not-authorized')
})

play('RFC 6120 §5.4 STARTTLS is offered, and what follows proceed is TLS', {}, async (_, stage) => {
  if (stage.tls === 'none') return
  const raw = await Raw.open(stage)
  raw.connection.openStream()
  const features = await raw.element('features')
  check(features.has('starttls', 'urn:ietf:params:xml:ns:xmpp-tls'), 'starttls is offered')
  raw.sends("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
  await raw.element('proceed')
  await raw.connection.secureWithTls()
  raw.connection.openStream()
  const secured = await raw.element('features')
  check(!secured.has('starttls', 'urn:ietf:params:xml:ns:xmpp-tls'), 'starttls is not offered again')
  check(secured.has('mechanisms', 'urn:ietf:params:xml:ns:xmpp-sasl'), 'mechanisms are offered')
  raw.leave()
})

play('RFC 6120 §5.3.1 nothing sent ahead of TLS is taken as sent under it', {}, async (_, stage) => {
  if (stage.tls === 'none') return
  const raw = await Raw.opened(stage)
  raw.sends(`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>${HEADER(stage)}<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>`)
  for (;;) {
    const incoming = await raw.connection.next(1000).catch(() => ({ kind: 'close' as const }))
    if (incoming.kind === 'close' || incoming.kind === 'end') break
    if (incoming.kind === 'element') check(incoming.stanza.name === 'proceed' || incoming.stanza.name === 'error', `nothing but proceed or an error, not ${incoming.stanza.name}`)
  }
  raw.leave()
})

play('XEP-0368 direct TLS', { romeo: { available: false } }, async ({ romeo }, stage) => {
  if (stage.tlsPort === undefined) return
  const client = await connect({ host: stage.host, port: stage.tlsPort, domain: stage.domain, tls: 'direct', user: romeo.user, password: romeo.password })
  await client.ping()
  await client.disconnect()
})

for (const mechanism of ['PLAIN', 'SCRAM-SHA-1', 'SCRAM-SHA-256', 'SCRAM-SHA-512', 'SCRAM-SHA-1-PLUS', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-512-PLUS']) {
  play(`RFC 6120 §6 login with ${mechanism}`, { romeo: { available: false } }, async ({ romeo }, stage) => {
    if (mechanism.endsWith('-PLUS') && stage.tls === 'none') return
    const options = { ...stage, tls: stage.tls, user: romeo.user, password: romeo.password, mechanism }
    const client = await connect(options)
    check(client.bare === romeo.bare, 'the JID is the account')
    await client.disconnect()
    const error = await connect({ ...options, password: 'wrong' }).then(() => undefined, (reason: unknown) => reason)
    check(error instanceof LoginError && error.condition === 'not-authorized', '§6.5.10 a wrong password is not-authorized')
  })
}

play('RFC 6120 §6.5.7 an unknown mechanism is answered with invalid-mechanism', {}, async (_, stage) => {
  const raw = await Raw.secured(stage)
  raw.sends("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X-NONE'>AAAA</auth>")
  const failure = await raw.element('failure')
  check(failure.has('invalid-mechanism', 'urn:ietf:params:xml:ns:xmpp-sasl'), `invalid-mechanism, not ${String(failure)}`)
  raw.leave()
})

play('RFC 6120 §6.5.5 broken base64 is answered with incorrect-encoding', {}, async (_, stage) => {
  const raw = await Raw.secured(stage)
  raw.sends("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%%%</auth>")
  const failure = await raw.element('failure')
  check(failure.has('incorrect-encoding', 'urn:ietf:params:xml:ns:xmpp-sasl'), `incorrect-encoding, not ${String(failure)}`)
  raw.leave()
})

play('RFC 6120 §6.5.1 an aborted exchange is answered with aborted', {}, async (_, stage) => {
  const raw = await Raw.secured(stage)
  raw.sends(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>${Buffer.from('n,,n=a,r=b').toString('base64')}</auth>`)
  await raw.element('challenge')
  raw.sends("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
  const failure = await raw.element('failure')
  check(failure.has('aborted', 'urn:ietf:params:xml:ns:xmpp-sasl'), `aborted, not ${String(failure)}`)
  raw.leave()
})

play('RFC 6120 §7.7 a resource that the client chose is bound', { romeo: { resource: 'balcony', available: false } }, async ({ romeo }) => {
  check(romeo.jid === `${romeo.bare}/balcony`, `bound as ${romeo.jid}`)
})

play('RFC 6120 §7.6 a resource that the server chose is bound', { romeo: { available: false } }, async ({ romeo }) => {
  check(romeo.jid.startsWith(`${romeo.bare}/`) && romeo.jid.length > romeo.bare.length + 1, `bound as ${romeo.jid}`)
})

play('RFC 6120 §7.7.2.2 a resource in use: one of both goes on under it, or the later gets another', { romeo: { resource: 'orchard', available: false } }, async ({ romeo }, stage) => {
  const error = await connect({ ...stage, tls: stage.tls, user: romeo.user, password: romeo.password, resource: 'orchard' }).then(async (client) => {
    if (client.jid === `${romeo.bare}/orchard`) {
      await romeo.client.closed
      check(romeo.client.streamError?.condition === 'conflict', 'the first is told of the conflict')
    }
    await client.disconnect()
    return undefined
  }, (reason: unknown) => reason)
  check(error === undefined || (error instanceof IqError && error.condition === 'conflict'), String(error))
})

play('RFC 6120 §8.2.3 an IQ without id, of an unknown type or without payload is refused', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='a1' to='${stage.domain}'/>`, "<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  await romeo.asks(`<iq type='foo' id='a2' to='${stage.domain}'><query xmlns='jabber:iq:version'/></iq>`, "<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('RFC 6120 §8.4 an IQ that nobody understands is answered with service-unavailable', { romeo: {} }, async ({ romeo }, stage) => {
  for (const to of [stage.domain, romeo.bare]) {
    await romeo.asks(`<iq type='get' id='b1' to='${to}'><query xmlns='urn:unknown:0'/></iq>`, "<iq type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  }
})

play('RFC 6120 §8.1.1.1 an illegal address is answered with jid-malformed', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks("<iq type='get' id='c1' to='@@'><query xmlns='jabber:iq:version'/></iq>", "<iq type='error'><error type='modify'><jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play("RFC 6120 §8.1.2.1 a forged 'from' is not passed on", { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message from='${juliet.bare}' to='${juliet.jid}'><body>It is the east</body></message>`)
  await Promise.race([romeo.client.closed, juliet.receives(`<message from='${romeo.jid}'/>`)])
  check(juliet.client.inbox.every((stanza) => stanza.from !== juliet.bare || stanza.name !== 'message'), 'nothing from the forged address')
})

play('RFC 6120 §10.1 stanzas are delivered in order', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const seen: string[] = []
  juliet.client.on((stanza) => { if (stanza.name === 'message') seen.push(stanza.id ?? '') })
  for (let i = 0; i < 200; i++) romeo.sends(`<message to='${juliet.jid}' id='m${i}' type='chat'><body>${i}</body></message>`)
  await juliet.receives("<message id='m199'/>")
  check(seen.join() === Array.from({ length: 200 }, (_, i) => `m${i}`).join(), 'in order')
})

play('RFC 6120 §8.3 xml:lang, prefixes and text outside ASCII pass unharmed', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.jid}' xml:lang='cs' type='chat'><body>Pročež, &lt;Romeo&gt; 🌹</body><p:x xmlns:p='urn:p' p:a='1'><p:y/></p:x></message>`)
  await juliet.receives(`<message from='${romeo.jid}' xml:lang='cs'><body>Pročež, &lt;Romeo&gt; 🌹</body><x xmlns='urn:p'><y/></x></message>`)
})

play('RFC 6120 §4.6.1 whitespace keeps a stream alive', { romeo: {} }, async ({ romeo }) => {
  romeo.client.connection.write(' \n ')
  await romeo.client.ping()
})

play('RFC 6120 §8 an unknown stanza ends the stream', { romeo: {} }, async ({ romeo }) => {
  romeo.client.connection.write("<foo xmlns='jabber:client'/>")
  await romeo.client.closed
  check(romeo.client.streamError?.condition === 'unsupported-stanza-type', `unsupported-stanza-type, not ${romeo.client.streamError?.condition}`)
})
