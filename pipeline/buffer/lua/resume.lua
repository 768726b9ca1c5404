-- Resume a table of a shard or a column of one: the next claim takes what was set aside before anything newer.
--
-- KEYS  1 shard hash   2 paused hash   3 batch list   4 resumed list   5 probed hash
-- ARGV  1 field (see keys.py)   2 how often it was probed in vain   3 milliseconds for which that is remembered
-- Returns 1, or 0 if it was not paused, a batch is frozen or something is on its way back already: an event of these may
-- miss a parent that is set aside, and must be tried while that is known to wait.

if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then
  return 0
end
local was = redis.call('HDEL', KEYS[2], ARGV[1]) -- frees something first: see claim.lua
if was == 1 then
  redis.call('HSET', KEYS[1], 'resume', 1)
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[5], ARGV[3])
end
return was
