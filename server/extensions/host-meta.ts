// XEP-0156: Discovering Alternative XMPP Connection Methods, version 1.4.0 (2022-02-10)
import type { ServerResponse } from 'node:http'
import { xml } from '../../lib/xml/element.ts'
import { text } from '../config/options.ts'
import { HttpError } from '../http/http.ts'
import { HANDLER_PATHS } from '../http/routes.ts'
import { defineExtension } from './extension.ts'

const ROUTE = HANDLER_PATHS['mod_host_meta'] as string
const XRD_NS = 'http://docs.oasis-open.org/ns/xri/xrd-1.0'

export interface HostMetaOptions {
  readonly bosh_service_url: string
  readonly websocket_url: string
}

interface Link {
  readonly rel: string
  readonly href: string
}

/** The other ways to connect, in XRD and in JRD (RFC 6415), for pages of any origin. */
export const hostMeta = defineExtension({
  name: 'host-meta',
  ejabberd: 'mod_host_meta',
  specs: [{ xep: 156, version: '1.4.0', status: 'complete' }],
  needs: ['host', 'http', 'config', 'lasting'],
  options: {
    bosh_service_url: { type: text(), default: 'auto', help: 'Address of BOSH; auto: where a listener with TLS has mod_bosh; undefined: none.' },
    websocket_url: { type: text(), default: 'auto', help: 'Address of WebSocket; auto: where a listener with TLS has ejabberd_http_ws; undefined: none.' },
  },
  start({ host, http, config, lasting }, options: HostMetaOptions) {
    const hosts = lasting('host-meta', () => new Map<string, () => readonly Link[]>())

    /** Where we serve it ourselves; only over TLS (§2.2). */
    function own(handler: string, scheme: string): string | undefined {
      const url = http.baseUrl(host, HANDLER_PATHS[handler])
      return url?.startsWith('https:') === true ? scheme + url.slice('https:'.length) : undefined
    }

    function address(configured: string, handler: string, scheme: string): string | undefined {
      if (configured === 'undefined' || configured === '') return undefined
      return configured === 'auto' ? own(handler, scheme) : configured.replaceAll('@HOST@', host)
    }

    const links = (): readonly Link[] => [
      { rel: 'urn:xmpp:alt-connections:websocket', href: address(options.websocket_url, 'ejabberd_http_ws', 'wss:') },
      { rel: 'urn:xmpp:alt-connections:xbosh', href: options.bosh_service_url !== 'auto' || config.modules.has('mod_bosh') ? address(options.bosh_service_url, 'mod_bosh', 'https:') : undefined },
    ].filter((link): link is Link => link.href !== undefined)

    /** The links of the host that was asked for; of the only one, whatever it was called. */
    function linksOf(name: string): readonly Link[] {
      const found = hosts.get(name) ?? (hosts.size === 1 ? hosts.values().next().value : undefined)
      if (found === undefined) throw new HttpError(404)
      return found()
    }

    hosts.set(host, links)
    const routes = [
      http.add('GET', ROUTE, (_request, response, path) => {
        const body = xml('XRD', { xmlns: XRD_NS }, linksOf(path.host).map(({ rel, href }) => xml('Link', { rel, href })))
        send(response, 'application/xrd+xml', `<?xml version='1.0' encoding='utf-8'?>\n${body.toString()}\n`)
      }),
      http.add('GET', `${ROUTE}.json`, (_request, response, path) => {
        send(response, 'application/json', `${JSON.stringify({ links: linksOf(path.host) })}\n`)
      }),
      ...[ROUTE, `${ROUTE}.json`].map((route) => http.add('OPTIONS', route, (_request, response) => {
        response.writeHead(204, CORS).end()
      })),
    ]
    return () => {
      // A host that was built anew has put itself there meanwhile.
      if (hosts.get(host) === links) hosts.delete(host)
      for (const remove of routes) remove()
    }
  },
})

/** §3: any page may read this, and nothing else for it. */
const CORS = { 'Access-Control-Allow-Origin': '*', 'Access-Control-Allow-Methods': 'GET, HEAD, OPTIONS', 'Access-Control-Allow-Headers': 'Content-Type' }

function send(response: ServerResponse, type: string, body: string): void {
  response.writeHead(200, { ...CORS, 'Content-Type': `${type}; charset=utf-8`, 'Content-Length': Buffer.byteLength(body), 'X-Content-Type-Options': 'nosniff' })
  response.end(response.req.method === 'HEAD' ? undefined : body)
}
