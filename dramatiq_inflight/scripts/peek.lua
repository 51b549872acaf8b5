-- SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
-- SPDX-License-Identifier: MIT
--
-- The heads of some records, without their payloads.
--
-- KEYS  the records
-- returns for each its head (a JSON array), or '' if there is none

local heads = {}
for i, key in ipairs(KEYS) do
    local record = load(key)
    heads[i] = record and record.state ~= 'damaged' and dump(record) or ''
end
return heads
