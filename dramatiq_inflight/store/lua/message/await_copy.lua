-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message has failed and was acknowledged, but its retry was never enqueued: the record is all there is of it.
-- The next sweep puts it back. Or it was stopped by a shutdown, and its worker enqueues it itself: a sweep does it
-- later, should that not come about.
--
--@ keys  record_key running heartbeats waiting history counts
--@ args  me ttl:ms id run:int payload delay:ms origin
--
--    payload: with its count of retries; '': as the record has it, or the broker until the ack
--    delay: when a sweep is to put it back; 0: its worker does not
--
-- returns {answer, known}; answers: handed_over, fenced, gone
--
-- I2: the only copy of a payload stays until its successor exists. I3: only the owner, by its run. I4: a second
-- delivery of a copy that failed is stale from now on: RedisBroker's ack, which goes by the id, ends both.

local now = clock()
local record = load(record_key)
local known = beat(heartbeats, me, now, ttl)

if record and is_run(record, me, run, origin) then
    if payload == '' then
        payload = payload_to_keep(record_key, record)
    end
    record.state, record.owner, record.copy, record.contended, record.now = 'requeued', '', '', 1, now
    if delay == 0 then
        give_up(record)
        record.forced = 1
    else
        record.tries = record.tries + 1 -- the copy that its worker enqueues
    end
    save_waiting(record_key, waiting, id, record, payload, now + delay)
    redis.call('ZREM', running, id)
    note_message(history, counts, delay == 0 and 'handed_over' or 'handed_back', id, record, me)
    return {'handed_over', known}
end
return {refuse_end(record, running, me, id), known}
