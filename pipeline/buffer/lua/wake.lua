-- End the rest of a frozen batch that could not even be tried, because PostgreSQL was unreachable.
--
-- KEYS  1 shard hash
-- Returns 1, or 0 if its last failure was another one by now: then it rests on.

if redis.call('HEXISTS', KEYS[1], 'unreachable') == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], 'due', 'unreachable')
return 1
