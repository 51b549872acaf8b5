-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A dead incarnation of which nothing is left to recover is forgotten.
--
--@ keys  heartbeats incarnation running suspects history counts [place]
--@ args  dead ttl:ms
--
--    place: the incarnations in the same place
--
-- returns 1, or 0 if it is back, or has left, or something of it is still to be recovered

local now = clock()
if lives_for(heartbeats, dead, now, ttl) ~= 0 or doubted_for(heartbeats, dead, now) > 0
    or redis.call('ZCARD', running) > 0 then
    return 0
end
local said = redis.call('HMGET', incarnation, 'gone', 'ttl')
local deadline = tonumber(redis.call('ZSCORE', heartbeats, dead) or now)
-- Since its death was seen, or else since its last heartbeat.
local after = math.max(0, math.floor(now - (tonumber(said[1]) or deadline - tonumber(said[2] or ttl))))
if redis.call('EXISTS', incarnation) == 1 then
    note_worker(history, counts, 'cleared', 'cleared', dead, incarnation, 'after', after)
    redis.pcall('HINCRBY', counts, 'cleared_ms', after)
end
forget(heartbeats, incarnation, suspects, place, dead)
redis.call('DEL', running)
return 1
