/**
 * XEP-0050 as data: the commands of a host or of a service, and the sessions of those who run them.
 *
 * `createCommands` is what extensions get as the part `commands`. The feature is in disco#info once there is a command.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { buildForm, FORMS_NS, type Form, type FormSpec, parseForm } from '../../lib/forms.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { DISCO_INFO_NS, DISCO_ITEMS_NS } from './disco-registry.ts'
import type { DiscoItem, DiscoRegistry, IqRegistry, IqRequest } from './extension.ts'

export const COMMANDS_NS = 'http://jabber.org/protocol/commands'

/** How long a stage waits for its form, ms. */
const SESSION_MS = 30 * 60_000
const SESSIONS_MAX = 10_000
/** Of one account; its oldest ends when there is one more. */
const SESSIONS_PER_OWNER = 20
const STAGES_MAX = 20
const ACTIONS = ['execute', 'cancel', 'prev', 'next', 'complete'] as const

export interface Command {
  readonly node: string
  readonly name: string
  /** Who sees it listed and may run it. */
  mayRun(request: IqRequest): boolean | Promise<boolean>
  /** The first stage, or the result at once. Throw a StanzaError to refuse. */
  run(request: IqRequest): CommandOutcome | Promise<CommandOutcome>
}

/** A form to fill in. */
export interface CommandStage {
  readonly form: FormSpec
  /** Whether another form follows (action `next`); otherwise the command is completed with this one. */
  readonly more?: boolean
  /** Takes the form; all its required fields have values. A StanzaError leaves the stage as it is, to be tried again. */
  submit(form: Form, request: IqRequest): CommandOutcome | Promise<CommandOutcome>
}

/** The end of a command (§3.6: a note of type `error` says that it failed). */
export interface CommandResult {
  /** A form of type `result`, or the element itself. */
  readonly result?: FormSpec | Element
  readonly notes?: readonly { readonly type: 'info' | 'warn' | 'error'; readonly text: string }[]
}

export type CommandOutcome = CommandStage | CommandResult

export interface Commands {
  add(command: Command): void
  /** The item under which a list of nodes leads to the commands. */
  readonly listItem: DiscoItem
}

interface CommandSession {
  readonly owner: string
  /** Who asks, and who is asked (§3.3). */
  readonly parties: string
  readonly node: string
  /** The forms shown so far; the last one is to be filled in. */
  readonly stages: CommandStage[]
  until: number
  busy: boolean
}

/** The commands of an entity `jid`, or of all that answer by these registries at the target `host`; `request.to` tells them apart. */
export function createCommands({ jid, iq, disco, now }: { readonly jid: string; readonly iq: IqRegistry; readonly disco: DiscoRegistry; readonly now: () => number }): Commands {
  const commands = new Map<string, Command>()
  /** In order of their last use. */
  const sessions = new Map<string, CommandSession>()
  const secret = randomBytes(32)

  function serve(): void {
    disco.feature('host', COMMANDS_NS)
    // §2.2
    disco.node('host', COMMANDS_NS, {
      info: () => xml('query', { xmlns: DISCO_INFO_NS, node: COMMANDS_NS },
        xml('identity', { category: 'automation', type: 'command-list', name: 'Commands' }),
        xml('feature', { var: DISCO_INFO_NS }), xml('feature', { var: DISCO_ITEMS_NS })),
      async items(request) {
        const allowed: Command[] = []
        for (const command of commands.values()) if (await command.mayRun(request)) allowed.push(command)
        return xml('query', { xmlns: DISCO_ITEMS_NS, node: COMMANDS_NS }, allowed.map(({ node, name }) => xml('item', { jid: request.to.toString(), node, name })))
      },
    })
    iq.set(`${COMMANDS_NS} command`, 'host', answer)
  }

  async function answer(request: IqRequest): Promise<Element> {
    const { payload } = request
    const command = commands.get(payload.attrs['node'] ?? '')
    if (command === undefined) throw new StanzaError('item-not-found')
    if (!await command.mayRun(request)) throw new StanzaError('forbidden', undefined, { type: 'cancel' })
    const action = ACTIONS.find((each) => each === (payload.attrs['action'] ?? 'execute'))
    if (action === undefined) throw failure('malformed-action')
    const id = payload.attrs['sessionid']
    expire()
    if (id === undefined) return begin(command, action, request)
    const session = sessions.get(id)
    if (session === undefined || session.node !== command.node || session.parties !== partiesOf(request)) {
      throw isOurs(id, command.node, partiesOf(request)) ? failure('session-expired') : failure('bad-sessionid')
    }
    if (session.busy) throw new StanzaError('unexpected-request')
    session.busy = true
    try {
      return await proceed(command, action, id, session, request)
    } finally {
      session.busy = false
    }
  }

  async function begin(command: Command, action: typeof ACTIONS[number], request: IqRequest): Promise<Element> {
    if (action === 'cancel' || action === 'prev') throw failure('bad-action')
    const first = await command.run(request)
    if (!('submit' in first)) return completed(command, undefined, first)
    // Who knows the form may send it at once.
    if (request.payload.getChild('x', FORMS_NS) !== undefined) {
      const next = await submit(first, action, request)
      if (!('submit' in next)) return completed(command, undefined, next)
      return open(command, [first, next], request)
    }
    if (action === 'complete') throw failure('bad-payload')
    return open(command, [first], request)
  }

  async function proceed(command: Command, action: typeof ACTIONS[number], id: string, session: CommandSession, request: IqRequest): Promise<Element> {
    const { stages } = session
    if (action === 'cancel') {
      sessions.delete(id)
      return xml('command', { xmlns: COMMANDS_NS, node: command.node, sessionid: id, status: 'canceled' })
    }
    if (action === 'prev') {
      if (stages.length < 2) throw failure('bad-action')
      stages.pop()
      return executing(command, id, session)
    }
    const next = await submit(stages.at(-1) as CommandStage, action, request)
    if ('submit' in next) {
      if (stages.length >= STAGES_MAX) throw new StanzaError('resource-constraint')
      stages.push(next)
      return executing(command, id, session)
    }
    sessions.delete(id)
    return completed(command, id, next)
  }

  async function submit(stage: CommandStage, action: typeof ACTIONS[number], request: IqRequest): Promise<CommandOutcome> {
    // §3.4: `execute` is the stage's default action.
    if (action !== 'execute' && action !== (stage.more === true ? 'next' : 'complete')) throw failure('bad-action')
    const x = request.payload.getChild('x', FORMS_NS)
    if (x === undefined) throw failure('bad-payload', 'The form is missing')
    try {
      // §3.5.1: a form of type `cancel` counts as one that is submitted.
      const form = parseForm(x, { kinds: ['submit', 'cancel'] })
      for (const field of stage.form.fields ?? []) {
        if (field.required === true && form.values(field.var ?? '').every((value) => value === '')) throw failure('bad-payload', `The field ${field.label ?? field.var} is required`)
      }
      return await stage.submit(form, request)
    } catch (error) {
      if (error instanceof StanzaError && error.condition === 'bad-request' && error.extra === undefined) throw failure('bad-payload', error.text)
      throw error
    }
  }

  function open(command: Command, stages: CommandStage[], request: IqRequest): Element {
    const { from } = request
    const own = [...sessions].filter(([, session]) => session.owner === from.bare)
    if (own.length >= SESSIONS_PER_OWNER) sessions.delete((own[0] as [string, unknown])[0])
    if (sessions.size >= SESSIONS_MAX) throw new StanzaError('resource-constraint')
    const id = makeId(command.node, partiesOf(request))
    const session: CommandSession = { owner: from.bare, parties: partiesOf(request), node: command.node, stages, until: 0, busy: false }
    return executing(command, id, session)
  }

  function executing(command: Command, id: string, session: CommandSession): Element {
    session.until = now() + SESSION_MS
    sessions.delete(id)
    sessions.set(id, session)
    const stage = session.stages.at(-1) as CommandStage
    const forward = stage.more === true ? 'next' : 'complete'
    return xml('command', { xmlns: COMMANDS_NS, node: command.node, sessionid: id, status: 'executing', 'xml:lang': 'en' },
      xml('actions', { execute: forward }, session.stages.length > 1 && xml('prev'), xml(forward)),
      buildForm('form', stage.form))
  }

  function completed(command: Command, id: string | undefined, { result, notes = [] }: CommandResult): Element {
    return xml('command', { xmlns: COMMANDS_NS, node: command.node, sessionid: id ?? randomId(12), status: 'completed', 'xml:lang': 'en' },
      result !== undefined && ('is' in result ? result : buildForm('result', result)),
      notes.map(({ type, text }) => xml('note', { type }, text)))
  }

  function expire(): void {
    for (const [id, session] of sessions) {
      if (session.until > now()) break
      sessions.delete(id)
    }
  }

  /** A session that has ended is told from one that never was without being remembered. */
  function makeId(node: string, parties: string): string {
    const random = randomId(12)
    return `${random}.${sign(random, node, parties)}`
  }
  function isOurs(id: string, node: string, parties: string): boolean {
    const [random = '', signature = ''] = id.split('.')
    const expected = Buffer.from(sign(random, node, parties))
    const given = Buffer.from(signature)
    return given.length === expected.length && timingSafeEqual(given, expected)
  }
  function sign(...texts: string[]): string {
    return createHmac('sha256', secret).update(texts.join('\0')).digest('base64url').slice(0, 16)
  }

  return {
    listItem: { jid, node: COMMANDS_NS, name: 'Commands' },
    add(command) {
      if (commands.has(command.node)) throw new Error(`two commands ${command.node}`)
      if (commands.size === 0) serve()
      commands.set(command.node, command)
      disco.node('host', command.node, {
        async info(request) {
          if (!await command.mayRun(request)) throw new StanzaError('forbidden') // §2.2
          return xml('query', { xmlns: DISCO_INFO_NS, node: command.node },
            xml('identity', { category: 'automation', type: 'command-node', name: command.name }),
            xml('feature', { var: COMMANDS_NS }), xml('feature', { var: FORMS_NS }))
        },
      })
    },
  }
}

function partiesOf({ from, to }: IqRequest): string {
  return `${from.toString()} ${to.toString()}`
}

/** §4.4: the specific conditions, each with its general one. */
function failure(condition: 'malformed-action' | 'bad-action' | 'bad-payload' | 'bad-sessionid' | 'session-expired', text?: string): StanzaError {
  return new StanzaError(condition === 'session-expired' ? 'not-allowed' : 'bad-request', text, { extra: `<${condition} xmlns='${COMMANDS_NS}'/>` })
}
