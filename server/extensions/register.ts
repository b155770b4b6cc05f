// XEP-0077: In-Band Registration, version 2.4 (2012-01-25)
import { buildForm, FORMS_NS, parseForm } from '../../lib/forms.ts'
import { Jid } from '../../lib/jid.ts'
import { networkOf } from '../../lib/net/addresses.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { errorReply, iqResult, type Stanza, stanzaOf } from '../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { AccountError } from '../accounts/accounts.ts'
import type { Challenge } from '../captcha/captchas.ts'
import { accessRule, bool, int, list, record, text } from '../config/options.ts'
import { defineExtension, type IqRequest, type RegistrationPass, type Stranger } from './extension.ts'
import { setWelcomeMessage, type WelcomeMessage, welcomeMessage } from './welcome-message.ts'

const NS = 'jabber:iq:register'
const FEATURE_NS = 'http://jabber.org/features/iq-register'
const OOB_NS = 'jabber:x:oob'
const BOB_NS = 'urn:xmpp:bob'
const MEDIA_NS = 'urn:xmpp:media-element'
/** Addresses whose last registration is remembered. */
const ADDRESSES_MAX = 20_000
const INSTRUCTIONS = 'Choose a username and password to register with this server'
const REGISTERED = 'You have an account here. Give its username and a new password to change the password'

export const register = defineExtension({
  name: 'register',
  ejabberd: 'mod_register',
  specs: [
    { xep: 77, version: '2.4', status: 'complete' },
    { xep: 158, version: '1.0.1', status: 'partial', note: 'for registration: a picture to read' },
    { xep: 221, version: '1.0', status: 'partial', note: 'pictures of captchas' },
    { xep: 231, version: '1.1', status: 'partial', note: 'pictures of captchas' },
  ],
  features: [NS],
  needs: ['host', 'iq', 'disco', 'features', 'nonzas', 'registrations', 'captchas', 'router', 'accounts', 'access', 'config', 'storage', 'log', 'now'],
  options: {
    access: { type: accessRule(), default: 'all', help: 'Which accounts may be registered.' },
    access_from: { type: accessRule(), default: 'none', help: 'Which accounts may register others.' },
    access_remove: { type: accessRule(), default: 'all', help: 'Which accounts may remove themselves.' },
    ip_access: { type: accessRule(), default: 'all', help: 'Addresses from which accounts may be registered.' },
    password_strength: { type: int({ max: 1000 }), default: 0, help: 'Entropy in bits that a password needs.' },
    redirect_url: { type: text(), default: '', help: 'Where to register instead, a URL.' },
    welcome_message: {
      type: record<WelcomeMessage>({
        subject: { type: text(), default: '', help: 'Its subject.' },
        body: { type: text(), default: '', help: 'Its text.' },
      }),
      default: { subject: '', body: '' } as WelcomeMessage,
      help: 'A message for every new account.',
    },
    registration_watchers: { type: list(text()), default: [] as readonly string[], help: 'JIDs that are told of every new account.' },
    captcha_protected: { type: bool(), default: false, help: 'Registration without an invitation needs a captcha: six digits read from a picture.' },
    allow_modules: { type: list(text()), default: ['all'] as readonly string[], help: 'Which modules may register accounts: all, mod_register for anybody, mod_invites for the invited.' },
  },
  start({ host, iq, disco, features, nonzas, registrations, captchas, router, accounts, access, config, storage, log, now }, options) {
    disco.feature('account', NS)
    const recent = new Map<string, number>()

    /** Refuses an address that has registered an account just now; the answer undoes it when registration fails. */
    function takeTurn(address: string): () => void {
      const network = networkOf(address)
      const at = now()
      for (const [key, since] of recent) { // in order of time
        if (at - since < config.registrationTimeoutMs) break
        recent.delete(key)
      }
      if (recent.has(network)) throw new StanzaError('resource-constraint', 'Please wait before you register another account')
      if (recent.size >= ADDRESSES_MAX) throw new StanzaError('resource-constraint', 'Too many registrations at the moment')
      if (Number.isFinite(config.registrationTimeoutMs)) recent.set(network, at)
      return () => recent.delete(network)
    }

    interface NewAccount {
      readonly username: string | null
      readonly password: string | null
      readonly address: string
      readonly pass?: RegistrationPass | undefined
      readonly by?: Jid
    }

    /** Who has a pass was let in by somebody who may: the rules for everybody do not count. */
    async function createAccount({ username, password, address, pass, by }: NewAccount): Promise<string> {
      if (username === null || username === '' || password === null || password === '') throw new StanzaError('not-acceptable') // §3.1.1
      const jid = accountJid(username, host)
      if (pass === undefined && !access.allows(options.access, { jid, address })) throw new StanzaError('forbidden', 'This account may not be registered')
      if (pass?.username !== undefined && pass.username !== jid.local) throw new StanzaError('not-acceptable', `The invitation is for the username ${pass.username}`)
      requireStrength(password, options.password_strength)
      // XEP-0445 §5
      if (pass?.username === undefined && await registrations.reserved(jid.bare)) throw new StanzaError('conflict')
      const giveBack = pass === undefined ? takeTurn(address) : () => undefined
      try {
        const make = (alongside?: () => void): Promise<void> => withStanzaErrors(accounts.register(jid.bare, password, alongside))
        await (pass === undefined ? make() : pass.use(jid.bare, make))
      } catch (error) {
        giveBack()
        throw error
      }
      log.info({ what: 'account_registered', jid: jid.bare, address, by: by?.bare, invited: pass !== undefined })
      const { subject, body } = await welcomeMessage(storage.records, host, options.welcome_message)
      if (subject !== '' || body !== '') sendMessage(jid.bare, body, subject)
      for (const watcher of options.registration_watchers) sendMessage(watcher, `The account ${jid.bare} was registered from ${address}`)
      return jid.bare
    }

    // Where passwords are of no use nobody needs an account.
    const isOpen = (module: string): boolean => config.authMethods.includes('internal') && (options.allow_modules.includes('all') || options.allow_modules.includes(module))
    registrations.serve({
      welcome: () => welcomeMessage(storage.records, host, options.welcome_message),
      async setWelcome(message) {
        setWelcomeMessage(storage.records, host, options.welcome_message, message)
        await storage.committed()
      },
      open: isOpen,
      async register(request) {
        // What waits for a commit is not begun while there is none to come.
        if (!storage.healthy) throw new StanzaError('resource-constraint', 'The server cannot store anything at the moment')
        return createAccount(request)
      },
    })

    function sendMessage(to: string, body: string, subject = ''): void {
      router.route(stanzaOf('message', { id: nextMessageId(now()), from: host, to, type: 'normal' },
        ...(subject === '' ? [] : [xml('subject', null, subject)]), xml('body', null, body)))
    }

    async function form(pass: RegistrationPass | undefined, { address }: Stranger, request: Stanza): Promise<Element> {
      if (options.redirect_url !== '' && pass === undefined) { // §6
        return xml('query', { xmlns: NS },
          xml('instructions', null, `To register, visit ${options.redirect_url}`),
          xml('x', { xmlns: OOB_NS }, xml('url', null, options.redirect_url)))
      }
      if (options.captcha_protected && pass === undefined) return captchaForm(await captchas.make(address), request)
      return xml('query', { xmlns: NS }, xml('instructions', null, INSTRUCTIONS), xml('username', null, pass?.username ?? null), xml('password'))
    }

    /** User name and password: of a captcha's form when there has to be one. Throws when the answer is wrong. */
    function readCredentials(query: Element, pass: RegistrationPass | undefined): { username: string | null; password: string | null } {
      const x = query.getChild('x', FORMS_NS)
      const submitted = x && parseForm(x, { kinds: ['submit'], formType: NS, formTypeOptional: true })
      if (options.captcha_protected && pass === undefined && !captchas.check(submitted?.value('challenge') ?? '', submitted?.value('ocr') ?? '')) {
        throw new StanzaError('not-acceptable', 'The captcha was not answered correctly, or too late')
      }
      if (submitted !== undefined) return { username: submitted.value('username') ?? null, password: submitted.value('password') ?? null }
      return { username: query.getChildText('username'), password: query.getChildText('password') }
    }

    // Without passwords there is nothing to register with.
    const mayRegister = (address: string): boolean =>
      isOpen('mod_register') && access.allows(options.ip_access, { address })
    const byInvitation = (): boolean => config.authMethods.includes('internal') && registrations.byPass && isOpen('mod_invites')

    // XEP-0445 §3: who was invited looks for this one too.
    features.beforeLogin(({ address }) => mayRegister(address) || byInvitation() ? `<register xmlns='${FEATURE_NS}'/>` : undefined)

    // ---- Before login (§3.1)

    async function answerStranger(stream: Stranger, request: Stanza): Promise<Stanza> {
      const { address } = stream
      try {
        if (request.to !== undefined && Jid.tryParse(request.to)?.toString() !== host) throw new StanzaError('not-allowed')
        const child = request.find('query', NS)
        if (child === undefined || (request.type !== 'get' && request.type !== 'set')) throw new StanzaError('bad-request')
        const pass = byInvitation() ? registrations.pass(stream) : undefined
        if (pass === undefined && !mayRegister(address)) throw new StanzaError('forbidden', byInvitation() ? 'Accounts are registered by invitation' : 'Accounts cannot be registered from this address')
        if (request.type === 'get') return iqResult(request, await form(pass, stream, request))
        const query = request.childElement(child)
        if (query.getChild('remove') !== undefined) throw new StanzaError('unexpected-request') // §3.2: no account speaks here
        if (options.redirect_url !== '' && pass === undefined) throw new StanzaError('not-allowed', `To register, visit ${options.redirect_url}`)
        if (!storage.healthy) throw new StanzaError('resource-constraint', 'the server cannot store anything at the moment')
        await createAccount({ ...readCredentials(query, pass), address, pass })
        return iqResult(request)
      } catch (error) {
        if (error instanceof StanzaError) return errorReply(request, error)
        log.error({ what: 'registration_failed', address, error })
        return errorReply(request, new StanzaError('internal-server-error'))
      }
    }
    nonzas.beforeLogin(`${NS} query`, answerStranger)

    // XEP-0231 §2.2: for clients that do not take the picture from the form's answer.
    nonzas.beforeLogin(`${BOB_NS} data`, (_stream, request) => {
      const child = request.find('data', BOB_NS)
      const challenge = child && captchas.find(request.childElement(child).attrs['cid'] ?? '')
      return Promise.resolve(request.type === 'get' && challenge !== undefined ? iqResult(request, pictureData(challenge)) : errorReply(request, new StanzaError('item-not-found')))
    })

    // ---- Of those who have logged in

    iq.get(`${NS} query`, ['host', 'account'], (request) => {
      requireAccountHere(request)
      // §3.1.1: who has an account learns so, and which
      return xml('query', { xmlns: NS }, xml('instructions', null, REGISTERED), xml('registered'), xml('username', null, request.from.local), xml('password'))
    })

    iq.set(`${NS} query`, ['host', 'account'], async (request) => {
      requireAccountHere(request)
      const { from, payload, session } = request
      if (payload.getChild('remove') !== undefined) return removeAccount(request)
      const username = payload.getChildText('username')
      const password = payload.getChildText('password')
      if (username === null || username === '' || password === null || password === '') throw new StanzaError('bad-request') // §3.3
      if (accountJid(username, host).bare === from.bare) {
        requireStrength(password, options.password_strength)
        await withStanzaErrors(accounts.setPassword(from.bare, password))
        log.info({ what: 'password_changed', jid: from.bare })
        return
      }
      if (!access.allows(options.access_from, { jid: from, address: session?.address })) throw new StanzaError('forbidden')
      await createAccount({ username, password, address: session?.address ?? '', by: from })
    })

    /** §3.2 */
    async function removeAccount({ stanza, from, payload, session }: IqRequest): Promise<void> {
      if (payload.getChildElements().length > 1) throw new StanzaError('bad-request') // §3.2.1
      if (!access.allows(options.access_remove, { jid: from, address: session?.address })) throw new StanzaError('forbidden')
      if (config.authMethods.includes('ldap') && (await accounts.hashes(from.bare))?.length === 0) throw new StanzaError('not-allowed', 'The account is kept in an LDAP directory')
      // The account's sessions end once it is gone for good, so the result leaves in that commit; what the handler answers afterwards reaches nobody.
      session?.send(iqResult(stanza), { durable: true })
      await accounts.unregister(from.bare)
      log.info({ what: 'account_removed', jid: from.bare })
    }

    function requireAccountHere({ from, to, session }: IqRequest): void {
      if (session === undefined || from.domain !== host || from.local === '') throw new StanzaError('not-allowed')
      if (to.local !== '' && to.bare !== from.bare) throw new StanzaError('forbidden')
    }
  },
})

/** XEP-0158 §4. Plain fields are left out: a client that sees them does not look for the form. */
function captchaForm(challenge: Challenge, request: Stanza): Element {
  const { id, cid, picture } = challenge
  const media = xml('media', { xmlns: MEDIA_NS, width: picture.width, height: picture.height }, xml('uri', { type: picture.type }, `cid:${cid}`))
  return xml('query', { xmlns: NS },
    xml('instructions', null, 'Registration here needs a client that can show the picture of a captcha'),
    buildForm('form', {
      formType: NS, title: 'Registration', instructions: INSTRUCTIONS,
      fields: [
        { var: 'username', type: 'text-single', label: 'User name', required: true },
        { var: 'password', type: 'text-private', label: 'Password', required: true },
        { var: 'challenge', type: 'hidden', value: id },
        { var: 'sid', type: 'hidden', value: request.id },
        { var: 'ocr', type: 'text-single', label: 'Enter the text you see', required: true, extra: [media] },
      ],
    }),
    pictureData(challenge))
}

/** XEP-0231 §2.1; no cache keeps it. */
function pictureData({ cid, picture }: Challenge): Element {
  return xml('data', { xmlns: BOB_NS, cid, type: picture.type, 'max-age': 0 }, picture.bytes.toString('base64'))
}

function accountJid(username: string, host: string): Jid {
  try {
    return Jid.of(username, host)
  } catch {
    throw new StanzaError('jid-malformed', 'This cannot be a username')
  }
}

/** What was wrong with an account, as an error of a stanza. */
export async function withStanzaErrors(work: Promise<void>): Promise<void> {
  try {
    await work
  } catch (error) {
    if (error instanceof AccountError) throw new StanzaError(error.condition, error.message === error.condition ? undefined : error.message)
    throw error
  }
}

function requireStrength(password: string, bits: number): void {
  if (bits > 0 && entropyOf(password) < bits) throw new StanzaError('not-acceptable', 'The password is too weak')
}

/** Entropy of a password in bits, counted as ejabberd does: its length times the logarithm of the characters in use. */
export function entropyOf(password: string): number {
  const kinds: readonly [RegExp, number][] = [[/[a-z]/, 26], [/[A-Z]/, 26], [/[0-9]/, 10], [/[!-/:-@[-`{-~]/, 33], [/[^!-~]/, 128]]
  const alphabet = kinds.reduce((sum, [pattern, size]) => sum + (pattern.test(password) ? size : 0), 0)
  return alphabet === 0 ? 0 : Array.from(password).length * Math.log2(alphabet)
}
