-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator takes a message, to enqueue another copy of it, or one that is to be dead-lettered.
--
-- KEYS  1 record   2 heartbeats   3 waiting   4 running:<owner>   5 history   6 counts
-- ARGV  1 me   2 heartbeat ttl ms   3 message id   4 the owner that was read   5 how long the claim holds, ms
--       6 '1': it is to be dead-lettered   7 '1': although it runs on a living worker
-- returns {answer, run, generation, crashes, limit, started ms, first ms, drains, tries, origin, queue, actor,
--       payload}, or {answer} alone where nothing was taken; answers: claimed, poisoned, alive (it runs on a living
--       worker), busy (somebody recovers it just now), moved (its owner is another by now), settled, gone
--
-- I2: the payload stays. I5: the generation grows: all other copies are stale, and a run that goes on is fenced.
-- An operator's decision starts a clean count.

local me, ttl, id, dead_letter = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[6])
local now = clock()
local record = load(KEYS[1])
if not record or record.state == 'damaged' then
    return {'gone'}
elseif SETTLED[record.state] then
    return {'settled'}
elseif record.owner ~= ARGV[4] then
    return {'moved'}
end
local alive = record.owner ~= '' and believed_for(KEYS[2], record.owner, now, ttl) > 0
if alive and record.state == 'recovering' then
    return {'busy'}
elseif alive and ARGV[7] ~= '1' then
    return {'alive'}
elseif alive then
    doubt(KEYS[2], record.owner)
end
local payload, owner = payload_of(KEYS[1], record), record.owner
if dead_letter == 0 then
    record.crashes, record.drains = 0, 0
end
record.state, record.owner, record.contended, record.now = 'recovering', me, 1, now
record.generation, record.copy, record.alone, record.tries, record.deaths = record.generation + 1, '', 0, 1, 0
record.dead_letter = dead_letter
record.forced = alive and 1 or record.forced -- whom it was taken from by force before is not to have it either
save_waiting(KEYS[1], KEYS[3], id, record, payload, now + tonumber(ARGV[5]))
redis.call('ZREM', KEYS[4], id)
note_message(KEYS[5], KEYS[6], dead_letter == 1 and 'condemned' or 'requeued', id, record, owner)
return orphan_of(record, payload)
