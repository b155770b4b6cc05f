/** All servers of a run on one network, started and stopped together. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type ServerAuthority, makeServerAuthority } from '../../server/s2s/certificates.fixture.ts'
import { Network } from './network.ts'
import { type Choices, type Kind, Peer, zoneOf } from './peers.ts'

const ALL: Readonly<Record<string, Kind>> = { one: 'tidings', two: 'tidings', prosody: 'prosody', ejabberd: 'ejabberd', 'prosody-two': 'prosody', 'ejabberd-two': 'ejabberd' }

/** Names of the servers: two of Tidings, Prosody and ejabberd, or those in the environment, parted by commas. */
export const NAMES: readonly string[] = (process.env['TIDINGS_FEDERATION_PEERS'] ?? 'one,two,prosody,ejabberd').split(',')

/** Both orders of every two of them. */
export const PAIRS: readonly (readonly [from: string, to: string])[] = NAMES.flatMap((from) => NAMES.filter((to) => to !== from).map((to) => [from, to] as const))

export function kindOf(name: string): Kind {
  const kind = ALL[name]
  if (kind === undefined) throw new Error(`there is no server ${name}; there are ${Object.keys(ALL).join(', ')}`)
  return kind
}

export class World implements AsyncDisposable {
  readonly network: Network
  readonly authority: ServerAuthority
  readonly dir: string
  readonly #peers: readonly Peer[]

  private constructor(network: Network, authority: ServerAuthority, dir: string, peers: readonly Peer[]) {
    this.network = network
    this.authority = authority
    this.dir = dir
    this.#peers = peers
  }

  static async start(names: readonly string[] = NAMES, choices: Choices = {}): Promise<World> {
    const dir = mkdtempSync(path.join(tmpdir(), 'tidings-federation-'))
    const network = await Network.create(names)
    const authority = await makeServerAuthority()
    const peers = await Promise.all(names.map((name) => Peer.create(kindOf(name), name, network, authority, dir, choices)))
    network.zone = Object.assign({}, ...peers.map(({ domain, kind, node }) => zoneOf(domain, kind, node)))
    const world = new World(network, authority, dir, peers)
    try {
      await Promise.all(peers.map((peer) => peer.run()))
    } catch (error) {
      await world[Symbol.asyncDispose]()
      throw error
    }
    return world
  }

  peer(name: string): Peer {
    const found = this.#peers.find((peer) => peer.name === name)
    if (found === undefined) throw new Error(`there is no server ${name}`)
    return found
  }

  /** Stops all; their folders stay for who looks for a failure, when told. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers) await peer[Symbol.asyncDispose]()
    await this.network[Symbol.asyncDispose]()
    if (process.env['TIDINGS_FEDERATION_KEEP'] === undefined) rmSync(this.dir, { recursive: true, force: true })
    else console.log(`configurations and logs are in ${this.dir}`)
  }
}
