-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The broker is rid of a copy that never ran: it was dead-lettered as poison, was too old, or has no actor here.
--
--@ keys  record_key waiting heartbeats history counts [broker_messages]
--@ args  id generation:int origin redelivered:flag state fence_ttl:ms ttl:ms copy tries:int
--@ args  queue actor why traceback
--
--    broker_messages: the messages of a RedisBroker on this Redis
--    generation, copy: of the copy, and the broker's id of it
--    redelivered: the copy may be a redelivery
--    state: the state it ends in: completed or dead_lettered
--    tries: the number of recovery's try that made it
--    why, traceback: the error, if it was dead-lettered
--
-- returns {answer}; answers: settled, fenced, gone
--
-- The broker may have delivered it before recovery came to its dead owner's record: no copy is to follow then.
-- If the broker still has the copy after a nack, it had taken that back before, and will deliver it again. (Before an
-- ack it always has it.)
-- I7: what is to be dead-lettered becomes dead_lettered only now, after the nack; a replay starts with a clean count.

local record = load(record_key)
local function note_dead_letter(of)
    if state == 'dead_lettered' then
        note_message(history, counts, 'dead_lettered', id, of, '', 'why', why, 'traceback', traceback)
    end
end
local still_there = state == 'dead_lettered' and broker_messages and redis.call('HEXISTS', broker_messages, copy) == 1
if not record then
    if not still_there then
        note_dead_letter({queue = queue, actor = actor, run = 0, crashes = 0})
    end
    return {'gone'}
end
-- That the broker has delivered it before says what it is only where there are no ids.
local same = origin ~= '' and origin == record.origin or (redelivered and (origin == '' or record.origin == ''))
local open = WAITING[record.state]
    or (record.state == 'running' and believed_for(heartbeats, record.owner, clock(), ttl) == 0)
if not same or not open or generation < record.generation or still_there then
    return {'fenced'}
end
local crashes = record.crashes
record.crashes, record.drains = 0, 0
record.tries = tries -- a replay is of the very copy that was dead-lettered
close(record_key, waiting, id, record, state, fence_ttl)
record.crashes = crashes
note_dead_letter(record)
return {'settled'}
