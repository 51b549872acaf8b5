-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation says who it is, and where its broker keeps what it has fetched.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 (where processes can be told) the incarnations in the same place
-- ARGV  1 me   2 heartbeat ttl ms   3... field, value, ...
-- returns 1, or 0 if it was not known before

local now = clock()
local known = beat(KEYS[1], ARGV[1], now, tonumber(ARGV[2]))
redis.call('HSETNX', KEYS[2], 'booted', now)
redis.call('HDEL', KEYS[2], 'why', 'gone') -- should anybody have taken it for dead
if KEYS[3] then
    redis.call('SADD', KEYS[3], ARGV[1])
end
for i = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return known
