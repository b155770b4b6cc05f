// XEP-0054: vcard-temp, version 1.3.0 (2024-06-27)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { anything } from '../config/options.ts'
import { LdapPool, LdapUnavailable } from '../ldap/pool.ts'
import { ldapSettings, moduleLdapTable, withModule, type LdapNames } from '../ldap/settings.ts'
import { LdapVcards, vcardTable, type VcardNames } from '../ldap/vcards.ts'
import { entryOf, textOf } from '../config/node.ts'
import { defineExtension, type Parts } from './extension.ts'
import { copyOf, standalone } from './standalone-element.ts'
import { indexCard, unindexCard } from './vcard-index.ts'

const NS = 'vcard-temp'
/** Key [owner]; value: the vCard serialised. */
export const VCARD_TABLE = 'vcard'
const VCARD_BYTES_MAX = 262_144

export const vcard = defineExtension({
  name: 'vcard',
  ejabberd: 'mod_vcard',
  specs: [{ xep: 54, version: '1.3.0', status: 'complete' }],
  features: [NS],
  needs: ['host', 'iq', 'disco', 'hooks', 'storage', 'tell', 'accountData', 'config', 'limits', 'log'],
  options: {
    vcard: { type: anything(), default: undefined as unknown, help: 'The vCard of the host, as a map of its fields.' },
    ...vcardTable,
    ...moduleLdapTable,
  },
  start({ host, iq, disco, hooks, storage, tell, accountData, config, limits, log }, options) {
    const { records } = storage
    disco.feature('account', NS)

    const ofHost = hostVcard(options.vcard)
    iq.get(`${NS} vCard`, 'host', () => {
      if (ofHost === undefined) throw new StanzaError('item-not-found')
      return copyOf(ofHost)
    })
    iq.set(`${NS} vCard`, 'host', () => { throw new StanzaError('forbidden') }) // §3.2: only one's own

    const directory = isInDirectory(config) ? directoryOf({ host, config, limits, log }, options) : undefined
    if (directory !== undefined) {
      iq.get(`${NS} vCard`, 'account', async ({ from, to }) => {
        const shown = await answered(directory.vcards.of(to.local)) ?? xml('vCard', { xmlns: NS })
        tell.runVcardRead(to.bare, from, shown)
        if (shown.children.length > 0 || from.bare === to.bare) return shown
        throw new StanzaError('service-unavailable')
      })
      iq.set(`${NS} vCard`, 'account', ({ from, to }) => { throw new StanzaError(from.bare === to.bare ? 'not-allowed' : 'forbidden', 'vCards are kept in an LDAP directory') })
      return () => directory.pool.close()
    }

    iq.get(`${NS} vCard`, 'account', async ({ from, to }) => {
      const stored = await records.get(VCARD_TABLE, [to.bare])
      const kept = typeof stored === 'string' ? buildElement(Buffer.from(stored)) : undefined
      const shown = kept ?? xml('vCard', { xmlns: NS })
      tell.runVcardRead(to.bare, from, shown)
      if (kept !== undefined || shown.children.length > 0) return shown
      // §3.1: one's own missing vCard is an empty one; that of another looks the same as an account that does not exist.
      if (from.bare === to.bare) return shown
      throw new StanzaError('service-unavailable')
    })

    iq.set(`${NS} vCard`, 'account', async ({ payload, from, to }) => {
      if (from.bare !== to.bare) throw new StanzaError('forbidden') // §3.2
      const card = standalone(payload)
      await tell.runVcardWriting(from.bare, card)
      const text = card.toString()
      if (Buffer.byteLength(text) > VCARD_BYTES_MAX) throw new StanzaError('policy-violation', `a vCard has at most ${VCARD_BYTES_MAX} bytes`)
      const before = await records.get(VCARD_TABLE, [from.bare])
      records.put(VCARD_TABLE, [from.bare], text)
      indexCard(records, from.bare, card)
      tell.runVcardWritten(from.bare, card, typeof before === 'string' ? buildElement(Buffer.from(before)) : undefined)
      await storage.committed()
    })

    hooks.accountRemoved((owner) => {
      records.delete(VCARD_TABLE, [owner])
      unindexCard(records, owner)
    })
    accountData.exports(async function* (owner) {
      const stored = await records.get(VCARD_TABLE, [owner])
      if (typeof stored === 'string') yield stored
    })
    accountData.imports(`${NS} vCard`, (owner, element) => {
      const text = element.toString()
      if (Buffer.byteLength(text) > VCARD_BYTES_MAX) throw new Error(`the vCard has more than ${VCARD_BYTES_MAX} bytes`)
      records.put(VCARD_TABLE, [owner], text)
      indexCard(records, owner, element)
    })
    return undefined
  },
})

/** Whether the vCards of a host are those of a directory. */
export function isInDirectory(config: Parts['config']): boolean {
  const module = config.modules?.get('mod_vcard')
  const type = module && entryOf(module, 'db_type')?.value
  return type !== undefined && textOf(type) === 'ldap'
}

/** The directory of the vCards, with connections of its own, to be closed. */
export function directoryOf({ host, config, limits, log }: Pick<Parts, 'host' | 'config' | 'limits' | 'log'>, options: VcardNames & Partial<{ [K in keyof LdapNames]: LdapNames[K] | undefined }>): { vcards: LdapVcards; pool: LdapPool } {
  const settings = ldapSettings(withModule(config.ldapNames, options), config.folder)
  const pool = new LdapPool(settings, { name: `${host} vCards`, bound: true, connections: limits.ldapConnections, waiting: limits.ldapWaiting, answerMs: limits.ldapAnswerMs, log })
  return { vcards: new LdapVcards(host, pool, options), pool }
}

/** Throws a StanzaError when no directory answers. */
export async function answered<Answer>(asked: Promise<Answer>): Promise<Answer> {
  try {
    return await asked
  } catch (error) {
    if (!(error instanceof LdapUnavailable)) throw error
    throw new StanzaError('resource-constraint', 'The LDAP directory does not answer')
  }
}

/** ejabberd's option `vcard`: field names in small letters, values, maps and lists of them. */
export function hostVcard(option: unknown): Element | undefined {
  if (option === null || typeof option !== 'object') return undefined
  return xml('vCard', { xmlns: NS }, fieldsOf(option))
}

function fieldsOf(option: object): Element[] {
  const entries: [unknown, unknown][] = option instanceof Map ? [...option.entries()] : Object.entries(option)
  return entries.flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((each: unknown) => {
    const name = String(key).toUpperCase()
    if (each !== null && typeof each === 'object') return xml(name, null, fieldsOf(each))
    // A flag such as `work: true` is an empty element.
    return xml(name, null, typeof each === 'string' || typeof each === 'number' || each === false ? String(each) : null)
  }))
}
