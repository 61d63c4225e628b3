-- The job for Fluent Bit, whose Lua has no hash: the length stands in.
function clean(tag, time, record)
	if record.level == "debug" then
		return -1, 0, 0
	end
	record.service = string.upper(record.service)
	record.processed_at = os.date("!%Y-%m-%dT%H:%M:%SZ")
	record.hash = #record.msg
	return 2, time, record
end
