-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Which messages have ended in each queue since this process said so last: how many, how many of them failed, and how
-- long all of them ran.
--
--@ keys  throughput
--@ rows  | queue ended:int failed:int ms:int backlog:int
--
--    backlog: how many messages are to be run, now or later; -1: nobody has looked
--
-- returns 1 if this is the first report of the present minute: then a second one is to have the backlogs
--
-- A field for each minute of the last hour, and one for all time. A value is JSON: by queue, how many have ended, the
-- backlog at the beginning, how many failed, and the milliseconds of all; for all time, how many have ended. No field
-- for each queue: those of an hour could not be read in a moment.

local MINUTES_KEPT = 60
local minute = math.floor(clock() / 60000)
local found = redis.call('HMGET', throughput, minute, 'all')
local this, all = cjson.decode(found[1] or '{}'), cjson.decode(found[2] or '{}')
for _, row in ipairs(rows) do
    local counted = this[row.queue] or {0, -1, 0, 0}
    local backlog = math.max(counted[2], row.backlog)
    this[row.queue] = {counted[1] + row.ended, backlog, counted[3] + row.failed, counted[4] + row.ms}
    all[row.queue] = (all[row.queue] or 0) + row.ended
end
redis.call('HSET', throughput, minute, cjson.encode(this), 'all', cjson.encode(all))
if found[1] then
    return 0
end
for _, field in ipairs(redis.call('HKEYS', throughput)) do
    if field ~= 'all' and tonumber(field) <= minute - MINUTES_KEPT then
        redis.call('HDEL', throughput, field)
    end
end
redis.call('PEXPIRE', throughput, HISTORY_TTL)
return 1
