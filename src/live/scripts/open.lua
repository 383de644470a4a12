-- Renames the uploaded image of a new tracker to the tracker's key. The new tracker is not adopted. A start runs this
-- script before it commits the job as RUNNING. A restore runs it to rebuild a lost tracker.
--
-- KEYS[1]  the uploaded image: a header with the incarnation that Postgres issued to this start or restore, and cells
-- KEYS[2]  the tracker
-- ARGV[1]  the owner: the installation (8 bytes), followed by the incarnation
-- ARGV[2]  the tracker's time to live, in milliseconds
-- Returns {status}: OPENED; STALE (upload the image again: it is missing, or its incarnation or its generation is not
--          the expected one); FOREIGN, OTHER_INCARNATION (a tracker exists that this image must not replace); CORRUPT,
--          UNKNOWN_VERSION (the tracker's key holds something else).
-- Guarantees: an incarnation is opened at most once, because Postgres issues it to only one start or restore, and the
--             image is renamed, not copied. A start replaces only a tracker with a lower incarnation: an earlier start
--             opened it, and it has no marks. A restore replaces such a tracker only if it is for fewer tasks.

local image_key, tracker_key = KEYS[1], KEYS[2]
local owner, ttl = ARGV[1], ARGV[2]

local image = own(image_key, owner)
if not image or image.generation ~= generation() then
  return { 'STALE' }
end
local existing, status = load(tracker_key)
if not existing and status ~= 'MISSING' then
  return { status }
end
if existing and is_foreign(existing, owner) then
  return { 'FOREIGN' }
end
-- This call may be a late restore, and the existing tracker may have marks: another restore opened it meanwhile. Such a
-- tracker stays, and is reopened. A tracker without marks and for fewer tasks is replaced: it was left by a start from
-- before tasks were added.
local outgrown = existing and existing.total < image.total and existing.revision == 0
if existing and (existing.incarnation >= image.incarnation or image.restored == 1 and not outgrown) then
  return { 'OTHER_INCARNATION' }
end

redis.call('RENAME', image_key, tracker_key)
redis.call('PEXPIRE', tracker_key, ttl)
return { 'OPENED' }
