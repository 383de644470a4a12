-- Sets marks by compare-and-set: compares the affected bytes with the bytes that the caller expects, writes the new
-- bytes, and adds to the counts. The caller computes the new bytes and the change of the counts
-- (src/domain/mark_step.rs), so this script has no counting rules.
--
-- A run is a range of consecutive bytes of the tracker. A field is one byte of a short run that changes. One
-- BITFIELD command writes all fields, so that a field costs Redis less than a run. Fields and runs do not overlap.
--
-- KEYS[1]  the tracker
-- ARGV[1]  the owner: the installation (8 bytes), followed by the incarnation
-- ARGV[2]  1: the tracker must be adopted; 0: it need not be. 0 is safe in two cases. In a merge, acknowledged
--          marks are true under any incarnation. In a report, the caller checks the incarnation with Postgres before
--          and after this script
-- ARGV[3]  the tracker's time to live, in milliseconds
-- ARGV[4]  the change of the counts: succeeded, failed, skipped of each stage, as signed 32-bit numbers, big-endian
-- ARGV[5]  1: the rates of the stages count the new results (a report); 0: they do not (a merge)
-- ARGV[6]  for each region of the cells whose digest changes: its index (1 byte), and the number to add to the digest,
--          modulo 2^48 (6 bytes, big-endian)
-- ARGV[7]  the expected bytes of all fields, concatenated; empty if the counts do not change. There must be fewer than
--          2,000 fields: Lua's unpack passes at most 8,000 arguments to BITFIELD, and a field takes four of them
-- ARGV[8…] for each field, in ascending order: its first bit (counted from the start of the key), its new byte as a
--          number; then for each run: its first byte, its last byte (both counted from the start of the key), its
--          expected bytes, its new bytes
-- Returns {status, header}: APPLIED; SEALED; STALE (the tracker has another generation, so it may have lost a seal; it
--          takes no marks until it is reopened); NOT_ADOPTED; COUNTS_WRONG (the change does not fit the
--          header's counts).
-- Returns {status, header, fields, run…}: CONFLICT, with the actual bytes of all fields and of each run (compute the
--          change from these bytes and call again).
-- Returns {status}: INVALID (the arguments contradict each other or the tracker); FOREIGN, OTHER_INCARNATION, MISSING, CORRUPT,
--          UNKNOWN_VERSION.
-- Guarantees: with APPLIED, marks, counts, digests and rates change together. With any other status, nothing changes.

local key, fields = KEYS[1], ARGV[7]
local owner, require_adopted, ttl = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local delta, counts_in_rates, digests = ARGV[4], ARGV[5], ARGV[6]
local RUNS_AT = 8 + 2 * #fields
-- The size of the change of one digest, the number of regions, and the number that every digest is smaller than.
local CHANGE, REGIONS, MODULUS = 7, 8, 281474976710656
-- The time to live is renewed when it has decreased by this number of milliseconds.
local RENEW_MS = 4000

-- Adds results to the rate of a stage and returns the rates. `StageRate::record` in src/domain/rate.rs explains these
-- formulas. It computes the same numbers, so the order of operations must stay the same.
local function record(rates, stage, time, results)
  local at, max, min, floor = RATE * stage + 1, math.max, math.min, math.floor
  local last, span, gap, slow, fast = struct.unpack('>I6I4I4I5I5', rates, at)
  local counted = min(max(time - last, 0), max(span, 4 * gap, 20000))
  if last > 0 and span + counted > 0 then
    local usual = min(counted, max(span / 8, 4 * gap, 1000))
    local n, w, v = results * 1000 * 100000, span / (span + counted), span / (span + usual)
    local w2, v2 = w * w, v * v
    slow = floor(min(slow * w2 + n * (1 + w) / (span + counted), 1099511627775))
    fast = floor(min(fast * (v2 * v2) + n * (1 + v + v2 + v2 * v) / (span + usual), 1099511627775))
    gap = gap * v2 + usual * (1 - v2) + 0.5
    span = floor(min(span + counted, max(300000, 32 * gap), 4294967295))
    gap = floor(min(gap, 4294967295))
  end
  return string.sub(rates, 1, at - 1) .. struct.pack('>I6I4I4I5I5', time, span, gap, slow, fast)
    .. string.sub(rates, at + RATE)
end

local h, status = own(key, owner)
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

local valid = ttl and (counts_in_rates == '0' or counts_in_rates == '1') and #delta == 12 * h.stages
  and #digests % CHANGE == 0
for i = 1, #digests, CHANGE do
  valid = valid and string.byte(digests, i) < REGIONS
end
-- `free` is the first bit after the previous field. Fields must not overlap.
local set_fields, free = { key }, 8 * HEADER
for i = 1, #fields do
  local bit, new = ARGV[2 * i + 6], ARGV[2 * i + 7]
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
  for stage = 0, h.stages - 1 do
    local results = added[3 * stage + 1] + added[3 * stage + 2]
    if results > 0 and counts_in_rates == '1' then
      h.rates = record(h.rates, stage, time, results)
    end
  end
  for i = 1, #digests, CHANGE do
    local region, difference = struct.unpack('>BI6', digests, i)
    local at = 6 * region + 1
    local digest = (struct.unpack('>I6', h.digests, at) + difference) % MODULUS
    h.digests = string.sub(h.digests, 1, at - 1) .. struct.pack('>I6', digest) .. string.sub(h.digests, at + 6)
  end
  h.last_mark, h.revision = time, h.revision + 1
  write(key, h)
end
-- The time to live is not renewed by every report, because PEXPIRE costs more than PTTL, and is also
-- written to the append-only file and sent to replicas.
if redis.call('PTTL', key) < ttl - math.min(RENEW_MS, ttl / 2) then
  redis.call('PEXPIRE', key, ttl)
end
return { 'APPLIED', h.raw }
