-- Record that the frozen batch could not be applied, and when to try it again.
--
-- KEYS  1 shard hash   2 lease
-- ARGV  1 batch id   2 milliseconds to rest   3 the error, one line   4 owner   5 1 if the number of such tries is bounded
-- Returns 1, or 0 if the batch is not frozen any more.

if redis.call('HGET', KEYS[1], 'batch_id') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'error') -- frees something first: see claim.lua
local clock = redis.call('TIME')
local due = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
if failures > tonumber(redis.call('HGET', KEYS[1], 'begun') or 0) then
  redis.call('HSET', KEYS[1], 'begun', failures) -- it failed before it was begun: that must not hide a later crash
end
redis.call('HINCRBY', KEYS[1], 'tries', ARGV[5])
redis.call('HSET', KEYS[1], 'due', string.format('%.0f', due), 'error', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[4] then
  redis.call('DEL', KEYS[2])
end
return 1
