/** Nodes of a cluster and its archive worker as processes of their own, as their users run them, over Redis, Kafka and HBase. */
import { ServerProcess } from './server-process.ts'

export interface Services {
  /** As the nodes reach them. */
  readonly redisUrl: string
  readonly broker: string
  readonly hbaseMaster: string
}

export interface NodeProcessesOptions {
  readonly services: Services
  /** A name of their own in all three. */
  readonly name: string
  readonly nodes: number
  /** More of `modules:`, a line each. */
  readonly modules?: readonly string[]
  /** Where each process leaves its log; nowhere unless given. */
  readonly log?: (name: string) => string
  /** For Node. */
  readonly nodeArgs?: readonly string[]
  /** In front of the command of a node, such as `['ip', 'netns', 'exec', NAME]`; and where clients reach it. */
  readonly place?: (index: number) => { readonly prefix: readonly string[]; readonly host: string; readonly services: Services } | undefined
}

export class NodeProcesses implements AsyncDisposable {
  readonly nodes: readonly ServerProcess[]
  readonly worker: ServerProcess

  private constructor(nodes: readonly ServerProcess[], worker: ServerProcess) {
    this.nodes = nodes
    this.worker = worker
  }

  static async start(options: NodeProcessesOptions): Promise<NodeProcesses> {
    const { nodeArgs = [], log } = options
    const started: ServerProcess[] = []
    try {
      const worker = await ServerProcess.start({
        command: 'archive-worker', ready: ' stores ', nodeArgs, config: () => `hosts: [localhost]\n${tidings(options, options.services, 'worker')}`, ...log && { log: log('worker') },
      })
      started.push(worker)
      // The first makes the tables.
      for (let i = 0; i < options.nodes; i++) {
        const name = `node${i}`
        const place = options.place?.(i)
        started.push(await ServerProcess.start({
          nodeArgs, config: ({ client }) => serverConfig(options, place?.services ?? options.services, name, client), ...place && { prefix: place.prefix, host: place.host }, ...log && { log: log(name) },
        }))
      }
      return new NodeProcesses(started.slice(1), worker)
    } catch (error) {
      for (const each of started) await each[Symbol.asyncDispose]()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.worker, ...this.nodes].map((each) => each[Symbol.asyncDispose]()))
  }
}

function serverConfig(options: NodeProcessesOptions, services: Services, name: string, port: number): string {
  return `
hosts: [localhost]
loglevel: warning
listen:
  - { port: ${port}, ip: 0.0.0.0, module: ejabberd_c2s }
access_rules:
  local: { allow: all }
shaper_rules:
  max_user_sessions: 20
  max_user_offline_messages: 100000
registration_timeout: infinity
modules:
  mod_carboncopy: {}
  mod_mam: { default: always }
  mod_offline: {}
  mod_register: { ip_access: all }
  mod_roster: {}
  mod_stream_mgmt: {}
${(options.modules ?? []).map((line) => `  ${line}\n`).join('')}${tidings(options, services, name)}`
}

function tidings({ name }: NodeProcessesOptions, { redisUrl, broker, hbaseMaster }: Services, node: string): string {
  return `tidings:
  cluster: { node: ${node}, redis: { url: "${redisUrl}", key_prefix: "${name}:" } }
  kafka: { brokers: ["${broker}"], topic: ${name}, group: ${name}, partitions: 4, replication: 1 }
  hbase: { masters: ["${hbaseMaster}"], prefix: ${name}_, regions: 2 }
`
}
