import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { unitOfRecord } from './records.ts'
import { formsOf, RULES, unitOfKey } from './unit-keys.ts'
import { encodePart } from '../storage/ordered.ts'

const SERVER = join(import.meta.dirname, '..')
/** They have tables for any purpose, or none. */
const OTHERS = /\.test\.ts$|\.fixture\.ts$|contract\.ts$|^(storage|cluster)\//

describe('the unit of a record', () => {
  it('is known of every table that the server has', () => {
    const tables = new Set<string>()
    for (const file of readdirSync(SERVER, { recursive: true, encoding: 'utf8' })) {
      if (!file.endsWith('.ts') || OTHERS.test(file)) continue
      for (const table of tablesOf(readFileSync(join(SERVER, file), 'utf8'))) tables.add(table)
    }
    expect([...tables].sort()).to.deep.equal(Object.keys(RULES).sort())
  })

  it('is the same for records and for keys', () => {
    for (const [table, rule] of Object.entries(RULES)) {
      const key = { first: ['a@b', 'more'], swapped: ['b', 'a', 'more'], second: ['0001', 'a@b', 'more'] }[rule]
      expect(unitOfRecord(table, key), table).to.equal('a@b')
      expect(unitOfKey(`r${table}\0${key.map(encodePart).join('')}`)?.form, table).to.be.oneOf([...formsOf('a@b')])
    }
  })
})

/** Tables are named by constants, which are given to `records` or have names of their own here. */
function tablesOf(source: string): string[] {
  const used = new Set(Array.from(source.matchAll(/[rR]ecords\.(?:get|put|delete|range|deleteRange)\(([A-Z_]+)/g), ([, name]) => name))
  if (/listed\(|localparts\(|\[table, /.test(source)) for (const [, name] of source.matchAll(/(?:listed\(|localparts\(|\? \[|: \[|\[)([A-Z_]+)\b/g)) used.add(name)
  return Array.from(source.matchAll(/^(?:export )?const ([A-Z_]+) = '([a-z_-]+)'/gm)).filter(([, name]) => used.has(name)).map(([, , table]) => table as string)
}
