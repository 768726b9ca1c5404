-- Give up the lease on what is frozen of the ingress queue; that it was taken is no reason to suspect it.
--
-- KEYS  1 state hash   2 lease
-- ARGV  1 owner
-- Returns 1, or 0 if somebody else has it.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], 'begun')
return 1
