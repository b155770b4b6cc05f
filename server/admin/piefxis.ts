// XEP-0227: Portable Import/Export Format for XMPP-IM Servers, version 1.1
import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { createHash, randomBytes } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { type Element, escapeXml, isElement, xml } from '../../lib/xml/element.ts'
import type { HostAccountData } from '../accounts/account-data.ts'
import type { Accounts, ScramHash, ScramKeys, ScramKeySet } from '../accounts/accounts.ts'
import { standalone } from '../extensions/standalone-element.ts'
// @ts-expect-error ltx ships no types
import SaxParser from 'ltx/src/parsers/ltx.js'

const NS = 'urn:xmpp:pie:0'
const SCRAM_NS = `${NS}#scram`
const XINCLUDE_NS = 'http://www.w3.org/2001/XInclude'
const HASHES: readonly ScramHash[] = ['SHA-1', 'SHA-256', 'SHA-512']
/** Elements whose children are handed on in parts, so that none of them is in memory as a whole. */
const LONG = new Set([`${NS} offline-messages`, `${NS}#mam archive`])
const PART = 50
/** Characters of one element of a user, or of one child of a long one. */
const ELEMENT_MAX = 16 * 1024 * 1024
const DEPTH_MAX = 200
/** server-data, host and user may each be a file. */
const INCLUDES_MAX = 3
/** Bytes of the name of a file. */
const NAME_MAX = 200

export interface MovingParts {
  readonly accounts: Pick<Accounts, 'exists' | 'pages' | 'scramKeys'>
  register(bareJid: string, password: string | ScramKeySet): Promise<void>
  /** Of a host that is served. */
  accountData(host: string): Pick<HostAccountData, 'write' | 'read'> | undefined
  /** Resolves when what was written is on stable storage. */
  committed(): Promise<void>
}

/** A `<user/>` in pieces, with what is kept of its password: files for operators alone. */
async function* userElement(parts: MovingParts, bare: string): AsyncGenerator<string> {
  const { local, domain } = Jid.parse(bare)
  yield `<user xmlns='${NS}' name='${escapeXml(local)}'>`
  for (const hash of HASHES) {
    const keys = await parts.accounts.scramKeys(bare, hash)
    if (keys === undefined) continue
    yield xml('scram-credentials', { xmlns: SCRAM_NS, mechanism: `SCRAM-${hash}` },
      xml('iter-count', null, String(keys.iterations)), xml('salt', null, keys.salt.toString('base64')),
      xml('server-key', null, keys.serverKey.toString('base64')), xml('stored-key', null, keys.storedKey.toString('base64'))).toString()
  }
  const data = parts.accountData(domain)
  if (data !== undefined) for await (const piece of data.write(bare)) yield `\n${piece}`
  yield '\n</user>'
}

/** Writes hosts with all their accounts into files below `directory`, as §5 has it; the main one is named by what it holds. Answers its path and how many accounts there are. */
export async function exportHosts(parts: MovingParts, directory: string, hosts: readonly string[]): Promise<{ file: string; accounts: number }> {
  let accounts = 0
  await mkdir(directory, { recursive: true, mode: 0o700 })
  for (const host of hosts) {
    const folder = path.join(directory, host)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const includes: string[] = []
    for await (const names of parts.accounts.pages(host)) {
      for (const local of names) {
        const name = fileName(local)
        await writeWhole(path.join(folder, name), withHead(userElement(parts, Jid.of(local, host).bare)))
        includes.push(`  <xi:include href='${escapeXml(`${encodeURIComponent(host)}/${encodeURIComponent(name)}`)}'/>`)
        accounts++
      }
    }
    await writeWhole(path.join(directory, `${host}.xml`), withHead([`<host xmlns='${NS}' xmlns:xi='${XINCLUDE_NS}' jid='${escapeXml(host)}'>\n${includes.join('\n')}\n</host>`]))
  }
  const file = path.join(directory, `${new Date().toISOString().slice(0, 19).replaceAll(':', '-')}.xml`)
  await writeWhole(file, withHead([`<server-data xmlns='${NS}' xmlns:xi='${XINCLUDE_NS}'>\n${hosts.map((host) => `  <xi:include href='${escapeXml(encodeURIComponent(`${host}.xml`))}'/>`).join('\n')}\n</server-data>`]))
  return { file, accounts }
}

/** Writes one account into a file. */
export async function exportUserTo(parts: MovingParts, file: string, bare: string): Promise<void> {
  const { domain } = Jid.parse(bare)
  await writeWhole(file, withHead((async function* () {
    yield `<server-data xmlns='${NS}'><host jid='${escapeXml(domain)}'>`
    yield* userElement(parts, bare)
    yield '</host></server-data>'
  })()))
}

async function* withHead(pieces: AsyncIterable<string> | Iterable<string>): AsyncGenerator<string> {
  yield "<?xml version='1.0' encoding='UTF-8'?>\n"
  yield* pieces
  yield '\n'
}

/** Most names as they are; long ones, and those that would lead elsewhere, by a hash. */
function fileName(local: string): string {
  const name = `${local}.xml`
  return Buffer.byteLength(name) <= NAME_MAX && !/[/\\]/.test(name) ? name : `${createHash('sha256').update(local).digest('hex')}.xml`
}

/** Readable by its owner alone, and there only when it is whole. */
async function writeWhole(file: string, pieces: AsyncIterable<string>): Promise<void> {
  const partial = `${file}.${randomBytes(6).toString('hex')}.partial`
  const out = createWriteStream(partial, { flags: 'wx', mode: 0o600, flush: true })
  const failed = once(out, 'error').then(([error]: unknown[]) => { throw error })
  failed.catch(() => undefined)
  try {
    for await (const piece of pieces) if (!out.write(piece)) await Promise.race([once(out, 'drain'), failed])
    out.end()
    await Promise.race([once(out, 'close'), failed])
    await rename(partial, file)
  } catch (error) {
    out.destroy()
    await rm(partial, { force: true })
    throw error
  }
}

export interface Imported {
  readonly accounts: number
  /** What could not be taken, each with the account it belongs to. */
  readonly problems: readonly string[]
}

/** Takes all accounts of a file, and of those that it includes, in. Those that exist keep their password and get what the file has for them. */
export async function importFile(parts: MovingParts, file: string): Promise<Imported> {
  const importer = new Importer(parts, path.dirname(path.resolve(file)))
  await importer.file(path.resolve(file), { at: 'root' }, 0)
  await parts.committed()
  return importer
}

type Place = { readonly at: 'root' } | { readonly at: 'server-data' } | { readonly at: 'host'; readonly host: string } | { readonly at: 'user'; readonly owner: string | undefined }

/** A user's start tag and credentials, before the account is made. */
interface Newcomer {
  readonly owner: string
  readonly password: string | undefined
  readonly keys: Partial<Record<ScramHash, ScramKeys>>
}

class Importer implements Imported {
  accounts = 0
  readonly problems: string[] = []
  readonly #parts: MovingParts
  readonly #root: string

  constructor(parts: MovingParts, root: string) {
    this.#parts = parts
    this.#root = root
  }

  async file(file: string, outside: Place, depth: number): Promise<void> {
    if (depth > INCLUDES_MAX) throw new Error(`${file} is included by files that include each other`)
    let places: Place[] = [outside]
    let newcomer: Newcomer | undefined
    for await (const event of readEvents(file)) {
      const place = places.at(-1) as Place
      if (event.kind === 'open') {
        const inner = this.#enter(place, event.element, file)
        places.push(inner)
        if (inner.at === 'user' && inner.owner !== undefined) newcomer = { owner: inner.owner, password: event.element.attrs['password'], keys: {} }
      } else if (event.kind === 'close') {
        // An account may have nothing but its name.
        if (place.at === 'user') {
          await this.#settle(newcomer)
          newcomer = undefined
          await this.#parts.committed()
        }
        places = places.slice(0, -1)
      } else if (event.element.getNS() === XINCLUDE_NS && event.element.getName() === 'include') {
        await this.#settle(newcomer)
        newcomer = undefined
        await this.#include(event.element, file, place, depth)
      } else if (place.at === 'user' && place.owner !== undefined) {
        if (event.element.is('scram-credentials', SCRAM_NS)) {
          readCredentials(event.element, newcomer)
          continue
        }
        await this.#settle(newcomer)
        newcomer = undefined
        await this.#take(place.owner, event.element)
      } else if (place.at !== 'user') this.problems.push(`${event.element.getName()} in ${path.basename(file)} is not known`)
    }
  }

  #enter(place: Place, element: Element, file: string): Place {
    const { attrs } = element
    const name = element.getName()
    if (name === 'server-data' && place.at === 'root') return { at: 'server-data' }
    if (name === 'host' && (place.at === 'server-data' || place.at === 'root')) {
      const host = Jid.tryParse(attrs['jid'] ?? '')?.domain ?? ''
      if (this.#parts.accountData(host) === undefined) this.problems.push(`${attrs['jid'] ?? 'a host without jid'} is not a host of this server`)
      return { at: 'host', host }
    }
    if (name === 'user' && place.at === 'host') {
      if (this.#parts.accountData(place.host) === undefined) return { at: 'user', owner: undefined }
      try {
        return { at: 'user', owner: Jid.of(attrs['name'] ?? '', place.host).bare }
      } catch {
        this.problems.push(`${attrs['name'] ?? 'a user without name'} is not the name of an account`)
        return { at: 'user', owner: undefined }
      }
    }
    throw new Error(`${path.basename(file)} is no file of XEP-0227: <${name}/> does not belong there`)
  }

  /** Makes the account, unless it is there. */
  async #settle(newcomer: Newcomer | undefined): Promise<void> {
    if (newcomer === undefined) return
    const { owner, password, keys } = newcomer
    this.accounts++
    if (await this.#parts.accounts.exists(owner)) {
      this.problems.push(`${owner}: exists already; its password stays as it is`)
      return
    }
    const known = Object.keys(keys).length > 0
    if (password === undefined && !known) this.problems.push(`${owner}: has no password; give it one with change_password`)
    await this.#parts.register(owner, password ?? (known ? keys : randomBytes(32).toString('base64')))
  }

  async #take(owner: string, element: Element): Promise<void> {
    try {
      // Names and characters as strict as those of the network: it will be sent there.
      const strict = parseElement(standalone(element).toString())
      if (!(await this.#parts.accountData(Jid.parse(owner).domain)?.read(owner, strict))) this.problems.push(`${owner}: ${element.getName()} (${element.getNS() ?? 'no namespace'}) is not known`)
      // So that not more waits than a few elements.
      await this.#parts.committed()
    } catch (error) {
      this.problems.push(`${owner}: ${element.getName()} (${element.getNS() ?? 'no namespace'}): ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  async #include({ attrs }: Element, file: string, place: Place, depth: number): Promise<void> {
    const href = attrs['href'] ?? ''
    if (attrs['parse'] !== undefined || attrs['xpointer'] !== undefined || href === '' || /^[a-z][a-z0-9+.-]*:/i.test(href) || href.startsWith('/')) throw new Error(`${path.basename(file)} includes ${href} in a way that is not supported`)
    const included = path.resolve(path.dirname(file), decodeURIComponent(href))
    if (!included.startsWith(this.#root + path.sep)) throw new Error(`${path.basename(file)} includes ${href}, which is outside of ${this.#root}`)
    await this.file(included, place, depth + 1)
  }
}

function readCredentials(element: Element, newcomer: Newcomer | undefined): void {
  const hash = HASHES.find((each) => element.attrs['mechanism'] === `SCRAM-${each}`)
  const bytes = (name: string): Buffer => Buffer.from(element.getChildText(name) ?? '', 'base64')
  const iterations = Number(element.getChildText('iter-count'))
  const size = { 'SHA-1': 20, 'SHA-256': 32, 'SHA-512': 64 }
  if (newcomer === undefined || hash === undefined || !Number.isInteger(iterations) || iterations < 1 || bytes('salt').length === 0) return
  if (bytes('server-key').length !== size[hash] || bytes('stored-key').length !== size[hash]) return
  newcomer.keys[hash] = { iterations, salt: bytes('salt'), serverKey: bytes('server-key'), storedKey: bytes('stored-key') }
}

/** `open` and `close` of server-data, host and user; `child` is a whole element in one of them, of long ones a part. */
type Event = { readonly kind: 'open' | 'child'; readonly element: Element } | { readonly kind: 'close' }

/** Reads a file in chunks; throws when it is no whole document. */
async function* readEvents(file: string): AsyncGenerator<Event> {
  const events: Event[] = []
  const sax = new SaxParser() as { on(event: string, listener: (...args: never[]) => void): void; write(text: string): void }
  /** Elements that are open: structure first, then those of a child being built. */
  const open: Element[] = []
  let structure = 0
  let finished = false
  let size = 0
  const isStructure = (element: Element): boolean => structure === open.length && element.getNS() === NS && ['server-data', 'host', 'user'].includes(element.getName())
  const isLong = (element: Element): boolean => LONG.has(`${element.getNS() ?? ''} ${element.getName()}`)
  const give = (element: Element): void => { events.push({ kind: 'child', element }) }
  /** The children of a long element so far, as one of the same name. */
  const flush = (long: Element): void => {
    give(xml(long.getName(), { xmlns: long.getNS() }, long.children.filter(isElement).map(standalone)))
    long.children.length = 0
    size = 0
  }
  sax.on('startElement', (name: string, attrs: Record<string, string>) => {
    if (finished) throw new Error(`${path.basename(file)} goes on after its end`)
    if (open.length >= DEPTH_MAX) throw new Error(`${path.basename(file)} is nested too deeply`)
    const element = xml(name, attrs)
    const parent = open.at(-1)
    element.parent = parent ?? null
    if (isStructure(element)) {
      structure++
      open.push(element)
      events.push({ kind: 'open', element })
      return
    }
    if (parent === undefined) throw new Error(`${path.basename(file)} is no file of XEP-0227`)
    if (open.length > structure) parent.children.push(element)
    open.push(element)
  })
  sax.on('text', (text: string) => {
    size += text.length
    if (size > ELEMENT_MAX) throw new Error(`${path.basename(file)} has an element of more than ${ELEMENT_MAX} characters`)
    if (open.length > structure) open.at(-1)?.children.push(text)
  })
  sax.on('endElement', (name: string) => {
    const element = open.pop()
    if (element === undefined || element.name !== name) throw new Error(`${path.basename(file)} is not well-formed at </${name}>`)
    if (open.length < structure) {
      structure--
      finished = open.length === 0
      events.push({ kind: 'close' })
    } else if (open.length === structure) {
      if (!isLong(element)) give(element)
      else if (element.children.length > 0) flush(element)
      size = 0
    } else if (open.length === structure + 1) {
      const long = open.at(-1) as Element
      if (isLong(long) && long.children.length >= PART) flush(long)
    }
  })
  const decoder = new TextDecoder('utf-8', { fatal: true })
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    sax.write(decoder.decode(chunk, { stream: true }))
    yield* events.splice(0)
  }
  if (!finished) throw new Error(`${path.basename(file)} ends in the middle`)
}

