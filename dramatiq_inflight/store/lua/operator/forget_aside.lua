-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- What was set aside was enqueued anew by an operator, and need not be kept. A record of the message, if there is one,
-- is about the new enqueue by now.
--
--@ keys  aside history counts
--@ args  id
--
-- returns 1, or 0 if it was not there any more

local dropped = redis.call('HDEL', aside, id)
if dropped == 1 then
    note(history, counts, 'requeued', 'requeued', 'message', id)
end
return dropped
