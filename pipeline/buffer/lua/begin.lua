-- Note that the frozen batch is about to be written: if no word of its end follows, its flusher died over it.
--
-- KEYS  1 shard hash
-- ARGV  1 batch id   2 1, or 0 if the same flusher has noted it already
-- Returns 1, or 0 if the batch is not frozen any more: then it must not be written.

if redis.call('HGET', KEYS[1], 'batch_id') ~= ARGV[1] then
  return 0
end
local begun = tonumber(redis.call('HGET', KEYS[1], 'begun') or 0) + tonumber(ARGV[2])
redis.call('HDEL', KEYS[1], 'begun') -- frees something first: see claim.lua
redis.call('HSET', KEYS[1], 'begun', begun)
return 1
