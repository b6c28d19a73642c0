"""The programs that are compared: their configurations, and their processes."""
import glob, http.client, json, os, re, shutil, signal, ssl, subprocess, sys, time

from data import AUD, ISS, PERM, write

HERE = os.path.dirname(os.path.abspath(__file__))
UP, UP_SSE, UP_H2 = "127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9005"
FIRST_PORT, H2_OFFSET = 9100, 50
JS_MODULE = "/usr/lib/nginx/modules/ngx_http_js_module.so"
HZ = os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------ processes
def with_children(pid):
    kids = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            stat = open(path).read()
        except OSError:
            continue
        kids.setdefault(int(stat[stat.rindex(")") + 2:].split()[1]), []).append(int(path.split("/")[2]))
    found, todo = [pid], [pid]
    while todo:
        for child in kids.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def cpu(pids):
    """Seconds on CPU, user and system: schedstat (ns) where it is there, else stat (ticks)."""
    total = 0.0
    for pid in pids:
        try:
            stat = open(f"/proc/{pid}/stat").read()
            fields = stat[stat.rindex(")") + 2:].split()
            ticks = (int(fields[11]) + int(fields[12])) / HZ
            try:
                ns = sum(int(open(x).read().split()[0]) for x in glob.glob(f"/proc/{pid}/task/*/schedstat"))
                total += ns / 1e9 if ns else ticks
            except OSError:
                total += ticks
        except OSError:
            pass
    return total


def memory(pids, what="VmRSS"):
    """KiB, summed over processes."""
    total = 0
    for pid in pids:
        try:
            total += int(re.search(what + r":\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1))
        except (OSError, AttributeError):
            pass
    return total


class Proc:
    def __init__(self, argv, core=None, env=None, cwd=None, log="/dev/null"):
        if core is not None:
            argv = ["taskset", "-c", str(core)] + argv
        self.began = time.perf_counter()
        with open(log, "w") as out:
            self.p = subprocess.Popen(argv, env={**os.environ, **(env or {})}, cwd=cwd, stdout=out,
                                      stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def pids(self):
        return with_children(self.p.pid)

    def stop(self):
        self.p.terminate()
        try:
            self.p.wait(4)
        except subprocess.TimeoutExpired:
            pass
        # What it has started and not ended is in its group.
        try:
            os.killpg(self.p.pid, signal.SIGKILL)
        except OSError:
            pass
        self.p.wait(2)


def get(address, path="/small", token=None, headers=None, timeout=3, tls=False):
    if tls:
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(address, timeout=timeout, context=trusting)
    else:
        connection = http.client.HTTPConnection(address, timeout=timeout)
    headers = dict(headers or {})
    if token:
        headers["Authorization"] = "Bearer " + token
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# ------------------------------------------------------------------ configurations
# Started by root, nginx would have its workers run as nobody, who cannot read what lies under a private home.
NGINX = ("user root; " if os.geteuid() == 0 else "") + """daemon off; worker_processes {workers}; error_log {d}/nginx-{name}.err; pid {d}/nginx-{name}.pid; {modules}
worker_rlimit_nofile {files}; events {{ worker_connections {connections}; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on; sendfile on;
  client_body_temp_path {d}/tmp-{name}-b; proxy_temp_path {d}/tmp-{name}-p; fastcgi_temp_path {d}/tmp-{name}-f;
  uwsgi_temp_path {d}/tmp-{name}-u; scgi_temp_path {d}/tmp-{name}-s;
  client_max_body_size 0; large_client_header_buffers 4 16k; types {{ }} default_type application/json;
"""
SMALL = '{"ok":true,"message":"' + "x" * 170 + '"}'
FILES = 20_000


def upstream_argv(d):
    """nginx with a small answer, bodies, and a sink; over TCP, HTTP/2 and a unix socket."""
    socket = f"{d}/up.sock"
    if os.path.exists(socket):
        os.remove(socket)
    conf = NGINX.format(workers=1, d=d, name="up", files=FILES, connections=FILES - 500,
                        modules="load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;") + f"""
  open_file_cache max=100; client_body_buffer_size 2m;
  server {{ listen {UP} backlog=4096; listen {UP_H2} http2 backlog=4096; listen unix:{socket}; root {d}/www;
    location = /small {{ return 200 '{SMALL}'; }}
    location /.well-known/ {{ open_file_cache off; }}
    location /route/ {{ return 200 '{SMALL}'; }}
    location = /echo {{ return 200 'sub=$http_x_auth_sub'; }}
    location = /sink {{ echo_read_request_body; echo OK; }}
  }} }}"""
    return ["nginx", "-c", write(f"{d}/up.conf", conf), "-p", d]


def nginx(d, port, up, workers, auth=False, tls=False):
    name = f"p{port}"
    modules = js = location = server = ""
    if auth:
        modules = f"load_module {JS_MODULE};"
        with open(f"{HERE}/jwt.njs.js") as f:
            script = f.read()
        for mark, value in {"@ISS@": ISS, "@AUD@": AUD, "@PERM@": PERM, "@SPKI@": f"{d}/spki.b64"}.items():
            script = script.replace(mark, value)
        write(f"{d}/jwt.js", script)
        js = f"js_path {d}; js_import jwt from jwt.js;"
        location = "auth_request /_jwt; auth_request_set $sub $sent_http_x_sub; proxy_set_header x-auth-sub $sub;"
        server = "location = /_jwt { internal; js_content jwt.check; }"
    buffering = "proxy_buffering off;" if up == UP_SSE else "proxy_max_temp_file_size 0;"
    secure = f"ssl_certificate {d}/tls-cert.pem; ssl_certificate_key {d}/tls-key.pem;" if tls else ""
    conf = NGINX.format(workers=workers, d=d, name=name, modules=modules, files=FILES, connections=FILES - 500) + f"""{js}
  upstream u {{ server {up}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} {"ssl" if tls else ""} backlog=4096; listen 127.0.0.1:{port + H2_OFFSET} http2 backlog=4096;
    {secure} {server}
    location / {{ {location} proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; {buffering} proxy_request_buffering off; proxy_read_timeout 300s; }}
  }} }}"""
    return ["nginx", "-c", write(f"{d}/nginx-{name}.conf", conf), "-p", d]


HAPROXY_JWT = """
  http-request set-header x-auth-sub -
  http-request set-var(txn.alg) http_auth_bearer,jwt_header_query('$.alg')
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_payload_query('$.iss') -m str {iss} }}
  http-request set-var(txn.aud0) http_auth_bearer,jwt_payload_query('$.aud[0]')
  http-request set-var(txn.aud1) http_auth_bearer,jwt_payload_query('$.aud')
  http-request deny deny_status 401 unless {{ var(txn.aud0) -m str {aud} }} or {{ var(txn.aud1) -m str {aud} }}
  http-request set-var(txn.exp) http_auth_bearer,jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.exp),sub(txn.now) -m int gt 0 }}
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_verify(txn.alg,"{d}/pub.pem") -m int 1 }}
  http-request set-var(txn.p0) http_auth_bearer,jwt_payload_query('$.permissions[0]')
  http-request set-var(txn.p1) http_auth_bearer,jwt_payload_query('$.permissions[1]')
  http-request set-var(txn.p2) http_auth_bearer,jwt_payload_query('$.permissions[2]')
  http-request deny deny_status 403 unless {{ var(txn.p0) -m str {perm} }} or {{ var(txn.p1) -m str {perm} }} or {{ var(txn.p2) -m str {perm} }}
  http-request set-header x-auth-sub %[http_auth_bearer,jwt_payload_query('$.sub')]"""


def haproxy(d, port, up, workers, auth=False, tls=False):
    secure = f"ssl crt {d}/tls-both.pem" if tls else ""
    # Without no-delay it holds chunks of a stream back for 200 ms.
    delay = "option http-no-delay" if up == UP_SSE else ""
    rules = HAPROXY_JWT.format(iss=ISS, aud=AUD, perm=PERM, d=d) if auth else ""
    server = up.replace("unix:", "unix@")
    conf = f"""global
  nbthread {workers}
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
  {delay}
frontend f
  bind 127.0.0.1:{port} {secure} backlog 4096
  bind 127.0.0.1:{port + H2_OFFSET} proto h2{rules}
  default_backend b
backend b
  server s {server} pool-max-conn 2000
"""
    return ["haproxy", "-db", "-f", write(f"{d}/haproxy-{port}.cfg", conf)]


def envoy(d, port, up, workers, program, auth=False, cache=False, jwks="jwks.json"):
    kind = "type.googleapis.com/envoy.extensions.filters.http."
    filters = []
    if auth:
        provider = {"issuer": ISS, "audiences": [AUD], "forward": True, "payload_in_metadata": "jwt_payload",
                    "require_expiration": True, "local_jwks": {"filename": f"{d}/{jwks}"},
                    "claim_to_headers": [{"header_name": "x-auth-sub", "claim_name": "sub"}]}
        if cache:
            provider["jwt_cache_config"] = {"jwt_cache_size": 20000, "jwt_max_token_size": 4096}
        filters.append({"name": "envoy.filters.http.jwt_authn", "typed_config": {
            "@type": kind + "jwt_authn.v3.JwtAuthentication", "providers": {"a": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "a"}}]}})
        has_permission = {"metadata": {"filter": "envoy.filters.http.jwt_authn",
                                       "path": [{"key": "jwt_payload"}, {"key": "permissions"}],
                                       "value": {"list_match": {"one_of": {"string_match": {"exact": PERM}}}}}}
        policy = {"permissions": [{"any": True}], "principals": [has_permission]}
        filters.append({"name": "envoy.filters.http.rbac", "typed_config": {
            "@type": kind + "rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": {"p": policy}}}})
    filters.append({"name": "envoy.filters.http.router", "typed_config": {"@type": kind + "router.v3.Router"}})
    socket = lambda address: {"socket_address": {"address": address.split(":")[0], "port_value": int(address.split(":")[1])}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "u", "timeout": "0s"}}]
    manager = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
               "stat_prefix": "h", "codec_type": "AUTO", "generate_request_id": False, "http_filters": filters,
               "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    many = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": socket(up)}}]}]
    cluster = {"name": "u", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
               "load_assignment": {"cluster_name": "u", "endpoints": endpoints}}
    listener = {"name": "l", "address": socket(f"127.0.0.1:{port}"), "filter_chains": [chain]}
    conf = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path = write(f"{d}/envoy-{port}.json", json.dumps(conf, indent=1))
    return [program, "-c", path, "--concurrency", str(workers), "--disable-hot-restart", "--log-level", "error"]


def caddy(d, port, up, program):
    conf = f"""{{
  admin off
  auto_https off
  persist_config off
  log {{
    output discard
  }}
  servers {{
    protocols h1 h2c
  }}
}}
:{port} {{
  bind 127.0.0.1
  reverse_proxy {up} {{
    flush_interval -1
    transport http {{
      keepalive_idle_conns_per_host 256
    }}
  }}
}}
"""
    return [program, "run", "--config", write(f"{d}/Caddyfile-{port}", conf), "--adapter", "caddyfile"]


def authgate(d, port, up, workers, program, log, tls=False, h2_upstream=False, routes=0, keys=None, algorithm="RS256"):
    """As its users would configure it; `log` is its log filter."""
    upstream = up if up.startswith("unix:") else f"http://{up}"
    conf = f"""listen = "127.0.0.1:{port}"
upstream = "{upstream}"
upstream_protocol = "{"http2" if h2_upstream else "http1"}"
admin = "off"
workers = {workers}

[auth0]
domain = "{ISS.removeprefix('https://').rstrip('/')}"
audience = "{AUD}"
algorithms = ["{algorithm}"]
[auth0.keys]
{keys or f'file = "{d}/jwks.json"'}

[identity]
subject_header = "x-auth-sub"

[require]
permissions = ["{PERM}"]
"""
    if tls:
        conf += f'\n[tls]\ncert_file = "{d}/tls-cert.pem"\nkey_file = "{d}/tls-key.pem"\n'
    for i in range(routes):
        conf += f'\n[[route]]\npath = "/route/{i}/**"\nmethods = ["GET", "POST"]\n'
    return [program, "--config", write(f"{d}/authgate-{port}.toml", conf), "--log", log, "--log-format", "json"]


# ------------------------------------------------------------------ peers
class Peer:
    """`make(port, upstream, workers, **options)` gives its command, or that and its environment and directory."""
    def __init__(self, name, make, program, auth=True, h2=None, cached=False):
        self.name, self.make, self.program = name, make, program
        # Whether it authenticates; where its h2c port is (None: nowhere); whether it keeps verified tokens.
        self.auth, self.h2, self.cached = auth, h2, cached
        self.proc = None

    def start(self, d, port, up=UP, workers=1, core=0, token=None, **options):
        """Ready when /small is answered with 200, for this token."""
        made = self.make(port, up, workers, **options)
        argv, env, cwd = made if isinstance(made, tuple) else (made, {}, None)
        self.port = port
        self.proc = Proc(argv, core, env, cwd, f"{d}/log-{self.name}.txt")
        end = time.perf_counter() + 15
        while True:
            try:
                path = "/x" if up == UP_SSE else "/small"
                status, _ = get(f"127.0.0.1:{port}", path, token, timeout=1, tls=options.get("tls", False))
                if status == 200:
                    break
            except (OSError, http.client.HTTPException):
                pass
            if time.perf_counter() > end or self.proc.p.poll() is not None:
                self.stop()
                raise RuntimeError(f"{self.name} did not start; see {d}/log-{self.name}.txt")
            time.sleep(0.001)
        self.ready_ms = (time.perf_counter() - self.proc.began) * 1000
        return self

    def stop(self):
        if self.proc:
            self.proc.stop()
            self.proc = None


def all_peers(a, d):
    nginx_at, haproxy_at, node_at = shutil.which("nginx"), shutil.which("haproxy"), shutil.which("node")
    home = {"XDG_CONFIG_HOME": d, "XDG_DATA_HOME": d, "HOME": d}

    def node(port, up, workers, auth="auth0"):
        env = {"NODE_ENV": "production", "PORT": str(port), "UPSTREAM": up, "AUTH": auth, "ISS": ISS, "AUD": AUD, "PERM": PERM,
               "JWKS_URI": f"http://{UP}/.well-known/jwks.json", "NODE_PATH": f"{a.work}/node/node_modules"}
        return ["node", f"{HERE}/node/server.js"], env, f"{a.work}/node"

    peers = [
        Peer("nginx-plain", lambda *x, **o: nginx(d, *x, **o), nginx_at, False, H2_OFFSET),
        Peer("haproxy-plain", lambda *x, **o: haproxy(d, *x, **o), haproxy_at, False, H2_OFFSET),
        Peer("envoy-plain", lambda *x: envoy(d, *x, a.envoy), a.envoy, False, 0),
        Peer("caddy-plain", lambda port, up, w: (caddy(d, port, up, a.caddy), {**home, "GOMAXPROCS": str(w)}, None), a.caddy, False, 0),
        Peer("node-plain", lambda *x: node(*x, "none"), node_at, False),
        Peer("haproxy-jwt", lambda *x, **o: haproxy(d, *x, auth=True, **o), haproxy_at, True, H2_OFFSET),
        Peer("envoy-jwt", lambda *x: envoy(d, *x, a.envoy, auth=True), a.envoy, True, 0),
        Peer("envoy-jwt-cache", lambda *x, **o: envoy(d, *x, a.envoy, auth=True, cache=True, **o), a.envoy, True, 0, True),
        Peer("nginx-njs", lambda *x: nginx(d, *x, auth=True), nginx_at and JS_MODULE, True, H2_OFFSET),
        Peer("node-auth0", node, node_at),
    ]
    if a.authgate:
        for name, log in (("authgate", "info"), ("authgate-quiet", "warn")):
            make = lambda *x, log=log, **o: authgate(d, *x, a.authgate, log, **o)
            peers.append(Peer(name, make, a.authgate, True, 0, True))
    chosen = []
    for peer in peers:
        if a.peers and not re.fullmatch(a.peers, peer.name):
            continue
        if not peer.program or not os.path.exists(peer.program):
            print(f"skip {peer.name}: {peer.program or 'its program'} is not here", file=sys.stderr)
            continue
        chosen.append(peer)
    return chosen
