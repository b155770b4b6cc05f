/** The part `hbase` of the key `tidings`. */
import type { HBaseStorageOptions } from '../storage/hbase/tables.ts'
import type { MapEntry } from './node.ts'
import { int, list, text, type OptionTable } from './options.ts'
import type { Problem } from './problems.ts'

interface HBaseNames { masters: readonly string[]; user: string; namespace: string; prefix: string; regions: number; compression: string }

export const hbaseTable: OptionTable<HBaseNames> = {
  masters: { type: list(text()), default: [], help: 'host:port of masters or region servers.' },
  user: { type: text(), default: 'tidings', help: 'Whom the servers believe to be asking.' },
  namespace: { type: text(), default: 'default', help: 'Where the tables are; made when it is missing.' },
  prefix: { type: text(), default: '', help: 'Begins the names of the tables.' },
  regions: { type: int({ min: 1, max: 256 }), default: 8, help: 'Regions that a table begins with when it is made.' },
  compression: { type: text(), default: 'NONE', help: 'Of tables that are made, as the servers know it: NONE, GZ, SNAPPY, ZSTD.' },
}

/** What was read of the entry; `retentionMs`: how long history is kept. */
export function hbaseOptions(read: HBaseNames, entry: MapEntry, retentionMs: number, problems: Problem[]): HBaseStorageOptions {
  if (read.masters.length === 0) problems.push({ file: entry.file, line: entry.line, option: 'tidings.hbase.masters', level: 'error', text: 'At least one server is needed, as host:port.' })
  return { ...read, ...Number.isFinite(retentionMs) ? { retentionSeconds: Math.ceil(retentionMs / 1000) } : {} }
}
