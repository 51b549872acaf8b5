-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation is dead beyond doubt: somebody has seen it.
--
--@ keys  heartbeats incarnation history counts [place]
--@ args  dead cause:int
--
--    place: the incarnations in its place
--    cause: of its death, as far as is known: a number of store/cause.py
--
-- returns 1, or 0 if it is known already, or has left or been reaped meanwhile

local deadline = tonumber(redis.call('ZSCORE', heartbeats, dead) or -1)
if deadline < 0 and redis.call('EXISTS', incarnation) == 0 then
    if place then
        redis.call('SREM', place, dead) -- nothing is left of it but this
    end
    return 0
end
local doubted = redis.call('ZREM', heartbeats, UNTIL .. dead) == 1
if deadline >= 0 and deadline < PROVEN and not doubted then
    return 0
end
prove_death(heartbeats, incarnation, history, counts, dead, clock(), cause)
return 1
