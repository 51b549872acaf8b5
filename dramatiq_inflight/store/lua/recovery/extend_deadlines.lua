-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Records past their deadline whose copy the broker was asked about.
--
--@ keys  waiting
--@ args  wait:ms fence_ttl:ms
--@ rows  record_key | id copy what
--
--    wait: by how much
--    copy: the one that was asked about
--    what: what the broker said: held, consumed, or maybe (it has copies in that queue, and does not tell which)
--
-- returns for each record: postponed (the broker has the copy, or may have), settled (it was consumed without a start),
--       due (the broker may have had it for so long that another copy is to be made), later (not looked at), or gone
--
-- What may be there is waited for, twice as long each time: the queue may be long. Not for ever: it may never empty.
-- I2: a payload is dropped only where the broker said that nothing is left to run.

local now = clock()
local results = {}
for _, row in ipairs(rows) do
    local record_key, id = row.record_key, row.id
    local record = load(record_key)
    local result = 'gone'
    if not record then
        redis.call('ZREM', waiting, id)
    elseif record.state == 'requeued' and record.copy == row.copy then
        if row.what == 'maybe' then
            if wait_of(record, wait, LONGEST_WAIT) >= LONGEST_WAIT then
                result = 'due'
            elseif is_too_much(record_key) then
                result = 'later'
            else
                local payload = payload_of(record_key, record)
                record.tries, record.now = record.tries + 1, now
                save_waiting(record_key, waiting, id, record, payload,
                    now + wait_of(record, wait, LONGEST_WAIT))
                result = 'postponed'
            end
        elseif row.what == 'held' then
            wait_longer(record_key, waiting, id, now + wait, wait)
            result = 'postponed'
        else
            -- What was to be rejected was: its worker could not say so.
            local state = record.dead_letter == 1 and 'dead_lettered' or 'completed'
            close(record_key, waiting, id, record, state, fence_ttl)
            result = 'settled'
        end
    end
    results[#results + 1] = result
end
return results
