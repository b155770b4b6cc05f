/** Filters that servers run, so that what is not wanted does not travel. */
import {
  BinaryComparator, ColumnPrefixFilter, ColumnRangeFilter, COMPARE_EQUAL, type FilterFields, type FilterFieldsOfComparator, FilterList, KeyOnlyFilter, MultiRowRangeFilter, NoFields, PageFilter, PrefixFilter, SingleColumnValueFilter,
} from './messages.ts'

export type Filter = FilterFields

const PACKAGE = 'org.apache.hadoop.hbase.filter.'
const ALL = 1
const ANY = 2

function filter(name: string, bytes: Buffer): Filter {
  return { name: PACKAGE + name, serialized_filter: bytes }
}

/** Rows that begin with these bytes. Give the scan a start row too: the filter looks at all rows before. */
export function rowPrefix(prefix: Buffer): Filter {
  return filter('PrefixFilter', PrefixFilter.encode({ prefix }))
}

/** At most so many rows of each region. For all rows of a scan there is `limit`. */
export function page(rows: number): Filter {
  return filter('PageFilter', PageFilter.encode({ page_size: rows }))
}

/** Cells without their values. */
export function keysOnly(): Filter {
  return filter('KeyOnlyFilter', KeyOnlyFilter.encode({ len_as_val: false }))
}

/** Of each row the first cell. */
export function firstKeyOnly(): Filter {
  return filter('FirstKeyOnlyFilter', NoFields.encode({}))
}

export function columnPrefix(prefix: Buffer): Filter {
  return filter('ColumnPrefixFilter', ColumnPrefixFilter.encode({ prefix }))
}

/** Columns from `from` to `to`, exclusive; either may be absent. */
export function columnRange(from: Buffer | undefined, to: Buffer | undefined): Filter {
  return filter('ColumnRangeFilter', ColumnRangeFilter.encode({
    ...(from ? { min_column: from } : {}), min_column_inclusive: true, ...(to ? { max_column: to } : {}), max_column_inclusive: false,
  }))
}

/** Rows of any of these ranges, each from `from` to `to`, exclusive (empty: to the end). */
export function rowRanges(ranges: readonly { readonly from: Buffer; readonly to: Buffer }[]): Filter {
  return filter('MultiRowRangeFilter', MultiRowRangeFilter.encode({
    row_range_list: ranges.map(({ from, to }) => ({ start_row: from, start_row_inclusive: true, stop_row: to, stop_row_inclusive: false })),
  }))
}

/** Rows whose column has this value. */
export function columnEquals(family: Buffer, qualifier: Buffer, value: Buffer): Filter {
  return filter('SingleColumnValueFilter', SingleColumnValueFilter.encode({
    column_family: family, column_qualifier: qualifier, compare_op: COMPARE_EQUAL, comparator: equalTo(value), filter_if_missing: true, latest_version_only: true,
  }))
}

export function allOf(...filters: readonly Filter[]): Filter {
  return filter('FilterList', FilterList.encode({ operator: ALL, filters }))
}

export function anyOf(...filters: readonly Filter[]): Filter {
  return filter('FilterList', FilterList.encode({ operator: ANY, filters }))
}

export function equalTo(value: Buffer): FilterFieldsOfComparator {
  return { name: `${PACKAGE}BinaryComparator`, serialized_comparator: BinaryComparator.encode({ comparable: { value } }) }
}
