-- Adds errors to the newest error samples of a job and to its count of each error code. Errors are best effort, and
-- independent of the marks.
--
-- KEYS[1]  the list of samples, newest first
-- KEYS[2]  the hash with the number of reports of each code
-- ARGV[1]  the maximum number of samples that are kept
-- ARGV[2]  the maximum number of distinct codes that are counted separately; further codes count as OTHER
-- ARGV[3]  the time to live of both keys, in milliseconds
-- ARGV[4]  the number of samples
-- ARGV[5…] the samples, oldest first; then each code, followed by its count
-- Returns {status}: RECORDED; CORRUPT (a key holds another type, and nothing is changed).
-- Guarantees: none. The script is not idempotent: a repeated call counts its errors again.

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
return { 'RECORDED' }
