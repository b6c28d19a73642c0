//! Who is answered by the admin listener, and that nobody keeps probes waiting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::issuer::Issuer;
use crate::support::proxy::{program, run_to_end};
use crate::support::wire::Wire;
use crate::support::{Client, Proxy, Request, Response, Setup, Upstream, within};

/// Many times as many as are served at a time, and fewer than the kernel's queue holds.
const SLOW: usize = 1000;

/// The beginning of a request whose end never comes.
const UNFINISHED: &[u8] = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ";

const LONG_LINGER: &str = "[timeouts]\nlinger = \"300s\"\ndrain = \"400s\"";

async fn started() -> (Issuer, Upstream, Proxy) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = Setup::new(&issuer, &upstream).rest(LONG_LINGER);
    let proxy = setup.start().await;
    (issuer, upstream, proxy)
}

async fn slow_clients(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(proxy.admin).await;
        client.send(UNFINISHED).await;
        clients.push(client);
    }
    clients
}

async fn ask(proxy: &Proxy, method: &str, path: &str, host: Option<&str>) -> Response {
    let request = Request::new(method, path).host(host);
    request.send(proxy.admin).await
}

async fn assert_served(proxy: &Proxy, path: &str, hosts: &[&str]) {
    for host in hosts {
        let answer = ask(proxy, "GET", path, Some(host)).await;
        assert_eq!(answer.status(), 200, "{path} {host}");
    }
}

async fn assert_ready(proxy: &Proxy) {
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
}

#[tokio::test]
async fn slow_clients_keep_no_probe_waiting() {
    let (_issuer, _upstream, proxy) = started().await;
    let slow = slow_clients(&proxy, SLOW).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(proxy.admin("GET", path).await.status(), 200, "{path}");
    }
    // They are held in bounds, too: most of them were let go.
    let mut gone = 0;
    for mut client in slow {
        client.closed().await;
        gone += 1;
    }
    assert_eq!(gone, SLOW);
    assert_ready(&proxy).await;
}

/// All of them are there at once, and a probe has come in their middle: whoever has sent a request gets an
/// answer, however many have come since.
#[tokio::test]
async fn a_probe_among_newcomers_has_its_turn() {
    let (_issuer, _upstream, proxy) = started().await;
    let mut probes = Vec::new();
    let mut slow = Vec::new();
    proxy
        .while_stopped(async {
            for _ in 0..5 {
                slow.append(&mut slow_clients(&proxy, 200).await);
                let probe = Request::get("/livez").host(None);
                probes.push(probe.open(proxy.admin).await);
            }
            slow.append(&mut slow_clients(&proxy, 200).await);
        })
        .await;
    for mut probe in probes {
        assert_eq!(probe.response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_head_is_held_in_bounds() {
    let (_issuer, _upstream, proxy) = started().await;
    let with = |length: usize| {
        let token = format!("Bearer {}", "x".repeat(length));
        let request = Request::get("/metrics").host(None);
        request.header("Authorization", &token)
    };
    assert_eq!(with(8000).send(proxy.admin).await.status(), 200);
    assert_eq!(with(64_000).send(proxy.admin).await.status(), 431);
    assert_ready(&proxy).await;
}

#[tokio::test]
async fn the_kubelet_probes_by_address() {
    let (_issuer, _upstream, proxy) = started().await;
    for path in ["/livez", "/readyz"] {
        assert_served(&proxy, path, &["10.0.0.5:9090", "[fd00::5]:9090"]).await;
    }
}

#[tokio::test]
async fn prometheus_scrapes_by_address() {
    let (_issuer, _upstream, proxy) = started().await;
    let hosts = [
        "10.0.0.5:9090",
        "10.0.0.5",
        "[fd00::5]:9090",
        "[::1]",
        "localhost:9090",
    ];
    assert_served(&proxy, "/metrics", &hosts).await;
    assert_eq!(ask(&proxy, "GET", "/metrics", None).await.status(), 200);
}

#[tokio::test]
async fn prometheus_scrapes_by_service_name() {
    let (_issuer, _upstream, proxy) = started().await;
    let hosts = [
        "authgate.default.svc:9090",
        "authgate.default.svc.cluster.local:9090",
        "10-0-0-5.authgate.default.svc.cluster.local",
        "authgate.corp.internal",
    ];
    assert_served(&proxy, "/metrics", &hosts).await;
}

#[tokio::test]
async fn prometheus_scrapes_by_compose_name() {
    let (_issuer, _upstream, proxy) = started().await;
    assert_served(
        &proxy,
        "/metrics",
        &["authgate:9090", "my_stack-authgate-1:9090"],
    )
    .await;
}

/// What a page that has its own name resolve to this address says, and what is no host.
#[tokio::test]
async fn foreign_hosts_get_probes_and_nothing_else() {
    let (_issuer, _upstream, proxy) = started().await;
    for host in [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "EVIL.EXAMPLE",
        "evil.example.",
        "localhost@evil.example",
        "localhost:9090@evil.example",
        "",
    ] {
        for path in ["/livez", "/readyz"] {
            let answer = ask(&proxy, "GET", path, Some(host)).await;
            assert_eq!(answer.status(), 200, "{host:?} {path}");
        }
        for (method, path) in [
            ("GET", "/metrics"),
            ("POST", "/drain"),
            ("GET", "/"),
            ("GET", "/drain"),
        ] {
            let answer = ask(&proxy, method, path, Some(host)).await;
            assert_eq!(answer.status(), 403, "{host:?} {path}");
            let told = answer.json();
            let told = told["status"].as_str().expect("words");
            assert!(told.contains("admin_hosts"), "{told}");
        }
    }
    let two = |path| {
        Request::get(path)
            .host(Some("localhost"))
            .header("Host", "localhost")
    };
    assert_eq!(two("/metrics").send(proxy.admin).await.status(), 403);
    assert_eq!(two("/livez").send(proxy.admin).await.status(), 200);
    // The target has the last word (RFC 9112 §3.2.2).
    for (target, status) in [
        ("http://evil.example/metrics", 403),
        ("http://authgate:9090/metrics", 200),
    ] {
        let answer = ask(&proxy, "GET", target, Some("localhost")).await;
        assert_eq!(answer.status(), status, "{target}");
    }
    assert_ready(&proxy).await;
}

#[tokio::test]
async fn web_pages_get_probes_and_nothing_else() {
    let (_issuer, _upstream, proxy) = started().await;
    for origin in ["https://evil.example", "http://localhost:9090", "null", ""] {
        for (method, path, status) in [
            ("GET", "/livez", 200),
            ("GET", "/readyz", 200),
            ("GET", "/metrics", 403),
            ("HEAD", "/metrics", 403),
            ("POST", "/drain", 403),
            ("OPTIONS", "/drain", 403),
            ("GET", "/", 403),
        ] {
            let request = Request::new(method, path)
                .host(None)
                .header("Origin", origin);
            let answer = request.send(proxy.admin).await;
            assert_eq!(answer.status(), status, "{origin:?} {method} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_ready(&proxy).await;
}

#[tokio::test]
async fn further_hosts_come_with_a_reload() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = |hosts: &str| Setup::new(&issuer, &upstream).top(&format!("admin_hosts = {hosts}"));
    let proxy = setup("[]").start().await;
    let scrape = async |host| ask(&proxy, "GET", "/metrics", Some(host)).await.status();
    assert_eq!(scrape("metrics.example.com").await, 403);
    proxy
        .reload(&setup(
            "[\"metrics.example.com\", \"other.example.com:9090\"]",
        ))
        .await;
    for (host, status) in [
        ("metrics.example.com", 200),
        ("Metrics.Example.com:9090", 200),
        ("other.example.com:9090", 200),
        ("other.example.com", 403),
        ("x.metrics.example.com", 403),
        ("authgate:9090", 200),
    ] {
        assert_eq!(scrape(host).await, status, "{host}");
    }
}

/// An address of this machine that is not a loopback one.
fn own_address() -> IpAddr {
    let table = std::fs::read_to_string("/proc/net/fib_trie").expect("/proc");
    let lines: Vec<&str> = table.lines().collect();
    let local = lines
        .windows(2)
        .filter(|two| two[1].contains("/32 host LOCAL"));
    let addresses =
        local.filter_map(|two| two[0].split_whitespace().last()?.parse::<Ipv4Addr>().ok());
    let address = addresses.into_iter().find(|address| !address.is_loopback());
    address
        .expect("a machine with an address beside loopback")
        .into()
}

async fn drain_from(source: IpAddr, admin: SocketAddr) -> Response {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(SocketAddr::new(source, 0))
        .expect("an address of this machine");
    let stream = within("a connection", socket.connect(admin))
        .await
        .expect("a connection");
    let mut client = Client::over(Wire::new(stream));
    client
        .request(&Request::post("/drain", "").host(None))
        .await
}

#[tokio::test]
async fn only_this_machine_drains_unless_anyone_may() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = |drain: &str| {
        let setup = Setup::new(&issuer, &upstream).rest(LONG_LINGER);
        setup.top(&format!("admin_drain = \"{drain}\""))
    };
    let proxy = setup("local").start().await;
    // To the listener, the client has an address that is neither loopback nor the one that was dialled.
    let answer = drain_from(own_address(), proxy.admin).await;
    assert_eq!(answer.status(), 403);
    let told = answer.json();
    let told = told["status"].as_str().expect("words");
    assert!(told.contains("admin_drain"), "{told}");
    assert_ready(&proxy).await;
    proxy.reload(&setup("anyone")).await;
    assert_eq!(drain_from(own_address(), proxy.admin).await.status(), 200);
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 503);
    let warning = proxy.event("the drain", |event| {
        event["level"] == "WARN" && event["client"].is_string()
    });
    assert_eq!(warning.await["client"], own_address().to_string());
}

#[tokio::test]
async fn the_drain_command_reaches_every_kind_of_listener() {
    for address in [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 0, 0, 2).into(),
        Ipv4Addr::UNSPECIFIED.into(),
        own_address(),
        IpAddr::from(Ipv6Addr::LOCALHOST),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        let issuer = Issuer::start();
        let upstream = Upstream::hello();
        let setup = Setup::new(&issuer, &upstream).rest(LONG_LINGER);
        let proxy = setup.admin_on(address).start().await;
        assert_ready(&proxy).await;
        let admin = proxy.admin.to_string();
        let mut command = program();
        command.args(["drain", "--admin", &admin]);
        let output = run_to_end(command, "").await;
        assert_eq!(output.status.code(), Some(0), "{address}: {output:?}");
        assert_eq!(
            proxy.admin("GET", "/readyz").await.status(),
            503,
            "{address}"
        );
    }
    // Over IPv4 to a listener of IPv6, where addresses are mapped.
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = Setup::new(&issuer, &upstream).rest(LONG_LINGER);
    let proxy = setup.admin_on(Ipv6Addr::UNSPECIFIED.into()).start().await;
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.admin.port()));
    assert_eq!(drain_from(own_address(), mapped).await.status(), 403);
    let request = Request::post("/drain", "").host(None);
    assert_eq!(request.send(mapped).await.status(), 200);
}
