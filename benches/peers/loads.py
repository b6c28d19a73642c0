"""The loads: wrk, oha, h2load, paced clients, event streams; and what a peer's process spends meanwhile."""
import json, os, re, subprocess, sys, time

from data import write
from peers import HERE, cpu, get, memory

CLIENT_CORE = 1
# A flood takes what the good clients leave of their common core, so that these measure the proxy.
FLOOD_NICE = 10


def on_core(argv, core=CLIENT_CORE):
    return argv if core is None else ["taskset", "-c", str(core)] + argv


def wrk_argv(port, path, seconds, connections=64, token=None, close=False, tls=False):
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", f"{HERE}/wrk.lua"]
    if token:
        argv += ["-H", "Authorization: Bearer " + token]
    if close:
        argv += ["-H", "Connection: close"]
    return argv + [f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"]


def wrk_env(tokens=None, most=0, body=0):
    env = dict(os.environ)
    if tokens:
        env["W_TOKENS"] = tokens
    if most:
        env["W_MAX"] = str(most)
    if body:
        env.update(W_METHOD="POST", W_BODY=str(body))
    return env


def wrk_result(text, expect):
    found = re.search(r"^JSON (.*)$", text, re.M)
    if not found:
        raise RuntimeError("wrk: " + text)
    result = json.loads(found.group(1))
    # wrk counts what is neither 2xx nor 3xx: all of it where refusals are measured, and nothing elsewhere.
    wrong = result["e_status"] if expect == "ok" else result["req"] - result["e_status"]
    if wrong:
        raise RuntimeError(f"{wrong} of {result['req']} answers are not {expect}")
    return result


def wrk(port, path, seconds, core=CLIENT_CORE, tokens=None, most=0, body=0, expect="ok", **options):
    argv = on_core(wrk_argv(port, path, seconds, **options), core)
    run = subprocess.run(argv, env=wrk_env(tokens, most, body), capture_output=True, text=True, timeout=seconds + 30)
    return wrk_result(run.stdout + run.stderr, expect)


class Flood:
    """Forged tokens, each another one, as fast as they are refused."""
    def __init__(self, d, port, connections, seconds):
        argv = on_core(["nice", "-n", str(FLOOD_NICE)] + wrk_argv(port, "/small", seconds, connections))
        self.p = subprocess.Popen(argv, env=wrk_env(f"{d}/bad.txt"), stdout=subprocess.PIPE, text=True)

    def stop(self):
        self.p.terminate()
        self.p.wait()

    def result(self):
        found = json.loads(re.search(r"^JSON (.*)$", self.p.communicate()[0], re.M).group(1))
        return {"flood_rps": found["req"] / found["us"] * 1e6, "flood_passed": found["req"] - found["e_status"],
                "flood_unanswered": found["e_timeout"] + found["e_conn"]}


def oha(port, path, rate, seconds, token, program, core=CLIENT_CORE):
    argv = on_core([program, "-q", str(rate), "-c", "16", "-z", f"{seconds}s", "--no-tui", "--output-format", "json",
                    "--latency-correction"], core)
    if token:
        argv += ["-H", "Authorization: Bearer " + token]
    run = subprocess.run(argv + [f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=seconds + 20)
    found = json.loads(run.stdout)
    at = found["latencyPercentiles"]
    return {"req": sum(found["statusCodeDistribution"].values()), "ok": found["statusCodeDistribution"].get("200", 0),
            "p50": at["p50"] * 1e6, "p99": at["p99"] * 1e6, "p999": at["p99.9"] * 1e6}


def h2load(port, path, seconds, token, core=CLIENT_CORE):
    argv = on_core(["h2load", "-c8", "-m8", "-t1", "-D", str(seconds), f"http://127.0.0.1:{port}{path}"], core)
    if token:
        argv += ["-H", "authorization: Bearer " + token]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 20).stdout
    status = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    rate = re.search(r"finished in ([\d.]+)s, ([\d.]+) req/s", out)
    if int(status.group(3)) + int(status.group(4)):
        raise RuntimeError("h2load: " + status.group(0))
    return {"req": int(status.group(1)), "rps": float(rate.group(2))}


def paced(port, rate, connections, seconds, tokens, *more):
    argv = on_core([sys.executable, f"{HERE}/paced.py", "rate"] + [str(x) for x in (port, rate, connections, seconds, tokens, *more)])
    return json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout)


class Idle:
    """Connections that have asked once and are kept, from several processes."""
    EACH = 5000

    def __init__(self, d, port, connections):
        self.all = []
        try:
            for first in range(0, connections, self.EACH):
                count = min(self.EACH, connections - first)
                argv = on_core([sys.executable, f"{HERE}/paced.py", "idle", str(port), str(count), f"{d}/hot.txt"])
                self.all.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True))
            for p in self.all:
                line = p.stdout.readline()
                if not line.startswith("READY"):
                    raise RuntimeError("not all idle connections were served")
        except BaseException:
            self.stop()
            raise

    def let_go(self):
        """How many were still there."""
        alive = 0
        for p in self.all:
            out, _ = p.communicate("\n")
            alive += json.loads(out)["alive"]
        return alive

    def stop(self):
        for p in self.all:
            p.kill()
            p.wait()


def measured(peer, load):
    """What a load came to, and what the peer's processes spent on it."""
    pids = peer.proc.pids() if peer.proc else []
    before, began = cpu(pids), time.perf_counter()
    result = load()
    spent, took = cpu(pids) - before, time.perf_counter() - began
    if peer.proc:
        result["cpu_us_req"] = spent / result["req"] * 1e6 if result["req"] else None
        result["cpu_pct"] = spent / took * 100
        result["rss_kb"] = memory(pids)
    if "us" in result:
        result.setdefault("rps", result["req"] / result["us"] * 1e6)
    return result


def sanity(peer, d, hot):
    """Whether the peer does the same job: {what: status}."""
    spoofed, found = {"x-auth-sub": "spoofed"}, {}
    address = f"127.0.0.1:{peer.port}"
    found["hot token"], body = get(address, "/echo", hot, spoofed)
    found["sub header"] = body.decode(errors="replace")
    found["no token"], _ = get(address, "/echo")
    with open(f"{d}/refuse.json") as f:
        refuse = json.load(f)
    for what, token in refuse.items():
        found[what], _ = get(address, "/echo", token, spoofed)
    unsound = [what for what in ("no token", *refuse) if found[what] not in (400, 401, 403)]
    if found["hot token"] != 200 or not found["sub header"].startswith("sub=auth0|"):
        unsound.append("hot token")
    found["unsound"] = unsound
    return found


def sse(peer, d, streams, hz, seconds):
    pids = peer.proc.pids()
    before = memory(pids)
    argv = on_core([sys.executable, f"{HERE}/sse.py", "client"] + [str(x) for x in (peer.port, streams, hz, seconds)] + [f"{d}/hot.txt"])
    client = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    client.stdout.readline()
    spent, began = cpu(pids), time.perf_counter()
    result = json.loads(client.stdout.readline())
    spent, took = cpu(pids) - spent, time.perf_counter() - began
    result["rss_before_kb"], result["rss_kb"] = before, memory(pids)
    result["kb_per_stream"] = (result["rss_kb"] - before) / streams
    result["cpu_pct"] = spent / took * 100
    result["cpu_us_event"] = spent * 1e6 / result["events"] if result["events"] else None
    client.communicate("\n", timeout=10)
    if result["bad"] or result["lost"]:
        raise RuntimeError(f"{result['bad']} streams were refused, {result['lost']} were lost")
    return result


def put_keys(d, name):
    """Replaces the key set that is being served, in one step."""
    with open(f"{d}/jwks-{name}.json") as f:
        write(f"{d}/www/rotating.next", f.read())
    os.replace(f"{d}/www/rotating.next", f"{d}/www/.well-known/rotating.json")
