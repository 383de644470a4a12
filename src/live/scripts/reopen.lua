-- Takes up a tracker that was not confirmed since Redis lost, or may have lost, marks: from now on it settles, while
-- every gateway merges its mirror into it.
--
-- KEYS[1]  the tracker
-- ARGV[1]  its incarnation as it was found
-- ARGV[2]  its incarnation as it shall be: the one that Postgres issued to this restore, or one that nobody is told of
-- ARGV[3]  its time to live, in milliseconds
-- Returns {status, header}: REOPENED (also if it was already, under this generation); SEALED (the job's own tracker, whose
--          end is on its way); OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the marks stay. Another incarnation takes the seal off: it belonged to an end that Postgres refuses.

local key, found, incarnation, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local h, status = own(key, found)
if not h then
  return { status }
end
local same = h.incarnation == incarnation
if same and h.seal ~= 0 then
  return { 'SEALED', h.raw }
end

local answering = generation()
if not same or h.generation ~= answering then
  if answering == '' then
    return { 'NOT_ADOPTED', h.raw } -- a replica takes nothing up
  end
  h.incarnation, h.generation, h.seal, h.seal_time, h.adopted = incarnation, answering, 0, 0, 0
  h.restored, h.opened = 1, now()
  write(key, h)
  redis.call('PEXPIRE', key, ttl)
end
return { 'REOPENED', h.raw }
