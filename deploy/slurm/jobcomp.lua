-- For openfacility: one JSON line per job that ends. See README.md beside this file.
--
-- It runs inside slurmctld, which holds its locks meanwhile: nothing here may wait (no network, no pipe, no
-- process), and no error in here may reach Slurm.

local EVENTS = "/var/spool/openfacility/slurm-events.jsonl"

local LONGEST = 1024 -- bytes of a string, before escaping
local NO_VALUE = 4294967294 -- Slurm's NO_VAL: not set

local STATES = {
  [0] = "PENDING", "RUNNING", "SUSPENDED", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED",
  "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY",
}

-- All that UTF-8 allows beyond ASCII; what remains once these are taken out is no UTF-8.
local WELL_FORMED = {
  "[\194-\223][\128-\191]",
  "\224[\160-\191][\128-\191]",
  "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]",
  "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]",
  "\244[\128-\143][\128-\191][\128-\191]",
}

local function text(value)
  local s = tostring(value == nil and "" or value)
  if #s > LONGEST then
    s = s:sub(1, LONGEST):gsub("[\194-\244][\128-\191]*$", "") -- a character that may have been cut in two
  end
  local rest = s
  for _, pattern in ipairs(WELL_FORMED) do
    rest = rest:gsub(pattern, ".")
  end
  if rest:find("[\128-\255]") then
    s = s:gsub("[\128-\255]", "?")
  end
  s = s:gsub('[%c"\\]', function(c)
    return string.format("\\u%04x", c:byte())
  end)
  return '"' .. s .. '"'
end

local function number(value)
  return string.format("%d", tonumber(value) or 0)
end

local function append(line)
  local file = io.open(EVENTS, "a")
  if file then
    file:setvbuf("full", 32768) -- so that the line is one write, which nothing else can come between
    file:write(line, "\n")
    file:close()
  end
end

local function record(job)
  local fields = {
    '"event":"end"',
    '"t":' .. number(os.time()),
    '"job_id":' .. number(job.job_id),
  }
  -- A task of an array; of any other job Slurm says 0 and NO_VAL.
  local array, task = tonumber(job.array_job_id) or 0, tonumber(job.array_task_id) or NO_VALUE
  if array ~= 0 then
    fields[#fields + 1] = '"array_job_id":' .. number(array)
    if task < NO_VALUE then
      fields[#fields + 1] = '"array_task_id":' .. number(task)
    end
  end
  -- The low byte is the state, the rest are flags, such as "is completing".
  fields[#fields + 1] = '"state":' .. text(STATES[(tonumber(job.job_state) or 0) % 256] or "UNKNOWN")
  fields[#fields + 1] = '"status":' .. number(job.exit_code) -- as wait(2) gives it: 1024 is exit 4, 9 is signal 9
  fields[#fields + 1] = '"user_id":' .. number(job.user_id)
  fields[#fields + 1] = '"comment":' .. text(job.comment)
  fields[#fields + 1] = '"start":' .. number(job.start_time)
  fields[#fields + 1] = '"end":' .. number(job.end_time)
  append("{" .. table.concat(fields, ",") .. "}")
end

-- What a script defined before it loaded this one keeps its say.
local earlier = slurm_jobcomp_log_record

function slurm_jobcomp_log_record(job)
  pcall(record, job)
  if earlier then
    return earlier(job)
  end
  return slurm.SUCCESS
end

return slurm.SUCCESS
