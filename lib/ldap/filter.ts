/** Filters of LDAP as text (RFC 4515), made of templates with placeholders such as `%u`. */

/** What stands for a placeholder: each of several values once, in this order. */
export type Substitutes = Readonly<Record<string, string | readonly string[]>>

/** A value as it stands in a filter (RFC 4515 §3): nothing in it is taken for a part of the filter. */
export function escapeValue(value: string): string {
  // oxlint-disable-next-line no-control-regex
  return value.replace(/[\0()*\\]/g, (character) => `\\${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** A value in a distinguished name (RFC 4514 §2.4). */
export function escapeDnValue(value: string): string {
  // oxlint-disable-next-line no-control-regex
  return value.replace(/[\0"+,;<>\\=]/g, (character) => `\\${character.charCodeAt(0).toString(16).padStart(2, '0')}`).replace(/^[ #]| $/g, '\\$&')
}

/** A filter with values in place of the placeholders, each escaped; a placeholder without a value stays. */
export function fillFilter(template: string, values: Substitutes): string {
  return fill(template, values, escapeValue)
}

/** A text with values in place of the placeholders. What a value holds is not looked through again. */
export function fill(template: string, values: Substitutes, escape = (value: string): string => value): string {
  const next = new Map<string, number>()
  return template.replace(/%[a-zA-Z]/g, (placeholder) => {
    const value = values[placeholder]
    if (value === undefined) return placeholder
    if (typeof value === 'string') return escape(value)
    const index = next.get(placeholder) ?? 0
    next.set(placeholder, index + 1)
    return escape(value[index] ?? '')
  })
}

/** What stands in the place of `%u` when a value is of this format, such as `%u@example.org`; letters are compared without their case. */
export function userIn(value: string, format: string): string | undefined {
  const at = format.indexOf('%u')
  if (at === -1) return undefined
  const before = format.slice(0, at).toLowerCase()
  const after = format.slice(at + 2).toLowerCase()
  const lower = value.toLowerCase()
  if (lower.length !== value.length || value.length <= before.length + after.length || !lower.startsWith(before) || !lower.endsWith(after)) return undefined
  return value.slice(before.length, value.length - after.length)
}

/** A filter without white space between its parts, and with bytes that are written one by one as the text that they are. Throws an Error that says what is wrong. */
export function normalFilter(written: string): string {
  const text = written.trim()
  const end = filterEnd(text, 0)
  if (end !== text.length) throw new Error(`"${text.slice(end, end + 20)}" follows the end of the filter`)
  const compact = text.replace(/([()&|!])\s+(?=[()])/g, '$1')
  return compact.replace(/(?:\\[89a-f][0-9a-f])+/gi, (bytes) => Buffer.from(bytes.replaceAll('\\', ''), 'hex').toString())
}

const ITEM = /^(?:[A-Za-z][\w-]*|(?=:))(?::dn)?(?::[\w.-]+)?(?:[~<>:]?=)(?:[^()\\]|\\[0-9a-fA-F]{2})*$/
const DEPTH_MAX = 50

/** Where the filter that begins at `at` ends. */
function filterEnd(text: string, at: number, depth = 0): number {
  if (text[at] !== '(') throw new Error('a filter stands in parentheses')
  if (depth > DEPTH_MAX) throw new Error('it is nested too deeply')
  let next = skip(text, at + 1)
  const operator = text[next] ?? ''
  if ('&|!'.includes(operator) && operator !== '') {
    let parts = 0
    for (next = skip(text, next + 1); text[next] === '('; next = skip(text, next)) {
      next = filterEnd(text, next, depth + 1)
      parts++
    }
    if (text[next] !== ')' || parts === 0 || (operator === '!' && parts > 1)) throw new Error(`"${operator}" needs ${operator === '!' ? 'one filter' : 'filters'}, and a closing parenthesis`)
    return next + 1
  }
  const end = text.indexOf(')', at)
  const item = text.slice(at + 1, end === -1 ? undefined : end)
  if (end === -1) throw new Error('a parenthesis is not closed')
  if (!ITEM.test(item)) throw new Error(`"${item}" is no comparison`)
  return end + 1
}

function skip(text: string, at: number): number {
  let next = at
  while (/\s/.test(text[next] ?? '')) next++
  return next
}
