-- Puts a tracker that may have lost marks under the current generation, and under a new incarnation if it is not the
-- job's own. It then settles, while every gateway merges its mirror into it, before it is adopted.
--
-- KEYS[1]  the tracker
-- ARGV[1]  its present incarnation
-- ARGV[2]  its new incarnation: the one that Postgres issued to this restore, or one that is never announced
-- ARGV[3]  its time to live, in milliseconds
-- Returns {status, header}: REOPENED (also if it was reopened before, under this generation); SEALED (the incarnation
--          stays and the tracker is sealed: the job is about to end); NOT_ADOPTED (this Redis is a replica);
--          OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the marks stay. A new incarnation removes the seal, whose end Postgres rejects from then on.

local key, present, incarnation, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local h, status = own(key, present)
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
