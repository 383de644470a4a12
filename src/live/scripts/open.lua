-- Puts a job's new, not adopted tracker in place, before the job is committed as RUNNING.
--
-- KEYS[1]  the image that was uploaded: header and blank cells, of the incarnation that Postgres issued to this start
-- KEYS[2]  the tracker
-- ARGV[1]  the incarnation
-- ARGV[2]  the tracker's time to live, in milliseconds
-- Returns {status}: OPENED; STALE (the image was not made under the generation that answers now: make it again);
--          OTHER_INCARNATION (a later start or a restore was here, or, for a restore, any tracker is); CORRUPT, UNKNOWN_VERSION (the key is occupied).
-- Guarantees: an incarnation is opened at most once, since Postgres issues it to one start and the image is renamed,
--             not copied. A start replaces what an earlier start left, which holds no marks, and so does a restore if
--             that was for fewer tasks; nothing else is replaced.

local image_key, tracker_key = KEYS[1], KEYS[2]
local incarnation, ttl = ARGV[1], ARGV[2]

local image = own(image_key, incarnation)
if not image or image.generation ~= generation() then
  return { 'STALE' }
end
local existing, status = load(tracker_key)
if not existing and status ~= 'MISSING' then
  return { status }
end
-- A restore that found nothing may come when another one's tracker has taken marks: those are kept, and are taken up.
local outgrown = existing and existing.total < image.total and existing.revision == 0
if existing and (existing.incarnation >= image.incarnation or image.restored == 1 and not outgrown) then
  return { 'OTHER_INCARNATION' }
end

redis.call('RENAME', image_key, tracker_key)
redis.call('PEXPIRE', tracker_key, ttl)
return { 'OPENED' }
