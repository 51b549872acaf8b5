-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Note that a message that runs here has not moved for too long.
--
-- KEYS  1 record   2 heartbeats   3 history   4 counts
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run   5 for how long it has not, ms   6 origin
-- returns {answer, known}; answers: noted, fenced
--
-- I3: only of the owner, by its run.

local record = load(KEYS[1])
local known = beat(KEYS[2], ARGV[1], clock(), tonumber(ARGV[2]))
if not record or not is_run(record, ARGV[1], tonumber(ARGV[4]), ARGV[6]) then
    return {'fenced', known}
end
note_message(KEYS[3], KEYS[4], 'stalled', ARGV[3], record, ARGV[1], 'after', ARGV[5])
return {'noted', known}
