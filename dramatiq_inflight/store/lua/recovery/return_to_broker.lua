-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A dead worker's messages go back to the broker, which still holds them: its records let go of them.
-- The broker's own ack sets are moved afterwards; whoever fetches a copy before that takes over in start.lua.
--
--@ keys  heartbeats waiting running handed history counts
--@ args  dead ttl:ms first_deadline:ms fence_ttl:ms me
--@ rows  record_key | id held:flag
--
--    running: of the dead incarnation
--    held: the broker still holds its copy
--
-- returns {1, or 0 if the incarnation is back, or has left, and nothing was done; then for each record:
--       returned, settled, to_claim (it takes a copy), busy (another recoverer has it, or it waits for certainty),
--       gone, or later (not looked at: the payloads before it are enough for one script)}
--
-- I2: the payload stays, with a deadline. I5: the generation stays. I8: right without the lock.

local now = clock()
if lives_for(heartbeats, dead, now, ttl) ~= 0 then
    return {0}
end
-- Should it only have been frozen: what it has in memory was given to others.
redis.call('ZREMRANGEBYSCORE', handed, '-inf', now - fence_ttl)
redis.call('ZADD', handed, now, dead)
redis.call('PEXPIRE', handed, fence_ttl)

local results, drained, cause = {1}, was_draining(heartbeats, dead), cause_of(heartbeats, dead)
local doubted = doubted_for(heartbeats, dead, now) > 0

for _, row in ipairs(rows) do
    local record_key, id, held = row.record_key, row.id, row.held
    local record = load(record_key)
    local result
    if not record then
        result = 'gone'
    elseif record.state == 'recovering' and record.owner ~= ''
        and believed_for(heartbeats, record.owner, now, ttl) > 0 then
        result = 'busy'
    elseif record.state == 'recovering' then
        result = 'to_claim' -- a recoverer died in the middle of a claim
    elseif record.state == 'damaged' then
        result = 'to_claim'
    elseif record.state ~= 'running' or record.owner ~= dead then
        result = 'gone'
    elseif doubted and is_convicted(record, drained) then
        result = 'busy' -- until it is known for certain
    else
        local put_off = record.copy == ''
        local convicted = charge(record, drained, cause)
        if (convicted or record.tailored == 1) and (held or put_off) then
            result = 'to_claim' -- the claim charges it; a copy of it that was put off is stale then
        elseif not held then
            -- Put off under another copy, which runs; or acknowledged: the broker has what comes next, if anything.
            record.state = 'let_go'
            save_settled(record_key, record, fence_ttl)
            result = put_off and 'returned' or 'settled'
        elseif is_too_much(record_key) then
            result = 'later'
        else
            local payload = payload_of(record_key, record)
            record.state, record.owner, record.contended, record.now = 'requeued', '', 1, now
            save_waiting(record_key, waiting, id, record, payload, now + first_deadline)
            result = 'returned'
            note_message(history, counts, 'recovered', id, record, dead, 'by', me, 'how', 'handed back')
        end
    end
    if result ~= 'busy' and result ~= 'to_claim' and result ~= 'later' then
        redis.call('ZREM', running, id)
    end
    results[#results + 1] = result
end
return results
