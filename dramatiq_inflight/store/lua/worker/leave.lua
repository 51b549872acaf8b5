-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation ends in order. What it still runs (a shutdown that timed out) is handed over when it has had a few
-- seconds to end: threads may work until the process is gone.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 running:<me>   4 suspects
--       5 history   6 counts   7 (if any) the incarnations in the same place
-- ARGV  1 me   2 hand-over delay ms
-- returns how many messages are still running

local now = clock()
local left = redis.call('ZCARD', KEYS[3])
if redis.call('EXISTS', KEYS[2]) == 1 then
    note_worker(KEYS[5], KEYS[6], 'left', ARGV[1], KEYS[2], 'running', left)
end
redis.call('HDEL', KEYS[4], ARGV[1])
if left == 0 then
    forget(KEYS[1], ARGV[1])
    redis.call('DEL', KEYS[2])
    if KEYS[7] then
        redis.call('SREM', KEYS[7], ARGV[1])
    end
else
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1], MARK, DRAINING .. ARGV[1])
    redis.call('ZREM', KEYS[1], TTL .. ARGV[1])
    redis.call('HSET', KEYS[2], 'left', now)
    redis.call('HDEL', KEYS[2], 'life') -- its connections are about to be closed
end
return left
