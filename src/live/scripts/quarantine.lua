-- Renames a tracker key that holds a damaged tracker or something else, so that the job's tracker can be restored.
--
-- KEYS[1]  the tracker's key
-- KEYS[2]  the key to which it is renamed
-- ARGV[1]  how long the renamed key is kept, in milliseconds
-- Returns {status}: QUARANTINED; INTACT (the key holds an intact tracker); MISSING; UNKNOWN_VERSION (only a newer
--          gateway can decide whether the tracker is damaged).
-- Guarantees: an intact tracker is never renamed.

local key, quarantine_key, ttl = KEYS[1], KEYS[2], ARGV[1]

local h, status = load(key)
if h then
  return { 'INTACT' }
end
if status ~= 'CORRUPT' then
  return { status }
end

redis.call('RENAME', key, quarantine_key)
redis.call('PEXPIRE', quarantine_key, ttl)
return { 'QUARANTINED' }
