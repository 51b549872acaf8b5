-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A dead incarnation of which nothing is left to recover is forgotten.
--
-- KEYS  1 heartbeats   2 incarnation:<dead>   3 running:<dead>   4 wake:<dead>   5 asked:<dead>
--       6 (if any) the incarnations in the same place
-- ARGV  1 the dead incarnation   2 heartbeat ttl ms
-- returns 1, or 0 if it is back, or something of it is still to be recovered

if believed_for(KEYS[1], ARGV[1], clock(), tonumber(ARGV[2])) > 0 or redis.call('ZCARD', KEYS[3]) > 0 then
    return 0
end
forget(KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if KEYS[6] then
    redis.call('SREM', KEYS[6], ARGV[1])
end
return 1
