//! From the first line of the log to the last: start, reload, drain, end.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::support::h2::H2;
use crate::support::upstream::Feed;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, assert_own, within};

/// How often a test looks for a change that nothing announces.
const TICK: Duration = Duration::from_millis(20);

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

async fn until_unready(proxy: &Proxy) {
    within("the end of readiness", async {
        while proxy.admin("GET", "/readyz").await.status() != 503 {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

async fn until_refusing(proxy: &Proxy) {
    within("the listener's end", async {
        while TcpStream::connect(proxy.data).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

/// A stream in full flow.
async fn streaming(proxy: &Proxy, upstream: &Upstream) -> (Client, crate::support::Exchange) {
    let mut client = Request::get("/stream").open(proxy.data).await;
    assert_eq!(client.head().await.status(), 200);
    let exchange = upstream.next().await;
    exchange.send("data: 1\n\n");
    assert_eq!(client.data().await, "data: 1\n\n");
    (client, exchange)
}

fn streaming_upstream() -> Upstream {
    Upstream::start(|head| match head.target() {
        "/stream" => Reply::events(),
        _ => Reply::ok("hello"),
    })
}

#[tokio::test]
async fn the_admin_listener_answers() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin("GET", path).await.status(), 200, "{path}");
    }
    assert_eq!(proxy.admin("GET", "/api/agents").await.status(), 404);
    assert_eq!(proxy.admin("POST", "/livez").await.status(), 405);
    // The data listener serves none of it.
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_own(&proxy.send(&Request::get(path)).await, 401, "token_missing");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_drain_lets_go_of_new_work_and_finishes_the_old() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"2s\"\ndrain = \"20s\"")
        .start()
        .await;
    let (mut client, exchange) = streaming(&proxy, &upstream).await;
    let mut kept = Client::connect(proxy.data).await;
    assert_eq!(kept.request(&Request::get("/x")).await.status(), 200);

    proxy.signal("TERM");
    until_unready(&proxy).await;
    assert_eq!(proxy.admin("GET", "/livez").await.status(), 200);
    // Late arrivals are served, and told not to come again.
    let late = proxy.send(&Request::get("/x")).await;
    assert_eq!(
        (late.status(), late.header("connection")),
        (200, Some("close"))
    );

    until_refusing(&proxy).await;
    exchange.send("data: 2\n\n");
    assert_eq!(client.data().await, "data: 2\n\n");
    exchange.feed(Feed::End);
    client.body().await.expect("a proper end");
    assert_eq!(proxy.exit().await.code(), Some(0));
    kept.closed().await;
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"1s\"\ndrain = \"2s\"")
        .start()
        .await;
    let (mut client, _exchange) = streaming(&proxy, &upstream).await;
    let begun = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.exit().await.code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        client.body().await.is_err(),
        "the stream has ended as if it were whole"
    );
}

#[tokio::test]
async fn a_drain_without_work_ends_after_its_linger() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"1s\"")
        .start()
        .await;
    let _idle = Client::connect(proxy.data).await;
    let begun = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.exit().await.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

/// Told of a new phase one after the other, by another thread than theirs.
#[tokio::test]
async fn all_of_many_idle_connections_hear_of_the_end() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"1s\"\nheader = \"300s\"\nidle = \"300s\"\ndrain = \"400s\"")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..500 {
        let mut client = Client::connect(proxy.data).await;
        assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
        clients.push(client);
    }
    proxy.signal("TERM");
    assert_eq!(proxy.exit().await.code(), Some(0));
    for mut client in clients {
        client.closed().await;
    }
    let lines = proxy.events();
    let lines = lines.iter().filter(|line| line["path"] == "/x").count();
    assert_eq!(lines, 500, "each request has left its line");
}

#[tokio::test]
async fn an_interrupt_does_not_linger() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"300s\"\ndrain = \"400s\"")
        .start()
        .await;
    let (mut client, exchange) = streaming(&proxy, &upstream).await;
    proxy.signal("INT");
    until_refusing(&proxy).await;
    exchange.send("data: 2\n\n");
    assert_eq!(client.data().await, "data: 2\n\n");
    exchange.feed(Feed::End);
    client.body().await.expect("a proper end");
    assert_eq!(proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let issuer = Issuer::start();
    let upstream = streaming_upstream();
    let mut proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nlinger = \"300s\"\ndrain = \"400s\"")
        .start()
        .await;
    let (mut client, _exchange) = streaming(&proxy, &upstream).await;
    proxy.signal("TERM");
    until_unready(&proxy).await;
    proxy.signal("TERM");
    proxy.exit().await;
    assert!(
        client.body().await.is_err(),
        "the stream has ended as if it were whole"
    );
}

#[tokio::test]
async fn one_line_per_request_says_what_became_of_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/hang" => Reply::Hang,
        "/close" => Reply::Close,
        _ => Reply::ok("hello"),
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/admin/**\"\nrequire = { scopes = [\"admin:all\"] }")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    proxy
        .send(&Request::get("/ok?secret=a-secret-query").bearer(&token))
        .await;
    proxy
        .send(&Request::post("/admin/x", "{}").bearer(&token))
        .await;
    proxy.send(&Request::get("/close").bearer(&token)).await;
    proxy.send(&Request::get("/nobody")).await;
    let client = Request::get("/hang").bearer(&token).open(proxy.data).await;
    while upstream.next().await.head.target() != "/hang" {}
    drop(client);
    for (path, method, status, outcome, code, subject) in [
        (
            "/ok",
            "GET",
            Some(200),
            "forwarded",
            None,
            Some("auth0|alice"),
        ),
        (
            "/admin/x",
            "POST",
            Some(403),
            "refused",
            Some("scope_missing"),
            Some("auth0|alice"),
        ),
        (
            "/close",
            "GET",
            Some(502),
            "failed",
            Some("upstream_failed"),
            Some("auth0|alice"),
        ),
        (
            "/nobody",
            "GET",
            Some(401),
            "refused",
            Some("token_missing"),
            None,
        ),
        ("/hang", "GET", None, "cancelled", None, Some("auth0|alice")),
    ] {
        let line = proxy.request_line(path).await;
        let told = |name: &str| {
            line[name]
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["method"], method, "{line}");
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(told("sub").as_deref(), subject, "{line}");
        assert!(told("request_id").is_some(), "{line}");
        assert!(line["duration_ms"].is_number(), "{line}");
        if let Some(status) = status {
            assert_eq!(line["status"], status, "{line}");
        }
        if code.is_some() {
            assert_eq!(told("code").as_deref(), code, "{line}");
        }
        if outcome == "forwarded" {
            assert!(line["upstream_ms"].is_number(), "{line}");
            assert_eq!(line["kid"], issuer.key().kid(), "{line}");
        }
    }
    let route = proxy.request_line("/admin/x").await["route"].to_string();
    assert!(route.contains("/admin/**"), "{route}");
    let lines = proxy
        .events()
        .into_iter()
        .filter(|event| event["message"] == "request")
        .count();
    assert_eq!(lines, 5);
    proxy.assert_kept_secrets();
}

/// Everything that is logged at the lowest level, while tokens come in every place and shape.
async fn assert_nothing_secret_is_logged(sources: &str) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/close" => Reply::Close,
        _ => Reply::Echo,
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nforward_authorization = true\nclaims_header = \"x-auth-claims\"")
        .rest(sources)
        .arguments(&["--log", "trace"])
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let forged = issuer.user("auth0|alice").signature(vec![7; 256]).mint();
    for token in [&token, &forged] {
        let list = format!("Bearer {token}, {token}");
        let protocol = format!("bearer.{token}");
        for request in [
            Request::get("/x").bearer(token),
            Request::get("/%zz").bearer(token),
            Request::get("/close?password=a-secret-password").bearer(token),
            Request::get(&format!("/x?access_token={token}")),
            Request::get("/x").header("Authorization", &list),
            Request::get("/x")
                .websocket()
                .header("Sec-WebSocket-Protocol", &protocol),
        ] {
            proxy.send(&request).await;
        }
        let mut client = H2::connect(proxy.data).await;
        let request = http::Request::get("http://a/over-http-2?password=a-secret-password")
            .header("authorization", format!("Bearer {token}"))
            .body(http_body_util::Full::default())
            .expect("a request");
        client.send(request).await;
    }
    proxy.request_line("/over-http-2").await;
    proxy.assert_kept_secrets();
}

#[tokio::test]
async fn nothing_secret_is_logged_however_much_is_logged() {
    assert_nothing_secret_is_logged("").await;
}

#[tokio::test]
async fn warnings_alone_leave_the_request_lines_out() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let (data, admin) = (Port::reserve(), Port::reserve());
    let mut proxy = Setup::new(&issuer, &upstream)
        .at(&data, &admin)
        // Less than what any machine lets it open, which would be a warning.
        .rest("[limits]\nconnections = 100")
        .arguments(&["--log", "warn"])
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    assert_eq!(proxy.send(&Request::get("/x")).await.status(), 401);
    proxy.signal("INT");
    assert_eq!(proxy.exit().await.code(), Some(0));
    assert_eq!(proxy.events(), Vec::<Value>::new());
}

#[tokio::test]
async fn nothing_secret_is_logged_wherever_the_token_stands() {
    let sources = "query_parameter = \"access_token\"\nwebsocket_protocol = true";
    assert_nothing_secret_is_logged(&format!("[token_sources]\n{sources}")).await;
}

/// What the parser refuses is logged like everything else.
#[tokio::test]
async fn a_request_that_cannot_be_read_has_its_line_too() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(OPEN).start().await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    for (bytes, code) in [
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "request_malformed"),
        (large.as_str(), "headers_too_large"),
    ] {
        let mut client = Client::connect(proxy.data).await;
        client.send(bytes.as_bytes()).await;
        let line = proxy
            .event(code, |event| {
                event["message"] == "request" && event["code"] == code
            })
            .await;
        assert_eq!(line["outcome"], "refused");
    }
    assert_eq!(upstream.requests(), 0);
}
