-- Records that a gateway can reach both stores, and returns since when some gateway could always reach both. Idle time
-- before that does not count towards a job's stall timeout.
--
-- KEYS[1]  the availability: since when, and the time of the last record, in milliseconds by this Redis's clock
-- ARGV[1]  the maximum time between two records, in milliseconds; a longer time is a gap
-- ARGV[2]  1: the caller could not reach a store at some time since its last record, which is a gap too
-- ARGV[3]  the key's time to live, in milliseconds
-- Returns {since, now}, in milliseconds by this Redis's clock.
-- Guarantees: a missing record, a malformed record, and a clock that was set back count as a gap.

local key, max_gap, broken, ttl = KEYS[1], tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3]

local time = now()
local record = redis.pcall('GET', key)
local since, last = string.match(type(record) == 'string' and record or '', '^(%d+) (%d+)$')
since, last = tonumber(since), tonumber(last)
if broken or not since or since > time or last > time or time - last > max_gap then
  since = time
end

redis.call('SET', key, string.format('%.0f %.0f', since, time), 'PX', ttl)
return { since, time }
