-- Drop the oldest events of an applied batch and settle their rows. A large batch is acknowledged in several calls; the
-- batch itself is the progress, so a crash between two calls only leaves the rest of it to be acknowledged again.
--
-- KEYS  1 batch list   2 shard hash   3 parked list   4 held set   5 paused hash   6 events list   7 resumed list
--       then the overlay lists of rows, then the row hashes of these, which an ordinary batch gives only when asked for
-- ARGV  1 batch id   2 events that the batch holds now   3 events to drop   4 the shard's seq when the batch is done
--       5 time to live of a clean cached row in milliseconds   6 number of the last event of the batch, 0 if none has one
--       7 1 if Redis knows of no pause for some of what is set aside: the next claim takes all of it back
--       8 number of events that leave the shard with this batch   9 milliseconds in which the sums of the drain forget:
--       see pipeline/core/drain.py
--       10 number of the first event of an ordinary batch, else 0. Ordinary: all events from that number to the last one
--       are in it and settled, and none of them was before.
--       11 number of rows
--       12 number of events among those to drop to set aside instead, then these messages, oldest first
--       then the number of rows that these touch, then for each its table and its name; those of a table that is paused
--       itself (not a column of it) need not be held: until it is resumed, its events wait anyway, and then everything
--       comes back
--       then, packed by MessagePack, one flat array with three numbers per row: overlay entries to drop, seq of the last
--       of them, 1 if the cached row is not what PostgreSQL has now (an event of it is dead, or had no overlay)
-- Returns the number of events left in the batch, or -1 if the batch is not in that state (somebody else was here), or -2
--         if nothing was done because the row hashes are needed: some may be cached.
--
-- Most rows are not cached, and most overlays hold one entry, of the batch. For each row to be asked, that is three
-- quarters of what its acknowledgement costs. So the shard hash has two marks, which say it of an ordinary batch as a whole:
--   stacked  every event with a higher number found the overlays of its rows empty
--   cached   no event with a higher number has a cached row: neither was one there when it was accepted, nor was one
--            looked up since
-- The first is kept by the write script, the second by that and by the look script.

local held = redis.call('LLEN', KEYS[1])
local state = redis.call('HMGET', KEYS[2], 'batch_id', 'stacked', 'cached')
if state[1] ~= ARGV[1] or held ~= tonumber(ARGV[2]) then
  return -1
end
local first, rows = tonumber(ARGV[10]), tonumber(ARGV[11])
local named = #KEYS > 7 + rows
if rows > 0 and not named and not (state[3] and tonumber(state[3]) < first) then
  return -2
end

redis.call('HDEL', KEYS[2], 'error') -- frees something first: see claim.lua
if ARGV[7] == '1' then
  redis.call('HSET', KEYS[2], 'resume', 1) -- of no effect before the batch is gone: see claim.lua
end

local function head_seq(entry)
  return entry and tonumber(entry:match('^%[(%d+),'))
end

-- The batch counts as spread evenly over the time since `busy_since`; what of both is not forgotten yet is added up.
local function note_drain(events, tau)
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local sums = redis.call('HMGET', KEYS[2], 'drained', 'draining', 'busy_since')
  local took = math.max(1, now - tonumber(sums[3] or now))
  local kept = math.exp(-took / tau)
  local drained = tonumber(sums[1] or 0) * kept + events * (1 - kept) * tau / took
  local draining = tonumber(sums[2] or 0) * kept + (1 - kept) * tau
  local moment = string.format('%.0f', now)
  redis.call('HSET', KEYS[2], 'drained', string.format('%.3f', drained), 'draining', string.format('%.3f', draining),
    'drained_at', moment)
  if redis.call('EXISTS', KEYS[6], KEYS[7]) > 0 then
    redis.call('HSET', KEYS[2], 'busy_since', moment)
  else
    redis.call('HDEL', KEYS[2], 'busy_since') -- idle: the next claim that finds something starts the clock
  end
end

local arg = 13
for _ = 1, tonumber(ARGV[12]) do
  redis.call('LPUSH', KEYS[3], ARGV[arg])
  arg = arg + 1
end
local touched = tonumber(ARGV[arg])
arg = arg + 1
for _ = 1, touched do
  if redis.call('HEXISTS', KEYS[5], ARGV[arg]) == 0 then
    redis.call('SADD', KEYS[4], ARGV[arg + 1])
  end
  arg = arg + 2
end

local function is_any_cached()
  for i = 8 + rows, #KEYS, 1000 do
    if redis.call('EXISTS', unpack(KEYS, i, math.min(i + 999, #KEYS))) > 0 then
      return true
    end
  end
  return false
end

-- Drop so many entries of an overlay, the last of which has this number; true if they were there.
local function drop(overlay, count, last)
  local dropped = redis.call('LPOP', overlay, count) or {}
  if #dropped == count and head_seq(dropped[count]) == last then
    return true
  end
  -- somebody deleted or restored entries, or took a message out: drop what is settled, and only that
  for j = #dropped, 1, -1 do
    if head_seq(dropped[j]) > last then
      redis.call('LPUSH', overlay, dropped[j])
    end
  end
  local seq = head_seq(redis.call('LINDEX', overlay, 0))
  while seq and seq <= last do
    redis.call('LPOP', overlay)
    seq = head_seq(redis.call('LINDEX', overlay, 0))
  end
  return false
end

local function settle(row, overlay, spoilt)
  local tag = redis.call('HGET', row, '') -- see keys.py
  if tag and (spoilt or tag == '-') then
    redis.call('DEL', row)
  elseif tag and tag:sub(1, 1) ~= '?' and redis.call('EXISTS', overlay) == 0 then
    redis.call('PEXPIRE', row, ARGV[5])
  end
end

local function delete(overlays, from, to)
  for i = from, to, 1000 do
    redis.call('DEL', unpack(overlays, i, math.min(i + 999, to)))
  end
end

-- An overlay that ends with the last entry to be dropped goes as a whole, and many of them at once.
local function drop_each(numbers, cached)
  local whole = {}
  for i = 1, rows do
    local overlay, row, count, last = KEYS[7 + i], KEYS[7 + rows + i], numbers[3 * i - 2], numbers[3 * i - 1]
    if cached then
      local complete = count == 0 or drop(overlay, count, last)
      settle(row, overlay, numbers[3 * i] == 1 or not complete)
    elseif head_seq(redis.call('LINDEX', overlay, -1)) == last then
      whole[#whole + 1] = overlay
    elseif count > 0 then
      drop(overlay, count, last)
    end
  end
  delete(whole, 1, #whole)
end

local cached = named and is_any_cached()
if not cached and first > 0 and state[2] and tonumber(state[2]) < first then
  delete(KEYS, 8, 7 + rows)
else
  drop_each(cmsgpack.unpack(ARGV[arg]), cached)
end

local left = held - tonumber(ARGV[3])
if left > 0 then
  redis.call('LTRIM', KEYS[1], 0, left - 1)
else
  redis.call('DEL', KEYS[1])
  local shard = redis.call('HMGET', KEYS[2], 'settled', 'seq')
  local settled = math.max(tonumber(shard[1] or (shard[2] and -1 or 0)), tonumber(ARGV[6])) -- as in claim.lua
  redis.call('HSET', KEYS[2], 'seq', ARGV[4])
  if settled >= 0 then
    redis.call('HSET', KEYS[2], 'settled', string.format('%.0f', settled))
  end
  redis.call('HDEL', KEYS[2], 'batch_id', 'batch_seq', 'begun', 'failures', 'due', 'error', 'unreachable', 'gap_since', 'source')
  note_drain(tonumber(ARGV[8]), tonumber(ARGV[9]))
end
return left
