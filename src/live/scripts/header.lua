-- Reads, checks and writes the tracker's header (layout: src/live/header.rs). This file is prepended to every script.
--
-- parse(bytes)           returns the header that the bytes encode, or nil and a status (CORRUPT, UNKNOWN_VERSION). It
--                        rejects exactly the bytes that `Header::decode` rejects.
-- load(key)              returns the header of the intact tracker in the key, or nil and a status (also MISSING).
-- own(key, owner)         like load(key), but returns nil and FOREIGN for a tracker of another installation, and nil and
--                        OTHER_INCARNATION for a tracker of another incarnation. `owner` is the installation (8 bytes),
--                        followed by the incarnation.
-- is_foreign(h, owner)   returns whether the tracker belongs to another installation.
-- size(h)                returns the size of the tracker with this header, in bytes.
-- pending(h)             returns the number of pending results over all stages, and whether every task succeeded at
--                        every stage.
-- write(key, h)          writes the header with its checksum, and sets h.raw to the written bytes.
-- generation()           returns the current generation, or '' on a replica, where no tracker is ever trusted.
-- trusted(h)             returns whether the tracker is adopted under the current generation.
-- now()                  returns the time by Redis's clock, in milliseconds since 1970.

local HEADER, BODY = 436, 420
local STAGES, RATE = 8, 24
local COMPLETE, REVOKED = 1, 3
-- The format of the header before the counts, and the positions of the counts, the rates, the digests
-- and the installation.
local PREFIX, COUNTS_AT, RATES_AT, DIGESTS_AT, INSTALLATION_AT = '>c3BBBBBI4I8c16I8I8I8I8I8', 77, 173, 365, 413
local NO_COUNTS = string.rep('\0', 12 * STAGES)
-- The largest number in a header: the last millisecond of the year 9999. Lua's numbers are exact up to this number.
local LARGEST = 253402300799999

-- Returns the format of the counts: succeeded, failed and skipped of each stage. `each` is the format of one number.
local function counts_of(stages, each)
  return '>' .. string.rep(each, 3 * stages)
end

local function checksum(body)
  return string.sub(redis.sha1hex(body), 1, HEADER - BODY)
end

local function pending(h)
  local sum, perfect = 0, true
  for stage = 0, h.stages - 1 do
    local succeeded = h.counts[3 * stage + 1]
    sum = sum + h.total - succeeded - h.counts[3 * stage + 2] - h.counts[3 * stage + 3]
    perfect = perfect and succeeded == h.total
  end
  return sum, perfect
end

-- Returns whether the numbers in the header are within their ranges and do not contradict each other.
local function possible(h, body)
  local stages, total, counts = h.stages, h.total, h.counts
  if h.adopted > 1 or h.seal > 3 or h.restored > 1 then
    return false
  end
  if math.max(h.incarnation, h.opened, h.adopt_time, h.last_mark, h.revision, h.seal_time) > LARGEST then
    return false
  end
  for i = 1, 3 * stages, 3 do
    if counts[i] + counts[i + 1] + counts[i + 2] > total then
      return false
    end
  end
  if string.find(body, h.unused, COUNTS_AT + 12 * stages, true) ~= COUNTS_AT + 12 * stages then
    return false -- a stage that the job does not have is counted
  end
  return not string.find(h.generation, '[^0-9a-f]') and (h.seal ~= COMPLETE or pending(h) == 0)
end

local function parse(bytes)
  if #bytes < 4 or string.sub(bytes, 1, 3) ~= 'HWM' then
    return nil, 'CORRUPT'
  end
  if string.byte(bytes, 4) ~= 2 then
    return nil, 'UNKNOWN_VERSION'
  end
  local body = string.sub(bytes, 1, BODY)
  if #bytes ~= HEADER or string.sub(bytes, BODY + 1) ~= checksum(body) then
    return nil, 'CORRUPT'
  end
  local h, _ = { raw = bytes }
  _, _, h.stages, h.adopted, h.seal, h.restored, h.total, h.incarnation, h.generation, h.opened, h.adopt_time,
    h.last_mark, h.revision, h.seal_time = struct.unpack(PREFIX, body)
  if h.stages < 1 or h.stages > STAGES then
    return nil, 'CORRUPT'
  end
  h.counts = { struct.unpack(counts_of(h.stages, 'I4'), body, COUNTS_AT) }
  h.counts[3 * h.stages + 1] = nil -- the position of the next field, which struct.unpack returns last
  h.unused = string.sub(NO_COUNTS, 12 * h.stages + 1)
  h.rates, h.digests = string.sub(body, RATES_AT, DIGESTS_AT - 1), string.sub(body, DIGESTS_AT, INSTALLATION_AT - 1)
  h.installation = string.sub(body, INSTALLATION_AT)
  if not possible(h, body) then
    return nil, 'CORRUPT'
  end
  return h
end

local function size(h)
  return HEADER + math.ceil(h.total * h.stages / 4)
end

local function load(key)
  local bytes = redis.pcall('GETRANGE', key, '0', '435')
  if type(bytes) ~= 'string' then
    return nil, 'CORRUPT' -- WRONGTYPE
  end
  if bytes == '' and redis.call('EXISTS', key) == 0 then
    return nil, 'MISSING'
  end
  local h, status = parse(bytes)
  if h and redis.call('STRLEN', key) ~= size(h) then
    return nil, 'CORRUPT'
  end
  return h, status
end

local function is_foreign(h, owner)
  return h.installation ~= string.sub(owner, 1, 8)
end

local function own(key, owner)
  local h, status = load(key)
  if not h then
    return nil, status
  end
  if is_foreign(h, owner) then
    return nil, 'FOREIGN'
  end
  if h.incarnation ~= tonumber(string.sub(owner, 9)) then
    return nil, 'OTHER_INCARNATION'
  end
  return h
end

local function write(key, h)
  -- The body is built in one expression, because Lua hashes every byte of each intermediate string.
  local body = struct.pack(PREFIX, 'HWM', 2, h.stages, h.adopted, h.seal, h.restored, h.total, h.incarnation,
    h.generation, h.opened, h.adopt_time, h.last_mark, h.revision, h.seal_time)
    .. struct.pack(counts_of(h.stages, 'I4'), unpack(h.counts)) .. h.unused .. h.rates .. h.digests .. h.installation
  h.raw = body .. checksum(body)
  redis.call('SETRANGE', key, '0', h.raw)
end

local function generation()
  local info = redis.call('INFO', 'replication')
  if not string.find(info, 'role:master', 1, true) then
    return ''
  end
  local _, id = string.find(info, 'master_replid:', 1, true)
  return string.sub(info, id + 1, id + 16)
end

local function trusted(h)
  return h.adopted == 1 and h.generation == generation()
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
