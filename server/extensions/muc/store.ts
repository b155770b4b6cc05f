/** What is kept of rooms. The service comes first in every key, but for the index by account. */
import type { Key, MaybePromise, Records, Value } from '../../storage/shapes.ts'
import type { Affiliation, Role, RoomConfig } from './room-config.ts'

/** [service, room] */
const ROOMS = 'muc-rooms'
/** [service, room, address] */
const AFFILIATIONS = 'muc-affiliations'
/** [service, room, full JID] */
const OCCUPANTS = 'muc-occupants'
/** [service, room, nickname]: those who have left while others were there, and an id made then. */
const DEPARTED = 'muc-departed'
/** [bare JID, service, room]: where an account has an affiliation or wears a hat. */
const RELATIONS = 'muc-relations'
/** [service, room, id]: the last messages of a room without an archive. */
const HISTORY = 'muc-history'
/** [service, room] */
const VCARDS = 'muc-vcards'
/** [service, room]: rooms that are gone, while their archives are kept. */
const PAST = 'muc-past'
/** [service] */
const SECRETS = 'muc-secrets'

export interface StoredRoom {
  readonly [key: string]: Value | undefined
  readonly config: RoomConfig
  /** When it was made, ms. */
  readonly created: number
  /** An id made then (lib/stanza/ids.ts): what the archive has up to it belonged to another room of this name. Rooms of before have none. */
  readonly since?: string
  /** Its owner has not accepted the configuration yet (XEP-0045 §10.1.1). */
  readonly locked: boolean
  /** The message that set the subject, and when, ms. */
  readonly subject: Uint8Array | null
  readonly subjectAt: number
  /** SHA-1 of the pictures in the vCard (XEP-0486). */
  readonly avatars: readonly string[]
  /** XEP-0317: URI, title and hue of each hat; and the URIs of those that an account wears. */
  readonly hats?: readonly (readonly [string, string, string])[]
  readonly wearers?: readonly (readonly [string, readonly string[]])[]
}

export interface StoredAffiliation {
  readonly [key: string]: Value | undefined
  readonly affiliation: Affiliation
  readonly reason?: string
  /** The reserved nickname. */
  readonly nick?: string
}

export interface StoredOccupant {
  readonly [key: string]: Value | undefined
  readonly nick: string
  readonly role: Role
  /** As it is shown, without what depends on who sees it. */
  readonly presence: Uint8Array
  /** An id made when it entered. */
  readonly since?: string
}

export interface StoredMessage {
  readonly [key: string]: Value | undefined
  readonly bytes: Uint8Array
  /** Bare JID of its author. */
  readonly author: string
}

/** A room in a list. */
export interface ListedRoom {
  readonly config: Pick<RoomConfig, 'name' | 'description' | 'lang' | 'public' | 'membersOnly' | 'passwordProtected' | 'nonAnonymous'>
  readonly locked: boolean
}

export class RoomStore {
  readonly #records: Records
  readonly #service: string

  constructor(records: Records, service: string) {
    this.#records = records
    this.#service = service
  }

  #key(...parts: readonly string[]): Key {
    return [this.#service, ...parts]
  }

  /** The secret that this service's occupant ids are made with (XEP-0421 §5), if there is one. */
  get secret(): Uint8Array | undefined {
    return now(this.#records.get(SECRETS, this.#key())) as Uint8Array | undefined
  }

  set secret(secret: Uint8Array) {
    this.#records.put(SECRETS, this.#key(), secret)
  }

  room(local: string): StoredRoom | undefined {
    return now(this.#records.get(ROOMS, this.#key(local))) as StoredRoom | undefined
  }

  putRoom(local: string, room: StoredRoom): void {
    this.#records.put(ROOMS, this.#key(local), room)
  }

  /** Rooms in order of their names, from one on; where there are several nodes, of all, with what is listed of them. */
  rooms(after: string | undefined, limit: number): MaybePromise<readonly { readonly local: string; readonly room: ListedRoom }[]> {
    const found = this.#records.range(ROOMS, this.#key(), { limit, ...(after !== undefined && { after: this.#key(after) }) })
    const listed = (rows: readonly { readonly key: Key; readonly value: Value }[]): { local: string; room: ListedRoom }[] => rows.map(({ key, value }) => ({ local: key[1] as string, room: value as unknown as ListedRoom }))
    return found instanceof Promise ? found.then(listed) : listed(found)
  }

  /** `related`: everybody who is. */
  removeRoom(local: string, related: Iterable<string>): void {
    for (const jid of related) this.relate(local, jid, false)
    for (const table of [ROOMS, VCARDS, AFFILIATIONS, OCCUPANTS, DEPARTED, HISTORY]) void now(this.#records.deleteRange(table, this.#key(local)) ?? null)
  }

  affiliations(local: string): Map<string, StoredAffiliation> {
    return new Map(now(this.#records.range(AFFILIATIONS, this.#key(local))).map(({ key, value }) => [key[2] as string, value as StoredAffiliation]))
  }

  putAffiliation(local: string, jid: string, value: StoredAffiliation | undefined): void {
    if (value === undefined) this.#records.delete(AFFILIATIONS, this.#key(local, jid))
    else this.#records.put(AFFILIATIONS, this.#key(local, jid), value)
  }

  /** Notes that the room knows an account, or does not any more. */
  relate(local: string, jid: string, related: boolean): void {
    if (related) this.#records.put(RELATIONS, [jid, this.#service, local], true)
    else this.#records.delete(RELATIONS, [jid, this.#service, local])
  }

  /** The rooms that know an account. */
  relationsOf(jid: string): string[] {
    return now(this.#records.range(RELATIONS, [jid, this.#service])).map(({ key }) => key[2] as string)
  }

  occupants(local: string): Map<string, StoredOccupant> {
    return new Map(now(this.#records.range(OCCUPANTS, this.#key(local))).map(({ key, value }) => [key[2] as string, value as StoredOccupant]))
  }

  /** The rooms that have occupants. */
  *occupied(): Iterable<string> {
    let after: Key | undefined
    for (;;) {
      const [first] = now(this.#records.range(OCCUPANTS, this.#key(), { limit: 1, ...(after && { after }) }))
      if (first === undefined) return
      const local = first.key[1] as string
      yield local
      // Behind the last of this room's.
      const [last] = now(this.#records.range(OCCUPANTS, this.#key(local), { limit: 1, reverse: true }))
      after = last?.key ?? first.key
    }
  }

  putOccupant(local: string, full: string, value: StoredOccupant | undefined): void {
    if (value === undefined) this.#records.delete(OCCUPANTS, this.#key(local, full))
    else this.#records.put(OCCUPANTS, this.#key(local, full), value)
  }

  departed(local: string): [string, string][] {
    return now(this.#records.range(DEPARTED, this.#key(local))).map(({ key, value }) => [key[2] as string, value as string])
  }

  putDeparted(local: string, nick: string, id: string | undefined): void {
    if (id === undefined) this.#records.delete(DEPARTED, this.#key(local, nick))
    else this.#records.put(DEPARTED, this.#key(local, nick), id)
  }

  /** The last messages, oldest first. */
  history(local: string, limit: number): { id: string; message: StoredMessage }[] {
    return now(this.#records.range(HISTORY, this.#key(local), { limit, reverse: true })).map(({ key, value }) => ({ id: key[2] as string, message: value as StoredMessage })).reverse()
  }

  message(local: string, id: string): StoredMessage | undefined {
    return now(this.#records.get(HISTORY, this.#key(local, id))) as StoredMessage | undefined
  }

  putMessage(local: string, id: string, message: StoredMessage): void {
    this.#records.put(HISTORY, this.#key(local, id), message)
  }

  removeMessage(local: string, id: string): void {
    this.#records.delete(HISTORY, this.#key(local, id))
  }

  clearHistory(local: string): void {
    void now(this.#records.deleteRange(HISTORY, this.#key(local)) ?? null)
  }

  /** Rooms that are gone and have archives, in order of their names, from one on. */
  async past(after: string | undefined, limit: number): Promise<readonly string[]> {
    return (await this.#records.range(PAST, this.#key(), { limit, ...(after !== undefined && { after: this.#key(after) }) })).map(({ key }) => key[1] as string)
  }

  putPast(local: string): void {
    this.#records.put(PAST, this.#key(local), true)
  }

  removePast(local: string): void {
    this.#records.delete(PAST, this.#key(local))
  }

  vcard(local: string): string | undefined {
    return now(this.#records.get(VCARDS, this.#key(local))) as string | undefined
  }

  putVcard(local: string, text: string | undefined): void {
    if (text === undefined) this.#records.delete(VCARDS, this.#key(local))
    else this.#records.put(VCARDS, this.#key(local), text)
  }
}

function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error('rooms need a storage driver that reads synchronously')
  return value
}
