-- Lets the sealed tracker of a job whose end is committed, and what lies beside it, go away by itself. It is not
-- deleted: a Postgres that fails over and forgets the end finds the seal and ends the job again, the same way.
--
-- KEYS[1]  the tracker
-- KEYS[2…] the keys beside it
-- ARGV[1]  the incarnation
-- ARGV[2]  the time that is left to it, in milliseconds
-- Returns {status, header}: EXPIRES; NOT_SEALED; OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.

local incarnation, ttl = ARGV[1], ARGV[2]

local h, status = own(KEYS[1], incarnation)
if not h then
  return { status }
end
if h.seal == 0 then
  return { 'NOT_SEALED', h.raw }
end

for i = 1, #KEYS do
  redis.call('PEXPIRE', KEYS[i], ttl)
end
return { 'EXPIRES', h.raw }
