-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation says who it is, and where its broker keeps what it has fetched; unless the namespace has a schema that
-- it cannot share (see schema.py): then nothing is changed.
--
-- KEYS  1 heartbeats   2 incarnation:<me>   3 history   4 counts   5 schema
--       then the hashes of other incarnations, then (where processes can be told) the incarnations in the same place
-- ARGV  1 me ('': nobody, who only asks)   2 heartbeat ttl ms
--       3 the schema that it writes   4 the oldest and   5 the newest that it can read
--       6 '1': it was registered before   7 how many other incarnations are among the keys   8... their ids
--       then field, value, ...
-- returns 1, or 0 if it was not known before; {'look'}: to be asked again with all other incarnations;
--       {'refused', the schema in use, who stands in the way ('': nobody, but the schema does), ms after which it is
--       worth asking again soon, for it may be dead (0: it lives, or we have been in before)}
--
-- The rule. The schema in use is the newest that anybody may have written. Who comes must be able to read it, and all
-- that are believed to live must be able to read what it writes. So whoever is in can read all that is written, and
-- the schema in use rises when the last one is gone that could not read the next. The dead do not stand in the way: if
-- they did, nobody could come in who could recover what they left. And whoever waits for them to be judged is heard of:
-- if nobody were, nobody would ever be judged (see _common.lua).

local me, ttl, now = ARGV[1], tonumber(ARGV[2]), clock()
local writes, oldest, newest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local others = tonumber(ARGV[7])
local stored = tonumber(redis.call('HGET', KEYS[5], 'schema') or 0)
local again = ARGV[6] == '1'
local in_use, blocker, wait = stored, '', 0

-- Where it is what we write, all that live can read it: nobody came in that could not.
if stored ~= writes then
    local key_of = {}
    for i = 1, others do
        key_of[ARGV[7 + i]] = KEYS[5 + i]
    end
    for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
        if string.sub(member, 1, 1) ~= '*' and member ~= me then
            if not key_of[member] then
                return {'look'}
            end
            local said = redis.call('HMGET', key_of[member], 'schema', 'schema_oldest', 'schema_newest')
            in_use = math.max(in_use, tonumber(said[1] or 0))
            -- Redis has lost what it said. To one that comes anew, it is of the first schema; one that was in before
            -- has been with it all the time.
            local first = again and writes or 1
            local believed = believed_for(KEYS[1], member, now, ttl)
            if (writes < tonumber(said[2] or first) or writes > tonumber(said[3] or first)) and believed > 0 then
                local lives = tonumber(redis.call('ZSCORE', KEYS[1], member)) > now
                if lives or not again then -- they come by their deadlines: if one lives, the last one does
                    blocker, wait = member, lives and 0 or believed
                end
            end
        end
    end
end
if in_use > newest or (in_use > 0 and in_use < oldest) then
    return {'refused', in_use, '', 0}
elseif blocker ~= '' or (me == '' and in_use > 0 and writes > in_use) then
    if wait > 0 and me ~= '' then
        redis.call('ZADD', KEYS[1], now, LAST)
    end
    return {'refused', in_use, blocker, math.ceil(wait)}
elseif me == '' then
    return 1
end

local known = beat(KEYS[1], me, now, ttl)
redis.call('ZADD', KEYS[1], -math.floor(ttl), TTL .. me)
local joined = redis.call('HSETNX', KEYS[2], 'booted', now) == 1
local noticed = redis.call('HGET', KEYS[2], 'noticed')
redis.call('HDEL', KEYS[2], 'why', 'gone', 'noticed') -- should anybody have taken it for dead
if KEYS[6 + others] then
    redis.call('SADD', KEYS[6 + others], me)
end
for i = 8 + others, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if stored < math.max(in_use, writes) then
    local version = redis.call('HGET', KEYS[2], 'version') or ''
    redis.call('HSET', KEYS[5], 'schema', math.max(in_use, writes), 'since', now, 'version', version)
end
redis.call('PEXPIRE', KEYS[5], HISTORY_TTL)
if joined or noticed then
    note_worker(KEYS[3], KEYS[4], noticed and 'revived' or 'joined', me, KEYS[2])
end
return known
