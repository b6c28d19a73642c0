#!/usr/bin/env python3
"""Side-by-side benchmark of reverse proxies that verify JWTs. See README.md.

The robust figure is CPU time of the proxy per request; req/s and latency are only fair
inside one run. Everything is on 127.0.0.1, and every load is bounded in time."""
import argparse, glob, json, os, resource, shutil, signal, statistics, subprocess, sys, time

import data

CASES = """sanity start hot cold cold_warm badsig notoken 64k 1m post1m churn h2 lat500 w2_hot sse1000 sseburst
    flood64 flood2000 firstsight64 firstsight2000 tls uds h2up idle10k routes10k rotation tokens200k""".split()
ROUTES, IDLE = 10_000, 10_000
ECHO_MODULE = "/usr/lib/nginx/modules/ngx_http_echo_module.so"
# What the cases are measured with, and the Debian package that has it.
TOOLS = {"wrk": ("wrk", set(CASES) - {"sanity", "start", "h2", "lat500", "sse1000", "sseburst", "rotation"}),
         "h2load": ("nghttp2-client", {"h2"}), "oha": ("cargo install oha --locked", {"lat500", "flood64", "flood2000"})}


def check_tools(a):
    """Without the backend nothing can be measured; without a tool its cases are left out. One line for each."""
    needed = [("nginx", shutil.which("nginx"), "nginx-light"), ("taskset", shutil.which("taskset"), "util-linux"),
              ("nginx's echo module", os.path.exists(ECHO_MODULE), "libnginx-mod-http-echo")]
    for name, is_here, package in needed:
        if not is_here:
            sys.exit(f"bench.py: {name} is not here; it is in {package}")
    for tool, (package, cases) in TOOLS.items():
        is_here = os.path.exists(a.oha) if tool == "oha" else shutil.which(tool)
        left_out = [] if is_here else [case for case in a.cases if case in cases]
        if left_out:
            print(f"skip {', '.join(left_out)}: {tool} is not here; it is in {package}", file=sys.stderr)
            a.cases = [case for case in a.cases if case not in left_out]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", default=os.path.expanduser("~/.cache/authgate-bench"), help="where keys, tokens and the venv are kept")
    p.add_argument("--authgate", type=os.path.abspath, help="the authgate binary (release build)")
    p.add_argument("--envoy", help="default: the one in the venv")
    p.add_argument("--caddy", help="default: the one in the venv")
    p.add_argument("--oha", default=shutil.which("oha") or os.path.expanduser("~/.cargo/bin/oha"))
    p.add_argument("--peers", help="regular expression of peer names")
    p.add_argument("--cases", default=",".join(CASES))
    p.add_argument("--secs", type=int, default=3, help="of each load; 10 at most")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--out", help="the JSON file with every figure")
    a = p.parse_args()
    a.secs, a.cases = min(a.secs, 10), a.cases.split(",")
    if unknown := set(a.cases) - set(CASES):
        p.error(f"no such case: {', '.join(sorted(unknown))}")
    check_tools(a)
    # Whoever stops this stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(a.work, exist_ok=True)
    data.ensure_venv(a.work)
    a.envoy = a.envoy or next(iter(glob.glob(f"{a.work}/venv/lib/python3*/site-packages/envoy/_bin/envoy")), None)
    a.caddy = a.caddy or f"{a.work}/venv/bin/caddy"
    a.out = a.out or f"{a.work}/results-{time.strftime('%H%M%S')}.json"
    # Clients and peers inherit it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    d = f"{a.work}/data"
    data.make(d, a.cases)
    from peers import HERE
    if not os.path.isdir(f"{a.work}/node/node_modules") and shutil.which("npm"):
        os.makedirs(f"{a.work}/node", exist_ok=True)
        shutil.copy(f"{HERE}/node/package.json", f"{a.work}/node/")
        subprocess.run(["npm", "i", "--no-audit", "--no-fund"], cwd=f"{a.work}/node", check=False)
    run = Run(a, d)
    try:
        run.all()
    finally:
        run.close()
    table(run.results)
    print("results:", a.out)


class Run:
    def __init__(self, a, d):
        from peers import Peer, all_peers, UP
        self.a, self.d = a, d
        with open(f"{d}/hot.txt") as f:
            self.hot = f.read().strip()
        self.peers = all_peers(a, d)
        self.direct = Peer("direct", None, None, auth=False)
        self.direct.port = int(UP.split(":")[1])
        self.results = {"when": time.strftime("%F %T"), "secs": a.secs, "rounds": a.rounds,
                        "peers": {p.name: {} for p in [*self.peers, self.direct]}}
        # How many of tokens.txt have been shown to the peer that runs.
        self.shown = 0
        self.background = []

    def backends(self):
        from peers import Proc, get, upstream_argv, HERE, UP, UP_SSE
        for argv, log in ((upstream_argv(self.d), "log-up.txt"),
                          ([sys.executable, f"{HERE}/sse.py", "server", UP_SSE.split(":")[1]], "log-sse.txt")):
            self.background.append(Proc(argv, 1, log=f"{self.d}/{log}"))
        time.sleep(0.7)
        try:
            get(UP), get(UP_SSE, "/x")
        except OSError as error:
            sys.exit(f"bench.py: the backend does not answer ({error}): see {self.d}/log-up.txt")

    def close(self):
        for peer in self.peers:
            peer.stop()
        for proc in self.background:
            proc.stop()
        self.save()

    def save(self):
        with open(self.a.out, "w") as f:
            json.dump(self.results, f, indent=1)

    # -------------------------------------------------------------- the way through
    def token(self, peer):
        return self.hot if peer.auth else None

    def put(self, peer, case, result):
        self.results["peers"][peer.name].setdefault(case, []).append(result)
        self.save()
        shown = {k: round(v, 1) if isinstance(v, float) else v for k, v in result.items() if not isinstance(v, (list, dict))}
        print(f"{case:14} {peer.name:16} {shown}", flush=True)

    def attempt(self, peer, case, fn):
        try:
            self.put(peer, case, fn())
        except Exception as error:
            self.results["peers"][peer.name].setdefault("failed", []).append(f"{case}: {error!r}"[:300])
            print(f"{case:14} {peer.name:16} FAILED {error!r}"[:300], flush=True)

    def each(self, case, fn, who=lambda p: True, rounds=None, with_direct=False):
        """Peers that are running take turns, in another order each round."""
        if case not in self.a.cases:
            return
        for n in range(rounds or self.a.rounds):
            order = [p for p in self.peers if p.proc and who(p)]
            turn = n % max(1, len(order))
            for peer in [self.direct] * with_direct + order[turn:] + order[:turn]:
                self.attempt(peer, case, lambda: fn(peer))

    def afresh(self, case, fn, who=lambda p: True, rounds=None, **options):
        """Each peer alone, in a process that was started for it."""
        if case not in self.a.cases:
            return
        for n in range(rounds or self.a.rounds):
            order = [p for p in self.peers if who(p)]
            turn = n % max(1, len(order))
            for peer in order[turn:] + order[:turn]:
                self.attempt(peer, case, lambda: self.alone(peer, fn, options))

    def alone(self, peer, fn, options):
        from peers import FIRST_PORT
        try:
            self.shown = 0
            peer.start(self.d, FIRST_PORT, **{"token": self.token(peer), **options})
            return fn(peer)
        finally:
            peer.stop()

    def all(self):
        self.backends()
        self.start_up()
        self.side_by_side()
        self.by_themselves()

    # -------------------------------------------------------------- cases
    def start_up(self):
        from peers import cpu, memory
        def start(peer):
            time.sleep(0.4)
            pids = peer.proc.pids()
            spent, pause = cpu(pids), 1.0
            time.sleep(pause)
            return {"ready_ms": peer.ready_ms, "rss_kb": memory(pids), "idle_cpu_pct": (cpu(pids) - spent) / pause * 100}
        self.afresh("start", start)

    def side_by_side(self):
        from loads import h2load, measured, oha, sanity, wrk
        from peers import FIRST_PORT, memory
        a, d = self.a, self.d
        here = {"sanity", "hot", "cold", "cold_warm", "badsig", "notoken", "64k", "1m", "post1m", "churn", "h2", "lat500"}
        if not here & set(a.cases):
            return
        for i, peer in enumerate(self.peers):
            peer.start(d, FIRST_PORT + i, token=self.token(peer))
            self.results["peers"][peer.name]["binary_bytes"] = os.path.getsize(os.path.realpath(peer.program))
            if "sanity" in a.cases and peer.auth:
                self.attempt(peer, "sanity", lambda: sanity(peer, d, self.hot))
        for peer in self.peers:  # warm-up, unmeasured: JIT, allocator, upstream connections
            wrk(peer.port, "/small", 3 if "node" in peer.name else 1, token=self.token(peer))
        auth = lambda p: p.auth
        def load(path, **options):
            return lambda p: measured(p, lambda: wrk(p.port, path, a.secs, token=self.token(p), **options))
        self.each("hot", load("/small"), with_direct=True)
        def cold(peer):
            if peer.cached:
                port = peer.port
                peer.stop()
                peer.start(d, port, token=self.hot)
            return measured(peer, lambda: wrk(peer.port, "/small", 5, tokens=f"{d}/tokens.txt", most=data.DISTINCT - 100))
        self.each("cold", cold, auth)
        self.each("cold_warm", lambda p: measured(p, lambda: wrk(p.port, "/small", a.secs, tokens=f"{d}/tokens.txt")), auth)
        self.each("badsig", lambda p: measured(p, lambda: wrk(p.port, "/small", a.secs, tokens=f"{d}/bad.txt", expect="refusals")), auth)
        self.each("notoken", lambda p: measured(p, lambda: wrk(p.port, "/small", a.secs, expect="refusals")), auth)
        self.each("64k", load("/64k", connections=32), with_direct=True)
        self.each("1m", load("/1m", connections=16), with_direct=True)
        self.each("post1m", load("/sink", connections=8, body=1 << 20), with_direct=True)
        # Ephemeral ports last for some 28,000 connections.
        self.each("churn", lambda p: measured(p, lambda: wrk(p.port, "/small", min(a.secs, 3), token=self.token(p), connections=32, close=True)),
                  with_direct=True)
        self.each("h2", lambda p: measured(p, lambda: h2load(p.port + p.h2, "/small", a.secs, self.token(p))), lambda p: p.h2 is not None)
        self.each("lat500", lambda p: measured(p, lambda: oha(p.port, "/small", 500, 5, self.token(p), a.oha)), with_direct=True, rounds=min(a.rounds, 2))
        for peer in self.peers:
            if peer.proc:
                self.results["peers"][peer.name]["peak_kb"] = memory(peer.proc.pids(), "VmHWM")
            peer.stop()

    def by_themselves(self):
        from loads import measured, oha, paced, put_keys, sse, wrk
        from peers import UP_H2, UP_SSE
        a, d = self.a, self.d
        few = max(1, a.rounds // 2)
        auth, ours = (lambda p: p.auth), (lambda p: p.name.startswith("authgate"))
        quiet = lambda p: p.name == "authgate-quiet"
        hot = lambda core=1, **o: lambda p: measured(p, lambda: wrk(p.port, "/small", a.secs, core=core, token=self.token(p), **o))
        self.afresh("w2_hot", hot(core=None), rounds=min(a.rounds, 2), workers=2, core=None)
        for case, streams, hz, seconds in (("sse1000", 1000, 1, 4), ("sseburst", 100, 50, 3)):
            self.afresh(case, lambda p: sse(p, d, streams, hz, seconds), rounds=few, up=UP_SSE)
        for connections in (64, 2000):
            good = lambda p: oha(p.port, "/small", 500, a.secs, self.hot, a.oha)
            self.afresh(f"flood{connections}", lambda p: self.flooded(p, connections, good), auth)
            new = lambda p: paced(p.port, 50, 5, a.secs, f"{d}/tokens.txt", self.unseen(50 * a.secs))
            self.afresh(f"firstsight{connections}", lambda p: self.flooded(p, connections, new), auth)
        self.afresh("tls", hot(tls=True), lambda p: p.name in ("nginx-plain", "haproxy-plain", "haproxy-jwt") or ours(p), tls=True)
        self.afresh("uds", hot(), lambda p: p.name in ("nginx-plain", "haproxy-plain", "haproxy-jwt") or quiet(p), up=f"unix:{d}/up.sock")
        self.afresh("h2up", hot(), quiet, up=UP_H2, h2_upstream=True)
        self.afresh("idle10k", self.idle, lambda p: p.name in ("nginx-plain", "envoy-jwt-cache") or quiet(p), rounds=few)
        self.afresh("routes10k", self.routes, quiet, routes=ROUTES)
        if "rotation" in a.cases:
            put_keys(d, "old")
        self.afresh("rotation", self.rotation, quiet, rounds=few,
                    keys=f'url = "http://127.0.0.1:9000/.well-known/rotating.json"\nrefresh = "2s"\ncooldown = "1s"')
        self.many_tokens()

    def unseen(self, count):
        """Where in tokens.txt so many begin that the running peer has not seen."""
        first, self.shown = self.shown, self.shown + count
        return first

    def flooded(self, peer, connections, good):
        """The good load alone, and then beside a flood of forged tokens."""
        from loads import Flood, measured
        good(peer)  # warm-up
        alone = good(peer)
        flood = Flood(self.d, peer.port, connections, self.a.secs + 4)
        try:
            time.sleep(2)
            beside = measured(peer, lambda: good(peer))
            del beside["cpu_us_req"]
            result = {"p50_alone": alone["p50"], "p99_alone": alone["p99"], **beside, **flood.result()}
        finally:
            flood.stop()
        for at in ("p50", "p99"):
            result[f"{at}_times"] = result[at] / alone[at] if result[at] else None
        result["failed"] = result["req"] - result["ok"]
        return result

    def idle(self, peer):
        from loads import Idle, measured, wrk
        from peers import memory
        load = lambda: measured(peer, lambda: wrk(peer.port, "/small", self.a.secs, token=self.token(peer)))
        without = load()
        # A proxy may need a second descriptor for each of them, and the load needs some beside.
        count = min(IDLE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 128) // 2 - 100)
        before = memory(peer.proc.pids())
        idle = Idle(self.d, peer.port, count)
        try:
            kb = (memory(peer.proc.pids()) - before) / count
            beside = load()
            return {"connections": count, "kb_each": kb, "rss_kb": beside["rss_kb"], "cpu_us_req": beside["cpu_us_req"],
                    "cpu_us_req_without": without["cpu_us_req"], "rps": beside["rps"], "alive": idle.let_go()}
        finally:
            idle.stop()

    def routes(self, peer):
        from loads import measured, wrk
        return measured(peer, lambda: wrk(peer.port, f"/route/{ROUTES // 2}/x", self.a.secs, token=self.hot))

    def rotation(self, peer):
        """A key joins, its tokens replace the old ones, and the old key leaves, under load."""
        import threading
        from loads import paced, put_keys
        switch, seconds = 4.0, 10
        steps = [threading.Timer(2, put_keys, (self.d, "both")), threading.Timer(7, put_keys, (self.d, "new"))]
        for step in steps:
            step.start()
        try:
            result = paced(peer.port, 500, 16, seconds, f"{self.d}/tokens.txt", 0, switch, f"{self.d}/tokens-new.txt")
        finally:
            for step in steps:
                step.cancel()
            put_keys(self.d, "old")
        result["failed"] = result["req"] - result["ok"]
        result["p99_worst_second"] = max(p99 for _, p99 in result["seconds"])
        result["p99_median_second"] = statistics.median(p99 for _, p99 in result["seconds"])
        return result

    def many_tokens(self):
        """Memory of those who remember tokens, after more of them than they keep."""
        from loads import measured, wrk
        from peers import memory
        def load(peer):
            result = {}
            for upto in (data.MANY // 4, data.MANY // 2, data.MANY):
                spent, first = 0.0, self.shown
                while self.shown < upto:  # wrk may end before it has sent them all
                    part, count = f"{self.d}/tokens-ec-part.txt", upto - self.shown
                    subprocess.run(f"tail -n +{self.shown + 1} {self.d}/tokens-ec.txt | head -n {count} > {part}", shell=True, check=True)
                    found = measured(peer, lambda: wrk(peer.port, "/small", 10, tokens=part, most=count))
                    spent += found["cpu_us_req"] * found["req"]
                    # wrk forgets the answers that were under way when it stopped.
                    self.shown = min(upto, self.shown + found["req"] + 100)
                result[f"cpu_us_req_{upto}"] = spent / (upto - first)
                result[f"rss_kb_{upto}"] = memory(peer.proc.pids())
            result["peak_kb"] = memory(peer.proc.pids(), "VmHWM")
            return result
        if "tokens200k" not in self.a.cases:
            return
        with open(f"{self.d}/tokens-ec.txt") as f:
            token = f.readline().strip()
        options = {"authgate-quiet": {"keys": f'file = "{self.d}/jwks-ec.json"', "algorithm": "ES256"},
                   "envoy-jwt-cache": {"jwks": "jwks-ec.json"}}
        for name, option in options.items():
            self.afresh("tokens200k", load, lambda p, name=name: p.name == name, rounds=1, token=token, **option)


# ------------------------------------------------------------------ tables
def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


TABLES = [
    ("CPU µs per request of the proxy", 1, [(c, c, "cpu_us_req") for c in
     "hot cold cold_warm badsig notoken 64k 1m post1m churn h2 lat500 w2_hot tls uds h2up routes10k idle10k".split()]),
    ("Throughput, latency (µs), start, memory", 0, [
        ("hot req/s", "hot", "rps"), ("p50", "hot", "p50"), ("p99", "hot", "p99"), ("forged/s", "badsig", "rps"),
        ("h2 req/s", "h2", "rps"), ("churn/s", "churn", "rps"), ("500/s p50", "lat500", "p50"), ("p99", "lat500", "p99"),
        ("2 workers req/s", "w2_hot", "rps"), ("ready ms", "start", "ready_ms"), ("idle KB", "start", "rss_kb"),
        ("KB after hot", "hot", "rss_kb"), ("SSE KB/stream", "sse1000", "kb_per_stream"),
        ("SSE CPU µs/event", "sse1000", "cpu_us_event"), ("burst", "sseburst", "cpu_us_event"),
        ("idle connection KB", "idle10k", "kb_each"), ("KB after 200,000 tokens", "tokens200k", "rss_kb_200000")]),
    ("Good traffic beside a flood of forged tokens (p50 and p99 in µs; ×: against the same load alone)", 1, [
        (f"{name}{n} {what}", f"{case}{n}", key) for n in (64, 2000)
        for name, case, keys in (("known ", "flood", (("p50", "p50"), ("×", "p50_times"), ("p99", "p99"), ("×", "p99_times"), ("forged/s", "flood_rps"))),
                                 ("new ", "firstsight", (("p50", "p50"), ("p99", "p99"), ("failed", "failed"))))
        for what, key in keys]),
]


def table(results):
    for title, digits, columns in TABLES:
        rows = []
        for name, cases in results["peers"].items():
            figures = [median([r.get(key) for r in cases.get(case, [])]) for _, case, key in columns]
            if any(f is not None for f in figures):
                rows.append([name] + ["-" if f is None else f"{f:.{digits}f}" for f in figures])
        if rows:
            kept = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != "-" for row in rows)]
            heads = ["peer"] + [head for head, _, _ in columns]
            print(f"\n{title}, median\n| " + " | ".join(heads[i] for i in kept) + " |\n|" + "---|" * len(kept))
            for row in rows:
                print("| " + " | ".join(row[i] for i in kept) + " |")
    for name, cases in results["peers"].items():
        for result in cases.get("rotation", []):
            print(f"\nrotation, {name}: {result['failed']} of {result['req']} failed; p99 by the second: "
                  + " ".join(f"{p99:.0f}" for _, p99 in result["seconds"]))
        for failed in cases.get("failed", []):
            print(f"FAILED {name} {failed}")
        for result in cases.get("sanity", []):
            if result["unsound"]:
                print(f"UNSOUND {name}: {result['unsound']}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "table":
        with open(sys.argv[2]) as f:
            table(json.load(f))
    else:
        main()
