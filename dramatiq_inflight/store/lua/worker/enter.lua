-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation has subscribed to its channel: from now on its death may be known by its connections.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 suspects
-- ARGV  1 me   2 heartbeat ttl ms   3 '1': another process does this on its behalf
--       4 NUMSUB or SHARDNUMSUB   5 my channel   6 my patience, ms   7 '1': the subscription is a new one
-- returns {1, or 0 if this server does not see the subscription, or does not say which server it is: then the heartbeat
--       alone counts; known, as beat.lua has it; which server it is}
--
-- I9: Redis's clock alone decides. Every entry has another `seen`, so no suspicion that is older than it holds.

local me, now = ARGV[1], clock()
local known = beat_as(KEYS[1], me, now, tonumber(ARGV[2]), ARGV[3] == '1')
if known < 0 then
    return {0, known} -- it has left, or is about to register again
end
local server = subscribers(ARGV[4], ARGV[5]) > 0 and life()
if not server then
    redis.call('HDEL', KEYS[2], 'life')
    return {0, known}
end
local entered = redis.call('HMGET', KEYS[2], 'life', 'seen')
if ARGV[7] == '1' or entered[1] ~= server or tonumber(entered[2]) > now then -- the clock has gone back since
    redis.call('HSET', KEYS[2], 'life', server, 'seen', now)
end
-- The worker itself knows how slow Redis is.
redis.call(ARGV[3] == '1' and 'HSETNX' or 'HSET', KEYS[2], 'patience', ARGV[6])
redis.call('HDEL', KEYS[3], me)
return {1, known, server}
