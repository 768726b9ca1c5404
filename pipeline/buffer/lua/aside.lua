-- Messages that were set aside: on their way back first, then the others, all of one moment. Nothing is written.
--
-- KEYS  1 batch list   2 shard hash   3 resumed list   4 parked list
-- ARGV  1 how many to leave out   2 how many to return at most
-- Returns {1 if there are more behind them else 0, message, …}, oldest first

local lists = { KEYS[3], KEYS[4] }
if redis.call('HGET', KEYS[2], 'source') == 'resumed' then
  table.insert(lists, 1, KEYS[1])
end
local skip, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = { 0 }
for _, list in ipairs(lists) do
  local length = redis.call('LLEN', list)
  if skip < length then
    if room == 0 then
      reply[1] = 1
      break
    end
    local messages = redis.call('LRANGE', list, -skip - room, -skip - 1)
    for i = #messages, 1, -1 do
      reply[#reply + 1] = messages[i]
    end
    room = room - #messages
    if skip + #messages < length then
      reply[1] = 1
      break
    end
    skip = 0
  else
    skip = skip - length
  end
end
return reply
