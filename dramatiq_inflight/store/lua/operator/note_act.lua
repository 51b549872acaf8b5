-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator has requeued or discarded what was set aside, or dead letters. A record of the message, if there is one,
-- is about the new enqueue by now.
--
--@ keys  aside history counts
--@ args  event id queue actor copy number:int
--
--    event: requeued or discarded
--    id: '': so many dead letters of a queue and an actor
--    copy: the broker's id of the new copy; '' if there is none
--
-- returns nothing

redis.call('HDEL', aside, id)
note(history, counts, event, cjson.encode({event, queue, actor}), 'message', id, 'queue', queue, 'actor', actor,
    'copy', copy, 'number', number)
if number > 1 then
    redis.pcall('HINCRBY', counts, cjson.encode({event, queue, actor}), number - 1)
end
