-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- What was set aside was enqueued anew by an operator, and need not be kept. A record of the message, if there is one,
-- is about the new enqueue by now.
--
-- KEYS  1 aside   2 history   3 counts
-- ARGV  1 message id
-- returns 1, or 0 if it was not there any more

local dropped = redis.call('HDEL', KEYS[1], ARGV[1])
if dropped == 1 then
    note(KEYS[2], KEYS[3], 'requeued', 'requeued', 'message', ARGV[1])
end
return dropped
