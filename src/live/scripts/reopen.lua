-- Gives a tracker that may have lost marks the current generation, and a new incarnation if its own is not the job's
-- incarnation. The tracker then settles: every gateway merges its mirror into it before it is adopted.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the owner: the installation (8 bytes), followed by the present incarnation of the tracker
-- ARGV[2]  its new incarnation, which Postgres issued to this restore; for an ended job, a number that is never
--          announced
-- ARGV[3]  its time to live, in milliseconds
-- Returns {status, header}: REOPENED (also if the tracker already has this incarnation and the current generation);
--          SEALED (the tracker is sealed and its incarnation would not change: the job is about to end); NOT_ADOPTED
--          (this Redis is a replica).
-- Returns {status}: FOREIGN, OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the marks stay. A new incarnation removes the seal, and Postgres rejects an end with the old incarnation.

local key, owner, incarnation, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local h, status = own(key, owner)
if not h then
  return { status }
end
local same = h.incarnation == incarnation
if same and h.seal ~= 0 then
  return { 'SEALED', h.raw }
end

local current = generation()
if not same or h.generation ~= current then
  if current == '' then
    return { 'NOT_ADOPTED', h.raw }
  end
  h.incarnation, h.generation, h.seal, h.seal_time, h.adopted = incarnation, current, 0, 0, 0
  h.restored, h.opened = 1, now()
  write(key, h)
  redis.call('PEXPIRE', key, ttl)
end
return { 'REOPENED', h.raw }
