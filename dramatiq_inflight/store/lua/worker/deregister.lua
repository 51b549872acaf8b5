-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation ends in order. What it still runs (a shutdown that timed out) is handed over when it has had a few
-- seconds to end: threads may work until the process is gone.
--
--@ keys  heartbeats incarnation running suspects history counts [place]
--@ args  me delay:ms
--
--    place: the incarnations in the same place
--    delay: when what it still runs is handed over
--
-- returns how many messages are still running

local now = clock()
local left = redis.call('ZCARD', running)
if redis.call('EXISTS', incarnation) == 1 then
    note_worker(history, counts, 'left', 'left', me, incarnation, 'running', left)
end
if left == 0 then
    forget(heartbeats, incarnation, suspects, place, me)
else
    redis.call('HDEL', suspects, me)
    redis.call('ZADD', heartbeats, now + delay, me, MARK, DRAINING .. me)
    redis.call('ZREM', heartbeats, TTL .. me)
    redis.call('HSET', incarnation, 'left', now)
    redis.call('HDEL', incarnation, 'life') -- its connections are about to be closed
end
return left
