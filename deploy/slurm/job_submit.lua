-- For openfacility: one JSON line per job that is submitted or changed. See README.md beside this file.
--
-- It runs inside slurmctld, which holds its locks meanwhile: nothing here may wait (no network, no pipe, no
-- process), and no error in here may reach Slurm, which would refuse the job.

local EVENTS = "/var/spool/openfacility/slurm-events.jsonl"

local LONGEST = 1024 -- bytes of a string, before escaping

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

-- There is no job id yet: the comment is what ties the line to who asked for the job.
local function submitted(job, uid)
  append(
    '{"event":"submit","t":' .. number(os.time()) .. ',"uid":' .. number(uid)
      .. ',"name":' .. text(job.name) .. ',"comment":' .. text(job.comment) .. "}"
  )
end

local function modified(job, uid)
  append(
    '{"event":"modify","t":' .. number(os.time()) .. ',"uid":' .. number(uid)
      .. ',"job_id":' .. number(job.job_id) .. "}"
  )
end

-- What a script defined before it loaded this one decides as before, and first: it may refuse the job or rename it.
local earlier_submit, earlier_modify = slurm_job_submit, slurm_job_modify

function slurm_job_submit(job, partitions, uid)
  local answer = slurm.SUCCESS
  if earlier_submit then
    answer = earlier_submit(job, partitions, uid)
  end
  if answer == slurm.SUCCESS then
    pcall(submitted, job, uid)
  end
  return answer
end

function slurm_job_modify(change, job, partitions, uid)
  local answer = slurm.SUCCESS
  if earlier_modify then
    answer = earlier_modify(change, job, partitions, uid)
  end
  if answer == slurm.SUCCESS then
    pcall(modified, job, uid)
  end
  return answer
end

return slurm.SUCCESS
