-- Adopts a tracker. Reads and reports then trust it without Postgres, until the generation changes.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the owner: the installation (8 bytes), followed by the incarnation, which the caller has confirmed with
--          Postgres
-- ARGV[2]  how long a restored tracker must settle, in milliseconds
-- Returns {status, header}: ADOPTED (also if the tracker was adopted before); SEALED; NOT_ADOPTED (the tracker has
--          another generation, so it may have lost marks); SETTLING (the tracker was restored less than ARGV[2] ago).
-- Returns {status}: FOREIGN, OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the script is idempotent, and changes neither the marks nor the time to live.

local key, owner, settle = KEYS[1], ARGV[1], tonumber(ARGV[2])

local h, status = own(key, owner)
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
