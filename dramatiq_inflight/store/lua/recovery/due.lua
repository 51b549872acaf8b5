-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- What is there to recover now, and when will there be something next?
--
-- KEYS  1 heartbeats   2 waiting   3 lock
-- ARGV  1 heartbeat ttl ms   2 how many of each at the most   3 how many of the dead to pass over
--       4 how many of the overdue to pass over
-- returns {dead incarnations, ids of records past their deadline, ms until the next deadline (-1: none)}
--
-- I9: Redis's clock alone decides. I10: O(log n + what is due).

local ttl, limit, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = clock()

-- Nobody's TTL explains what lies further ahead.
cut_back(KEYS[1], now + longest_ttl(KEYS[1], ttl) + JITTER, now, ttl)

local quiet = nobody_is_judged(KEYS[1], now, ttl)
local dead, next_deadline, until_when = {}, -1, now
if quiet then
    -- Sooner than that: a pause between two looks is no outage then, though nobody else uses Redis.
    next_deadline, until_when = math.min(quiet, shortest_ttl(KEYS[1], ttl) / 3), PROVEN
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], 0, until_when, 'LIMIT', 0, skip + limit + 2)
for _, member in ipairs(expired) do
    if string.sub(member, 1, 1) ~= '*' then
        if skip == 0 then
            dead[#dead + 1] = member
            redis.call('ZREM', KEYS[1], TTL .. member) -- it is judged: its rhythm is nobody's any more
        else
            skip = skip - 1
        end
    end
end
if not quiet or #dead > 0 then
    -- A recoverer that died, or left, holds its lock for minutes. The lock saves work and protects nothing: break it.
    local holder = redis.call('GET', KEYS[3])
    local deadline = holder and redis.call('ZSCORE', KEYS[1], holder)
    if holder and (not deadline or tonumber(deadline) <= now) then
        redis.call('DEL', KEYS[3])
    end
end

local after = string.format('(%d', now)
local coming = redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
for i = 1, #coming, 2 do
    local wait = tonumber(coming[i + 1]) - now
    if string.sub(coming[i], 1, 1) ~= '*' and (next_deadline < 0 or wait < next_deadline) then
        next_deadline = wait
    end
end

-- One that may still be back is to be reaped, and what its death convicts dead-lettered, when it cannot any more.
local doubted = redis.call('ZRANGE', KEYS[1], -now, '(-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
if doubted[2] then
    local wait = -tonumber(doubted[2]) - now
    if next_deadline < 0 or wait < next_deadline then
        next_deadline = wait
    end
end

local overdue = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', ARGV[4], limit)
local first = redis.call('ZRANGEBYSCORE', KEYS[2], after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[2] then
    local wait = tonumber(first[2]) - now
    if next_deadline < 0 or wait < next_deadline then
        next_deadline = wait
    end
end
return {dead, overdue, next_deadline}
