-- Freezes a tracker before its job ends. No further mark is set, and any gateway can commit the end that the seal
-- names.
--
-- KEYS[1]  the tracker
-- KEYS[2]  the reason of a cancel, stored with the seal so that any gateway can commit it
-- ARGV[1]  the incarnation
-- ARGV[2]  the cause: 1 complete, 2 cancelled, 3 revoked (becomes 1 if the tracker is complete)
-- ARGV[3]  the reason of a cancel, else empty
-- ARGV[4]  the reason's time to live, in milliseconds
-- ARGV[5…] for a revocation: the revision that the caller read; the minimum idle time, in milliseconds; the time before
--          which idle time does not count, in milliseconds since 1970
-- Returns {status, header}: SEALED (also if the tracker was sealed before, perhaps for another cause: the first one
--          counts); INCOMPLETE (tasks are pending, so the tracker cannot be sealed as complete); NOT_ADOPTED (lost
--          marks may still return: of a complete tracker with failures they could change the verdict, of one to be
--          revoked they could be progress); CHANGED (marked since the caller read it, so not revoked); SETTLING (not
--          idle for long enough since its last mark, its adoption and ARGV[7], so not revoked); OTHER_INCARNATION,
--          MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: idempotent. Once SEALED, the marks do not change any more under this incarnation.

local key, reason_key = KEYS[1], KEYS[2]
local incarnation, cause, reason, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local revision, timeout, not_before = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local h, status = own(key, incarnation)
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
  redis.call('DEL', reason_key) -- may remain from an earlier seal that was removed
end
h.seal, h.seal_time = cause, now()
-- From here on marks can be lost only together with the seal. A tracker that was not trusted when it was sealed stays a
-- lower bound, so its header must not claim that it is adopted.
if h.adopted == 1 and h.generation ~= generation() then
  h.adopted = 0
end
write(key, h)
return { 'SEALED', h.raw }
