-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer has enqueued the copies of what it had claimed.
--
--@ keys  waiting running
--@ args  me first_deadline:ms dead
--@ rows  record_key | id generation:int copy queue delay:ms
--
--    running: of the dead incarnation
--    first_deadline: doubles with every try, up to a day
--    copy: the broker's id of the copy; '' where it has none
--
-- returns for each record: requeued, poisoned, or fenced (it is not ours any more: the copy was started, or claimed)
--
-- I2: only now that the successor exists is the dead worker's claim to the payload given up.

local now = clock()
local results = {}
for _, row in ipairs(rows) do
    local record_key, id, delay = row.record_key, row.id, row.delay
    local record = load(record_key)
    local result = 'fenced'
    if is_claim(record, me, row.generation) then
        local payload = payload_of(record_key, record)
        result = record.dead_letter == 1 and 'poisoned' or 'requeued'
        record.state, record.owner, record.queue, record.now = 'requeued', '', row.queue, now
        -- A delayed copy gets another id when its time has come: the broker cannot be asked about it.
        record.copy, record.deaths = delay > 0 and '' or row.copy, 0
        save_waiting(record_key, waiting, id, record, payload,
            now + delay + wait_of(record, first_deadline, LONGEST_WAIT))
    end
    -- Not if the dead worker lives, and has it again; nor if it is still to be seen to.
    local listed = record and (WAITING[record.state] or record.owner == dead or record.state == 'damaged')
    if result ~= 'fenced' or not listed then
        redis.call('ZREM', running, id)
    end
    results[#results + 1] = result
end
return results
