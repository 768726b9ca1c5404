-- Keep the older half of the frozen batch under a new id and give the newer half back to the front of the queue.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 resumed list
-- ARGV  1 batch id   2 the new id   3 1 if a flusher died over the batch: one of its events is suspected
-- Returns the number of events kept, or 0 if the batch is not frozen any more or has one event only.

local held = redis.call('LLEN', KEYS[2])
if redis.call('HGET', KEYS[3], 'batch_id') ~= ARGV[1] or held < 2 then
  return 0
end
redis.call('HDEL', KEYS[3], 'due') -- frees something first: see claim.lua
local front = redis.call('HGET', KEYS[3], 'source') == 'resumed' and KEYS[4] or KEYS[1] -- back to where it came from
local keep = math.ceil(held / 2)
local back = held - keep
while back > 0 do -- newest first, so that the oldest of them ends up foremost; LMOVE takes twice as long
  local some = redis.call('LRANGE', KEYS[2], 0, math.min(back, 250) - 1)
  redis.call('RPUSH', front, unpack(some))
  redis.call('LTRIM', KEYS[2], #some, -1)
  back = back - #some
end
local failures = tonumber(redis.call('HGET', KEYS[3], 'failures') or 0)
redis.call('HSET', KEYS[3], 'batch_id', ARGV[2], 'begun', failures)
if ARGV[3] == '1' then
  -- Either it is in this half, or it is among those that were given back: see claim.lua. A single event is left of many
  -- that died together, so one death counts against it already.
  redis.call('HSET', KEYS[3], 'suspects', held - keep)
  if keep == 1 then
    redis.call('HINCRBY', KEYS[3], 'begun', 1)
  end
end
return keep
