-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation has just been asked whether it lives, because a copy of a message that it runs was delivered again.
-- Note it, unless an earlier question is still open; and say what is known by now.
--
-- KEYS  1 heartbeats   2 incarnation:<asked>
-- ARGV  1 the incarnation that was asked   2 heartbeat ttl ms   3 the deadline that it had before it was first asked
-- returns {answer, ms until it is worth asking again}; answers: asked, silent (it was asked twice, and had its time to
--       answer both times), over (it has answered, or is known to be dead, or cannot be asked)
--
-- I9: Redis's clock alone decides. A question that went unnoted harms nobody; one that was noted had been asked.

local id, ttl = ARGV[1], tonumber(ARGV[2])
local now = clock()
local deadline = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)
local at = string.format('%d', math.floor(deadline))
local state = redis.call('HMGET', KEYS[2], 'patience', 'asked', 'asked_again', 'asked_at')
local patience, asked, again = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)

if deadline <= now or patience == 0 or at ~= ARGV[3] then
    return {'over', 0}
end
local grace_end = tonumber(redis.call('ZSCORE', KEYS[1], GRACE_END) or 0)
if nobody_is_judged(KEYS[1], now, ttl) then
    redis.call('HDEL', KEYS[2], 'asked', 'asked_again', 'asked_at') -- it may have been unable to answer
    return {'asked', 1000}
elseif state[4] ~= at or asked <= grace_end then
    redis.call('HDEL', KEYS[2], 'asked_again')
    redis.call('HSET', KEYS[2], 'asked', now, 'asked_at', at)
    return {'asked', patience}
elseif now - asked < patience then
    return {'asked', asked + patience - now}
elseif again == 0 then
    redis.call('HSET', KEYS[2], 'asked_again', now)
    return {'asked', patience}
elseif now - again < patience then
    return {'asked', again + patience - now}
end
return {'silent', 0}
