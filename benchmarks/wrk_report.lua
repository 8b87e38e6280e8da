-- Prints what wrk measured as one JSON line, latencies in microseconds. No hook here runs per request;
-- answers with a status of 400 or more count as errors, not as requests.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %f, "p99_us": %f, "errors": %d}\n',
    summary.requests - e.status, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
