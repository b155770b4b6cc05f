// XEP-0494: Client Access Management, version 0.1.0 (2024-09-17)
import { hash } from 'node:crypto'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { xml, type Element } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import type { Value } from '../storage/shapes.ts'
import { defineExtension, type IqRequest, type Login } from './extension.ts'
import { withStanzaErrors } from './register.ts'

const NS = 'urn:xmpp:cam:0'
/** Clients that have logged in and told who they are (XEP-0388 §2.3); key [bare JID, client]. */
const TABLE = 'clients'
/** Session value: the client that logged in. */
const CLIENT = 'client'
const DAY_MS = 86_400_000
const ID_DIGITS = 16
/** How exactly it is kept when a client was seen. */
const SEEN_EVERY_MS = 60_000

interface Client {
  readonly [key: string]: Value | undefined
  readonly software?: string | undefined
  readonly device?: string | undefined
  readonly first: number
  readonly last: number
  /** How it has shown that it may: by a password that is still good, or by something else, named as in `<auth/>`. */
  readonly auth: readonly string[]
}

export const clientAccess = defineExtension({
  name: 'client-access',
  specs: [{ xep: 494, version: '0.1.0', status: 'complete' }],
  needs: ['iq', 'disco', 'sasl2', 'hooks', 'sessions', 'tokens', 'storage', 'limits', 'everyAccount', 'now'],
  start({ iq, disco, sasl2, hooks, sessions, tokens, storage, limits, everyAccount, now }) {
    const { records } = storage
    disco.feature('account', NS)

    const ownerOf = (request: IqRequest): string => {
      if (request.from.bare !== request.to.bare) throw new StanzaError('forbidden', 'these clients are not yours')
      return request.to.bare
    }
    const clientsOf = async (owner: string): Promise<{ id: string; client: Client }[]> =>
      (await records.range(TABLE, [owner])).map(({ key, value }) => ({ id: key[1] as string, client: value as Client }))

    async function find(owner: string, id: string): Promise<Client | undefined> {
      const stored = records.get(TABLE, [owner, id])
      return (stored instanceof Promise ? await stored : stored) as Client | undefined
    }

    async function makeRoom(owner: string): Promise<void> {
      const all = await clientsOf(owner)
      if (all.length < limits.clientsPerAccount) return
      const [oldest] = all.toSorted((a, b) => a.client.last - b.client.last)
      if (oldest !== undefined) records.delete(TABLE, [owner, oldest.id])
    }

    sasl2.succeeded(async (owner, login) => {
      const { client: agent } = login
      if (agent === undefined || login.mechanism === 'ANONYMOUS') return undefined
      const known = await find(owner, agent.id)
      if (known === undefined) await makeRoom(owner)
      const at = now()
      const auth = new Set(known?.auth)
      const way = authOf(login)
      if (way !== undefined) auth.add(way)
      const { software = known?.software, device = known?.device } = agent
      if (known !== undefined && at - known.last < SEEN_EVERY_MS && software === known.software && device === known.device && auth.size === known.auth.length) return undefined
      records.put(TABLE, [owner, agent.id], { software, device, first: known?.first ?? at, last: at, auth: [...auth] } satisfies Client)
      return undefined
    })
    hooks.closed((session) => {
      const id = session.get(CLIENT)
      if (typeof id !== 'string') return
      const stored = records.get(TABLE, [session.owner, id])
      // One that was revoked is not brought back.
      if (stored === undefined || stored instanceof Promise || now() - (stored as Client).last < SEEN_EVERY_MS) return
      records.put(TABLE, [session.owner, id], { ...(stored as Client), last: now() })
    })
    // Whoever had the password has it no longer.
    hooks.passwordChanged((owner) => {
      const all = records.range(TABLE, [owner])
      if (all instanceof Promise) return
      const connected = new Set(sessions.of(owner).map((session) => session.get(CLIENT)))
      for (const { key, value } of all) {
        if (connected.has(key[1])) records.put(TABLE, key, { ...(value as Client), auth: (value as Client).auth.filter((way) => way !== 'password') })
        else records.delete(TABLE, key)
      }
    })
    hooks.accountRemoved(async (owner) => { await records.deleteRange(TABLE, [owner]) })

    iq.get(`${NS} list`, 'account', async (request) => {
      const owner = ownerOf(request)
      const online = new Map(sessions.of(owner).map((session) => [idOf(session), session]))
      const list = xml('clients', { xmlns: NS })
      for (const { id, client } of await clientsOf(owner)) {
        const auth = (await tokens.has(owner, id)) ? [...client.auth, 'fast'] : client.auth
        list.append(clientXml(id, online.delete(id), client, auth))
      }
      // Those that did not tell who they are have an end when their session has.
      for (const id of online.keys()) list.append(clientXml(id, true, undefined, ['password']))
      return list
    })

    iq.set(`${NS} revoke`, 'account', async (request) => {
      const owner = ownerOf(request)
      const id = request.payload.attrs['id']
      if (id === undefined) throw new StanzaError('bad-request')
      const using = sessions.of(owner).filter((session) => idOf(session) === id)
      const client = await find(owner, id)
      if (client === undefined && using.length === 0) throw new StanzaError('item-not-found')
      // §3.2
      if (client === undefined || client.auth.includes('password')) throw new StanzaError('service-unavailable', 'The client knows the password; change it.', { extra: `<password-reset-required xmlns='${NS}'/>` })
      const revoked = tokens.revoke(owner, id)
      if (revoked instanceof Promise) await withStanzaErrors(revoked)
      records.delete(TABLE, [owner, id])
      for (const session of using) if (session !== request.session) session.close(new StreamError('not-authorized', 'access was revoked'))
      await storage.committed()
      if (request.session !== undefined && using.includes(request.session)) setImmediate(() => request.session?.close(new StreamError('not-authorized', 'access was revoked')))
    })

    everyAccount(DAY_MS, 'clients', async (owner) => {
      const connected = new Set(sessions.of(owner).map(idOf))
      for (const { id, client } of await clientsOf(owner)) {
        if (client.last + limits.clientsKeptMs <= now() && !connected.has(id) && !(await tokens.has(owner, id))) records.delete(TABLE, [owner, id])
      }
    })
  },
})

/** Of one that did not tell who it is the id stands for the session alone. */
function idOf(session: Session): string {
  const client = session.get(CLIENT)
  return typeof client === 'string' ? client : hash('sha256', session.jid.toString(), 'base64url').slice(0, ID_DIGITS)
}

/** The name in `<auth/>` of the way in which a client has logged in; none for its token, which is asked for where it is kept. */
function authOf({ mechanism }: Login): string | undefined {
  if (mechanism.startsWith('HT-')) return undefined
  return mechanism === 'PLAIN' || mechanism.startsWith('SCRAM-') ? 'password' : 'grant'
}

function clientXml(id: string, connected: boolean, client: Client | undefined, auth: readonly string[]): Element {
  return xml('client', { connected: String(connected), id, type: 'session' },
    client && xml('first-seen', null, formatDateTime(client.first)),
    client && xml('last-seen', null, formatDateTime(client.last)),
    xml('auth', null, auth.map((way) => xml(way))),
    xml('permission', { status: 'unrestricted' }),
    client && xml('user-agent', null,
      client.software && xml('software', null, client.software),
      client.device && xml('device', null, client.device)))
}
