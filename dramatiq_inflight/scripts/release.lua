-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message has failed, and the broker holds what comes next: its retry, or its dead letter.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run (0: not known)   5 '1': another copy was met   6 fence ttl ms
--       7 '1': its copy is consumed; '0': it never ran here, and whatever copy there is may run
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
if record.state == 'running' and record.owner == me and (run == 0 or run == record.run) then
    if ARGV[5] == '1' then
        record.contended = 1
    end
    record.state, record.done = 'released', tonumber(ARGV[7])
    save_settled(KEYS[1], record, ARGV[6])
    redis.call('ZREM', KEYS[2], id)
    return {'released', known}
end
if record.owner ~= me then
    redis.call('ZREM', KEYS[2], id)
end
return {'fenced', known}
