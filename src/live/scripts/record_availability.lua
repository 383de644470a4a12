-- Notes that a gateway has both stores within reach, and tells since when there was always one that had: no job can be
-- blamed for making no progress before.
--
-- KEYS[1]  since when, and when it was noted last: milliseconds by this Redis's clock
-- ARGV[1]  how long nobody may note it before that is a break, in milliseconds
-- ARGV[2]  1: the caller has seen a break itself
-- ARGV[3]  the time to live, in milliseconds
-- Returns {since, now}.

local key, patience, broken, ttl = KEYS[1], tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3]

local time = now()
local noted = redis.pcall('GET', key)
local since, last = string.match(type(noted) == 'string' and noted or '', '^(%d+) (%d+)$')
since, last = tonumber(since), tonumber(last)
-- A clock that was set back is a break as well.
if broken or not since or since > time or last > time or time - last > patience then
  since = time
end

redis.call('SET', key, string.format('%.0f %.0f', since, time), 'PX', ttl)
return { since, time }
