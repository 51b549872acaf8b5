-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message has failed, and the broker holds what comes next: its retry, or its dead letter.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting   5 history   6 counts
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run   5 '1': another copy was met   6 fence ttl ms
--       7 the state it ends in: released (its copy is consumed), let_go (it never ran here, and whatever copy there is
--       may run) or dead_lettered (if its copy is met again, somebody has replayed it, and it runs)
--       8 origin of the copy ('': not known)
-- returns {answer, known}; answers: released, fenced, gone
--
-- I3: only the owner, by its run, releases. I5: the generation stays.

local me, ttl, id, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now = clock()
local record = load(KEYS[1])
local known = beat(KEYS[3], me, now, ttl)

if not record then
    redis.call('ZREM', KEYS[2], id)
    return {'gone', known}
end
if is_run(record, me, run, ARGV[8]) then
    if ARGV[5] == '1' then
        record.contended = 1
    end
    record.state = ARGV[7]
    save_settled(KEYS[1], record, ARGV[6])
    redis.call('ZREM', KEYS[2], id)
    return {'released', known}
end
if record.owner ~= me then
    redis.call('ZREM', KEYS[2], id)
end
if run ~= 0 and run ~= record.run then
    note_message(KEYS[5], KEYS[6], 'fenced', id, record, me, 'outcome', 'failed')
end
return {'fenced', known}
