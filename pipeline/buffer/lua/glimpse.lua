-- Look at a row as it is, and change nothing.
--
-- KEYS  1 row hash   2 overlay list   3 shard hash
-- Returns {{field, value, …}, {overlay entry, …}, seq of the last acknowledged batch, id of the frozen batch or ''}

local shard = redis.call('HMGET', KEYS[3], 'seq', 'batch_id')
return { redis.call('HGETALL', KEYS[1]), redis.call('LRANGE', KEYS[2], 0, -1), shard[1] or '0', shard[2] or '' }
