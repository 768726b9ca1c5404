-- Drop frozen messages of the ingress queue that have found their place; give the others of them a list to wait in.
--
-- KEYS  1 frozen list   2 state hash   3 set of the shards for which messages wait   4 the list for Celery
--       5 the list that they came from, if it is one of a shard, else the list for Celery again
--       then the waiting list of every shard in ARGV
-- ARGV  1 batch id   2 messages of it that were dropped before   3 number of messages to drop
--       4 1 if the message was suspected: who follows it is not
--       5 the shard they came from, ''  for the ingress queue
--       6 number of messages for Celery, then these, oldest first
--       then number of shards, then for each: the shard, number of messages, the messages, oldest first
-- Returns 1, or 0 if these messages are not frozen any more: then nothing was done.

local state = redis.call('HMGET', KEYS[2], 'batch_id', 'dropped')
if state[1] ~= ARGV[1] or state[2] ~= ARGV[2] then
  return 0
end
redis.call('LTRIM', KEYS[1], 0, -tonumber(ARGV[3]) - 1) -- frees something first: see claim.lua
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[2], 'begun', 'deaths') -- all of them were over the oldest message, which is away
  if ARGV[4] == '1' then -- found: else those behind it would go one by one; before, the search goes on where it was
    redis.call('HDEL', KEYS[2], 'most')
  end
  redis.call('HINCRBY', KEYS[2], 'dropped', ARGV[3])
else
  redis.call('DEL', KEYS[2])
end

local arg = 6
local count = tonumber(ARGV[arg])
for i = arg + 1, arg + count do
  redis.call('LPUSH', KEYS[4], ARGV[i])
end
arg = arg + count + 1
for place = 1, tonumber(ARGV[arg]) do
  local key, shard = KEYS[place + 5], ARGV[arg + 1]
  count = tonumber(ARGV[arg + 2])
  arg = arg + 2
  if shard == ARGV[5] then -- back to where they were, before all others
    for i = arg + count, arg + 1, -1 do
      redis.call('RPUSH', key, ARGV[i])
    end
  else
    for i = arg + 1, arg + count do
      redis.call('LPUSH', key, ARGV[i])
    end
  end
  redis.call('SADD', KEYS[3], shard)
  arg = arg + count
end
if ARGV[5] ~= '' and redis.call('EXISTS', KEYS[5]) == 0 then
  redis.call('SREM', KEYS[3], ARGV[5])
end
return 1
