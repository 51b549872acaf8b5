-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Somebody sees that the process of an incarnation lives, and beats on its behalf.
--
-- KEYS  1 heartbeats
-- ARGV  1 the incarnation   2 heartbeat ttl ms
-- returns 1, or 0 if Redis does not know it: then it has to say itself who it is
--
-- I9: Redis's clock alone decides. If it had been taken for dead, it is to hear of that with its own next beat.

local me, now, ttl = ARGV[1], clock(), tonumber(ARGV[2])
local deadline = redis.call('ZSCORE', KEYS[1], me)
if not deadline then
    return 0
end
beat(KEYS[1], me, now, ttl)
if not is_trusted(deadline, now) then
    doubt(KEYS[1], me)
end
return 1
