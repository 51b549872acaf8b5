-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A worker is about to run a copy of a message: may it?
--
--@ keys  record_key running heartbeats waiting handed history counts [broker_acks broker_messages]
--@ args  me ttl:ms id generation:int origin redelivered:flag here queue actor limit:limit copy payload
--@ args  duplicate:flag forgotten:flag alone:maybe tailored:bit condemned:flag enqueued_by:ms tries:int due:flag
--
--    broker_acks, broker_messages (RedisBroker on this Redis only): the ack set of this worker and queue, and its
--      messages
--    generation, copy: of the copy, and the broker's id of it
--    redelivered: the copy may be a redelivery, whatever its origin
--    here: what this process knows of the id: 'no', 'running', 'ended' (its outcome is still to be written), or
--      'handed_back' (it stopped and was enqueued again, and its record is still to be let go)
--    payload: '': as the broker has it, where it is left
--    duplicate: the copy was put off as a duplicate of its origin before
--    forgotten: Redis has lost what it knew of this incarnation before, or may have
--    alone: it has the process to itself, or company; nil: that was not seen to yet
--    tailored: its recovery takes a copy
--    condemned: it carries a verdict, and the broker has delivered it before
--    enqueued_by: when the run that has enqueued it started; 0: none has. The record of a retry may be gone
--    tries: the number of recovery's try that made the copy; 0: none did
--    due: the heartbeat is to be renewed
--
-- returns {answer, known, wait ms, run, generation, crashes, started ms, first ms, drains, owner}: of a duplicate, who
--       runs it, of one that was taken over or claimed, whose death it was; else ''.
--       Or {'payload'}: the broker does not have it, to be asked again with it
--       Or started ms alone: its first run, by the short way, which did not renew the heartbeat
-- answers:
--       run, stale, completed, superseded, ending, poisoned, elsewhere, duplicate, waiting,
--       last_chance (to be asked again when `alone` is known), claimed (its owner is dead: a copy is to be enqueued),
--       convicted (a copy is to be dead-lettered)
--
-- I1: one script checks and changes. I2: the payload is left to the broker as long as that keeps this very copy.
-- I4: a copy older than its record is stale. I5: a take-over keeps the generation. I7: a poison verdict holds until the
-- broker has dead-lettered a copy; if it delivers that again, it has not.

-- The short way: nobody knows the message, its delivery is ours, we are believed to live, and our heartbeat need not be
-- renewed. All else goes the long way, which would write the very same record here.
if not due and here == 'no' then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local deadline = redis.call('ZSCORE', heartbeats, me)
    local trusted = deadline and tonumber(deadline) > now
    if trusted and (not broker_acks or (redis.call('SISMEMBER', broker_acks, copy) == 1
        and redis.call('HEXISTS', broker_messages, copy) == 1)) then
        local started = math.max(now, enqueued_by + 1)
        local head = cjson.encode({
            'running', me, 1, generation, 0, limit, 0, 0, started, 0, origin, copy, queue, actor,
            0, alone and 1 or 0, tailored, tries, 0, 0, broker_messages or '',
        })
        if redis.call('SET', record_key, head .. '\n' .. (broker_acks and '' or payload), 'NX') then
            redis.call('ZADD', running, started, id)
            return started
        end
    end
end
--@ common

local owner = ''
local now = clock()
local record = load(record_key)
if record and record.state == 'damaged' then
    record = nil -- the copy at hand is whole
end
local held, stored = 1, 1
if broker_acks then
    held = redis.call('SISMEMBER', broker_acks, copy)
    stored = redis.call('HEXISTS', broker_messages, copy)
    if payload == '' and stored == 0 then
        return {'payload'} -- nothing is changed: what this incarnation does next is as if it had not asked
    end
end
local given_away = held == 0 and redis.call('ZSCORE', handed, me)
local known = beat(heartbeats, me, now, ttl)

local function answer(name, wait)
    local r = record or {run = 0, generation = generation, crashes = 0, started = 0, first = 0, drains = 0}
    return {name, known, wait or 0, r.run, r.generation, r.crashes, r.started, r.first, r.drains, owner}
end

-- The record names us as its owner from now on: somebody has to judge us.
local function own()
    if known < 0 then
        appear(heartbeats, me, now, ttl)
    end
end

local function run(crashes, drains, contended)
    if here ~= 'no' then
        -- Its run here is not over, and Redis does not know of it yet, or not any more; or the next beat takes it back.
        owner = ''
        return answer('waiting', 250)
    end
    local before = record
    if alone == nil and is_last_chance(crashes, limit) then
        if before and before.state == 'running' and before.alone == 1 then
            -- An earlier try of ours to start it did not come about, and others may be inside by now.
            before.alone = 0
            save_running(record_key, before, payload_of(record_key, before))
        end
        return answer('last_chance')
    end
    local kept_generation = generation
    if before and copy ~= '' then
        -- Where the broker has ids, a generation never falls: what is older than any copy of ours stays stale.
        kept_generation = math.max(generation, before.generation)
    end
    record = {
        state = 'running', owner = me, run = (before and before.run or 0) + 1,
        generation = kept_generation, crashes = crashes, limit = limit, contended = contended,
        started = next_start(before, now, enqueued_by), first = 0, origin = origin, copy = copy, queue = queue,
        actor = actor,
        drains = drains, causes = before and before.causes,
        alone = alone and 1 or 0, tailored = tailored, tries = tries,
        kept_in = stored == 1 and broker_messages or '',
    }
    if stored == 0 then
        -- The broker has forgotten it: another delivery of it was acknowledged here, or it has lost its data. Should we
        -- die, a copy is made.
        forget_copy(record)
    end
    if before and not SETTLED[before.state] then
        record.first = before.first == 0 and before.started or before.first
    end
    save_running(record_key, record, record.kept_in == '' and payload or '')
    redis.call('ZADD', running, record.started, id)
    own()
    if before and WAITING[before.state] then
        redis.call('ZREM', waiting, id)
    end
    return answer('run')
end

-- The broker took this delivery back while it waited in our memory (we were frozen, or Dramatiq's maintenance was
-- quicker than our polls). Whoever got it answers for it; we do not. If the broker has no such message either, it was
-- done elsewhere; unless Redis has lost its data, and with them all that it knew of us: then our copy is the last.
local over = not record or SETTLED[record.state]
if held == 0 and (stored == 1 or given_away or (over and known >= 0 and not forgotten)) then
    return answer('elsewhere')
end

if not record then
    return run(0, 0)
end

-- Only what can be the same enqueue is skipped; a message that was sent again under its old id waits its turn.
local same = redelivered or (origin ~= '' and origin == record.origin)

-- The copy that the record names is its own, whatever its generation: one that was sent again under its old id, or
-- replayed, starts at the generation of the record that it found.
local named = copy ~= '' and copy == record.copy
if same and generation < record.generation and not named then
    return answer('stale')
end
if duplicate and origin ~= '' and origin ~= record.origin then
    return answer('superseded') -- what it was a duplicate of is over, and the message has been enqueued again since
end

if record.state == 'completed' then
    if same then
        return answer('completed')
    end
    return run(0, 0)
elseif record.state == 'dead_lettered' then
    if same and tries ~= record.tries then
        return answer('superseded') -- another copy of it was dead-lettered, not this one: it is no replay
    elseif condemned then
        return answer('poisoned')
    elseif duplicate and same then
        return answer('superseded') -- put off while the one ran that was dead-lettered since
    end
    return run(0, 0, record.contended) -- a replay, with a clean count
elseif record.state == 'released' then
    if origin ~= '' and origin == record.origin then
        return answer('superseded') -- this enqueue failed: its retry, or its dead letter, is with the broker
    end
    return run(record.crashes, record.drains, record.contended)
elseif record.state == 'let_go' then
    return run(record.crashes, record.drains, record.contended)
elseif WAITING[record.state] then
    if not same then
        return answer('waiting', 250)
    elseif record.dead_letter == 1 then
        return answer('poisoned')
    end
    return run(record.crashes, record.drains, record.contended)
end

-- running
local wait
if record.owner == me then
    if here == 'no' then
        return run(record.crashes, record.drains, record.contended)
    elseif here == 'ended' and same then
        return answer('ending')
    end
    wait = ttl
else
    wait = believed_for(heartbeats, record.owner, now, ttl)
    if wait == 0 and is_convicted(record, was_draining(heartbeats, record.owner)) then
        wait = doubted_for(heartbeats, record.owner, now) -- a verdict takes more than closed connections
    end
end
if wait > 0 or not same then
    if record.contended == 0 then
        local kept = payload_of(record_key, record)
        record.contended = 1
        save_running(record_key, record, kept)
    end
    if same and here ~= 'handed_back' then
        owner = record.owner ~= me and record.owner or ''
        return answer('duplicate', math.max(wait, 1000))
    end
    return answer('waiting', 250)
end

-- Its owner is dead: take over, unless it is convicted, or is to be recovered by a copy.
owner = record.owner
local convicted = charge(record, was_draining(heartbeats, owner), cause_of(heartbeats, owner))
if not convicted and record.tailored == 0 then
    local reply = run(record.crashes, record.drains, 1)
    if reply[1] == 'run' then
        note_message(history, counts, 'recovered', id, record, owner, 'by', me, 'how', 'taken over')
    end
    return reply
end
give_up(record)
take_claim(record, me, now)
record.dead_letter = convicted and 1 or 0
if payload == '' and broker_messages then
    payload = redis.call('HGET', broker_messages, copy) -- our ack ends what the broker has
end
save_waiting(record_key, waiting, id, record, payload, now + ttl)
own()
note_message(history, counts, convicted and 'poison' or 'recovered', id, record, owner, 'by', me, 'how', 'copied')
return answer(convicted and 'convicted' or 'claimed')
