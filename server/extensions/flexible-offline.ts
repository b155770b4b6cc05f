// XEP-0013: Flexible Offline Message Retrieval, version 1.3 (2021-05-04)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { escapeXml, xml } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import type { QueuedStanza } from '../storage/shapes.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const NS = 'http://jabber.org/protocol/offline'
/** XEP-0160 §3: stanzas are stored for those who are away. */
const MSGOFFLINE = 'msgoffline'
/** In the session, read where offline messages are sent: it reads them itself and gets no flood of them (§2.2). */
const READS_OFFLINE_ITSELF = 'flexibleOffline'
const PAGE = 200

export const flexibleOffline = defineExtension({
  name: 'flexible-offline',
  ejabberd: 'mod_offline',
  specs: [{ xep: 13, version: '1.3', status: 'complete' }],
  features: [NS, MSGOFFLINE],
  needs: ['iq', 'disco', 'storage'],
  start({ iq, disco, storage }) {
    const { offline } = storage
    disco.feature('account', NS)

    async function* queued(owner: string): AsyncGenerator<QueuedStanza> {
      for (let after: string | undefined; ;) {
        const page = await (after === undefined ? offline.list(owner, PAGE) : offline.list(owner, PAGE, after))
        yield* page
        after = page.at(-1)?.id
        if (page.length < PAGE) return
      }
    }

    disco.node('account', NS, {
      // §2.2: how many messages there are
      info(request) {
        const owner = openForReading(request)
        return xml('query', { xmlns: 'http://jabber.org/protocol/disco#info', node: NS },
          xml('identity', { category: 'automation', type: 'message-list' }),
          xml('feature', { var: NS }),
          xml('x', { xmlns: 'jabber:x:data', type: 'result' },
            xml('field', { var: 'FORM_TYPE', type: 'hidden' }, xml('value', null, NS)),
            xml('field', { var: 'number_of_messages' }, xml('value', null, offline.count(owner)))))
      },
      // §2.3: the header of each
      async items(request) {
        const owner = openForReading(request)
        const query = xml('query', { xmlns: 'http://jabber.org/protocol/disco#items', node: NS })
        for await (const { id, bytes } of queued(owner)) query.append(xml('item', { jid: owner, node: id, name: readStanza(bytes).from }))
        return query
      },
    })

    iq.get(`${NS} offline`, 'account', async (request) => {
      const owner = openForReading(request)
      const { session } = request
      if (session === undefined) throw new StanzaError('forbidden')
      session.volatileAnswer(request.stanza.id ?? '')
      if (request.payload.getChild('fetch', NS) !== undefined) { // §2.6
        for await (const entry of queued(owner)) send(session, entry)
        return
      }
      const wanted = nodesOf(request, 'view') // §2.4
      const found: QueuedStanza[] = []
      for await (const entry of queued(owner)) if (wanted.has(entry.id)) found.push(entry)
      if (found.length < wanted.size) throw new StanzaError('item-not-found')
      for (const entry of found) send(session, entry)
    })

    iq.set(`${NS} offline`, 'account', async (request) => {
      const owner = openForReading(request)
      if (request.payload.getChild('purge', NS) !== undefined) await offline.clear(owner) // §2.7
      else { // §2.5
        const wanted = nodesOf(request, 'remove')
        const ids = new Set<string>()
        for await (const { id } of queued(owner)) if (wanted.has(id)) ids.add(id)
        if (ids.size < wanted.size) throw new StanzaError('item-not-found')
        offline.remove(owner, [...ids])
      }
      await storage.committed()
    })
  },
})

/** Only the owner may; from now on the session is not flooded. */
function openForReading({ from, to, session }: IqRequest): string {
  if (from.bare !== to.bare) throw new StanzaError('forbidden')
  session?.set(READS_OFFLINE_ITSELF, true)
  return to.bare
}

function nodesOf({ payload }: IqRequest, action: 'view' | 'remove'): ReadonlySet<string> {
  const items = payload.getChildren('item')
  if (items.length === 0) throw new StanzaError('bad-request')
  return new Set(items.map((item) => {
    if (item.attrs['action'] !== action || item.attrs['node'] === undefined) throw new StanzaError('bad-request')
    return item.attrs['node']
  }))
}

/** §2.4: each message says which one it is; it stays in the queue until it is removed, so this copy is worth nothing elsewhere. Many wait for the network as a flood does. */
function send(session: Session, { id, bytes }: QueuedStanza): void {
  session.send(readStanza(bytes).append('offline', NS, `<offline xmlns='${NS}'><item node='${escapeXml(id)}'/></offline>`), { volatile: true, durable: true, kept: true })
}
