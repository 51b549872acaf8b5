-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Records past their deadline whose copy the broker was asked about.
--
-- KEYS  1 waiting   2... records
-- ARGV  1 by how much, ms   2 fence ttl ms   3... message id, the copy that was asked about, and what the broker said:
--       held, consumed, or maybe (it has copies in that queue, and does not tell which), ...
-- returns for each record: postponed (the broker has the copy, or may have), settled (it was consumed without a start),
--       due (the broker may have had it for so long that another copy is to be made), later (not looked at), or gone
--
-- What may be there is waited for, twice as long each time: the queue may be long. Not for ever: it may never empty.
-- I2: a payload is dropped only where the broker said that nothing is left to run.

local now = clock()
local results = {}
for i = 2, #KEYS do
    local at = 3 + 3 * (i - 2)
    local id, copy, what = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local record = load(KEYS[i])
    local result = 'gone'
    if not record then
        redis.call('ZREM', KEYS[1], id)
    elseif record.state == 'requeued' and record.copy == copy then
        if what == 'maybe' then
            if wait_of(record, tonumber(ARGV[1]), LONGEST_WAIT) >= LONGEST_WAIT then
                result = 'due'
            elseif is_too_much(KEYS[i]) then
                result = 'later'
            else
                local payload = payload_of(KEYS[i], record)
                record.tries, record.now = record.tries + 1, now
                save_waiting(KEYS[i], KEYS[1], id, record, payload,
                    now + wait_of(record, tonumber(ARGV[1]), LONGEST_WAIT))
                result = 'postponed'
            end
        elseif what == 'held' then
            redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), id)
            redis.call('PEXPIRE', KEYS[i], string.format('%d', tonumber(ARGV[1]) + WAITING_TTL))
            result = 'postponed'
        else
            -- What was to be rejected was: its worker could not say so.
            record.state = record.dead_letter == 1 and 'dead_lettered' or 'completed'
            save_settled(KEYS[i], record, ARGV[2])
            redis.call('ZREM', KEYS[1], id)
            result = 'settled'
        end
    end
    results[#results + 1] = result
end
return results
