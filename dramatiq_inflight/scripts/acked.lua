-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The broker has been told of some messages that were finished before: nothing has to be remembered of them, unless
-- another copy may be under way.
--
-- KEYS  the records
-- ARGV  the run of each
-- returns how many were forgotten
--
-- I1: a record that is about something else by now stays as it is.

local forgotten = 0
for i, key in ipairs(KEYS) do
    local record = load(key)
    if record and SETTLED[record.state] and record.run == tonumber(ARGV[i])
        and record.generation <= 1 and record.contended == 0 then
        redis.call('DEL', key)
        forgotten = forgotten + 1
    end
end
return forgotten
