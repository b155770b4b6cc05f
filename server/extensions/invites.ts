// XEP-0401: Ad-hoc Account Invitation Generation, version 0.6.0 (2026-03-08); XEP-0445: Pre-Authenticated In-Band Registration,
// version 0.2.0 (2020-11-24); XEP-0379: Pre-Authenticated Roster Subscription, version 0.3.3 (2021-03-04)
import { Jid } from '../../lib/jid.ts'
import type { FormSpec } from '../../lib/forms.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { errorReply, iqResult, makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { accessRule, int, OptionError, type OptionType, text } from '../config/options.ts'
import { defineExtension, type IqRequest, type RegistrationPass, type Stranger } from './extension.ts'
import { type PageParts, servePage } from './invites/page.ts'
import { invitesAnywhere } from './invites/anywhere.ts'
import { createInviteStore, hashOfToken, type Invite, type KnownInvite } from './invites/store.ts'
import { seen } from '../sessions/rosters.ts'

const PARS_NS = 'urn:xmpp:pars:0'
const TOKEN_NS = 'urn:xmpp:ibr-token:0'
const FORM_TYPE = 'urn:xmpp:invite#invitation'
const INVITE_NODE = 'urn:xmpp:invite#invite'
const ACCOUNT_NODE = 'urn:xmpp:invite#create-account'
/** ejabberd's module, by which `allow_modules` of mod_register knows this way to an account. */
const MODULE = 'mod_invites'
/** Invitations of one account in the time one lasts. */
const INVITES_PER_ACCOUNT = 1000
const JOB_MS = 3_600_000
/** Told to an account's home: somebody has become its contact by an invitation. */
const BEFRIEND = 'invites befriend'
/** Requests for a subscription that wait until it is known of what invitation. */
const ASKING_MAX = 1000

/** `none`, `auto`, or an address with `{{ host }}`, `{{ invite.token }}` and `{{ invite.uri }}`. */
const VARIABLE = /\{\{\s*([\w.]+)\s*(?:\|\s*(\w+)\s*)?\}\}/g

export const invites = defineExtension({
  name: 'invites',
  ejabberd: MODULE,
  specs: [
    { xep: 401, version: '0.6.0', status: 'complete' },
    { xep: 445, version: '0.2.0', status: 'complete' },
    { xep: 379, version: '0.3.3', status: 'complete', note: 'tokens are made and checked by the server' },
  ],
  needs: ['host', 'commands', 'features', 'nonzas', 'registrations', 'operations', 'hooks', 'router', 'rosters', 'accounts', 'access', 'storage', 'http', 'limits', 'log', 'lasting', 'every', 'now', 'here', 'calls'],
  options: {
    access_create_account: { type: accessRule(), default: 'none', help: 'Who may invite people to make an account; administrators always may.' },
    landing_page: { type: landingPage(), default: 'none', help: 'The page an invitation leads to: none, auto (the built-in one), or an address with {{ host }}, {{ invite.token }} and {{ invite.uri }}, which {{ invite.uri|strip_protocol }} gives without xmpp:.' },
    max_invites: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'How many invitations to an account one user may make in token_expire_seconds; administrators any number.' },
    site_name: { type: text(), default: '', help: 'How the page names the server; the host when empty.' },
    token_expire_seconds: { type: int({ min: 1, max: 3_153_600_000 }), default: 432_000, help: 'How long an invitation lasts, seconds.' },
    templates_dir: { type: text(), default: '', help: 'Templates of the page.', ignored: 'has no effect: the page is built in.' },
    webchat_url: { type: text(), default: 'auto', help: 'The address of a web client, which the page names; auto and none: it names none.' },
  },
  start({ host, commands, features, nonzas, registrations, operations, hooks, router, rosters, accounts, access, storage, http, limits, log, lasting, every, now, here, calls }, options) {
    const store = createInviteStore(storage.records, host, now)
    const invitations = invitesAnywhere({ store, host, calls, exists: (bareJid) => accounts.exists(bareJid), committed: () => storage.committed(), now })
    every(JOB_MS, async () => { if (here(host)) await store.expire() })
    hooks.accountRemoved(async (owner) => { await invitations.removeInviter(owner) })

    const isAdmin = (jid: Jid): boolean => access.allows('configure', { jid })
    const mayInviteToAccount = async (request: IqRequest): Promise<boolean> => await isOurs(request) && registrations.open(MODULE)
      && (access.allows(options.access_create_account, { jid: request.from, address: request.session?.address }) || isAdmin(request.from))
    /** Not those without an account of their own (RFC 4505): who comes for an hour invites nobody. */
    async function isOurs({ from }: IqRequest): Promise<boolean> {
      return from.domain === host && accounts.exists(from.bare)
    }

    // ---- Making them (XEP-0401 §4)

    interface Made { readonly token: string; readonly uri: string; readonly landingUrl: string | undefined; readonly until: number }

    async function make(fresh: Omit<Invite, 'used' | 'until'>): Promise<Made> {
      const until = now() + options.token_expire_seconds * 1000
      const token = await invitations.add({ ...fresh, until })
      const uri = uriOf(fresh, host, token)
      return { token, uri, landingUrl: landingUrl(uri, token), until }
    }

    function landingUrl(uri: string, token: string): string | undefined {
      if (options.landing_page === 'none') return undefined
      if (options.landing_page !== 'auto') return fillIn(options.landing_page.replaceAll('@HOST@', host), { host, 'invite.token': token, 'invite.uri': uri })
      const base = http.baseUrl(host, '/invites')
      // §4.1: HTTPS alone; the token is as good as a password.
      return base?.startsWith('https:') === true ? `${base}/${token}` : undefined
    }

    function resultOf({ uri, landingUrl: url, until }: Made): FormSpec {
      return {
        formType: FORM_TYPE,
        fields: [
          { var: 'uri', type: 'text-single', label: 'Invitation URI', value: uri },
          ...(url === undefined ? [] : [{ var: 'landing-url', type: 'text-single' as const, label: 'Invitation page', value: url }]),
          { var: 'expire', type: 'text-single', label: 'Ends', value: new Date(Math.floor(until / 1000) * 1000).toISOString().replace('.000Z', 'Z') },
        ],
      }
    }

    async function requireRoom(from: Jid): Promise<void> {
      if ((await invitations.count(from.bare)).all >= INVITES_PER_ACCOUNT) throw new StanzaError('resource-constraint', 'You have made very many invitations; please wait until some are over')
    }
    async function hasRoomForAccount(from: Jid): Promise<boolean> {
      return isAdmin(from) || (await invitations.count(from.bare)).register < options.max_invites
    }

    commands.add({
      node: INVITE_NODE, name: 'Invite somebody', mayRun: isOurs,
      async run(request) {
        const { from } = request
        await requireRoom(from)
        const register = await mayInviteToAccount(request) && await hasRoomForAccount(from)
        return { result: resultOf(await make({ inviter: from.bare, kind: 'contact', username: '', subscribe: true, register })) }
      },
    })

    commands.add({
      node: ACCOUNT_NODE, name: 'Invite somebody to make an account', mayRun: mayInviteToAccount,
      run: () => ({
        form: {
          title: 'Invite somebody to make an account',
          fields: [
            { var: 'username', type: 'text-single', label: 'User name', desc: 'Leave it empty to let them choose' },
            { var: 'roster-subscription', type: 'boolean', label: 'Add each other as contacts', value: true },
          ],
        },
        async submit(form, { from }) {
          await requireRoom(from)
          if (!await hasRoomForAccount(from)) throw new StanzaError('resource-constraint', `You may have made ${options.max_invites} such invitations at a time`)
          const username = await freeName(form.value('username') ?? '')
          return { result: resultOf(await make({ inviter: from.bare, kind: 'account', username, subscribe: form.boolean('roster-subscription') ?? true, register: true })) }
        },
      }),
    })

    /** A user name that can be kept for somebody, prepared; empty for none. */
    async function freeName(written: string): Promise<string> {
      if (written.trim() === '') return ''
      const jid = Jid.tryParse(`${written.trim()}@${host}`)
      if (jid === undefined || jid.domain !== host || jid.local === '' || jid.resource !== '') throw new StanzaError('not-acceptable', 'This cannot be a user name')
      if (await accounts.exists(jid.bare) || await invitations.isReserved(jid.bare)) throw new StanzaError('conflict', 'This user name is taken')
      return jid.local
    }

    async function byOperator(username: string): Promise<readonly string[]> {
      if (!registrations.open(MODULE)) throw new Error(`mod_register is off on ${host}, or its allow_modules leaves mod_invites out`)
      const { uri, landingUrl: url } = await make({ inviter: '', kind: 'account', username: await freeName(username), subscribe: false, register: true })
      return url === undefined ? [uri] : [uri, url]
    }
    operations.add('generate_invite', () => byOperator(''))
    operations.add('generate_invite_with_username', ([username = '']) => byOperator(username))

    operations.add('list_invites', async () => (await invitations.open()).map(({ inviter, kind, username, until }) =>
      [inviter === '' ? '-' : inviter, kind, username === '' ? '-' : username, new Date(until).toISOString()].join('\t')))
    operations.add('expire_invite_tokens', async ([username = '']) => {
      return [String(await invitations.removeInviter(Jid.of(username, host).bare))]
    })

    // ---- Registration with a token (XEP-0445)

    features.beforeLogin(() => registrations.open(MODULE) ? `<register xmlns='${TOKEN_NS}'/>` : undefined)
    const shown = new WeakMap<Stranger, KnownInvite>()

    async function preauthenticate(stream: Stranger, request: Stanza): Promise<Stanza> {
      const child = request.find('preauth', PARS_NS)
      if (request.type !== 'set' || child === undefined) return errorReply(request, new StanzaError('bad-request'))
      if (request.to !== undefined && Jid.tryParse(request.to)?.toString() !== host) return errorReply(request, new StanzaError('not-allowed'))
      const known = await invitations.find(request.childElement(child).attrs['token'] ?? '')
      if (known === undefined || !known.invite.register || !store.isOpen(known.invite) || !registrations.open(MODULE)) {
        return errorReply(request, new StanzaError('item-not-found', 'The provided token is invalid or expired'))
      }
      // §4: its time counts here alone.
      shown.set(stream, known)
      return iqResult(request)
    }
    nonzas.beforeLogin(`${PARS_NS} preauth`, preauthenticate)

    registrations.admit((stream) => {
      const known = shown.get(stream)
      return known && passOf(known)
    })
    registrations.reserve((bareJid) => invitations.isReserved(bareJid))

    function passOf(known: KnownInvite): RegistrationPass {
      const { hash, invite } = known
      return {
        username: invite.username === '' ? undefined : invite.username,
        async use(owner, make) {
          // XEP-0401 §4.5: by roster pushes.
          const isContact = invite.subscribe && invite.inviter !== ''
          if (calls.alone) {
            return make(() => {
              if (!store.isUnused(hash)) throw new StanzaError('not-allowed', 'The invitation has been used')
              store.use(known, owner)
              if (isContact && befriend(invite.inviter, owner)) befriend(owner, invite.inviter)
            })
          }
          // The host, the account and the inviter may be at three nodes: nobody else gets the invitation meanwhile.
          if (await accounts.exists(owner)) throw new StanzaError('conflict')
          await invitations.useToMake(hash, owner)
          try {
            await make()
          } catch (error) {
            // Without an answer of its home the account may have been made.
            if (!(error instanceof StanzaError && error.condition === 'remote-server-timeout')) await invitations.giveBack(hash, owner)
            throw error
          }
          // What does not get there is found out later.
          await invitations.made(hash, owner).catch((error: unknown) => { log.warn({ what: 'invitation_not_used_up', error }) })
          if (!isContact) return
          router.tell(invite.inviter, BEFRIEND, owner)
          router.tell(owner, BEFRIEND, invite.inviter)
          await storage.committed()
        },
      }
    }

    hooks.told((owner, [what, contact]) => {
      if (what === BEFRIEND && contact !== undefined && Jid.parse(owner).domain === host) befriend(owner, contact)
    })

    /** Makes a contact; whether there was room. */
    function befriend(owner: string, contact: string): boolean {
      try {
        rosters.set(owner, { groups: [], ...rosters.item(owner, contact), jid: contact, subscription: 'both', ask: false, approved: false, hidden: false })
        return true
      } catch (error) {
        // The inviter's roster is full: the account is made all the same.
        if (!(error instanceof StanzaError)) throw error
        log.warn({ what: 'invitation_without_contact', owner, contact, problem: error.text })
        return false
      }
    }

    // ---- Contacts (XEP-0379)

    /** By requests (their senders and tokens) of which the host's home was asked, what it has answered: they come a second time. */
    const answered = new Map<string, KnownInvite | undefined>()
    const asking = new Set<string>()

    hooks.stampIncoming(({ stanza, from, to }) => {
      if (stanza.name !== 'presence' || stanza.type !== 'subscribe') return
      const child = stanza.find('preauth', PARS_NS)
      if (child === undefined || to.domain !== host) return
      const token = stanza.childElement(child).attrs['token'] ?? ''
      const hash = hashOfToken(token)
      if (hash === undefined || from.bare === to.bare) return
      if (here(host)) return preapprove(store.find(hash), from, to)
      const request = `${from.bare} ${to.bare} ${hash}`
      if (answered.has(request)) {
        const known = answered.get(request)
        answered.delete(request)
        return preapprove(known, from, to)
      }
      if (asking.size >= ASKING_MAX) return
      if (!asking.has(request)) {
        asking.add(request)
        void invitations.find(token).catch(() => undefined).then((known) => {
          asking.delete(request)
          answered.set(request, known)
          router.route(stanza)
          answered.delete(request)
        })
      }
      throw new StanzaError('recipient-unavailable', 'It is being asked what the invitation is')
    })

    function preapprove(known: KnownInvite | undefined, from: Jid, to: Jid): void {
      // §4.1: one that is not good is ignored.
      if (known === undefined || known.invite.kind !== 'contact' || known.invite.inviter !== to.bare || !store.isOpen(known.invite)) return
      const before = rosters.item(to.bare, from.bare)
      if (seen(before)) return
      if (here(host)) store.use(known, from.bare)
      else invitations.use(known.hash, from.bare).catch((error: unknown) => { log.warn({ what: 'invitation_not_used_up', error }) })
      const wanted = before?.subscription !== 'to'
      rosters.set(to.bare, { groups: [], subscription: 'none', ...before, jid: from.bare, ask: wanted, approved: true, hidden: false })
      // §3.5: and a request of the inviter's own.
      if (wanted) router.route(makeStanza('presence', { type: 'subscribe', from: to.bare, to: from.bare }))
    }

    // ---- The page

    if (options.landing_page === 'none') return undefined
    return servePage(lasting('invites pages', () => new Map<string, PageParts>()), {
      host, http, limits, secret: calls.alone ? lasting('invites secret', () => crypto.getRandomValues(new Uint8Array(32))) : storage.records.get('account-secrets', [host, 'invites']) as Uint8Array,
      siteName: options.site_name === '' ? host : options.site_name,
      webchat: /^https?:/.test(options.webchat_url) ? options.webchat_url.replaceAll('@HOST@', host) : undefined,
      async find(token) {
        const known = await invitations.find(token)
        if (known === undefined) return undefined
        const { invite } = known
        return {
          invite, open: store.isOpen(invite), uri: uriOf(invite, host, token),
          canRegister: invite.register && registrations.open(MODULE),
          register: (username, password, address) => registrations.register({ username, password, address, pass: passOf(known) }),
        }
      },
    })
  },
})

/** XEP-0401 §4.1 and §4.4 */
function uriOf({ kind, inviter, username, register }: Pick<Invite, 'kind' | 'inviter' | 'username' | 'register'>, host: string, token: string): string {
  const authority = (local: string): string => local === '' ? encodeURI(host) : `${encodeURIComponent(local)}@${encodeURI(host)}`
  if (kind === 'account') return `xmpp:${authority(username)}?register;preauth=${token}`
  return `xmpp:${authority(Jid.parse(inviter).local)}?roster;preauth=${token}${register ? ';ibr=y' : ''}`
}

/** Fills in a template of `landing_page`. */
function fillIn(template: string, values: Readonly<Record<string, string>>): string {
  return template.replaceAll(VARIABLE, (_all, name: string, filter: string | undefined) => {
    const value = values[name] ?? ''
    return filter === 'strip_protocol' ? value.replace(/^xmpp:/, '') : value
  })
}

function landingPage(): OptionType<string> {
  const words = text()
  const expects = 'none, auto, or an address such as "https://@HOST@/invites/{{ invite.token }}"'
  return {
    expects,
    parse(node) {
      const written = words.parse(node)
      if (written === 'none' || written === 'auto') return written
      const unknown = Array.from(written.matchAll(VARIABLE), ([, name = '', filter]) => ['host', 'invite.token', 'invite.uri'].includes(name) && (filter === undefined || filter === 'strip_protocol')).includes(false)
      if (unknown || !/^https?:\/\//.test(written)) throw new OptionError(node, `"${written}" is not allowed here; expected ${expects}.`)
      return written
    },
  }
}
