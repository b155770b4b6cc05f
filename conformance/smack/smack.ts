/**
 * Smack's integration tests (https://igniterealtime.org/projects/smack): Maven fetches them, Java runs them.
 *
 * They run in random order and leave their accounts' state to each other, and some race with the client that they use: `MultiUserChat` wakes who joins before
 * it has noted the last occupant, and takes its listeners away before they have heard of an error. So a test that failed runs again with its class alone, in which Java is warm, and has failed
 * when it fails three times; what passed at a later try is named. What cannot pass before more is built stands in known-failures.txt.
 */
import { type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, existsSync, openSync } from 'node:fs'
import { mkdir, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Stage } from '../play.ts'

/** How long Maven may fetch, and how long the tests may run, ms. */
const FETCH_MS = 300_000
const RUN_MS = 900_000
const FOLDER = import.meta.dirname
const PACKAGES = ['default-jdk-headless', 'maven']

export type Outcome = 'passed' | 'failed' | 'impossible'

export interface Result {
  readonly outcome: Outcome
  /** As the test names it, such as `XEP-0199`; empty when it does not. */
  readonly specification: string
  /** Class and method. */
  readonly test: string
  readonly reason: string
}

export interface Verdict {
  readonly passed: readonly Result[]
  readonly failed: readonly Result[]
  readonly impossible: readonly Result[]
  /** Failed as was known, each with what it needs. */
  readonly known: readonly (Result & { readonly needs: string })[]
}

/** That the tests could not be run here, and what to do about it. */
export class NotRun extends Error {}

/** Runs the tests whose names contain `text`; files about it go to the folder `results`. */
export async function runSmack(stage: Stage, text: string, results: string): Promise<Verdict> {
  const missing = missingProgram()
  if (missing !== undefined) throw new NotRun(`${missing} is missing: install Java (JDK 11 or newer) and Maven, on Debian with: apt-get install ${PACKAGES.join(' ')}; or run this with --install`)
  const libraries = await fetchLibraries(results)
  const known = readKnown(await readFile(path.join(FOLDER, 'known-failures.txt'), 'utf8'))
  const first = await runTests(stage, libraries, [text], path.join(results, 'smack'))
  const again: Result[][] = []
  for (const name of ['smack-again', 'smack-once-more']) {
    const { failed } = judge(first, again, known)
    if (failed.length === 0) break
    const classes = new Set(failed.map(({ test }) => `.${test.slice(0, test.lastIndexOf('.') + 1)}`))
    again.push(await runTests(stage, libraries, [...classes], path.join(results, name)))
  }
  return judge(first, again, known)
}

function missingProgram(): string | undefined {
  return ['java', 'javac', 'mvn'].find((program) => spawnSync(program, ['-version']).error !== undefined)
}

/** Installs Java and Maven, unless they are there, where Debian's packages are. */
export function install(): void {
  if (missingProgram() === undefined) return
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', ...PACKAGES]]) {
    const { error, status } = spawnSync('apt-get', args, { stdio: 'inherit', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
    if (error !== undefined || status !== 0) throw new NotRun(`apt-get ${args[0]} failed: ${error?.message ?? `exit code ${status}`}`)
  }
}

/** Decides by all runs: what failed in the first and passed in a later one has passed. */
export function judge(first: readonly Result[], again: readonly (readonly Result[])[], known: ReadonlyMap<string, string>): Verdict {
  const verdict = { passed: [] as Result[], failed: [] as Result[], impossible: [] as Result[], known: [] as (Result & { needs: string })[] }
  for (const result of first) {
    const needs = known.get(result.test)
    if (result.outcome !== 'failed') verdict[result.outcome].push(result)
    else if (needs !== undefined) verdict.known.push({ ...result, needs })
    else {
      const at = again.findIndex((run) => run.some(({ test, outcome }) => test === result.test && outcome === 'passed'))
      if (at === -1) verdict.failed.push(result)
      else verdict.passed.push({ ...result, outcome: 'passed', reason: `at the ${at === 0 ? 'second' : 'third'} try; at the first: ${result.reason}` })
    }
  }
  return verdict
}

/** Reads lines of a test's name and what it needs. */
export function readKnown(text: string): Map<string, string> {
  const known = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, test, needs] = /^([^#\s]\S*)\s+(.*)$/.exec(line) ?? []
    if (test !== undefined && needs !== undefined) known.set(test, needs)
  }
  return known
}

export function readResults(text: string): Result[] {
  return text.split('\n').filter((line) => line !== '').map((line) => {
    const [outcome, specification = '', test = '', reason = ''] = line.split('\t')
    if (outcome !== 'passed' && outcome !== 'failed' && outcome !== 'impossible') throw new Error(`no result of a test: ${line}`)
    return { outcome, specification, test, reason }
  })
}

/** The folder of the libraries that pom.xml names; they are fetched once for each of its versions. */
async function fetchLibraries(results: string): Promise<string> {
  const pom = path.join(FOLDER, 'pom.xml')
  const folder = path.join(results, `smack-libraries-${createHash('sha256').update(await readFile(pom)).digest('hex').slice(0, 8)}`)
  if (existsSync(folder)) return folder
  const partial = `${folder}.partial`
  await rm(partial, { recursive: true, force: true })
  await mkdir(results, { recursive: true })
  const log = path.join(results, 'maven.log')
  const code = await run('mvn', ['-B', '-q', '-f', pom, 'dependency:copy-dependencies', `-DoutputDirectory=${partial}`, '-DincludeScope=runtime'], log, FETCH_MS)
  if (code !== 0) throw new NotRun(`Maven could not fetch the tests: ${firstError(await readFile(log, 'utf8'))} (all of it in ${log})`)
  await rename(partial, folder)
  return folder
}

function firstError(log: string): string {
  return /\[ERROR\] (.*)/.exec(log)?.[1]?.slice(0, 300) ?? 'no error given'
}

/** `output` is the path of the files of results and of the log, without the ending. */
async function runTests(stage: Stage, libraries: string, texts: readonly string[], output: string): Promise<Result[]> {
  await rm(`${output}.tsv`, { force: true })
  const code = await run('java', [
    '-Xmx1g', '-cp', path.join(libraries, '*'), path.join(FOLDER, 'SmackTests.java'),
    `${output}.tsv`, stage.host, String(stage.port), stage.domain, stage.tls === 'none' ? 'disabled' : 'required', texts.join(','),
  ], `${output}.log`, RUN_MS)
  if (code !== 0) throw new Error(`Smack's tests ended with ${code}, see ${output}.log`)
  return readResults(await readFile(`${output}.tsv`, 'utf8'))
}

/** Runs a program with its output in a file; resolves with its exit code, or `undefined` when it took too long. */
async function run(program: string, args: readonly string[], log: string, limitMs: number): Promise<number | undefined> {
  const out = openSync(log, 'w')
  const options: SpawnOptions = { stdio: ['ignore', out, out], timeout: limitMs, killSignal: 'SIGKILL' }
  const child = spawn(program, args, options)
  closeSync(out)
  const stop = (): void => void child.kill('SIGKILL')
  process.once('exit', stop)
  const [code] = (await once(child, 'exit')) as [number | null]
  process.off('exit', stop)
  return code ?? undefined
}
