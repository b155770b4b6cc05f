/** What an operator can do, each operation once. The command line and the control socket are thin faces on it. */
import { isIP } from 'node:net'
import { Jid, JidError } from '../../lib/jid.ts'
import { AccountError, type Accounts } from '../accounts/accounts.ts'
import type { EverySession } from '../sessions/everywhere.ts'
import { exportHosts, exportUserTo, importFile, type MovingParts } from './piefxis.ts'

export interface AdminResult {
  /** 0 done (or yes), 1 failed (or no), 2 called the wrong way. */
  readonly code: 0 | 1 | 2
  readonly lines: readonly string[]
}

/** What a running server offers; an operation that lacks its part says that the server is not running. */
export interface AdminParts {
  hosts(): readonly string[]
  readonly accounts: Pick<Accounts, 'exists' | 'setPassword' | 'checkPassword' | 'list' | 'count' | 'disable' | 'enable' | 'disabled'>
  register(bareJid: string, password: string): Promise<void>
  /** Removes the account and all that belongs to it. */
  unregister(bareJid: string): Promise<void>
  /** What accounts have, where the extensions are that know it. */
  readonly moving?: MovingParts
  readonly running?: {
    /** Of all nodes, when there are several. */
    readonly sessions: EverySession
    status(): { readonly healthy: boolean; readonly sessions: number; readonly uptimeMs: number; readonly storage: { readonly driver: string; readonly problem?: string } }
    /** Begins to stop; the answer is sent before the server is gone. */
    stop(): void
    /** Stops and begins anew in the same process. Rejects when the configuration cannot be used; then it goes on as it was. */
    restart(): Promise<void>
    /** Stops after a while, of which everybody who is online is told before. */
    stopKindly(delayMs: number, announcement: string): void
    /** Reads the configuration again; answers its problems. Rejects when it cannot be used. */
    reload(): Promise<readonly string[]>
    /** Lifts the ban of an address, or the network it counts as; whether there was one. */
    unban(address: string): boolean | Promise<boolean>
    /** Streams with other servers, of this process. */
    readonly federation?: {
      incoming(): readonly { readonly domain: string; readonly local: string }[]
      outgoing(): readonly { readonly domain: string; readonly local: string }[]
      stop(domain?: string): number
    }
    /** An operation of a host's extensions; undefined when none of them knows it. */
    operation(host: string, name: string, args: readonly string[]): Promise<readonly string[] | undefined>
  }
}

interface Operation {
  readonly name: string
  readonly args: readonly string[]
  readonly help: string
  run(args: readonly string[]): Promise<AdminResult> | AdminResult
}

export interface Admin {
  readonly operations: readonly Pick<Operation, 'name' | 'args' | 'help'>[]
  run(name: string, args: readonly string[]): Promise<AdminResult>
}

/** Problems of an import that are told. */
const PROBLEMS_MAX = 1000

const DELAY_MAX_S = 86_400

class Refused extends Error {}

/** The name, arguments and one line of help of each operation, for usage texts. */
export const OPERATIONS: readonly { readonly name: string; readonly args: readonly string[]; readonly help: string }[] = [
  { name: 'register', args: ['user', 'host', 'password'], help: 'Add an account.' },
  { name: 'unregister', args: ['user', 'host'], help: 'Remove an account and all that belongs to it.' },
  { name: 'change_password', args: ['user', 'host', 'password'], help: 'Give an account another password.' },
  { name: 'ban_account', args: ['user', 'host', 'reason'], help: 'End the sessions of an account and let nobody log in to it; it keeps what it has.' },
  { name: 'unban_account', args: ['user', 'host'], help: 'Let its owner log in again.' },
  { name: 'get_ban_details', args: ['user', 'host'], help: 'Since when an account is banned, and why; nothing when it is not.' },
  { name: 'check_account', args: ['user', 'host'], help: 'Succeed when the account exists.' },
  { name: 'check_password', args: ['user', 'host', 'password'], help: 'Succeed when the password is right.' },
  { name: 'export_piefxis', args: ['dir'], help: 'Write all accounts with what they have into files (XEP-0227).' },
  { name: 'export_piefxis_host', args: ['dir', 'host'], help: 'The same of one host.' },
  { name: 'export_piefxis_user', args: ['file', 'user', 'host'], help: 'The same of one account, into one file.' },
  { name: 'import_piefxis', args: ['file'], help: 'Take in the accounts of such a file, and of those that it includes.' },
  { name: 'registered_users', args: ['host'], help: 'List the accounts of a host.' },
  { name: 'registered_vhosts', args: [], help: 'List the hosts.' },
  { name: 'stats', args: ['name'], help: 'One of registeredusers, onlineusers, uptimeseconds.' },
  { name: 'connected_users', args: [], help: 'List the sessions.' },
  { name: 'connected_users_number', args: [], help: 'Count the sessions.' },
  { name: 'connected_users_vhost', args: ['host'], help: 'List the sessions of a host.' },
  { name: 'user_resources', args: ['user', 'host'], help: 'List the resources of an account that are connected.' },
  { name: 'kick_user', args: ['user', 'host'], help: 'End all sessions of an account; answers how many.' },
  { name: 'kick_session', args: ['user', 'host', 'resource', 'reason'], help: 'End one session.' },
  { name: 'unban_ip', args: ['address'], help: 'Forget failed logins from an address; answers how many addresses had any.' },
  { name: 'incoming_s2s_number', args: [], help: 'Count the pairs of domains that other servers send by.' },
  { name: 'outgoing_s2s_number', args: [], help: 'Count the pairs of domains that are sent by to other servers.' },
  { name: 'list_s2s', args: [], help: 'List the pairs of domains of both directions.' },
  { name: 'stop_s2s_connections', args: [], help: 'Close all streams with other servers; answers how many.' },
  { name: 'stop_s2s_connection', args: ['domain'], help: 'Close the streams with one server; answers how many.' },
  { name: 'generate_invite', args: ['host'], help: 'Invite somebody to make an account; answers the invitation and its page.' },
  { name: 'generate_invite_with_username', args: ['user', 'host'], help: 'Invite somebody to make this account.' },
  { name: 'list_invites', args: ['host'], help: 'List the invitations that can be used: who made them, for what, for whom, and until when.' },
  { name: 'expire_invite_tokens', args: ['user', 'host'], help: 'Take back all invitations of an account; answers how many.' },
  { name: 'status', args: [], help: 'Say whether the server runs, and how it is.' },
  { name: 'reload_config', args: [], help: 'Read the configuration again.' },
  { name: 'restart', args: [], help: 'Stop the server and start it again.' },
  { name: 'stop_kindly', args: ['delay', 'announcement'], help: 'Tell everybody who is online, wait so many seconds, and stop the server.' },
  { name: 'stop', args: [], help: 'Stop the server.' },
]

/** Puts the operations together over a server, or over its storage alone. */
export function createAdmin(parts: AdminParts): Admin {
  const account = (user: string, host: string): string => {
    const jid = Jid.of(user, onHost(host))
    if (jid.local === '') throw new Refused('The user name is empty')
    return jid.bare
  }
  const federation = (): NonNullable<NonNullable<AdminParts['running']>['federation']> => {
    const found = running().federation
    if (found === undefined) throw new Refused('This process does not speak to other servers')
    return found
  }
  const onHost = (host: string): string => {
    const { domain } = Jid.parse(host)
    if (!parts.hosts().includes(domain)) throw new Refused(`${host} is not a host of this server; its hosts are: ${parts.hosts().join(', ')}`)
    return domain
  }
  const existing = async (user: string, host: string): Promise<string> => {
    const bare = account(user, host)
    if (!(await parts.accounts.exists(bare))) throw new Refused(`There is no account ${bare}`)
    return bare
  }
  const running = (): NonNullable<AdminParts['running']> => {
    if (parts.running === undefined) throw new Refused('The server is not running')
    return parts.running
  }
  /** What waits for a commit is not begun while there is none to come. */
  const writable = (): void => {
    const status = parts.running?.status()
    if (status?.healthy === false) throw new Refused(`The server cannot store anything at the moment: ${status.storage.problem ?? 'its storage fails'}`)
  }
  const moving = (): MovingParts => {
    if (parts.moving === undefined) throw new Refused('The server is not running')
    return parts.moving
  }
  const exportInto = async (dir: string, hosts: readonly string[]): Promise<AdminResult> => {
    const { file, accounts } = await exportHosts(moving(), dir, hosts)
    return done(`${accounts} accounts exported to ${file}`)
  }
  /** An operation of the extension behind one of ejabberd's modules. */
  const extended = async (host: string, module: string, name: string, args: readonly string[]): Promise<AdminResult> => {
    const domain = onHost(host)
    const able = running()
    writable()
    const lines = await able.operation(domain, name, args)
    if (lines === undefined) throw new Refused(`${module} is off on ${domain}`)
    return done(...lines)
  }
  const runs: Record<string, (args: readonly string[]) => Promise<AdminResult> | AdminResult> = {
    async register([user = '', host = '', password = '']) {
      const bare = account(user, host)
      writable()
      await parts.register(bare, password)
      return done(`User ${bare} successfully registered`)
    },
    async unregister([user = '', host = '']) {
      const bare = await existing(user, host)
      writable()
      await parts.unregister(bare)
      return done(`User ${bare} unregistered`)
    },
    async change_password([user = '', host = '', password = '']) {
      const bare = await existing(user, host)
      writable()
      await parts.accounts.setPassword(bare, password)
      return done()
    },
    async ban_account([user = '', host = '', reason = '']) {
      const bare = await existing(user, host)
      writable()
      await parts.accounts.disable(bare, reason)
      return done()
    },
    async unban_account([user = '', host = '']) {
      const bare = await existing(user, host)
      writable()
      if (!await parts.accounts.enable(bare)) throw new Refused(`${bare} is not banned`)
      return done()
    },
    async get_ban_details([user = '', host = '']) {
      const ban = await parts.accounts.disabled(await existing(user, host))
      return ban === undefined ? done() : done(`bandate\t${new Date(ban.at).toISOString()}`, `reason\t${ban.reason}`)
    },
    export_piefxis: ([dir = '']) => exportInto(dir, parts.hosts()),
    export_piefxis_host: ([dir = '', host = '']) => exportInto(dir, [onHost(host)]),
    async export_piefxis_user([file = '', user = '', host = '']) {
      await exportUserTo(moving(), file, await existing(user, host))
      return done()
    },
    async import_piefxis([file = '']) {
      writable()
      const { accounts, problems } = await importFile(moving(), file)
      return done(...problems.slice(0, PROBLEMS_MAX), ...(problems.length > PROBLEMS_MAX ? [`and ${problems.length - PROBLEMS_MAX} more problems`] : []), `${accounts} accounts imported`)
    },
    async check_account([user = '', host = '']) {
      return { code: (await parts.accounts.exists(account(user, host))) ? 0 : 1, lines: [] }
    },
    async check_password([user = '', host = '', password = '']) {
      return { code: (await parts.accounts.checkPassword(account(user, host), password)) ? 0 : 1, lines: [] }
    },
    async registered_users([host = '']) {
      return done(...(await parts.accounts.list(onHost(host))))
    },
    registered_vhosts: () => done(...parts.hosts()),
    async stats([name = '']) {
      if (name === 'onlineusers') return done(String(await running().sessions.count()))
      if (name === 'uptimeseconds') return done(String(Math.floor(running().status().uptimeMs / 1000)))
      if (name !== 'registeredusers') return { code: 2, lines: ['stats knows registeredusers, onlineusers and uptimeseconds'] }
      let count = 0
      for (const host of parts.hosts()) count += await parts.accounts.count(host)
      return done(String(count))
    },
    connected_users: async () => done(...await running().sessions.list()),
    connected_users_number: async () => done(String(await running().sessions.count())),
    connected_users_vhost: async ([host = '']) => done(...await running().sessions.list(onHost(host))),
    async user_resources([user = '', host = '']) {
      return done(...(await running().sessions.of(account(user, host))).map(({ resource }) => resource).sort())
    },
    async kick_user([user = '', host = '']) {
      return done(String(await running().sessions.close(account(user, host), undefined, 'ended by the administrator')))
    },
    async kick_session([user = '', host = '', resource = '', reason = '']) {
      if (await running().sessions.close(account(user, host), resource, reason === '' ? 'ended by the administrator' : reason) === 0) throw new Refused('There is no such session')
      return done()
    },
    async unban_ip([written = '']) {
      const [address = '', bits] = written.split('/')
      const family = isIP(address)
      if (family === 0 || (bits !== undefined && Number(bits) !== (family === 4 ? 32 : 128))) throw new Refused(`${written} is not one IP address`)
      return done(await running().unban(address) ? '1' : '0')
    },
    generate_invite: ([host = '']) => extended(host, 'mod_invites', 'generate_invite', []),
    generate_invite_with_username: ([user = '', host = '']) => extended(host, 'mod_invites', 'generate_invite_with_username', [user]),
    list_invites: ([host = '']) => extended(host, 'mod_invites', 'list_invites', []),
    incoming_s2s_number: () => done(String(federation().incoming().length)),
    outgoing_s2s_number: () => done(String(federation().outgoing().length)),
    list_s2s: () => done(...federation().outgoing().map(({ local, domain }) => `${local} -> ${domain}`), ...federation().incoming().map(({ local, domain }) => `${domain} -> ${local}`)),
    stop_s2s_connections: () => done(String(federation().stop())),
    stop_s2s_connection: ([domain = '']) => done(String(federation().stop(Jid.parse(domain).domain))),
    expire_invite_tokens: ([user = '', host = '']) => extended(host, 'mod_invites', 'expire_invite_tokens', [user]),
    status() {
      const status = running().status()
      const lines = [
        `Tidings is running since ${Math.floor(status.uptimeMs / 1000)} s with ${status.sessions} sessions; hosts: ${parts.hosts().join(', ')}`,
        `Storage ${status.storage.driver}: ${status.healthy ? 'healthy' : status.storage.problem ?? 'not healthy'}`,
      ]
      return { code: status.healthy ? 0 : 1, lines }
    },
    async reload_config() {
      return done(...(await running().reload()))
    },
    async restart() {
      await running().restart()
      return done()
    },
    stop_kindly([delay = '', announcement = '']) {
      if (!/^\d{1,5}$/.test(delay) || Number(delay) > DELAY_MAX_S) return { code: 2, lines: [`DELAY is a number of seconds, at most ${DELAY_MAX_S}`] }
      running().stopKindly(Number(delay) * 1000, announcement)
      return done()
    },
    stop() {
      running().stop()
      return done()
    },
  }

  return {
    operations: OPERATIONS,
    async run(name, args) {
      const operation = OPERATIONS.find((each) => each.name === name)
      const run = Object.hasOwn(runs, name) ? runs[name] : undefined
      if (operation === undefined || run === undefined) return { code: 2, lines: [`Unknown command ${name}`] }
      if (args.length !== operation.args.length) return { code: 2, lines: [`Usage: tidings ${usage(operation)}`] }
      try {
        return await run(args)
      } catch (error) {
        return { code: 1, lines: [`Error: ${explain(error, args)}`] }
      }
    },
  }
}

/** `register user host password`. */
export function usage(operation: { readonly name: string; readonly args: readonly string[] }): string {
  return [operation.name, ...operation.args.map((arg) => arg.toUpperCase())].join(' ')
}

function done(...lines: string[]): AdminResult {
  return { code: 0, lines }
}

function explain(error: unknown, args: readonly string[]): string {
  if (error instanceof AccountError && error.condition === 'conflict') return `User ${args[0]}@${args[1]} already registered`
  if (error instanceof AccountError || error instanceof JidError || error instanceof Refused) return error.message
  return error instanceof Error ? error.message : String(error)
}
