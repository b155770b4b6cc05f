// XEP-0065: SOCKS5 Bytestreams, version 1.8.2 (2021-03-04): the mediated connection, §6
import { createHash } from 'node:crypto'
import { isIPv4, isIPv6 } from 'node:net'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { xml } from '../../../lib/xml/element.ts'
import { accessRule, anything, host as hostType, int, list, oneOf, shaperRule, size, text } from '../../config/options.ts'
import { defineExtension, type IqRequest } from '../extension.ts'
import { createRelay, type Relay } from './relay.ts'

const NS = 'http://jabber.org/protocol/bytestreams'

export interface Socks5ProxyOptions {
  readonly host: string
  readonly hosts: readonly string[]
  readonly name: string
  readonly hostname: string
  readonly ip: string
  readonly port: number
  readonly access: string
  readonly shaper: string
  readonly max_connections: number
  readonly recbuf: number
  readonly sndbuf: number
  readonly auth_type: 'anonymous' | 'plain'
  readonly server_host: string
  readonly vcard: unknown
}

export const socks5Proxy = defineExtension({
  name: 'socks5-proxy',
  ejabberd: 'mod_proxy65',
  specs: [{ xep: 65, version: '1.8.2', status: 'complete', note: 'a proxy for streams over TCP' }],
  needs: ['host', 'router', 'access', 'log', 'metrics', 'limits', 'lasting'],
  options: {
    host: { type: hostType(), default: 'proxy.@HOST@', help: 'Domain of the proxy.' },
    hosts: { type: list(hostType()), default: [] as readonly string[], help: 'Several domains in place of host.' },
    name: { type: text(), default: 'SOCKS5 Bytestreams', help: 'Name of the proxy in the list of services.' },
    hostname: { type: text(), default: '', help: 'Where clients connect to: a domain or an IP address. Unless set, `ip` if that is one address, else the host.' },
    ip: { type: text(), default: '::', help: 'Address to listen on; "::" is all of IPv6 and IPv4.' },
    port: { type: int({ min: 0, max: 65_535 }), default: 7777, help: 'TCP port; 0 picks a free one.' },
    access: { type: accessRule(), default: 'all', help: 'Who may start a bytestream. With whom is up to them.' },
    shaper: { type: shaperRule(), default: 'none', help: 'How fast each direction of a bytestream may be.' },
    max_connections: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Bytestreams that an account may have at a time.' },
    recbuf: { type: size({ min: 1024 }), default: 65_536, help: 'Bytes of each direction that are kept while the receiver is slow.' },
    sndbuf: { type: size({ min: 1024 }), default: 65_536, help: 'Bytes of the system\'s own buffer.', ignored: 'has no effect: the operating system sizes its buffers itself.' },
    auth_type: { type: oneOf('anonymous', 'plain'), default: 'anonymous', help: 'How connections log in.', ignored: 'has no effect: a bytestream is activated by a client that is logged in, and its connections need no password besides.' },
    server_host: { type: text(), default: '', help: 'Domain whose accounts connections log in to.', ignored: 'has no effect: connections do not log in.' },
    vcard: { type: anything(), default: undefined, help: 'vCard of the service.', ignored: 'has no effect: the service has no vCard.' },
  },
  start({ host, router, access, log, metrics, limits, lasting }, options: Socks5ProxyOptions) {
    const relays = lasting('socks5-relays', () => new Map<string, Relay>())
    const place = `${options.ip} ${options.port}`
    // What is under way goes on after a reload, and hosts may share a port.
    const relay = relays.get(place) ?? createRelay({ metrics, limits })
    relays.set(place, relay)
    const release = relay.open({ ip: options.ip, port: options.port, bufferBytes: options.recbuf }, (error) => { log.error({ what: 'proxy65_listen_failed', host, ip: options.ip, port: options.port, error }) })
    const announced = options.hostname !== '' ? options.hostname : isIPv4(options.ip) && options.ip !== '0.0.0.0' || isIPv6(options.ip) && options.ip !== '::' ? options.ip : host

    function requireAllowed({ from }: IqRequest): void {
      if (!access.allows(options.access, { jid: from })) throw new StanzaError('forbidden') // §4
    }

    for (const domain of (options.hosts.length > 0 ? options.hosts : [options.host]).map((each) => each.replaceAll('@HOST@', host))) {
      const { iq, disco } = router.iqService(domain, options.name)
      disco.identity('host', { category: 'proxy', type: 'bytestreams', name: options.name })
      disco.feature('host', NS)

      // §4
      iq.get(`${NS} query`, 'host', (request) => {
        requireAllowed(request)
        const { port } = relay
        if (port === undefined) throw new StanzaError('not-allowed', 'the proxy cannot be reached at the moment')
        return xml('query', { xmlns: NS }, xml('streamhost', { host: announced, jid: domain, port: String(port) }))
      })

      // §6.3.5
      iq.set(`${NS} query`, 'host', (request) => {
        requireAllowed(request)
        const { from, payload } = request
        const { sid } = payload.attrs
        const activate = payload.getChild('activate', NS)
        if (sid === undefined || activate === undefined) throw new StanzaError('bad-request')
        const target = Jid.tryParse(activate.text().trim())
        if (target === undefined) throw new StanzaError('jid-malformed')
        const hash = createHash('sha1').update(`${sid}${from.toString()}${target.toString()}`).digest('hex')
        const problem = relay.activate(hash, { owner: from.bare, max: options.max_connections, shaper: access.shaper(options.shaper, { jid: from }) })
        switch (problem) {
          case 'unknown': throw new StanzaError('item-not-found', 'neither party is connected to the proxy')
          case 'alone': throw new StanzaError('not-allowed', 'one party alone is connected to the proxy')
          case 'active': throw new StanzaError('not-allowed', 'the bytestream is active already')
          case 'too-many': throw new StanzaError('resource-constraint', `at most ${options.max_connections} bytestreams at a time`)
          case undefined: return undefined
        }
      })
    }
    return release
  },
})
