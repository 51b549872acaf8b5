-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer takes orphans, to enqueue a copy of each: what a dead incarnation ran, what waited past its deadline,
-- or what it had claimed before without getting to the end.
--
-- KEYS  1 heartbeats   2 waiting   3 running:<dead>   4 aside   5 incarnation:<dead>
--       6 history   7 counts   8... records
-- ARGV  1 me   2 heartbeat ttl ms   3 the dead incarnation ('' for records past their deadline)
--       4 how long the claim holds, ms   5 fence ttl ms   6 '1': also what I have claimed, and did not bring to an end
--       7... message ids
-- returns for each record {answer, run, generation, crashes, limit, started ms, first ms, drains, origin, queue, actor,
--       payload}, or {answer} alone where nothing was claimed; answers: claimed, poisoned, settled, busy, alive, gone,
--       aside (the record cannot be read)
--
-- An incarnation that was asked and is silent is dead for these messages only, and unless that would convict one: then
-- its heartbeat decides.
--
-- I1: checked and changed in one script. I2: the payload stays. I5: here, and only here, the generation grows.
-- I7: the verdict is in the record before any copy can be fetched.

local me, ttl, dead = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = clock()
local results = {}
local alive = dead ~= '' and believed_for(KEYS[1], dead, now, ttl) > 0
local silent = alive and is_silent(KEYS[1], KEYS[5], dead, now, ttl)

local function claimable(record, id)
    if CLAIMED[record.state] and record.owner == me and ARGV[6] == '1' then
        return 'claimed'
    elseif CLAIMED[record.state] and believed_for(KEYS[1], record.owner, now, ttl) == 0 then
        return 'claimed'
    elseif record.state == 'running' then
        if dead == '' or record.owner ~= dead then
            return 'gone'
        end
        return alive and (not silent or would_be_convicted(record)) and 'alive' or 'claimed'
    elseif WAITING[record.state] then
        local deadline = redis.call('ZSCORE', KEYS[2], id)
        if not deadline or tonumber(deadline) <= now then
            return 'claimed'
        end
        return CLAIMED[record.state] and 'busy' or 'gone'
    end
    return 'gone'
end

for i = 8, #KEYS do
    local key, id = KEYS[i], ARGV[i - 1]
    local record = load(key)
    local answer = record and claimable(record, id) or 'gone'
    if record and record.state == 'damaged' then
        redis.call('HSET', KEYS[4], id, redis.call('GET', key))
        redis.call('DEL', key)
        record, answer = nil, 'aside'
        note(KEYS[6], KEYS[7], 'set_aside', 'set_aside', 'message', id, 'worker', dead)
    end
    if answer == 'claimed' and record.state == 'running' and record.done == 1 then
        record.state, record.contended = 'completed', 1
        save_settled(key, record, ARGV[5])
        answer = 'settled'
    end
    if answer == 'claimed' then
        local again = CLAIMED[record.state]
        local payload = payload_of(key, record)
        local condemned = record.state == 'condemned' or record.state == 'poisoned'
        if record.state == 'running' then
            condemned = charge(record, was_draining(KEYS[1], dead))
            if silent then
                doubt(KEYS[1], dead)
            end
        end
        record.state, record.owner, record.contended, record.now = condemned and 'condemned' or 'recovering', me, 1, now
        record.generation, record.copy = record.generation + 1, '-'
        save_waiting(key, KEYS[2], id, record, payload, now + tonumber(ARGV[4]))
        if not again then
            local event = dead == '' and 'copied_again' or condemned and 'poison' or 'recovered'
            note_message(KEYS[6], KEYS[7], event, id, record, dead, 'by', me, 'how', silent and 'silent' or 'copied')
        end
        results[#results + 1] = orphan_of(record, payload)
    else
        if answer == 'gone' or answer == 'settled' or answer == 'aside' then
            redis.call('ZREM', KEYS[3], id)
            if not record or not WAITING[record.state] then
                redis.call('ZREM', KEYS[2], id)
            end
        end
        results[#results + 1] = {answer}
    end
end
return results
