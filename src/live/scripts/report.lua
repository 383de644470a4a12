-- Marks tasks: compares the bytes that hold them with what the caller computed from, writes the new ones, and adds to
-- the counts. The caller computes (src/domain/marking.rs), so that no rule of counting is here.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation
-- ARGV[2]  1: only if it is adopted; 0: the caller asks Postgres before and after
-- ARGV[3]  the tracker's time to live, in milliseconds
-- ARGV[4]  what is added to the counts: succeeded, failed, skipped of each stage, as signed 32-bit numbers
-- ARGV[5]  how many results leave pending: what the rate counts
-- ARGV[6]  the expected bytes of all fields, which are single bytes, fewer than 2,000; none if the counts stay
-- ARGV[7…] for each field: its first bit (counted from the start of the key; ascending), its new byte as a number;
--          then for each run of bytes: first byte, last byte (counted from the start of the key), expected, new
-- Returns {status, header, …}: APPLIED; CONFLICT followed by the bytes of all fields and those of every run as they are
--          (nothing was changed: compute again from these); SEALED; STALE (it has been through a restart, an older dump or
--          a failover, in which a seal may have been lost: no mark is set before it has another incarnation);
--          NOT_ADOPTED; INVALID (arguments that do not fit each other or the tracker); COUNTS_WRONG (what is added does
--          not fit what the header counts); OTHER_INCARNATION, MISSING, CORRUPT, UNKNOWN_VERSION.

local key, fields = KEYS[1], ARGV[6]
local incarnation, only_adopted, ttl, delta, done = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local RUNS_AT = 7 + 2 * #fields
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

local valid = ttl and done and #delta == 12 * h.stages
local set_fields, free = { key }, 8 * HEADER
for i = 1, #fields do
  local bit, new = ARGV[2 * i + 5], ARGV[2 * i + 6]
  local first = tonumber(bit)
  valid = valid and new and first and first >= free
  free = first and first + 8
  set_fields[4 * i - 2], set_fields[4 * i - 1], set_fields[4 * i], set_fields[4 * i + 1] = 'SET', 'u8', bit, new
end
valid = valid and free <= 8 * size(h)
local found, conflict = { 'CONFLICT', h.raw, fields }, false
for i = RUNS_AT, #ARGV, 4 do
  local bytes = redis.call('GETRANGE', key, ARGV[i], ARGV[i + 1])
  found[#found + 1] = bytes
  conflict = conflict or bytes ~= ARGV[i + 2]
  valid = valid and #bytes == #ARGV[i + 3] and tonumber(ARGV[i]) >= HEADER
end
if not valid then
  return { 'INVALID' }
end
local added, changed, possible = { struct.unpack(counts_of(h.stages, 'i4'), delta) }, false, true
for stage = 0, h.stages - 1 do
  local sum = 0
  for i = 3 * stage + 1, 3 * stage + 3 do
    h.counts[i] = h.counts[i] + added[i]
    changed = changed or added[i] ~= 0
    possible = possible and h.counts[i] >= 0
    sum = sum + h.counts[i]
  end
  possible = possible and sum <= h.total
end
if #fields > 0 then
  if not changed then
    return { 'INVALID' }
  end
  -- One command for all, which answers what they held, so that the comparison comes after the write, which is taken back
  -- where it was for nothing: nobody sees anything in between.
  local held = redis.call('BITFIELD', unpack(set_fields))
  found[3] = string.char(unpack(held))
  conflict = conflict or found[3] ~= fields
  if conflict or not possible then
    for i = 1, #held do
      set_fields[4 * i + 1] = held[i]
    end
    redis.call('BITFIELD', unpack(set_fields))
  end
end
if conflict then
  return found
end
if not possible then
  return { 'COUNTS_WRONG', h.raw }
end

if changed then
  for i = RUNS_AT, #ARGV, 4 do
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
