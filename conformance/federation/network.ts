/** A network of its own for several servers: each has a namespace with an address of either family on one bridge, and one name server. Linux, as root. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type NameServer, type Zone, startNameServer } from '../../server/s2s/dns.fixture.ts'

const DNS_PORT = 53
const SUBNETS = 200

export interface Node {
  readonly name: string
  readonly ipv4: string
  readonly ipv6: string
  /** In front of a command that is to run there. */
  readonly prefix: readonly string[]
}

/** Why there can be no such network here; undefined when there can. */
export function obstacle(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces are of Linux'
  if (process.getuid?.() !== 0) return 'only root can make network namespaces'
  const probe = `tdprobe${process.pid}`
  try {
    ip('netns', 'add', probe)
    ip('link', 'add', probe.slice(-15), 'type', 'bridge')
    return undefined
  } catch (error) {
    return `network namespaces cannot be made here: ${(error as Error).message.trim()}`
  } finally {
    attempt('link', 'del', probe.slice(-15))
    attempt('netns', 'del', probe)
  }
}

export class Network implements AsyncDisposable {
  /** Where the servers and their clients meet. */
  readonly nodes: readonly Node[]
  readonly nameServer: NameServer
  readonly #bridge: string

  private constructor(bridge: string, nodes: readonly Node[], nameServer: NameServer) {
    this.#bridge = bridge
    this.nodes = nodes
    this.nameServer = nameServer
    process.once('exit', this.#remove)
  }

  /** A namespace for each name, which resolves names by `zone` alone. */
  static async create(names: readonly string[]): Promise<Network> {
    const id = process.pid % 100_000
    const subnet = 10 + Math.floor(Math.random() * SUBNETS)
    const bridge = `td${id}`
    const nodes = names.map((name, at): Node => {
      const namespace = `td${id}-${name}`
      return { name, ipv4: `10.213.${subnet}.${at + 10}`, ipv6: `fd13:${subnet.toString(16)}::${(at + 10).toString(16)}`, prefix: ['ip', 'netns', 'exec', namespace] }
    })
    try {
      ip('link', 'add', bridge, 'type', 'bridge')
      ip('addr', 'add', `10.213.${subnet}.1/24`, 'dev', bridge)
      ip('-6', 'addr', 'add', `fd13:${subnet.toString(16)}::1/64`, 'dev', bridge, 'nodad')
      ip('link', 'set', bridge, 'up')
      for (const [at, node] of nodes.entries()) {
        const namespace = namespaceOf(node)
        ip('netns', 'add', namespace)
        // What the system says where names are found, and which are listed, is replaced in the namespace.
        const folder = path.join('/etc/netns', namespace)
        mkdirSync(folder, { recursive: true })
        writeFileSync(path.join(folder, 'resolv.conf'), `nameserver 10.213.${subnet}.1\noptions timeout:1 attempts:2\n`)
        writeFileSync(path.join(folder, 'hosts'), '127.0.0.1 localhost\n::1 localhost\n')
        const outside = `td${id}v${at}`
        ip('link', 'add', outside, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
        ip('link', 'set', outside, 'master', bridge, 'up')
        const inside = (...args: readonly string[]): void => { ip('-n', namespace, ...args) }
        inside('link', 'set', 'lo', 'up')
        inside('addr', 'add', `${node.ipv4}/24`, 'dev', 'eth0')
        inside('-6', 'addr', 'add', `${node.ipv6}/64`, 'dev', 'eth0', 'nodad')
        inside('link', 'set', 'eth0', 'up')
        inside('route', 'add', 'default', 'via', `10.213.${subnet}.1`)
      }
      return new Network(bridge, nodes, await startNameServer({}, { ip: `10.213.${subnet}.1`, port: DNS_PORT }))
    } catch (error) {
      removeAll(bridge, nodes)
      throw error
    }
  }

  set zone(zone: Zone) { this.nameServer.zone = zone }

  node(name: string): Node {
    const found = this.nodes.find((each) => each.name === name)
    if (found === undefined) throw new Error(`there is no node ${name}`)
    return found
  }

  /** Cuts a node off from all others, or ends that. */
  cut(name: string, isCut: boolean): void {
    ip('-n', namespaceOf(this.node(name)), 'link', 'set', 'eth0', isCut ? 'down' : 'up')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off('exit', this.#remove)
    await this.nameServer[Symbol.asyncDispose]()
    this.#remove()
  }

  readonly #remove = (): void => { removeAll(this.#bridge, this.nodes) }
}

function namespaceOf(node: Node): string {
  return node.prefix[3] as string
}

function removeAll(bridge: string, nodes: readonly Node[]): void {
  for (const node of nodes) {
    attempt('netns', 'del', namespaceOf(node))
    rmSync(path.join('/etc/netns', namespaceOf(node)), { recursive: true, force: true })
  }
  attempt('link', 'del', bridge)
}

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] })
}

function attempt(...args: readonly string[]): void {
  try {
    ip(...args)
  } catch {
    // It is not there.
  }
}
