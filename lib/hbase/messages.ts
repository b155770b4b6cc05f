/**
 * HBase's messages (versions 2.5, 2.6 and 3), as far as this client uses them: fields that it neither sends nor reads are left out,
 * which Protocol Buffers allow. Text, not a file, so that a build carries it.
 */
import protobuf from 'protobufjs'

const DEFINITIONS = `
syntax = "proto2";

message UserInformation { required string effective_user = 1; }
message VersionInfo { required string version = 1; required string url = 2; required string revision = 3; required string user = 4; required string date = 5; required string src_checksum = 6; optional uint32 version_major = 7; optional uint32 version_minor = 8; }
message ConnectionHeader { optional UserInformation user_info = 1; optional string service_name = 2; optional string cell_block_codec_class = 3; optional VersionInfo version_info = 5; }
message CellBlockMeta { optional uint32 length = 1; }
message ExceptionResponse { optional string exception_class_name = 1; optional string stack_trace = 2; optional bool do_not_retry = 5; }
message RequestHeader { optional uint32 call_id = 1; optional string method_name = 3; optional bool request_param = 4; optional CellBlockMeta cell_block_meta = 5; optional uint32 priority = 6; optional uint32 timeout = 7; }
message ResponseHeader { optional uint32 call_id = 1; optional ExceptionResponse exception = 2; optional CellBlockMeta cell_block_meta = 3; }

message NameStringPair { required string name = 1; required string value = 2; }
message NameBytesPair { required string name = 1; optional bytes value = 2; }
message BytesBytesPair { required bytes first = 1; required bytes second = 2; }
message TableName { required bytes namespace = 1; required bytes qualifier = 2; }
message ColumnFamilySchema { required bytes name = 1; repeated BytesBytesPair attributes = 2; repeated NameStringPair configuration = 3; }
message TableSchema { optional TableName table_name = 1; repeated BytesBytesPair attributes = 2; repeated ColumnFamilySchema column_families = 3; repeated NameStringPair configuration = 4; }
message TableState { required uint32 state = 1; }
message ServerName { required string host_name = 1; optional uint32 port = 2; optional uint64 start_code = 3; }
message RegionInfo { required uint64 region_id = 1; required TableName table_name = 2; optional bytes start_key = 3; optional bytes end_key = 4; optional bool offline = 5; optional bool split = 6; optional int32 replica_id = 7; }
message RegionLocation { required RegionInfo region_info = 1; optional ServerName server_name = 2; }
message RegionSpecifier { required uint32 type = 1; required bytes value = 2; }
message TimeRange { optional uint64 from = 1; optional uint64 to = 2; }
message NamespaceDescriptor { required bytes name = 1; }

message Empty { }
message ActiveMaster { optional ServerName server_name = 1; }
message MetaRegionLocations { repeated RegionLocation meta_locations = 1; }

message Filter { required string name = 1; optional bytes serialized_filter = 2; }
message Column { required bytes family = 1; repeated bytes qualifier = 2; }
message Get { required bytes row = 1; repeated Column column = 2; optional Filter filter = 4; optional TimeRange time_range = 5; optional uint32 max_versions = 6; optional bool existence_only = 10; }
message Result { optional int32 associated_cell_count = 2; optional bool exists = 3; }
message GetRequest { required RegionSpecifier region = 1; required Get get = 2; }
message GetResponse { optional Result result = 1; }

message Comparator { required string name = 1; optional bytes serialized_comparator = 2; }
message Condition { required bytes row = 1; optional bytes family = 2; optional bytes qualifier = 3; optional uint32 compare_type = 4; optional Comparator comparator = 5; }
message MutationProto { optional bytes row = 1; optional uint32 mutate_type = 2; optional uint64 timestamp = 4; optional int32 associated_cell_count = 8; }
message MutateRequest { required RegionSpecifier region = 1; required MutationProto mutation = 2; optional Condition condition = 3; }
message MutateResponse { optional bool processed = 2; }
message Action { optional uint32 index = 1; optional MutationProto mutation = 2; optional Get get = 3; }
message RegionAction { required RegionSpecifier region = 1; repeated Action action = 3; }
message MultiRequest { repeated RegionAction region_action = 1; }
message ResultOrException { optional uint32 index = 1; optional Result result = 2; optional NameBytesPair exception = 3; }
message RegionActionResult { repeated ResultOrException result_or_exception = 1; optional NameBytesPair exception = 2; }
message MultiResponse { repeated RegionActionResult region_action_result = 1; }

message Scan { repeated Column column = 1; optional bytes start_row = 3; optional bytes stop_row = 4; optional Filter filter = 5; optional TimeRange time_range = 6; optional uint32 max_versions = 7; optional bool cache_blocks = 8; optional uint64 max_result_size = 10; optional bool reversed = 15; optional bool include_start_row = 21; optional bool include_stop_row = 22; }
message ScanRequest { optional RegionSpecifier region = 1; optional Scan scan = 2; optional uint64 scanner_id = 3; optional uint32 number_of_rows = 4; optional bool close_scanner = 5; optional uint64 next_call_seq = 6; optional bool client_handles_partials = 7; optional bool client_handles_heartbeats = 8; optional uint32 limit_of_rows = 11; }
message ScanResponse { repeated uint32 cells_per_result = 1; optional uint64 scanner_id = 2; optional bool more_results = 3; repeated bool partial_flag_per_result = 7; optional bool more_results_in_region = 8; optional bool heartbeat_message = 9; }

message ByteArrayComparable { optional bytes value = 1; }
message BinaryComparator { required ByteArrayComparable comparable = 1; }
message NoFields { }
message PrefixFilter { optional bytes prefix = 1; }
message PageFilter { required int64 page_size = 1; }
message KeyOnlyFilter { required bool len_as_val = 1; }
message ColumnPrefixFilter { required bytes prefix = 1; }
message ColumnRangeFilter { optional bytes min_column = 1; optional bool min_column_inclusive = 2; optional bytes max_column = 3; optional bool max_column_inclusive = 4; }
message RowRange { optional bytes start_row = 1; optional bool start_row_inclusive = 2; optional bytes stop_row = 3; optional bool stop_row_inclusive = 4; }
message MultiRowRangeFilter { repeated RowRange row_range_list = 1; }
message SingleColumnValueFilter { optional bytes column_family = 1; optional bytes column_qualifier = 2; required uint32 compare_op = 3; required Comparator comparator = 4; optional bool filter_if_missing = 5; optional bool latest_version_only = 6; }
message FilterList { required uint32 operator = 1; repeated Filter filters = 2; }

message TableRequest { required TableName table_name = 1; optional uint64 nonce_group = 2; optional uint64 nonce = 3; }
message CreateTableRequest { required TableSchema table_schema = 1; repeated bytes split_keys = 2; optional uint64 nonce_group = 3; optional uint64 nonce = 4; }
message SplitTableRegionRequest { required RegionInfo region_info = 1; optional bytes split_row = 2; optional uint64 nonce_group = 3; optional uint64 nonce = 4; }
message MergeTableRegionsRequest { repeated RegionSpecifier region = 1; optional bool forcible = 3; optional uint64 nonce_group = 4; optional uint64 nonce = 5; }
message MoveRegionRequest { required RegionSpecifier region = 1; optional ServerName dest_server_name = 2; }
message CreateNamespaceRequest { required NamespaceDescriptor namespace_descriptor = 1; optional uint64 nonce_group = 2; optional uint64 nonce = 3; }
message ListNamespacesResponse { repeated string namespace_name = 1; }
message GetTableDescriptorsRequest { repeated TableName table_names = 1; }
message GetTableDescriptorsResponse { repeated TableSchema table_schema = 1; }
message GetTableStateResponse { required TableState table_state = 1; }
message SetBalancerRunningRequest { required bool on = 1; optional bool synchronous = 2; }
message ProcedureResponse { optional uint64 proc_id = 1; }
message GenericExceptionMessage { optional string class_name = 1; optional string message = 2; }
message ForeignExceptionMessage { optional GenericExceptionMessage generic_exception = 2; }
message GetProcedureResultResponse { required uint32 state = 1; optional ForeignExceptionMessage exception = 5; }
message CompactRegionRequest { required RegionSpecifier region = 1; optional bool major = 2; }
message FlushRegionRequest { required RegionSpecifier region = 1; }
`

const root = protobuf.parse(DEFINITIONS, { keepCase: true }).root

/** A 64-bit number that is only passed back to where it came from. */
export type Opaque64 = number | { readonly low: number; readonly high: number; readonly unsigned: boolean }

export interface MessageType<Fields> {
  encode(fields: Fields): Buffer
  /** Fields that are not there are absent or have their type's zero. Throws when the bytes are no such message. */
  decode(bytes: Uint8Array): Fields
}

function message<Fields extends object>(name: string): MessageType<Fields> {
  const type = root.lookupType(name)
  return {
    encode: (fields) => type.encode(fields as Record<string, unknown>).finish() as Buffer,
    decode: (bytes) => type.decode(bytes) as unknown as Fields,
  }
}

export interface VersionFields { readonly version: string; readonly url: string; readonly revision: string; readonly user: string; readonly date: string; readonly src_checksum: string; readonly version_major: number; readonly version_minor: number }
export interface ServerName { readonly host_name: string; readonly port?: number; readonly start_code?: Opaque64 }
export interface TableNameFields { readonly namespace: Buffer; readonly qualifier: Buffer }
export interface RegionInfoFields { readonly region_id: Opaque64; readonly table_name: TableNameFields; readonly start_key?: Buffer; readonly end_key?: Buffer; readonly offline?: boolean; readonly split?: boolean; readonly replica_id?: number }
export interface RegionSpecifier { readonly type: number; readonly value: Buffer }
export interface ExceptionFields { readonly exception_class_name: string; readonly stack_trace: string; readonly do_not_retry: boolean }
export interface FilterFields { readonly name: string; readonly serialized_filter: Buffer }
export interface ColumnFields { readonly family: Buffer; readonly qualifier?: readonly Buffer[] }
export interface TimeRangeFields { readonly from?: number; readonly to?: number }
export interface PairFields { readonly first: Buffer; readonly second: Buffer }
export interface NameBytesFields { readonly name: string; readonly value?: Buffer }
export interface FamilySchemaFields { readonly name: Buffer; readonly attributes: readonly PairFields[]; readonly configuration?: readonly { name: string; value: string }[] }
export interface TableSchemaFields { readonly table_name: TableNameFields; readonly attributes?: readonly PairFields[]; readonly column_families: readonly FamilySchemaFields[]; readonly configuration?: readonly { name: string; value: string }[] }
export interface Nonce { readonly nonce_group: number; readonly nonce: number }

export interface GetFields {
  readonly row: Buffer
  readonly column?: readonly ColumnFields[]
  readonly filter?: FilterFields
  readonly time_range?: TimeRangeFields
  readonly max_versions?: number
  readonly existence_only?: boolean
}

export interface ScanFields {
  readonly column?: readonly ColumnFields[]
  readonly start_row: Buffer
  readonly stop_row: Buffer
  readonly filter?: FilterFields
  readonly time_range?: TimeRangeFields
  readonly max_versions: number
  readonly cache_blocks: boolean
  readonly max_result_size: number
  readonly reversed: boolean
  readonly include_start_row: boolean
  readonly include_stop_row: boolean
}

export interface ScanRequestFields {
  readonly region?: RegionSpecifier
  readonly scan?: ScanFields
  readonly scanner_id?: Opaque64
  readonly number_of_rows: number
  readonly close_scanner?: boolean
  readonly next_call_seq?: number
  readonly client_handles_partials?: boolean
  readonly client_handles_heartbeats?: boolean
  readonly limit_of_rows?: number
}

export interface ScanResponseFields {
  readonly cells_per_result: readonly number[]
  readonly scanner_id?: Opaque64
  readonly more_results?: boolean
  readonly partial_flag_per_result: readonly boolean[]
  readonly more_results_in_region?: boolean
  readonly heartbeat_message?: boolean
}

export interface MutationFields { readonly row: Buffer; readonly mutate_type: number; readonly timestamp?: number; readonly associated_cell_count?: number }
export interface ActionFields { readonly index: number; readonly mutation?: MutationFields; readonly get?: GetFields }
export interface ResultFields { readonly associated_cell_count?: number; readonly exists?: boolean }
export interface ActionResultFields { readonly index: number; readonly result?: ResultFields; readonly exception?: NameBytesFields }
export interface ConditionFields { readonly row: Buffer; readonly family: Buffer; readonly qualifier: Buffer; readonly compare_type: number; readonly comparator: FilterFieldsOfComparator }
export interface FilterFieldsOfComparator { readonly name: string; readonly serialized_comparator: Buffer }

export const Empty = message<Record<string, never>>('Empty')
export const ConnectionHeader = message<{ user_info: { effective_user: string }; service_name: string; cell_block_codec_class: string; version_info: VersionFields }>('ConnectionHeader')
export const RequestHeader = message<{ call_id: number; method_name: string; request_param: boolean; timeout: number; priority?: number; cell_block_meta?: { length: number } }>('RequestHeader')
export const ResponseHeader = message<{ call_id: number; exception?: ExceptionFields; cell_block_meta?: { length: number } }>('ResponseHeader')
export const RegionInfo = message<RegionInfoFields>('RegionInfo')
export const ActiveMaster = message<{ server_name?: ServerName }>('ActiveMaster')
export const MetaRegionLocations = message<{ meta_locations: readonly { region_info: RegionInfoFields; server_name?: ServerName }[] }>('MetaRegionLocations')
export const Get = message<GetFields>('Get')
export const GetRequest = message<{ region: RegionSpecifier; get: GetFields }>('GetRequest')
export const GetResponse = message<{ result?: ResultFields }>('GetResponse')
export const MutateRequest = message<{ region: RegionSpecifier; mutation: MutationFields; condition?: ConditionFields }>('MutateRequest')
export const MutateResponse = message<{ processed?: boolean }>('MutateResponse')
export const MultiRequest = message<{ region_action: readonly { region: RegionSpecifier; action: readonly ActionFields[] }[] }>('MultiRequest')
export const MultiResponse = message<{ region_action_result: readonly { result_or_exception: readonly ActionResultFields[]; exception?: NameBytesFields }[] }>('MultiResponse')
export const ScanRequest = message<ScanRequestFields>('ScanRequest')
export const ScanResponse = message<ScanResponseFields>('ScanResponse')

export const BinaryComparator = message<{ comparable: { value: Buffer } }>('BinaryComparator')
export const NoFields = message<Record<string, never>>('NoFields')
export const PrefixFilter = message<{ prefix: Buffer }>('PrefixFilter')
export const PageFilter = message<{ page_size: number }>('PageFilter')
export const KeyOnlyFilter = message<{ len_as_val: boolean }>('KeyOnlyFilter')
export const ColumnPrefixFilter = message<{ prefix: Buffer }>('ColumnPrefixFilter')
export const ColumnRangeFilter = message<{ min_column?: Buffer; min_column_inclusive: boolean; max_column?: Buffer; max_column_inclusive: boolean }>('ColumnRangeFilter')
export const MultiRowRangeFilter = message<{ row_range_list: readonly { start_row: Buffer; start_row_inclusive: boolean; stop_row: Buffer; stop_row_inclusive: boolean }[] }>('MultiRowRangeFilter')
export const SingleColumnValueFilter = message<{ column_family: Buffer; column_qualifier: Buffer; compare_op: number; comparator: FilterFieldsOfComparator; filter_if_missing: boolean; latest_version_only: boolean }>('SingleColumnValueFilter')
export const FilterList = message<{ operator: number; filters: readonly FilterFields[] }>('FilterList')

export const TableRequest = message<{ table_name: TableNameFields } & Partial<Nonce>>('TableRequest')
export const CreateTableRequest = message<{ table_schema: TableSchemaFields; split_keys: readonly Buffer[] } & Nonce>('CreateTableRequest')
export const SplitTableRegionRequest = message<{ region_info: RegionInfoFields; split_row?: Buffer } & Nonce>('SplitTableRegionRequest')
export const MergeTableRegionsRequest = message<{ region: readonly RegionSpecifier[]; forcible: boolean } & Nonce>('MergeTableRegionsRequest')
export const MoveRegionRequest = message<{ region: RegionSpecifier; dest_server_name?: ServerName }>('MoveRegionRequest')
export const CreateNamespaceRequest = message<{ namespace_descriptor: { name: Buffer } } & Nonce>('CreateNamespaceRequest')
export const ListNamespacesResponse = message<{ namespace_name: readonly string[] }>('ListNamespacesResponse')
export const GetTableDescriptorsRequest = message<{ table_names: readonly TableNameFields[] }>('GetTableDescriptorsRequest')
export const GetTableDescriptorsResponse = message<{ table_schema: readonly TableSchemaFields[] }>('GetTableDescriptorsResponse')
export const GetTableStateResponse = message<{ table_state: { state: number } }>('GetTableStateResponse')
export const SetBalancerRunningRequest = message<{ on: boolean; synchronous: boolean }>('SetBalancerRunningRequest')
export const ProcedureResponse = message<{ proc_id?: Opaque64 }>('ProcedureResponse')
export const GetProcedureResultResponse = message<{ state: number; exception?: { generic_exception?: { class_name: string; message: string } } }>('GetProcedureResultResponse')
export const CompactRegionRequest = message<{ region: RegionSpecifier; major: boolean }>('CompactRegionRequest')
export const FlushRegionRequest = message<{ region: RegionSpecifier }>('FlushRegionRequest')

/** RegionSpecifier.type */
export const REGION_NAME = 1
export const ENCODED_REGION_NAME = 2
/** MutationProto.mutate_type */
export const MUTATE_PUT = 2
export const MUTATE_DELETE = 3
/** Condition.compare_type, SingleColumnValueFilter.compare_op */
export const COMPARE_EQUAL = 2
