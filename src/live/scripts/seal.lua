-- Freezes a tracker before its job ends: no mark is set any more. Whoever comes later commits the end that is named.
--
-- KEYS[1]  the tracker
-- KEYS[2]  the reason of a cancel, kept beside the seal so that whoever commits it can tell
-- ARGV[1]  the incarnation
-- ARGV[2]  the cause: 1 complete, 2 cancelled, 3 revoked (of a tracker that is complete after all: 1)
-- ARGV[3]  the reason
-- ARGV[4]  the reason's time to live, in milliseconds
-- ARGV[5…] of a revoke: the revision as it was seen; how long nothing must have happened, in milliseconds; the moment
--          before which nothing counts, in milliseconds
-- Returns {status, header}: SEALED (also if it was already, perhaps for another cause: the first one counts);
--          INCOMPLETE (something is pending, so that it cannot be sealed as complete); NOT_ADOPTED (complete, but marks
--          that were lost and are not back yet could still change the verdict: only when all succeeded none can; or to be
--          revoked, when those marks may be progress); CHANGED (a mark came since it was seen: not to be revoked);
--          SETTLING (it is not idle for so long, nor believed for so long: not to be revoked); OTHER_INCARNATION,
--          MISSING, CORRUPT, UNKNOWN_VERSION.

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
local left, perfect = pending(h)
if cause == REVOKED and left == 0 then
  cause = COMPLETE
end
if cause == REVOKED then
  if not believed(h) then
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
  if left > 0 then
    return { 'INCOMPLETE', h.raw }
  end
  if not perfect and not believed(h) then
    return { 'NOT_ADOPTED', h.raw }
  end
end

if reason ~= '' then
  redis.call('SET', reason_key, reason, 'PX', ttl)
else
  redis.call('DEL', reason_key) -- of a seal that was taken off again
end
h.seal, h.seal_time = cause, now()
-- No mark can be lost from here on without the seal: a tracker that was not believed when it was sealed stays a lower
-- bound, and its header goes on saying so.
if h.adopted == 1 and h.generation ~= generation() then
  h.adopted = 0
end
write(key, h)
return { 'SEALED', h.raw }
