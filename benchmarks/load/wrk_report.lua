-- Prints the figures of wrk as one JSON line, with latencies in microseconds. No hook here runs per request, unless an
-- argument `endpoints=10` sends requests to that number of numbered paths in turn. `body=1024` makes them POSTs of that
-- length in bytes. Answers with a status of 400 or more count as errors, not as requests.
function init(args)
  local settings = {}
  for _, argument in ipairs(args) do
    local name, value = argument:match("(%w+)=(%d+)")
    settings[name] = tonumber(value)
  end
  if settings.body then
    wrk.method, wrk.body = "POST", string.rep("1", settings.body) -- valid JSON as well, for contenders that parse it
  end
  if not settings.endpoints then return end
  local requests, last = {}, 0
  for number = 1, settings.endpoints do
    requests[number] = wrk.format(nil, wrk.path .. (number - 1))
  end
  request = function()
    last = last % settings.endpoints + 1
    return requests[last]
  end
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %f, "p99_us": %f, "errors": %d}\n',
    summary.requests - e.status, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
