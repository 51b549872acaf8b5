-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- How many messages have ended in each queue since this process said so last.
--
--@ keys  throughput
--@ rows  | queue ended:int backlog:int
--
--    backlog: how many messages are to be run, now or later; -1: nobody has looked
--
-- returns 1 if this is the first report of the present minute: then a second one is to have the backlogs
--
-- A field for each minute of the last hour, and one for all time. A value is JSON: by queue, how many have ended, and
-- the backlog at the beginning. No field for each queue: those of an hour could not be read in a moment.

local MINUTES_KEPT = 60
local minute = math.floor(clock() / 60000)
local found = redis.call('HMGET', throughput, minute, 'all')
local this, all = cjson.decode(found[1] or '{}'), cjson.decode(found[2] or '{}')
for _, row in ipairs(rows) do
    local counted = this[row.queue] or {0, -1}
    this[row.queue] = {counted[1] + row.ended, math.max(counted[2], row.backlog)}
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
