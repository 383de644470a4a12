-- Renames the uploaded image of a new tracker to the tracker's key. The new tracker is not adopted. A start does this
-- before it commits the job as RUNNING; a restore does it to rebuild a lost tracker.
--
-- KEYS[1]  the uploaded image: a header with the incarnation that Postgres issued to this start or restore, and cells
-- KEYS[2]  the tracker
-- ARGV[1]  the incarnation
-- ARGV[2]  the tracker's time to live, in milliseconds
-- Returns {status}: OPENED; STALE (the image is missing, of another incarnation, or of another generation than the
--          current one: upload it again); OTHER_INCARNATION (the tracker of a later start or restore exists or, for a
--          restore, any tracker); CORRUPT, UNKNOWN_VERSION (the key is occupied).
-- Guarantees: an incarnation is opened at most once, since Postgres issues it to one start or restore and the image is
--             renamed, not copied. A start replaces the tracker of an earlier start, which holds no marks; a restore
--             replaces such a tracker only if it is for fewer tasks. Nothing else is replaced.

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
-- A restore that found no tracker may arrive after another restore's tracker was marked. That tracker stays, to be
-- reopened. One without marks for fewer tasks was left by a start before tasks were added, and is replaced.
local outgrown = existing and existing.total < image.total and existing.revision == 0
if existing and (existing.incarnation >= image.incarnation or image.restored == 1 and not outgrown) then
  return { 'OTHER_INCARNATION' }
end

redis.call('RENAME', image_key, tracker_key)
redis.call('PEXPIRE', tracker_key, ttl)
return { 'OPENED' }
