-- Freeze the oldest events of a shard as a batch, or tell of the batch that is frozen already. Its messages are not in the
-- answer: plain LRANGE gives them three times as fast as a script could.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 lease   5 paused hash   6 parked list   7 resumed list   8 held set
-- ARGV  1 owner   2 lease in milliseconds   3 most events   4 most bytes   5 id for a new batch
--       6 how many are worth a batch: with fewer in the queue the shard counts as empty, unless a batch is frozen or something resumed
-- Returns {'busy'} | {'resting', milliseconds} | {'empty', paused}
--         | {'batch', id, seq, begun, failures, tries, paused, held, settled, accepted, source, cached}
--         paused: {field, milliseconds until it is to be probed, why, …}; held: how many rows have events set aside;
--         settled: number of the last event that was settled, -1 if unknown; source: where the batch came from, 'events' or
--         'resumed'; cached: number up to which events may have a cached row, see acknowledge.lua.

local owner = redis.call('GET', KEYS[4])
if owner and owner ~= ARGV[1] then
  return { 'busy' }
end

-- A Redis without memory refuses a script's first write if it could take more, and none after that. So the first write
-- of every script of the flush frees something: a full Redis must be drained.
redis.call('HDEL', KEYS[3], 'wanted')

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local paused = {}
local fields = redis.call('HGETALL', KEYS[5])
for i = 1, #fields, 2 do
  local due, why = fields[i + 1]:match('^(%d+)|(.*)$')
  paused[#paused + 1] = fields[i]
  paused[#paused + 1] = tonumber(due) - now
  paused[#paused + 1] = why
end

-- At most what the oldest messages of a list weigh, nearly, without reading them: a list that is not longer than that is
-- weighed by its memory, of another one a few are looked at.
local function weight(list, length, count)
  if count == length then
    local bytes = redis.pcall('MEMORY', 'USAGE', list, 'SAMPLES', 0)
    return type(bytes) == 'number' and bytes or math.huge -- forbidden: then they are read
  end
  local bytes = 0
  for i = 1, 64 do
    bytes = bytes + #redis.call('LINDEX', list, -math.ceil(i * count / 64))
  end
  return bytes / 64 * count
end

-- How many of the oldest messages are within so many bytes, the last of them maybe not as a whole.
local function fitting(list, most, room)
  local taken, chunk = 0, nil
  repeat -- a few at a time: a chunk may be held in memory twice
    chunk = redis.call('LRANGE', list, -math.min(taken + 100, most), -taken - 1)
    for i = #chunk, 1, -1 do
      if room > 0 then
        taken = taken + 1
        room = room - #chunk[i]
      end
    end
  until #chunk == 0 or taken == most or room <= 0
  return taken
end

-- SORT without an order copies a part of a list at once, and the append-only file has one line of it: for every message
-- that is moved by itself, LMOVE takes four times as long. Who may not call it, since ACLs count it as dangerous, copies
-- some hundreds at a time.
local function copy_oldest(list, length, count, copy)
  local copied = redis.pcall('SORT', list, 'BY', 'nosort', 'LIMIT', length - count, count, 'STORE', copy)
  if type(copied) ~= 'number' then
    redis.call('DEL', copy)
    for first = -count, -1, 500 do
      redis.call('RPUSH', copy, unpack(redis.call('LRANGE', list, first, math.min(first + 499, -1))))
    end
  end
end

-- Freeze the oldest messages of a list; returns how many.
local function freeze(list, most, room)
  local length = redis.call('LLEN', list)
  if length == 0 then
    return 0
  end
  local taken = math.min(length, most)
  local heavy = weight(list, length, taken) > room
  if heavy then
    taken = fitting(list, taken, room)
  end
  if taken == length then
    redis.call('RENAME', list, KEYS[2]) -- nothing is copied, neither here nor in the append-only file
    return taken
  end
  copy_oldest(list, length, taken, KEYS[2])
  if not heavy and weight(KEYS[2], taken, taken) > room then -- those that were looked at were not like the others
    taken = fitting(KEYS[2], taken, room)
    copy_oldest(list, length, taken, KEYS[2])
  end
  redis.call('LTRIM', list, 0, -taken - 1)
  return taken
end

local reply
if redis.call('EXISTS', KEYS[2]) == 1 then
  local state = redis.call('HMGET', KEYS[3], 'due', 'batch_id', 'batch_seq', 'failures', 'tries', 'begun')
  local rest = tonumber(state[1] or 0) - now
  if rest > 0 then
    redis.call('DEL', KEYS[4])
    return { 'resting', rest }
  end
  local begun, failures, tries = tonumber(state[6] or 0), tonumber(state[4] or 0), tonumber(state[5] or 0)
  reply = { 'batch', state[2], tonumber(state[3]), begun, failures, tries }
else
  -- What was set aside comes back before anything newer: first what is on its way back already, then the rest. Without a
  -- pause nobody else would ask for it; it was set aside by a batch of a Redis that has gone back in time.
  if (#paused == 0 or redis.call('HGET', KEYS[3], 'resume')) and redis.call('EXISTS', KEYS[7]) == 0 then
    if redis.call('EXISTS', KEYS[6]) == 1 then
      redis.call('RENAME', KEYS[6], KEYS[7])
    end
    redis.call('UNLINK', KEYS[8]) -- of any size
    redis.call('HDEL', KEYS[3], 'resume')
  end
  local source = redis.call('EXISTS', KEYS[7]) == 1 and KEYS[7] or KEYS[1]
  if source == KEYS[1] and redis.call('LLEN', source) < tonumber(ARGV[6]) then
    redis.call('HDEL', KEYS[3], 'busy_since') -- the time until the next flush is nobody's: see pipeline/core/drain.py
    redis.call('DEL', KEYS[4])
    return { 'empty', paused }
  end
  local most = tonumber(ARGV[3])
  -- One of the next events is suspected of killing its flusher: it was in a batch that did, and not in the older half.
  local suspects = tonumber(redis.call('HGET', KEYS[3], 'suspects') or 0)
  if suspects > 0 then
    most = math.min(most, math.ceil(suspects / 2))
  end
  local taken = freeze(source, most, tonumber(ARGV[4]))
  if taken == 0 then
    redis.call('DEL', KEYS[4])
    return { 'empty', paused }
  end
  local seq = tonumber(redis.call('HGET', KEYS[3], 'seq') or 0) + 1
  redis.call('HSET', KEYS[3], 'batch_id', ARGV[5], 'batch_seq', seq, 'source', source == KEYS[7] and 'resumed' or 'events')
  redis.call('HDEL', KEYS[3], 'begun', 'failures', 'tries', 'due', 'error', 'unreachable')
  redis.call('HSETNX', KEYS[3], 'busy_since', string.format('%.0f', now)) -- see acknowledge.lua
  local begun = 0
  if suspects > taken then
    redis.call('HSET', KEYS[3], 'suspects', suspects - taken)
  elseif suspects > 0 then
    redis.call('HDEL', KEYS[3], 'suspects')
  end
  if suspects > 0 and taken == 1 then
    begun = redis.call('HINCRBY', KEYS[3], 'begun', 1) -- as in halve.lua
  end
  reply = { 'batch', ARGV[5], seq, begun, 0, 0 }
end
reply[7] = paused
reply[8] = redis.call('SCARD', KEYS[8])
local shard = redis.call('HMGET', KEYS[3], 'settled', 'accepted', 'seq', 'source', 'cached')
reply[9] = tonumber(shard[1] or (shard[3] and -1 or 0))
reply[10] = tonumber(shard[2] or 0)
reply[11] = shard[4] or 'events'
reply[12] = tonumber(shard[5] or reply[10])
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
return reply
