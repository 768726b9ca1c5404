-- Give a ticket back, with the row or without.
--
-- KEYS  1 row hash   2 overlay list
-- ARGV  1 token of the ticket   2 tag, '' to leave nothing   3 milliseconds to live, if nothing is pending
--       then field, value, … of the row; without any, what is left is the tag
-- Returns 1, or 0 if something was written to the row since the ticket was given, or it was lost: then nothing is done.

if redis.call('HGET', KEYS[1], '') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1]) -- frees something first: see claim.lua
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], '', ARGV[2], unpack(ARGV, 4))
  if #ARGV == 3 or redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
end
return 1
