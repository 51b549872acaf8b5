-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An incarnation proves that it lives. One key, so that it works while a cluster moves slots.
--
-- KEYS  1 heartbeats
-- ARGV  1 me   2 heartbeat ttl ms
-- returns 1, or 0 if it had been taken for dead, or Redis has lost it
--
-- I9: Redis's clock alone decides.

return (beat(KEYS[1], ARGV[1], clock(), tonumber(ARGV[2])))
