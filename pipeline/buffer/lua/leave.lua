-- Leave the frozen batch to the flusher that is at work on it: our claim does not count, and our lease ends.
--
-- KEYS  1 shard hash   2 lease
-- ARGV  1 batch id   2 owner
-- Returns 1, or 0 if the batch is not frozen any more.

if redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[2])
end
local state = redis.call('HMGET', KEYS[1], 'batch_id', 'claims')
if state[1] ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'claims') -- frees something first: see claim.lua
redis.call('HSET', KEYS[1], 'claims', tonumber(state[2]) - 1)
return 1
