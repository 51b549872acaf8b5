-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer could not enqueue the copies of what it had claimed: it lets go of them, so that each waits by itself.
--
--@ keys  waiting
--@ args  me first_wait:ms longest_wait:ms
--@ rows  record_key | id generation:int why
--
--    first_wait: doubles with every try
--    why: refused (this very message), away (the broker is), left_over (its recoverer shuts down in the middle), or
--      untried; the last two are due at once, for anybody
--
-- returns for each record: refused, or fenced (it is not ours any more: the copy was started, or claimed)
--
-- It stays on the list of what the dead worker ran: that worker is not forgotten before all that it ran is put back.
--
-- An enqueue that failed may have arrived: the broker took the copy, then the connection broke before its answer. So
-- whatever was tried counts as a try, and the next copy has another number. Else the next copy would be taken for a
-- replay once the first was dead-lettered.
--
-- I2: the payload stays, with a deadline.

local now = clock()
local results = {}
for i, row in ipairs(rows) do
    local record = load(row.record_key)
    results[i] = 'fenced'
    if is_claim(record, me, row.generation) then
        local payload, wait = payload_of(row.record_key, record), 0
        if row.why == 'refused' then
            wait = wait_of(record, first_wait, longest_wait)
        elseif row.why == 'away' then
            wait = first_wait -- should it be the message after all, others are tried before it
        end
        if row.why ~= 'untried' then
            record.tries = record.tries + 1
        end
        record.owner, record.deaths, record.now = '', 0, now
        save_waiting(row.record_key, waiting, row.id, record, payload, now + wait)
        results[i] = 'refused'
    end
end
return results
