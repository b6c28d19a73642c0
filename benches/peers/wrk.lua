-- wrk helper. W_TOKENS: a file of tokens to send in turn; W_MAX: stop after so many requests;
-- W_METHOD, W_BODY: method and body size. Prints one JSON line when done.
local sent, next_token = 0, nil
local max = tonumber(os.getenv("W_MAX") or "0")
local file = os.getenv("W_TOKENS")
wrk.method = os.getenv("W_METHOD") or "GET"
local size = tonumber(os.getenv("W_BODY") or "0")
if size > 0 then wrk.body = string.rep("x", size) end
if file then
  local before, after
  function init(args)
    -- The request is formatted once and the token put in, which is far cheaper than wrk.format.
    wrk.headers["Authorization"] = "Bearer @TOKEN@"
    local request = wrk.format()
    local from, to = request:find("@TOKEN@", 1, true)
    before, after = request:sub(1, from - 1), request:sub(to + 1)
    next_token = io.lines(file)
  end
  function request()
    local token = next_token()
    if not token then
      next_token = io.lines(file)
      token = next_token()
    end
    sent = sent + 1
    if max > 0 and sent >= max then wrk.thread:stop() end
    return before .. token .. after
  end
end
function done(s, l, r)
  local e = s.errors
  io.write(string.format('JSON {"req":%d,"us":%d,"bytes":%d,"e_conn":%d,"e_read":%d,"e_write":%d,"e_status":%d,"e_timeout":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f}\n',
    s.requests, s.duration, s.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    l:percentile(50), l:percentile(99), l:percentile(99.9)))
end
