-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message has failed, and the broker holds what comes next: its retry, or its dead letter.
--
--@ keys  record_key running heartbeats history counts
--@ args  me ttl:ms id run:int contended:flag fence_ttl:ms state origin why traceback
--
--    contended: another copy was met
--    state: the state it ends in: released (its copy is consumed), let_go (it never ran here, and whatever copy there
--      is may run) or dead_lettered (if its copy is met again, somebody has replayed it, and it runs)
--    origin: of the copy; '': not known
--    why, traceback: the error, if it was dead-lettered
--
-- returns {answer, known}; answers: released, fenced, gone
--
-- I3: only the owner, by its run, releases. I5: the generation stays.

local now = clock()
local record = load(record_key)
local known = beat(heartbeats, me, now, ttl)

if record and is_run(record, me, run, origin) then
    if contended then
        record.contended = 1
    end
    record.state = state
    save_settled(record_key, record, fence_ttl)
    redis.call('ZREM', running, id)
    if state == 'dead_lettered' then
        note_message(history, counts, 'dead_lettered', id, record, me, 'why', why, 'traceback', traceback)
    end
    return {'released', known}
end
if record then
    note_fenced(history, counts, id, record, me, run, 'failed')
end
return {refuse_end(record, running, me, id), known}
