-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation says who it is, and where its broker keeps what it has fetched; unless the namespace has a schema that
-- it cannot share (see store/schema.py): then nothing is changed.
--
--@ keys  heartbeats incarnation history counts schema [place]
--@ args  me ttl:ms writes:int up:int
--@ rows  | field value
--
--    place (where processes can be told): the incarnations in the same place
--    me: '': nobody, who only asks
--    writes: the schema that it writes
--    up: how long ago it registered first, ms; 0: this is the first time
--
-- returns 1, or 0 if it was not known before; or {'refused', the schema in use, who stands in the way ('': nobody, but
--       the schema does), ms after which it is worth asking again soon, for that one may be dead (0: it lives)}
--
-- The rule. Workers of one schema share a namespace. A newer version takes over once nobody is believed to live there,
-- and reads what was left; an older one does not come in any more. The dead do not stand in the way: if they did,
-- nobody could come in who could recover what they left. And whoever waits for them to be judged is heard of: if
-- nobody were, nobody would ever be judged (see common.lua).

local now = clock()
local stored = tonumber(redis.call('HGET', schema, 'schema') or writes)
if stored ~= writes then
    local blocker, wait = '', 0
    for _, member in ipairs(stored < writes and me ~= '' and redis.call('ZRANGE', heartbeats, 0, -1) or {}) do
        if string.sub(member, 1, 1) ~= '*' and member ~= me then
            local believed = math.max(lives_for(heartbeats, member, now, ttl), doubted_for(heartbeats, member, now))
            if believed > 0 then -- they come by their deadlines: if one lives, the last one does
                blocker = member
                wait = tonumber(redis.call('ZSCORE', heartbeats, member)) > now and 0 or believed
            end
        end
    end
    if stored > writes or me == '' or blocker ~= '' then
        if wait > 0 then
            redis.call('ZADD', heartbeats, now, LAST)
        end
        return {'refused', stored, blocker, math.ceil(wait)}
    end
elseif me == '' then
    return 1
end

local known = beat(heartbeats, me, now, ttl)
if known < 0 then
    appear(heartbeats, me, now, ttl)
end
redis.call('ZADD', heartbeats, -ttl, TTL .. me)
redis.call('ZREM', heartbeats, UNTIL .. me)
local joined = redis.call('HSETNX', incarnation, 'booted', string.format('%d', now - up)) == 1
local revived = redis.call('HGET', incarnation, 'noticed')
if joined and up > 0 then
    -- It was forgotten: after its death, unless Redis has lost its data.
    local last = redis.pcall('XREVRANGE', history, '+', '-', 'COUNT', 1000)
    for _, entry in ipairs(last.err and {} or last) do
        local said = entry[2]
        revived = revived or (said[2] == 'cleared' and said[4] == me)
    end
end
redis.call('HDEL', incarnation, 'gone', 'noticed') -- should anybody have taken it for dead
if place then
    redis.call('SADD', place, me)
end
for _, row in ipairs(rows) do
    redis.call('HSET', incarnation, row.field, row.value)
end
if redis.call('HGET', schema, 'schema') ~= tostring(writes) then
    local version = redis.call('HGET', incarnation, 'version') or ''
    redis.call('HSET', schema, 'schema', writes, 'since', now, 'version', version)
end
redis.call('PEXPIRE', schema, HISTORY_TTL)
if joined or revived then
    local event = revived and 'revived' or 'joined'
    note_worker(history, counts, event, event, me, incarnation)
end
return known
