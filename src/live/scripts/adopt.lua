-- Adopts a tracker. From then on it is trusted alone, until the generation changes.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation that Postgres names for the RUNNING job
-- ARGV[2]  how long a restored tracker must settle, in milliseconds
-- Returns {status, header}: ADOPTED (also if it was adopted before); SEALED; NOT_ADOPTED (the tracker is of another
--          generation and may have lost marks); SETTLING (restored less than ARGV[2] ago); OTHER_INCARNATION, MISSING,
--          CORRUPT, UNKNOWN_VERSION.
-- Guarantees: idempotent. Neither the marks nor the time to live change.

local key, incarnation, settle = KEYS[1], ARGV[1], tonumber(ARGV[2])

local h, status = own(key, incarnation)
if not h then
  return { status }
end
if h.seal ~= 0 then
  return { 'SEALED', h.raw }
end
if h.generation ~= generation() then
  return { 'NOT_ADOPTED', h.raw }
end

local time = now()
if h.adopted == 0 and h.restored == 1 and time < h.opened + settle then
  return { 'SETTLING', h.raw }
end

if h.adopted == 0 then
  h.adopted, h.adopt_time = 1, time
  write(key, h)
end
return { 'ADOPTED', h.raw }
