-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator takes a message, to enqueue another copy of it, or one that is to be dead-lettered.
--
--@ keys  record_key heartbeats waiting running history counts
--@ args  me ttl:ms id expected_owner hold:ms dead_letter:bit force:flag
--
--    running: of the owner
--    expected_owner: the owner that was read
--    hold: how long the claim holds
--    dead_letter: it is to be dead-lettered
--    force: although it runs on a living worker
--
-- returns {answer, run, generation, crashes, limit, started ms, first ms, drains, tries, origin, queue, actor,
--       causes, payload}, or {answer} alone where nothing was taken; answers: claimed, poisoned, alive (it runs on a
--       living worker), busy (somebody recovers it just now), moved (its owner is another by now), settled, gone
--
-- I2: the record has the payload from now on. I5: the generation grows: all other copies are stale, and a run that goes
-- on is fenced.
-- An operator's decision starts a clean count.

local now = clock()
local record = load(record_key)
if not record or record.state == 'damaged' then
    return {'gone'}
elseif SETTLED[record.state] then
    return {'settled'}
elseif record.owner ~= expected_owner then
    return {'moved'}
end
local alive = record.owner ~= '' and believed_for(heartbeats, record.owner, now, ttl) > 0
if alive and record.state == 'recovering' then
    return {'busy'}
elseif alive and not force then
    return {'alive'}
end
local payload = payload_to_keep(record_key, record)
if payload == '' then
    return {'settled'} -- the broker has what comes next, if anything
elseif alive then
    doubt(heartbeats, record.owner)
end
local owner = record.owner
if dead_letter == 0 then
    record.crashes, record.drains = 0, 0
end
give_up(record)
take_claim(record, me, now)
record.alone, record.tries, record.dead_letter = 0, 1, dead_letter
record.forced = alive and 1 or record.forced -- whom it was taken from by force before is not to have it either
save_waiting(record_key, waiting, id, record, payload, now + hold)
redis.call('ZREM', running, id)
note_message(history, counts, dead_letter == 1 and 'condemned' or 'requeued', id, record, owner)
return orphan_of(record, payload)
