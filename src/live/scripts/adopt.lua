-- Adopts a tracker: from now on it is believed alone, until the generation changes.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation that Postgres names for the RUNNING job
-- Returns {status, header}: ADOPTED (also if it was already); SEALED; NOT_ADOPTED (opened under another generation:
--          it may have lost marks); OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.

local key = KEYS[1]

local h, status = own(key, ARGV[1])
if not h then
  return { status }
end
if h.seal ~= 0 then
  return { 'SEALED', h.raw }
end
if h.generation ~= generation() then
  return { 'NOT_ADOPTED', h.raw }
end

if h.adopted == 0 then
  h.adopted, h.adopt_time = 1, now()
  write(key, h)
end
return { 'ADOPTED', h.raw }
