-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation says who it is, and where its broker keeps what it has fetched.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 history   4 counts
--       5 (where processes can be told) the incarnations in the same place
-- ARGV  1 me   2 heartbeat ttl ms   3... field, value, ...
-- returns 1, or 0 if it was not known before

local now = clock()
local known = beat(KEYS[1], ARGV[1], now, tonumber(ARGV[2]))
local joined = redis.call('HSETNX', KEYS[2], 'booted', now) == 1
local noticed = redis.call('HGET', KEYS[2], 'noticed')
redis.call('HDEL', KEYS[2], 'why', 'gone', 'noticed') -- should anybody have taken it for dead
if KEYS[5] then
    redis.call('SADD', KEYS[5], ARGV[1])
end
for i = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if joined or noticed then
    note_worker(KEYS[3], KEYS[4], noticed and 'revived' or 'joined', ARGV[1], KEYS[2])
end
return known
