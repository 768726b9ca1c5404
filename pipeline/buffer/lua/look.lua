-- Look at a row: its cached form, or what is pending on it. Who finds none may take a ticket, to install it.
--
-- KEYS  1 row hash   2 overlay list   3 shard hash
-- ARGV  1 life of the server ('': unknown, so nothing is cached)   2 token of the ticket that is wanted ('': none)
--       3 milliseconds after which a ticket is lost
-- Returns {'row', field, value, …} | {'filling'}: somebody else has a ticket
--         | {'missed', 1 if the ticket is given else 0, seq of the last acknowledged batch, overlay entry, …}

local tag = redis.call('HGET', KEYS[1], '')
if tag and (tag == ARGV[1] or tag == ARGV[1] .. '!') then
  local fields = redis.call('HGETALL', KEYS[1])
  table.insert(fields, 1, 'row')
  return fields
end

local shard = redis.call('HMGET', KEYS[3], 'seq', 'accepted')
local given = 0
if ARGV[1] ~= '' and ARGV[2] ~= '' and tag ~= '-' then
  if tag and tag:sub(1, 1) == '?' then
    return { 'filling' }
  end
  if tag then
    redis.call('DEL', KEYS[1]) -- of an earlier life: Redis may have gone back in time since
  end
  -- A Redis without memory refuses this, and then nothing is cached. What is pending on the row was accepted before now:
  -- its acknowledgement must ask whether the row is cached, see acknowledge.lua.
  if type(redis.pcall('HSET', KEYS[3], 'cached', shard[2] or '0')) == 'number' then
    redis.call('HSET', KEYS[1], '', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    given = 1
  end
end
local reply = redis.call('LRANGE', KEYS[2], 0, -1)
table.insert(reply, 1, shard[1] or '0')
table.insert(reply, 1, given)
table.insert(reply, 1, 'missed')
return reply
