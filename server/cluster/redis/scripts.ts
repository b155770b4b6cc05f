/** Scripts that run in Redis, each in one slot. What they refuse is an answer, never an error. */
import { createHash } from 'node:crypto'

export interface Script {
  readonly text: string
  readonly sha: string
  /** It writes, so that replicas are waited for. */
  readonly writes: boolean
}

function script(text: string, writes = true): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex'), writes }
}

/** A connection that broke may bring an operation after a later one of the same node: `seq` tells. */
const OUTDATED = `
local function outdated(by, seq)
  return by == ARGV[1] and tonumber(seq) > tonumber(ARGV[2])
end`

/** KEYS: home, offline, streams, tail; ARGV: inc, seq, an incarnation that is over, lastMs of that. Answers 1 and all of it, or 0 and the home, or 2: outdated. */
export const CLAIM = script(`${OUTDATED}
local has = redis.call('HMGET', KEYS[1], 'inc', 'by', 'seq', 'last')
local home = has[1]
if home and home ~= ARGV[1] and home ~= ARGV[3] and home ~= '~' .. ARGV[3] then return {0, home} end
if outdated(has[2], has[3]) then return {2} end
local last = has[4] or '0'
if tonumber(ARGV[4]) > tonumber(last) then last = ARGV[4] end
redis.call('HSET', KEYS[1], 'inc', ARGV[1], 'by', ARGV[1], 'seq', ARGV[2], 'last', last)
redis.call('PERSIST', KEYS[1])
return {1, redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[3]), redis.call('GET', KEYS[4]), last}`)

/** KEYS: home, offline, streams, tail. */
export const LOAD = script(`
return {1, redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[3]), redis.call('GET', KEYS[4]), redis.call('HGET', KEYS[1], 'last') or '0'}`, false)

/** KEYS: home; ARGV: inc, seq, lastMs, seconds to remember that. */
export const RELEASE = script(`${OUTDATED}
local has = redis.call('HMGET', KEYS[1], 'inc', 'by', 'seq')
if has[1] ~= ARGV[1] or outdated(has[2], has[3]) then return 0 end
redis.call('HDEL', KEYS[1], 'inc', 'rec')
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'seq', ARGV[2], 'last', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1`)

/**
 * KEYS: home, offline, streams, tail. ARGV: who writes, seq, whose home it is, number of the recovery (0 when the home writes itself), '' or 'keep' or 'set', tail, whether
 * a unit without a home is written to; then numbers of: rows, removed rows, stanzas, removed stanzas; then row keys and values, row keys, ids and elements, ids.
 * Answers 1; 0 when its home is another; 2: outdated; 3 when it has no home.
 */
export const WRITE = script(`${OUTDATED}
local has = redis.call('HMGET', KEYS[1], 'inc', 'by', 'seq', 'rec')
local recovery = tonumber(ARGV[4])
if not has[1] then
  if ARGV[7] ~= '1' then return 3 end
elseif has[1] ~= ARGV[3] and (recovery == 0 or has[1] ~= '~' .. ARGV[3]) then
  return 0
end
if outdated(has[2], has[3]) or recovery > 0 and recovery < tonumber(has[4] or '0') then return 2 end
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'seq', ARGV[2])
if recovery > 0 then redis.call('HSET', KEYS[1], 'inc', '~' .. ARGV[3], 'rec', ARGV[4]) end
if ARGV[5] == 'set' then redis.call('SET', KEYS[4], ARGV[6]) elseif ARGV[5] == '' then redis.call('DEL', KEYS[4]) end
local at = 12
for _ = 1, tonumber(ARGV[8]) do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[9]) do
  redis.call('HDEL', KEYS[3], ARGV[at])
  at = at + 1
end
local function idOf(element)
  local ok, read = pcall(cjson.decode, element)
  return ok and type(read) == 'table' and type(read.id) == 'string' and read.id or ''
end
-- As bytes: the comparison of the language is that of a locale.
local function isBefore(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
local elements
local function byId()
  if elements then return elements end
  elements = {}
  for _, element in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do elements[idOf(element)] = element end
  return elements
end
for _ = 1, tonumber(ARGV[10]) do
  local id, element = ARGV[at], ARGV[at + 1]
  at = at + 2
  local last = redis.call('LINDEX', KEYS[2], -1)
  if not last or isBefore(idOf(last), id) then
    redis.call('RPUSH', KEYS[2], element)
  else
    local known = byId()[id]
    if known then
      redis.call('LINSERT', KEYS[2], 'BEFORE', known, element)
      redis.call('LREM', KEYS[2], -1, known)
    else
      local next
      for other, text in pairs(byId()) do
        if isBefore(id, other) and (not next or isBefore(other, idOf(next))) then next = text end
      end
      if next then redis.call('LINSERT', KEYS[2], 'BEFORE', next, element) else redis.call('RPUSH', KEYS[2], element) end
    end
  end
  if elements then elements[id] = element end
end
for _ = 1, tonumber(ARGV[11]) do
  local id = ARGV[at]
  at = at + 1
  local first = redis.call('LINDEX', KEYS[2], 0)
  if first and idOf(first) == id then
    redis.call('LPOP', KEYS[2])
  elseif first then
    local known = byId()[id]
    if known then redis.call('LREM', KEYS[2], 1, known) end
  end
  if elements then elements[id] = nil end
end
return 1`)

/** 1; 0 when there is no such node; 2 when it is being recovered; 3 when its inbox is full. Bytes are looked at when there are more entries than a few. */
const SENDING = `
local function sendTo(node, fence, inbox, entriesMax, bytesMax, source, first, pieces)
  if redis.call('EXISTS', node) == 0 then return 0 end
  if redis.call('EXISTS', fence) == 1 then return 2 end
  local entries = redis.call('XLEN', inbox)
  if entries >= tonumber(entriesMax) then return 3 end
  if entries >= 64 then
    local bytes = redis.pcall('MEMORY', 'USAGE', inbox, 'SAMPLES', 0)
    if type(bytes) == 'number' and bytes + #pieces > tonumber(bytesMax) then return 3 end
  end
  redis.call('XADD', inbox, '*', 's', source, 'f', first, 'p', pieces)
  return 1
end`

/**
 * KEYS: node, fence, at, log, then node, fence and inbox of each to whom parcels go (in one slot where there are slots: none in a Cluster). ARGV: number, id, lastMs, payload, entries and bytes
 * that an inbox may have, source, then first number and pieces of each parcel. Answers -1 when the record is there, -2 when the log takes nothing any more, or the number of the last record when some between
 * are missing; then, when it has been appended now, how each parcel went (see SENDING).
 */
export const APPEND = script(`${SENDING}
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return {-2} end
local at = tonumber(redis.call('GET', KEYS[3]) or '0')
local number = tonumber(ARGV[1])
if at >= number then return {-1} end
if at < number - 1 then return {at} end
redis.call('XADD', KEYS[4], ARGV[2], 'l', ARGV[3], 'p', ARGV[4])
redis.call('SET', KEYS[3], ARGV[1])
local answer = {-1}
local arg = 8
for key = 5, #KEYS, 3 do
  answer[#answer + 1] = sendTo(KEYS[key], KEYS[key + 1], KEYS[key + 2], ARGV[5], ARGV[6], ARGV[7], ARGV[arg], ARGV[arg + 1])
  arg = arg + 2
end
return answer`)

/** KEYS: node, fence, log; ARGV: the first id that stays. */
export const TRIM = script(`
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('XTRIM', KEYS[3], 'MINID', ARGV[1])
return 1`)

/** KEYS: node, fence, inbox; ARGV: entries and bytes that it may have, source, first number, pieces. Answers as SENDING says. */
export const SEND = script(`${SENDING}
return sendTo(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])`)

/** KEYS: node, fence, inbox; ARGV: ids. */
export const TAKE_OUT = script(`
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
return redis.call('XDEL', KEYS[3], unpack(ARGV))`)

/** KEYS: nodes, leases, lost, turn; ARGV: inc. Renews a lease; answers whether it was there, and how all nodes are. */
export const BEAT = script(`
local live = redis.call('HEXISTS', KEYS[2], ARGV[1])
if live == 1 then redis.call('HINCRBY', KEYS[2], ARGV[1], 1) end
return {live, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1), redis.call('HGETALL', KEYS[4])}`, false)

/** KEYS: nodes, leases; ARGV: inc, info. */
export const JOIN = script(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], 1)
return 1`)

/** KEYS: nodes, leases; ARGV: inc, info. Of a node that is there. */
export const CHANGE = script(`
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1`)

/** KEYS: nodes, numbers; ARGV: inc. Answers its number: one that no node has which is there, or is to be recovered. */
export const NUMBER = script(`
local taken = {}
local mine
local numbers = redis.call('HGETALL', KEYS[2])
for i = 1, #numbers, 2 do
  if numbers[i] == ARGV[1] then mine = tonumber(numbers[i + 1])
  elseif redis.call('HEXISTS', KEYS[1], numbers[i]) == 1 then taken[numbers[i + 1]] = true
  else redis.call('HDEL', KEYS[2], numbers[i]) end
end
if mine then return mine end
for number = 0, 1023 do
  if not taken[tostring(number)] then
    redis.call('HSET', KEYS[2], ARGV[1], number)
    return number
  end
end
return redis.error_reply('there are 1024 nodes')`)

const TO_THE_END = `
local function toTheEnd(inc)
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
  redis.call('ZADD', KEYS[3], (tonumber(last[2]) or 0) + 1, inc)
end`

/** KEYS: nodes, leases, lost; ARGV: inc, its renewals as they were seen ('' whatever they are). */
export const LOSE = script(`${TO_THE_END}
local renewals = redis.call('HGET', KEYS[2], ARGV[1])
if not renewals or ARGV[2] ~= '' and renewals ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then toTheEnd(ARGV[1]) end
return 1`)

/** KEYS: nodes, leases, lost, turn; ARGV: inc of who recovers. Answers whom, and the number of the recovery; nothing when another is at it. */
export const TAKE_TURN = script(`${TO_THE_END}
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return {} end
local turn = redis.call('HMGET', KEYS[4], 'inc', 'by')
if turn[1] then
  if turn[2] ~= ARGV[1] and redis.call('HEXISTS', KEYS[2], turn[2]) == 1 then return {} end
  -- Who was at it is lost itself: another comes first, in case that it was because of this one.
  if redis.call('ZSCORE', KEYS[3], turn[1]) then toTheEnd(turn[1]) end
  redis.call('HDEL', KEYS[4], 'inc', 'by')
end
local inc = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
if not inc then return {} end
redis.call('HSET', KEYS[4], 'inc', inc, 'by', ARGV[1])
return {inc, redis.call('HINCRBY', KEYS[4], 'token', 1)}`)

/** KEYS: nodes, leases, lost, turn; ARGV: inc, number of the recovery, whether all is done. */
export const END_TURN = script(`${TO_THE_END}
if redis.call('HGET', KEYS[4], 'inc') ~= ARGV[1] or redis.call('HGET', KEYS[4], 'token') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[4], 'inc', 'by')
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  toTheEnd(ARGV[1])
end
return 1`)

/** KEYS: node, fence; ARGV: number of the recovery. Closes log and inbox: 1; 0 when it is recovered already; 2 when another recovers it. */
export const FENCE = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[1]) then return 2 end
redis.call('SET', KEYS[2], ARGV[1])
return 1`)

/** KEYS: node, fence, at, log, inbox, over, ways; ARGV: number of the recovery, seconds to remember it, then fields and values of `over`. */
export const FINISH = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[6], ARGV[2])
redis.call('UNLINK', KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[7])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1`)

/** KEYS: node, fence, ways; ARGV: token, unit, nodes. */
export const NOTE_WAYS = script(`
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
return 1`)

/** KEYS: node, fence, at, log, inbox, over; ARGV: seconds. A node that has nothing left ends: 1; 0 when it has. */
export const LEAVE = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('XLEN', KEYS[4]) > 0 or redis.call('XLEN', KEYS[5]) > 0 then return 0 end
redis.call('UNLINK', KEYS[1], KEYS[3], KEYS[4], KEYS[5])
redis.call('HSET', KEYS[6], 'last', 0)
redis.call('EXPIRE', KEYS[6], ARGV[1])
return 1`)

/** KEYS: nodes, leases; ARGV: inc. Of a node that has ended. */
export const LEFT = script(`
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1`)

/** KEYS: progress; ARGV: partitions, each with an offset. None goes back: what two workers tell may come in any order. */
export const ADVANCE = script(`
for i = 1, #ARGV, 2 do
  if tonumber(ARGV[i + 1]) > tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '-1') then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1`)

/** KEYS: progress. */
export const PROGRESS = script(`return redis.call('HGETALL', KEYS[1])`, false)
