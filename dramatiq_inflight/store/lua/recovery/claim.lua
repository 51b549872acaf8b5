-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A recoverer takes orphans, to enqueue a copy of each: what a dead incarnation ran, what waited past its deadline,
-- or what it had claimed before without getting to the end.
--
--@ keys  heartbeats waiting running aside history counts
--@ args  me ttl:ms dead hold:ms leftovers:flag deadly_after:int fence_ttl:ms
--@ rows  record_key | id
--
--    running, dead: of the dead incarnation; '' for records past their deadline
--    hold: how long the claim holds
--    leftovers: also what I have claimed, and did not bring to an end
--    deadly_after: after how many deaths of recoverers a payload is set aside
--
-- returns for each record {answer, run, generation, crashes, limit, started ms, first ms, drains, tries, origin, queue,
--       actor, causes, payload}, or {answer} alone where nothing was claimed; answers: claimed, poisoned, alive, gone,
--       busy (another recoverer has it), mine (I have claimed it, and may be at it), waits (it could not be enqueued;
--       its deadline comes), later (not looked at), aside (the record cannot be read), deadly (its payload was set
--       aside: whoever had it in hand has died)
--
-- What would be convicted by a death of which nothing is known but that its connections are closed stays `alive` until
-- its heartbeat would have expired.
--
-- What a recoverer had in hand when it died may have killed it, as soon as it was decoded. So that is taken after
-- everything else, and one at a time, what has seen the fewest deaths first: the next death names it. A shutdown is no
-- such death; and what was put back, or could not be enqueued, has killed nobody.
--
-- I1: checked and changed in one script. I2: the record has the payload, for its old copy is stale from now on. I5: the
-- generation grows where a run is given up, and nowhere else: a copy that is still queued is not made stale by another
-- one, and whichever comes first runs.
-- I7: the verdict is in the record before any copy can be fetched.

local now = clock()
local results, suspects = {}, {}
local drained, cause = was_draining(heartbeats, dead), cause_of(heartbeats, dead)
local doubted = dead ~= '' and doubted_for(heartbeats, dead, now) > 0
local believed -- how long the dead one still is, ms; asked only beside a record of it

-- Also, whether the recoverer that had it in hand has died, as far as is known, and not by a shutdown.
local function claimable(record, id)
    local deadline = WAITING[record.state] and redis.call('ZSCORE', waiting, id)
    local due = not deadline or tonumber(deadline) <= now
    if record.state == 'running' then
        if dead == '' or record.owner ~= dead then
            return 'gone'
        end
        believed = believed or believed_for(heartbeats, dead, now, ttl)
        return (believed > 0 or (doubted and is_convicted(record, drained))) and 'alive' or 'claimed'
    elseif record.state ~= 'recovering' then
        return record.state == 'requeued' and due and 'claimed' or 'gone'
    elseif record.owner == '' then
        return due and 'claimed' or 'waits'
    elseif record.owner == me then
        return (due or leftovers) and 'claimed' or 'mine'
    end
    local lives = lives_for(heartbeats, record.owner, now, ttl) or 0
    if not due and believed_for(heartbeats, record.owner, now, ttl) > 0 then
        return 'busy'
    end
    return 'claimed', lives == 0 and not was_draining(heartbeats, record.owner)
end

local function claim(row, record, died)
    local key, id, again = row.record_key, row.id, record.state == 'recovering'
    if died then
        record.deaths = record.deaths + 1
    elseif not again then
        record.deaths = 0
    end
    if record.deaths >= deadly_after then
        put_aside(key, waiting, running, aside, id)
        note_message(history, counts, 'set_aside', id, record, '', 'why', 'each process died that decoded it')
        return {'deadly'}
    end
    local payload = payload_to_keep(key, record)
    if payload == '' then
        -- Acknowledged: the broker has what comes next, if anything.
        record.state = 'let_go'
        save_settled(key, record, fence_ttl)
        redis.call('ZREM', running, id)
        redis.call('ZREM', waiting, id)
        return {'gone'}
    end
    if record.state == 'running' then
        record.dead_letter = charge(record, drained, cause) and 1 or 0
        give_up(record)
    end
    if record.owner ~= '' or not again then
        record.tries = record.tries + 1 -- its last try may have made a copy
    end
    take_claim(record, me, now)
    save_waiting(key, waiting, id, record, payload, now + hold)
    if not again then
        local event = dead == '' and 'copied_again' or record.dead_letter == 1 and 'poison' or 'recovered'
        note_message(history, counts, event, id, record, dead, 'by', me, 'how', 'copied')
    end
    return orphan_of(record, payload)
end

for i, row in ipairs(rows) do
    local key, id = row.record_key, row.id
    local record = load(key)
    local answer, died = 'gone', false
    if record and record.state == 'damaged' then
        answer = is_too_much(key) and 'later' or 'aside'
    elseif record then
        answer, died = claimable(record, id)
    end
    local result
    if answer == 'aside' then
        put_aside(key, waiting, running, aside, id)
        note(history, counts, 'set_aside', 'set_aside', 'message', id, 'worker', dead,
            'why', 'its record cannot be read')
    elseif answer == 'claimed' and record.state == 'recovering'
        and (record.deaths > 0 or (record.owner ~= '' and record.owner ~= me)) then
        suspects[#suspects + 1] = {i = i, record = record, died = died}
        answer = 'later'
    elseif answer == 'claimed' and is_too_much(key, record) then
        answer = 'later'
    elseif answer == 'claimed' then
        result = claim(row, record, died)
    end
    if answer == 'gone' then
        redis.call('ZREM', running, id)
        if not record or not WAITING[record.state] then
            redis.call('ZREM', waiting, id)
        end
    end
    results[i] = result or {answer}
end
if copied == 0 and #suspects > 0 then
    local first = suspects[1]
    for _, suspect in ipairs(suspects) do
        if suspect.record.deaths < first.record.deaths then
            first = suspect
        end
    end
    results[first.i] = claim(rows[first.i], first.record, first.died)
end
return results
