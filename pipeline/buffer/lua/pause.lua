-- Pause a table of a shard or a column of one, or put off its next probe. The batch that met the trouble stays frozen; that it was begun
-- does not count.
--
-- KEYS  1 shard hash   2 paused hash
-- ARGV  1 field (see keys.py)   2 milliseconds until it is probed   3 why (JSON)   4 id of the batch, '' for none
-- Returns 1, or 0 if the batch is not frozen any more.

if ARGV[4] ~= '' then
  local state = redis.call('HMGET', KEYS[1], 'batch_id', 'begun')
  if state[1] ~= ARGV[4] then
    return 0
  end
  redis.call('HDEL', KEYS[1], 'begun') -- frees something first: see claim.lua
  redis.call('HSET', KEYS[1], 'begun', math.max(0, tonumber(state[2] or 0) - 1))
end
redis.call('HDEL', KEYS[2], ARGV[1])
local clock = redis.call('TIME')
local due = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', due) .. '|' .. ARGV[3])
return 1
