-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation proves that it lives. One key, so that it works while a cluster moves slots.
--
-- KEYS  1 heartbeats
-- ARGV  1 me   2 heartbeat ttl ms   3 'alive'; 'draining': it shuts down; or 'attested': another process sees it live,
--       and beats on its behalf
-- returns 1; or 0 if it had been declared dead, or has lost a message; or -1 if Redis does not know it
--
-- I9: Redis's clock alone decides.

local known = beat_as(KEYS[1], ARGV[1], clock(), tonumber(ARGV[2]), ARGV[3] == 'attested')
if ARGV[3] == 'draining' and known >= 0 then
    redis.call('ZADD', KEYS[1], MARK, DRAINING .. ARGV[1])
end
return known
