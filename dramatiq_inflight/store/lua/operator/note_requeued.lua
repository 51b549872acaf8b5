-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- An operator has enqueued a message anew, from what was set aside or from a dead-letter queue. A record of the
-- message, if there is one, is about the new enqueue by now.
--
--@ keys  aside history counts
--@ args  id queue actor copy
--
--    copy: the broker's id of the new copy; '' where the broker has none
--
-- returns nothing

redis.call('HDEL', aside, id)
note_message(history, counts, 'requeued', id, {queue = queue, actor = actor, run = 0, crashes = 0}, '', 'copy', copy)
