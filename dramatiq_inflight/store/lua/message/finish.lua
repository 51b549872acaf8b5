-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A worker has completed a message, and is about to acknowledge it.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting
--       5 history   6 counts
--       7 checkpoint
--       8, 9 (RedisBroker on this Redis only) the broker's ack set of this worker and queue, and its message hash
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run   5 origin
--       6 '1': the run enqueued its own message again   7 '1': another copy was met in this process   8 fence ttl ms
--       9 broker's id of the copy   10 generation   11 '1': its ack may be still to come; see acked.lua
--       12 how long to remember it at the least, ms   13 started ms (0: not known)
-- returns {answer, known}; answers: finished, late (it was given up, and its copy has not started), fenced, gone
--
-- I3: only the owner, by its run, finishes. A late success settles a record whose recovered copy has not started.

local me, ttl, id, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local origin, again = ARGV[5], ARGV[6] == '1'
local now = clock()
local record = load(KEYS[1])
-- Not in our ack set any more, and not done: the broker gave the message to somebody who may have it in memory, unseen.
local lost = KEYS[9] and redis.call('SISMEMBER', KEYS[8], ARGV[9]) == 0
    and redis.call('HEXISTS', KEYS[9], ARGV[9]) == 1
local known = beat(KEYS[3], me, now, ttl)

-- It is complete. Always: an earlier run may have kept one that this one has not looked at. Not where there is no
-- record: a finish that comes late would take it from the next enqueue.
local function forget_checkpoint()
    redis.call('DEL', KEYS[7])
end

if not record then
    redis.call('ZREM', KEYS[2], id)
    if (lost or ARGV[7] == '1' or tonumber(ARGV[12]) > 0) and not again then
        record = {
            state = 'completed', owner = '', run = run, generation = tonumber(ARGV[10]), crashes = 0,
            limit = 'unlimited', contended = 1, forced = 0, started = now, first = 0, origin = origin, copy = '',
            queue = '', actor = '', drains = 0, alone = 0, tailored = 0,
        }
        save_settled(KEYS[1], record, math.max(tonumber(ARGV[8]), tonumber(ARGV[12])))
    end
    return {'gone', known}
end

if is_run(record, me, run, origin) or is_retaken(record, me, run, origin, tonumber(ARGV[13])) then
    if lost or ARGV[7] == '1' then
        record.contended = 1
    end
    record.state, record.crashes, record.drains = again and 'released' or 'completed', 0, 0
    local unacked, remember = ARGV[11] == '1', again and 0 or tonumber(ARGV[12])
    if unacked and KEYS[9] then
        unacked = redis.call('HEXISTS', KEYS[9], ARGV[9]) == 1
    end
    local fenced = unacked or record.generation > 1 or record.contended == 1
    local for_how_long = fenced and math.max(tonumber(ARGV[8]), remember) or remember
    save_settled(KEYS[1], record, for_how_long, unacked or remember > 0)
    redis.call('ZREM', KEYS[2], id)
    forget_checkpoint()
    return {'finished', known}
end

if record.owner ~= me then
    redis.call('ZREM', KEYS[2], id)
end
-- Not what the run itself has settled, if its answer was lost.
local by_another = run ~= 0 and run ~= record.run
if again or origin ~= record.origin then
    if by_another then
        note_message(KEYS[5], KEYS[6], 'fenced', id, record, me, 'outcome', 'completed')
    end
    return {'fenced', known}
end
if is_to_start(record) then
    record.state, record.contended = 'completed', 1
    save_settled(KEYS[1], record, math.max(tonumber(ARGV[8]), tonumber(ARGV[12])))
    redis.call('ZREM', KEYS[4], id)
    forget_checkpoint()
    note_message(KEYS[5], KEYS[6], 'late', id, record, me)
    return {'late', known}
end
if by_another then
    note_message(KEYS[5], KEYS[6], 'fenced', id, record, me, 'outcome', 'completed')
end
return {'fenced', known}
