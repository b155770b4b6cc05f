// XEP-0133: Service Administration, version 1.3.1 (2024-09-01)
import { type Form, type FormSpec, buildForm } from '../../lib/forms.ts'
import { Jid } from '../../lib/jid.ts'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { accessRule } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import type { Value } from '../storage/shapes.ts'
import type { Command, CommandOutcome, CommandResult } from './commands-registry.ts'
import { defineExtension, type IqRequest } from './extension.ts'
import { withStanzaErrors } from './register.ts'

const ADMIN_NS = 'http://jabber.org/protocol/admin'
const PAGES = ['25', '50', '75', '100', '150', '200', 'none']
/** Key [host]; value: addresses of accounts. */
const ADMINISTRATORS = 'administrators'
/** Key [owner]; value: when it last logged in and bound a resource, ms. */
const LAST_LOGIN = 'last-login'
const DELAYS = ['30', '60', '90', '120', '180', '240', '300']
const DELAY_MAX_S = 86_400
/** Addresses in one list, whatever was asked for: an answer fits a stanza. */
const LIST_MAX = 2000
const JIDS_MAX = 200

/** Questions to other nodes. */
const ONLINE = 'administration online'
const ROSTER = 'administration roster'
const CONTACTS = 'administration contacts'

/** The first of a list, in order, and how many there are. */
interface Addresses {
  readonly [key: string]: Value
  readonly count: number
  readonly first: readonly string[]
}

const ACCOUNT = { var: 'accountjid', type: 'jid-single', label: 'Address of the account', required: true } as const
const ACCOUNTS = { var: 'accountjids', type: 'jid-multi', label: 'Addresses of the accounts', required: true } as const
const PASSWORD = { var: 'password', type: 'text-private', label: 'Password', required: true } as const

export const serviceAdministration = defineExtension({
  name: 'service-administration',
  ejabberd: 'mod_configure',
  specs: [{ xep: 133, version: '1.3.1', status: 'partial', note: 'all but the lists of blocked and of admitted servers' }],
  needs: ['host', 'commands', 'accounts', 'sessions', 'rosters', 'access', 'registrations', 'hooks', 'storage', 'lifecycle', 'lasting', 'enabled', 'log', 'now', 'calls', 'everySession'],
  options: {
    access: { type: accessRule(), default: 'configure', help: 'Who may administer the host.' },
  },
  start({ host, commands, accounts, sessions, rosters, access, registrations, hooks, storage, lifecycle, lasting, enabled, log, now, calls, everySession }, options) {
    const { records } = storage
    const byRule = ({ from, session }: IqRequest): boolean => access.allows(options.access, { jid: from, address: session?.address })
    const mayRun = async (request: IqRequest): Promise<boolean> => byRule(request) || (request.session !== undefined && (await appointed()).includes(request.from.bare))
    const hosts = lasting('administered-hosts', () => new Map<string, (request: IqRequest) => boolean>())
    hosts.set(host, byRule)
    const mayEndServer = (request: IqRequest): boolean => lifecycle?.hosts().every((name) => hosts.get(name)?.(request) === true) === true

    /** Administrators beside those of the configuration (§4.29). */
    async function appointed(): Promise<readonly string[]> {
      return ((await records.get(ADMINISTRATORS, [host])) as readonly string[] | undefined) ?? []
    }

    /** A command with one form. */
    function add(node: string, name: string, form: FormSpec, submit: (form: Form, request: IqRequest) => CommandResult | Promise<CommandResult>, who: Command['mayRun'] = mayRun): void {
      commands.add({ node: `${ADMIN_NS}#${node}`, name, mayRun: who, run: () => ({ form: { formType: ADMIN_NS, title: name, ...form }, submit }) })
    }
    /** A command that answers at once. */
    function tell(node: string, name: string, field: string, count: () => number | Promise<number>): void {
      commands.add({
        node: `${ADMIN_NS}#${node}`, name, mayRun,
        run: async (): Promise<CommandOutcome> => ({ result: { formType: ADMIN_NS, fields: [{ var: field, type: 'text-single', label: name, value: await count() }] } }),
      })
    }
    function list(node: string, name: string, field: string, addresses: () => Promise<Addresses>): void {
      add(node, name, { fields: [{ var: 'max_items', type: 'list-single', label: 'How many to show', options: PAGES, value: '25' }] }, async (form) => {
        const asked = form.value('max_items') ?? 'none'
        if (asked !== 'none' && !/^[1-9]\d{0,8}$/.test(asked)) throw new StanzaError('bad-request', 'max_items must be a number or none')
        const { first, count } = await addresses()
        const shown = first.slice(0, asked === 'none' ? LIST_MAX : Math.min(LIST_MAX, Number(asked)))
        return {
          result: { formType: ADMIN_NS, fields: [{ var: field, type: 'jid-multi', label: name, value: shown }] },
          ...(shown.length < count && { notes: [{ type: 'info' as const, text: `${shown.length} of ${count}` }] }),
        }
      })
    }

    // ---- Whom it is about

    function accountOf(written: string): string {
      const jid = Jid.tryParse(written)
      if (jid === undefined || jid.local === '' || jid.resource !== '') throw new StanzaError('not-acceptable', `${written} is not the address of an account`)
      if (jid.domain !== host) throw new StanzaError('not-allowed', `${jid.bare} is not an account of ${host}`)
      return jid.bare
    }
    async function existing(written: string): Promise<string> {
      const bare = accountOf(written)
      if (!await accounts.exists(bare)) throw new StanzaError('item-not-found', `There is no account ${bare}`)
      return bare
    }
    /** All of them, before anything is done to one. */
    async function allExisting(form: Form): Promise<readonly string[]> {
      const written = form.values('accountjids').filter((each) => each !== '')
      if (written.length > JIDS_MAX) throw new StanzaError('not-acceptable', `At most ${JIDS_MAX} at a time`)
      return [...new Set(await Promise.all(written.map(existing)))]
    }
    /** XEP-0352: who has a client that somebody looks at. */
    const isActive = (own: readonly Session[]): boolean => own.some((session) => session.connected && session.active)
    const WANTED: Readonly<Record<string, (own: readonly Session[]) => boolean>> = { online: () => true, active: isActive, idle: (own) => !isActive(own) }
    /** By account; those waiting for resumption are online, too. An account has all its sessions at one node. */
    calls.serve(ONLINE, (_node, kind) => {
      const owners = new Set<string>()
      for (const session of sessions.all()) if (session.host === host) owners.add(session.owner)
      const wanted = WANTED[kind as string] ?? (() => false)
      const found = [...owners].filter((owner) => wanted(sessions.of(owner))).sort()
      return { count: found.length, first: found.slice(0, LIST_MAX) }
    })
    async function online(kind: 'online' | 'active' | 'idle'): Promise<Addresses> {
      const all = await calls.askNodes(ONLINE, kind) as unknown as readonly Addresses[]
      return { count: all.reduce((sum, { count }) => sum + count, 0), first: all.flatMap(({ first }) => first).sort() }
    }
    async function addressesOf(locals: AsyncIterable<readonly string[]> | Promise<readonly string[]>, count: () => Promise<number>): Promise<Addresses> {
      const first: string[] = []
      for await (const page of locals instanceof Promise ? [locals] : locals) {
        for (const local of page) first.push(`${local}@${host}`)
        if (first.length >= LIST_MAX) return { first, count: await count() }
      }
      return { first, count: first.length }
    }

    // ---- §4.1 to §4.7: accounts and their sessions

    add('add-user', 'Add a user', {
      fields: [ACCOUNT, PASSWORD, { var: 'password-verify', type: 'text-private', label: 'Password, again', required: true }],
    }, async (form, { from }) => {
      const bare = accountOf(form.value('accountjid') ?? '')
      if (form.value('password') !== form.value('password-verify')) throw new StanzaError('bad-request', 'The passwords are not the same')
      await withStanzaErrors(accounts.register(bare, form.value('password') ?? ''))
      log.info({ what: 'account_added', jid: bare, by: from.bare })
      return {}
    })

    add('delete-user', 'Delete users', { fields: [ACCOUNTS] }, async (form, { from }) => {
      const bares = await allExisting(form)
      // An administrator who deletes himself is last: his session ends with it.
      for (const bare of bares.toSorted((a, b) => Number(a === from.bare) - Number(b === from.bare))) {
        await accounts.unregister(bare)
        log.info({ what: 'account_removed', jid: bare, by: from.bare })
      }
      return {}
    })

    add('disable-user', 'Disable users', {
      instructions: 'Ends their sessions, and lets nobody log in until the accounts are enabled again. They keep what they have.', fields: [ACCOUNTS],
    }, async (form, { from }) => {
      const bares = await allExisting(form)
      // Who locks himself out cannot undo it.
      if (bares.includes(from.bare)) throw new StanzaError('not-allowed', 'This is your own account')
      for (const bare of bares) {
        await accounts.disable(bare, '')
        log.info({ what: 'account_disabled_by', jid: bare, by: from.bare })
      }
      return {}
    })

    add('reenable-user', 'Enable users again', { fields: [ACCOUNTS] }, async (form, { from }) => {
      for (const bare of await allExisting(form)) {
        await accounts.enable(bare)
        log.info({ what: 'account_enabled', jid: bare, by: from.bare })
      }
      return {}
    })

    add('end-user-session', 'End sessions', {
      instructions: 'An address with a resource ends that session, one without all of the account.', fields: [ACCOUNTS],
    }, async (form, { from }) => {
      const wanted: Jid[] = []
      for (const written of form.values('accountjids').filter((each) => each !== '')) {
        const jid = Jid.tryParse(written)
        if (jid === undefined) throw new StanzaError('not-acceptable', `${written} is no address`)
        const own = await everySession.of(await existing(jid.bare))
        if (jid.resource !== '' && !own.some(({ resource }) => resource === jid.resource)) throw new StanzaError('item-not-found', `There is no session ${jid.toString()}`)
        wanted.push(jid)
      }
      let count = 0
      for (const jid of wanted) count += await everySession.close(jid.bare, jid.resource === '' ? undefined : jid.resource, 'ended by the administrator')
      log.info({ what: 'sessions_ended', count, by: from.bare })
      return { notes: [{ type: 'info', text: `${count} sessions ended` }] }
    })

    add('change-user-password', 'Change a password', { fields: [ACCOUNT, PASSWORD] }, async (form, { from }) => {
      const bare = await existing(form.value('accountjid') ?? '')
      await withStanzaErrors(accounts.setPassword(bare, form.value('password') ?? ''))
      log.info({ what: 'password_changed', jid: bare, by: from.bare })
      return {}
    })

    // ---- §4.8 and §4.10

    add('get-user-roster', 'Show rosters', { fields: [ACCOUNTS] }, async (form) => {
      const bares = await allExisting(form)
      const result = buildForm('result', { formType: ADMIN_NS, fields: [{ var: 'accountjids', type: 'jid-multi', value: bares }] })
      for (const bare of bares) result.append(parseElement(await calls.ask(bare, ROSTER) as string))
      return { result }
    })

    calls.serve(ROSTER, (bare) => rosterOf(bare).toString())
    calls.serve(CONTACTS, (bare) => [...rosters.get(bare).items.values()].filter(({ hidden }) => hidden !== true).length)
    function rosterOf(bare: string): Element {
      const items = [...rosters.get(bare).items.values()].filter(({ hidden }) => hidden !== true).slice(0, LIST_MAX)
      return xml('query', { xmlns: 'jabber:iq:roster' }, items.map((item) =>
        xml('item', { jid: item.jid, name: item.name, subscription: item.subscription, ask: item.ask ? 'subscribe' : undefined }, item.groups.map((group) => xml('group', null, group)))))
    }

    hooks.bound((session) => records.put(LAST_LOGIN, [session.owner], now()))
    hooks.accountRemoved((owner) => records.delete(LAST_LOGIN, [owner]))
    async function lastLogin(bare: string): Promise<string | undefined> {
      const at = await records.get(LAST_LOGIN, [bare])
      return at === undefined ? undefined : formatDateTime(at as number)
    }

    add('get-user-lastlogin', 'Show last logins', { instructions: 'Of several accounts, the times are in the order of the accounts; never for one that has none.', fields: [ACCOUNTS] }, async (form) => {
      const bares = await allExisting(form)
      const times = await Promise.all(bares.map(lastLogin))
      return {
        result: {
          formType: ADMIN_NS,
          fields: [
            { var: 'accountjids', type: 'jid-multi', label: 'Accounts', value: bares },
            { var: 'lastlogin', type: bares.length === 1 ? 'text-single' : 'text-multi', label: 'Last login', value: times.map((time) => time ?? 'never') },
          ],
        },
      }
    })

    add('user-stats', 'Show a user', { fields: [ACCOUNT] }, async (form) => {
      const bare = await existing(form.value('accountjid') ?? '')
      const own = await everySession.of(bare)
      const contacts = await calls.ask(bare, CONTACTS) as number
      return {
        result: {
          formType: ADMIN_NS,
          fields: [
            { var: 'ipaddresses', type: 'text-multi', label: 'Addresses of its clients', value: [...new Set(own.map(({ address }) => address).filter((address) => address !== ''))] },
            { var: 'rostersize', type: 'text-single', label: 'Contacts', value: contacts },
            { var: 'lastlogin', type: 'text-single', label: 'Last login', value: await lastLogin(bare) ?? 'never' },
            { var: 'onlineresources', type: 'text-multi', label: 'Resources', value: own.map(({ resource }) => resource).sort() },
          ],
        },
      }
    })

    // ---- §4.13 to §4.22: figures and lists

    tell('get-registered-users-num', 'Number of registered users', 'registeredusersnum', () => accounts.count(host))
    tell('get-disabled-users-num', 'Number of disabled users', 'disabledusersnum', async () => (await accounts.listDisabled(host)).length)
    tell('get-online-users-num', 'Number of online users', 'onlineusersnum', async () => (await online('online')).count)
    tell('get-active-users-num', 'Number of active users', 'activeusersnum', async () => (await online('active')).count)
    tell('get-idle-users-num', 'Number of idle users', 'idleusersnum', async () => (await online('idle')).count)
    list('get-registered-users-list', 'Registered users', 'registereduserjids', () => addressesOf(accounts.pages(host), async () => accounts.count(host)))
    list('get-disabled-users-list', 'Disabled users', 'disableduserjids', () => addressesOf(accounts.listDisabled(host), async () => (await accounts.listDisabled(host)).length))
    list('get-online-users-list', 'Online users', 'onlineuserjids', () => online('online'))
    list('get-active-users', 'Active users', 'activeuserjids', () => online('active'))
    list('get-idle-users', 'Idle users', 'activeuserjids', () => online('idle')) // §4.22 calls the field so

    // ---- §4.27 and §4.28: the message for new accounts

    if (enabled('register')) {
      commands.add({
        node: `${ADMIN_NS}#set-welcome`, name: 'Set the welcome message', mayRun,
        async run() {
          const current = await registrations.welcome()
          return {
            form: {
              formType: ADMIN_NS, title: 'Set the welcome message', instructions: 'Everybody who registers an account gets it.',
              fields: [{ var: 'subject', type: 'text-single', label: 'Subject', value: current?.subject }, { var: 'welcome', type: 'text-multi', label: 'Text', required: true, value: current?.body }],
            },
            async submit(form: Form, { from }: IqRequest) {
              log.info({ what: 'welcome_message_set', by: from.bare })
              await registrations.setWelcome({ subject: form.value('subject') ?? '', body: form.text('welcome') ?? '' })
              return {}
            },
          }
        },
      })
      commands.add({
        node: `${ADMIN_NS}#delete-welcome`, name: 'Delete the welcome message', mayRun,
        async run({ from }) {
          log.info({ what: 'welcome_message_deleted', by: from.bare })
          await registrations.setWelcome({ subject: '', body: '' })
          return {}
        },
      })
    }

    // ---- §4.29: only who is an administrator by the configuration appoints others

    commands.add({
      node: `${ADMIN_NS}#edit-admin`, name: 'Edit the list of administrators', mayRun: byRule,
      run: async () => ({
        form: {
          formType: ADMIN_NS, title: 'Edit the list of administrators',
          instructions: 'They may run these commands, beside those who may by the configuration, which are not in this list.',
          fields: [{ var: 'adminjids', type: 'jid-multi', label: 'Administrators', value: await appointed() }],
        },
        async submit(form: Form, { from }: IqRequest) {
          const written = form.values('adminjids').filter((each) => each !== '')
          if (written.length > JIDS_MAX) throw new StanzaError('not-acceptable', `At most ${JIDS_MAX}`)
          const bares = [...new Set(await Promise.all(written.map(existing)))]
          records.put(ADMINISTRATORS, [host], bares)
          log.info({ what: 'administrators_set', administrators: bares, by: from.bare })
          await storage.committed()
          return {}
        },
      }),
    })
    // Whoever has the name next is another.
    hooks.accountRemoved(async (owner) => {
      const bares = await appointed()
      if (bares.includes(owner)) records.put(ADMINISTRATORS, [host], bares.filter((bare) => bare !== owner))
    })

    // ---- §4.30 and §4.31: of the whole server, so for those who administer each of its hosts

    function end(node: string, name: string, how: 'stop' | 'restart'): void {
      add(node, name, {
        instructions: 'Ends all sessions of all hosts after a while; those that can be resumed go on afterwards.',
        fields: [
          { var: 'delay', type: 'list-single', label: 'After how many seconds', options: DELAYS, value: '30' },
          { var: 'announcement', type: 'text-multi', label: 'What everybody who is online is told before' },
        ],
      }, (form, { from }) => {
        const asked = form.value('delay') ?? '30'
        if (!/^\d{1,5}$/.test(asked) || Number(asked) > DELAY_MAX_S) throw new StanzaError('bad-request', `delay must be a number of seconds, at most ${DELAY_MAX_S}`)
        log.info({ what: 'server_end_asked', how, by: from.bare })
        lifecycle?.end(how, Number(asked) * 1000, form.text('announcement') ?? '')
        return { notes: [{ type: 'info', text: `In ${asked} seconds` }] }
      }, mayEndServer)
    }
    if (lifecycle !== undefined) {
      end('restart', 'Restart the server', 'restart')
      end('shutdown', 'Shut the server down', 'stop')
    }
    return () => { if (hosts.get(host) === byRule) hosts.delete(host) }
  },
})
