-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation is dead beyond doubt: somebody has seen it.
--
-- KEYS  1 heartbeats   2 incarnation:<dead>   3 history   4 counts
--       5 (if any) the incarnations in its place
-- ARGV  1 the dead incarnation   2 what proves it
-- returns 1, or 0 if it is known already, or has left or been reaped meanwhile

local deadline = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1)
if deadline < 0 and redis.call('EXISTS', KEYS[2]) == 0 then
    if KEYS[5] then
        redis.call('SREM', KEYS[5], ARGV[1]) -- nothing is left of it but this
    end
    return 0
end
local doubted = redis.call('ZREM', KEYS[1], UNTIL .. ARGV[1]) == 1
if deadline >= 0 and deadline < PROVEN and not doubted then
    return 0
end
record_death(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], clock(), ARGV[2])
return 1
