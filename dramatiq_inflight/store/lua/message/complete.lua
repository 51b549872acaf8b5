-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A worker has completed a message, and is about to acknowledge it.
--
--@ keys  record_key running heartbeats waiting history counts checkpoint [broker_acks broker_messages]
--@ args  me ttl:ms id run:int origin again:flag contended:flag fence_ttl:ms copy generation:int unacked:flag
--@ args  remember:ms started:ms due:flag
--
--    broker_acks, broker_messages (RedisBroker on this Redis only): the ack set of this worker and queue, and its
--      messages
--    again: the run enqueued its own message again
--    contended: another copy was met in this process
--    copy, generation: the broker's id of the copy, and its generation
--    unacked: its ack may be still to come; see shorten_retention.lua
--    remember: how long to remember it at the least
--    started: 0: not known
--    due: the heartbeat is to be renewed
--
-- returns {answer, known}; answers: finished, late (it was given up, and its copy has not started), fenced, gone.
--       Or 1: finished, by the short way, which did not renew the heartbeat
--
-- I3: only the owner, by its run, finishes. A late success settles a record whose recovered copy has not started.

-- The short way: the record is our run's, and nothing is to be remembered of it. A pattern reads of it the state, the
-- owner, the run, a generation of 1, what is not contended, and the origin.
if not due and not contended and not unacked and remember == 0
    and (not broker_acks or redis.call('SISMEMBER', broker_acks, copy) == 1) then
    local owner, number, its_origin = string.match(redis.call('GETRANGE', record_key, 0, 255),
        '^%["running","([^"]+)",(%d+),1,%d+,[^,]+,0,%d,%d+,%d+,"([^"]*)",')
    if owner == me and tonumber(number) == run and (origin == '' or origin == its_origin) then
        -- Changes nothing, and fails where Redis is full: so does the ack that follows, and the record has to stay
        -- then.
        redis.call('ZADD', running, 'XX', 0, '')
        redis.call('DEL', record_key, checkpoint)
        redis.call('ZREM', running, id)
        return 1
    end
end
--@ common

local now = clock()
local record = load(record_key)
-- Not in our ack set any more, and not done: the broker gave the message to somebody who may have it in memory, unseen.
local lost = broker_messages and redis.call('SISMEMBER', broker_acks, copy) == 0
    and redis.call('HEXISTS', broker_messages, copy) == 1
local known = beat(heartbeats, me, now, ttl)

-- It is complete. Always: an earlier run may have kept one that this one has not looked at. Not where there is no
-- record: a completion that comes late would take it from the next enqueue.
local function forget_checkpoint()
    redis.call('DEL', checkpoint)
end

local longest = math.max(fence_ttl, remember)

if not record then
    if (lost or contended or remember > 0) and not again then
        save_settled(record_key, {
            state = 'completed', run = run, generation = generation, limit = 'unlimited', contended = 1,
            started = now, origin = origin,
        }, longest)
    end
    return {refuse_end(record, running, me, id), known}
end

if is_run(record, me, run, origin) or is_retaken(record, me, run, origin, started) then
    if lost or contended then
        record.contended = 1
    end
    record.state, record.crashes, record.drains = again and 'released' or 'completed', 0, 0
    if again then
        remember, longest = 0, fence_ttl
    end
    if unacked and broker_messages then
        unacked = redis.call('HEXISTS', broker_messages, copy) == 1
    end
    local fenced = unacked or record.generation > 1 or record.contended == 1
    save_settled(record_key, record, fenced and longest or remember, unacked or remember > 0)
    redis.call('ZREM', running, id)
    forget_checkpoint()
    return {'finished', known}
end

local answer = refuse_end(record, running, me, id)
if not again and origin == record.origin and is_to_start(record) then
    close(record_key, waiting, id, record, 'completed', longest)
    forget_checkpoint()
    note_message(history, counts, 'late', id, record, me)
    return {'late', known}
end
note_fenced(history, counts, id, record, me, run, 'completed')
return {answer, known}
