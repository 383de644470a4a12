-- Puts counts right that were not those of the cells, if the header is still the one that they were found in. The
-- seal goes if the job turned out not to be complete. Nothing should ever need this; it keeps a bug from ending a job
-- falsely (invariant I2).
--
-- KEYS[1]  the tracker, sealed
-- ARGV[1]  the header as it was found
-- ARGV[2]  the header as it should be
-- Returns {status, header}: REPAIRED; CHANGED (the header is another by now); INVALID (it should not be that: no
--          header, or another tracker's); MISSING, CORRUPT, UNKNOWN_VERSION.

local key, found, right = KEYS[1], ARGV[1], ARGV[2]

local h, status = load(key)
if not h then
  return { status }
end
if h.raw ~= found then
  return { 'CHANGED', h.raw }
end
local r = parse(right)
if not r or r.incarnation ~= h.incarnation or r.total ~= h.total or r.stages ~= h.stages then
  return { 'INVALID' }
end

redis.call('SETRANGE', key, '0', right)
return { 'REPAIRED', right }
