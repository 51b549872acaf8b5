-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation says who it is, and where its broker keeps what it has fetched; unless the namespace has a schema that
-- it cannot share (see store/schema.py): then nothing is changed.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 history   4 counts   5 schema
--       6 (where processes can be told) the incarnations in the same place
-- ARGV  1 me ('': nobody, who only asks)   2 heartbeat ttl ms   3 the schema that it writes
--       4... field, value, ...
-- returns 1, or 0 if it was not known before; or {'refused', the schema in use, who stands in the way ('': nobody, but
--       the schema does), ms after which it is worth asking again soon, for that one may be dead (0: it lives)}
--
-- The rule. Workers of one schema share a namespace. A newer version takes over once nobody is believed to live there,
-- and reads what was left; an older one does not come in any more. The dead do not stand in the way: if they did,
-- nobody could come in who could recover what they left. And whoever waits for them to be judged is heard of: if
-- nobody were, nobody would ever be judged (see common.lua).

local me, ttl, writes, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), clock()
local stored = tonumber(redis.call('HGET', KEYS[5], 'schema') or writes)
if stored ~= writes then
    local blocker, wait = '', 0
    for _, member in ipairs(stored < writes and me ~= '' and redis.call('ZRANGE', KEYS[1], 0, -1) or {}) do
        if string.sub(member, 1, 1) ~= '*' and member ~= me then
            local believed = math.max(lives_for(KEYS[1], member, now, ttl), doubted_for(KEYS[1], member, now))
            if believed > 0 then -- they come by their deadlines: if one lives, the last one does
                blocker = member
                wait = tonumber(redis.call('ZSCORE', KEYS[1], member)) > now and 0 or believed
            end
        end
    end
    if stored > writes or me == '' or blocker ~= '' then
        if wait > 0 then
            redis.call('ZADD', KEYS[1], now, LAST)
        end
        return {'refused', stored, blocker, math.ceil(wait)}
    end
elseif me == '' then
    return 1
end

local known = beat(KEYS[1], me, now, ttl)
if known < 0 then
    appear(KEYS[1], me, now, ttl)
end
redis.call('ZADD', KEYS[1], -ttl, TTL .. me)
redis.call('ZREM', KEYS[1], UNTIL .. me)
local joined = redis.call('HSETNX', KEYS[2], 'booted', now) == 1
local noticed = redis.call('HGET', KEYS[2], 'noticed')
redis.call('HDEL', KEYS[2], 'why', 'gone', 'noticed') -- should anybody have taken it for dead
if KEYS[6] then
    redis.call('SADD', KEYS[6], me)
end
for i = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if redis.call('HGET', KEYS[5], 'schema') ~= ARGV[3] then
    redis.call('HSET', KEYS[5], 'schema', writes, 'since', now, 'version', redis.call('HGET', KEYS[2], 'version') or '')
end
redis.call('PEXPIRE', KEYS[5], HISTORY_TTL)
if joined or noticed then
    note_worker(KEYS[3], KEYS[4], noticed and 'revived' or 'joined', me, KEYS[2])
end
return known
