-- Resume a table of a shard: the next claim that finds no frozen batch takes what was set aside before anything newer.
--
-- KEYS  1 shard hash   2 paused hash
-- ARGV  1 table
-- Returns 1 if it was paused, else 0.

local was = redis.call('HDEL', KEYS[2], ARGV[1]) -- frees something first: see claim.lua
redis.call('HSET', KEYS[1], 'resume', 1)
return was
