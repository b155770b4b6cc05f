/**
 * Compliance checks: what clients look for on a server, one row each, and what the compliance suites of XEP-0479 ask of it.
 * A row is green when the server says that it has the feature, at the place where clients look, and the feature works when used.
 */
import type { Visit } from './visit.ts'

export interface Check {
  /** A letter for who looks and a number, such as `A3`. */
  readonly id: string
  readonly title: string
  /** Where clients look. */
  readonly where: string
  /** Throws when the feature is not shown there. */
  readonly shown: (visit: Visit) => Promise<unknown>
  /** Uses the feature; throws when it does not work. */
  readonly works?: (visit: Visit) => Promise<unknown>
}

export type Colour = 'green' | 'red' | 'broken'

/** `broken` is shown and does not work. */
export interface Row {
  readonly check: Check
  readonly colour: Colour
  readonly reason: string
}

/** Looks at one row. */
export async function look(check: Check, visit: Visit): Promise<Row> {
  try {
    await check.shown(visit)
  } catch (error) {
    return { check, colour: 'red', reason: oneLine(error) }
  }
  try {
    await check.works?.(visit)
  } catch (error) {
    return { check, colour: 'broken', reason: oneLine(error) }
  } finally {
    await visit.tidy()
  }
  return { check, colour: 'green', reason: '' }
}

/** A feature of a compliance suite (XEP-0479), and the rows that stand for it. */
export interface SuiteFeature {
  readonly suite: string
  readonly title: string
  /** Whether only the Advanced level asks for it. */
  readonly advanced: boolean
  readonly rows: readonly string[]
}

export type Level = 'none' | 'Core' | 'Advanced'

/** The level that each suite reaches, and the features that keep it from more. All other suites have those of the first one, `Core`, beneath them. */
export function judgeSuites(features: readonly SuiteFeature[], green: ReadonlySet<string>): Map<string, { readonly level: Level; readonly missing: readonly string[] }> {
  const levels = new Map<string, { level: Level; missing: string[] }>()
  for (const suite of new Set(features.map((each) => each.suite))) {
    const needed = features.filter((each) => each.suite === suite || each.suite === 'Core')
    const missing = needed.filter((each) => !each.rows.every((row) => green.has(row)))
    const level = missing.length === 0 ? 'Advanced' : missing.every((each) => each.advanced) ? 'Core' : 'none'
    levels.set(suite, { level, missing: missing.map((each) => `${each.title}${each.suite === suite ? '' : ' (Core suite)'}`) })
  }
  return levels
}

/** Reads lines of a row's id and what it needs; `#` begins a comment. */
export function readKnownRed(text: string): Map<string, string> {
  const known = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, id, needs] = /^([^#\s]\S*)\s+(.*)$/.exec(line) ?? []
    if (id !== undefined && needs !== undefined) known.set(id, needs)
  }
  return known
}

function oneLine(error: unknown): string {
  const text = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ')
  return text.length > 300 ? `${text.slice(0, 300)}…` : text
}
