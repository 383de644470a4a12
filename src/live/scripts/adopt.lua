-- Adopts a tracker: from now on it is believed alone, until the generation changes.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation that Postgres names for the RUNNING job
-- ARGV[2]  how long a restored tracker settles, in milliseconds
-- Returns {status, header}: ADOPTED (also if it was already); SEALED; NOT_ADOPTED (opened under another generation:
--          it may have lost marks); SETTLING; OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.

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
