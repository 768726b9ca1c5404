-- How far a shard has come, at one moment. Nothing is written.
--
-- KEYS  1 events list   2 batch list   3 shard hash   4 parked list   5 resumed list   6 paused hash
-- Returns {accepted, settled, aside, pending, paused table, …}
--         settled: number up to which all events are settled or set aside, -1 if unknown; aside: number of the oldest event
--         that was set aside, also on its way back, 0 if that has no number, -1 if there is none; pending: number of events

local shard = redis.call('HMGET', KEYS[3], 'accepted', 'settled', 'seq', 'source')
local aside = -1

-- the number is at the end of a message: see pipeline.core.codec
local function look(list)
  local oldest = redis.call('LINDEX', list, -1)
  if oldest then
    local number = tonumber(oldest:match('%[(%d+),%d+%]}}$') or 0)
    aside = aside < 0 and number or math.min(aside, number)
  end
end

look(KEYS[4])
look(KEYS[5])
if shard[4] == 'resumed' then
  look(KEYS[2])
end
local pending = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  + redis.call('LLEN', KEYS[4]) + redis.call('LLEN', KEYS[5])
local reply = {
  tonumber(shard[1] or 0),
  tonumber(shard[2] or (shard[3] and -1 or 0)), -- as in claim.lua
  aside,
  pending,
}
for _, table_name in ipairs(redis.call('HKEYS', KEYS[6])) do
  reply[#reply + 1] = table_name
end
return reply
