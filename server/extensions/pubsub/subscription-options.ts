/** XEP-0060 §6.3: what a subscriber wants of its subscription, as a form and as plain data. */
import { buildForm, type FieldSpec, type Form, type FormKind } from '../../../lib/forms.ts'
import { formatDateTime, parseDateTime } from '../../../lib/stanza/delay.ts'
import type { Element } from '../../../lib/xml/element.ts'
import { pubsubError } from './errors.ts'
import type { NodeConfig } from './node-config.ts'
import { summarises } from './summary.ts'

export const SUBSCRIBE_OPTIONS = 'http://jabber.org/protocol/pubsub#subscribe_options'

/** Presence as the field `pubsub#show-values` names it; `online` is presence without `<show/>`. */
export const SHOWS = ['chat', 'online', 'away', 'xa', 'dnd'] as const
export type Show = (typeof SHOWS)[number]

export interface SubscriptionOptions {
  readonly deliver: boolean
  /** When the subscription ends, milliseconds since 1970, or with the presence of the subscriber (§12.4, §12.18); undefined: never. */
  readonly expire?: number | 'presence'
  readonly includeBody: boolean
  /** In which presence events are delivered; undefined: in any, and without presence too. */
  readonly shows?: readonly Show[]
}

export const DEFAULT_OPTIONS: SubscriptionOptions = { deliver: true, includeBody: false }

/** What can be asked for: `presence` where that of the subscriber is known. */
export interface Offer {
  readonly config: NodeConfig | undefined
  readonly presence: boolean
}

export function optionsForm(kind: FormKind, options: SubscriptionOptions, offer: Offer): Element {
  const { expire } = options
  const fields: FieldSpec[] = [
    { var: 'pubsub#deliver', type: 'boolean', label: 'Whether to receive notifications', value: options.deliver },
    { var: 'pubsub#digest', type: 'boolean', label: 'Whether to receive digests of notifications (they are not offered)', value: false },
    { var: 'pubsub#expire', type: 'text-single', label: offer.presence ? 'When the subscription ends: a date and time, or presence' : 'When the subscription ends: a date and time', value: typeof expire === 'number' ? formatDateTime(expire) : expire },
  ]
  // §12.7: only where there is something to say.
  if (offer.config !== undefined && summarises(offer.config.type)) fields.push({ var: 'pubsub#include_body', type: 'boolean', label: 'Whether to receive a message body beside the payload', value: options.includeBody })
  if (offer.presence) fields.push({ var: 'pubsub#show-values', type: 'list-multi', label: 'In which presence to receive notifications', value: options.shows ?? SHOWS, options: SHOWS })
  return buildForm(kind, { formType: SUBSCRIBE_OPTIONS, fields })
}

/** The options after a submitted form; what it does not name stays as it is. Throws `invalid-options` (§6.3.7.2). */
export function readOptions(form: Form, before: SubscriptionOptions, offer: Offer, now: number): SubscriptionOptions {
  const includeBody = form.boolean('pubsub#include_body') ?? before.includeBody
  if (includeBody && (offer.config === undefined || !summarises(offer.config.type))) throw invalid('this node has no message bodies')
  if (form.boolean('pubsub#digest') === true) throw invalid('there are no digests')
  const expire = form.has('pubsub#expire') ? readExpire(form.value('pubsub#expire') ?? '', offer, now) : before.expire
  const shows = form.has('pubsub#show-values') ? readShows(form.values('pubsub#show-values'), offer) : before.shows
  return {
    deliver: form.boolean('pubsub#deliver') ?? before.deliver, includeBody,
    ...(expire === undefined ? {} : { expire }), ...(shows === undefined ? {} : { shows }),
  }
}

function readExpire(text: string, offer: Offer, now: number): number | 'presence' | undefined {
  if (text === '') return undefined
  if (text === 'presence') {
    if (!offer.presence) throw invalid('your presence is not known here')
    return text
  }
  const time = parseDateTime(text)
  if (time === undefined) throw invalid('pubsub#expire must be a date and time (XEP-0082), or presence')
  if (time <= now) throw invalid('this time is over')
  return time
}

function readShows(values: readonly string[], offer: Offer): readonly Show[] | undefined {
  const shows = SHOWS.filter((show) => values.includes(show))
  if (values.some((value) => !(SHOWS as readonly string[]).includes(value))) throw invalid('pubsub#show-values names the values of <show/>, and online')
  if (shows.length === SHOWS.length) return undefined
  if (!offer.presence) throw invalid('your presence is not known here')
  return shows
}

function invalid(text: string): Error {
  return pubsubError('bad-request', 'invalid-options', { text })
}

/** Whether these are not the default. */
export function areSet({ deliver, expire, includeBody, shows }: SubscriptionOptions): boolean {
  return !deliver || expire !== undefined || includeBody || shows !== undefined
}
