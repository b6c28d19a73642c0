//! Long answers: at once, unbuffered, and ended for whom they end.

use bytes::Bytes;
use http_body_util::Full;

use std::time::{Duration, Instant};

use crate::issuer::Issuer;
use crate::issuer::tokens::now;
use crate::support::h2::H2;
use crate::support::upstream::{Feed, response, websocket_accept};
use crate::support::wire::{Piece, chunk};
use crate::support::{
    Client, Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own, within,
};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

async fn open_proxy(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(OPEN).start().await
}

#[tokio::test]
async fn every_event_arrives_before_the_next_is_sent() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let mut client = Request::post("/api/agents/weather/stream", "{}")
        .bearer(&token)
        .open(proxy.data)
        .await;
    let exchange = upstream.next().await;
    // The head comes alone: there is no event yet.
    let head = client.head().await;
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert_eq!(head.get("content-encoding"), None);
    for number in 0..20 {
        let event = format!("data: {{\"step\":{number}}}\n\n");
        exchange.send(&event);
        assert_eq!(client.data().await, event);
    }
    exchange.send("data: [DONE]\n\n");
    exchange.feed(Feed::End);
    let (rest, _) = client.body().await.expect("a proper end");
    assert_eq!(rest, b"data: [DONE]\n\n");
    // The connection serves on.
    client.write(&Request::get("/again").bearer(&token)).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn every_event_arrives_over_http_2_too() {
    use http_body_util::BodyExt as _;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = H2::connect(proxy.data).await;
    let request = |path: &str| {
        let request = http::Request::get(format!("http://a{path}"));
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    let mut answer = client.send(request("/stream")).await;
    let exchange = upstream.next().await;
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        exchange.send(&event);
        let frame = within("an event", answer.frame())
            .await
            .expect("a frame")
            .expect("a frame");
        assert_eq!(frame.into_data().ok(), Some(Bytes::from(event)));
    }
    // Gives up this stream and keeps the connection.
    drop(answer);
    exchange.closed().await;
    client.send(request("/again")).await;
}

#[tokio::test]
async fn an_upload_arrives_as_it_is_sent() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Echo);
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    assert_eq!(client.head().await.status(), 200);
    for number in 0..20 {
        let part = format!("part {number}");
        client.send(&chunk(part.as_bytes())).await;
        assert_eq!(client.data().await, part);
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.piece().await.ok(), Some(Piece::End(Vec::new())));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::get("/stream").open(proxy.data).await;
    let exchange = upstream.next().await;
    exchange.send("data: 1\n\n");
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.data().await, "data: 1\n\n");
    drop(client);
    exchange.closed().await;
    let line = proxy.request_line("/stream").await;
    assert_eq!(line["outcome"], "cancelled");
    assert_eq!(line["status"], 200);
}

/// A request sent ahead of its turn must not hide that the client has gone.
#[tokio::test]
async fn a_client_that_leaves_with_a_request_in_the_queue_ends_its_stream() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = open_proxy(&issuer, &upstream).await;
    for method in ["GET", "POST"] {
        let mut client = Request::new(method, "/stream").open(proxy.data).await;
        let exchange = upstream.next().await;
        exchange.send("data: 1\n\n");
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.data().await, "data: 1\n\n");
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\nG").await;
        exchange.send("data: 2\n\n");
        assert_eq!(client.data().await, "data: 2\n\n");
        drop(client);
        exchange.closed().await;
    }
    assert_eq!(upstream.requests(), 2);
}

/// Nor must one that came together with the request that runs.
#[tokio::test]
async fn a_client_that_leaves_behind_two_requests_at_once_ends_the_first() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    for first in [Request::get("/slow"), Request::post("/slow", "{}")] {
        let mut client = Client::connect(proxy.data).await;
        let both = [first.bytes(), Request::get("/next").bytes()].concat();
        client.send(&both).await;
        let exchange = upstream.next().await;
        drop(client);
        exchange.closed().await;
    }
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    let client = Request::post("/slow", "{}").open(proxy.data).await;
    let exchange = upstream.next().await;
    assert_eq!(exchange.body().await, b"{}");
    drop(client);
    exchange.closed().await;
    assert_eq!(proxy.request_line("/slow").await["outcome"], "cancelled");
}

#[tokio::test]
async fn a_stream_that_breaks_is_seen_to_break() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/length" => {
            Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec())
        }
        "/chunk" => Reply::Last(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nnonsense\r\n"
                .to_vec(),
        ),
        _ => Reply::events(),
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    for path in ["/length", "/chunk", "/events"] {
        let mut client = Request::get(path).open(proxy.data).await;
        let exchange = upstream.next().await;
        exchange.send("data: 1\n\n");
        exchange.feed(Feed::Cut);
        // What broke at once may break before its head is out.
        if let Some(head) = client.head_or_end().await {
            assert_eq!(head.status(), 200, "{path}");
            let ended = client.body().await;
            assert!(ended.is_err(), "{path} has ended as if it were whole");
        }
        assert_eq!(
            proxy.request_line(path).await["outcome"],
            "failed",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_stream_without_length_or_chunks_passes() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello".to_vec())
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
}

#[tokio::test]
async fn a_slow_reader_slows_the_upstream_down() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::get("/stream").open(proxy.data).await;
    assert_eq!(client.head().await.status(), 200);
    let exchange = upstream.next().await;
    let before = proxy.resident_kib();
    let megabyte = "x".repeat(1 << 20);
    for _ in 0..200 {
        exchange.send(&megabyte);
    }
    exchange.feed(Feed::End);
    let mut received = 0;
    let mut most = 0;
    loop {
        match client.piece().await.expect("a part of the body") {
            Piece::Data(data) => received += data.len(),
            Piece::End(_) => break,
        }
        most = most.max(proxy.resident_kib());
    }
    assert_eq!(received, 200 << 20);
    let grown = most.saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
}

#[tokio::test]
async fn a_websocket_is_tunnelled() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/browser/weather/stream?threadId=one-thread")
        .websocket()
        .header("Sec-WebSocket-Protocol", "chat")
        .bearer(&token);
    let mut client = request.open(proxy.data).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(
        head.get("upgrade").map(str::to_ascii_lowercase).as_deref(),
        Some("websocket")
    );
    let accept = websocket_accept("dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(head.get("sec-websocket-accept"), Some(accept.as_str()));
    let exchange = upstream.next().await;
    assert_eq!(
        exchange
            .head
            .get("upgrade")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("websocket")
    );
    assert_eq!(
        exchange
            .head
            .get("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(exchange.head.get("sec-websocket-protocol"), Some("chat"));
    assert_eq!(exchange.head.get("x-forwarded-user"), Some("auth0|alice"));
    let noise = vec![0x5a; 100_000];
    for frame in [&b"\x81\x05hello"[..], b"\x82\x00", &noise] {
        let mut received = Vec::new();
        for part in frame.chunks(10_000) {
            client.send(part).await;
            received.extend(client.exactly(part.len()).await);
        }
        assert!(received == frame, "{} bytes have changed", frame.len());
    }
    drop(client);
    exchange.closed().await;
    let line = proxy.request_line("/browser/weather/stream").await;
    assert_eq!(line["status"], 101);
}

#[tokio::test]
async fn a_websocket_ends_with_its_upstream() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::get("/ws").websocket().open(proxy.data).await;
    assert_eq!(client.head().await.status(), 101);
    upstream.next().await.feed(Feed::Cut);
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_websocket_opens_cancels_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    let client = Request::get("/ws").websocket().open(proxy.data).await;
    let exchange = upstream.next().await;
    drop(client);
    exchange.closed().await;
    assert_eq!(proxy.request_line("/ws").await["outcome"], "cancelled");
}

#[tokio::test]
async fn a_websocket_needs_a_token_like_anything_else() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let answer = proxy.send(&Request::get("/ws").websocket()).await;
    assert_own(&answer, 401, "token_missing");
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn an_upstream_may_decline_a_websocket() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Bytes(response("426 Upgrade Required", &[], "no")));
    let proxy = open_proxy(&issuer, &upstream).await;
    let answer = proxy.send(&Request::get("/ws").websocket()).await;
    assert_eq!((answer.status(), answer.text().as_str()), (426, "no"));
}

#[tokio::test]
async fn an_idle_connection_that_the_upstream_has_closed_is_no_failure() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    for request in [Request::get("/x"), Request::post("/x", "{}")]
        .iter()
        .cycle()
        .take(20)
    {
        assert_eq!(client.request(request).await.status(), 200);
        upstream.next().await.cut().await;
    }
}

/// What follows an answer on its connection is nobody's: whoever comes next has another connection.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_nobodys() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let asked = response("200 OK", &[], head.target());
        Reply::Bytes([asked, response("200 OK", &[], "another's")].concat())
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    for number in 0..20 {
        let target = format!("/{number}");
        for request in [Request::get(&target), Request::post(&target, "{}")] {
            let answer = client.request(&request).await;
            assert_eq!((answer.status(), answer.text()), (200, target.clone()));
        }
    }
    assert_eq!(upstream.connections(), 40);
}

#[tokio::test]
async fn a_request_that_may_have_been_read_is_not_repeated() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/first" => Reply::ok("hello"),
        _ => Reply::Close,
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    let mut findings = Findings::default();
    for request in [
        Request::post("/second", "{}"),
        Request::new("DELETE", "/second"),
        Request::get("/second"),
    ] {
        // The second request finds the connection of the first in the pool.
        assert_eq!(client.request(&Request::get("/first")).await.status(), 200);
        let seen = upstream.requests();
        let answer = client.request(&request).await;
        let case = request.method();
        findings.add(case, own(&answer, 502, "upstream_failed"));
        let times = upstream.requests() - seen;
        findings.check(case, times == 1, || format!("was sent {times} times"));
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_stream_does_not_outlive_its_token_by_much() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"1s\"")
        .start()
        .await;
    let expiry = now() + 2;
    let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
    let mut client = Request::get("/stream")
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(client.head().await.status(), 200);
    let exchange = upstream.next().await;
    exchange.send("data: 1\n\n");
    let begun = Instant::now();
    let ended = client.body().await;
    assert!(ended.is_err(), "the stream has ended as if it were whole");
    assert!(now() > expiry, "the stream has ended before its token");
    assert!(begun.elapsed() < Duration::from_secs(10));
    exchange.closed().await;
}

#[tokio::test]
async fn nobody_waits_for_an_answer_much_longer_than_the_token_lasts() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"1s\"")
        .start()
        .await;
    let expiry = now() + 2;
    let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
    let mut client = Request::new("POST", "/slow")
        .header("Transfer-Encoding", "chunked")
        .bearer(&token)
        .open(proxy.data)
        .await;
    // The upload is not over, and neither is the upstream's patience.
    client.send(&chunk(b"part")).await;
    let exchange = upstream.next().await;
    let answer = client.response().await;
    assert_own(&answer, 401, "token_expired");
    let late = now() - expiry;
    assert!((1..=2).contains(&late), "{late} s after exp");
    assert!(!exchange.body_is_whole().await);
    exchange.closed().await;
}

#[tokio::test]
async fn a_websocket_is_told_that_its_token_is_over() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"1s\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").expires_in(2).mint();
    let mut client = Request::get("/ws")
        .websocket()
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(client.head().await.status(), 101);
    let exchange = upstream.next().await;
    // A close frame from the server: FIN and opcode 8, unmasked, code 3000 and perhaps a reason.
    let frame = client.exactly(4).await;
    assert_eq!(frame[0], 0x88);
    assert!((2..126).contains(&frame[1]), "{frame:?}");
    assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), 3000);
    client.closed().await;
    exchange.closed().await;
}
