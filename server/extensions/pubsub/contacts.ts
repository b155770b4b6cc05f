/** Presence that contacts on other servers send to the accounts of a host: to whom personal events go there (XEP-0163 §4.3). */
import { Recent } from '../../../lib/recent.ts'
import type { Stanza } from '../../../lib/stanza/stanza.ts'
import { capabilitiesOf } from '../../sessions/capabilities.ts'

/** Contacts whose presence is remembered, and clients of each. */
const CONTACTS_MAX = 50_000
const CLIENTS_MAX = 20

export interface RemoteContacts {
  /** What the available clients of a contact last said of themselves, by full JID. */
  clients(owner: string, contact: string): ReadonlyMap<string, Stanza>
  /** Takes note of a presence to an account; true when this client was not available before. */
  heard(owner: string, contact: string, client: string, presence: Stanza): boolean
}

const NOBODY: ReadonlyMap<string, Stanza> = new Map()

export function createRemoteContacts(): RemoteContacts {
  const contacts = new Recent<Map<string, Stanza>>(CONTACTS_MAX)
  const keyOf = (owner: string, contact: string): string => `${owner} ${contact}`
  return {
    clients: (owner, contact) => contacts.get(keyOf(owner, contact)) ?? NOBODY,
    heard(owner, contact, client, presence) {
      const key = keyOf(owner, contact)
      const known = contacts.get(key)
      if (presence.type !== undefined) {
        known?.delete(client)
        if (known?.size === 0) contacts.delete(key)
        return false
      }
      const first = known?.has(client) !== true
      const clients = known ?? new Map<string, Stanza>()
      if (first && clients.size >= CLIENTS_MAX) return false
      clients.set(client, capabilitiesOf(presence))
      contacts.set(key, clients)
      return first
    },
  }
}
