-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A worker has fetched a recovered copy, and has to wait before it may run it: it is not lost; nobody takes it back.
--
-- KEYS  1 record   2 waiting
-- ARGV  1 message id   2 generation of the copy   3 deadline, ms
-- returns 1, or 0 if the record does not wait for this copy

local record = load(KEYS[1])
if not record or record.state ~= 'requeued' or record.dead_letter == 1 or record.generation ~= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[2], clock() + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], string.format('%d', tonumber(ARGV[3]) + WAITING_TTL))
return 1
