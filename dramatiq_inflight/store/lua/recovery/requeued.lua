-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer has enqueued the copies of what it had claimed.
--
-- KEYS  1 waiting   2 running:<dead>   3... records
-- ARGV  1 me   2 first deadline ms (doubles with every try, up to a day)
--       3 the dead incarnation
--       4... message id, generation, broker's id of the copy ('' where it has none), its queue, its delay ms, ...
--       (five a record)
-- returns for each record: requeued, poisoned, or fenced (it is not ours any more: the copy was started, or claimed)
--
-- I2: only now that the successor exists is the dead worker's claim to the payload given up.

local me, first_deadline, dead = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = clock()
local results = {}
for i = 3, #KEYS do
    local at = 4 + 5 * (i - 3)
    local id, generation, copy, delay = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 4])
    local record = load(KEYS[i])
    local result = 'fenced'
    if record and record.state == 'recovering' and record.owner == me and record.generation == generation then
        local payload = payload_of(KEYS[i], record)
        result = record.dead_letter == 1 and 'poisoned' or 'requeued'
        record.state, record.owner, record.queue, record.now = 'requeued', '', ARGV[at + 3], now
        -- A delayed copy gets another id when its time has come: the broker cannot be asked about it.
        record.copy, record.deaths = delay > 0 and '' or copy, 0
        save_waiting(KEYS[i], KEYS[1], id, record, payload, now + delay + wait_of(record, first_deadline, LONGEST_WAIT))
    end
    -- Not if the dead worker lives, and has it again; nor if it is still to be seen to.
    local listed = record and (WAITING[record.state] or record.owner == dead or record.state == 'damaged')
    if result ~= 'fenced' or not listed then
        redis.call('ZREM', KEYS[2], id)
    end
    results[#results + 1] = result
end
return results
