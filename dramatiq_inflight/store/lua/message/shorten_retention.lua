-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The broker has been told of some messages that were finished before: they are remembered for a short while only,
-- unless another copy may be under way. Not forgotten at once: what was sent may not have arrived, and a broker notices
-- a lost connection after two of its heartbeats, or three.
--
--@ rows  record_key | run:int remember:ms
--
--    remember: for how long it is remembered yet
--
-- returns how many are forgotten then
--
-- I1: a record that is about something else by now stays as it is.

local forgotten = 0
for _, row in ipairs(rows) do
    local record = load(row.record_key)
    if record and SETTLED[record.state] and record.run == row.run
        and record.generation <= 1 and record.contended == 0 then
        redis.call('PEXPIRE', row.record_key, row.remember)
        forgotten = forgotten + 1
    end
end
return forgotten
