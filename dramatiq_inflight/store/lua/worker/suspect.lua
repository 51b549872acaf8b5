-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation has seen no connection of another one: note that, and when its patience is over, that it is dead.
--
--@ keys  heartbeats suspects incarnation other_incarnation history counts
--@ args  other count my_channel its_channel my_probe absent_since cause:int
--
--    count: NUMSUB or SHARDNUMSUB
--    my_probe: the channel of my probe
--    absent_since: since when it was absent, as an earlier answer has said; 0: none has
--    cause: of its death, should it be dead
--
-- returns {answer, since when it is absent ms, its patience ms}; answers: unqualified (I have not been connected for
--       long enough), lost (this server does not see me), present, unseeable (its heartbeat decides), absent,
--       gone (declared dead just now)
--
-- A suspicion is since when, and then all that any sign of life changes: the heartbeat's deadline, and when it entered.
-- Gone is what has been absent for its patience without one, while a connection was opened from scratch since. Nor are
-- many of several instances: it may be the network, and they could come back by themselves.
--
-- I9: Redis's clock alone decides; the caller waits by its own as well.

local now = clock()
local mine = redis.call('HMGET', incarnation, 'life', 'seen')
local its = redis.call('HMGET', other_incarnation, 'life', 'seen', 'patience', 'instance')
local deadline = redis.call('ZSCORE', heartbeats, other)
local server = life()
if not server or mine[1] ~= server or subscribers(count, my_channel) == 0 then
    return {'lost', 0, 0}
elseif now - tonumber(mine[2]) < QUALIFYING then
    return {'unqualified', 0, 0}
end
local present = subscribers(count, its_channel) > 0
if present or not deadline or tonumber(deadline) <= now or its[1] ~= server then
    redis.call('HDEL', suspects, other)
    return {present and 'present' or 'unseeable', 0, 0}
end

local instance, patience = its[4] or '', tonumber(its[3])
local state = deadline .. ' ' .. its[2] .. ' ' .. instance
local since, noted = string.match(redis.call('HGET', suspects, other) or '', '^(%d+) (.*)$')
if noted ~= state then
    since = string.format('%d', now)
    redis.call('HSET', suspects, other, since .. ' ' .. state)
end
if since ~= absent_since or now < tonumber(since) + patience or subscribers(count, my_probe) == 0 then
    return {'absent', tonumber(since), patience}
end

local suspected, alike = 0, true
local all = redis.call('HGETALL', suspects)
for i = 1, #all, 2 do
    local its_deadline, its_instance = string.match(all[i + 1], '^%d+ (%S+) %S+ (.*)$')
    if redis.call('ZSCORE', heartbeats, all[i]) == its_deadline then -- else it has beaten since, or is known to be dead
        suspected, alike = suspected + 1, alike and its_instance == instance
    end
end
local grace_end = tonumber(redis.call('ZSCORE', heartbeats, GRACE_END) or 0)
local living = redis.call('ZCOUNT', heartbeats, string.format('(%d', now), '+inf') - (grace_end > now and 1 or 0)
if not alike and 3 * suspected > living then
    return {'absent', tonumber(since), patience}
end
redis.call('HDEL', suspects, other)
redis.call('ZADD', heartbeats, -tonumber(deadline), UNTIL .. other)
prove_death(heartbeats, other_incarnation, history, counts, other, now, cause)
return {'gone', tonumber(since), patience}
