//! What operators do to a running process: ask whether it is ready, and drain it.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::support::h2::H2;
use crate::support::proxy::{program, run_to_end};
use crate::support::upstream::{Feed, response};
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, within};

/// How often a test looks for a change that nothing announces.
const TICK: Duration = Duration::from_millis(20);

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// How long a test that must not linger would have to wait.
const LONG_LINGER: &str = "[timeouts]\nlinger = \"300s\"\ndrain = \"400s\"";

async fn started(issuer: &Issuer, upstream: &Upstream, timeouts: &str) -> Proxy {
    let setup = Setup::new(issuer, upstream).rest(OPEN).rest(timeouts);
    setup.start().await
}

fn streaming_upstream() -> Upstream {
    Upstream::start(|head| match head.target() {
        "/stream" => Reply::events(),
        _ => Reply::ok("hello"),
    })
}

/// What the readiness probe says.
async fn readiness(proxy: &Proxy) -> (u16, String) {
    let answer = proxy.admin("GET", "/readyz").await;
    let reason = answer.json()["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (answer.status(), reason)
}

fn unready() -> (u16, String) {
    (503, "draining".to_owned())
}

async fn assert_served_and_sent_away(proxy: &Proxy) {
    let answer = proxy.send(&Request::get("/x")).await;
    let connection = answer.header("connection");
    assert_eq!((answer.status(), connection), (200, Some("close")));
}

async fn call(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command, "").await
}

fn complaint(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "something on stdout");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_drain_on_request_ends_readiness_and_nothing_else() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = started(&issuer, &upstream, "[timeouts]\nlinger = \"0s\"").await;
    let mut stream = Request::get("/stream").open(proxy.data).await;
    assert_eq!(stream.head().await.status(), 200);
    let exchange = upstream.next().await;
    let mut kept = Client::connect(proxy.data).await;
    let before = kept.request(&Request::get("/x")).await;
    assert_eq!((before.status(), before.header("connection")), (200, None));
    assert_eq!(readiness(&proxy).await.0, 200);

    // The second time is like the first: nothing goes on from there, and nothing goes back.
    for _ in 0..2 {
        let answer = proxy.admin("POST", "/drain").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json()["status"], "draining");
        // The stream, and the kept connection beside it; what was served before may still be on its way out.
        within("the rest of the work", async {
            loop {
                let told = proxy.admin("POST", "/drain").await.json();
                if (&told["requests"], &told["connections"]) == (&1.into(), &2.into()) {
                    break;
                }
                tokio::time::sleep(TICK).await;
            }
        })
        .await;
        assert_eq!(readiness(&proxy).await, unready());
        assert_eq!(proxy.admin("GET", "/livez").await.status(), 200);
        assert_served_and_sent_away(&proxy).await;
    }
    let last = kept.request(&Request::get("/x")).await;
    assert_eq!(
        (last.status(), last.header("connection")),
        (200, Some("close"))
    );
    kept.closed().await;
    let lines = proxy.events();
    let said = |event: &&serde_json::Value| {
        event["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("draining"))
    };
    assert_eq!(lines.iter().filter(said).count(), 1, "{}", proxy.output());

    exchange.send("data: 1\n\n");
    assert_eq!(stream.data().await, "data: 1\n\n");
    proxy.signal("TERM");
    exchange.feed(Feed::End);
    stream.body().await.expect("a proper end");
    assert_eq!(proxy.exit().await.code(), Some(0));
}

/// A balancer that learns of the signal late is served for as long as without a drain before.
#[tokio::test]
async fn the_linger_counts_from_the_signal() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let mut proxy = started(&issuer, &upstream, LONG_LINGER).await;
    assert_eq!(proxy.admin("POST", "/drain").await.status(), 200);
    proxy.signal("TERM");
    let heard = proxy.event("the signal", |event| event["signal"] == "SIGTERM");
    assert_eq!(heard.await["linger_s"], 300.0);
    assert_served_and_sent_away(&proxy).await;
    // A drain on request does not take back what a signal has begun.
    assert_eq!(proxy.admin("POST", "/drain").await.status(), 200);
    assert_served_and_sent_away(&proxy).await;
    proxy.signal("TERM");
    proxy.exit().await;
}

#[tokio::test]
async fn http_2_clients_are_served_and_let_go() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = started(&issuer, &upstream, LONG_LINGER).await;
    let request = || {
        let request = http::Request::get("http://a/x").body(http_body_util::Full::default());
        request.expect("a request")
    };
    let mut served = H2::connect(proxy.data).await;
    assert_eq!(served.send(request()).await.status(), 200);
    assert_eq!(proxy.admin("POST", "/drain").await.status(), 200);
    served.closed().await;
    // A newcomer is heard first.
    let mut late = H2::connect(proxy.data).await;
    assert_eq!(late.send(request()).await.status(), 200);
    late.closed().await;
}

#[tokio::test]
async fn only_a_post_from_no_web_page_drains() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = started(&issuer, &upstream, LONG_LINGER).await;
    for (method, path, status, allowed) in [
        ("GET", "/drain", 405, Some("POST")),
        ("HEAD", "/drain", 405, Some("POST")),
        ("PUT", "/drain", 405, Some("POST")),
        ("DELETE", "/drain", 405, Some("POST")),
        ("POST", "/readyz", 405, Some("GET, HEAD")),
        ("POST", "/metrics", 405, Some("GET, HEAD")),
        ("POST", "/drain/", 404, None),
        ("POST", "/Drain", 404, None),
        ("POST", "/", 404, None),
    ] {
        let answer = proxy.admin(method, path).await;
        let told = (answer.status(), answer.header("allow"));
        assert_eq!(told, (status, allowed), "{method} {path}");
    }
    // A page that somebody opens on this machine can post, but not without saying where it is from.
    for origin in ["https://evil.example", "null", ""] {
        let request = Request::post("/drain", "")
            .host(None)
            .header("Origin", origin);
        assert_eq!(request.send(proxy.admin).await.status(), 403, "{origin:?}");
    }
    assert_eq!(
        proxy.send(&Request::post("/drain", "")).await.status(),
        200,
        "the upstream's"
    );
    assert_eq!(readiness(&proxy).await.0, 200);
}

#[tokio::test]
async fn healthcheck_follows_readiness() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = started(&issuer, &upstream, LONG_LINGER).await;
    let everywhere = format!("0.0.0.0:{}", proxy.admin.port());
    for address in [&proxy.admin.to_string(), &everywhere] {
        let output = call(&["healthcheck", "--admin", address]).await;
        assert_eq!(
            (output.status.code(), complaint(&output).as_str()),
            (Some(0), "")
        );
    }
    // From the variable, and over one from the file.
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, "admin = \"off\"\n").expect("a file");
    let mut command = program();
    command.args(["healthcheck", "--config"]).arg(&file);
    command.env("AUTHGATE_ADMIN", proxy.admin.to_string());
    assert_eq!(run_to_end(command, "").await.status.code(), Some(0));

    proxy.admin("POST", "/drain").await;
    let output = call(&["healthcheck", "--admin", &everywhere]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(complaint(&output), "authgate: not ready: draining\n");
}

#[tokio::test]
async fn healthcheck_is_1_without_keys() {
    let issuer = Issuer::start();
    issuer.go_down();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).launch().await;
    let output = call(&["healthcheck", "--admin", &proxy.admin.to_string()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).starts_with("authgate: not ready: keys"),
        "{}",
        complaint(&output)
    );
}

/// Both commands, against what is not a ready authgate: nobody, somebody else, somebody who is silent,
/// somebody without end.
#[tokio::test]
async fn whoever_else_listens_is_not_taken_for_authgate() {
    let port = Port::reserve();
    let other = Upstream::start(|_| Reply::Bytes(response("404 Not Found", &[], "?")));
    let moved = Upstream::start(|_| Reply::Bytes(response("302 Found", &[("Location", "/")], "")));
    let silent = Upstream::start(|_| Reply::Hang);
    let gone = Upstream::start(|_| Reply::Reset);
    let endless = Upstream::start(|_| {
        Reply::Bytes(response(
            "503 Service Unavailable",
            &[],
            &"x".repeat(100_000),
        ))
    });
    let liar = Upstream::start(|_| Reply::ok("{\"requests\":\"none\"}"));
    for (address, words) in [
        (port.address(), "nothing listens on"),
        (other.address(), "answers 404 Not Found: is it authgate?"),
        (moved.address(), "answers 302 Found: is it authgate?"),
        (silent.address(), "nothing within 2s"),
        (gone.address(), "does not answer"),
        (endless.address(), "length limit exceeded"),
        (liar.address(), "answers 200 OK: is it authgate?"),
    ] {
        let address = address.to_string();
        for (command, code) in [("healthcheck", 1), ("drain", 69)] {
            if command == "healthcheck" && words.contains("200") {
                continue;
            }
            let output = call(&[command, "--admin", &address]).await;
            let told = complaint(&output);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{command} {words}: {told}"
            );
            assert!(
                told.contains(words) && told.contains(&address),
                "{command}: {told}"
            );
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }
}

#[tokio::test]
async fn without_an_admin_listener_there_is_nobody_to_ask() {
    let directory = TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file.display().to_string()
    };
    let off = write("off.toml", "admin = \"off\"\n");
    let wrong = write("wrong.toml", "admin = \"everywhere\"\n");
    let broken = write("broken.toml", "admin = \n");
    for command in ["healthcheck", "drain"] {
        for (arguments, words) in [
            (["--admin", "off"], "admin is \"off\""),
            (["--config", &off], "admin is \"off\""),
            (
                ["--config", &wrong],
                "admin: \"everywhere\" is not an address",
            ),
            (["--config", &broken], "is not TOML"),
            (["--config", "/no/such/file"], "cannot be read"),
        ] {
            let output = call(&[command, arguments[0], arguments[1]]).await;
            let told = complaint(&output);
            assert_eq!(
                output.status.code(),
                Some(78),
                "{command} {arguments:?}: {told}"
            );
            assert!(told.contains(words), "{command} {arguments:?}: {told}");
        }
    }
}

#[tokio::test]
async fn the_drain_command_drains() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = started(&issuer, &upstream, LONG_LINGER).await;
    let mut stream = Request::get("/stream").open(proxy.data).await;
    assert_eq!(stream.head().await.status(), 200);
    let exchange = upstream.next().await;
    let admin = proxy.admin.to_string();
    for _ in 0..2 {
        let output = call(&["drain", "--admin", &admin]).await;
        assert_eq!(
            (output.status.code(), complaint(&output).as_str()),
            (Some(0), "")
        );
        assert_eq!(readiness(&proxy).await, unready());
    }
    exchange.feed(Feed::End);
    stream.body().await.expect("a proper end");
    let file = TempDir::new().expect("a directory");
    let config = file.path().join("authgate.toml");
    std::fs::write(&config, "timeouts.linger = \"0s\"\n").expect("a file");
    let config = config.display().to_string();
    let arguments = ["drain", "--wait", "--admin", &admin, "--config", &config];
    assert_eq!(call(&arguments).await.status.code(), Some(0));
    proxy.signal("INT");
    assert_eq!(proxy.exit().await.code(), Some(0));
}

/// An admin listener that tells so many running requests, one number for each question, the last one
/// again and again.
fn told(requests: &'static [u64]) -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let listener = Upstream::start(move |head| {
        assert_eq!((head.method(), head.target()), ("POST", "/drain"));
        let place = counter
            .fetch_add(1, Ordering::SeqCst)
            .min(requests.len() - 1);
        Reply::Bytes(response(
            "200 OK",
            &[("Connection", "close")],
            &format!("{{\"requests\":{}}}", requests[place]),
        ))
    });
    (listener, asked)
}

async fn drain_and_wait(admin: SocketAddr, timeouts: &str) -> (Output, Duration) {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, timeouts).expect("a file");
    let (admin, file) = (admin.to_string(), file.display().to_string());
    let begun = Instant::now();
    let output = call(&["drain", "--wait", "--admin", &admin, "--config", &file]).await;
    (output, begun.elapsed())
}

#[tokio::test]
async fn a_wait_ends_with_the_last_request() {
    let (admin, asked) = told(&[3, 1, 0]);
    let (output, _) = drain_and_wait(admin.address(), "timeouts.linger = \"0s\"").await;
    assert_eq!(
        (output.status.code(), complaint(&output).as_str()),
        (Some(0), "")
    );
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

/// Nobody may be there now; balancers still send.
#[tokio::test]
async fn a_wait_takes_as_long_as_the_linger() {
    let (admin, _) = told(&[0]);
    let (output, taken) = drain_and_wait(admin.address(), "timeouts.linger = \"1s\"").await;
    assert_eq!(output.status.code(), Some(0));
    assert!(taken >= Duration::from_secs(1), "{taken:?}");
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let (admin, _) = told(&[2]);
    let timeouts = "timeouts.linger = \"0s\"\ntimeouts.drain = \"1s\"";
    let (output, taken) = drain_and_wait(admin.address(), timeouts).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(taken >= Duration::from_secs(1), "{taken:?}");
    assert_eq!(
        complaint(&output),
        "authgate: timeouts.drain is over; requests still running: 2\n"
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_process() {
    let (mut admin, asked) = told(&[1]);
    let address = admin.address();
    let waiting = tokio::spawn(async move { drain_and_wait(address, "").await });
    within("the first question", async {
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    admin.go_down().await;
    let (output, _) = within("the end of the wait", waiting)
        .await
        .expect("a task");
    assert_eq!(
        (output.status.code(), complaint(&output).as_str()),
        (Some(0), "")
    );
}
