-- Sets marks by compare-and-set: compares the affected bytes with the bytes that the caller expects, writes the new
-- bytes, and adds to the counts. The caller computes the new bytes and the change of the counts
-- (src/domain/mark_step.rs), so this script has no counting rules.
--
-- A run is a range of consecutive bytes of the tracker. A field is one byte of a short run that changes. One
-- BITFIELD command writes all fields, so that a field costs Redis less than a run. Fields and runs do not overlap.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the incarnation
-- ARGV[2]  1: the tracker must be adopted; 0: it need not be. 0 is safe in two cases. In a merge, acknowledged
--          marks are true under any incarnation. In a report, the caller checks the incarnation with Postgres before
--          and after this script
-- ARGV[3]  the tracker's time to live, in milliseconds
-- ARGV[4]  the change of the counts: succeeded, failed, skipped of each stage, as signed 32-bit numbers, big-endian
-- ARGV[5]  by how much the numbers of pending tasks decrease in total over all stages; the rate counts this number
-- ARGV[6]  the expected bytes of all fields, concatenated; empty if the counts do not change. There must be fewer than
--          2,000 fields: Lua's unpack passes at most 8,000 arguments to BITFIELD, and a field takes four of them
-- ARGV[7…] for each field, in ascending order: its first bit (counted from the start of the key), its new byte as a
--          number; then for each run: its first byte, its last byte (both counted from the start of the key), its
--          expected bytes, its new bytes
-- Returns {status, header}: APPLIED; SEALED; STALE (the tracker has another generation, so it may have lost a seal; it
--          takes no marks until it is reopened); NOT_ADOPTED; COUNTS_WRONG (the change does not fit the
--          header's counts).
-- Returns {status, header, fields, run…}: CONFLICT, with the actual bytes of all fields and of each run (compute the
--          change from these bytes and call again).
-- Returns {status}: INVALID (the arguments contradict each other or the tracker); OTHER_INCARNATION, MISSING, CORRUPT,
--          UNKNOWN_VERSION.
-- Guarantees: with APPLIED, marks, counts and rate change together. With any other status, nothing changes.

local key, fields = KEYS[1], ARGV[6]
local incarnation, require_adopted, ttl, delta, done = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
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
if require_adopted and h.adopted == 0 then
  return { 'NOT_ADOPTED', h.raw }
end

local valid = ttl and done and #delta == 12 * h.stages
-- `free` is the first bit after the previous field. Fields must not overlap.
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
  -- BITFIELD writes all fields and returns their previous bytes, so this script compares them after the write. On a
  -- conflict, a second BITFIELD undoes the write. A script is atomic, so no reader sees the state in between.
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
-- The time to live is not renewed by every report, because PEXPIRE costs more than PTTL, and is also
-- written to the append-only file and sent to replicas.
if redis.call('PTTL', key) < ttl - math.min(BUCKET_MS, ttl / 2) then
  redis.call('PEXPIRE', key, ttl)
end
return { 'APPLIED', h.raw }
