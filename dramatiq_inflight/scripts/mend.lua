-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- This process runs a message: make Redis say so again, where nobody else has started it.
-- For records that Redis lost or never got, and for a worker that was taken for dead and is back.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run (0: not known)   5 generation   6 origin   7 queue   8 actor
--       9 limit   10 broker's id of the copy   11 started ms (0: now)   12 crashes   13 payload
-- returns {answer, known, run, generation, crashes}; answers: kept, written, retaken, lost
--
-- I1, I3: what another worker owns stays as it is. I11: the process itself knows best what it runs.

local me, ttl, id, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now = clock()
local record = load(KEYS[1])
local known = beat(KEYS[3], me, now, ttl)
local answer

if not record then
    record = {
        state = 'running', owner = me, run = math.max(run, 1), generation = tonumber(ARGV[5]),
        crashes = tonumber(ARGV[12]), limit = tonumber(ARGV[9]), contended = 0, done = 0,
        started = tonumber(ARGV[11]) > 0 and tonumber(ARGV[11]) or now, first = 0,
        origin = ARGV[6], copy = ARGV[10] == ARGV[6] and '' or ARGV[10], queue = ARGV[7], actor = ARGV[8],
    }
    save_running(KEYS[1], record, ARGV[13])
    answer = 'written'
elseif record.state == 'running' and record.owner == me and (run == 0 or run == record.run) then
    answer = 'kept'
elseif (record.state == 'requeued' or record.state == 'recovering') and record.origin == ARGV[6] then
    -- Its copy has not started: ours goes on, and the copy will find it running. The charge is taken back.
    record.state, record.owner, record.run, record.contended = 'running', me, record.run + 1, 1
    record.crashes = math.max(record.crashes - 1, 0)
    save_running(KEYS[1], record, ARGV[13])
    redis.call('ZREM', KEYS[4], id)
    answer = 'retaken'
else
    if record.owner ~= me then
        redis.call('ZREM', KEYS[2], id)
    end
    return {'lost', known, record.run, record.generation, record.crashes}
end
redis.call('ZADD', KEYS[2], record.started, id)
return {answer, known, record.run, record.generation, record.crashes}
