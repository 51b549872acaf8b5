-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer could not enqueue the copies of what it had claimed: it lets go of them, so that each waits by itself.
--
-- KEYS  1 waiting   2... records
-- ARGV  1 me   2 first wait ms (doubles with every try)   3 longest wait ms
--       4... message id, generation, and why: refused (this very message), away (the broker is), left_over (its
--       recoverer shuts down in the middle), or untried, ...; the last two are due at once, for anybody
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
for i = 2, #KEYS do
    local at = 4 + 3 * (i - 2)
    local id, generation = ARGV[at], tonumber(ARGV[at + 1])
    local record = load(KEYS[i])
    results[i - 1] = 'fenced'
    if record and record.state == 'recovering' and record.owner == ARGV[1] and record.generation == generation then
        local payload, wait = payload_of(KEYS[i], record), 0
        if ARGV[at + 2] == 'refused' then
            wait = wait_of(record, tonumber(ARGV[2]), tonumber(ARGV[3]))
        elseif ARGV[at + 2] == 'away' then
            wait = tonumber(ARGV[2]) -- should it be the message after all, others are tried before it
        end
        if ARGV[at + 2] ~= 'untried' then
            record.tries = record.tries + 1
        end
        record.owner, record.deaths, record.now = '', 0, now
        save_waiting(KEYS[i], KEYS[1], id, record, payload, now + wait)
        results[i - 1] = 'refused'
    end
end
return results
