-- Some events are missing in the frozen batch: a worker has taken them out of the queue. Keep what is before them under a
-- new id and give the rest back to the front of the queue; with nothing to keep, wait for them, but not for ever.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 resumed list   5 lease
-- ARGV  1 batch id   2 the new id   3 number of events to keep   4 most milliseconds to wait
--       5 number of the last event that is missing
-- Returns 'kept' | 'waiting' (nothing is frozen any more) | 'over' (nothing was changed, the missing events count as passed
--         over) | 'gone' (the batch is not frozen any more)

if redis.call('HGET', KEYS[3], 'batch_id') ~= ARGV[1] then
  return 'gone'
end
redis.call('HDEL', KEYS[3], 'due', 'error') -- frees something first: see claim.lua

local keep = tonumber(ARGV[3])
if keep == 0 then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local since = tonumber(redis.call('HGET', KEYS[3], 'gap_since') or now)
  if now - since > tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[3], 'gap_since')
    redis.call('HSET', KEYS[3], 'settled', ARGV[5])
    return 'over'
  end
  redis.call('HSET', KEYS[3], 'gap_since', string.format('%.0f', since))
end

local front = redis.call('HGET', KEYS[3], 'source') == 'resumed' and KEYS[4] or KEYS[1] -- back to where it came from
local back = redis.call('LLEN', KEYS[2]) - keep
while back > 0 do -- newest first, so that the oldest of them ends up foremost; LMOVE takes twice as long
  local some = redis.call('LRANGE', KEYS[2], 0, math.min(back, 250) - 1)
  redis.call('RPUSH', front, unpack(some))
  redis.call('LTRIM', KEYS[2], #some, -1)
  back = back - #some
end
if keep > 0 then
  redis.call('HSET', KEYS[3], 'batch_id', ARGV[2], 'begun', redis.call('HGET', KEYS[3], 'failures') or 0)
  return 'kept'
end
redis.call('HDEL', KEYS[3], 'batch_id', 'batch_seq', 'begun', 'failures', 'tries')
redis.call('DEL', KEYS[5])
return 'waiting'
