/** What owners choose for a room (XEP-0045 §10.2), as data, as a form and as disco features. */
import { buildForm, type FieldSpec, FORMS_NS, parseForm } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { Element } from '../../../lib/xml/element.ts'
import type { Value } from '../../storage/shapes.ts'

export type Affiliation = 'owner' | 'admin' | 'member' | 'none' | 'outcast'
export type Role = 'moderator' | 'participant' | 'visitor' | 'none'

export const AFFILIATIONS: readonly Affiliation[] = ['outcast', 'none', 'member', 'admin', 'owner']
export const ROLES: readonly Role[] = ['none', 'visitor', 'participant', 'moderator']
export const ROOM_CONFIG = 'http://jabber.org/protocol/muc#roomconfig'

/** Whether `a` has at least the privileges of `b`. */
export function reaches(a: Affiliation, b: Affiliation): boolean {
  return AFFILIATIONS.indexOf(a) >= AFFILIATIONS.indexOf(b)
}

export type Whom = 'anyone' | 'participants' | 'moderators' | 'none'

export interface RoomConfig {
  readonly [key: string]: Value
  readonly name: string
  readonly description: string
  readonly lang: string
  readonly persistent: boolean
  readonly public: boolean
  readonly membersOnly: boolean
  /** Who has no affiliation enters without voice. */
  readonly moderated: boolean
  readonly passwordProtected: boolean
  readonly password: string
  /** Everybody sees real addresses; otherwise moderators alone. */
  readonly nonAnonymous: boolean
  readonly allowInvites: boolean
  readonly changeSubject: boolean
  readonly allowPm: Whom
  /** 0: as many as the service lets in. */
  readonly maxUsers: number
  readonly logging: boolean
  readonly archive: boolean
  readonly historyLength: number
  readonly presenceBroadcast: readonly Role[]
  readonly memberList: readonly Role[]
  /** Anybody may list the occupants. */
  readonly publicList: boolean
  readonly visitorNickChange: boolean
  readonly visitorStatus: boolean
  readonly queryUsers: boolean
}

/** What an owner may choose here. */
export interface ConfigLimits {
  readonly mayPersist: boolean
  readonly mayArchive: boolean
  readonly maxUsers: number
  readonly historyMax: number
  readonly nameMax: number
  readonly descriptionMax: number
  readonly passwordMax: number
}

const P = 'muc#roomconfig_'
const ROLE_OPTIONS = ['moderator', 'participant', 'visitor'] as const
const ARCHIVE_FIELDS = [`${P}enablearchiving`, 'mam', `${P}mam`]
const INVITE_FIELDS = [`${P}allowinvites`, '{http://prosody.im/protocol/muc}roomconfig_allowmemberinvites']

/** The form of a room as it stands. `admins` and `owners` are the full lists. */
export function configForm(config: RoomConfig, limits: ConfigLimits, owners: readonly string[], admins: readonly string[]): Element {
  const sizes = [...new Set([10, 20, 50, 100, 200, 500, 1000, limits.maxUsers, config.maxUsers])].filter((size) => size > 0 && size <= limits.maxUsers).sort((a, b) => a - b)
  const fields: (FieldSpec | false)[] = [
    { var: `${P}roomname`, type: 'text-single', label: 'Name', value: config.name },
    { var: `${P}roomdesc`, type: 'text-single', label: 'Description', value: config.description },
    { var: `${P}lang`, type: 'text-single', label: 'Language', value: config.lang },
    limits.mayPersist && { var: `${P}persistentroom`, type: 'boolean', label: 'Keep the room when nobody is in it', value: config.persistent },
    { var: `${P}publicroom`, type: 'boolean', label: 'List the room', value: config.public },
    { var: 'public_list', type: 'boolean', label: 'Anybody may list the occupants', value: config.publicList },
    { var: `${P}passwordprotectedroom`, type: 'boolean', label: 'A password is needed to enter', value: config.passwordProtected },
    { var: `${P}roomsecret`, type: 'text-private', label: 'Password', value: config.password },
    { var: `${P}getmemberlist`, type: 'list-multi', label: 'Who may get the list of members', value: config.memberList, options: ROLE_OPTIONS },
    { var: `${P}maxusers`, type: 'list-single', label: 'Most occupants', value: config.maxUsers === 0 ? 'none' : config.maxUsers, options: [...sizes.map(String), { value: 'none', label: 'No limit of its own' }] },
    { var: `${P}presencebroadcast`, type: 'list-multi', label: 'Roles whose presence is shown', value: config.presenceBroadcast, options: ROLE_OPTIONS },
    { var: `${P}membersonly`, type: 'boolean', label: 'Only members may enter', value: config.membersOnly },
    { var: `${P}moderatedroom`, type: 'boolean', label: 'Only those with voice may speak', value: config.moderated },
    { var: `${P}whois`, type: 'list-single', label: 'Who sees real addresses', value: config.nonAnonymous ? 'anyone' : 'moderators', options: [{ value: 'moderators', label: 'Moderators' }, { value: 'anyone', label: 'Anyone' }] },
    { var: `${P}allowinvites`, type: 'boolean', label: 'Occupants may invite others', value: config.allowInvites },
    { var: `${P}changesubject`, type: 'boolean', label: 'Occupants may change the subject', value: config.changeSubject },
    { var: `${P}allowpm`, type: 'list-single', label: 'Who may send private messages', value: config.allowPm, options: ['anyone', 'participants', 'moderators', 'none'] },
    { var: 'allow_query_users', type: 'boolean', label: 'Occupants may send requests to each other', value: config.queryUsers },
    { var: 'muc#roomconfig_allowvisitorstatus', type: 'boolean', label: 'Visitors may change their status', value: config.visitorStatus },
    { var: 'muc#roomconfig_allowvisitornickchange', type: 'boolean', label: 'Visitors may change their nickname', value: config.visitorNickChange },
    limits.mayArchive && { var: `${P}enablelogging`, type: 'boolean', label: 'Tell who enters that the room is logged', value: config.logging },
    limits.mayArchive && { var: `${P}enablearchiving`, type: 'boolean', label: 'Keep messages', value: config.archive },
    { var: 'muc#maxhistoryfetch', type: 'text-single', label: 'Most messages shown to who enters', value: config.historyLength },
    { var: `${P}roomadmins`, type: 'jid-multi', label: 'Admins', value: admins },
    { var: `${P}roomowners`, type: 'jid-multi', label: 'Owners', value: owners },
  ]
  return buildForm('form', { formType: ROOM_CONFIG, title: 'Room configuration', fields: fields.filter((field) => field !== false) })
}

export interface Submission {
  readonly config: RoomConfig
  /** Full lists of bare JIDs, when the form has them. */
  readonly owners: readonly string[] | undefined
  readonly admins: readonly string[] | undefined
}

/** Reads a submitted form; fields that are not known are ignored, fields that are missing stay. Throws `not-acceptable` (§10.1.3). */
export function readConfig(x: Element, before: RoomConfig, limits: ConfigLimits): Submission {
  // §10.1.2: an empty form accepts what is there.
  if (x.getChildren('field', FORMS_NS).length === 0) return { config: before, owners: undefined, admins: undefined }
  const form = parseForm(x, { kinds: ['submit'], formType: ROOM_CONFIG, formTypeOptional: true })
  const refuse = (text: string): never => { throw new StanzaError('not-acceptable', text) }
  const flag = (was: boolean, ...names: readonly string[]): boolean => names.map((name) => form.boolean(name)).find((value) => value !== undefined) ?? was
  const text = (name: string, was: string, max: number): string => {
    const value = form.has(name) ? form.text(name) ?? '' : was
    return value.length > max ? refuse(`${name} may have ${max} characters`) : value
  }
  const choice = <T extends string>(name: string, was: T, allowed: readonly T[]): T => {
    const value = form.value(name)
    return value === undefined ? was : allowed.find((each) => each === value) ?? refuse(`${value} is no value of ${name}`)
  }
  const roles = (name: string, was: readonly Role[]): readonly Role[] => form.has(name) ? form.values(name).map((value) => ROLE_OPTIONS.find((role) => role === value) ?? refuse(`${value} is no value of ${name}`)) : was
  const number = (name: string, was: number, max: number): number => {
    const value = form.value(name)
    if (value === undefined || value === '') return was
    if (value === 'none') return 0
    return /^\d{1,9}$/.test(value) && Number(value) <= max ? Number(value) : refuse(`${name} must be a number up to ${max}`)
  }
  const addresses = (name: string): readonly string[] | undefined => form.has(name)
    ? [...new Set(form.values(name).filter((value) => value.trim() !== '').map((value) => Jid.tryParse(value.trim())?.bare ?? refuse(`${value} is no address`)))]
    : undefined
  const config: RoomConfig = {
    name: text(`${P}roomname`, before.name, limits.nameMax),
    description: text(`${P}roomdesc`, before.description, limits.descriptionMax),
    lang: text(`${P}lang`, before.lang, 64),
    persistent: limits.mayPersist ? flag(before.persistent, `${P}persistentroom`) : before.persistent,
    public: flag(before.public, `${P}publicroom`),
    publicList: flag(before.publicList, 'public_list'),
    membersOnly: flag(before.membersOnly, `${P}membersonly`),
    moderated: flag(before.moderated, `${P}moderatedroom`),
    passwordProtected: flag(before.passwordProtected, `${P}passwordprotectedroom`),
    password: text(`${P}roomsecret`, before.password, limits.passwordMax),
    // "none" is what fully anonymous rooms were asked for with; these are no longer part of the specification.
    nonAnonymous: choice(`${P}whois`, before.nonAnonymous ? 'anyone' : 'moderators', ['anyone', 'moderators', 'none']) === 'anyone',
    allowInvites: flag(before.allowInvites, ...INVITE_FIELDS),
    changeSubject: flag(before.changeSubject, `${P}changesubject`),
    allowPm: choice<Whom>(`${P}allowpm`, before.allowPm, ['anyone', 'participants', 'moderators', 'none']),
    maxUsers: number(`${P}maxusers`, before.maxUsers, limits.maxUsers),
    logging: limits.mayArchive ? flag(before.logging, `${P}enablelogging`) : before.logging,
    archive: limits.mayArchive ? flag(before.archive, ...ARCHIVE_FIELDS) : before.archive,
    historyLength: number('muc#maxhistoryfetch', before.historyLength, limits.historyMax),
    presenceBroadcast: roles(`${P}presencebroadcast`, before.presenceBroadcast),
    memberList: roles(`${P}getmemberlist`, before.memberList),
    queryUsers: flag(before.queryUsers, 'allow_query_users'),
    visitorStatus: flag(before.visitorStatus, 'muc#roomconfig_allowvisitorstatus'),
    visitorNickChange: flag(before.visitorNickChange, 'muc#roomconfig_allowvisitornickchange'),
  }
  // §10.1.3
  if (config.passwordProtected && config.password === '') refuse('a room that needs a password must have one')
  return { config, owners: addresses(`${P}roomowners`), admins: addresses(`${P}roomadmins`) }
}

/** §15.3: what disco#info says of the room. */
export function featuresOf(config: RoomConfig): string[] {
  return [
    config.public ? 'muc_public' : 'muc_hidden',
    config.membersOnly ? 'muc_membersonly' : 'muc_open',
    config.moderated ? 'muc_moderated' : 'muc_unmoderated',
    config.nonAnonymous ? 'muc_nonanonymous' : 'muc_semianonymous',
    config.passwordProtected ? 'muc_passwordprotected' : 'muc_unsecured',
    config.persistent ? 'muc_persistent' : 'muc_temporary',
  ]
}

/** §10.2.1: the codes that tell occupants what has changed; none when nothing has. */
export function changeCodes(before: RoomConfig, after: RoomConfig): number[] {
  const codes: number[] = []
  if (before.logging !== after.logging) codes.push(after.logging ? 170 : 171)
  if (before.nonAnonymous !== after.nonAnonymous) codes.push(after.nonAnonymous ? 172 : 173)
  const seen = new Set(['logging', 'nonAnonymous'])
  if (Object.keys(after).some((key) => !seen.has(key) && JSON.stringify(before[key]) !== JSON.stringify(after[key]))) codes.push(104)
  return codes
}
