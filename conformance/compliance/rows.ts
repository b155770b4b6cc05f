/** The rows: what Conversations shows on its server and room pages (A), what Gajim shows of a provider (D), and what else both look for (E). */
import type { Check } from './check.ts'
import { caps2Hash, capsHash } from './capabilities.ts'
import { FAST_NS, mechanismsOf, SASL2_NS } from './sasl2.ts'
import * as uses from './uses.ts'
import { INFO_NS, ITEMS_NS, MUC_NS, need, type Visit } from './visit.ts'

const PUBSUB = uses.PUBSUB_NS
const UPLOAD_PURPOSE = 'urn:xmpp:http:upload:purpose:0'

type Shown = Pick<Check, 'where' | 'shown'>

const feature = (when: 'before' | 'after', name: string, xmlns: string): Shown => ({ where: `stream feature ${xmlns}`, shown: (visit) => visit.feature(when, name, xmlns) })
const host = (...features: readonly string[]): Shown => ({ where: `domain: ${features.join(', ')}`, shown: (visit) => all(features, (each) => visit.hostFeature(each)) })
const account = (...features: readonly string[]): Shown => ({ where: `account: ${features.join(', ')}`, shown: (visit) => all(features, (each) => visit.accountFeature(each)) })
const room = (...features: readonly string[]): Shown => ({ where: `room: ${features.join(', ')}`, shown: (visit) => all(features, (each) => visit.roomFeature(each)) })

async function all(features: readonly string[], has: (feature: string) => Promise<void>): Promise<void> {
  for (const each of features) await has(each)
}

async function pepIdentity(visit: Visit): Promise<void> {
  need((await visit.account()).identities.some(({ category, type }) => category === 'pubsub' && type === 'pep'), 'no identity pubsub/pep in disco#info of the account')
}

async function uploadService(visit: Visit): Promise<void> {
  const { forms } = await visit.serviceWith(uses.UPLOAD_NS)
  need(Number(forms.get(uses.UPLOAD_NS)?.get('max-file-size')?.[0]) > 0, 'the upload service names no max-file-size')
}

async function inline(visit: Visit): Promise<ReturnType<Visit['before']>> {
  return need((await visit.feature('before', 'authentication', SASL2_NS)).getChild('inline'), 'no <inline/> in <authentication/>')
}

const carbons: Pick<Check, 'works'> & Shown = { ...host('urn:xmpp:carbons:2'), works: uses.copiesToOthers }
const archive: Pick<Check, 'works'> & Shown = { ...account('urn:xmpp:mam:2'), works: uses.readsHistory }
const blocking: Pick<Check, 'works'> & Shown = { ...host('urn:xmpp:blocking'), works: (visit) => uses.blocks(visit) }
const management: Pick<Check, 'works'> & Shown = { ...feature('after', 'sm', 'urn:xmpp:sm:3'), works: uses.managesStream }

export const CONVERSATIONS: readonly Check[] = [
  { id: 'A1', title: 'Roster versioning (0237)', ...feature('after', 'ver', 'urn:xmpp:features:rosterver'), works: uses.versionsRoster },
  { id: 'A2', title: 'Carbons (0280)', ...carbons },
  { id: 'A3', title: 'Archive (0313)', ...archive },
  { id: 'A4', title: 'Client state (0352)', ...feature('after', 'csi', 'urn:xmpp:csi:0'), works: uses.toldOfState },
  { id: 'A5', title: 'Blocking (0191)', ...blocking },
  { id: 'A6', title: 'Stream management (0198)', ...management },
  { id: 'A7', title: 'External services (0215)', ...host('urn:xmpp:extdisco:2'), works: uses.findsRelays },
  {
    id: 'A8', title: 'Bind 2 (0386)', where: 'SASL2 inline: urn:xmpp:bind:0 with a list of its own',
    shown: async (visit) => need(need((await inline(visit)).getChild('bind', 'urn:xmpp:bind:0'), 'no <bind/> inline').getChild('inline')?.getChildElements()[0], 'the inline list of <bind/> is empty'),
    works: uses.bindInline,
  },
  { id: 'A9', title: 'SASL2 (0388)', ...feature('before', 'authentication', SASL2_NS), works: uses.loginBySasl2 },
  {
    id: 'A10', title: 'Login mechanism', where: 'mechanisms: SCRAM',
    shown: async (visit) => need((await visit.before()).getChildElements().some((each) => mechanismsOf(each).some((name) => name.startsWith('SCRAM-'))), 'no SCRAM-…'),
    works: uses.loginByBest,
  },
  {
    id: 'A11', title: 'PEP for avatars and OMEMO (0163)', where: `account: identity pubsub/pep, ${PUBSUB}#persistent-items, ${PUBSUB}#publish-options`,
    shown: async (visit) => {
      await pepIdentity(visit)
      await all(['#persistent-items', '#publish-options'], (each) => visit.accountFeature(PUBSUB + each))
    },
    works: uses.openToAll,
  },
  { id: 'A12', title: 'Upload (0363)', where: `item of the domain: ${uses.UPLOAD_NS}`, shown: (visit) => visit.serviceWith(uses.UPLOAD_NS), works: uses.uploads },
  { id: 'A13', title: 'Push (0357)', ...account('urn:xmpp:push:0'), works: uses.pushes },
  { id: 'A14', title: 'Room archive (0313)', ...room('urn:xmpp:mam:2'), works: uses.readsRoomHistory },
  { id: 'A15', title: 'Occupant ids (0421)', ...room('urn:xmpp:occupant-id:0'), works: uses.tellsOccupants },
  { id: 'A16', title: 'Moderation (0425)', ...room('urn:xmpp:message-moderate:1'), works: uses.moderates },
]

export const GAJIM: readonly Check[] = [
  { id: 'D1', title: 'Rooms (0045)', where: `item of the domain: ${MUC_NS}`, shown: (visit) => visit.rooms(), works: uses.talksInRoom },
  {
    id: 'D2', title: 'vCard (0054)', where: 'account or domain: vcard-temp',
    shown: async (visit) => need((await visit.account()).features.has('vcard-temp') || (await visit.host()).features.has('vcard-temp'), 'no feature vcard-temp'),
    works: uses.setsVcard,
  },
  { id: 'D3', title: 'Registration, change of password (0077)', ...host('jabber:iq:register'), works: uses.changesPassword },
  { id: 'D4', title: 'PEP (0163)', where: 'account: identity pubsub/pep', shown: pepIdentity, works: uses.notifies },
  { id: 'D5', title: 'Publish options (0163)', ...account(`${PUBSUB}#publish-options`), works: uses.heedsPublishOptions },
  { id: 'D6', title: 'Blocking (0191)', ...blocking },
  { id: 'D7', title: 'Stream management (0198)', ...management },
  { id: 'D9', title: 'Carbons (0280)', ...carbons },
  { id: 'D10', title: 'Archive (0313)', ...archive },
  { id: 'D11', title: 'Upload and its size (0363)', where: `item of the domain: ${uses.UPLOAD_NS}, max-file-size`, shown: uploadService, works: uses.uploads },
  { id: 'D12', title: 'Avatar conversion (0398)', ...account('urn:xmpp:pep-vcard-conversion:0'), works: uses.convertsAvatar },
  { id: 'D13', title: 'Bookmark conversion (0411)', ...account('urn:xmpp:bookmarks-conversion:0'), works: uses.convertsBookmarks },
  { id: 'D14', title: 'Bookmarks in private XML too (0402)', ...account('urn:xmpp:bookmarks:1#compat'), works: uses.bookmarksInPrivateXml },
  { id: 'D15', title: 'Bookmarks in PEP too (0402)', ...account('urn:xmpp:bookmarks:1#compat-pep'), works: uses.bookmarksInPep },
  {
    id: 'D16', title: 'Contact addresses (0157)', where: 'domain: form http://jabber.org/network/serverinfo',
    shown: async (visit) => {
      const form = need((await visit.host()).forms.get('http://jabber.org/network/serverinfo'), 'no form http://jabber.org/network/serverinfo')
      need([...form].some(([name, values]) => name.endsWith('-addresses') && values.length > 0), 'the form names no address')
    },
    works: uses.namesContacts,
  },
]

/** Shown, and not counted: hardly any server has it. */
export const UNCOUNTED: readonly Check[] = [
  { id: 'D8', title: 'Security labels (0258)', ...host('urn:xmpp:sec-label:0'), works: uses.listsLabels },
]

/** Features of PEP that both rely on. */
const PEP_FEATURES = ['publish', 'auto-create', 'auto-subscribe', 'filtered-notifications', 'retrieve-items', 'persistent-items', 'publish-options', 'multi-items', 'config-node', 'item-ids', 'last-published', 'access-open', 'access-presence', 'access-whitelist', 'access-roster', 'access-authorize']
const INLINE_BIND = ['urn:xmpp:carbons:2', 'urn:xmpp:sm:3', 'urn:xmpp:csi:0']

export const BOTH: readonly Check[] = [
  { id: 'E1', title: 'Classic bind (RFC 6120)', ...feature('after', 'bind', 'urn:ietf:params:xml:ns:xmpp-bind'), works: async (visit) => (await visit.enter(visit.juliet, {}, false)).disconnect() },
  { id: 'E2', title: 'Approval in advance (RFC 6121)', ...feature('after', 'sub', 'urn:xmpp:features:pre-approval'), works: uses.approvesInAdvance },
  {
    id: 'E3', title: 'Capabilities hash (0115)', ...feature('after', 'c', 'http://jabber.org/protocol/caps'),
    works: async (visit) => {
      const { attrs } = await visit.feature('after', 'c', 'http://jabber.org/protocol/caps')
      const { query } = await visit.info(visit.domain, `${attrs['node']}#${attrs['ver']}`)
      need(capsHash(query, attrs['hash'] ?? '') === attrs['ver'], 'the hash is not that of disco#info')
    },
  },
  {
    id: 'E4', title: 'Capabilities hashes (0390)', ...feature('after', 'c', 'urn:xmpp:caps'),
    works: async (visit) => {
      const hash = need((await visit.feature('after', 'c', 'urn:xmpp:caps')).getChild('hash', 'urn:xmpp:hashes:2'), 'no <hash/>')
      const algo = hash.attrs['algo'] ?? ''
      const { query } = await visit.info(visit.domain, `urn:xmpp:caps#${algo}.${hash.getText()}`)
      need(caps2Hash(query, algo) === hash.getText(), 'the hash is not that of disco#info')
    },
  },
  { id: 'E5', title: 'Registration before login (0077)', ...feature('before', 'register', 'http://jabber.org/features/iq-register'), works: uses.registersInBand },
  { id: 'E6', title: 'Registration by token (0445)', ...feature('before', 'register', 'urn:xmpp:ibr-token:0'), works: uses.registersByToken },
  {
    id: 'E7', title: 'Stream limits (0478)', ...feature('before', 'limits', 'urn:xmpp:stream-limits:0'),
    works: async (visit) => need(Number((await visit.feature('before', 'limits', 'urn:xmpp:stream-limits:0')).getChildText('max-bytes')) >= 10_000, 'max-bytes is missing, or below the 10000 of RFC 6120 §13.12'),
  },
  {
    id: 'E8', title: 'Channel binding types (0440)', ...feature('before', 'sasl-channel-binding', 'urn:xmpp:sasl-cb:0'),
    works: async (visit) => {
      const types = (await visit.feature('before', 'sasl-channel-binding', 'urn:xmpp:sasl-cb:0')).getChildren('channel-binding').map((each) => each.attrs['type'])
      need(types.includes('tls-exporter'), `tls-exporter is not among ${types.join(' ')}`)
      need((await uses.loginByBest(visit)).endsWith('-PLUS'), 'no mechanism with channel binding')
    },
  },
  {
    id: 'E9', title: 'All in one round (0388, 0386, 0198)', where: 'SASL2 inline: urn:xmpp:sm:3, and in urn:xmpp:bind:0 carbons, stream management and client state',
    shown: async (visit) => {
      const list = await inline(visit)
      need(list.getChild('sm', 'urn:xmpp:sm:3'), 'no <sm/> inline')
      const bind = need(list.getChild('bind', 'urn:xmpp:bind:0'), 'no <bind/> inline').getChild('inline')?.getChildren('feature').map((each) => each.attrs['var']) ?? []
      for (const each of INLINE_BIND) need(bind.includes(each), `no ${each} in the inline list of <bind/>`)
    },
    works: uses.bindInline,
  },
  { id: 'E10', title: 'Login by token (0484)', where: `SASL2 inline: ${FAST_NS}`, shown: async (visit) => need(mechanismsOf((await inline(visit)).getChild('fast', FAST_NS) ?? undefined)[0], 'no mechanism of FAST'), works: uses.loginByToken },
  {
    id: 'E11', title: 'Service discovery (0030)', where: `domain: identity server/im, ${INFO_NS}, ${ITEMS_NS}`,
    shown: async (visit) => {
      need((await visit.host()).identities.some(({ category, type }) => category === 'server' && type === 'im'), 'no identity server/im')
      await all([INFO_NS, ITEMS_NS], (each) => visit.hostFeature(each))
    },
    works: async (visit) => visit.services(),
  },
  { id: 'E12', title: 'Commands (0050)', ...host('http://jabber.org/protocol/commands'), works: uses.runsCommands },
  { id: 'E13', title: 'Version (0092)', ...host('jabber:iq:version'), works: uses.answersVersion },
  { id: 'E14', title: 'Time (0202)', ...host('urn:xmpp:time'), works: uses.answersTime },
  { id: 'E15', title: 'Ping (0199)', ...host('urn:xmpp:ping'), works: uses.answersPing },
  { id: 'E16', title: 'Offline messages (0160)', ...host('msgoffline'), works: uses.keepsOffline },
  { id: 'E17', title: 'Offline messages by request (0013)', ...host('http://jabber.org/protocol/offline'), works: uses.countsOffline },
  { id: 'E18', title: 'Reports (0377)', ...host('urn:xmpp:reporting:1'), works: uses.blocksWithReport },
  {
    id: 'E19', title: 'Status page (0455)', where: 'domain: form urn:xmpp:sos:0',
    shown: async (visit) => {
      const pages = (await visit.host()).forms.get('urn:xmpp:sos:0')?.get('external-status-addresses') ?? []
      need(pages.some((each) => /^https?:|^xmpp:/.test(each)), 'no external-status-addresses in a form urn:xmpp:sos:0')
    },
  },
  { id: 'E20', title: 'Invitations (0401)', where: 'domain, commands: urn:xmpp:invite#invite', shown: uses.offersInvitations, works: uses.invites },
  {
    id: 'E21', title: 'Identity of an account (0030)', where: 'account: identity account/registered',
    shown: async (visit) => need((await visit.account()).identities.some(({ category, type }) => category === 'account' && type === 'registered'), 'no identity account/registered'),
  },
  { id: 'E22', title: 'Archive ids, extended queries (0359, 0313)', ...account('urn:xmpp:mam:2#extended', 'urn:xmpp:sid:0'), works: uses.namesMessages },
  { id: 'E23', title: 'PubSub features of an account (0060)', ...account(...PEP_FEATURES.map((each) => `${PUBSUB}#${each}`)), works: uses.givesSeveralItems },
  { id: 'E24', title: 'Nodes without a number of items (0060)', ...account(`${PUBSUB}#config-node-max`), works: uses.keepsMax },
  { id: 'E25', title: 'What was displayed (0490)', ...account('urn:xmpp:mds:server-assist:0'), works: uses.assistsDisplayed },
  {
    id: 'E26', title: 'Purposes of uploads (0363)', where: `upload service: ${UPLOAD_PURPOSE}`,
    shown: async (visit) => need([...(await visit.serviceWith(uses.UPLOAD_NS)).features].some((each) => each.startsWith(UPLOAD_PURPOSE)), `no feature ${UPLOAD_PURPOSE}`),
    works: uses.uploadsForProfile,
  },
  { id: 'E27', title: 'SOCKS5 proxy (0065)', where: 'item of the domain: identity proxy/bytestreams', shown: (visit) => visit.service('the identity proxy/bytestreams', ({ identities }) => identities.some(({ category, type }) => category === 'proxy' && type === 'bytestreams')), works: uses.proxies },
  { id: 'E28', title: 'PubSub service (0060)', where: 'item of the domain: identity pubsub/service', shown: (visit) => visit.service('the identity pubsub/service', ({ identities }) => identities.some(({ category, type }) => category === 'pubsub' && type === 'service')), works: uses.publishesAtService },
  { id: 'E29', title: 'Archive ids of rooms (0359, 0313)', ...room('urn:xmpp:mam:2#extended', 'urn:xmpp:sid:0'), works: uses.namesRoomMessages },
  { id: 'E30', title: 'Retraction in rooms (0424)', ...room('urn:xmpp:message-retract:1'), works: uses.retracts },
  { id: 'E31', title: 'Hats and avatars of rooms (0317, 0054)', ...room('urn:xmpp:hats:0', 'vcard-temp'), works: async (visit) => { await uses.setsRoomAvatar(visit); await uses.givesHats(visit) } },
  {
    id: 'E32', title: 'Room info, self-ping (0045, 0410)', where: `room: form ${MUC_NS}#roominfo, ${MUC_NS}#self-ping-optimization`,
    shown: async (visit) => {
      need((await visit.room()).info.forms.get(`${MUC_NS}#roominfo`), `no form ${MUC_NS}#roominfo`)
      await visit.roomFeature(`${MUC_NS}#self-ping-optimization`)
    },
    works: async (visit) => { await uses.refreshesRoomInfo(visit); await uses.pingsItself(visit) },
  },
]

/** What XEP-0479 asks for beyond the rows of clients. */
export const MORE: readonly Check[] = [
  { id: 'S1', title: 'TLS (RFC 7590)', ...feature('before', 'mechanisms', 'urn:ietf:params:xml:ns:xmpp-sasl'), works: uses.speaksModernTls },
  { id: 'S2', title: 'Direct TLS (0368)', where: 'a port of its own', shown: uses.entersByDirectTls },
  { id: 'S3', title: 'Components (0114)', where: 'a port of its own', shown: uses.servesComponents },
  { id: 'S4', title: 'WebSocket (RFC 7395)', where: 'host-meta', shown: uses.entersByWebSocket },
  { id: 'S5', title: 'BOSH (0124, 0206)', where: 'host-meta', shown: uses.entersByBosh },
  { id: 'S6', title: 'Instant messaging (RFC 6121)', where: 'a chat', shown: uses.talks },
  { id: 'S7', title: 'Private XML (0049)', where: 'a request', shown: uses.storesPrivately },
  { id: 'S8', title: 'Self-ping (0410)', where: 'an occupant', shown: uses.pingsItself },
  { id: 'S9', title: 'Direct invitations (0249)', where: 'a message', shown: uses.invitesToRoom },
]
