-- Keep the older half of the frozen batch under a new id and give the newer half back to the front of the queue.
--
-- KEYS  1 events list   2 batch list   3 shard hash
-- ARGV  1 batch id   2 the new id   3 crashes that count against the new batch
-- Returns the number of events kept, or 0 if the batch is not frozen any more or has one event only.

local held = redis.call('LLEN', KEYS[2])
if redis.call('HGET', KEYS[3], 'batch_id') ~= ARGV[1] or held < 2 then
  return 0
end
redis.call('HDEL', KEYS[3], 'due') -- frees something first: see claim.lua
local keep = math.ceil(held / 2)
for _ = keep + 1, held do
  redis.call('LMOVE', KEYS[2], KEYS[1], 'LEFT', 'RIGHT') -- newest first, so that the oldest of them ends up foremost
end
local failures = tonumber(redis.call('HGET', KEYS[3], 'failures') or 0)
redis.call('HSET', KEYS[3], 'batch_id', ARGV[2], 'begun', failures + tonumber(ARGV[3]))
return keep
