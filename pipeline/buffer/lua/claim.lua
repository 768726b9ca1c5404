-- Freeze the oldest events of a shard as a batch, or return the batch that is frozen already.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 lease
-- ARGV  1 owner   2 lease in milliseconds   3 most events   4 most bytes   5 id for a new batch
-- Returns {'busy'} | {'empty'} | {'resting', milliseconds} | {'batch', id, seq, claims, failures, tries, queued, message, …}
--         queued: events left in the queue; messages oldest first.

local owner = redis.call('GET', KEYS[4])
if owner and owner ~= ARGV[1] then
  return { 'busy' }
end

-- A Redis without memory refuses a script's first write if it could take more, and none after that. So the first write
-- of every script of the flush frees something: a full Redis must be drained.
redis.call('HDEL', KEYS[3], 'wanted')

local reply = { 'batch' }
local held = redis.call('LLEN', KEYS[2])
if held > 0 then
  local state = redis.call('HMGET', KEYS[3], 'due', 'batch_id', 'batch_seq', 'failures', 'tries')
  local clock = redis.call('TIME')
  local rest = tonumber(state[1] or 0) - (clock[1] * 1000 + math.floor(clock[2] / 1000))
  if rest > 0 then
    redis.call('DEL', KEYS[4])
    return { 'resting', rest }
  end
  local claims = redis.call('HINCRBY', KEYS[3], 'claims', 1)
  local failures, tries = tonumber(state[4] or 0), tonumber(state[5] or 0)
  reply = { 'batch', state[2], tonumber(state[3]), claims, failures, tries, redis.call('LLEN', KEYS[1]) }
  local messages = redis.call('LRANGE', KEYS[2], 0, -1)
  for i = held, 1, -1 do
    reply[#reply + 1] = messages[i]
  end
else
  local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])
  local taken = 0
  while taken < most and room > 0 do
    local message = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
    if not message then
      break
    end
    taken = taken + 1
    room = room - #message
    reply[taken + 7] = message
  end
  if taken == 0 then
    redis.call('DEL', KEYS[4])
    return { 'empty' }
  end
  local seq = tonumber(redis.call('HGET', KEYS[3], 'seq') or 0) + 1
  redis.call('HSET', KEYS[3], 'batch_id', ARGV[5], 'batch_seq', seq, 'claims', 1)
  redis.call('HDEL', KEYS[3], 'failures', 'tries', 'due', 'error')
  reply[2], reply[3], reply[4], reply[5], reply[6], reply[7] = ARGV[5], seq, 1, 0, 0, redis.call('LLEN', KEYS[1])
end
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
return reply
