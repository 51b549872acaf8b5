-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation has subscribed to its channel: from now on its death may be known by its connections.
--
--@ keys  heartbeats incarnation suspects
--@ args  me ttl:ms on_behalf:flag count channel patience:ms anew:flag
--
--    on_behalf: another process does this on its behalf
--    count: NUMSUB or SHARDNUMSUB
--    anew: the subscription is a new one
--
-- returns {1, or 0 if this server does not see the subscription, or does not say which server it is: then the heartbeat
--       alone counts; known, as heartbeat.lua has it; which server it is}
--
-- I9: Redis's clock alone decides. Every entry has another `seen`, so no suspicion that is older than it holds.

local now = clock()
local known = beat_as(heartbeats, me, now, ttl, on_behalf)
if known < 0 then
    return {0, known} -- it has left, or is about to register again
end
local server = subscribers(count, channel) > 0 and life()
if not server then
    redis.call('HDEL', incarnation, 'life')
    return {0, known}
end
local entered = redis.call('HMGET', incarnation, 'life', 'seen')
if anew or entered[1] ~= server or tonumber(entered[2]) > now then -- the clock has gone back since
    redis.call('HSET', incarnation, 'life', server, 'seen', now)
end
-- The worker itself knows how slow Redis is.
redis.call(on_behalf and 'HSETNX' or 'HSET', incarnation, 'patience', patience)
redis.call('HDEL', suspects, me)
return {1, known, server}
