-- Accept events into one shard: cache, overlay and queue change together or not at all.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 control list   5 parked list   6 resumed list   7 lease
--       then per event: its seen key if it has one, then per keyed change: overlay list, row hash
-- ARGV  1 most pending events the shard may hold
--       2 threshold: enqueue a flush when the queue reaches this length (0: never)
--       3 the flush message, '@ID@' stands for its id ('' : do not enqueue)
--       4 milliseconds after which a wanted flush that never started is asked for again
--       5 dedupe window in milliseconds
--       6 number of events   7 milliseconds after which a flush may be put to the head of the control list again
--       then per event: id, message (open at its end), 1 if it has a seen key else 0, number of keyed changes,
--                       then per keyed change: its JSON
-- Returns {pending, after, seq, seq, …}; in the place of the seq of a known event the value of its seen key.
--         after: number of the last batch that the shard was done with.
--         {-1 - pending, milliseconds now, drained, draining, drained_at, busy_since} if the shard is full (the last four
--         are of acknowledge.lua, and nil where there is none); then nothing was written.

local pending = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  + redis.call('LLEN', KEYS[5]) + redis.call('LLEN', KEYS[6])
local count = tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local shard = redis.call('HMGET', KEYS[3], 'accepted', 'seq')
local seq, after = tonumber(shard[1] or 0), tonumber(shard[2] or 0)

-- Enqueue a flush of this shard, unless one is on its way or at work. A Redis without memory refuses it, and then the beat
-- has to do. At the head of the queue it is the next to be taken, whatever waits there: not too often, or a shard that
-- stays full would starve the others.
local function ask_for_flush(is_full)
  local asked = redis.call('HMGET', KEYS[3], 'wanted', 'headed')
  if ARGV[3] ~= '' and now - tonumber(asked[1] or 0) > tonumber(ARGV[4]) and redis.call('EXISTS', KEYS[7]) == 0
    and type(redis.pcall('HSET', KEYS[3], 'wanted', string.format('%.0f', now))) == 'number' then
    local at_head = is_full and now - tonumber(asked[2] or 0) > tonumber(ARGV[7])
    if at_head then
      redis.pcall('HSET', KEYS[3], 'headed', string.format('%.0f', now))
    end
    local id = 'flush-' .. KEYS[1]:match('{(%d+)}') .. '-' .. string.format('%.0f', seq) .. '-' .. clock[1] .. clock[2]
    redis.pcall(at_head and 'RPUSH' or 'LPUSH', KEYS[4], (ARGV[3]:gsub('@ID@', id)))
  end
end

if pending + count > tonumber(ARGV[1]) then
  ask_for_flush(true) -- where a flood of refused events keeps the workers busy, a flush must not wait for its turn
  return { -1 - pending, now, unpack(redis.call('HMGET', KEYS[3], 'drained', 'draining', 'drained_at', 'busy_since')) }
end

-- A cached row is updated only where Lua does it exactly; otherwise it is dropped, which is always right: absent is a
-- legal state, partial or wrong is not. Lua's numbers are doubles, so integers are exact below 2^53 only. A value of
-- another JSON type than the cached one would come back from PostgreSQL as something else, and NULL has no type.
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
local function unsettled(tag, has_seen)
  return tag:match('^[?-]') or (has_seen == '1' and tag:match('!$'))
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

local result = { pending, after }
local key, arg = 8, 8
for _ = 1, count do
  local id, message, has_seen, changes = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], tonumber(ARGV[arg + 3])
  arg = arg + 4
  local known = false
  if has_seen == '1' then
    known = redis.call('GET', KEYS[key])
    if not known then
      redis.call('SET', KEYS[key], string.format('%.0f %.0f', seq + 1, after), 'PX', ARGV[5])
    end
    key = key + 1
  end
  if known then
    result[#result + 1] = known
    key = key + 2 * changes
    arg = arg + changes
  else
    seq = seq + 1
    for _ = 1, changes do
      local overlay, row, json = KEYS[key], KEYS[key + 1], ARGV[arg]
      redis.call('RPUSH', overlay, '[' .. seq .. ',' .. id .. ',' .. json .. ']')
      local tag = redis.call('HGET', row, '')
      if tag then
        if not unsettled(tag, has_seen) and update_row(row, cjson.decode(json)) then
          redis.call('PERSIST', row)
        else
          redis.call('DEL', row)
        end
      end
      key = key + 2
      arg = arg + 1
    end
    redis.call('LPUSH', KEYS[1], message .. '[' .. seq .. ',' .. string.format('%.0f', now) .. ']}}')
    result[#result + 1] = seq
  end
end
-- Also when all events were known: WAIT and WAITAOF speak of what their connection wrote, and a repeated event is only
-- as durable as the first one.
redis.call('HSET', KEYS[3], 'accepted', string.format('%.0f', seq))

local threshold = tonumber(ARGV[2])
if threshold > 0 then
  local length = redis.call('LLEN', KEYS[1])
  if length >= threshold and length - count < threshold then
    ask_for_flush(false)
  end
end
return result
