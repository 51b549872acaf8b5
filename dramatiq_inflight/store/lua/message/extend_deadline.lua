-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- A worker has fetched a recovered copy, and has to wait before it may run it: it is not lost; nobody takes it back.
--
--@ keys  record_key waiting
--@ args  id generation:int wait:ms
--
--    generation: of the copy
--    wait: when its deadline is
--
-- returns 1, or 0 if the record does not wait for this copy

local record = load(record_key)
if not record or record.state ~= 'requeued' or record.dead_letter == 1 or record.generation ~= generation then
    return 0
end
wait_longer(record_key, waiting, id, clock() + wait, wait)
return 1
