/** Where plays are given: the scenario files, and a server of our own when no address is known. */
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { parseDocument } from 'yaml'
import { plays, type Stage } from './play.ts'
import { type Ports, ServerProcess } from './server-process.ts'

/** Loads all scenario files; their plays are in `plays` then. */
export async function loadPlays(): Promise<typeof plays> {
  const folder = new URL('scenarios/', import.meta.url)
  for (const file of (await readdir(folder)).sort()) if (/\.[tj]s$/.test(file)) await import(new URL(file, folder).href)
  return plays
}

const COMPONENT = { domain: 'component.localhost', secret: 'sesame' }

export interface OwnStage extends AsyncDisposable {
  readonly stage: Stage
  readonly server: ServerProcess
}

/** Starts a server with the configuration that we ship. Its log goes to a file if one is named. */
export async function ownStage(log?: string): Promise<OwnStage> {
  const shipped = await readFile(path.join(import.meta.dirname, '../config/ejabberd-compat.yml'), 'utf8')
  const server = await ServerProcess.start({ config: (ports) => staged(shipped, ports), ...(log === undefined ? {} : { log }) })
  return {
    stage: { host: '127.0.0.1', port: server.ports.client, domain: 'localhost', tlsPort: server.ports.clientTls, tls: 'starttls', web: `https://localhost:${server.ports.https}`, component: { port: server.ports.component, ...COMPONENT } },
    server,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** The configuration on ports of its own; accounts are made, and stanzas sent, as fast as plays need them. What only the operator of a domain can know is made up. */
export function staged(shipped: string, ports: Ports): string {
  const document = parseDocument(shipped)
  for (const [at, port] of [ports.client, ports.clientTls, ports.https].entries()) {
    document.setIn(['listen', at, 'port'], port)
    document.setIn(['listen', at, 'ip'], '127.0.0.1')
    document.deleteIn(['listen', at, 'shaper'])
  }
  document.addIn(['listen'], document.createNode({ port: ports.component, ip: '127.0.0.1', module: 'ejabberd_service', hosts: { [COMPONENT.domain]: { password: COMPONENT.secret } } }))
  document.set('loglevel', 'debug')
  document.set('registration_timeout', 'infinity')
  document.deleteIn(['modules', 'mod_http_upload', 'put_url'])
  document.setIn(['modules', 'mod_proxy65'], document.createNode({ ip: '127.0.0.1', port: 0 }))
  document.delete('tidings')
  const turn = { host: '127.0.0.1', port: 3478, transport: 'udp' }
  document.setIn(['modules', 'mod_stun_disco'], document.createNode({ secret: 'sesame', services: [{ ...turn, type: 'stun' }, { ...turn, type: 'turn' }] }))
  document.setIn(['modules', 'mod_disco'], document.createNode({ server_info: [{ modules: 'all', name: 'abuse-addresses', urls: ['mailto:abuse@localhost'] }] }))
  return document.toString()
}
