-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- What is there to recover now, and when will there be something next?
--
--@ keys  heartbeats waiting lock
--@ args  ttl:ms limit:int skip_dead:int skip_overdue:int
--
--    limit: how many of each at the most
--    skip_dead, skip_overdue: how many of the dead, and of the overdue, to pass over
--
-- returns {dead incarnations, ids of records past their deadline, ms until the next deadline (-1: none)}
--
-- I9: Redis's clock alone decides. I10: O(log n + what is due).

local now = clock()

-- Nobody's TTL explains what lies further ahead.
cut_back(heartbeats, now + longest_ttl(heartbeats, ttl) + JITTER, now, ttl)

local quiet = nobody_is_judged(heartbeats, now, ttl)
local dead, next_deadline, until_when = {}, -1, now
if quiet then
    -- Sooner than that: a pause between two looks is no outage then, though nobody else uses Redis.
    next_deadline, until_when = math.min(quiet, shortest_ttl(heartbeats, ttl) / 3), '(' .. PROVEN
end
local expired = redis.call('ZRANGEBYSCORE', heartbeats, 0, until_when, 'LIMIT', 0, skip_dead + limit + 2)
for _, member in ipairs(expired) do
    if string.sub(member, 1, 1) ~= '*' then
        if skip_dead == 0 then
            dead[#dead + 1] = member
            redis.call('ZREM', heartbeats, TTL .. member) -- it is judged: its rhythm is nobody's any more
        else
            skip_dead = skip_dead - 1
        end
    end
end
if not quiet or #dead > 0 then
    -- A recoverer that died, or left, holds its lock for minutes. The lock saves work and protects nothing: break it.
    local holder = redis.call('GET', lock)
    local deadline = holder and redis.call('ZSCORE', heartbeats, holder)
    if holder and (not deadline or tonumber(deadline) <= now) then
        redis.call('DEL', lock)
    end
end

local function wake_in(wait)
    if next_deadline < 0 or wait < next_deadline then
        next_deadline = wait
    end
end

local after = string.format('(%d', now)
local coming = redis.call('ZRANGEBYSCORE', heartbeats, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
for i = 1, #coming, 2 do
    if string.sub(coming[i], 1, 1) ~= '*' then
        wake_in(tonumber(coming[i + 1]) - now)
    end
end

-- One that may still be back is to be reaped, and what its death convicts dead-lettered, when it cannot any more.
local doubted = redis.call('ZRANGE', heartbeats, -now, '(-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
if doubted[2] then
    wake_in(-tonumber(doubted[2]) - now)
end

local overdue = redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', skip_overdue, limit)
local first = redis.call('ZRANGEBYSCORE', waiting, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then
    wake_in(tonumber(first[2]) - now)
end
return {dead, overdue, next_deadline}
