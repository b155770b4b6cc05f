// XEP-0352: Client State Indication, version 1.0.0 (2020-10-14)
import { CLIENT_NS, type Stanza } from '../../lib/stanza/stanza.ts'
import { bool } from '../config/options.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:csi:0'
const CHAT_STATES_NS = 'http://jabber.org/protocol/chatstates'
const PUBSUB_EVENT_NS = 'http://jabber.org/protocol/pubsub#event'
const CARBONS_NS = 'urn:xmpp:carbons:2'
const FORWARD_NS = 'urn:xmpp:forward:0'
const MUC_USER_NS = 'http://jabber.org/protocol/muc#user'
/** What may stand beside a chat state without making the message worth a wake-up. */
const BESIDE_CHAT_STATE = new Set(['urn:xmpp:hints', 'urn:xmpp:sid:0', 'urn:xmpp:delay', 'urn:xmpp:occupant-id:0', MUC_USER_NS])

export interface ClientStateOptions {
  readonly queue_presence: boolean
  readonly queue_chat_states: boolean
  readonly queue_pep: boolean
}

export const clientState = defineExtension({
  name: 'client-state',
  ejabberd: 'mod_client_state',
  specs: [{ xep: 352, version: '1.0.0', status: 'complete' }, { xep: 286, version: '1.0.0', status: 'partial', note: 'what is worth no wake-up waits, and goes when the client sends or gets something; streams are not compressed' }],
  needs: ['features', 'nonzas', 'hooks', 'bind2'],
  options: {
    queue_presence: { type: bool(), default: true, help: 'Hold presence back, the latest of each sender.' },
    queue_chat_states: { type: bool(), default: true, help: 'Hold chat states back, the latest of each sender.' },
    queue_pep: { type: bool(), default: true, help: 'Hold notifications of personal events back, the latest of each item.' },
  },
  start({ features, nonzas, hooks, bind2 }, options) {
    features.afterLogin(() => `<csi xmlns='${NS}'/>`)

    nonzas.handle(`${NS} inactive`, (session) => {
      session.active = false
      session.changed()
    })
    nonzas.handle(`${NS} active`, (session) => {
      if (session.active) return
      session.active = true
      session.flushHeld()
      session.changed()
    })
    // XEP-0386 §3.2: the session begins so.
    bind2.feature(NS, [`${NS} active`, `${NS} inactive`], (session, { name }) => {
      session.active = name !== 'inactive'
      session.changed()
      return undefined
    })
    // §5.1: a resumed stream starts active
    hooks.resumed((session) => {
      session.active = true
      session.flushHeld()
    })

    hooks.whileInactive((session, stanza) => {
      const key = holdKey(stanza, options)
      if (key === undefined) {
        // What the message says makes the chat state before it worthless.
        const said = stanza.name === 'message' ? saidBy(stanza) : undefined
        if (said?.children.some(({ name, xmlns }) => name === 'body' && xmlns === CLIENT_NS)) session.discardHeld(said.chatStateKey)
        return 'send'
      }
      return { hold: key }
    })
  },
})

/** What a stanza that can wait is the latest of; undefined when it has to go at once. */
function holdKey(stanza: Stanza, options: ClientStateOptions): string | undefined {
  if (stanza.name === 'presence') return options.queue_presence ? presenceKey(stanza) : undefined
  if (stanza.name !== 'message' || stanza.type === 'error' || stanza.has('body')) return undefined
  if (options.queue_pep && stanza.has('event', PUBSUB_EVENT_NS)) return eventKey(stanza)
  if (!options.queue_chat_states) return undefined
  const said = saidBy(stanza)
  return isChatStateOnly(said.children) ? said.chatStateKey : undefined
}

/** What somebody else says in a conversation, be it in the message itself or in the copy of one (XEP-0280). */
interface Said {
  readonly children: readonly { readonly name: string; readonly xmlns: string }[]
  /** One for each who may be typing: a contact, an occupant of a room. */
  readonly chatStateKey: string
}

function saidBy(stanza: Stanza): Said {
  // What the user's other clients send goes at once: it tells that the user is there (XEP-0280 §10.2).
  const copy = stanza.find('received', CARBONS_NS)
  // XEP-0280 §11: no copies but those of the account itself.
  const inner = copy === undefined || stanza.from !== bareOf(stanza.to) ? undefined
    : stanza.childElement(copy).getChild('forwarded', FORWARD_NS)?.getChild('message', CLIENT_NS)
  if (inner === undefined) return { children: stanza.children, chatStateKey: chatStateKey(stanza.attrs, stanza.children) }
  const children = inner.getChildElements().map((child) => ({ name: child.getName(), xmlns: child.getNS() ?? '' }))
  return { children, chatStateKey: chatStateKey(inner.attrs, children) }
}

function chatStateKey(attrs: Readonly<Record<string, string | undefined>>, children: Said['children']): string {
  const from = attrs['from']
  const ofOccupant = attrs['type'] === 'groupchat' || children.some(({ xmlns }) => xmlns === MUC_USER_NS)
  return `chat-state ${ofOccupant ? from : bareOf(from)}`
}

function presenceKey(stanza: Stanza): string | undefined {
  // Subscriptions, probes and errors want an answer.
  if (stanza.type !== undefined && stanza.type !== 'unavailable') return undefined
  // The user's own entry to a room and removal from it (XEP-0045 §7.2.2, status 110) are not somebody else's coming and going.
  const muc = stanza.find('x', MUC_USER_NS)
  if (muc !== undefined && stanza.content.includes('110') &&
    stanza.childElement(muc).getChildren('status').some((status) => status.attrs['code'] === '110')) return undefined
  return `presence ${stanza.from ?? ''}`
}

/** Nodes may hold several items, each of which counts. */
function eventKey(stanza: Stanza): string | undefined {
  const span = stanza.find('event', PUBSUB_EVENT_NS)
  const items = span && stanza.childElement(span).getChild('items')
  if (items === undefined) return undefined // purge, delete, configuration: rare, and their order matters
  const ids = items.getChildElements().map((item) => item.attrs['id'] ?? '')
  return `event ${JSON.stringify([stanza.from ?? '', items.attrs['node'] ?? '', ids])}`
}

function isChatStateOnly(children: Said['children']): boolean {
  let found = false
  for (const { name, xmlns } of children) {
    if (xmlns === CHAT_STATES_NS) found = true
    else if (!BESIDE_CHAT_STATE.has(xmlns) && !(name === 'thread' && xmlns === CLIENT_NS)) return false
  }
  return found
}

function bareOf(jid: string | undefined): string {
  if (jid === undefined) return ''
  const slash = jid.indexOf('/')
  return slash === -1 ? jid : jid.slice(0, slash)
}
