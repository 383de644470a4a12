-- Keeps the newest errors of a job and counts all by code. Best effort, beside the marks.
--
-- KEYS[1]  the samples, a list, newest first
-- KEYS[2]  how often each code was reported, a hash
-- ARGV[1]  how many samples are kept
-- ARGV[2]  how many different codes are counted; what comes after them counts as OTHER
-- ARGV[3]  the time to live of both, in milliseconds
-- ARGV[4]  how many samples follow, oldest first; behind them code and count, alternating
-- Returns {status}: NOTED; CORRUPT (a key holds something else).

local samples_key, counts_key = KEYS[1], KEYS[2]
local kept, codes, ttl, samples = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local list, hash = redis.call('TYPE', samples_key).ok, redis.call('TYPE', counts_key).ok
if (list ~= 'none' and list ~= 'list') or (hash ~= 'none' and hash ~= 'hash') then
  return { 'CORRUPT' }
end

for i = 5, 4 + samples do
  redis.call('LPUSH', samples_key, ARGV[i])
end
redis.call('LTRIM', samples_key, '0', kept - 1)
for i = 5 + samples, #ARGV, 2 do
  local code = ARGV[i]
  if redis.call('HEXISTS', counts_key, code) == 0 and redis.call('HLEN', counts_key) >= codes then
    code = 'OTHER'
  end
  redis.call('HINCRBY', counts_key, code, ARGV[i + 1])
end
redis.call('PEXPIRE', samples_key, ttl)
redis.call('PEXPIRE', counts_key, ttl)
return { 'NOTED' }
