-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer has found an incarnation dead: it is noted once.
--
--@ keys  heartbeats incarnation history counts
--@ args  dead ttl:ms why
--
-- returns 1, or 0 if it is back, or has left, or that is noted already

local now = clock()
if lives_for(heartbeats, dead, now, ttl) ~= 0
    or redis.call('HSETNX', incarnation, 'noticed', now) == 0 then
    return 0
end
note_worker(history, counts, 'died', dead, incarnation, 'why', why)
return 1
