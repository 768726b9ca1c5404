-- Freeze the oldest messages of the ingress queue, or of those that wait for room in a shard, or return what is frozen.
--
-- KEYS  1 frozen list   2 state hash   3 lease   4 set of the shards for which messages wait
--       5, 6, 7, 8 the lists of the ingress queue in the order in which they are served,
--                  or of a shard: events list, batch list, parked list, resumed list
--       9 the messages that wait for room in this shard, if it is a shard
-- ARGV  1 owner   2 lease in milliseconds   3 most messages   4 most bytes   5 id for a new batch
--       6 the shard, '' for the ingress queue   7 most pending events the shard may hold   8 deaths until a message is suspected
-- Returns {'busy'} | {'empty', shards} | {'batch', id, dropped, shard, shards, suspect, message, message, …}
--         dropped: messages of the batch that have found their place; shard: where it came from, as ARGV 6;
--         shards: those for which messages wait;
--         suspect: 1 if it is a single message, and those who took it before, alone or with others, were not heard of
--         again; messages oldest first.

local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then
  return { 'busy' }
end
redis.call('DEL', KEYS[3]) -- frees something first: see claim.lua

local reply = { 'batch' }
local frozen = redis.call('LLEN', KEYS[1])
local suspect = 0
if frozen == 0 then
  local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])
  local first, last = 5, 8
  if ARGV[6] ~= '' then
    local pending = 0
    for i = 5, 8 do
      pending = pending + redis.call('LLEN', KEYS[i])
    end
    most = math.min(most, tonumber(ARGV[7]) - pending)
    first, last = 9, 9
  end
  local taken = 0
  for i = first, last do
    while taken < most and room > 0 do
      local message = redis.call('LMOVE', KEYS[i], KEYS[1], 'RIGHT', 'LEFT')
      if not message then
        break
      end
      taken = taken + 1
      room = room - #message
      reply[taken + 6] = message
    end
  end
  if taken == 0 then
    return { 'empty', redis.call('SMEMBERS', KEYS[4]) }
  end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'batch_id', ARGV[5], 'shard', ARGV[6], 'begun', 1, 'dropped', 0)
else
  -- Who died over it may have died of one of its messages: that is found by taking fewer each time.
  local state = redis.call('HMGET', KEYS[2], 'begun', 'most')
  local most = math.min(frozen, tonumber(state[2] or frozen))
  if state[1] then
    local deaths = redis.call('HINCRBY', KEYS[2], 'deaths', 1)
    suspect = most == 1 and deaths >= tonumber(ARGV[8]) and 1 or 0
    most = math.ceil(most / 2)
    redis.call('HSET', KEYS[2], 'most', most)
  end
  redis.call('HSET', KEYS[2], 'begun', 1)
  local messages = redis.call('LRANGE', KEYS[1], -most, -1)
  for i = #messages, 1, -1 do
    reply[#messages - i + 7] = messages[i]
  end
end
local state = redis.call('HMGET', KEYS[2], 'batch_id', 'dropped', 'shard')
reply[2], reply[3], reply[4] = state[1], state[2], state[3]
reply[5], reply[6] = redis.call('SMEMBERS', KEYS[4]), suspect
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return reply
