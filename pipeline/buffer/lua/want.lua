-- Mark a flush of a shard as asked for, unless it is already and not long ago.
--
-- KEYS  1 shard hash
-- ARGV  1 milliseconds after which a mark counts as lost
-- Returns 1 if it was marked now, else 0.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now - tonumber(redis.call('HGET', KEYS[1], 'wanted') or 0) <= tonumber(ARGV[1]) then
  return 0
end
redis.call('HDEL', KEYS[1], 'wanted') -- frees something first: see claim.lua
redis.call('HSET', KEYS[1], 'wanted', string.format('%.0f', now))
return 1
