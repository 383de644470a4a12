-- Renames a tracker key that holds a damaged tracker or something else, so that the job's tracker can be restored.
-- Digests are too slow to compute in a script, so the caller decides whether the cells are damaged.
--
-- KEYS[1]  the tracker's key
-- KEYS[2]  the key to which it is renamed
-- ARGV[1]  how long the renamed key is kept, in milliseconds
-- ARGV[2]  optional, with ARGV[3]: the owner of the tracker whose cells do not match their digests: the installation
--          (8 bytes), followed by the incarnation
-- ARGV[3]  its generation
-- Returns {status}: QUARANTINED; INTACT (the key holds an intact tracker); MISSING; UNKNOWN_VERSION (only a newer
--          gateway can decide whether the tracker is damaged).
-- Guarantees: a tracker with an intact header is never renamed, except for the one that ARGV[2] and ARGV[3] identify.

local key, quarantine_key, ttl = KEYS[1], KEYS[2], ARGV[1]
local owner, damaged_generation = ARGV[2], ARGV[3]

local h, status = load(key)
local damaged = h and owner and own(key, owner)
if h and not (damaged and h.generation == damaged_generation) then
  return { 'INTACT' }
end
if not h and status ~= 'CORRUPT' then
  return { status }
end

redis.call('RENAME', key, quarantine_key)
redis.call('PEXPIRE', quarantine_key, ttl)
return { 'QUARANTINED' }
