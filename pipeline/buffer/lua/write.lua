-- Accept events into one shard: cache, overlay and queue change together or not at all.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 control list   5 parked list   6 resumed list   7 lease
--       then per event: its seen key if it has one, then per keyed change: overlay list, row hash
-- ARGV  1 settings of the shard, packed by MessagePack, one flat array:
--         1 most pending events the shard may hold
--         2 threshold: enqueue a flush when the queue reaches this length (0: never)
--         3 the flush message, '@ID@' stands for its id ('' : do not enqueue)
--         4 milliseconds after which a wanted flush that never started is asked for again
--         5 milliseconds after which a flush may be put to the head of the control list again
--         6 dedupe window in milliseconds
--         7 to 10 the four texts of the envelope of its messages (see Envelope.parts in codec.py)
--       2 the events, packed by MessagePack, one flat array: their number, then per event: its id as JSON, its body, what
--         else its headers say, whether it has a seen key, number of keyed changes, then per keyed change: its JSON
-- Returns {pending, after, accepted, place, seen, place, seen, …}
--         after: number of the last batch that the shard was done with; accepted: seq of the last event before these, they
--         take the following ones, but for the known ones: their places, from 1 on, and the values of their seen keys.
--         {-1 - pending, milliseconds now, drained, draining, drained_at, busy_since} if the shard is full (the last four
--         are of acknowledge.lua, and nil where there is none); then nothing was written.

local pending = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  + redis.call('LLEN', KEYS[5]) + redis.call('LLEN', KEYS[6])
local limit, threshold, flush_message, again_ms, headed_again_ms, dedupe_ms, head, to_body, to_headers, to_tail =
  unpack(cmsgpack.unpack(ARGV[1]))
local packed = cmsgpack.unpack(ARGV[2])
local count = packed[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local shard = redis.call('HMGET', KEYS[3], 'accepted', 'seq', 'stacked', 'cached')
local seq, after = tonumber(shard[1] or 0), tonumber(shard[2] or 0)
-- What an acknowledgement need not ask (see acknowledge.lua). Of events before these marks nothing is known.
local marks = { stacked = not shard[3] and seq or nil, cached = not shard[4] and seq or nil }

-- Enqueue a flush of this shard, unless one is on its way or at work. A Redis without memory refuses it, and then the beat
-- has to do. At the head of the queue it is the next to be taken, whatever waits there: not too often, or a shard that
-- stays full would starve the others.
local function ask_for_flush(is_full)
  local asked = redis.call('HMGET', KEYS[3], 'wanted', 'headed')
  if flush_message ~= '' and now - tonumber(asked[1] or 0) > again_ms and redis.call('EXISTS', KEYS[7]) == 0
    and type(redis.pcall('HSET', KEYS[3], 'wanted', string.format('%.0f', now))) == 'number' then
    local at_head = is_full and now - tonumber(asked[2] or 0) > headed_again_ms
    if at_head then
      redis.pcall('HSET', KEYS[3], 'headed', string.format('%.0f', now))
    end
    local id = 'flush-' .. KEYS[1]:match('{(%d+)}') .. '-' .. string.format('%.0f', seq) .. '-' .. clock[1] .. clock[2]
    redis.pcall(at_head and 'RPUSH' or 'LPUSH', KEYS[4], (flush_message:gsub('@ID@', id)))
  end
end

if pending + count > limit then
  ask_for_flush(true) -- where a flood of refused events keeps the workers busy, a flush must not wait for its turn
  return { -1 - pending, now, unpack(redis.call('HMGET', KEYS[3], 'drained', 'draining', 'drained_at', 'busy_since')) }
end

local SLICE = 500 -- a function takes no more than a few thousand arguments
local accepted_at, done_with = string.format(',%.0f]}}', now), string.format(' %.0f', after)
local result = { pending, after, seq }
local messages, rows, changes, repeatable = {}, {}, {}, {}
local key, item, row = 8, 2, 0
local call = redis.call -- looked up once, not for every row
for place = 1, count do
  local id, body, more, has_seen, keyed = unpack(packed, item, item + 4)
  item = item + 5
  local number, known = string.format('%d', seq + 1), false -- a third of the price of %.0f, and a counter fits
  if has_seen then
    known = not call('SET', KEYS[key], number .. done_with, 'PX', dedupe_ms, 'NX')
    if known then
      result[#result + 1] = place
      result[#result + 1] = call('GET', KEYS[key])
    end
    key = key + 1
  end
  if not known then
    seq = seq + 1
    number = '[' .. number
    for i = 0, keyed - 1 do
      local json = packed[item + i]
      if call('RPUSH', KEYS[key + 2 * i], number .. ',' .. id .. ',' .. json .. ']') > 1 then
        marks.stacked = seq
      end
      row = row + 1
      rows[row], changes[row], repeatable[row] = KEYS[key + 2 * i + 1], json, has_seen
    end
    messages[#messages + 1] = head .. id .. to_body .. body .. to_headers .. id .. more .. to_tail .. number .. accepted_at
  end
  key = key + 2 * keyed
  item = item + keyed
end

-- A cached row is updated only where Lua does it exactly; otherwise it is dropped, which is always right: absent is a
-- legal state, partial or wrong is not. Lua's numbers are doubles, so integers are exact below 2^53 only. A value of
-- another JSON type than the cached one would come back from PostgreSQL as something else, and NULL has no type.
local function renew_rows(first, last)
  local function scalar(value)
    local kind = type(value)
    if kind == 'number' and value == math.floor(value) and math.abs(value) < 2 ^ 53 then
      return 'integer', string.format('%.0f', value)
    elseif kind == 'string' or kind == 'boolean' then
      return kind, cjson.encode(value)
    end
  end

  local function scalar_kind(json)
    if not json then
      return nil
    end
    return json:match('^-?%d+$') and 'integer' or json:match('^"') and 'string' or json:match('^[tf]') and 'boolean'
  end

  -- The tag of a row (see keys.py) may say that there is none yet: then its reader must learn that it was overtaken. With
  -- a '!' at its end events that are in the row already may be accepted once more, under their ids.
  local function unsettled(tag, is_repeatable)
    return tag:match('^[?-]') or (is_repeatable and tag:match('!$'))
  end

  local function update_row(row, change)
    if change.delete or change.max or change.min then
      return false
    end
    for column, value in pairs(change.set or {}) do
      local kind, json = scalar(value)
      if not kind or kind ~= scalar_kind(redis.call('HGET', row, column)) then
        return false
      end
      redis.call('HSET', row, column, json)
    end
    for column, value in pairs(change.add or {}) do
      local kind, json = scalar(value)
      if kind ~= 'integer' or scalar_kind(redis.call('HGET', row, column)) ~= 'integer' then
        return false
      end
      if type(redis.pcall('HINCRBY', row, column, json)) ~= 'number' then
        return false -- beyond 64 bits
      end
    end
    return true
  end

  local function renew(row, json, is_repeatable)
    local tag = redis.call('HGET', row, '')
    if tag then
      if not unsettled(tag, is_repeatable) and update_row(row, cjson.decode(json)) then
        redis.call('PERSIST', row)
      else
        redis.call('DEL', row)
      end
    end
  end

  for i = first, last do
    renew(rows[i], changes[i], repeatable[i])
  end
end

local length = 0
for first = 1, #messages, SLICE do
  length = redis.call('LPUSH', KEYS[1], unpack(messages, first, math.min(first + SLICE - 1, #messages)))
end
for first = 1, #rows, SLICE do
  local last = math.min(first + SLICE - 1, #rows)
  if redis.call('EXISTS', unpack(rows, first, last)) > 0 then -- else none of them is cached, and that was one call
    renew_rows(first, last)
    marks.cached = seq
  end
end
-- Also when all events were known: WAIT and WAITAOF speak of what their connection wrote, and a repeated event is only
-- as durable as the first one.
local fields = { 'accepted', string.format('%.0f', seq) }
for mark, number in pairs(marks) do
  fields[#fields + 1] = mark
  fields[#fields + 1] = string.format('%.0f', number)
end
redis.call('HSET', KEYS[3], unpack(fields))

if threshold > 0 and length >= threshold and length - count < threshold then
  ask_for_flush(false)
end
return result
