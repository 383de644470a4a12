-- Renames what is no tracker, or a damaged one, out of the way, so that the job's tracker can be restored.
--
-- KEYS[1]  the tracker's key
-- KEYS[2]  where it goes
-- ARGV[1]  how long it is kept there, in milliseconds
-- Returns {status}: QUARANTINED; INTACT (it is a tracker after all); MISSING, UNKNOWN_VERSION (not ours to judge).

local key, aside, ttl = KEYS[1], KEYS[2], ARGV[1]

local h, status = load(key)
if h then
  return { 'INTACT' }
end
if status ~= 'CORRUPT' then
  return { status }
end

redis.call('RENAME', key, aside)
redis.call('PEXPIRE', aside, ttl)
return { 'QUARANTINED' }
