-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Note that a message that runs here has not moved for too long.
--
--@ keys  record_key heartbeats history counts
--@ args  me ttl:ms id run:int still:ms origin
--
--    still: for how long it has not
--
-- returns {answer, known}; answers: noted, fenced
--
-- I3: only of the owner, by its run.

local record = load(record_key)
local known = beat(heartbeats, me, clock(), ttl)
if not record or not is_run(record, me, run, origin) then
    return {'fenced', known}
end
note_message(history, counts, 'stalled', id, record, me, 'after', still)
return {'noted', known}
