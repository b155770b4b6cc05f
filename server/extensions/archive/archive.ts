// XEP-0313: Message Archive Management, version 1.1.3 (2025-04-09)
// XEP-0441: Message Archive Management Preferences, version 0.2.0 (2020-08-25)
import { RSM_NS } from '../../../lib/result-set.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { Stanza } from '../../../lib/stanza/stanza.ts'
import { escapeXml } from '../../../lib/xml/element.ts'
import { accessRule, bool, duration, int, oneOf } from '../../config/options.ts'
import { defineExtension, type IqRequest } from '../extension.ts'
import { type ArchiveDefault, createPreferences, preferencesXml, readPreferences } from './preferences.ts'
import { MAM_NS, queryForm, readMetadata, readQuery, resultMessages, runQuery } from './query.ts'
import { exportArchive, importArchive, PIE_MAM_NS } from './moving.ts'
import { isWorthArchiving } from './worth.ts'

export const STANZA_ID_NS = 'urn:xmpp:sid:0'
const EXPIRE_EVERY_MS = 3_600_000

export interface ArchiveOptions {
  default: ArchiveDefault
  request_activates_archiving: boolean
  assume_mam_usage: boolean
  access_preferences: string
  cache_size: number
  clear_archive_on_room_destroy: boolean
  expire: number
  compress_xml: boolean
  use_cache: boolean
  cache_life_time: number
}

export const archive = defineExtension({
  name: 'archive',
  ejabberd: 'mod_mam',
  specs: [
    { xep: 313, version: '1.1.3', status: 'complete' },
    { xep: 441, version: '0.2.0', status: 'complete' },
    { xep: 59, version: '1.0', status: 'partial', note: 'no pages by index' },
  ],
  needs: ['host', 'iq', 'disco', 'hooks', 'bind2', 'storage', 'rosters', 'access', 'metrics', 'everyAccount', 'now', 'accountData'],
  options: {
    default: { type: oneOf('always', 'never', 'roster'), default: 'never', help: 'What is archived for accounts that have not chosen for themselves.' },
    request_activates_archiving: { type: bool(), default: false, help: 'Archive nothing for an account before its client first asks for the archive.' },
    assume_mam_usage: { type: bool(), default: false, help: 'Do not keep undelivered messages a second time when the archive has them: clients are trusted to fetch them.' },
    access_preferences: { type: accessRule(), default: 'all', help: 'Who may read and change archive preferences.' },
    cache_size: { type: int({ min: 1, infinity: true }), default: 10_000, help: 'Accounts whose preferences are kept in memory.' },
    clear_archive_on_room_destroy: { type: bool(), default: true, help: 'Remove the archive of a room with the room. One that is kept is for those to read who run the service (access_admin of mod_muc), never for a new room of the same name.' },
    expire: { type: duration(), default: Infinity, help: 'Remove messages older than this from the archive.' },
    compress_xml: { type: bool(), default: false, help: 'Compress stored messages.', ignored: 'has no effect: a message is stored once for both sides, as it was sent.' },
    use_cache: { type: bool(), default: true, help: 'Keep preferences in memory.', ignored: 'has no effect: preferences are always kept in memory, as many as cache_size says.' },
    cache_life_time: { type: duration(), default: Infinity, help: 'How long preferences are kept in memory.', ignored: 'has no effect: what is kept in memory is never out of date.' },
  },
  start({ host, iq, disco, hooks, bind2, storage, rosters, access, metrics, everyAccount, now, accountData }, options: ArchiveOptions) {
    // With request_activates_archiving an account is off until its first query writes its preferences.
    const untilChosen = options.request_activates_archiving ? 'never' : options.default
    const preferences = createPreferences(storage.records, rosters, untilChosen, options.cache_size)
    const { archive: history } = storage
    const archived = metrics.counter('tidings_archived_messages_total', 'Messages written to the archives of accounts')
    const queries = metrics.counter('tidings_archive_queries_total', 'Queries of the archives of accounts')
    // §7: of the account, never of the host.
    disco.feature('account', MAM_NS, `${MAM_NS}#extended`, `${MAM_NS}#groupchat-field`, RSM_NS)
    // §7 has the account say it; Profanity asks the domain alone, and offers no history without an answer there.
    disco.feature('host', MAM_NS)

    const ownerOf = (request: IqRequest): string => {
      // §8.1: archives are private.
      if (request.from.bare !== request.to.bare) throw new StanzaError('forbidden', 'this archive is not yours')
      return request.to.bare
    }
    const activate = async (owner: string): Promise<void> => {
      if (options.request_activates_archiving && !(await preferences.chosen(owner))) {
        preferences.set(owner, { default: options.default, always: new Set(), never: new Set() })
      }
    }

    iq.get(`${MAM_NS} query`, 'account', (request) => {
      ownerOf(request)
      return queryForm()
    })
    iq.set(`${MAM_NS} query`, 'account', async (request) => {
      const owner = ownerOf(request)
      const { session } = request
      // The results go to the session that asked; there is none behind a component.
      if (session === undefined) throw new StanzaError('not-allowed')
      const query = readQuery(request.payload)
      queries.inc()
      await activate(owner)
      const page = await runQuery(history, owner, query)
      const build = resultMessages(owner, request.from.toString(), query.queryId)
      // Not kept for a restart: the client asks again for what it has not got. The newest may not be on stable storage yet.
      const sent = { volatile: true, durable: storage.dirty }
      for (const item of query.flip ? page.items.toReversed() : page.items) session.send(build(item), sent)
      session.volatileAnswer(request.stanza.id ?? '')
      return page.fin
    })
    iq.get(`${MAM_NS} metadata`, 'account', (request) => readMetadata(history, ownerOf(request)))

    // XEP-0386 §3.2
    bind2.bound(async ({ owner }) => (await readMetadata(history, owner)).toString())

    const mayChoose = (request: IqRequest): string => {
      const owner = ownerOf(request)
      if (!access.allows(options.access_preferences, { jid: request.from })) throw new StanzaError('forbidden', 'archive preferences are not yours to choose here')
      return owner
    }
    iq.get(`${MAM_NS} prefs`, 'account', async (request) => {
      const owner = mayChoose(request)
      await activate(owner)
      return preferencesXml(await preferences.get(owner))
    })
    iq.set(`${MAM_NS} prefs`, 'account', (request) => {
      const owner = mayChoose(request)
      const chosen = readPreferences(request.payload)
      preferences.set(owner, chosen)
      return preferencesXml(chosen)
    })

    hooks.store((delivery) => {
      if (delivery.noArchive || delivery.stanza.name !== 'message' || !isWorthArchiving(delivery.stanza)) return
      const { from, to } = delivery
      const owners: { owner: string; with: string }[] = []
      // Each host's instance archives for its own accounts.
      if (delivery.fromLocal && from.domain === host && !delivery.archivedFrom && preferences.wants(from.bare, to)) {
        owners.push({ owner: from.bare, with: to.bare })
        delivery.archivedFrom = true
      }
      if (delivery.toLocal && to.domain === host && !delivery.archivedTo && (from.bare === to.bare ? delivery.archivedFrom : preferences.wants(to.bare, from))) {
        // A note to oneself is one message, not two (§6.1.1).
        if (from.bare !== to.bare) owners.push({ owner: to.bare, with: from.bare })
        delivery.archivedTo = true
      }
      if (owners.length === 0) return
      history.append({ id: delivery.id, bytes: delivery.stanza.bytes(), owners })
      delivery.durable = true
      archived.inc()
      // §3.5: the recipient learns the id; the sender's copies get theirs with the carbons.
      if (delivery.archivedTo && to.domain === host) delivery.stanza = withStanzaId(delivery.stanza, to.bare, delivery.id)
    })

    // A message that comes back from a session that is over, and that the archive has.
    if (options.assume_mam_usage) hooks.undeliverable((delivery) => delivery.accepted === true && delivery.archivedTo)
    hooks.bound((session) => preferences.preload(session.owner))
    accountData.exports(async function* (owner) {
      if (await preferences.chosen(owner)) yield preferencesXml(await preferences.get(owner)).toString()
      yield* exportArchive(history, owner)
    })
    accountData.imports(`${PIE_MAM_NS} archive`, (owner, element) => importArchive(history, owner, element))
    accountData.imports(`${MAM_NS} prefs`, (owner, element) => { preferences.set(owner, readPreferences(element)) })

    hooks.released((units) => { for (const unit of units) preferences.forget(unit) })
    hooks.accountRemoved(async (owner) => {
      preferences.remove(owner)
      await history.purge(owner)
    })
    if (options.expire !== Infinity) {
      // Account by account: another host may keep its messages longer.
      everyAccount(EXPIRE_EVERY_MS, 'archive', async (owner) => { await history.purge(owner, now() - options.expire) })
    }
  },
})

/** XEP-0359 §3: the id under which `by` has archived the message. */
export function withStanzaId(stanza: Stanza, by: string, id: string): Stanza {
  return stanza.append('stanza-id', STANZA_ID_NS, `<stanza-id xmlns='${STANZA_ID_NS}' by='${escapeXml(by)}' id='${escapeXml(id)}'/>`)
}
