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
import type { Value } from '../storage/shapes.ts'
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
/** How often the node that sends to all looks for what another has left, and how often the others ask for the message of the day. */
const LOOK_MS = 60_000
/** Questions to other nodes. */
const TO_ONLINE = 'announce online'
const GO = 'announce all'
const SHOW = 'motd'

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
  announce(kind: Kind, text: Text, type: string): Promise<string>
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

const sum = (counts: readonly Value[]): number => counts.reduce<number>((all, count) => all + Number(count), 0)

export const announcements = defineExtension({
  name: 'announcements',
  ejabberd: 'mod_announce',
  specs: [{ xep: 133, version: '1.3.1', status: 'partial', note: 'announcements' }],
  needs: ['host', 'commands', 'hooks', 'router', 'accounts', 'sessions', 'access', 'storage', 'log', 'now', 'lasting', 'every', 'here', 'calls'],
  options: {
    access: { type: accessRule(), default: 'none', help: 'Who may make announcements.' },
  },
  start({ host, commands, hooks, router, accounts, sessions, access, storage, log, now, lasting, every, here, calls }, options) {
    const { records } = storage
    const announcers = lasting('announcers', () => new Map<string, Announcer>())
    let stopped = false
    /** The message of the day, as far as this node knows. */
    let motd: Motd | undefined
    function readMotd(): void {
      const stored = records.get(MOTD, [host])
      if (stored instanceof Promise) inBackground(stored.then((value) => { motd = value as unknown as Motd | undefined }))
      else motd = stored as Motd | undefined
    }
    readMotd()

    function message(to: string, type: string, { subject, text }: Text): Stanza {
      return stanzaOf('message', { id: nextMessageId(now()), from: host, to, type }, ...(subject === '' ? [] : [xml('subject', null, subject)]), xml('body', null, text))
    }
    function ownSessions(): Session[] {
      return [...sessions.all()].filter((session) => session.host === host)
    }

    // ---- Once: §4.23 to those who have a session, and ejabberd's to all accounts

    calls.serve(TO_ONLINE, (_node, args) => {
      const { type, ...text } = args as unknown as Text & { readonly type: string }
      const own = ownSessions()
      for (const { jid } of own) router.route(message(jid.toString(), type, text))
      return own.length
    })
    async function toOnline({ subject, text }: Text, type: string): Promise<string> {
      const counts = await calls.askNodes(TO_ONLINE, { subject, text, type })
      return `Sent to ${sum(counts)} clients`
    }

    /** Of these announcements to all this node sends now. */
    const underWay = new Set<string>()

    /** In the background, by the home of the host. How far it has come is written with the messages, so that a process that is killed on the way is followed by one that goes on. */
    async function toAll(text: Text, type: string): Promise<string> {
      records.put(SENDING, [host, randomId(9)], { subject: text.subject, text: text.text, type, after: '' } satisfies Sending)
      // It is kept: whoever does not hear of it now finds it later.
      await calls.ask(host, GO).catch((error: unknown) => { log.warn({ what: 'announcement_waits', error }) })
      return 'It goes to all users'
    }
    calls.serve(GO, () => {
      goOn()
      return undefined
    })
    function goOn(): void {
      if (!here(host)) return
      inBackground(Promise.resolve(records.range(SENDING, [host])).then((waiting) => Promise.all(waiting.map(async ({ key, value }) => {
        const id = key[1] as string
        if (underWay.has(id)) return
        underWay.add(id)
        await send(id, value as unknown as Sending).finally(() => underWay.delete(id))
      }))))
    }
    async function send(id: string, sending: Sending): Promise<void> {
      for await (const names of accounts.pages(host, sending.after, BATCH)) {
        if (stopped || !here(host)) return
        for (const name of names) router.route(message(`${name}@${host}`, sending.type, sending))
        records.put(SENDING, [host, id], { ...sending, after: names.at(-1) ?? '' })
        await storage.committed()
      }
      records.delete(SENDING, [host, id])
      await storage.committed()
    }
    hooks.started(goOn)
    every(LOOK_MS, () => {
      goOn()
      // Who was not reached when it changed hears of it now.
      if (!here(host)) readMotd()
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
    calls.serve(SHOW, (_node, args) => {
      const { next, type } = args as unknown as { readonly next: Motd | null; readonly type: string | null }
      motd = next ?? undefined
      const shown = new Set<string>()
      if (next === null || type === null) return 0
      for (const session of ownSessions()) {
        if (session.presence === undefined || session.priority < 0 || shown.has(session.owner)) continue
        shown.add(session.owner)
        show(session, next, type)
      }
      return shown.size
    })
    /** `type` is that of the messages to those who are online; without it they get none. */
    async function setMotd(next: Motd | undefined, type?: string): Promise<number> {
      keep(next)
      return sum(await calls.askNodes(SHOW, { next: next === undefined ? null : { ...next }, type: type ?? null }))
    }

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
      async announce(kind, text, type) {
        switch (kind) {
          case 'online': return toOnline(text, type)
          case 'all': return toAll(text, type)
          case 'motd': return `Sent to ${await setMotd({ ...text, id: randomId(9) }, type)} users, and to everybody else at the next login`
          case 'motd/update':
            // §4.25: who has had it does not get it again.
            await setMotd({ ...text, id: motd?.id ?? randomId(9) })
            return 'It is sent to nobody who has had it'
          case 'motd/delete':
            await setMotd(undefined)
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
          const told = await Promise.all(wanted.map((announcer) => announcer.announce(kind, text, kind === 'online' ? 'headline' : 'normal')))
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
      for (const announcer of wanted) inBackground(announcer.announce(kind as Kind, text, stanza.type === undefined || stanza.type === 'groupchat' ? 'normal' : stanza.type))
      return true
    })

    return () => {
      stopped = true
      if (announcers.get(host) === self) announcers.delete(host)
    }
  },
})
