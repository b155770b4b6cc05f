// XEP-0133: Service Administration, version 1.3.1 (2024-09-01), §4.23 to §4.26: announcements and the message of the day
import type { Form } from '../../lib/forms.ts'
import type { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { nextMessageId, randomId } from '../../lib/stanza/ids.ts'
import { stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { xml } from '../../lib/xml/element.ts'
import { accessRule } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import type { CommandOutcome, CommandResult } from './commands-registry.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const ADMIN_NS = 'http://jabber.org/protocol/admin'
/** Key [host]; value: the message of the day. */
const MOTD = 'motd'
/** Key [owner]; value: the id of the message of the day that the account has had. */
const SEEN = 'motd_seen'
/** Key [host, id]; value: an announcement to all accounts that goes out, and how far it has come. */
const SENDING = 'announcements'
/** Accounts written to in one turn. */
const BATCH = 100

interface Text {
  readonly subject: string
  readonly text: string
}

interface Motd extends Text {
  readonly id: string
}

interface Sending extends Text {
  readonly [key: string]: string
  readonly type: string
  /** The account (a localpart) that was the last to get it; empty at the beginning. */
  readonly after: string
}

type Kind = 'online' | 'all' | 'motd' | 'motd/update' | 'motd/delete'

/** One host's announcements, as those of the other hosts see them. */
interface Announcer {
  allows(jid: Jid, address: string | undefined): boolean
  /** Whom it went to, in words. What is to be stored is written in this turn. */
  announce(kind: Kind, text: Text, type: string): string
}

/** The commands, by the names of their nodes; those of ejabberd that XEP-0133 does not have among them. */
const COMMANDS: readonly { readonly node: string; readonly name: string; readonly kind: Kind; readonly field?: string }[] = [
  { node: 'announce', name: 'Announce to online users', kind: 'online', field: 'announcement' },
  { node: 'announce-all', name: 'Announce to all users', kind: 'all', field: 'announcement' },
  { node: 'set-motd', name: 'Set the message of the day', kind: 'motd', field: 'motd' },
  { node: 'edit-motd', name: 'Edit the message of the day', kind: 'motd/update', field: 'motd' },
  { node: 'delete-motd', name: 'Delete the message of the day', kind: 'motd/delete' },
]

/** Resources of the host to which a message is an announcement, as ejabberd's mod_announce has them. */
const ADDRESS = /^announce\/(all-hosts\/)?(online|all|motd|motd\/update|motd\/delete)$/

export const announcements = defineExtension({
  name: 'announcements',
  ejabberd: 'mod_announce',
  specs: [{ xep: 133, version: '1.3.1', status: 'partial', note: 'announcements' }],
  needs: ['host', 'commands', 'hooks', 'router', 'accounts', 'sessions', 'access', 'storage', 'log', 'now', 'lasting'],
  options: {
    access: { type: accessRule(), default: 'none', help: 'Who may make announcements.' },
  },
  start({ host, commands, hooks, router, accounts, sessions, access, storage, log, now, lasting }, options) {
    const { records } = storage
    const announcers = lasting('announcers', () => new Map<string, Announcer>())
    let stopped = false
    const stored = records.get(MOTD, [host])
    const loaded = Promise.resolve(stored).then((value) => value as Motd | undefined)
    let motd = stored instanceof Promise ? undefined : stored as Motd | undefined

    function message(to: string, type: string, { subject, text }: Text): Stanza {
      return stanzaOf('message', { id: nextMessageId(now()), from: host, to, type }, ...(subject === '' ? [] : [xml('subject', null, subject)]), xml('body', null, text))
    }
    function ownSessions(): Session[] {
      return [...sessions.all()].filter((session) => session.host === host)
    }

    // ---- Once: §4.23 to those who have a session, and ejabberd's to all accounts

    function toOnline(text: Text, type: string): string {
      const own = ownSessions()
      for (const { jid } of own) router.route(message(jid.toString(), type, text))
      return `Sent to ${own.length} clients`
    }

    /** In the background. How far it has come is written with the messages, so that a process that is killed on the way is followed by one that goes on. */
    function toAll(text: Text, type: string): string {
      const id = randomId(9)
      const sending: Sending = { subject: text.subject, text: text.text, type, after: '' }
      records.put(SENDING, [host, id], sending)
      inBackground(send(id, sending))
      return 'It goes to all users'
    }
    async function send(id: string, sending: Sending): Promise<void> {
      const names = await accounts.list(host)
      const first = names.findIndex((name) => Buffer.compare(Buffer.from(name), Buffer.from(sending.after)) > 0)
      for (let at = first; at !== -1 && at < names.length && !stopped; at += BATCH) {
        const batch = names.slice(at, at + BATCH)
        for (const name of batch) router.route(message(`${name}@${host}`, sending.type, sending))
        if (at + BATCH < names.length) records.put(SENDING, [host, id], { ...sending, after: batch.at(-1) ?? '' })
        else records.delete(SENDING, [host, id])
        await storage.committed()
      }
      if (first === -1) records.delete(SENDING, [host, id])
    }
    hooks.started(() => {
      inBackground(Promise.resolve(records.range(SENDING, [host])).then((waiting) => Promise.all(waiting.map(({ key, value }) => send(key[1] as string, value as unknown as Sending)))))
    })
    function inBackground(work: Promise<unknown>): void {
      work.catch((error: unknown) => log.error({ what: 'announcement_failed', error }))
    }

    // ---- The message of the day (§4.24 to §4.26): each account gets it once

    function show(session: Session, current: Motd, type = 'normal'): void {
      records.put(SEEN, [session.owner], current.id)
      router.route(message(session.jid.toString(), type, current))
    }
    function keep(next: Motd | undefined): void {
      motd = next
      if (next === undefined) records.delete(MOTD, [host])
      else records.put(MOTD, [host], { ...next })
    }
    function setMotd({ subject, text }: Text, type: string): string {
      const next = { id: randomId(9), subject, text }
      keep(next)
      const shown = new Set<string>()
      for (const session of ownSessions()) {
        if (session.presence === undefined || session.priority < 0 || shown.has(session.owner)) continue
        shown.add(session.owner)
        show(session, next, type)
      }
      return `Sent to ${shown.size} users, and to everybody else at the next login`
    }

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

    // ---- Who announces what, by a command or by a message to the host

    const self: Announcer = {
      allows: (jid, address) => access.allows(options.access, { jid, address }),
      announce(kind, text, type) {
        switch (kind) {
          case 'online': return toOnline(text, type)
          case 'all': return toAll(text, type)
          case 'motd': return setMotd(text, type)
          case 'motd/update':
            // §4.25: who has had it does not get it again.
            keep({ id: motd?.id ?? randomId(9), subject: text.subject, text: text.text })
            return 'It is sent to nobody who has had it'
          case 'motd/delete':
            keep(undefined)
            return 'There is no message of the day'
        }
      },
    }
    announcers.set(host, self)

    /** Those of this host, or of all; undefined when one of them does not allow it. */
    function allowed(all: boolean, jid: Jid, address: string | undefined): readonly Announcer[] | undefined {
      const wanted = all ? [...announcers.values()] : [self]
      return wanted.every((announcer) => announcer.allows(jid, address)) ? wanted : undefined
    }

    for (const all of [false, true]) {
      for (const { node, name, kind, field } of COMMANDS) {
        const submit = async (text: Text, { from, session }: IqRequest): Promise<CommandResult> => {
          const wanted = allowed(all, from, session?.address)
          if (wanted === undefined) throw new StanzaError('forbidden')
          log.info({ what: 'announcement', kind, allHosts: all, by: from.bare })
          // Sent once it is clear that it is kept; a headline is kept for nobody who is away (RFC 6121 §5.2.2).
          const told = wanted.map((announcer) => announcer.announce(kind, text, kind === 'online' ? 'headline' : 'normal'))
          if (storage.dirty) await storage.committed()
          return { notes: [{ type: 'info', text: all ? `On ${wanted.length} hosts` : told[0] ?? '' }] }
        }
        commands.add({
          node: `${ADMIN_NS}#${node}${all ? '-allhosts' : ''}`,
          name: all ? `${name} on all hosts` : name,
          mayRun: ({ from, session }) => allowed(all, from, session?.address) !== undefined,
          run(request): CommandOutcome | Promise<CommandOutcome> {
            if (field === undefined) return submit({ subject: '', text: '' }, request)
            const current = kind === 'motd/update' ? motd : undefined
            return {
              form: {
                formType: ADMIN_NS, title: name,
                fields: [{ var: 'subject', type: 'text-single', label: 'Subject', value: current?.subject }, { var: field, type: 'text-multi', label: 'Text', required: true, value: current?.text }],
              },
              submit: (form: Form, submitted: IqRequest) => submit({ subject: form.value('subject') ?? '', text: form.text(field) ?? '' }, submitted),
            }
          },
        })
      }
    }

    hooks.toHost(({ stanza, from, to, session }) => {
      const [, all, kind] = ADDRESS.exec(to.resource) ?? []
      if (kind === undefined) return false
      const wanted = allowed(all !== undefined, from, session?.address)
      if (wanted === undefined) throw new StanzaError('forbidden')
      const element = stanza.element()
      const text = { subject: element.getChildText('subject') ?? '', text: element.getChildText('body') ?? '' }
      // A chat state, or a receipt, is nothing to announce.
      if (kind !== 'motd/delete' && text.subject === '' && text.text === '') return true
      log.info({ what: 'announcement', kind, allHosts: all !== undefined, by: from.bare })
      for (const announcer of wanted) announcer.announce(kind as Kind, text, stanza.type === undefined || stanza.type === 'groupchat' ? 'normal' : stanza.type)
      return true
    })

    return () => {
      stopped = true
      if (announcers.get(host) === self) announcers.delete(host)
    }
  },
})
