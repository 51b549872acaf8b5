-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message has failed and was acknowledged, but its retry was never enqueued: the record is all there is of it.
-- The next sweep puts it back. Or it was stopped by a shutdown, and its worker enqueues it itself: a sweep does it
-- later, should that not come about.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting   5 history   6 counts
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run   5 payload (with its count of retries;
--       '': as the record has it)   6 when a sweep is to put it back, ms from now; 0: its worker does not
--       7 origin
-- returns {answer, known}; answers: handed_over, fenced, gone
--
-- I2: the only copy of a payload stays until its successor exists. I3: only the owner, by its run. I4: a second
-- delivery of a copy that failed is stale from now on: RedisBroker's ack, which goes by the id, ends both.

local me, ttl, id, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now = clock()
local record = load(KEYS[1])
local known = beat(KEYS[3], me, now, ttl)

if not record then
    redis.call('ZREM', KEYS[2], id)
    return {'gone', known}
end
if is_run(record, me, run, ARGV[7]) then
    local payload = ARGV[5] ~= '' and ARGV[5] or payload_of(KEYS[1], record)
    record.state, record.owner, record.copy, record.contended, record.now = 'requeued', '', '', 1, now
    if ARGV[6] == '0' then
        record.generation, record.forced, record.tries = record.generation + 1, 1, 0
    else
        record.tries = record.tries + 1 -- the copy that its worker enqueues
    end
    save_waiting(KEYS[1], KEYS[4], id, record, payload, now + tonumber(ARGV[6]))
    redis.call('ZREM', KEYS[2], id)
    note_message(KEYS[5], KEYS[6], ARGV[6] == '0' and 'handed_over' or 'handed_back', id, record, me)
    return {'handed_over', known}
end
if record.owner ~= me then
    redis.call('ZREM', KEYS[2], id)
end
return {'fenced', known}
