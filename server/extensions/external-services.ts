// XEP-0215: External Service Discovery, version 1.0.0 (2022-08-23)
import { createHmac } from 'node:crypto'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { accessRule, bool, duration, int, list, oneOf, record, text } from '../config/options.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const NS = 'urn:xmpp:extdisco:2'
/** RFC 8656 §6, RFC 8489 §8. */
const PORT = 3478
const TLS_PORT = 5349

export interface ExternalService {
  readonly host: string
  readonly port: number | undefined
  readonly type: 'stun' | 'stuns' | 'turn' | 'turns'
  readonly transport: 'udp' | 'tcp' | undefined
  readonly restricted: boolean | undefined
  readonly name: string
}

export interface ExternalServicesOptions {
  readonly access: string
  readonly credentials_lifetime: number
  readonly offer_local_services: boolean
  readonly secret: string
  readonly services: readonly ExternalService[]
}

export const externalServices = defineExtension({
  name: 'external-services',
  ejabberd: 'mod_stun_disco',
  specs: [{ xep: 215, version: '1.0.0', status: 'complete', note: 'the list is that of the configuration, and no changes are pushed' }],
  features: [NS],
  needs: ['host', 'iq', 'access', 'log', 'now'],
  options: {
    access: { type: accessRule(), default: 'local', help: 'Who may ask.' },
    credentials_lifetime: { type: duration({ infinity: false }), default: 43_200_000, help: 'How long user name and password of a service are good for.' },
    offer_local_services: { type: bool(), default: true, help: 'Offer the STUN and TURN services of this server, too. It has none.' },
    secret: { type: text(), default: '', help: 'Secret that is shared with the TURN servers (`static-auth-secret` of coturn), which credentials are made from.' },
    services: {
      type: list(record<ExternalService>({
        host: { type: text(), default: '', help: 'Domain or IP address.' },
        port: { type: int({ min: 1, max: 65_535 }), default: undefined, help: 'Port; 3478, or 5349 with TLS, unless told.' },
        type: { type: oneOf('stun', 'stuns', 'turn', 'turns'), default: 'turn', help: 'stun, turn, or either with TLS: stuns, turns.' },
        transport: { type: oneOf('udp', 'tcp'), default: undefined, help: 'udp or tcp; tcp with TLS unless told, else udp.' },
        restricted: { type: bool(), default: undefined, help: 'Whether credentials are needed; those of TURN are unless told.' },
        name: { type: text(), default: '', help: 'What people call it.' },
      })),
      default: [] as readonly ExternalService[],
      help: 'The services: host, port, type, transport, restricted, name.',
    },
  },
  start({ host, iq, access, log, now }, options: ExternalServicesOptions) {
    const services = options.services.map(withDefaults).filter((service) => {
      const problem = service.host === '' ? 'it has no host' : service.restricted && options.secret === '' ? 'it needs credentials, and there is no secret to make them from' : undefined
      if (problem !== undefined) log.warn({ what: 'external_service_not_offered', host, service: `${service.type}:${service.host}`, text: `Not offered: ${problem}.` })
      return problem === undefined
    })

    function requireAllowed({ from }: IqRequest): void {
      if (!access.allows(options.access, { jid: from })) throw new StanzaError('forbidden')
    }

    /** Time-limited credentials as TURN servers with a shared secret take them (the REST API for access to TURN services, §2.2). */
    function credentials(bare: string): Readonly<Record<string, string>> {
      const until = Math.floor((now() + options.credentials_lifetime) / 1000)
      // A service can tell users apart and does not learn who they are.
      const username = `${until}:${createHmac('sha256', options.secret).update(bare).digest('hex').slice(0, 20)}`
      const password = createHmac('sha1', options.secret).update(username).digest('base64')
      return { username, password, expires: formatDateTime(until * 1000).replace('.000Z', 'Z') }
    }

    function describe({ host: name, port, type, transport, restricted, name: label }: Known, bare: string): Element {
      return xml('service', { host: name, port: String(port), transport, type, name: label === '' ? undefined : label, ...restricted ? { restricted: '1', ...credentials(bare) } : {} })
    }

    iq.get(`${NS} services`, 'host', (request) => {
      requireAllowed(request)
      const { type } = request.payload.attrs
      return xml('services', { xmlns: NS, type }, services.filter((each) => type === undefined || each.type === type).map((each) => describe(each, request.from.bare)))
    })

    /** §3.3 */
    iq.get(`${NS} credentials`, 'host', (request) => {
      requireAllowed(request)
      const [asked, ...more] = request.payload.getChildren('service', NS)
      const { host: name, type, port } = asked?.attrs ?? {}
      if (name === undefined || type === undefined || more.length > 0) throw new StanzaError('bad-request', 'the host and type of one service are needed')
      const found = services.filter((each) => each.restricted && each.host === name && each.type === type && (port === undefined || port === String(each.port)))
      if (found.length === 0) throw new StanzaError('item-not-found')
      return xml('credentials', { xmlns: NS }, found.map((each) => describe(each, request.from.bare)))
    })
  },
})

type Known = ReturnType<typeof withDefaults>

function withDefaults({ port, transport, restricted, ...service }: ExternalService) {
  const tls = service.type === 'stuns' || service.type === 'turns'
  return {
    ...service,
    port: port ?? (tls ? TLS_PORT : PORT),
    transport: transport ?? (tls ? 'tcp' : 'udp'),
    restricted: restricted ?? service.type.startsWith('turn'),
  }
}
