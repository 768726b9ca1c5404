-- Freeze the oldest messages of the ingress queue, or of those that wait for room in a shard, or tell of what is frozen.
-- The messages are not in the answer: plain LRANGE gives them in a third of the time.
--
-- KEYS  1 frozen list   2 state hash   3 lease   4 set of the shards for which messages wait
--       5, 6, 7, 8 the lists of the ingress queue in the order in which they are served,
--                  or of a shard: events list, batch list, parked list, resumed list
--       9 the messages that wait for room in this shard, if it is a shard
-- ARGV  1 owner   2 lease in milliseconds   3 most messages   4 most bytes   5 id for a new batch
--       6 the shard, '' for the ingress queue   7 most pending events the shard may hold   8 deaths until a message is suspected
-- Returns {'busy'} | {'empty', shards} | {'batch', id, dropped, shard, shards, suspect, count}
--         dropped: messages of the batch that have found their place; shard: where it came from, as ARGV 6;
--         shards: those for which messages wait;
--         suspect: 1 if it is a single message, and those who took it before, alone or with others, were not heard of
--         again; count: how many of the oldest frozen messages are to be taken now.

local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then
  return { 'busy' }
end
redis.call('DEL', KEYS[3]) -- frees something first: see claim.lua
local room = tonumber(ARGV[4])

-- About as many of the oldest messages of a list as have room; a few of them are looked at.
local function about(list, most)
  local bytes, samples = 0, math.min(most, 16)
  for i = 1, samples do
    bytes = bytes + #redis.call('LINDEX', list, -math.ceil(i * most / samples))
  end
  return math.max(1, math.min(most, math.floor(room / (bytes / samples + 1))))
end

-- Freeze the oldest messages of a list, at most so many; see claim.lua for the commands.
local function freeze(list, most)
  local length = redis.call('LLEN', list)
  if length == 0 or most <= 0 then
    return false
  end
  local count = about(list, math.min(length, most))
  if count == length then
    redis.call('RENAME', list, KEYS[1])
    return true
  end
  if type(redis.pcall('SORT', list, 'BY', 'nosort', 'LIMIT', length - count, count, 'STORE', KEYS[1])) ~= 'number' then
    redis.call('DEL', KEYS[1])
    for first = -count, -1, 500 do
      redis.call('RPUSH', KEYS[1], unpack(redis.call('LRANGE', list, first, math.min(first + 499, -1))))
    end
  end
  redis.call('LTRIM', list, 0, -count - 1)
  return true
end

-- How many of the oldest frozen messages have room, the last of them maybe not as a whole; at most so many.
local function fitting(most)
  local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0) -- a little more than the messages
  if type(bytes) == 'number' and bytes <= room then
    return most
  end
  local count, left = 0, room
  while count < most and left > 0 do
    local chunk = redis.call('LRANGE', KEYS[1], -math.min(count + 100, most), -count - 1)
    for i = #chunk, 1, -1 do
      if left > 0 then
        count, left = count + 1, left - #chunk[i]
      end
    end
  end
  return count
end

local most = redis.call('LLEN', KEYS[1])
local suspect = 0
if most == 0 then
  most = tonumber(ARGV[3])
  local first, last = 5, 8
  if ARGV[6] ~= '' then
    local pending = 0
    for i = 5, 8 do
      pending = pending + redis.call('LLEN', KEYS[i])
    end
    most = math.min(most, tonumber(ARGV[7]) - pending)
    first, last = 9, 9
  end
  local list = first
  while list <= last and not freeze(KEYS[list], most) do
    list = list + 1
  end
  if list > last then
    return { 'empty', redis.call('SMEMBERS', KEYS[4]) }
  end
  most = redis.call('LLEN', KEYS[1])
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'batch_id', ARGV[5], 'shard', ARGV[6], 'begun', 1, 'dropped', 0)
else
  -- Who died over it may have died of one of its messages: that is found by taking fewer each time.
  local state = redis.call('HMGET', KEYS[2], 'begun', 'most')
  most = math.min(most, tonumber(state[2] or most))
  if state[1] then
    local deaths = redis.call('HINCRBY', KEYS[2], 'deaths', 1)
    suspect = most == 1 and deaths >= tonumber(ARGV[8]) and 1 or 0
    most = math.ceil(most / 2)
    redis.call('HSET', KEYS[2], 'most', most)
  end
  redis.call('HSET', KEYS[2], 'begun', 1)
end
local state = redis.call('HMGET', KEYS[2], 'batch_id', 'dropped', 'shard')
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return { 'batch', state[1], state[2], state[3], redis.call('SMEMBERS', KEYS[4]), suspect, fitting(most) }
