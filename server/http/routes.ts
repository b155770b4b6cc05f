/** Which handler answers a request: by method and path prefix, the longest prefix first. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ListenerOptions } from './http.ts'

/** What is known about a request before a handler reads it. */
export interface HttpPath {
  /** The host the client asked for, lower-case and without port; empty when it named none. */
  readonly host: string
  /** The path without the query, percent-encoded as it came. */
  readonly path: string
  readonly query: URLSearchParams
  /** The peer's IP address. */
  readonly address: string
  readonly secure: boolean
  /** The options of the listener that it came by. */
  readonly listener: ListenerOptions
}

export type HttpHandler = (request: IncomingMessage, response: ServerResponse, path: HttpPath) => void | Promise<void>

/** A request to change protocol (WebSocket); the handler owns the socket from here. */
export type UpgradeHandler = (request: IncomingMessage, socket: Duplex, head: Buffer, path: HttpPath) => void

/** What a handler is known by in `request_handlers` of a listener, and the path its routes are added under. */
export const HANDLER_PATHS: Readonly<Record<string, string>> = {
  mod_http_upload: '/upload',
  tidings_status: '/status',
  ejabberd_http_ws: '/ws',
  mod_bosh: '/bosh',
  mod_host_meta: '/.well-known/host-meta',
  mod_http_api: '/api',
  mod_invites: '/invites',
  mod_register_web: '/register',
  mod_conversejs: '/conversejs',
}

export interface HttpRoutes {
  /** Adds a handler for a path and all below it; call the result to remove it. The latest of equal routes wins. */
  add(method: string, pathPrefix: string, handler: HttpHandler): () => void
  /** Adds a handler for requests to change protocol. */
  upgrade(pathPrefix: string, handler: UpgradeHandler): () => void
  /**
   * `https://host:port` of the public listener, or undefined when nothing listens. With `path`, one of HANDLER_PATHS: the
   * address of that handler on a listener that has it, wherever the configuration put it.
   */
  baseUrl(host: string, path?: string): string | undefined
}

interface Route {
  readonly method: string
  readonly prefix: string
  readonly handler: HttpHandler
}

export type Match = { readonly kind: 'found'; readonly handler: HttpHandler } | { readonly kind: 'wrong-method'; readonly allowed: readonly string[] } | { readonly kind: 'none' }

/** The table behind HttpRoutes. */
export class RouteTable {
  #routes: Route[] = []

  add(method: string, pathPrefix: string, handler: HttpHandler): () => void {
    if (!pathPrefix.startsWith('/')) throw new Error(`path prefix must start with a slash: ${pathPrefix}`)
    const route = { method: method.toUpperCase(), prefix: pathPrefix.length > 1 && pathPrefix.endsWith('/') ? pathPrefix.slice(0, -1) : pathPrefix, handler }
    // Newest first among equals, so that a reloaded extension replaces its former self.
    this.#routes = [route, ...this.#routes].sort((a, b) => b.prefix.length - a.prefix.length)
    return () => { this.#routes = this.#routes.filter((each) => each !== route) }
  }

  match(method: string, path: string): Match {
    const allowed = new Set<string>()
    for (const route of this.#routes) {
      const below = route.prefix === '/' || path === route.prefix || (path.startsWith(route.prefix) && path[route.prefix.length] === '/')
      if (!below) continue
      if (route.method === '*' || route.method === method) return { kind: 'found', handler: route.handler }
      // RFC 9110 §9.3.2: whoever answers GET answers HEAD.
      if (method === 'HEAD' && route.method === 'GET') return { kind: 'found', handler: route.handler }
      allowed.add(route.method)
      if (route.method === 'GET') allowed.add('HEAD')
    }
    return allowed.size > 0 ? { kind: 'wrong-method', allowed: [...allowed] } : { kind: 'none' }
  }
}
