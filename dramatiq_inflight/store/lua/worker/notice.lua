-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer has found an incarnation dead: it is noted once.
--
-- KEYS  1 heartbeats   2 incarnation:<dead>   3 history   4 counts
-- ARGV  1 the dead incarnation   2 heartbeat ttl ms   3 why
-- returns 1, or 0 if it is back, or has left, or that is noted already

local now = clock()
if lives_for(KEYS[1], ARGV[1], now, tonumber(ARGV[2])) ~= 0
    or redis.call('HSETNX', KEYS[2], 'noticed', now) == 0 then
    return 0
end
note_worker(KEYS[3], KEYS[4], 'died', ARGV[1], KEYS[2], 'why', ARGV[3])
return 1
