-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- This process runs a message: make Redis say so again, where nobody else has started it.
-- For records that Redis lost or never got, and for a worker that was taken for dead and is back.
--
--@ keys  record_key running heartbeats waiting history counts [broker_acks broker_messages]
--@ args  me ttl:ms id run:int generation:int origin queue actor limit:limit copy started:ms crashes:int drains:int
--@ args  alone:bit tailored:bit payload asked:ms unacked:flag tries:int
--
--    broker_acks, broker_messages: as for start.lua
--    run: 0: not known
--    copy: the broker's id of the copy
--    started: 0: now
--    crashes, drains: before this run
--    alone: it has the process to itself
--    tailored: its recovery takes a copy
--    asked: when it was answered `again`; 0: it was not
--    unacked: its copy is not acknowledged yet
--    tries: the number of recovery's try that made the copy
--
-- returns {answer, known, run, generation, crashes, drains}; answers: kept, written, retaken, lost,
--       later (the record is about another enqueue of the message, which is not over: ours has none until then),
--       again (to be asked once more, with the payload and the number that stands in the place of the run)
--
-- I1, I3: what another worker owns stays as it is. I11: the process itself knows best what it runs. A mend may arrive
-- minutes after it was given up and sent again; the message may be over by then. So it writes only what it was told
-- seconds ago is missing.

local now = clock()
local record = load(record_key)
local known = beat(heartbeats, me, now, ttl)
local answer

-- Where the broker does not hold our copy, or cannot be asked here, the record is all there may be of the message.
local held = broker_acks
    and redis.call('SISMEMBER', broker_acks, copy) + redis.call('HEXISTS', broker_messages, copy) == 2
local is_all = unacked and copy ~= '' and not held

local since = now - asked
if since < 0 or since > 10000 then
    since = nil
end
local again = {'again', known, now, 0, 0, 0}

-- We were charged with a death, and are alive.
local function take_back()
    if run > 0 and record.crashes > crashes then
        local causes = {}
        for cause in string.gmatch(record.causes, '%S+ ') do
            causes[#causes + 1] = cause
        end
        table.remove(causes, #causes - (record.crashes - crashes) + 1) -- the next run may have crashed since
        record.causes = table.concat(causes)
        record.crashes = record.crashes - 1
    elseif run > 0 and record.drains > drains then
        record.drains = record.drains - 1
    else
        return false
    end
    return true
end

-- A start that was not recorded, of another enqueue than the record is about: nobody has taken that from us.
local before
if record and run == 0 and origin ~= '' and record.state ~= 'damaged' and record.origin ~= origin then
    if not SETTLED[record.state] then
        return {'later', known, 0, 0, 0, 0}
    end
    before, record = record, nil
end

if not record or record.state == 'damaged' then
    if not since then
        return again
    end
    record = {
        state = 'running', owner = me, run = math.max(run, 1), generation = generation,
        crashes = crashes, limit = limit,
        started = started > 0 and started or now,
        origin = origin, copy = copy, queue = queue, actor = actor,
        drains = drains, alone = alone, tailored = tailored, tries = tries,
    }
    if before then -- as start.lua has it
        record.run, record.generation = before.run + 1, math.max(record.generation, before.generation)
        record.contended = before.state == 'completed' and 0 or before.contended
        if before.state == 'released' or before.state == 'let_go' then
            record.crashes, record.drains, record.causes = before.crashes, before.drains, before.causes
        end
    end
    if is_all then
        forget_copy(record)
    end
    save_running(record_key, record, payload)
    answer = 'written'
elseif record.origin == origin and (is_run(record, me, run == 0 and record.run or run, origin)
    or is_retaken(record, me, run, origin, started)) then
    local admits, lost = record.alone == 1 and alone == 0, is_all and broker_acks and record.copy ~= ''
    if admits or lost then
        local kept = payload_of(record_key, record)
        if lost and kept == '' then
            if not since then
                return again
            end
            kept = payload -- the broker has lost it
        end
        if admits then
            record.alone = 0
        end
        if lost then
            forget_copy(record)
        end
        save_running(record_key, record, kept)
    end
    answer = 'kept'
elseif is_to_start(record) and record.origin == origin
    and (record.dead_letter == 0 or record.state == 'recovering') then
    -- Its copy has not started: ours goes on, and the copy will find it running.
    if not since then
        return again
    end
    take_back()
    if copy ~= record.copy and copy ~= '' then
        -- It was claimed, or put off, meanwhile: our copy was stale, and may be gone. Should we die, another is made.
        copy, record.tailored = '', 1
    end
    record.state, record.owner, record.run, record.contended, record.copy = 'running', me, record.run + 1, 1, copy
    record.alone, record.tries, record.dead_letter = alone, tries, 0
    save_running(record_key, record, payload)
    redis.call('ZREM', waiting, id)
    note_message(history, counts, 'retaken', id, record, me)
    answer = 'retaken'
else
    refuse_end(record, running, me, id)
    if record.owner ~= me and record.state == 'running' and record.run == run + 1 and record.origin == origin
        and take_back() then
        save_running(record_key, record, payload_of(record_key, record))
    end
    return {'lost', known, record.run, record.generation, record.crashes, record.drains}
end
redis.call('ZADD', running, record.started, id)
if known < 0 then
    appear(heartbeats, me, now, ttl) -- somebody has to judge us
end
return {answer, known, record.run, record.generation, record.crashes, record.drains}
