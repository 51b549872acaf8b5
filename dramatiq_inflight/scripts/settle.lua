-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The broker is rid of a copy that never ran: it was dead-lettered as poison, was too old, or has no actor here.
--
-- KEYS  1 record   2 waiting
-- ARGV  1 message id   2 generation of the copy   3 origin   4 '1': the copy may be a redelivery
--       5 the state it ends in: completed or dead_lettered   6 fence ttl ms
-- returns {answer}; answers: settled, fenced, gone
--
-- I7: a poisoned record becomes dead_lettered only now, after the nack; a replay then starts with a clean count.

local id, generation, origin = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local record = load(KEYS[1])
if not record then
    return {'gone'}
end
local same = ARGV[4] == '1' or (origin ~= '' and origin == record.origin)
if not same or not WAITING[record.state] or generation < record.generation then
    return {'fenced'}
end
record.state, record.crashes, record.drains, record.contended = ARGV[5], 0, 0, 1
save_settled(KEYS[1], record, ARGV[6])
redis.call('ZREM', KEYS[2], id)
return {'settled'}
