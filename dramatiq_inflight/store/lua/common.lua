-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- Put in front of every script, or behind its short way: the clock, the verdict on an incarnation, and how a record is
-- kept.
--
-- A record is one string: a JSON array of the fields below, a newline, and the payload (the encoded message; nothing
-- once the record is settled, or while the broker on this Redis has it as `copy`). One string costs half the memory of
-- a hash with the same fields, and a script reads the head alone, however large the payload is. The fields:
--
--   state        running, recovering (claimed, to be copied), requeued (its copy is with the broker);
--                   and of what is settled: released (its enqueue is over, and what comes next is with the broker),
--                   let_go (whatever copy there is may run), completed, dead_lettered
--   owner        the incarnation that runs it, or the recoverer that has claimed it; '' while recovering: nobody has,
--                   for its copy could not be enqueued, and is tried again past the deadline
--   run          grows at every start; fences finishers
--   generation   grows whenever a run is given up and recovery is to enqueue a copy; fences copies
--   crashes      how often it was running when its incarnation died
--   limit        max_recoveries of this message; 'unlimited'; 'once': dead-lettered by any death, never run again
--   contended    1: another copy of it may still be under way
--   forced       1: waiting: whoever ran it is not to have it back. An operator has taken it by force, or it has
--                   failed, and recovery is to enqueue its retry
--   started      when the present run started, ms; later than any start of the message before it, whatever the clock
--                   says: users fence their databases with it
--   first        when its first run started, ms; 0: the present run is the first
--   origin       the broker's id of the enqueue that it goes back to; '' where the broker has none
--   copy         the broker's id of its present copy; '': there is none that is known by an id
--   queue, actor
--   drains       how often it was running when its incarnation ended, or died, while it was shutting down
--   alone        1: running, and its process runs nothing else
--   tailored     1: its recovery takes a copy: to another queue, with a delay, or told to somebody
--   tries        how often recovery has tried to put it back since it last ran; of what runs or has ended, the number
--                   of the try that made its copy. Deadlines grow with it; with the generation it names a copy
--   deaths       how many recoverers in a row have died with it in hand
--   dead_letter  1: recovering or requeued: its copy is to be dead-lettered
--   kept_in      the broker's hash that has the payload as `copy`, unless it is here
--   causes       why its incarnations died, those of the last crashes: the number of each, as in store/cause.py, with a
--                blank behind it; missing where there was no crash
--
-- What a later version has added behind them is kept, unless the message is started anew (see docs/upgrading.rst).

local SETTLED = {released = true, let_go = true, completed = true, dead_lettered = true}
local WAITING = {recovering = true, requeued = true}
local STATES = {running = true}
for _, states in ipairs({SETTLED, WAITING}) do
    for state in pairs(states) do
        STATES[state] = true
    end
end
local LIMITS = {unlimited = true, once = true}

-- A script copies no more bytes of payloads than this, but always one: the server does nothing else meanwhile.
local MOST_BYTES = 1024 * 1024

-- The longest wait for a copy to start, ms: each one doubles, for the queue may be long.
local LONGEST_WAIT = 24 * 3600 * 1000

-- What is kept for people: how many events, and how long after the last of them, ms.
local HISTORY_LENGTH, HISTORY_TTL = 10000, 30 * 24 * 3600 * 1000

-- The shortest time for which nobody is judged by an expired heartbeat once Redis is back from an outage, ms. A worker
-- whose heartbeat has failed tries every second, and waits at most two for an answer.
local SHORTEST_GRACE = 6000

-- How far Redis's clock may go back without being another server's, ms.
local JITTER = 1000

-- Half of the shortest TTL that the settings allow, ms: a shorter pause is no outage to anybody.
local SHORTEST_OUTAGE = 10

-- A deadline below this says that the incarnation is gone beyond doubt, ms: it takes no grace and no clock to judge it.
-- Such a deadline is the number of the cause of its death. Others that are dead have LEFT with messages still running,
-- or their heartbeat has EXPIRED.
local PROVEN, EXPIRED, LEFT = 1000, 0, 4

-- The longest list of causes that a record keeps, bytes.
local LONGEST_CAUSES = 120

-- Members of the heartbeat set that are no incarnation: when Redis was last in use, and until when the grace lasts. Of
-- each incarnation that is not judged yet, TTL and its id has its TTL, as a negative number of ms. Of each one that was
-- declared dead because its connections are closed, UNTIL and its id has the deadline that it had, negative as well and
-- far below any TTL: until then it may still be back. Of each one that shuts down there is DRAINING and its id; of each
-- from which an operator has taken a message, until it has heard of that, DOUBTED and its id: both at MARK, which is no
-- time. They live in this set so that a beat needs one key only.
local LAST, GRACE_END, TTL, UNTIL, DRAINING, DOUBTED = '*last', '*grace', '*ttl:', '*until:', '*draining:', '*doubted:'
local LOWEST_TTL, MARK = -1e12, '-inf'

-- For how long an incarnation has to be connected before it may declare another one dead, ms: after a restart of the
-- server, or a failover, that is the time that the others have to come back.
local QUALIFYING = 6000

-- What is kept for a message that waits for its copy expires after a week at the earliest: long enough for a namespace
-- that nobody works on any more to clean itself up without forgetting anybody's work.
local WAITING_TTL = 7 * 24 * 3600 * 1000

local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Fails if a field is missing, or not of its type: nobody could make anything of the record.
local function check(v)
    return v[3] + v[4] + v[5] + v[7] + v[8] + v[9] + v[10] + v[15] + v[16] + v[17] + v[18] + v[19] + v[20]
        + string.len(v[2]) + string.len(v[11]) + string.len(v[12]) + string.len(v[13]) + string.len(v[14])
        + string.len(v[21] or '') + string.len(v[22] or '')
        + (STATES[v[1]] and (LIMITS[v[6]] and 0 or v[6]))
end

local function load(key)
    local head = redis.call('GETRANGE', key, 0, 1023)
    if head == '' then
        return nil
    end
    local cut = string.find(head, '\n', 1, true)
    if not cut then
        head = redis.call('GET', key)
        cut = string.find(head, '\n', 1, true)
    end
    local whole, v = pcall(cjson.decode, string.sub(head, 1, (cut or 0) - 1))
    if not whole or type(v) ~= 'table' or not pcall(check, v) then
        return {state = 'damaged', run = 0, generation = 0} -- claim.lua sets it aside
    end
    return {
        state = v[1], owner = v[2], run = v[3], generation = v[4], crashes = v[5], limit = v[6], contended = v[7],
        forced = v[8], started = v[9], first = v[10], origin = v[11], copy = v[12], queue = v[13], actor = v[14],
        drains = v[15], alone = v[16], tailored = v[17], tries = v[18], deaths = v[19],
        dead_letter = v[20], kept_in = v[21] or '', causes = v[22] or '', more = #v > 22 and v or nil,
        payload_at = cut,
    }
end

-- The payload; '' where the broker has it.
local function payload_of(key, record)
    return redis.call('GETRANGE', key, record.payload_at, -1)
end

-- The payload, for a record that is to be the only copy; '' if the broker is done with that.
-- Its hash is no declared key: a RedisBroker's own script names none of its own, either.
local function payload_to_keep(key, record)
    local payload = payload_of(key, record)
    if payload == '' and record.kept_in ~= '' then
        payload = redis.call('HGET', record.kept_in, record.copy) or ''
    end
    return payload
end

-- A new record need not have the fields that are 0 or '' at first.
local function dump(r)
    local v = {
        r.state, r.owner or '', r.run, r.generation, r.crashes or 0, r.limit, r.contended or 0,
        r.forced or 0, r.started, r.first or 0, r.origin, r.copy or '', r.queue or '', r.actor or '',
        r.drains or 0, r.alone or 0, r.tailored or 0, r.tries or 0, r.deaths or 0, r.dead_letter or 0,
        r.kept_in or '',
    }
    if r.more or (r.crashes or 0) > 0 then
        v[22] = (r.crashes or 0) > 0 and r.causes or ''
    end
    for i = 23, r.more and #r.more or 0 do
        v[i] = r.more[i]
    end
    return cjson.encode(v) .. '\n'
end

-- A running record never expires; SET takes away whatever expiry it had before.
local function save_running(key, record, payload)
    redis.call('SET', key, dump(record) .. payload)
end

-- A record that waits for its copy keeps the payload, and a deadline past which any sweep claims it again.
local function save_waiting(key, waiting, id, record, payload, deadline)
    redis.call('SET', key, dump(record) .. payload, 'PX', string.format('%d', deadline - record.now + WAITING_TTL))
    redis.call('ZADD', waiting, deadline, id)
end

-- A settled record has no payload, and is kept only where a copy of the message may still be under way.
local function save_settled(key, record, fence_ttl, unacked)
    if unacked or record.generation > 1 or record.contended == 1 then
        record.owner, record.dead_letter = '', 0
        redis.call('SET', key, dump(record), 'PX', fence_ttl)
    else
        redis.call('DEL', key)
    end
end

-- It is over without a run of its own: no copy of it is to run any more, and there may be one.
local function close(key, waiting, id, record, state, fence_ttl)
    record.state, record.contended = state, 1
    save_settled(key, record, fence_ttl)
    redis.call('ZREM', waiting, id)
end

-- Its copy is still under way, and is waited for until later.
local function wait_longer(key, waiting, id, deadline, wait)
    redis.call('ZADD', waiting, deadline, id)
    redis.call('PEXPIRE', key, string.format('%d', wait + WAITING_TTL))
end

-- It is kept whole where people look for it.
local function put_aside(key, waiting, running, aside, id)
    redis.call('HSET', aside, id, redis.call('GET', key))
    redis.call('DEL', key)
    redis.call('ZREM', waiting, id)
    redis.call('ZREM', running, id)
end

-- The broker does not have its copy, as far as it can be asked: should its worker die, another one is made.
local function forget_copy(record)
    record.copy, record.tailored = '', 1
end

-- Its run is given up: from now on its copies are stale, and the next one is the first of a new generation (I5).
local function give_up(record)
    record.generation, record.tries, record.deaths = record.generation + 1, 0, 0
end

-- `me` is to enqueue a copy of it.
local function take_claim(record, me, now)
    record.state, record.owner, record.copy, record.contended, record.now = 'recovering', me, '', 1, now
end

-- Whether it is this very claim.
local function is_claim(record, me, generation)
    return record and record.state == 'recovering' and record.owner == me and record.generation == generation
end

-- Whether it is shutting down, or was when it died.
local function was_draining(heartbeats, incarnation)
    return redis.call('ZSCORE', heartbeats, DRAINING .. incarnation) and true
end

-- It has lost a message, and is to hear of it with its next beat.
local function doubt(heartbeats, incarnation)
    redis.call('ZADD', heartbeats, MARK, DOUBTED .. incarnation)
end

-- The shortest and the longest TTL of those that are there; the caller's own if none has said so.
local function shortest_ttl(heartbeats, ttl)
    local found = redis.call('ZRANGE', heartbeats, '(0', LOWEST_TTL, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
    return found[2] and -tonumber(found[2]) or ttl
end

local function longest_ttl(heartbeats, ttl)
    local found = redis.call('ZRANGEBYSCORE', heartbeats, LOWEST_TTL, '(0', 'WITHSCORES', 'LIMIT', 0, 1)
    return found[2] and -tonumber(found[2]) or ttl
end

-- The longest grace after an outage. By then each worker has reported back that lives: it does so within a third of its
-- own TTL, also if it saw nothing of the outage (a failover to a server whose clock is ahead).
local function longest_grace(heartbeats, ttl)
    return math.max(SHORTEST_GRACE, longest_ttl(heartbeats, ttl) / 2)
end

-- Cut each time that lies further ahead than `from` to what it could be if it were written now: a server whose clock
-- was ahead has written it.
local function cut_back(heartbeats, from, now, ttl)
    local ahead = redis.call('ZRANGEBYSCORE', heartbeats, string.format('(%d', from), '+inf', 'WITHSCORES')
    for i = 1, #ahead, 2 do
        local member, score, most = ahead[i], tonumber(ahead[i + 1]), now
        if member == GRACE_END then
            most = now + longest_grace(heartbeats, ttl)
        elseif member ~= LAST then
            local own = -tonumber(redis.call('ZSCORE', heartbeats, TTL .. member) or -ttl)
            most = now + own
        end
        if score > most then
            redis.call('ZADD', heartbeats, most, member)
        end
    end
end

-- Redis is in use again after a pause. A pause of more than half of a TTL is an outage to a worker with that TTL. Only
-- workers with a TTL of less than twice the pause may have expired by it, so a grace as long as the pause is enough.
local function resume(heartbeats, now, ttl, last)
    local pause = now - last
    if pause > SHORTEST_OUTAGE and pause > shortest_ttl(heartbeats, ttl) / 2 then
        local grace = math.min(math.max(pause, SHORTEST_GRACE), longest_grace(heartbeats, ttl))
        redis.call('ZADD', heartbeats, 'GT', now + grace, GRACE_END)
    elseif pause < -JITTER then
        cut_back(heartbeats, now, now, ttl)
    end
end

-- A heartbeat comes into being for two reasons: an incarnation registers, or a record says that it runs a message, so
-- that somebody judges it. Whatever else it says may arrive after it has left, and only renews a heartbeat.
local function appear(heartbeats, incarnation, now, ttl)
    redis.call('ZADD', heartbeats, 'NX', now, LAST, now + ttl, incarnation)
end

-- Says whether it was known. 0: it had been declared dead, or has lost a message. -1: Redis has no heartbeat of it, for
-- it is new, or has left, or was reaped, or Redis has lost its data.
local function beat(heartbeats, me, now, ttl)
    local scores = redis.call('ZMSCORE', heartbeats, me, LAST, DOUBTED .. me)
    local deadline, last, doubted = scores[1], scores[2], scores[3]
    if not deadline then
        return -1
    end
    if last then
        resume(heartbeats, now, ttl, tonumber(last))
    end
    redis.call('ZADD', heartbeats, now, LAST, now + ttl, me)
    if doubted then
        redis.call('ZREM', heartbeats, DOUBTED .. me)
    elseif tonumber(deadline) > now then
        return 1
    end
    return 0
end

-- The same for a process that may only have another one beat on its behalf: one that had been declared dead is to hear
-- of it with its own next beat.
local function beat_as(heartbeats, me, now, ttl, on_behalf)
    local known = beat(heartbeats, me, now, ttl)
    if on_behalf and known == 0 then
        doubt(heartbeats, me)
    end
    return known
end

-- For how long nobody is judged yet, ms; nil: no outage has just ended. The look counts as use: those that beat rarely
-- would take their own rhythm for outages, and judge nobody that beats more often.
local function nobody_is_judged(heartbeats, now, ttl)
    local last = redis.call('ZSCORE', heartbeats, LAST)
    if not last then
        return SHORTEST_GRACE -- nobody knows how long Redis was away
    end
    resume(heartbeats, now, ttl, tonumber(last))
    redis.call('ZADD', heartbeats, now, LAST)
    local grace_end = tonumber(redis.call('ZSCORE', heartbeats, GRACE_END) or 0)
    return now < grace_end and grace_end - now or nil
end

-- How long an incarnation is still believed to live, ms; 0: it is dead; nil: there is no heartbeat of it.
local function lives_for(heartbeats, incarnation, now, ttl)
    local deadline = tonumber(redis.call('ZSCORE', heartbeats, incarnation))
    if not deadline or deadline > now then
        return deadline and deadline - now
    end
    return deadline >= PROVEN and nobody_is_judged(heartbeats, now, ttl) or 0
end

-- Why a dead incarnation has died, as far as anybody knows: a number of store/cause.py.
local function cause_of(heartbeats, incarnation)
    local deadline = tonumber(redis.call('ZSCORE', heartbeats, incarnation) or PROVEN)
    return deadline < PROVEN and deadline or EXPIRED
end

-- How long the owner of a record is still believed to live, ms; 0: it is dead. A missing heartbeat beside a record is
-- data that Redis lost: it gets one TTL to come back, the longest, for its own is lost as well.
local function believed_for(heartbeats, owner, now, ttl)
    local lives = lives_for(heartbeats, owner, now, ttl)
    if not lives then
        lives = longest_ttl(heartbeats, ttl)
        appear(heartbeats, owner, now, lives)
    end
    return lives
end

-- For how long a dead incarnation may still be back, ms: its connections are closed, and nothing else is known. Its
-- messages are recovered, and nothing that this death would convict is touched.
local function doubted_for(heartbeats, incarnation, now)
    local until_when = redis.call('ZSCORE', heartbeats, UNTIL .. incarnation)
    return until_when and math.max(0, -tonumber(until_when) - now) or 0
end

-- Which server this is, and since when it is the primary; nil: it does not say. A demoted server that is promoted again
-- keeps its run id, but remembers the replication id that it had as a replica. Its present one says nothing: it changes
-- when the first replica attaches, too.
local function life()
    local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
    local run_id = type(server) == 'string' and string.match(server, 'run_id:(%x+)')
    local replid = type(replication) == 'string' and string.match(replication, 'master_replid2:(%x+)')
    return run_id and replid and run_id .. ' ' .. replid or nil
end

-- How many connections of this server are subscribed to a channel; 0 where that cannot be told.
local function subscribers(count, channel)
    local counted = redis.pcall('PUBSUB', count, channel)
    return counted.err and 0 or tonumber(counted[2]) or 0
end

-- Nothing is left of an incarnation. The last one deletes the set of heartbeats.
local function forget(heartbeats, incarnation_key, suspects, place, incarnation)
    redis.call('DEL', incarnation_key)
    redis.call('HDEL', suspects, incarnation)
    if place then
        redis.call('SREM', place, incarnation)
    end
    redis.call('ZREM', heartbeats, incarnation, TTL .. incarnation, UNTIL .. incarnation,
        DRAINING .. incarnation, DOUBTED .. incarnation)
    if redis.call('ZCARD', heartbeats) <= 2 then
        for _, member in ipairs(redis.call('ZRANGE', heartbeats, 0, -1)) do
            if string.sub(member, 1, 1) ~= '*' then
                return
            end
        end
        redis.call('DEL', heartbeats)
    end
end

-- When a run starts, ms. The clock may go back between two runs, and both may start within a millisecond.
local function next_start(before, now, enqueued_by)
    return math.max(now, (before and before.started or 0) + 1, enqueued_by + 1)
end

-- Whether one more crash convicts it.
local function would_be_convicted(record)
    return record.limit == 'once'
        or (record.alone == 1 and record.limit ~= 'unlimited' and record.crashes + 1 > record.limit)
end

-- Whether it is this very run. The number alone is not enough: a command may arrive minutes after its answer was given
-- up and it was sent again. By then its record may be gone, and the runs of the next enqueue count from 1.
-- Where the broker has no ids, the number has to do.
local function is_run(record, me, run, origin)
    return record.state == 'running' and record.owner == me and record.run == run
        and (origin == '' or origin == record.origin)
end

-- Whether a mend has retaken it for this run, which has not heard of that. A new start would have another time.
local function is_retaken(record, me, run, origin, started)
    return is_run(record, me, run + 1, origin) and record.started == started
end

-- Why a run cannot end as its worker says. Its entry in the list of what `me` runs goes, unless another run has it.
local function refuse_end(record, running, me, id)
    if not record or record.owner ~= me then
        redis.call('ZREM', running, id)
    end
    return record and 'fenced' or 'gone'
end

-- Whether its copy is still to start: enqueued by recovery, or put off before its owner died.
local function is_to_start(record)
    return (WAITING[record.state] and record.forced == 0) or record.state == 'let_go'
end

-- Whether the death of its incarnation convicts it: a shutdown convicts nobody.
local function is_convicted(record, drained)
    return would_be_convicted(record) and (not drained or record.limit == 'once')
end

-- Its incarnation died while it was running: charge it. Everything that was running is charged; only what had its
-- process to itself can be convicted. Says whether it is.
local function charge(record, drained, cause)
    local convicted = is_convicted(record, drained)
    record.alone = 0
    if drained then
        record.drains = record.drains + 1
    else
        record.crashes, record.causes = record.crashes + 1, record.causes .. cause .. ' '
        if #record.causes > LONGEST_CAUSES then
            record.causes = string.match(record.causes, ' (.*)')
        end
    end
    return convicted
end

-- How long to wait for the outcome of a try, ms: the first wait, doubled with each further try.
local function wait_of(record, first, longest)
    return math.min(first * 2 ^ math.min(math.max(record.tries, 1) - 1, 30), math.max(first, longest))
end

-- Whether a script has copied so much by now that it is to leave this record for another one; else it is counted.
local copied = 0
local function is_too_much(key, record)
    local size = redis.call('STRLEN', key)
    if record and record.kept_in ~= '' then
        size = size + redis.call('HSTRLEN', record.kept_in, record.copy)
    end
    if copied > 0 and copied + size > MOST_BYTES then
        return true
    end
    copied = copied + size
    return false
end

-- What whoever has claimed a record is told, to make the copy of.
local function orphan_of(record, payload)
    return {
        record.dead_letter == 1 and 'poisoned' or 'claimed', record.run, record.generation, record.crashes,
        record.limit, record.started, record.first, record.drains, record.tries, record.origin, record.queue,
        record.actor, record.causes, payload,
    }
end

-- One more death may convict it: it has to run alone. What has never crashed needs not.
local function is_last_chance(crashes, limit)
    return not LIMITS[limit] and crashes >= math.max(limit, 1)
end

-- Something happened that people may ask about: what, and the fields that say more. How often it ever did is counted,
-- for the history forgets. An ordinary message leaves nothing here.
--
-- By pcall, and after all that matters: a user who may not write a stream loses the history, and no message.
local function note(history, counts, event, count_as, ...)
    redis.pcall('XADD', history, 'MAXLEN', '~', HISTORY_LENGTH, '*', 'event', event, ...)
    redis.pcall('PEXPIRE', history, HISTORY_TTL)
    redis.pcall('HINCRBY', counts, count_as, 1)
    redis.pcall('PEXPIRE', counts, HISTORY_TTL)
end

-- Of a message, and of whose run it was; counted by queue and actor.
local function note_message(history, counts, event, id, record, worker, ...)
    note(history, counts, event, cjson.encode({event, record.queue, record.actor}), 'message', id,
        'queue', record.queue, 'actor', record.actor, 'run', record.run, 'crashes', record.crashes,
        'worker', worker, ...)
end

-- A worker ends a run that was given to another one meanwhile. Not if that run has settled it itself, and its answer
-- was lost.
local function note_fenced(history, counts, id, record, me, run, outcome)
    if run ~= 0 and run ~= record.run then
        note_message(history, counts, 'fenced', id, record, me, 'outcome', outcome)
    end
end

-- Of an incarnation, by what it has said of itself.
local function note_worker(history, counts, event, count_as, id, incarnation_key, ...)
    local said = redis.call('HMGET', incarnation_key, 'instance', 'host', 'pid')
    note(history, counts, event, count_as, 'worker', id,
        'instance', said[1] or '', 'host', said[2] or '', 'pid', said[3] or '', ...)
end

-- An incarnation is dead: that is noted once, and counted by the cause. Says whether it was noted just now.
local function note_death(heartbeats, incarnation_key, history, counts, id, now, cause)
    if redis.call('HSETNX', incarnation_key, 'noticed', now) == 0 then
        return false
    end
    note_worker(history, counts, 'died', cjson.encode({'died', '', '', cause}), id, incarnation_key,
        'cause', cause, 'draining', was_draining(heartbeats, id) and 1 or 0)
    return true
end

-- An incarnation is dead, and nobody has to wait for its heartbeat to expire.
local function prove_death(heartbeats, incarnation_key, history, counts, id, now, cause)
    redis.call('ZADD', heartbeats, cause, id)
    redis.call('ZREM', heartbeats, TTL .. id)
    redis.call('HSET', incarnation_key, 'gone', now)
    note_death(heartbeats, incarnation_key, history, counts, id, now, cause)
end
