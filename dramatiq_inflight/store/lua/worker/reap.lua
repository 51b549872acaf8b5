-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A dead incarnation of which nothing is left to recover is forgotten.
--
-- KEYS  1 heartbeats   2 incarnation:<dead>   3 running:<dead>   4 suspects
--       5 history   6 counts   7 (if any) the incarnations in the same place
-- ARGV  1 the dead incarnation   2 heartbeat ttl ms
-- returns 1, or 0 if it is back, or has left, or something of it is still to be recovered

local now = clock()
if lives_for(KEYS[1], ARGV[1], now, tonumber(ARGV[2])) ~= 0 or doubted_for(KEYS[1], ARGV[1], now) > 0
    or redis.call('ZCARD', KEYS[3]) > 0 then
    return 0
end
local said = redis.call('HMGET', KEYS[2], 'gone', 'ttl')
local deadline = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or now)
-- Since its death was seen, or else since its last heartbeat.
local after = math.max(0, math.floor(now - (tonumber(said[1]) or deadline - tonumber(said[2] or ARGV[2]))))
if redis.call('EXISTS', KEYS[2]) == 1 then
    note_worker(KEYS[5], KEYS[6], 'cleared', ARGV[1], KEYS[2], 'after', after)
    redis.pcall('HINCRBY', KEYS[6], 'cleared_ms', after)
end
forget(KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[4], ARGV[1])
if KEYS[7] then
    redis.call('SREM', KEYS[7], ARGV[1])
end
return 1
