-- Put a message that is no event, and was never accepted, to the front of a shard queue, once.
--
-- KEYS  1 events list   2 mark of the message   3 shard hash
-- ARGV  1 message   2 milliseconds to remember it
-- Returns 1, or 0 if it was handed over before.

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
redis.call('HDEL', KEYS[3], 'wanted') -- frees something first: see claim.lua
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
