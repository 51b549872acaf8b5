-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A run keeps how far it has come, for the next one.
--
-- KEYS  1 record   2 heartbeats   3 checkpoint
-- ARGV  1 me   2 heartbeat ttl ms   3 run (0: not known, its start went unanswered)   4 how long it is kept, ms
--       5... field, value, ...
-- returns {answer, known}; answers: saved, fenced (another run has the message)
--
-- I3: only the owner, by its run. Where Redis has no record (it was away at the start, or has lost its data), no other
-- run is known.

local me, run = ARGV[1], tonumber(ARGV[3])
local record = load(KEYS[1])
local known = beat(KEYS[2], me, clock(), tonumber(ARGV[2]))
if record and record.state ~= 'damaged'
    and not (record.state == 'running' and record.owner == me and (run == 0 or run == record.run)) then
    return {'fenced', known}
end
for i = 5, #ARGV, 2 do
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[3], 'at', clock())
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'saved', known}
