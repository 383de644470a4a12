-- Replaces a header whose counts contradict the cells. The new header lacks the seal if the job turned out not to be
-- complete. A repair is needed only after a bug or a write by another program. It prevents a job from ending with a
-- wrong result (invariant I2).
--
-- KEYS[1]  the tracker
-- ARGV[1]  the header as it was read
-- ARGV[2]  the correct header
-- Returns {status, header}: REPAIRED; CHANGED (the header has changed since it was read).
-- Returns {status}: INVALID (ARGV[2] is not a header, or the header of another tracker); MISSING, CORRUPT,
--          UNKNOWN_VERSION.
-- Guarantees: compare-and-set on the whole header.

local key, found, correct = KEYS[1], ARGV[1], ARGV[2]

local h, status = load(key)
if not h then
  return { status }
end
if h.raw ~= found then
  return { 'CHANGED', h.raw }
end
local r = parse(correct)
if not r or r.installation ~= h.installation or r.incarnation ~= h.incarnation or r.total ~= h.total or r.stages ~= h.stages then
  return { 'INVALID' }
end

redis.call('SETRANGE', key, '0', correct)
return { 'REPAIRED', correct }
