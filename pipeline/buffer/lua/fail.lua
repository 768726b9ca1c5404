-- Record that the frozen batch could not be applied, and when to try it again.
--
-- KEYS  1 shard hash   2 lease
-- ARGV  1 batch id   2 milliseconds to rest   3 the error, one line   4 owner
--       5 what kind of failure: "plain", "bounded" (the number of such tries is), "unreachable" (PostgreSQL was not there,
--       the batch was not tried) or "silent" (the flusher's connection died over it, which counts like its own death)
--       6 1 if the batch was begun in this try
-- Returns 1, or 0 if the batch is not frozen any more.

local kind = ARGV[5]
if redis.call('HGET', KEYS[1], 'batch_id') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'error', 'unreachable') -- frees something first: see claim.lua
local clock = redis.call('TIME')
local due = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
if kind ~= 'silent' then
  redis.call('HINCRBY', KEYS[1], 'failures', 1)
  if ARGV[6] == '0' then
    redis.call('HINCRBY', KEYS[1], 'begun', 1) -- what is begun and not failed is a death: this try is neither
  end
end
if kind == 'bounded' then
  redis.call('HINCRBY', KEYS[1], 'tries', 1)
elseif kind == 'unreachable' then
  redis.call('HSET', KEYS[1], 'unreachable', 1)
end
redis.call('HSET', KEYS[1], 'due', string.format('%.0f', due), 'error', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[4] then
  redis.call('DEL', KEYS[2])
end
return 1
