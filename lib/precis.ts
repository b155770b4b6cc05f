/** RFC 8264: string classes of PRECIS, by the Unicode data of the runtime, with the context rules of RFC 5892 Appendix A. */
// @ts-expect-error tr46 ships no types
import * as tr46 from 'tr46/lib/regexes.js'

type Property = 'valid' | 'freeform' | 'context' | 'disallowed'

/** Character data that the runtime's regular expressions lack: bidirectional classes, joining types, viramas. */
const data = (tr46 as { default: Record<string, RegExp> }).default
function matches(name: string, text: string): boolean {
  return (data[name] as RegExp).test(text)
}

// RFC 8264 §9.6
const EXCEPTIONS = new Map<number, Property>()
for (const c of [0xdf, 0x3c2, 0x6fd, 0x6fe, 0xf0b, 0x3007]) EXCEPTIONS.set(c, 'valid')
for (const c of [0xb7, 0x375, 0x5f3, 0x5f4, 0x30fb]) EXCEPTIONS.set(c, 'context')
for (let c = 0x660; c <= 0x669; c++) EXCEPTIONS.set(c, 'context')
for (let c = 0x6f0; c <= 0x6f9; c++) EXCEPTIONS.set(c, 'context')
for (const c of [0x640, 0x7fa, 0x302e, 0x302f, 0x3031, 0x3032, 0x3033, 0x3034, 0x3035, 0x303b]) EXCEPTIONS.set(c, 'disallowed')

const LETTER_DIGIT = /^[\p{Ll}\p{Lu}\p{Lo}\p{Nd}\p{Lm}\p{Mn}\p{Mc}]$/u
const FREEFORM = /^[\p{Lt}\p{Nl}\p{No}\p{Me}\p{Zs}\p{S}\p{P}]$/u
const IGNORABLE = /^[\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\p{Cc}\p{Cs}\p{Cn}]$/u

/** RFC 8264 §8. Unassigned code points are disallowed. */
function propertyOf(character: string): Property {
  const c = character.codePointAt(0) as number
  const exception = EXCEPTIONS.get(c)
  if (exception !== undefined) return exception
  if (c >= 0x21 && c <= 0x7e) return 'valid'
  if (c === 0x200c || c === 0x200d) return 'context'
  if (isOldHangul(c) || IGNORABLE.test(character)) return 'disallowed'
  // HasCompat
  if (character.normalize('NFKC') !== character) return 'freeform'
  if (LETTER_DIGIT.test(character)) return 'valid'
  return FREEFORM.test(character) ? 'freeform' : 'disallowed'
}

function isOldHangul(c: number): boolean {
  return (c >= 0x1100 && c <= 0x11ff) || (c >= 0xa960 && c <= 0xa97c) || (c >= 0xd7b0 && c <= 0xd7c6) || (c >= 0xd7cb && c <= 0xd7fb)
}

/** RFC 8264 §4.2: letters and digits of all scripts, and printable ASCII. */
export function isIdentifier(text: string): boolean {
  return isOf(text, false)
}

/** RFC 8264 §4.3: also spaces, symbols and punctuation. */
export function isFreeform(text: string): boolean {
  return isOf(text, true)
}

const ARABIC_INDIC = /[\u0660-\u0669]/
const EXTENDED_ARABIC_INDIC = /[\u06f0-\u06f9]/
const JAPANESE = /[\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Han}]/u

function isOf(text: string, freeform: boolean): boolean {
  // Where the context is the whole text it is looked at once, not for each character.
  // RFC 5892 Appendices A.8 and A.9: the digits of the two blocks do not mix; A.7: the middle dot.
  if (ARABIC_INDIC.test(text) && EXTENDED_ARABIC_INDIC.test(text)) return false
  if (text.includes('\u30fb') && !JAPANESE.test(text)) return false
  const characters = Array.from(text)
  for (let i = 0; i < characters.length; i++) {
    const property = propertyOf(characters[i] as string)
    if (property === 'valid' || (property === 'freeform' && freeform)) continue
    if (property === 'context' && fitsContext(characters, i)) continue
    return false
  }
  return true
}

/** RFC 5892 Appendix A: whether the character at `i` may stand where it does. */
function fitsContext(characters: readonly string[], i: number): boolean {
  const character = characters[i] as string
  const before = characters[i - 1] ?? ''
  const after = characters[i + 1] ?? ''
  switch (character) {
    case '\u200c': {
      if (before !== '' && matches('combiningClassVirama', before)) return true
      const from = i === 0 ? 0 : characters.lastIndexOf('\u200c', i - 1) + 1
      const to = characters.indexOf('\u200c', i + 1)
      return matches('validZWNJ', characters.slice(from, to < 0 ? undefined : to).join(''))
    }
    case '\u200d':
      return before !== '' && matches('combiningClassVirama', before)
    case '\u00b7':
      return before === 'l' && after === 'l'
    case '\u0375':
      return /^\p{Script=Greek}$/u.test(after)
    case '\u05f3':
    case '\u05f4':
      return /^\p{Script=Hebrew}$/u.test(before)
  }
  // The others depend on the whole text, see `isOf`.
  return true
}

/** Whether the text has characters of the classes R, AL or AN. */
export function hasRightToLeft(text: string): boolean {
  return matches('bidiDomain', text)
}

/** RFC 5893 §2, for a text that has right-to-left characters. */
export function obeysBidiRule(text: string): boolean {
  const first = Array.from(text)[0] ?? ''
  if (matches('bidiS1RTL', first)) {
    return matches('bidiS2', text) && matches('bidiS3', text) && !(matches('bidiS4EN', text) && matches('bidiS4AN', text))
  }
  return matches('bidiS1LTR', first) && matches('bidiS5', text) && matches('bidiS6', text)
}
