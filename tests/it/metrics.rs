//! What the program counts, as Prometheus would see it.

use std::time::Duration;

use crate::issuer::Issuer;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, within};

/// How often a test looks for a change that nothing announces.
const TICK: Duration = Duration::from_millis(20);

async fn scrape(proxy: &Proxy) -> String {
    let answer = proxy.admin("GET", "/metrics").await;
    assert_eq!(answer.status(), 200);
    let content_type = answer.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// Waits until a series has this value.
async fn until(proxy: &Proxy, series: &str, value: u64) {
    let line = format!("{series} {value}");
    within(&line, async {
        while !scrape(proxy).await.lines().any(|found| found == line) {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_are_counted_by_what_became_of_them() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/api/hang" => Reply::Hang,
        _ => Reply::ok("hello"),
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[limits]\nconnections = 50")
        .rest("[[route]]\npath = \"/api/**\"\n[[route]]\npath = \"/shadow\"\nshadow = true\nrequire = { scopes = [\"none\"] }")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    for _ in 0..2 {
        assert_eq!(
            proxy
                .send(&Request::get("/api/secret-path").bearer(&token))
                .await
                .status(),
            200
        );
    }
    assert_eq!(
        proxy
            .send(&Request::new("BREW", "/api/x").bearer("a.b.c"))
            .await
            .status(),
        401
    );
    assert_eq!(
        proxy
            .send(&Request::get("/shadow").bearer(&token))
            .await
            .status(),
        200
    );
    let hanging = Request::get("/api/hang")
        .bearer(&token)
        .open(proxy.data)
        .await;
    upstream.next().await;
    until(&proxy, "authgate_requests_in_flight", 1).await;
    drop(hanging);
    until(&proxy, "authgate_requests_in_flight", 0).await;
    let mut broken = Client::connect(proxy.data).await;
    broken.send(b"no request\r\n\r\n").await;
    assert_eq!(broken.response().await.status(), 400);
    for (series, value) in [
        (
            "authgate_requests_total{outcome=\"forwarded\",code=\"\",route=\"/api/**\",method=\"GET\"}",
            2,
        ),
        (
            "authgate_requests_total{outcome=\"refused\",code=\"token_malformed\",route=\"/api/**\",method=\"other\"}",
            1,
        ),
        (
            "authgate_requests_total{outcome=\"cancelled\",code=\"client_closed\",route=\"/api/**\",method=\"GET\"}",
            1,
        ),
        (
            "authgate_requests_total{outcome=\"refused\",code=\"request_malformed\",route=\"\",method=\"\"}",
            1,
        ),
        (
            "authgate_shadow_refusals_total{route=\"/shadow\",code=\"scope_missing\"}",
            1,
        ),
        ("authgate_request_duration_seconds_count", 6),
        ("authgate_time_to_first_byte_seconds_count", 5),
        ("authgate_token_cache_total{result=\"hit\"}", 3),
        ("authgate_token_cache_total{result=\"miss\"}", 2),
        ("authgate_connections", 0),
        ("authgate_connection_limit", 50),
    ] {
        until(&proxy, series, value).await;
    }
    let fetches = format!(
        "authgate_key_fetches_total{{issuer=\"{}\",result=\"success\"}}",
        issuer.issuer()
    );
    until(&proxy, &fetches, 1).await;
    let text = scrape(&proxy).await;
    for private in ["secret-path", "alice", "BREW"] {
        assert!(!text.contains(private), "{private} in\n{text}");
    }
}

#[tokio::test]
async fn streams_are_counted_while_they_run() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/events" => Reply::events(),
        _ => Reply::WebSocket,
    });
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let mut events = Request::get("/events")
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(events.head().await.status(), 200);
    let mut socket = Request::get("/ws")
        .websocket()
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(socket.head().await.status(), 101);
    let series = [
        "authgate_streams{kind=\"sse\"}",
        "authgate_streams{kind=\"websocket\"}",
        "authgate_connections",
    ];
    for (series, value) in series.into_iter().zip([1, 1, 2]) {
        until(&proxy, series, value).await;
    }
    drop((events, socket));
    for series in series {
        until(&proxy, series, 0).await;
    }
    until(&proxy, "authgate_requests_in_flight", 0).await;
}

#[tokio::test]
async fn expired_streams_are_counted_by_kind() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/events" => Reply::events(),
        _ => Reply::WebSocket,
    });
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"0s\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").expires_in(2).mint();
    let mut events = Request::get("/events")
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(events.head().await.status(), 200);
    let mut socket = Request::get("/ws")
        .websocket()
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(socket.head().await.status(), 101);
    for kind in ["sse", "websocket"] {
        until(
            &proxy,
            &format!("authgate_streams_expired_total{{kind=\"{kind}\"}}"),
            1,
        )
        .await;
    }
}
