-- Freeze the oldest events of a shard as a batch, or return the batch that is frozen already.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 lease   5 paused hash   6 parked list   7 resumed list   8 held set
-- ARGV  1 owner   2 lease in milliseconds   3 most events   4 most bytes   5 id for a new batch
--       6 fewest events: with fewer in the queue the shard counts as empty, unless a batch is frozen or something resumed
-- Returns {'busy'} | {'resting', milliseconds} | {'empty', paused}
--         | {'batch', id, seq, begun, failures, tries, paused, held, settled, accepted, source, message, message, …}
--         paused: {field, milliseconds until it is to be probed, why, …}; held: how many rows have events set aside;
--         settled: number of the last event that was settled, -1 if unknown; source: where the batch came from, 'events' or
--         'resumed'; messages oldest first.

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

local reply = { 'batch' }
local frozen = redis.call('LLEN', KEYS[2])
if frozen > 0 then
  local state = redis.call('HMGET', KEYS[3], 'due', 'batch_id', 'batch_seq', 'failures', 'tries', 'begun')
  local rest = tonumber(state[1] or 0) - now
  if rest > 0 then
    redis.call('DEL', KEYS[4])
    return { 'resting', rest }
  end
  local begun, failures, tries = tonumber(state[6] or 0), tonumber(state[4] or 0), tonumber(state[5] or 0)
  reply = { 'batch', state[2], tonumber(state[3]), begun, failures, tries }
  local messages = redis.call('LRANGE', KEYS[2], 0, -1)
  for i = frozen, 1, -1 do
    reply[#messages - i + 12] = messages[i]
  end
else
  -- What was set aside comes back before anything newer: first what is on its way back already, then the rest. Without a
  -- pause nobody else would ask for it; it was set aside by a batch of a Redis that has gone back in time.
  if (#paused == 0 or redis.call('HGET', KEYS[3], 'resume')) and redis.call('EXISTS', KEYS[7]) == 0 then
    if redis.call('EXISTS', KEYS[6]) == 1 then
      redis.call('RENAME', KEYS[6], KEYS[7])
    end
    redis.call('DEL', KEYS[8])
    redis.call('HDEL', KEYS[3], 'resume')
  end
  local source = redis.call('EXISTS', KEYS[7]) == 1 and KEYS[7] or KEYS[1]
  if source == KEYS[1] and redis.call('LLEN', source) < tonumber(ARGV[6]) then
    redis.call('DEL', KEYS[4])
    return { 'empty', paused }
  end
  local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])
  -- One of the next events is suspected of killing its flusher: it was in a batch that did, and not in the older half.
  local suspects = tonumber(redis.call('HGET', KEYS[3], 'suspects') or 0)
  if suspects > 0 then
    most = math.min(most, math.ceil(suspects / 2))
  end
  local taken, chunk = 0, nil
  repeat -- a few at a time: a chunk may be held in memory twice
    local last = math.min(taken + 100, most)
    chunk = redis.call('LRANGE', source, -last, -taken - 1)
    for i = #chunk, 1, -1 do
      if room > 0 then
        taken = taken + 1
        room = room - #chunk[i]
        reply[taken + 11] = chunk[i]
      end
    end
  until #chunk == 0 or taken == most or room <= 0
  if taken == 0 then
    redis.call('DEL', KEYS[4])
    return { 'empty', paused }
  end
  if taken == redis.call('LLEN', source) then
    redis.call('RENAME', source, KEYS[2]) -- nothing is copied, neither here nor in the append-only file
  else
    for _ = 1, taken do
      redis.call('LMOVE', source, KEYS[2], 'RIGHT', 'LEFT')
    end
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
  reply[2], reply[3], reply[4], reply[5], reply[6] = ARGV[5], seq, begun, 0, 0
end
reply[7] = paused
reply[8] = redis.call('SCARD', KEYS[8])
local shard = redis.call('HMGET', KEYS[3], 'settled', 'accepted', 'seq', 'source')
reply[9] = tonumber(shard[1] or (shard[3] and -1 or 0))
reply[10] = tonumber(shard[2] or 0)
reply[11] = shard[4] or 'events'
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
return reply
