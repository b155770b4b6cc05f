/** For tests: several whole servers that share their accounts, and clients at them. */
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { SharedNodes, type SharedNode } from './shared-units.fixture.ts'

export interface Site {
  readonly node: SharedNode
  readonly site: TestServer
}

export class Sites implements AsyncDisposable {
  readonly all: SharedNodes
  readonly sites: Site[] = []
  readonly #clients: Client[] = []
  readonly #streams: Connection[] = []

  private constructor(all: SharedNodes) { this.all = all }

  /** Starts servers with these names. */
  static async start(names: readonly string[], config: string, before: () => void = () => undefined, now: () => number = Date.now): Promise<Sites> {
    const sites = new Sites(new SharedNodes())
    for (const name of names) {
      before()
      const node = sites.all.join(name)
      sites.sites.push({ node, site: await startTestServer({ storage: node.storage, config, now, cluster: { units: node, secret: Buffer.from('known to all') } }) })
    }
    return sites
  }

  /** A further server beside these, which ends alone. */
  static async joining(others: Sites, name: string, config: string): Promise<Sites> {
    const node = others.all.join(name)
    const joined = new Sites(others.all)
    for (const site of others.sites) joined.sites.push({ ...site, site: { ...site.site, [Symbol.asyncDispose]: () => Promise.resolve() } as TestServer })
    joined.sites.push({ node, site: await startTestServer({ storage: node.storage, config, cluster: { units: node, secret: Buffer.from('known to all') } }) })
    return joined
  }

  at(index: number): Site { return this.sites[index] as Site }

  /** The place of the site that has a unit. */
  homeOf(unit: string): number { return this.sites.findIndex(({ node }) => node.inc === this.all.homes.get(unit)) }

  /** Makes an account that is at home nowhere. */
  async register(name: string): Promise<void> {
    await this.at(0).site.server.register(`${name}@localhost`, 'secret')
    for (const { node } of this.sites) if (node.isHere(`${name}@localhost`)) node.release(`${name}@localhost`)
  }

  async login(index: number, user: string, options: Partial<ConnectOptions> & { readonly presence?: string } = {}): Promise<Client> {
    const { site } = this.at(index)
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', tls: 'none', user, password: 'secret', resource: 'r', ...options })
    this.#clients.push(client)
    if (options.presence !== '') {
      client.send(options.presence ?? '<presence/>')
      await client.receive((element) => element.getName() === 'presence' && element.attrs['from'] === `${user}@localhost/${client.jid.split('/')[1]}`)
    }
    return client
  }

  /** Somebody who has not logged in: sends IQs of type set to the host, and answers `result` or the error's condition. */
  async stranger(index: number): Promise<(payload: string) => Promise<string>> {
    const { site } = this.at(index)
    const stream = await Connection.open({ host: site.host, port: site.port, domain: 'localhost' })
    this.#streams.push(stream)
    stream.openStream()
    await stream.nextElement()
    return async (payload) => {
      stream.write(`<iq type='set' id='s' to='localhost'>${payload}</iq>`)
      const answer = await stream.nextElement()
      return answer.type === 'result' ? 'result' : answer.element().getChild('error')?.getChildElements()[0]?.getName() ?? ''
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of [...this.#clients, ...this.#streams]) client.destroy()
    for (const { site } of this.sites) await site[Symbol.asyncDispose]()
  }
}

/** The values of the fields of a form, or of a command's answer. */
export function valuesOf(answer: Element, field: string): readonly string[] {
  const x = answer.getChild('x', 'jabber:x:data') ?? answer.getChild('command')?.getChild('x', 'jabber:x:data')
  const found = x?.getChildren('field').find((each) => each.attrs['var'] === field)
  return (found?.getChildren('value') ?? []).map((value) => value.getText())
}

/** Runs a command of the host with its one form (XEP-0050), and answers the result. */
export async function runCommand(client: Client, node: string, fields?: Readonly<Record<string, string | readonly string[]>>): Promise<Element> {
  const first = await client.sendIq(`<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='${node}' action='execute'/></iq>`)
  if (fields === undefined) return first
  const session = first.getChild('command')?.attrs['sessionid']
  const type = valuesOf(first, 'FORM_TYPE')[0]
  const form = Object.entries(fields).map(([name, value]) => `<field var='${name}'>${(typeof value === 'string' ? [value] : value).map((each) => `<value>${each}</value>`).join('')}</field>`).join('')
  return client.sendIq(`<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='${node}' sessionid='${session}' action='complete'><x xmlns='jabber:x:data' type='submit'>${type === undefined ? '' : `<field var='FORM_TYPE'><value>${type}</value></field>`}${form}</x></command></iq>`)
}

export async function until<Value>(find: () => Value | undefined | Promise<Value | undefined>): Promise<Value> {
  for (let i = 0; i < 300; i++) {
    const value = await find()
    if (value !== undefined) return value
    await new Promise((resolve) => { setTimeout(resolve, 10) })
  }
  throw new Error('it never came')
}
