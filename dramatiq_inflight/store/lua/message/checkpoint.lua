-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A run keeps how far it has come, for the next one.
--
-- KEYS  1 record   2 heartbeats   3 checkpoint
-- ARGV  1 me   2 heartbeat ttl ms   3 run   4 how long it is kept, ms
--       5 origin   6... field, value, ...
-- returns {answer, known}; answers: saved, fenced (another run has the message, or Redis does not know of this one)
--
-- I3: only the owner, by its run.

local me, run = ARGV[1], tonumber(ARGV[3])
local record = load(KEYS[1])
local known = beat(KEYS[2], me, clock(), tonumber(ARGV[2]))
if not record or not is_run(record, me, run, ARGV[5]) then
    return {'fenced', known}
end
for i = 6, #ARGV, 2 do
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[3], 'at', clock())
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'saved', known}
