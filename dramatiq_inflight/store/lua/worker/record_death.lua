-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer has found an incarnation dead: it is noted once.
--
--@ keys  heartbeats incarnation history counts
--@ args  dead ttl:ms
--
-- returns 1, or 0 if it is back, or has left, or that is noted already

local now = clock()
if lives_for(heartbeats, dead, now, ttl) ~= 0 then
    return 0
end
local cause = cause_of(heartbeats, dead)
if cause == EXPIRED and redis.call('HEXISTS', incarnation, 'left') == 1 then
    cause = LEFT
end
return note_death(heartbeats, incarnation, history, counts, dead, now, cause) and 1 or 0
