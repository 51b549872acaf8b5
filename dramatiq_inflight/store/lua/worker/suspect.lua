-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation has seen no connection of another one: note that, and when its patience is over, that it is dead.
--
-- KEYS  1 heartbeats   2 suspects   3 incarnation:<me>   4 incarnation:<other>   5 history   6 counts
-- ARGV  1 me   2 the other   3 NUMSUB or SHARDNUMSUB   4 my channel   5 its channel   6 my probe's channel
--       7 since when it was absent, as an earlier answer has said; 0: none has   8 why it is dead
-- returns {answer, since when it is absent ms, its patience ms}; answers: unqualified (I have not been connected for
--       long enough), lost (this server does not see me), present, unseeable (its heartbeat decides), absent,
--       gone (declared dead just now)
--
-- A suspicion is since when, and then all that any sign of life changes: the heartbeat's deadline, and when it entered.
-- Gone is what has been absent for its patience without one, while a connection was opened from scratch since. Nor are
-- many of several instances: it may be the network, and they could come back by themselves.
--
-- I9: Redis's clock alone decides; the caller waits by its own as well.

local me, other, now = ARGV[1], ARGV[2], clock()
local mine = redis.call('HMGET', KEYS[3], 'life', 'seen')
local its = redis.call('HMGET', KEYS[4], 'life', 'seen', 'patience', 'instance')
local deadline = redis.call('ZSCORE', KEYS[1], other)
local server = life()
if not server or mine[1] ~= server or subscribers(ARGV[3], ARGV[4]) == 0 then
    return {'lost', 0, 0}
elseif now - tonumber(mine[2]) < QUALIFYING then
    return {'unqualified', 0, 0}
end
local present = subscribers(ARGV[3], ARGV[5]) > 0
if present or not deadline or tonumber(deadline) <= now or its[1] ~= server then
    redis.call('HDEL', KEYS[2], other)
    return {present and 'present' or 'unseeable', 0, 0}
end

local instance, patience = its[4] or '', tonumber(its[3])
local state = deadline .. ' ' .. its[2] .. ' ' .. instance
local since, noted = string.match(redis.call('HGET', KEYS[2], other) or '', '^(%d+) (.*)$')
if noted ~= state then
    since = string.format('%d', now)
    redis.call('HSET', KEYS[2], other, since .. ' ' .. state)
end
if since ~= ARGV[7] or now < tonumber(since) + patience or subscribers(ARGV[3], ARGV[6]) == 0 then
    return {'absent', tonumber(since), patience}
end

local suspects, alike = 0, true
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
    local its_deadline, its_instance = string.match(all[i + 1], '^%d+ (%S+) %S+ (.*)$')
    if redis.call('ZSCORE', KEYS[1], all[i]) == its_deadline then -- else it has beaten since, or is known to be dead
        suspects, alike = suspects + 1, alike and its_instance == instance
    end
end
local grace_end = tonumber(redis.call('ZSCORE', KEYS[1], GRACE_END) or 0)
local living = redis.call('ZCOUNT', KEYS[1], string.format('(%d', now), '+inf') - (grace_end > now and 1 or 0)
if not alike and 3 * suspects > living then
    return {'absent', tonumber(since), patience}
end
redis.call('HDEL', KEYS[2], other)
redis.call('ZADD', KEYS[1], -tonumber(deadline), UNTIL .. other)
record_death(KEYS[1], KEYS[4], KEYS[5], KEYS[6], other, now, ARGV[8])
return {'gone', tonumber(since), patience}
