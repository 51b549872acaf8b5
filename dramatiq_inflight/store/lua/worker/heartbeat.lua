-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation proves that it lives. One key, so that it works while a cluster moves slots.
--
--@ keys  heartbeats
--@ args  me ttl:ms kind
--
--    kind: 'alive'; 'draining': it shuts down; or 'attested': another process sees it live, and beats on its behalf
--
-- returns 1; or 0 if it had been declared dead, or has lost a message; or -1 if Redis does not know it
--
-- I9: Redis's clock alone decides.

local known = beat_as(heartbeats, me, clock(), ttl, kind == 'attested')
if kind == 'draining' and known >= 0 then
    redis.call('ZADD', heartbeats, MARK, DRAINING .. me)
end
return known
