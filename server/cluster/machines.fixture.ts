/** For tests: several whole servers, each with a storage of its own as on machines of their own, users and components at them. */
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import { ComponentClient } from '../../lib/client/component.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { framesOf } from './frames.ts'
import { joinNode, newWorld, stopNode, type TestNode } from './nodes.fixture.ts'

interface Machine {
  readonly node: TestNode
  readonly site: TestServer
}

const PASSWORD = 'secret'
export const COMPONENT_SECRET = 'sesame'

/** A configuration with a listener for components. */
export function withComponents(listen: string, modules = '', more = ''): string {
  return TEST_CONFIG.replace('listen:\n', `listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_service, ${listen} }\n`).replace('  mod_bosh: {}\n', modules) + more
}

export class Machines implements AsyncDisposable {
  readonly world = newWorld()
  readonly #all: (Machine | undefined)[] = []
  readonly #killed = new Set<Machine>()
  readonly #ends: (() => void)[] = []
  readonly #config: string

  readonly #now: () => number

  private constructor(config: string, now: () => number) {
    this.#config = config
    this.#now = now
  }

  /** Starts so many, with these accounts on localhost, which are at home at the first. */
  static async start(count: number, config: string, accounts: readonly string[], now: () => number = Date.now): Promise<Machines> {
    const machines = new Machines(config, now)
    while (machines.#all.length < count) await machines.join()
    for (const user of accounts) await machines.at(0).site.server.register(`${user}@localhost`, PASSWORD)
    return machines
  }

  /** Starts one more, and answers its place. */
  async join(): Promise<number> {
    const node = joinNode(this.world, String.fromCharCode(97 + this.#all.length), { framesOf, idleMs: 300 })
    const site = await startTestServer({ storage: node.storage, config: this.#config, now: this.#now, cluster: { units: node.storage, secret: Buffer.from('known to all') } })
    return this.#all.push({ node, site }) - 1
  }

  /** Throws for one that has been stopped. */
  at(index: number): Machine {
    const machine = this.#all[index]
    if (machine === undefined) throw new Error(`machine ${index} is not there`)
    return machine
  }

  /** Ends one as a kill would. */
  kill(index: number): void {
    this.#killed.add(this.at(index))
    this.world.cluster.kill(this.at(index).node.inc)
  }

  /** Stops one in good order. */
  async stop(index: number): Promise<void> {
    const machine = this.at(index)
    this.#all[index] = undefined
    await this.#stop(machine)
  }

  /** The place of the unit's home; -1 when nobody that is there has it. */
  homeOf(unit: string): number {
    const inc = this.world.cluster.homes.get(unit)
    return this.#all.findIndex((machine) => machine !== undefined && !this.#killed.has(machine) && machine.node.inc === inc)
  }

  /** The first that is there and not one of these. */
  otherThan(...taken: readonly number[]): number {
    return this.#all.findIndex((machine, index) => machine !== undefined && !this.#killed.has(machine) && !taken.includes(index))
  }

  /** Logs somebody in at the home of the account. */
  async user(name: string, options: Partial<ConnectOptions> = {}): Promise<Client> {
    const home = this.homeOf(`${name}@localhost`)
    const { site } = this.at(home === -1 ? this.otherThan() : home)
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', tls: 'none', user: name, password: PASSWORD, resource: 'r', sm: true, ...options })
    this.#ends.push(() => client.destroy())
    client.send('<presence/>')
    await client.ping()
    return client
  }

  /** Connects a component to one of them. */
  async component(index: number, domain: string): Promise<ComponentClient> {
    const port = this.at(index).site.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
    const client = await ComponentClient.connect({ host: '127.0.0.1', port, domain, secret: COMPONENT_SECRET })
    this.#ends.push(() => client.connection.destroy())
    return client
  }

  async #stop(machine: Machine): Promise<void> {
    // A process that is killed would not be there; here it has to be told.
    if (this.#killed.has(machine)) machine.node.membership.lose()
    await machine.site[Symbol.asyncDispose]()
    if (!this.#killed.has(machine)) await stopNode(machine.node, this.world)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends) end()
    for (const machine of this.#all) if (machine !== undefined) await this.#stop(machine)
  }
}
