-- Marks tasks: compares the bytes that hold them with what the caller computed from, writes the new ones, and adds to
-- the counts. The caller computes (src/domain/marking.rs), so that nothing here loops over tasks.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation
-- ARGV[2]  1: only if it is adopted; 0: the caller asks Postgres before and after
-- ARGV[3]  the tracker's time to live, in milliseconds
-- ARGV[4]  what is added to the counts: succeeded, failed, skipped of each stage, as signed 32-bit numbers
-- ARGV[5]  how many results leave pending: what the rate counts
-- ARGV[6…] for each run of bytes: first byte, last byte (counted from the start of the key), expected, new
-- Returns {status, header, …}: APPLIED; CONFLICT followed by the bytes of every run as they are (nothing was changed:
--          compute again from these); SEALED; STALE (it has been through a restart, an older dump or a failover, in
--          which a seal may have been lost: no mark is set before it has another incarnation); NOT_ADOPTED; INVALID (new
--          bytes that are not for where the expected ones are); COUNTS_WRONG (what is added does not
--          fit what the header counts); OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.

local key = KEYS[1]
local incarnation, only_adopted, ttl, delta, done = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local BUCKET_MS = 4000

local h, status = own(key, incarnation)
if not h then
  return { status }
end
if h.seal ~= 0 then
  return { 'SEALED', h.raw }
end
if h.generation ~= generation() then
  return { 'STALE', h.raw }
end
if only_adopted and h.adopted == 0 then
  return { 'NOT_ADOPTED', h.raw }
end
local found, conflict, valid = { 'CONFLICT', h.raw }, false, ttl and done and #delta == 12 * h.stages
for i = 6, #ARGV, 4 do
  local bytes = redis.call('GETRANGE', key, ARGV[i], ARGV[i + 1])
  found[#found + 1] = bytes
  conflict = conflict or bytes ~= ARGV[i + 2]
  valid = valid and #bytes == #ARGV[i + 3] and tonumber(ARGV[i]) >= HEADER
end
if conflict then
  return found
end
if not valid then
  return { 'INVALID' }
end
local added, changed = { struct.unpack(counts_of(h.stages, 'i4'), delta) }, false
for stage = 0, h.stages - 1 do
  local sum = 0
  for i = 3 * stage + 1, 3 * stage + 3 do
    h.counts[i] = h.counts[i] + added[i]
    changed = changed or added[i] ~= 0
    if h.counts[i] < 0 then
      return { 'COUNTS_WRONG', h.raw }
    end
    sum = sum + h.counts[i]
  end
  if sum > h.total then
    return { 'COUNTS_WRONG', h.raw }
  end
end

if changed then
  for i = 6, #ARGV, 4 do
    if ARGV[i + 2] ~= ARGV[i + 3] then
      redis.call('SETRANGE', key, ARGV[i], ARGV[i + 3])
    end
  end
  local time = now()
  local bucket = math.floor(time / BUCKET_MS)
  local passed = math.min(bucket - h.bucket, BUCKETS)
  if passed > 0 then
    h.buckets, h.bucket = string.sub(h.buckets, 4 * passed + 1) .. string.rep('\0\0\0\0', passed), bucket
  end
  local newest = struct.unpack('>I4', h.buckets, 4 * BUCKETS - 3) + done
  h.buckets = string.sub(h.buckets, 1, 4 * BUCKETS - 4) .. struct.pack('>I4', newest)
  h.last_mark, h.revision = time, h.revision + 1
  write(key, h)
end
-- Not by every report: renewing costs Redis, and its log, more than asking.
if redis.call('PTTL', key) < ttl - math.min(BUCKET_MS, ttl / 2) then
  redis.call('PEXPIRE', key, ttl)
end
return { 'APPLIED', h.raw }
