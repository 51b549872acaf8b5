-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A dead worker's messages go back to the broker, which still holds them: its records let go of them.
-- The broker's own ack sets are moved afterwards; whoever fetches a copy before that takes over in start.lua.
--
-- KEYS  1 heartbeats   2 waiting   3 running:<dead>   4 handed   5 history   6 counts   7... records
-- ARGV  1 the dead incarnation   2 heartbeat ttl ms   3 first deadline ms   4 fence ttl ms
--       5 me   6... message id, '1' if the broker still holds its copy, ... (a pair for each record)
-- returns {1, or 0 if the incarnation is back, or has left, and nothing was done; then for each record:
--       handed_back, settled, to_claim (it takes a copy), busy (another recoverer has it, or it waits for certainty),
--       gone, or later (not looked at: the payloads before it are enough for one script)}
--
-- I2: the payload stays, with a deadline. I5: the generation stays. I8: right without the lock.

local dead, ttl = ARGV[1], tonumber(ARGV[2])
local now = clock()
if lives_for(KEYS[1], dead, now, ttl) ~= 0 then
    return {0}
end
-- Should it only have been frozen: what it has in memory was given to others.
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[4]))
redis.call('ZADD', KEYS[4], now, dead)
redis.call('PEXPIRE', KEYS[4], ARGV[4])

local results, drained = {1}, was_draining(KEYS[1], dead)
local doubted = doubted_for(KEYS[1], dead, now) > 0

for i = 7, #KEYS do
    local id, held = ARGV[i + i - 8], ARGV[i + i - 7] == '1'
    local record = load(KEYS[i])
    local result
    if not record then
        result = 'gone'
    elseif record.state == 'recovering' and record.owner ~= ''
        and believed_for(KEYS[1], record.owner, now, ttl) > 0 then
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
        local convicted = charge(record, drained)
        if (convicted or record.tailored == 1) and (held or put_off) then
            result = 'to_claim' -- the claim charges it; a copy of it that was put off is stale then
        elseif not held then
            -- Put off under another copy, which runs; or acknowledged: the broker has what comes next, if anything.
            record.state = 'let_go'
            save_settled(KEYS[i], record, ARGV[4])
            result = put_off and 'handed_back' or 'settled'
        elseif is_too_much(KEYS[i]) then
            result = 'later'
        else
            local payload = payload_of(KEYS[i], record)
            record.state, record.owner, record.contended, record.now = 'requeued', '', 1, now
            save_waiting(KEYS[i], KEYS[2], id, record, payload, now + tonumber(ARGV[3]))
            result = 'handed_back'
            note_message(KEYS[5], KEYS[6], 'recovered', id, record, dead, 'by', ARGV[5], 'how', 'handed back')
        end
    end
    if result ~= 'busy' and result ~= 'to_claim' and result ~= 'later' then
        redis.call('ZREM', KEYS[3], id)
    end
    results[#results + 1] = result
end
return results
