-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The broker is rid of a copy that never ran: it was dead-lettered as poison, was too old, or has no actor here.
--
-- KEYS  1 record   2 waiting   3 heartbeats
--       4 history   5 counts   6 (RedisBroker on this Redis only) the broker's message hash
-- ARGV  1 message id   2 generation of the copy   3 origin   4 '1': the copy may be a redelivery
--       5 the state it ends in: completed or dead_lettered   6 fence ttl ms   7 heartbeat ttl ms
--       8 broker's id of the copy   9 the number of recovery's try that made it
-- returns {answer}; answers: settled, fenced, gone
--
-- The broker may have delivered it before recovery came to its dead owner's record: no copy is to follow then.
-- If the broker still has the copy after a nack, it had taken that back before, and will deliver it again. (Before an
-- ack it always has it.)
-- I7: what is to be dead-lettered becomes dead_lettered only now, after the nack; a replay starts with a clean count.

local id, generation, origin = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local record = load(KEYS[1])
if not record then
    return {'gone'}
end
-- That the broker has delivered it before says what it is only where there are no ids.
local same = origin ~= '' and origin == record.origin or (ARGV[4] == '1' and (origin == '' or record.origin == ''))
local open = WAITING[record.state]
    or (record.state == 'running' and believed_for(KEYS[3], record.owner, clock(), tonumber(ARGV[7])) == 0)
local still_there = ARGV[5] == 'dead_lettered' and KEYS[6] and redis.call('HEXISTS', KEYS[6], ARGV[8]) == 1
if not same or not open or generation < record.generation or still_there then
    return {'fenced'}
end
local crashes = record.crashes
record.state, record.crashes, record.drains, record.contended = ARGV[5], 0, 0, 1
record.tries = tonumber(ARGV[9]) -- a replay is of the very copy that was dead-lettered
save_settled(KEYS[1], record, ARGV[6])
redis.call('ZREM', KEYS[2], id)
if ARGV[5] == 'dead_lettered' then
    record.crashes = crashes
    note_message(KEYS[4], KEYS[5], 'dead_lettered', id, record, '')
end
return {'settled'}
