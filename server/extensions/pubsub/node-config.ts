/** XEP-0060 §16.4.4: the configuration of a node, as a form and as plain data. */
import { buildForm, type FieldSpec, type Form, type FormKind } from '../../../lib/forms.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { Element } from '../../../lib/xml/element.ts'
import { pubsubError, unsupported } from './errors.ts'

export const NODE_CONFIG = 'http://jabber.org/protocol/pubsub#node_config'
const PREFIX = 'pubsub#'
/** All nodes are leaves: collections are XEP-0248. */
const NODE_TYPE = 'pubsub#node_type'

export const ACCESS_MODELS = ['open', 'presence', 'roster', 'whitelist', 'authorize'] as const
export const PUBLISH_MODELS = ['publishers', 'subscribers', 'open'] as const
export const SEND_LAST = ['never', 'on_sub', 'on_sub_and_presence'] as const
export const NODE_FULL = ['retract-oldest', 'discard-oldest', 'reject'] as const
export const ITEM_REPLY = ['none', 'publisher', 'owner'] as const
export const NOTIFICATION_TYPES = ['headline', 'normal', 'chat'] as const

export interface NodeConfig {
  readonly title: string
  readonly description: string
  /** The namespace of the payload; empty: any. */
  readonly type: string
  readonly access_model: (typeof ACCESS_MODELS)[number]
  readonly roster_groups_allowed: readonly string[]
  readonly publish_model: (typeof PUBLISH_MODELS)[number]
  readonly persist_items: boolean
  /** A number, or `max`: as many as the service keeps. */
  readonly max_items: string
  /** Seconds, or `max`: for ever. */
  readonly item_expire: string
  /** Bytes. */
  readonly max_payload_size: string
  readonly deliver_notifications: boolean
  readonly deliver_payloads: boolean
  readonly notify_config: boolean
  readonly notify_delete: boolean
  readonly notify_retract: boolean
  readonly notify_sub: boolean
  readonly notification_type: (typeof NOTIFICATION_TYPES)[number]
  readonly send_last_published_item: (typeof SEND_LAST)[number]
  readonly subscribe: boolean
  /** What is done when there are too many items (§7.1.2.5). */
  readonly publish_node_full: (typeof NODE_FULL)[number]
  /** Whose address is told with an item (§12.15). */
  readonly itemreply: (typeof ITEM_REPLY)[number]
}

export type ConfigName = keyof NodeConfig

interface Field {
  readonly type: 'boolean' | 'list-single' | 'list-multi' | 'text-single'
  readonly label: string
  readonly options?: readonly string[]
  /** What a text must look like. */
  readonly pattern?: RegExp
}

const COUNT = /^(max|\d{1,9})$/
/** Bytes of a text, and of all names of groups: configurations are kept in memory. */
const TEXT_BYTES_MAX = 1024
const GROUPS_BYTES_MAX = 4096

const FIELDS: Readonly<Record<ConfigName, Field>> = {
  title: { type: 'text-single', label: 'A short name for the node' },
  description: { type: 'text-single', label: 'A description of the node' },
  type: { type: 'text-single', label: 'The namespace of the payload' },
  access_model: { type: 'list-single', label: 'Who may subscribe and retrieve items', options: ACCESS_MODELS },
  roster_groups_allowed: { type: 'list-multi', label: 'Roster groups allowed to subscribe' },
  publish_model: { type: 'list-single', label: 'Who may publish', options: PUBLISH_MODELS },
  persist_items: { type: 'boolean', label: 'Whether items are kept' },
  max_items: { type: 'text-single', label: 'The number of items kept, or max', pattern: COUNT },
  item_expire: { type: 'text-single', label: 'Seconds after which an item is removed, or max', pattern: COUNT },
  max_payload_size: { type: 'text-single', label: 'The largest payload in bytes', pattern: COUNT },
  deliver_notifications: { type: 'boolean', label: 'Whether events are notified' },
  deliver_payloads: { type: 'boolean', label: 'Whether notifications have payloads' },
  notify_config: { type: 'boolean', label: 'Notify of changes of the configuration' },
  notify_delete: { type: 'boolean', label: 'Notify when the node is deleted' },
  notify_retract: { type: 'boolean', label: 'Notify when items are removed' },
  notify_sub: { type: 'boolean', label: 'Notify owners of subscriptions' },
  notification_type: { type: 'list-single', label: 'The type of messages', options: NOTIFICATION_TYPES },
  send_last_published_item: { type: 'list-single', label: 'When the last item is sent', options: SEND_LAST },
  subscribe: { type: 'boolean', label: 'Whether to allow subscriptions' },
  publish_node_full: { type: 'list-single', label: 'What is done when an item is published and the node is full', options: NODE_FULL },
  itemreply: { type: 'list-single', label: 'Whose address is told with an item', options: ITEM_REPLY },
}

const NAMES = Object.keys(FIELDS) as ConfigName[]

const COMMON: NodeConfig = {
  title: '', description: '', type: '',
  access_model: 'open', roster_groups_allowed: [], publish_model: 'publishers',
  persist_items: true, max_items: 'max', item_expire: 'max', max_payload_size: '262144',
  deliver_notifications: true, deliver_payloads: true,
  notify_config: false, notify_delete: true, notify_retract: true, notify_sub: false,
  notification_type: 'headline', send_last_published_item: 'never', subscribe: true,
  publish_node_full: 'retract-oldest', itemreply: 'none',
}

/** Of a service's nodes. */
export const SERVICE_DEFAULTS: NodeConfig = { ...COMMON, send_last_published_item: 'on_sub_and_presence' } // XEP-0060 §4.3
/** XEP-0163 §5 */
export const PERSONAL_DEFAULTS: NodeConfig = { ...COMMON, access_model: 'presence', max_items: '1', send_last_published_item: 'on_sub_and_presence' }

/** The configuration as a form; without values when `config` is left out. */
export function configForm(kind: FormKind, config: NodeConfig, formType: string = NODE_CONFIG): Element {
  const fields = NAMES.map((name): FieldSpec => {
    const { type, label, options } = FIELDS[name]
    return { var: PREFIX + name, type, label, value: config[name], ...(options === undefined ? {} : { options }) }
  })
  return buildForm(kind, { formType, fields })
}

/** The fields of a submitted form. Those nobody knows are left out, or answered with `unknown`. Throws for values that are not allowed. */
export function readConfig(form: Form, unknown?: () => StanzaError): Partial<NodeConfig> {
  const found: Record<string, unknown> = {}
  for (const name of form.fields.keys()) {
    const known = name.startsWith(PREFIX) ? NAMES.find((each) => PREFIX + each === name) : undefined
    if (name === NODE_TYPE) {
      if (form.value(name) !== 'leaf') throw unsupported('collections')
      continue
    }
    if (known === undefined) {
      if (unknown !== undefined) throw unknown()
      continue
    }
    const value = readField(form, known)
    if (value !== undefined) found[known] = value
  }
  return found as Partial<NodeConfig>
}

function readField(form: Form, name: ConfigName): unknown {
  const { type, options, pattern } = FIELDS[name]
  const full = PREFIX + name
  if (type === 'boolean') return form.boolean(full)
  if (type === 'list-multi') {
    const values = form.values(full)
    if (values.reduce((sum, value) => sum + Buffer.byteLength(value), values.length) > GROUPS_BYTES_MAX) throw new StanzaError('not-acceptable', `${full} is too long`)
    return values
  }
  const value = form.value(full)
  if (value === undefined) return undefined
  if (Buffer.byteLength(value) > TEXT_BYTES_MAX) throw new StanzaError('not-acceptable', `${full} is too long`)
  if (options !== undefined && !options.includes(value)) {
    // §8.1.2
    if (name === 'access_model') throw pubsubError('not-acceptable', 'unsupported-access-model')
    throw new StanzaError('not-acceptable', `${full} cannot be ${value}`)
  }
  if (pattern !== undefined && !pattern.test(value)) throw new StanzaError('not-acceptable', `${full} must be a number or max`)
  return value
}

/** §7.1.5: whether the node is as the preconditions say. */
export function meets(config: NodeConfig, wanted: Partial<NodeConfig>): boolean {
  return NAMES.every((name) => wanted[name] === undefined || JSON.stringify(wanted[name]) === JSON.stringify(config[name]))
}

/** An operator's map of fields, by names with or without `pubsub#`, as in `default_node_config`; what it does not allow is left out. */
export function configOf(map: Readonly<Record<string, unknown>>): Partial<NodeConfig> {
  const found: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(map)) {
    const name = NAMES.find((each) => each === key.replace(PREFIX, ''))
    if (name === undefined) continue
    const { type, options, pattern } = FIELDS[name]
    const text = String(value)
    if (type === 'boolean') found[name] = text === 'true' || text === '1'
    else if (type === 'list-multi') found[name] = Array.isArray(value) ? value.map(String) : [text]
    else if ((options === undefined || options.includes(text)) && (pattern === undefined || pattern.test(text))) found[name] = text
  }
  return found as Partial<NodeConfig>
}
