-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator gives a message up: no copy of it is to run any more.
--
--@ keys  record_key heartbeats waiting running aside history counts checkpoint
--@ args  ttl:ms id expected_owner fence_ttl:ms force:flag
--
--    running: of the owner
--    expected_owner: the owner that was read
--    force: although it runs on a living worker
--
-- returns discarded, alive (it runs on a living worker), moved (its owner is another by now), settled, or gone
--
-- Its record is as that of a completed one: copies that are met within the fence ttl are skipped, a run that goes on
-- is fenced.

local now = clock()
local record = load(record_key)
if not record or record.state == 'damaged' then
    if redis.call('HDEL', aside, id) + (record and redis.call('DEL', record_key) or 0) == 0 then
        return 'gone'
    end
    redis.call('ZREM', waiting, id)
    note(history, counts, 'discarded', 'discarded', 'message', id)
    return 'discarded'
elseif SETTLED[record.state] then
    return 'settled'
elseif record.owner ~= expected_owner then
    return 'moved'
end
if record.state == 'running' and believed_for(heartbeats, record.owner, now, ttl) > 0 then
    if not force then
        return 'alive'
    end
    doubt(heartbeats, record.owner)
end
redis.call('DEL', checkpoint)
local owner = record.owner
close(record_key, waiting, id, record, 'completed', fence_ttl)
redis.call('ZREM', running, id)
note_message(history, counts, 'discarded', id, record, owner)
return 'discarded'
