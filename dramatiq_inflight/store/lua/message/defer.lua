-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A copy was put off: another one, with an id that nobody will know, is with the broker, and this one is about to be
-- acknowledged. Whoever asks the broker about this one must not take the message for consumed.
--
--@ keys  record_key waiting history counts
--@ args  id copy wait:ms me
--
--    copy: the broker's id of the one that was put off
--    wait: when the deadline of the new one is
--
-- returns 1, or 0 if the record is not about this copy, or the broker is done with that
--
-- I2: the record has the payload from now on, with a later deadline: the broker is about to forget it.

local record = load(record_key)
if record and record.state ~= 'damaged' then
    note_message(history, counts, 'deferred', id, record, me)
end
if not record or copy == '' or record.copy ~= copy then
    return 0
end
local payload = payload_to_keep(record_key, record)
if payload == '' then
    return 0 -- it was acknowledged by its run, which has ended
end
record.copy, record.contended = '', 1
if record.state == 'running' then
    save_running(record_key, record, payload)
elseif WAITING[record.state] then
    record.now = clock()
    save_waiting(record_key, waiting, id, record, payload, record.now + wait)
else
    return 0
end
return 1
