-- Sets the time to live of a sealed tracker and of the job's other keys, after the job's end is committed. The tracker
-- is not deleted at once: if Postgres fails over and loses the end, the seal is still there, and the job is ended again
-- with the same result.
--
-- KEYS[1]  the tracker
-- KEYS[2…] the other keys of the job
-- ARGV[1]  the owner: the installation (8 bytes), followed by the incarnation
-- ARGV[2]  the time to live, in milliseconds
-- Returns {status, header}: EXPIRES; NOT_SEALED.
-- Returns {status}: FOREIGN, OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.
-- Guarantees: the script is idempotent. It affects only a sealed tracker with this incarnation.

local owner, ttl = ARGV[1], ARGV[2]

local h, status = own(KEYS[1], owner)
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
