/**
 * Where a stanza goes next: check, stamp, store, copy, then exactly one of a local session, a service, offline storage or an error.
 * Everything here is synchronous, so that all that one stanza writes is committed together.
 */
import { Jid } from '../../lib/jid.ts'
import { DELAY_NS, withDelay } from '../../lib/stanza/delay.ts'
import { continueIdsAfter, nextMessageId, timeOfLastId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { errorReply, type Stanza } from '../../lib/stanza/stanza.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { Frame } from '../cluster/frames.ts'
import type { Homes } from '../cluster/homes.ts'
import { unitOfRemote } from '../cluster/remote-units.ts'
import type { Host } from '../host.ts'
import type { Log } from '../log.ts'
import type { Recipient } from '../extensions/extension.ts'
import type { SendOptions, Session, Taken, Undelivered } from '../sessions/session.ts'
import type { SessionRegistry } from '../sessions/sessions.ts'
import type { PendingIqs } from './iq.ts'
import type { Delivery } from './hooks.ts'
import { isInRoomOf, isMarkedPrivate, noteOwnPresence } from './private-messages.ts'

/** A promise only for what takes time; it rejects with what is to be answered. */
export type Service = (stanza: Stanza, session: Session | undefined) => void | Promise<void>

/** What of a service has a home (cluster/shapes.ts): each address at it, the service as a whole, or nothing, so that each node answers for it. */
export type ServiceUnit = 'address' | 'domain' | undefined

/** The way to other servers. */
export interface Federation {
  /** Takes a stanza for a domain that is not ours; throws a StanzaError when it cannot. `kept`: its sender takes it for safe. */
  send(stanza: Stanza, from: Jid, to: Jid, kept: boolean): void
}

export interface RouterParts {
  readonly hosts: ReadonlyMap<string, Host>
  readonly services: ReadonlyMap<string, Service>
  readonly serviceUnits: ReadonlyMap<string, ServiceUnit>
  readonly sessions: SessionRegistry
  readonly log: Log
  accountExists(bareJid: string): boolean
  /** Whether new stanzas can be put on stable storage. */
  healthy(): boolean
  /** Whether anything written waits for its commit. */
  dirty(): boolean
  now(): number
  /** Makes an account of one that is kept elsewhere and was not used here yet; undefined when the stanza need not wait for that. Rejects with a StanzaError. */
  lookUp?(to: Jid, from: Jid): Promise<void> | undefined
}

const CARBONS_NS = 'urn:xmpp:carbons:2'
const MESSAGE_TYPES = new Set(['normal', 'chat', 'groupchat', 'headline', 'error'])
const SUBSCRIPTIONS: ReadonlySet<string> = new Set(['subscribe', 'subscribed', 'unsubscribe', 'unsubscribed'])
const IQ_TYPES = new Set(['get', 'set', 'result', 'error'])

export class Router {
  readonly #parts: RouterParts
  pending!: PendingIqs
  /** Where accounts and rooms live, when there are several nodes. */
  homes: Homes | undefined
  /** Undefined when nothing is exchanged with other servers. */
  federation: Federation | undefined

  constructor(parts: RouterParts) {
    this.#parts = parts
  }

  /**
   * Routes a stanza whose `from` is set. Without `to` it is for the sender's own account (RFC 6120 §10.3). The result is a
   * promise only for what a handler or service takes time for, and for the first stanza to an account that is kept elsewhere.
   */
  route(stanza: Stanza, session?: Session, durable = false, promised = false): void | Promise<void> {
    try {
      const from = session !== undefined && stanza.from === session.jid.toString() ? session.jid : Jid.parse(stanza.from ?? '')
      let to: Jid
      try {
        to = stanza.to === undefined ? from.toBare() : Jid.parse(stanza.to)
      } catch {
        // RFC 6120 §8.3.3.8; by §8.3.1 the error does not repeat the address.
        return this.bounce(stanza.withAttrs({ to: from.domain }), new StanzaError('jid-malformed'), session)
      }
      if (this.homes !== undefined && session !== undefined) {
        const unit = this.#unitOf(to)
        // Once it is known where the stanza goes, all that it writes is one group. RFC 6120 §10.1: the next one waits too.
        const known = unit === undefined ? undefined : this.homes.wait(unit)
        if (known !== undefined) return known.then(() => this.route(stanza, session, durable))
      }
      const looking = this.#parts.lookUp?.(to, from)
      if (looking !== undefined) {
        return looking.then(() => this.#routeTo(stanza, from, to, session, durable, promised)).catch((error: unknown) => this.bounce(stanza, error, session))
      }
      return this.#routeTo(stanza, from, to, session, durable, promised)
    } catch (error) {
      this.bounce(stanza, error, session)
    }
  }

  /** A stanza of another server, which takes it for safe once it is acknowledged; its addresses have been checked. */
  fromPeer(stanza: Stanza): void | Promise<void> {
    return this.route(stanza, undefined, false, true)
  }

  #routeTo(stanza: Stanza, from: Jid, to: Jid, session: Session | undefined, durable: boolean, promised: boolean): void | Promise<void> {
    try {
      switch (stanza.name) {
        case 'message':
          return this.#inTime(this.#message(stanza, from, to, session, durable, undefined, undefined, promised), stanza, session)
        case 'presence':
          return this.#presence(stanza, from, to, session)
        case 'iq':
          return this.#iq(stanza, from, to, session)
      }
    } catch (error) {
      this.bounce(stanza, error, session)
    }
  }

  /** What a service fails with that takes time is answered as what fails at once. */
  #inTime(taking: void | Promise<void>, stanza: Stanza, session?: Session): void | Promise<void> {
    return taking instanceof Promise ? taking.catch((error: unknown) => { this.bounce(stanza, error, session) }) : undefined
  }

  /** What has a home and gets stanzas to this address; undefined when any node may take them. */
  #unitOf(to: Jid): string | undefined {
    const { hosts, services, serviceUnits } = this.#parts
    if (services.has(to.domain)) {
      const unit = serviceUnits.get(to.domain)
      return unit === 'domain' ? to.domain : unit === 'address' && to.local !== '' ? to.bare : undefined
    }
    if (hosts.has(to.domain)) return to.local === '' ? undefined : to.bare
    return this.federation === undefined ? undefined : unitOfRemote(to.domain)
  }

  /** The unit of this address, when its home is another node, or may be. */
  #elsewhere(to: Jid): string | undefined {
    if (this.homes === undefined) return undefined
    const unit = this.#unitOf(to)
    return unit === undefined || this.homes.here(unit) ? undefined : unit
  }

  /** Whether this node has the sessions and the rows of an account of ours. */
  #isHere(account: Jid): boolean {
    return this.homes === undefined || this.homes.here(account.bare)
  }

  /** A frame of another node, for a unit of this one. Those who sent the stanzas in it have been asked and have theirs stored. A promise when it takes effect later. */
  arrived(frame: Frame, source?: string): void | Promise<void> {
    const { kind, unit, list } = frame
    if (kind === 'told') return this.tell(unit, ...list)
    const stanza = readStanza(frame.stanza)
    const from = Jid.parse(stanza.from ?? '')
    if (source !== undefined && this.homes !== undefined && this.#unitOf(from) === from.bare) this.homes.heard(from.bare, source)
    switch (kind) {
      case 'stanza':
      case 'clients':
        try {
          const [to, ...others] = kind === 'clients' ? list.map((jid) => Jid.parse(jid)) : [Jid.parse(stanza.to ?? '')]
          if (stanza.name === 'message') return this.#inTime(this.#message(stanza, from, to as Jid, undefined, false, kind === 'clients' ? others : undefined, frame), stanza)
          if (stanza.name === 'presence') {
            this.#noteRoom(stanza, from, to as Jid)
            this.presenceTo(stanza, from, to as Jid, true)
          }
          else void this.#iq(stanza, from, to as Jid, undefined, true)
        } catch (error) {
          this.bounce(stanza, error)
        }
        return
      case 'reply':
        this.#toSender(stanza)
        return
      case 'presences': {
        const copyFor = stanza.copies()
        for (const to of list) this.presenceTo(copyFor(to), from, Jid.parse(to), true)
        return
      }
      case 'multicast':
        this.multicast(stanza, from, list.map((jid) => ({ jid: Jid.parse(jid), session: undefined, escaped: undefined })), { durable: frame.durable, volatile: frame.volatile })
        return
      case 'missed':
        this.missed(unit, stanza, (session) => list.includes(session.jid.toString()))
        return
      case 'moderated':
        this.moderated(unit, stanza)
        return
    }
  }

  /** Sessions know the rooms that they are in by what they have sent there, and by what rooms elsewhere say. */
  #noteRoom(presence: Stanza, from: Jid, to: Jid): void {
    if (presence.type !== 'unavailable' || this.#parts.serviceUnits.get(from.domain) !== 'address') return
    const session = this.#parts.sessions.get(to.toString())
    if (session !== undefined) noteOwnPresence(session, presence)
  }

  /** Says something to an extension at the home of a unit. */
  tell(unit: string, ...words: readonly string[]): void {
    if (this.homes !== undefined && !this.homes.here(unit)) return this.homes.send({ kind: 'told', unit, list: words, durable: true })
    for (const { hooks } of this.#parts.hosts.values()) hooks.runTold(unit, words)
  }

  /** The same when somebody has the unit, or is about to; it is lost otherwise, and with the process. */
  hint(unit: string, ...words: readonly string[]): void {
    if (this.homes !== undefined && !this.homes.here(unit)) return this.homes.send({ kind: 'told', unit, list: words, idle: true })
    for (const { hooks } of this.#parts.hosts.values()) hooks.runTold(unit, words)
  }

  /** A broadcast presence, or a probe, to accounts of ours at other nodes. */
  presenceElsewhere(stanza: Stanza, contacts: readonly string[]): void {
    this.homes?.sendAll({ kind: 'presences', stanza: stanza.bytes(), list: contacts, idle: true }, (contact) => contact)
  }

  /** Sends one stanza of a service to many (XEP-0045 §7.4): serialised together, and checked only against who has blocked its sender. */
  multicast(stanza: Stanza, from: Jid, recipients: Iterable<Recipient>, options: SendOptions = {}): void {
    const { hosts, sessions } = this.#parts
    const copyFor = stanza.copies()
    const sender = hosts.get(from.domain)
    let host: Host | undefined
    let elsewhere: string[] | undefined
    for (const recipient of recipients) {
      const { jid } = recipient
      let { session } = recipient
      if (session === undefined || session.ended) recipient.session = session = sessions.get(jid.toString())
      const to = jid.toString()
      const escaped = (recipient.escaped ??= Buffer.from(escapeXml(to)))
      if (session === undefined) {
        // What is for users of a domain goes to the home of that, with `route`.
        if (this.homes !== undefined && this.#elsewhere(jid) === jid.bare) {
          if (sender?.hooks.runCheckBroadcast(from, jid) !== false) (elsewhere ??= []).push(to)
          continue
        }
        void this.route(copyFor(to, escaped), undefined, options.durable)
        continue
      }
      if (host?.name !== session.host) host = hosts.get(session.host)
      // XEP-0191: an account of another host of ours may have blocked the recipient.
      if (sender !== undefined && sender !== host && sender.hooks.runCheckBroadcast(from, jid) === false) continue
      if (host?.hooks.runCheckBroadcast(from, jid) !== false) session.send(copyFor(to, escaped), options)
    }
    if (elsewhere !== undefined) this.homes?.sendAll({ kind: 'multicast', stanza: stanza.withAttrs({ to: undefined }).bytes(), list: elsewhere, durable: options.durable === true, volatile: options.volatile === true }, (address) => this.#unitOf(Jid.parse(address)) ?? bareOf(address))
  }

  /** A private message of a service to the clients of one account that have the same nickname (XEP-0045 §7.5): checked and stored once, and sent to each. */
  toClients(stanza: Stanza, clients: readonly Jid[]): void {
    const [first, ...others] = clients
    if (first === undefined) return
    if (others.length === 0 || !this.#parts.hosts.has(first.domain)) {
      for (const jid of clients) void this.route(stanza.withAttrs({ to: jid.toString() }))
      return
    }
    const message = stanza.withAttrs({ to: first.toString() })
    try {
      void this.#inTime(this.#message(message, Jid.parse(stanza.from ?? ''), first, undefined, false, others), message)
    } catch (error) {
      this.bounce(message, error)
    }
  }

  /** A group message for an account of ours, of whose sessions these are in the room. */
  missed(owner: string, stanza: Stanza, sentTo: (session: Session) => boolean, clients?: () => readonly string[]): void {
    const jid = Jid.tryParse(owner)
    const host = jid === undefined ? undefined : this.#parts.hosts.get(jid.domain)
    if (jid !== undefined && host !== undefined && !this.#isHere(jid)) return this.homes?.send({ kind: 'missed', unit: owner, stanza: stanza.bytes(), list: clients?.() ?? [], durable: true })
    if (host?.hooks.hasMissed === true && this.#parts.accountExists(owner)) host.hooks.runMissed(owner, stanza, sentTo)
  }

  /** A moderator took back what an account of ours had said in a room. */
  moderated(author: string, message: Stanza): void {
    const jid = Jid.parse(author)
    const host = this.#parts.hosts.get(jid.domain)
    if (host === undefined) return
    if (!this.#isHere(jid)) return this.homes?.send({ kind: 'moderated', unit: author, stanza: message.bytes(), durable: true })
    void host.hooks.runModerated(author, message).catch((error: unknown) => this.#parts.log.error({ what: 'moderation_failed', error }))
  }

  /** Answers a stanza with an error, unless it is one of those that must not be answered (RFC 6120 §8.3.1). */
  bounce(stanza: Stanza, error: unknown, session?: Session): void {
    let stanzaError: StanzaError
    if (error instanceof StanzaError) stanzaError = error
    else {
      this.#parts.log.error({ what: 'stanza_failed', id: stanza.id, from: stanza.from, to: stanza.to, error })
      stanzaError = new StanzaError('internal-server-error')
    }
    if (stanza.type === 'error' || (stanza.name === 'iq' && stanza.type === 'result')) return
    const reply = errorReply(stanza, stanzaError)
    if (session !== undefined) session.send(reply)
    else this.#toSender(reply)
  }

  #toSender(reply: Stanza): void {
    const to = Jid.tryParse(reply.to ?? '')
    if (to === undefined) return
    const unit = this.#elsewhere(to)
    if (unit !== undefined) return this.homes?.send({ kind: 'reply', unit, stanza: reply.bytes(), durable: reply.name === 'message' })
    const service = this.#parts.services.get(to.domain)
    if (service !== undefined) return void this.#inTime(service(reply, undefined), reply)
    if (!this.#parts.hosts.has(to.domain)) return this.#answerElsewhere(reply, to)
    if (to.resource === '') {
      if (reply.name === 'iq') this.#answered(reply)
      return
    }
    this.#parts.sessions.get(to.toString())?.send(reply)
  }

  /** An error for somebody at another server; it is lost when it cannot go there. */
  #answerElsewhere(reply: Stanza, to: Jid): void {
    const from = Jid.tryParse(reply.from ?? '')
    if (this.federation === undefined || from === undefined) return
    try {
      this.federation.send(reply, from, to, false)
    } catch (error) {
      if (!(error instanceof StanzaError)) throw error
    }
  }

  /** What answers an IQ of the server's own: the node that asked is in the id. */
  #answered(answer: Stanza): void {
    if (this.pending.answered(answer) || this.homes === undefined) return
    const asker = answer.id?.split('.')[1]
    if (asker !== undefined && asker !== this.homes.inc) this.homes.sendTo(asker, { kind: 'reply', stanza: answer.bytes() })
  }

  #message(stanza: Stanza, from: Jid, to: Jid, session: Session | undefined, durable: boolean, others?: readonly Jid[], arrived?: Frame, promised = false): void | Promise<void> {
    const type = stanza.type
    // RFC 6121 §5.2.2: an unknown type is a normal message.
    if (type !== undefined && !MESSAGE_TYPES.has(type)) stanza = stanza.withAttrs({ type: undefined })
    if (stanza.to === undefined) stanza = stanza.withAttrs({ to: to.toString() })
    const delivery = this.#delivery(stanza, from, to, session, arrived)
    delivery.durable = durable
    if (promised) delivery.promised = true
    const { hosts } = this.#parts
    const fromHost = delivery.fromLocal ? hosts.get(from.domain) : undefined
    // What has arrived is safe where it comes from until this has been stored.
    if (!this.#parts.healthy() && type !== 'error' && arrived === undefined) throw new StanzaError('resource-constraint', 'the server cannot store messages at the moment')
    fromHost?.hooks.runOutgoing(delivery)
    if (this.homes !== undefined) {
      if (delivery.fromLocal) this.homes.noteId(from.bare, delivery.id)
      if (delivery.toLocal && arrived === undefined) this.homes.noteId(to.bare, delivery.id)
      const unit = this.#elsewhere(to)
      if (unit !== undefined) return this.#sendElsewhere(unit, fromHost, delivery, others)
    }
    const service = this.#parts.services.get(to.domain)
    if (service !== undefined) {
      fromHost?.hooks.runStore(delivery)
      fromHost?.hooks.runCopy(delivery)
      return service(delivery.stanza, session)
    }
    const toHost = hosts.get(to.domain)
    if (toHost === undefined) {
      if (this.federation === undefined) throw new StanzaError('remote-server-not-found') // RFC 6120 §10.4
      this.federation.send(delivery.stanza, from, to, this.#isPromised(delivery) || delivery.durable)
      fromHost?.hooks.runStore(delivery)
      fromHost?.hooks.runCopy(delivery)
      return
    }
    if (to.local === '') {
      if (type !== 'error' && toHost.hooks.runToHost(delivery)) {
        fromHost?.hooks.runStore(delivery)
        fromHost?.hooks.runCopy(delivery)
        return
      }
      // RFC 6121 §8.5: the server itself takes no other messages.
      if (type === 'error' || type === 'headline') return
      throw new StanzaError('service-unavailable')
    }
    if (!delivery.toLocal) {
      if (type === 'error') return
      throw new StanzaError('service-unavailable') // RFC 6121 §8.5.1
    }
    try {
      toHost.hooks.runIncoming(delivery)
    } catch (error) {
      // An error would go to a whole room or news service, which takes it for the recipient having left.
      if (error instanceof StanzaError && (type === 'groupchat' || type === 'headline')) return
      throw error
    }
    if (type === 'error' && to.resource === '') return // RFC 6121 §8.5.2.1.1, §8.5.2.2.1: silently ignored
    const targets = this.#targets(delivery, others)
    if (targets === undefined) throw new StanzaError('service-unavailable')
    fromHost?.hooks.runStore(delivery)
    if (toHost !== fromHost) toHost.hooks.runStore(delivery)
    if (targets.length > 0) this.#send(toHost, delivery, targets, others)
    else if (type !== 'error' && !toHost.hooks.runUndeliverable(delivery) && type !== 'headline' && !delivery.archivedTo) {
      throw new StanzaError('service-unavailable') // RFC 6121 §8.5.2.2
    }
    fromHost?.hooks.runCopy(delivery)
    if (toHost !== fromHost) toHost.hooks.runCopy(delivery)
  }

  /** The sender's side of a message whose recipient has another home; the rest is done there. What it writes goes into one group with the message. */
  #sendElsewhere(unit: string, fromHost: Host | undefined, delivery: Delivery, others?: readonly Jid[]): void {
    const { stanza, id } = delivery
    fromHost?.hooks.runStore(delivery)
    const promised = this.#isPromised(delivery)
    const frame = { unit, id, promised, durable: promised || delivery.durable, stanza: stanza.bytes() }
    if (others === undefined) this.homes?.send({ kind: 'stanza', ...frame })
    else this.homes?.send({ kind: 'clients', ...frame, list: [delivery.to, ...others].map(String) })
    fromHost?.hooks.runCopy(delivery)
  }

  /** Whoever manages the stream takes the message for safe once it is acknowledged (XEP-0198 §4). So does who caused a service to send it. */
  #isPromised(delivery: Delivery): boolean {
    return delivery.promised === true || delivery.accepted === true || delivery.session?.management !== undefined || (delivery.session === undefined && this.#parts.services.has(delivery.from.domain))
  }

  #send(host: Host, delivery: Delivery, targets: readonly Session[], others?: readonly Jid[]): void {
    const taken = this.#isPromised(delivery) && !targets.some((target) => target.management?.resumable === true) ? host.hooks.runSafeguard(delivery) : undefined
    const options = {
      durable: delivery.durable,
      id: delivery.archivedTo ? undefined : delivery.id,
      taken: taken === undefined || targets.length === 1 ? taken : byOneOf(targets.length, taken),
    }
    delivery.reached = targets
    for (const target of targets) target.send(others === undefined ? delivery.stanza : delivery.stanza.withAttrs({ to: target.jid.toString() }), options)
  }

  /** RFC 6121 §8.5.2 and §8.5.3: the sessions that get the message, those of `others` too; undefined when it must be refused. */
  #targets(delivery: Delivery, others?: readonly Jid[]): readonly Session[] | undefined {
    const { to } = delivery
    if (others !== undefined) {
      const there = [to, ...others].map((each) => this.#parts.sessions.get(each.toString())).filter((each) => each !== undefined)
      if (there.length > 0) return there
    }
    const type = delivery.stanza.type ?? 'normal'
    if (to.resource !== '') {
      const session = this.#parts.sessions.get(to.toString())
      if (session !== undefined) return [session]
      if (type === 'error') return NONE
      if (type === 'groupchat' || type === 'normal') return undefined // §8.5.3.2.1
      if (type === 'headline') return NONE
    } else if (type === 'groupchat') return undefined // §8.5.2.1.1
    return this.#parts.sessions.available(to.bare)
  }

  #delivery(stanza: Stanza, from: Jid, to: Jid, session: Session | undefined, arrived?: Frame): Delivery {
    const { hosts } = this.#parts
    if (arrived !== undefined) return this.#arrival(stanza, from, to, arrived)
    const id = nextMessageId()
    return {
      stanza,
      from,
      to,
      session,
      id,
      time: timeOfLastId(),
      fromLocal: session !== undefined || (from.local !== '' && hosts.has(from.domain) && this.#isHere(from)),
      toLocal: this.#isLocal(to),
      promised: false,
      noArchive: false,
      noCopy: false,
      noOffline: false,
      archivedFrom: false,
      archivedTo: false,
      durable: false,
      reached: NONE,
    }
  }

  #isLocal(to: Jid): boolean {
    return to.local !== '' && this.#parts.hosts.has(to.domain) && this.#isHere(to) && this.#parts.accountExists(to.bare)
  }

  /** As `#delivery`, of what another node has sent: the sender's side is done. Both archives have it under one id where they can. */
  #arrival(stanza: Stanza, from: Jid, to: Jid, frame: Pick<Frame, 'id' | 'promised'>): Delivery {
    const toLocal = this.#isLocal(to)
    const given = timeOfMessageId(frame.id)
    if (given !== undefined) continueIdsAfter(given)
    const id = given === undefined ? nextMessageId() : toLocal && this.homes !== undefined ? this.homes.idFor(to.bare, frame.id) : frame.id
    return {
      stanza, from, to, session: undefined, id,
      time: timeOfMessageId(id) ?? timeOfLastId(),
      fromLocal: false, toLocal, promised: frame.promised,
      noArchive: false, noCopy: false, noOffline: false, archivedFrom: false, archivedTo: false, durable: false, reached: NONE,
    }
  }

  #presence(stanza: Stanza, from: Jid, to: Jid, session: Session | undefined): void {
    if (session !== undefined) {
      const host = this.#parts.hosts.get(session.host)
      if (stanza.to !== undefined) {
        const delivery = this.#delivery(stanza, from, to, session)
        host?.hooks.runOutgoing(delivery)
        stanza = delivery.stanza
        // RFC 6120 §10.4; the other types change the sender's own roster, and may.
        const { type } = stanza
        if ((type === undefined || type === 'subscribe' || type === 'probe') && this.federation === undefined && !this.#parts.hosts.has(to.domain) && !this.#parts.services.has(to.domain)) throw new StanzaError('remote-server-not-found')
        // RFC 6120 §10.5.1: a host has no presence to subscribe to.
        if (type === 'subscribe' && to.local === '' && this.#parts.hosts.has(to.domain)) throw new StanzaError('service-unavailable')
      } else {
        const delivery = this.#delivery(stanza, from, to, session)
        host?.hooks.runStampOutgoing(delivery)
        stanza = delivery.stanza
      }
      host?.presence.fromSession(session, stanza)
      return
    }
    this.presenceTo(stanza, from, to)
  }

  /** A presence that has passed its sender's side. */
  presenceTo(stanza: Stanza, from: Jid, to: Jid, arrived = false): void {
    const unit = this.#elsewhere(to)
    if (unit !== undefined) {
      const { type } = stanza
      const isSubscription = type === 'subscribe' || type === 'subscribed' || type === 'unsubscribe' || type === 'unsubscribed'
      // Where nobody is, nobody sees it; a room may be where nobody has it yet, and another server where nothing was sent to it.
      return this.homes?.send({ kind: 'stanza', unit, stanza: stanza.bytes(), durable: isSubscription, idle: !isSubscription && this.#parts.hosts.has(to.domain) })
    }
    const service = this.#parts.services.get(to.domain)
    if (service !== undefined) return void this.#inTime(service(stanza, undefined), stanza)
    const host = this.#parts.hosts.get(to.domain)
    if (host === undefined) {
      if (this.federation !== undefined) return this.federation.send(stanza, from, to, SUBSCRIPTIONS.has(stanza.type ?? ''))
      if (stanza.type === 'error' || stanza.type === 'unavailable') return
      throw new StanzaError('remote-server-not-found')
    }
    if (to.local === '') return
    // RFC 6121 §8.5.1: silently ignored, but a probe is answered as if the account did not want to be seen.
    if (stanza.type !== 'probe' && !this.#parts.accountExists(to.bare)) return
    const delivery = arrived ? this.#arrival(stanza, from, to, UNKNOWN) : this.#delivery(stanza, from, to, undefined)
    try {
      host.hooks.runIncoming(delivery)
    } catch (error) {
      if (error instanceof StanzaError) return // XEP-0191 §3.3: presence from a blocked contact is dropped
      throw error
    }
    host.presence.toAccount(delivery)
  }

  #iq(stanza: Stanza, from: Jid, to: Jid, session: Session | undefined, arrived = false): void | Promise<void> {
    const type = stanza.type
    if (type === undefined || !IQ_TYPES.has(type) || stanza.id === undefined) throw new StanzaError('bad-request', 'an IQ needs an id and a known type')
    const request = type === 'get' || type === 'set'
    if (request && stanza.children.length !== 1) throw new StanzaError('bad-request', 'an IQ of type get or set has exactly one child')
    const { hosts, sessions } = this.#parts
    if (stanza.to !== undefined && from.bare !== to.bare && (to.local !== '' || to.domain !== session?.host)) {
      const delivery = arrived ? this.#arrival(stanza, from, to, UNKNOWN) : this.#delivery(stanza, from, to, session)
      if (delivery.fromLocal) hosts.get(from.domain)?.hooks.runOutgoing(delivery)
      if (delivery.toLocal && to.domain !== '') hosts.get(to.domain)?.hooks.runCheckIncoming(delivery)
    }
    const unit = this.#elsewhere(to)
    if (unit !== undefined) return this.homes?.send({ kind: 'stanza', unit, stanza: stanza.to === undefined ? stanza.withAttrs({ to: to.toString() }).bytes() : stanza.bytes() })
    const service = this.#parts.services.get(to.domain)
    if (service !== undefined) return service(stanza, session)
    const host = hosts.get(to.domain)
    if (host === undefined) {
      if (this.federation !== undefined) return this.federation.send(stanza, from, to, false)
      if (!request) return
      throw new StanzaError('remote-server-not-found')
    }
    if (to.resource !== '' && to.local !== '') {
      // RFC 6121 §8.5.3.1 deviates: a request is delivered also to who shares no presence with the sender, as in other servers. Who
      // knows the resource, which is random unless its client chose it, has had presence or a message from it.
      const target = sessions.get(to.toString())
      if (target !== undefined) return target.send(stanza)
      if (request) throw new StanzaError('service-unavailable') // RFC 6121 §8.5.3.2.3
      return
    }
    if (!request) {
      this.#answered(stanza)
      return
    }
    if (to.resource !== '') throw new StanzaError('service-unavailable')
    if ((type === 'set') && !this.#parts.healthy()) throw new StanzaError('resource-constraint', 'the server cannot store anything at the moment')
    const target = to.local === '' ? 'host' : from.bare === to.bare || this.#parts.accountExists(to.bare) ? 'account' : 'nobody'
    const answer = host.iq.dispatch(stanza, from, to, target, session)
    if (answer instanceof Promise) return answer.then((reply) => this.#answer(reply, session, type === 'set'))
    if (answer !== undefined) this.#answer(answer, session, type === 'set')
  }

  #answer(reply: Stanza, session: Session | undefined, durable: boolean): void {
    // The result of a set says that it is done: it waits for the commit of what was written. A query of history is a set too.
    if (session !== undefined) session.send(reply, { durable: durable && this.#parts.dirty() })
    else void this.route(reply)
  }

  /** What a session took with it when it ended is treated as if it had come for a resource that is not there (XEP-0198 §4). */
  undelivered(session: Session, undelivered: readonly Undelivered[]): void {
    const host = this.#parts.hosts.get(session.host)
    if (host === undefined) return
    for (const { stanza, id } of undelivered) {
      // RFC 6121 §8.5.3.2.3
      if (stanza.name === 'iq' && (stanza.type === 'get' || stanza.type === 'set')) this.bounce(stanza, new StanzaError('service-unavailable'))
      else if (stanza.name === 'message') this.#handBack(host, session, stanza, id)
    }
  }

  /** A message that a client gets again after it was away, with the time at which it came unless it says when it was sent (XEP-0203 §4). */
  late(session: Session, message: Stanza, givenId: string | undefined): Stanza {
    if (message.has('delay', DELAY_NS)) return message
    const archive = message.type === 'groupchat' ? Jid.tryParse(message.from ?? '')?.bare : session.owner
    const id = archive === undefined ? givenId : stanzaIdOf(message, archive) ?? givenId
    const time = id === undefined ? undefined : timeOfMessageId(id)
    return time === undefined ? message : withDelay(message, session.host, time)
  }

  #handBack(host: Host, session: Session, stanza: Stanza, givenId: string | undefined): void {
    const { owner } = session
    const { type } = stanza
    if (type === 'error' || type === 'headline') return // RFC 6121 §8.5.3.2.1
    const from = Jid.tryParse(stanza.from ?? '')
    // Copies (XEP-0280) come from the account itself; each client has its own.
    if (from === undefined || (stanza.from === owner && (stanza.has('sent', CARBONS_NS) || stanza.has('received', CARBONS_NS)))) return
    const stamp = stanzaIdOf(stanza, owner)
    const base = this.#delivery(stanza, from, session.jid, undefined)
    const id = stamp ?? givenId ?? base.id
    const delivery: Delivery = { ...base, id, time: timeOfMessageId(id) ?? base.time, accepted: true, archivedTo: stamp !== undefined }
    // To one occupant's client alone: no other resource has joined with it.
    const others = type === 'groupchat' ? NONE : this.#parts.sessions.available(owner)
    if (others.length > 0) {
      const toAll = !(stanza.to ?? '').includes('/')
      // A room has sent it to each client that is in it, and those that came later find it in the archive.
      if (delivery.archivedTo && from.resource !== '' && isMarkedPrivate(stanza) && others.some((other) => isInRoomOf(other, from))) return
      // Those that were here have had it (RFC 6121 §8.5.2.1), or a copy of it.
      const without = others.filter((other) => !(toAll && (other.availableFrom ?? id) < id) && !host.hooks.runCopied(delivery, other))
      delivery.stanza = withDelay(stanza, host.name, delivery.time)
      delivery.durable = true
      if (without.length > 0) this.#send(host, delivery, without)
      return
    }
    if (!host.hooks.runUndeliverable(delivery) && !delivery.archivedTo) this.bounce(stanza, new StanzaError('service-unavailable'))
  }
}

const NONE: readonly Session[] = []
const UNKNOWN = { id: '', promised: false }

function bareOf(address: string): string {
  const slash = address.indexOf('/')
  return slash === -1 ? address : address.slice(0, slash)
}

/** What each of several sessions is to tell: it has been taken when one of them took it, and has not when none did. */
function byOneOf(count: number, taken: Taken): Taken {
  let left = count
  let told = false
  return (arrived) => {
    left--
    if (told || (!arrived && left > 0)) return
    told = true
    taken(arrived)
  }
}

/** The id under which this account's archive has the message (XEP-0359). */
export function stanzaIdOf(stanza: Stanza, owner: string): string | undefined {
  for (const child of stanza.children) {
    if (child.name !== 'stanza-id' || child.xmlns !== 'urn:xmpp:sid:0') continue
    const { attrs } = stanza.childElement(child)
    if (attrs['by'] === owner && attrs['id'] !== undefined && timeOfMessageId(attrs['id']) !== undefined) return attrs['id']
  }
  return undefined
}
