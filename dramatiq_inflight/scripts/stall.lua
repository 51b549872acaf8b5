-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A message that runs here has not moved for too long: that is noted, or its run is given up, and it is recovered.
--
-- KEYS  1 record   2 running:<me>   3 heartbeats   4 waiting   5 history   6 counts
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 run   5 '1': it is to be recovered   6 for how long it has not, ms
--       7 how long the claim holds, ms   8 origin
-- returns {answer, known}; answers: noted, recovering, condemned (it has stalled too often), fenced
--
-- I1, I3: only the owner, by its run. I5: the generation grows, as in a claim, so that the run that goes on is fenced.
-- It counts as a crash, and convicts: nobody else can be to blame.

local me, id = ARGV[1], ARGV[3]
local now = clock()
local record = load(KEYS[1])
local known = beat(KEYS[3], me, now, tonumber(ARGV[2]))
if not record or not is_run(record, me, tonumber(ARGV[4]), ARGV[8]) or record.done == 1 then
    return {'fenced', known}
end
local answer = 'noted'
if ARGV[5] == '1' then
    local payload = payload_of(KEYS[1], record)
    record.crashes = record.crashes + 1
    local condemned = record.limit == NEVER_AGAIN or (record.limit >= 0 and record.crashes > record.limit)
    answer = condemned and 'condemned' or 'recovering'
    record.state, record.contended, record.now, record.alone = answer, 1, now, 0
    record.generation, record.copy, record.tries, record.deaths = record.generation + 1, '-', 0, 0
    save_waiting(KEYS[1], KEYS[4], id, record, payload, now + tonumber(ARGV[7]))
    redis.call('ZREM', KEYS[2], id)
    if condemned then
        note_message(KEYS[5], KEYS[6], 'poison', id, record, me, 'how', 'stalled')
    end
end
note_message(KEYS[5], KEYS[6], 'stalled', id, record, me, 'after', ARGV[6], 'how', answer)
return {answer, known}
