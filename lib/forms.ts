/**
 * XEP-0004: Data Forms, version 2.13.2 (2024-08-30), and XEP-0068: Field Standardization, version 1.3.0 (2020-05-05).
 * Forms are built from plain data and read strictly: what the specifications forbid is a `bad-request`.
 */
import { StanzaError } from './stanza/errors.ts'
import { type Element, xml } from './xml/element.ts'

export const FORMS_NS = 'jabber:x:data'
/** XEP-0122: Data Forms Validation. */
export const VALIDATE_NS = 'http://jabber.org/protocol/xdata-validate'

const FORM_TYPES = ['form', 'submit', 'cancel', 'result'] as const
export type FormKind = (typeof FORM_TYPES)[number]

const FIELD_TYPES = ['boolean', 'fixed', 'hidden', 'jid-multi', 'jid-single', 'list-multi', 'list-single', 'text-multi', 'text-private', 'text-single'] as const
export type FieldType = (typeof FIELD_TYPES)[number]

/** Types whose field holds more than one value (XEP-0004 §3.2). */
const MULTI: ReadonlySet<string> = new Set(['list-multi', 'jid-multi', 'text-multi', 'hidden', 'fixed'])

export interface FieldSpec {
  /** Only `fixed` fields may go without. */
  readonly var?: string
  readonly type?: FieldType
  readonly label?: string
  readonly desc?: string
  readonly required?: boolean
  readonly value?: string | number | boolean | readonly string[] | undefined
  readonly options?: readonly (string | { readonly value: string; readonly label?: string })[]
  /** More children, such as XEP-0122's `<validate/>` or XEP-0221's `<media/>`. */
  readonly extra?: readonly Element[]
}

export interface FormSpec {
  /** XEP-0068: the value of the hidden FORM_TYPE field, which comes first. */
  readonly formType?: string
  readonly title?: string
  readonly instructions?: string | readonly string[]
  readonly fields?: readonly FieldSpec[]
  /** A table of results (XEP-0004 §3.4). */
  readonly reported?: readonly { readonly var: string; readonly type?: FieldType; readonly label?: string }[]
  readonly items?: readonly (readonly FieldSpec[])[]
}

/** Builds a form's `<x/>`. */
export function buildForm(kind: FormKind, spec: FormSpec = {}): Element {
  const instructions = spec.instructions === undefined ? [] : typeof spec.instructions === 'string' ? [spec.instructions] : spec.instructions
  return xml(
    'x',
    { xmlns: FORMS_NS, type: kind },
    spec.title !== undefined && xml('title', null, spec.title),
    instructions.map((line) => xml('instructions', null, line)),
    // XEP-0068 §3.1: in a form of type `submit` the type of FORM_TYPE may be left out; hidden is right everywhere.
    spec.formType !== undefined && xml('field', { var: 'FORM_TYPE', type: 'hidden' }, xml('value', null, spec.formType)),
    spec.reported && xml('reported', null, spec.reported.map((field) => xml('field', { var: field.var, type: field.type, label: field.label }))),
    (spec.fields ?? []).map(buildField),
    (spec.items ?? []).map((item) => xml('item', null, item.map(buildField))),
  )
}

function buildField(field: FieldSpec): Element {
  return xml(
    'field',
    { var: field.var, type: field.type, label: field.label },
    field.desc !== undefined && xml('desc', null, field.desc),
    field.required === true && xml('required'),
    field.extra,
    valuesOf(field).map((value) => xml('value', null, value)),
    (field.options ?? []).map((option) => {
      const { value, label } = typeof option === 'string' ? { value: option, label: undefined } : option
      return xml('option', { label }, xml('value', null, value))
    }),
  )
}

function valuesOf(field: FieldSpec): readonly string[] {
  const value = field.value
  if (value === undefined) return []
  if (typeof value === 'boolean') return [value ? '1' : '0']
  if (typeof value === 'number') return [String(value)]
  if (typeof value !== 'string') return value
  // XEP-0004 §3.3: the lines of a text-multi field are values of their own.
  return field.type === 'text-multi' ? value.split('\n') : [value]
}

export interface FormField {
  readonly var: string
  readonly type: FieldType | undefined
  readonly values: readonly string[]
  /** The values offered by a `list-single` or `list-multi` field. */
  readonly options: readonly string[]
}

/** A form as it was read. The getters throw `bad-request` when a field is there with a value of another kind. */
export class Form {
  readonly kind: FormKind
  readonly formType: string | undefined
  /** By `var`, in order, without FORM_TYPE. */
  readonly fields: ReadonlyMap<string, FormField>

  constructor(kind: FormKind, formType: string | undefined, fields: ReadonlyMap<string, FormField>) {
    this.kind = kind
    this.formType = formType
    this.fields = fields
  }

  has(name: string): boolean {
    return this.fields.has(name)
  }

  /** The one value; undefined when the field is absent or has none (XEP-0004 §3.2.1). */
  value(name: string): string | undefined {
    const values = this.fields.get(name)?.values ?? []
    if (values.length > 1) throw new StanzaError('bad-request', `the field ${name} takes one value`)
    return values[0]
  }

  values(name: string): readonly string[] {
    return this.fields.get(name)?.values ?? []
  }

  /** The lines of a `text-multi` field as one text. */
  text(name: string): string | undefined {
    const field = this.fields.get(name)
    return field?.values.join('\n')
  }

  boolean(name: string): boolean | undefined {
    const value = this.value(name)
    if (value === undefined) return undefined
    if (value === '1' || value === 'true') return true
    if (value === '0' || value === 'false') return false
    throw new StanzaError('bad-request', `the field ${name} must be true or false`)
  }

  /** A whole number that is not negative. */
  number(name: string): number | undefined {
    const value = this.value(name)
    if (value === undefined) return undefined
    if (!/^\d{1,15}$/.test(value)) throw new StanzaError('bad-request', `the field ${name} must be a number`)
    return Number(value)
  }
}

/**
 * Reads an `<x xmlns='jabber:x:data'/>`. `kinds`: the forms that make sense here. `formType`: what FORM_TYPE must be
 * (XEP-0068 §3.4); `formTypeOptional` lets a submission leave it out.
 */
export function parseForm(x: Element, expect: { readonly kinds?: readonly FormKind[]; readonly formType?: string; readonly formTypeOptional?: boolean } = {}): Form {
  if (!x.is('x', FORMS_NS)) throw new StanzaError('bad-request', 'no data form')
  const kind = FORM_TYPES.find((each) => each === x.attrs['type'])
  if (kind === undefined) throw new StanzaError('bad-request', 'a data form must be of type form, submit, cancel or result')
  if (expect.kinds && !expect.kinds.includes(kind)) throw new StanzaError('bad-request', `a data form of type ${kind} makes no sense here`)
  const fields = new Map<string, FormField>()
  let formType: string | undefined
  for (const element of x.getChildren('field', FORMS_NS)) {
    const field = readField(element)
    if (field === undefined) continue
    if (field.var === 'FORM_TYPE') {
      // XEP-0068 §3.1: hidden, except that a submission may leave the type out.
      if (formType !== undefined || field.values.length !== 1 || (field.type !== undefined && field.type !== 'hidden' && kind !== 'submit')) {
        throw new StanzaError('bad-request', 'FORM_TYPE must be one hidden field with one value')
      }
      formType = field.values[0]
    } else if (fields.has(field.var)) throw new StanzaError('bad-request', `the field ${field.var} is there twice`)
    else fields.set(field.var, field)
  }
  // A cancelled form carries no fields (XEP-0004 §3.2).
  if (expect.formType !== undefined && kind !== 'cancel' && formType !== expect.formType && !(formType === undefined && expect.formTypeOptional === true)) {
    throw new StanzaError('bad-request', `FORM_TYPE must be ${expect.formType}`)
  }
  return new Form(kind, formType, fields)
}

function readField(element: Element): FormField | undefined {
  const written = element.attrs['type']
  const type = FIELD_TYPES.find((each) => each === written)
  if (written !== undefined && type === undefined) throw new StanzaError('bad-request', `${written} is no type of field`)
  const name = element.attrs['var']
  if (name === undefined || name === '') {
    if (type === 'fixed') return undefined
    throw new StanzaError('bad-request', 'a field without a var')
  }
  const values = element.getChildren('value', FORMS_NS).map((value) => value.text())
  if (values.length > 1 && type !== undefined && !MULTI.has(type)) throw new StanzaError('bad-request', `the field ${name} takes one value`)
  const options = element.getChildren('option', FORMS_NS).map((option) => {
    const inner = option.getChildren('value', FORMS_NS)
    if (inner.length !== 1) throw new StanzaError('bad-request', `an option of ${name} must have one value`)
    return (inner[0] as Element).text()
  })
  return { var: name, type, values, options }
}
