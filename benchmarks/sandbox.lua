-- A body of its own for each request: `wrk ... -- PREFIX` makes those of one burst unlike another's.
local prefix, number = "", 0
local headers = {["Authorization"] = "Bearer sk_sandbox", ["Content-Type"] = "application/json"}

function init(args)
  prefix = args[1]
end

function request()
  number = number + 1
  local body = string.format('{"story":"a story about dog %s-%d"}', prefix, number)
  return wrk.format("POST", "/api/v1/run/wf_story", headers, body)
end
