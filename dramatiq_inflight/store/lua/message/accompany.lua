-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message that had its process to itself is about to get company: from now on a death cannot convict it.
--
-- KEYS  1 record   2 heartbeats
-- ARGV  1 me   2 heartbeat ttl ms   3 run   4 origin
-- returns {answer, known}; answers: kept, fenced, gone
--
-- I3: only the owner, by its run, changes its record.

local record = load(KEYS[1])
local known = beat(KEYS[2], ARGV[1], clock(), tonumber(ARGV[2]))
if not record then
    return {'gone', known}
end
if not is_run(record, ARGV[1], tonumber(ARGV[3]), ARGV[4]) then
    return {'fenced', known}
end
local payload = payload_of(KEYS[1], record)
record.alone = 0
save_running(KEYS[1], record, payload)
return {'kept', known}
