// XEP-0317: Hats, version 0.3.1 (2025-08-18)
import type { Form, FormSpec } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { CommandOutcome, Commands } from '../commands-registry.ts'
import type { IqRequest } from '../extension.ts'
import { type Client, HATS_NS, type Room } from './room.ts'
import { reaches } from './room-config.ts'

const NODE = `${HATS_NS.replace(/:0$/, '')}:commands`
const HATS_MAX = 100
const WEARERS_MAX = 1000
const TEXT_MAX = 500

/** The commands of all rooms; `roomOf` finds the room that is asked. */
export function serveHats(commands: Commands, roomOf: (jid: Jid) => Room | undefined): void {
  const room = ({ to }: IqRequest): Room => roomOf(to) ?? fail('item-not-found', 'there is no such room')
  const isAdmin = (request: IqRequest): boolean => {
    const found = roomOf(request.to)
    return found !== undefined && reaches(found.affiliationOf(request.from), 'admin')
  }
  const isOccupant = (request: IqRequest): boolean => isAdmin(request) || roomOf(request.to)?.client(request.from) !== undefined
  const add = (node: string, name: string, mayRun: (request: IqRequest) => boolean, form: (room: Room) => FormSpec, submit: (room: Room, form: Form) => void): void => {
    commands.add({ node: `${NODE}:${node}`, name, mayRun, run: (request): CommandOutcome => ({
      form: { formType: NODE, title: name, ...form(room(request)) },
      submit(filled) {
        if (filled.kind === 'cancel') return {}
        submit(room(request), filled)
        return {}
      },
    }) })
  }
  const uris = (found: Room): { value: string; label: string }[] => Array.from(found.hats, ([value, { title }]) => ({ value, label: title }))

  add('create', 'Create a hat', isAdmin, () => ({ fields: [
    { var: 'hats#title', type: 'text-single', label: 'Title', required: true },
    { var: 'hats#uri', type: 'text-single', label: 'URI', required: true },
    { var: 'hats#hue', type: 'text-single', label: 'Hue' },
  ] }), (found, form) => {
    const title = form.value('hats#title') ?? ''
    const uri = uriIn(form)
    const hue = form.value('hats#hue') ?? ''
    if (title.length > TEXT_MAX || uri.length > TEXT_MAX) fail('not-acceptable', `at most ${TEXT_MAX} characters`)
    if (hue !== '' && !(/^\d{1,3}(?:\.\d{1,10})?$/.test(hue) && Number(hue) < 360)) fail('not-acceptable', 'a hue is an angle')
    if (found.hats.size >= HATS_MAX && !found.hats.has(uri)) fail('resource-constraint', `at most ${HATS_MAX} hats`)
    found.hats.set(uri, { title, hue })
    changed(found, (worn) => worn.includes(uri))
  })
  add('destroy', 'Destroy a hat', isAdmin, (found) => ({ fields: [{ var: 'hats#uri', type: 'list-single', label: 'Hat', options: uris(found) }] }), (found, form) => {
    const uri = known(found, form)
    const wearers = new Set(Array.from(found.wearers).filter(([, worn]) => worn.includes(uri)).map(([bare]) => bare))
    found.hats.delete(uri)
    for (const bare of wearers) take(found, bare, uri)
    changed(found, (_, bare) => wearers.has(bare))
  })
  add('assign', 'Assign a hat', isAdmin, (found) => ({ fields: [
    { var: 'hats#jid', type: 'jid-single', label: 'Address', required: true },
    { var: 'hats#uri', type: 'list-single', label: 'Hat', options: uris(found) },
  ] }), (found, form) => {
    const bare = wearerIn(form)
    const uri = known(found, form)
    const worn = found.wearers.get(bare) ?? []
    if (worn.includes(uri)) return
    if (worn.length === 0 && found.wearers.size >= WEARERS_MAX) fail('resource-constraint', `at most ${WEARERS_MAX} addresses with hats`)
    found.wearers.set(bare, [...worn, uri])
    found.relate(bare)
    changed(found, (_, each) => each === bare)
  })
  add('unassign', 'Take a hat away', isAdmin, (found) => ({ fields: [
    { var: 'hats#jid', type: 'jid-single', label: 'Address', required: true },
    { var: 'hats#uri', type: 'list-single', label: 'Hat', options: uris(found) },
  ] }), (found, form) => {
    const bare = wearerIn(form)
    const uri = known(found, form)
    if (found.wearers.get(bare)?.includes(uri) !== true) fail('item-not-found', 'the hat is not worn there')
    take(found, bare, uri)
    changed(found, (_, each) => each === bare)
  })

  const list = (node: string, name: string, mayRun: (request: IqRequest) => boolean, table: (room: Room) => Pick<FormSpec, 'reported' | 'items'>): void => {
    commands.add({ node: `${NODE}:${node}`, name, mayRun, run: (request) => ({ result: { title: name, ...table(room(request)) } }) })
  }
  list('list', 'List of hats', isOccupant, (found) => ({
    reported: [{ var: 'hats#title' }, { var: 'hats#uri' }, { var: 'hats#hue' }],
    items: Array.from(found.hats, ([uri, { title, hue }]) => [{ var: 'hats#title', value: title }, { var: 'hats#uri', value: uri }, { var: 'hats#hue', value: hue }]),
  }))
  list('list-assigned', 'List of assigned hats', isAdmin, (found) => ({
    reported: [{ var: 'hats#jid' }, { var: 'hats#uri' }, { var: 'hats#title' }, { var: 'hats#hue' }],
    items: Array.from(found.wearers).flatMap(([bare, worn]) => worn.map((uri) => [
      { var: 'hats#jid', value: bare }, { var: 'hats#uri', value: uri }, { var: 'hats#title', value: found.hats.get(uri)?.title }, { var: 'hats#hue', value: found.hats.get(uri)?.hue },
    ])),
  }))
}

function uriIn(form: Form): string {
  const uri = form.value('hats#uri') ?? form.value('hat') ?? ''
  return uri === '' ? fail('bad-request', 'the URI of the hat is missing') : uri
}

function known(room: Room, form: Form): string {
  const uri = uriIn(form)
  return room.hats.has(uri) ? uri : fail('item-not-found', 'there is no such hat')
}

function wearerIn(form: Form): string {
  const jid = Jid.tryParse(form.value('hats#jid') ?? '')
  return jid === undefined ? fail('jid-malformed') : jid.bare
}

function take(room: Room, bare: string, uri: string): void {
  const left = (room.wearers.get(bare) ?? []).filter((each) => each !== uri)
  if (left.length === 0) room.wearers.delete(bare)
  else room.wearers.set(bare, left)
  room.relate(bare)
}

/** Keeps the change, and shows the hats of those it is about. */
function changed(room: Room, about: (worn: readonly string[], bare: string) => boolean): void {
  room.save()
  room.announce("<status code='104'/>")
  for (const occupant of room.occupants.values()) {
    if (about(room.wearers.get(occupant.bare) ?? [], occupant.bare)) room.tell(occupant, occupant.clients.at(-1) as Client)
  }
}

function fail(condition: 'item-not-found' | 'not-acceptable' | 'resource-constraint' | 'bad-request' | 'jid-malformed', text?: string): never {
  throw new StanzaError(condition, text)
}
