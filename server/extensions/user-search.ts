// XEP-0055: Jabber Search, version 1.3 (2009-09-15), over the vCards of the host
import { buildForm, FORMS_NS, parseForm } from '../../lib/forms.ts'
import { pageOf, parseResultSet, RSM_NS } from '../../lib/result-set.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { bool, host as domainName, int, list, text } from '../config/options.ts'
import { moduleLdapTable } from '../ldap/settings.ts'
import { type LdapVcards, vcardTable } from '../ldap/vcards.ts'
import { answered, directoryOf, isInDirectory } from './vcard.ts'
import { defineExtension, type IqRegistry } from './extension.ts'
import { type IndexedCard, indexedCards, type IndexedField } from './vcard-index.ts'

const NS = 'jabber:iq:search'
/** Of one answer, also where `matches` is infinite: it has to fit a stanza. */
const MATCHES_MAX = 1000
/** Kept of one search while its page is made. */
const FOUND_MAX = 10_000
/** Searches that wait for their turn. */
const WAITING_MAX = 20
const INSTRUCTIONS = 'Fill in one or more fields. A star stands for any text: Jul*'

type Field = 'user' | IndexedField
const LABELS: Readonly<Record<Field, string>> = {
  user: 'User name', fn: 'Full name', first: 'Given name', middle: 'Middle name', last: 'Family name', nick: 'Nickname', bday: 'Birthday',
  ctry: 'Country', locality: 'City', email: 'Email address', orgname: 'Organisation', orgunit: 'Department',
}
const FIELDS = Object.keys(LABELS) as readonly Field[]
/** The fields of the specification's own form (§2.1); there are no others outside data forms (§3). */
const PLAIN = ['first', 'last', 'nick', 'email'] as const

/** The texts between the stars. */
type Pattern = readonly string[]

interface Found {
  readonly jid: string
  readonly card: IndexedCard
}

export const userSearch = defineExtension({
  name: 'user-search',
  ejabberd: 'mod_vcard',
  specs: [{ xep: 55, version: '1.3', status: 'complete' }],
  needs: ['host', 'router', 'storage', 'config', 'limits', 'log'],
  options: {
    search: { type: bool(), default: false, help: 'Whether there is a directory of those who have a vCard.' },
    matches: { type: int({ min: 1, infinity: true }), default: 30, help: 'How many users a search answers at a time.' },
    allow_return_all: { type: bool(), default: false, help: 'Whether a search without any field answers everybody.' },
    host: { type: domainName(), default: 'vjud.@HOST@', help: 'The domain of the directory.' },
    hosts: { type: list(domainName()), default: [] as readonly string[], help: 'The domains of the directory; in place of host.' },
    name: { type: text(), default: 'vCard User Search', help: 'The name of the directory.' },
    ...vcardTable,
    ...moduleLdapTable,
  },
  start({ host, router, storage, config, limits, log }, options) {
    if (!options.search) return undefined
    const directory = isInDirectory(config) ? directoryOf({ host, config, limits, log }, options) : undefined
    if (directory !== undefined) {
      for (const domain of options.hosts.length > 0 ? options.hosts : [options.host]) {
        const { iq, disco } = router.iqService(domain.replaceAll('@HOST@', host), options.name)
        disco.identity('host', { category: 'directory', type: 'user', name: options.name })
        disco.feature('host', NS, FORMS_NS, RSM_NS)
        serveDirectory(iq, directory.vcards, host, options)
      }
      return () => directory.pool.close()
    }
    let waiting = 0
    let turn: Promise<unknown> = Promise.resolve()

    /** One at a time: each looks through all vCards. */
    async function search(wanted: ReadonlyMap<Field, Pattern>): Promise<readonly Found[]> {
      if (waiting >= WAITING_MAX) throw new StanzaError('resource-constraint', 'Too many searches at the moment')
      waiting++
      const mine = turn.then(async () => {
        const found: Found[] = []
        for await (const { local, card } of indexedCards(storage.records, host)) {
          const all: Partial<Record<Field, string>> = { ...card, user: local }
          if ([...wanted].every(([field, pattern]) => matches(pattern, all[field] ?? ''))) found.push({ jid: `${local}@${host}`, card })
          if (found.length >= FOUND_MAX) break
        }
        return found
      })
      turn = mine.catch(() => undefined)
      try {
        return await mine
      } finally {
        waiting--
      }
    }

    for (const domain of options.hosts.length > 0 ? options.hosts : [options.host]) {
      const { iq, disco } = router.iqService(domain.replaceAll('@HOST@', host), options.name)
      disco.identity('host', { category: 'directory', type: 'user', name: options.name })
      disco.feature('host', NS, FORMS_NS, RSM_NS)

      iq.get(`${NS} query`, 'host', () => xml('query', { xmlns: NS }, xml('instructions', null, INSTRUCTIONS), PLAIN.map((field) => xml(field)),
        buildForm('form', { formType: NS, title: options.name, instructions: INSTRUCTIONS, fields: FIELDS.map((field) => ({ var: field, type: 'text-single', label: LABELS[field] })) })))

      iq.set(`${NS} query`, 'host', async ({ payload }) => {
        const x = payload.getChild('x', FORMS_NS)
        const wanted = x === undefined ? plainFields(payload) : formFields(x)
        const page = parseResultSet(payload)
        // §2.1: nobody found is an empty answer.
        const found = wanted.size === 0 && !options.allow_return_all ? [] : await search(wanted)
        const { items, set } = pageOf(found, page, ({ jid }) => jid, Math.min(options.matches, MATCHES_MAX))
        const more = payload.getChild('set', RSM_NS) !== undefined && set
        if (x === undefined) return xml('query', { xmlns: NS }, items.map(({ jid, card }) => xml('item', { jid }, PLAIN.map((field) => xml(field, null, card[field] ?? '')))), more)
        return xml('query', { xmlns: NS }, resultForm(items), more)
      })
    }
    return undefined
  },
})

/** The fields are those that the directory's operator has chosen. */
function serveDirectory(iq: IqRegistry, vcards: LdapVcards, host: string, { name, matches, allow_return_all }: { readonly name: string; readonly matches: number; readonly allow_return_all: boolean }): void {
  // Several labels may stand for one attribute; a form has it once.
  const fields = new Map([...vcards.searchFields].map(([label, attribute]) => [attribute, label]).toReversed() as [string, string][])
  const reported = [...vcards.reported]

  iq.get(`${NS} query`, 'host', () => xml('query', { xmlns: NS }, xml('instructions', null, INSTRUCTIONS),
    buildForm('form', { formType: NS, title: name, instructions: INSTRUCTIONS, fields: [...fields].toReversed().map(([attribute, label]) => ({ var: attribute, type: 'text-single', label })) })))

  iq.set(`${NS} query`, 'host', async ({ payload }) => {
    const x = payload.getChild('x', FORMS_NS)
    if (x === undefined) throw new StanzaError('bad-request', 'Send the form')
    const form = parseForm(x, { kinds: ['submit'], formType: NS, formTypeOptional: true })
    const wanted = new Map<string, string>()
    for (const [attribute, label] of fields) {
      const words = (form.value(attribute) ?? '').trim()
      if (words.length > 200) throw new StanzaError('not-acceptable', `${label}: a shorter text, please`)
      if (words !== '') wanted.set(attribute, words)
    }
    const page = parseResultSet(payload)
    const found = wanted.size === 0 && !allow_return_all ? [] : await answered(vcards.search(wanted, MATCHES_MAX))
    const { items, set } = pageOf(found, page, ({ local }) => local, Math.min(matches, MATCHES_MAX))
    return xml('query', { xmlns: NS }, buildForm('result', {
      formType: NS,
      reported: [{ var: 'jid', type: 'jid-single', label: 'Address' }, ...reported.map(([label, field]) => ({ var: field, type: 'text-single' as const, label }))],
      items: items.map(({ local, fields: known }) => [{ var: 'jid', value: `${local}@${host}` }, ...reported.map(([, field]) => ({ var: field, value: known.get(field.toUpperCase()) ?? '' }))]),
    }), payload.getChild('set', RSM_NS) !== undefined && set)
  })
}

function plainFields(payload: Element): Map<Field, Pattern> {
  const wanted = new Map<Field, Pattern>()
  for (const field of PLAIN) put(wanted, field, payload.getChildText(field) ?? '')
  return wanted
}

function formFields(x: Element): Map<Field, Pattern> {
  const form = parseForm(x, { kinds: ['submit'], formType: NS, formTypeOptional: true })
  const wanted = new Map<Field, Pattern>()
  for (const field of FIELDS) put(wanted, field, form.value(field) ?? '')
  return wanted
}

/** Without regard to case; stars stand for any text. */
function put(wanted: Map<Field, Pattern>, field: Field, written: string): void {
  const words = written.trim()
  if (words.length > 200) throw new StanzaError('not-acceptable', `${LABELS[field]}: a shorter text, please`)
  if (words !== '') wanted.set(field, words.toLowerCase().split('*'))
}

function matches(pattern: Pattern, value: string): boolean {
  const text = value.toLowerCase()
  const [first = '', ...rest] = pattern
  if (rest.length === 0) return text === first
  const last = rest.pop() as string
  if (!text.startsWith(first)) return false
  let at = first.length
  for (const part of rest) {
    const found = text.indexOf(part, at)
    if (found === -1) return false
    at = found + part.length
  }
  return text.length - last.length >= at && text.endsWith(last)
}

function resultForm(items: readonly Found[]): Element {
  return buildForm('result', {
    formType: NS,
    reported: [{ var: 'jid', type: 'jid-single', label: 'Address' }, ...FIELDS.filter((field) => field !== 'user').map((field) => ({ var: field, type: 'text-single' as const, label: LABELS[field] }))],
    items: items.map(({ jid, card }) => [{ var: 'jid', value: jid }, ...FIELDS.filter((field) => field !== 'user').map((field) => ({ var: field, value: card[field] ?? '' }))]),
  })
}
