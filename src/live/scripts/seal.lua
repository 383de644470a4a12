-- Seals a tracker, which freezes its marks before the job ends. Any gateway can then commit the end that the seal
-- names.
--
-- KEYS[1]  the tracker
-- KEYS[2]  the reason of a cancel, stored with the seal so that any gateway can commit it
-- ARGV[1]  the owner: the installation (8 bytes), followed by the incarnation
-- ARGV[2]  the cause: 1 complete, 2 cancelled, 3 revoked; 3 becomes 1 if the tracker is complete
-- ARGV[3]  the reason of a cancel; empty for any other cause
-- ARGV[4]  the reason's time to live, in milliseconds
-- ARGV[5…] for a revocation: the revision that the caller read; the minimum idle time, in milliseconds; the time before
--          which idle time does not count, in milliseconds since 1970
-- Returns {status, header}: SEALED (also if the tracker was sealed before; the first cause stays); INCOMPLETE (tasks
--          are pending, so the tracker cannot be sealed as complete); NOT_ADOPTED (lost marks may still return: they
--          could change the verdict of a complete tracker with failures, and they would be progress of a job that is
--          to be revoked); CHANGED (not revoked, because the tracker was marked since the caller read it); SETTLING
--          (not revoked, because the idle time since the last mark, the adoption and ARGV[7] is too short).
-- Returns {status}: FOREIGN, OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the script is idempotent. After SEALED, the marks do not change under
-- this incarnation, unless repair.lua removes the seal of a tracker that turned out to be incomplete.

local key, reason_key = KEYS[1], KEYS[2]
local owner, cause, reason, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local revision, timeout, not_before = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local h, status = own(key, owner)
if not h then
  return { status }
end
if h.seal ~= 0 then
  return { 'SEALED', h.raw }
end
local outstanding, perfect = pending(h)
if cause == REVOKED and outstanding == 0 then
  cause = COMPLETE
end
if cause == REVOKED then
  if not trusted(h) then
    return { 'NOT_ADOPTED', h.raw }
  end
  if h.revision ~= revision then
    return { 'CHANGED', h.raw }
  end
  if now() - math.max(h.last_mark, h.adopt_time, not_before) < timeout then
    return { 'SETTLING', h.raw }
  end
end
if cause == COMPLETE then
  if outstanding > 0 then
    return { 'INCOMPLETE', h.raw }
  end
  if not perfect and not trusted(h) then
    return { 'NOT_ADOPTED', h.raw }
  end
end

if reason ~= '' then
  redis.call('SET', reason_key, reason, 'PX', ttl)
else
  redis.call('DEL', reason_key) -- an earlier seal that was removed may have left a reason
end
h.seal, h.seal_time = cause, now()
-- From now on, Redis can lose marks only together with the seal. A tracker that was not trusted when it was sealed
-- stays a lower bound, so its header must not say that it is adopted.
if h.adopted == 1 and h.generation ~= generation() then
  h.adopted = 0
end
write(key, h)
return { 'SEALED', h.raw }
