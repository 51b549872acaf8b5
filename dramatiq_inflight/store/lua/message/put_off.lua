-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A copy was put off: another one, with an id that nobody will know, is with the broker, and this one is about to be
-- acknowledged. Whoever asks the broker about this one must not take the message for consumed.
--
-- KEYS  1 record   2 waiting   3 history   4 counts
-- ARGV  1 message id   2 broker's id of the copy that was put off   3 deadline of the new one, ms
--       4 me
-- returns 1, or 0 if the record is not about this copy
--
-- I2: the payload stays, with a later deadline.

local record = load(KEYS[1])
if record and record.state ~= 'damaged' then
    note_message(KEYS[3], KEYS[4], 'deferred', ARGV[1], record, ARGV[4])
end
if not record or ARGV[2] == '' or record.copy ~= ARGV[2] then
    return 0
end
local payload = payload_of(KEYS[1], record)
record.copy, record.contended = '', 1
if record.state == 'running' then
    save_running(KEYS[1], record, payload)
elseif WAITING[record.state] then
    record.now = clock()
    save_waiting(KEYS[1], KEYS[2], ARGV[1], record, payload, record.now + tonumber(ARGV[3]))
else
    return 0
end
return 1
