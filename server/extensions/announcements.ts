// XEP-0133: Service Administration, version 1.3.1 (2024-09-01), §4.23 to §4.26: announcements and the message of the day
import { nextMessageId, randomId } from '../../lib/stanza/ids.ts'
import type { Form } from '../../lib/forms.ts'
import { stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { xml } from '../../lib/xml/element.ts'
import { accessRule } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import type { CommandResult } from './commands-registry.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const ADMIN_NS = 'http://jabber.org/protocol/admin'
/** Key [host]; value: the message of the day. */
const MOTD = 'motd'
/** Key [owner]; value: the id of the message of the day that the account has had. */
const SEEN = 'motd_seen'
/** Accounts written to in one turn. */
const BATCH = 100

interface Motd {
  readonly id: string
  readonly subject: string
  readonly text: string
}

export const announcements = defineExtension({
  name: 'announcements',
  ejabberd: 'mod_announce',
  specs: [{ xep: 133, version: '1.3.1', status: 'partial', note: 'announcements' }],
  needs: ['host', 'commands', 'hooks', 'router', 'accounts', 'sessions', 'access', 'storage', 'log', 'now'],
  options: {
    access: { type: accessRule(), default: 'none', help: 'Who may make announcements.' },
  },
  start({ host, commands, hooks, router, accounts, sessions, access, storage, log, now }, options) {
    const { records } = storage
    const mayRun = ({ from, session }: IqRequest): boolean => access.allows(options.access, { jid: from, address: session?.address })
    const stored = records.get(MOTD, [host])
    const loaded = Promise.resolve(stored).then((value) => value as Motd | undefined)
    let motd = stored instanceof Promise ? undefined : stored as Motd | undefined

    function message(to: string, type: string, { subject, text }: Pick<Motd, 'subject' | 'text'>): Stanza {
      return stanzaOf('message', { id: nextMessageId(now()), from: host, to, type }, ...(subject === '' ? [] : [xml('subject', null, subject)]), xml('body', null, text))
    }
    function ownSessions(): Session[] {
      return [...sessions.all()].filter((session) => session.host === host)
    }

    function add(node: string, name: string, field: string, submit: (text: Pick<Motd, 'subject' | 'text'>, request: IqRequest) => CommandResult | Promise<CommandResult>, current?: () => Promise<Motd | undefined>): void {
      commands.add({
        node: `${ADMIN_NS}#${node}`, name, mayRun,
        async run() {
          const now = await current?.()
          return {
            form: {
              formType: ADMIN_NS, title: name,
              fields: [{ var: 'subject', type: 'text-single', label: 'Subject', value: now?.subject }, { var: field, type: 'text-multi', label: 'Text', required: true, value: now?.text }],
            },
            submit: (form: Form, request: IqRequest) => {
              log.info({ what: 'announcement', node, by: request.from.bare })
              return submit({ subject: form.value('subject') ?? '', text: form.text(field) ?? '' }, request)
            },
          }
        },
      })
    }

    // §4.23: those who have a session. A headline is not kept for anybody else (RFC 6121 §5.2.2).
    add('announce', 'Announce to online users', 'announcement', (text) => {
      const own = ownSessions()
      for (const { jid } of own) router.route(message(jid.toString(), 'headline', text))
      return { notes: [{ type: 'info', text: `Sent to ${own.length} clients` }] }
    })

    add('announce-all', 'Announce to all users', 'announcement', async (text) => {
      const names = await accounts.list(host)
      // In the background: the answer does not wait for the last of many.
      void (async () => {
        for (let at = 0; at < names.length; at += BATCH) {
          for (const name of names.slice(at, at + BATCH)) router.route(message(`${name}@${host}`, 'normal', text))
          await new Promise((resolve) => setImmediate(resolve))
        }
      })().catch((error: unknown) => log.error({ what: 'announcement_failed', error }))
      return { notes: [{ type: 'info', text: `Sent to ${names.length} users` }] }
    })

    // ---- The message of the day (§4.24 to §4.26): each account gets it once

    function show(session: Session, current: Motd): void {
      records.put(SEEN, [session.owner], current.id)
      router.route(message(session.jid.toString(), 'normal', current))
    }

    async function set(next: Motd | undefined): Promise<void> {
      motd = next
      if (next === undefined) records.delete(MOTD, [host])
      else records.put(MOTD, [host], { ...next })
      await storage.committed()
    }

    add('set-motd', 'Set the message of the day', 'motd', async (text) => {
      const next = { id: randomId(9), ...text }
      await set(next)
      const shown = new Set<string>()
      for (const session of ownSessions()) {
        if (session.presence === undefined || session.priority < 0 || shown.has(session.owner)) continue
        shown.add(session.owner)
        show(session, next)
      }
      return {}
    })
    // §4.25: who has had it does not get it again.
    add('edit-motd', 'Edit the message of the day', 'motd', async (text) => {
      await set({ id: motd?.id ?? randomId(9), ...text })
      return {}
    }, () => Promise.resolve(motd))
    commands.add({
      node: `${ADMIN_NS}#delete-motd`, name: 'Delete the message of the day', mayRun,
      async run({ from }) {
        log.info({ what: 'announcement', node: 'delete-motd', by: from.bare })
        await set(undefined)
        return {}
      },
    })

    void loaded.then((value) => { motd ??= value })
    hooks.available((session, _presence, first) => {
      const current = motd
      if (!first || current === undefined || session.priority < 0) return
      const seen = records.get(SEEN, [session.owner])
      const decide = (id: unknown): void => { if (id !== current.id && !session.ended) show(session, current) }
      if (seen instanceof Promise) void seen.then(decide, (error: unknown) => log.error({ what: 'motd_failed', error }))
      else decide(seen)
    })
    hooks.accountRemoved((owner) => records.delete(SEEN, [owner]))
  },
})
