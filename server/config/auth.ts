/** The part `auth` of the key `tidings`: passwords in processes of their own. */
import type { MapEntry, ConfigNode } from './node.ts'
import { entryOf, show, textOf } from './node.ts'
import { bool, list, OptionError, text, type OptionTable, type OptionType } from './options.ts'
import type { Problem } from './problems.ts'

export interface AuthOptions {
  /** Auth processes that this process asks; empty when it checks passwords itself. */
  readonly servers: readonly AuthAddress[]
  /** Where this process answers, as an auth process. */
  readonly listen: AuthAddress
  /** Host and port by which others reach it; as `listen` unless set. */
  readonly address: AuthAddress | undefined
  /** Known to chat and auth processes, and nobody else. */
  readonly secret: string
  /** Whether passwords and tokens of the server's own accounts are kept by the auth processes. */
  readonly accounts: boolean
}

export interface AuthAddress { readonly host: string; readonly port: number }

interface AuthNames { servers: readonly AuthAddress[]; listen: AuthAddress; address: AuthAddress | undefined; secret: string; accounts: boolean }

const PORT = 5290
const SECRET_CHARACTERS_MIN = 20

export const authTable: OptionTable<AuthNames> = {
  servers: { type: list(address()), default: [], help: 'Auth processes that check logins for this one, as host:port.' },
  listen: { type: address(), default: { host: '127.0.0.1', port: PORT }, help: 'Where an auth process listens, as host:port.' },
  address: { type: address(), default: undefined, help: 'Host and port on which chat processes reach this auth process, when others name it to them; unless set, as listen.' },
  secret: { type: text(), default: '', help: 'What chat and auth processes know each other by: 20 characters or more, made at random.' },
  accounts: { type: bool(), default: false, help: 'Whether the auth processes keep the passwords and tokens of the server\'s own accounts too.' },
}

/** What was read of the entry. */
export function authOptions(read: AuthNames, entry: MapEntry, problems: Problem[]): AuthOptions {
  if (read.secret.length < SECRET_CHARACTERS_MIN) {
    const at = entryOf(entry.value, 'secret') ?? entry
    problems.push({ file: at.file, line: at.line, option: 'tidings.auth.secret', level: 'error', text: `must have at least ${SECRET_CHARACTERS_MIN} characters: who has it can log in as anybody.` })
  }
  return read
}

function address(): OptionType<AuthAddress> {
  const expects = 'an address as host:port'
  return {
    expects,
    parse(node: ConfigNode) {
      const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/]+)):(\d{1,5})$/.exec(textOf(node) ?? '')
      if (match === null || Number(match[3]) > 65_535) throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
      return { host: match[1] ?? match[2] as string, port: Number(match[3]) }
    },
  }
}
