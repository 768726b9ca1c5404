-- Drop a cached row, if it is still what somebody has seen.
--
-- KEYS  1 row hash
-- ARGV  field, value, … of what was seen, all of it
-- Returns 1, or 0 if it has changed since.

if redis.call('HLEN', KEYS[1]) * 2 ~= #ARGV then
  return 0
end
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    return 0
  end
end
return redis.call('DEL', KEYS[1])
