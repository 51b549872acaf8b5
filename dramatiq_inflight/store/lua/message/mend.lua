-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- This process runs a message: make Redis say so again, where nobody else has started it.
-- For records that Redis lost or never got, and for a worker that was taken for dead and is back.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting   5 history   6 counts
--       7, 8 (RedisBroker on this Redis only) the broker's ack set of this worker and queue, and its message hash
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run (0: not known)   5 generation   6 origin   7 queue   8 actor
--       9 limit   10 broker's id of the copy   11 started ms (0: now)   12 crashes, 13 drains (before this run)
--       14 '1': it has the process to itself   15 '1': its recovery takes a copy
--       16 payload   17 when it was answered `again`, ms; 0: it was not   18 '1': its copy is not acknowledged yet
--       19 the number of recovery's try that made the copy
-- returns {answer, known, run, generation, crashes, drains}; answers: kept, written, retaken, lost,
--       later (the record is about another enqueue of the message, which is not over: ours has none until then),
--       again (to be asked once more, with the payload and the number that stands in the place of the run)
--
-- I1, I3: what another worker owns stays as it is. I11: the process itself knows best what it runs. A mend may arrive
-- minutes after it was given up and sent again; the message may be over by then. So it writes only what it was told
-- seconds ago is missing.

local me, ttl, id, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now = clock()
local record = load(KEYS[1])
local known = beat(KEYS[3], me, now, ttl)
local copy = ARGV[10]
local answer

-- Where the broker does not hold our copy, or cannot be asked here, the record is all there may be of the message.
local held = KEYS[7] and redis.call('SISMEMBER', KEYS[7], copy) + redis.call('HEXISTS', KEYS[8], copy) == 2
local is_all = ARGV[18] == '1' and copy ~= '' and not held

local since = now - tonumber(ARGV[17])
if since < 0 or since > 10000 then
    since = nil
end
local again = {'again', known, now, 0, 0, 0}

-- We were charged with a death, and are alive.
local function take_back()
    if run > 0 and record.crashes > tonumber(ARGV[12]) then
        record.crashes = record.crashes - 1
    elseif run > 0 and record.drains > tonumber(ARGV[13]) then
        record.drains = record.drains - 1
    else
        return false
    end
    return true
end

-- A start that was not recorded, of another enqueue than the record is about: nobody has taken that from us.
local before
if record and run == 0 and ARGV[6] ~= '' and record.state ~= 'damaged' and record.origin ~= ARGV[6] then
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
        state = 'running', owner = me, run = math.max(run, 1), generation = tonumber(ARGV[5]),
        crashes = tonumber(ARGV[12]), limit = tonumber(ARGV[9]) or ARGV[9], contended = 0, forced = 0,
        started = tonumber(ARGV[11]) > 0 and tonumber(ARGV[11]) or now, first = 0,
        origin = ARGV[6], copy = copy, queue = ARGV[7], actor = ARGV[8],
        drains = tonumber(ARGV[13]), alone = tonumber(ARGV[14]), tailored = tonumber(ARGV[15]),
        tries = tonumber(ARGV[19]),
    }
    if before then -- as start.lua has it
        record.run, record.generation = before.run + 1, math.max(record.generation, before.generation)
        record.contended = before.state == 'completed' and 0 or before.contended
        if before.state == 'released' or before.state == 'let_go' then
            record.crashes, record.drains = before.crashes, before.drains
        end
    end
    if is_all then
        record.copy, record.tailored = '', 1
    end
    save_running(KEYS[1], record, ARGV[16])
    answer = 'written'
elseif record.origin == ARGV[6] and (is_run(record, me, run == 0 and record.run or run, ARGV[6])
    or is_retaken(record, me, run, ARGV[6], tonumber(ARGV[11]))) then
    local admits, lost = record.alone == 1 and ARGV[14] == '0', is_all and KEYS[7] and record.copy ~= ''
    if admits or lost then
        local payload = payload_of(KEYS[1], record)
        if admits then
            record.alone = 0
        end
        if lost then
            record.copy, record.tailored = '', 1
        end
        save_running(KEYS[1], record, payload)
    end
    answer = 'kept'
elseif is_to_start(record) and record.origin == ARGV[6]
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
    record.alone, record.tries, record.dead_letter = tonumber(ARGV[14]), tonumber(ARGV[19]), 0
    save_running(KEYS[1], record, ARGV[16])
    redis.call('ZREM', KEYS[4], id)
    note_message(KEYS[5], KEYS[6], 'retaken', id, record, me)
    answer = 'retaken'
else
    if record.owner ~= me then
        redis.call('ZREM', KEYS[2], id)
        if record.state == 'running' and record.run == run + 1 and record.origin == ARGV[6] and take_back() then
            save_running(KEYS[1], record, payload_of(KEYS[1], record))
        end
    end
    return {'lost', known, record.run, record.generation, record.crashes, record.drains}
end
redis.call('ZADD', KEYS[2], record.started, id)
if known < 0 then
    appear(KEYS[3], me, now, ttl) -- somebody has to judge us
end
return {answer, known, record.run, record.generation, record.crashes, record.drains}
