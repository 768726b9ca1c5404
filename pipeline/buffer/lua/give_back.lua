-- Put a message that was taken out of the shard queue back to its place: before everything that was accepted later.
--
-- KEYS  1 events list   2 mark of this delivery of the message   3 shard hash
-- ARGV  1 message   2 its seq, 0 if it has none (then it is the next one)   3 milliseconds to remember the delivery
-- Returns 1 | 0: this delivery was given back before, its acknowledgement was lost | -1: nothing was done, because later
--         events were applied without it

local seq = tonumber(ARGV[2])
if seq > 0 and seq <= tonumber(redis.call('HGET', KEYS[3], 'settled') or 0) then
  return redis.call('EXISTS', KEYS[2]) == 1 and 0 or -1
end
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3]) then
  return 0
end

local function accepted(message)
  return message and tonumber(message:sub(-60):match('"pipeline":%[(%d+),%d+%]}}$'))
end

local older = 0
while (accepted(redis.call('LINDEX', KEYS[1], -1 - older)) or seq) < seq do
  older = older + 1
end
local before = older > 0 and redis.call('RPOP', KEYS[1], older) or {}
redis.call('RPUSH', KEYS[1], ARGV[1])
for i = #before, 1, -1 do
  redis.call('RPUSH', KEYS[1], before[i])
end
return 1
