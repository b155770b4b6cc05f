// XEP-0049: Private XML Storage, version 1.2 (2004-03-01)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { xml } from '../../lib/xml/element.ts'
import { defineExtension, type IqRequest } from './extension.ts'
import { standalone } from './standalone-element.ts'

const NS = 'jabber:iq:private'
/** Key [owner, namespace, name]; value: the element serialised. */
export const PRIVATE_TABLE = 'private'
const ELEMENT_BYTES_MAX = 262_144
const ELEMENTS_MAX = 200
/** A namespace is part of a key of the store. */
const NAMESPACE_BYTES_MAX = 512

export const privateStorage = defineExtension({
  name: 'private-storage',
  ejabberd: 'mod_private',
  specs: [{ xep: 49, version: '1.2', status: 'complete' }],
  features: [NS],
  needs: ['iq', 'disco', 'hooks', 'storage', 'tell', 'accountData'],
  start({ iq, disco, hooks, storage, tell, accountData }) {
    const { records } = storage
    disco.feature('account', NS)

    iq.get(`${NS} query`, 'account', async (request) => {
      requireOwner(request)
      const wanted = request.payload.getChildElements()
      const [element, ...more] = wanted
      if (element === undefined) throw new StanzaError('not-acceptable') // §2.3: at least one element
      if (more.length > 0) throw new StanzaError('bad-request') // §2.3: one at a time
      const namespace = namespaceOf(element.getNS())
      const stored = await records.get(PRIVATE_TABLE, [request.from.bare, namespace, element.getName()])
      return xml('query', { xmlns: NS }, typeof stored === 'string' ? buildElement(Buffer.from(stored)) : xml(element.getName(), { xmlns: namespace }))
    })

    const forbid = (): never => { throw new StanzaError('forbidden') } // §3: a host has none
    iq.get(`${NS} query`, 'host', forbid)
    iq.set(`${NS} query`, 'host', forbid)

    iq.set(`${NS} query`, 'account', async (request) => {
      requireOwner(request)
      const owner = request.from.bare
      const elements = request.payload.getChildElements()
      if (elements.length === 0) throw new StanzaError('not-acceptable')
      const kept = await records.range(PRIVATE_TABLE, [owner], { limit: ELEMENTS_MAX + 1 })
      const names = new Set(kept.map(({ key }) => `${key[1]} ${key[2]}`))
      const writes = elements.map((element) => {
        const namespace = namespaceOf(element.getNS())
        const text = standalone(element).toString()
        if (Buffer.byteLength(text) > ELEMENT_BYTES_MAX) throw new StanzaError('policy-violation', `more than ${ELEMENT_BYTES_MAX} bytes`)
        names.add(`${namespace} ${element.getName()}`)
        return { key: [owner, namespace, element.getName()], text, element }
      })
      if (names.size > ELEMENTS_MAX) throw new StanzaError('resource-constraint', `more than ${ELEMENTS_MAX} elements`)
      // The last of those with the same name stays.
      for (const { key, text, element } of new Map(writes.map((write) => [JSON.stringify(write.key), write])).values()) {
        records.put(PRIVATE_TABLE, key, text)
        tell.runPrivateWritten(owner, element)
      }
      await storage.committed() // the result says that it is safe
    })

    accountData.exports(async function* (owner) {
      const kept = (await records.range(PRIVATE_TABLE, [owner])).map(({ value }) => value as string)
      if (kept.length > 0) yield `<query xmlns='${NS}'>${kept.join('')}</query>`
    })
    accountData.imports(`${NS} query`, (owner, query) => {
      for (const element of query.getChildElements().slice(0, ELEMENTS_MAX)) {
        const text = standalone(element).toString()
        if (Buffer.byteLength(text) <= ELEMENT_BYTES_MAX) records.put(PRIVATE_TABLE, [owner, namespaceOf(element.getNS()), element.getName()], text)
      }
    })

    hooks.accountRemoved(async (owner) => { await records.deleteRange(PRIVATE_TABLE, [owner]) })
  },
})

/** §4: nobody reads or writes the private storage of another. */
function requireOwner({ from, to }: IqRequest): void {
  if (from.bare !== to.bare) throw new StanzaError('forbidden')
}

function namespaceOf(namespace: string | undefined): string {
  // §2.3: the element must have a namespace of its own, and not one that the protocol itself is made of.
  if (namespace === undefined || namespace === NS || namespace === 'jabber:client') throw new StanzaError('not-acceptable')
  if (Buffer.byteLength(namespace) > NAMESPACE_BYTES_MAX) throw new StanzaError('not-acceptable')
  return namespace
}
