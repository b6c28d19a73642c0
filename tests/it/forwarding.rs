//! What passes, what is changed on the way, and what is refused before it goes anywhere.

use bytes::Bytes;
use http_body_util::Full;

use crate::issuer::Issuer;
use crate::support::h2::{self, H2};
use crate::support::upstream::response;
use crate::support::wire::{Piece, chunk, latin1};
use crate::support::{
    Client, Findings, Head, Proxy, Reply, Request, Setup, Upstream, assert_own, own, within,
};

/// Everything public, for tests that are not about tokens.
const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

async fn open_proxy(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(OPEN).start().await
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    for target in [
        "/",
        "/api/agents/weather/stream",
        "/api/agents?limit=10&cursor=a%2Fb&&empty=&flag",
        "/a?q=../../etc//x;y%00",
        "/a?",
        "/caf%C3%A9/a%20b",
        "/a:b@c!$&'()*+,=~_-.x",
    ] {
        assert_eq!(
            proxy.send(&Request::get(target)).await.text(),
            "hello",
            "{target}"
        );
        assert_eq!(
            upstream.next().await.head.first_line,
            format!("GET {target} HTTP/1.1")
        );
    }
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND", "X-OWN",
    ] {
        assert_eq!(
            proxy.send(&Request::new(method, "/x")).await.status(),
            200,
            "{method}"
        );
        assert_eq!(upstream.next().await.head.method(), method);
    }
}

#[tokio::test]
async fn fields_pass_in_their_order() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        let fields = [
            ("Set-Cookie", "a=1"),
            ("X-Own", "r"),
            ("Set-Cookie", "b=2; HttpOnly"),
        ];
        Reply::Bytes(response("299 Own Reason", &fields, "hello"))
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let request = Request::get("/x")
        .header("Accept", "text/event-stream")
        .header("X-Own", "1")
        .header("Last-Event-ID", "7")
        .header("X-Own", "2")
        .header("Cookie", "session=1; x=2")
        .header("X-Latin", "caf\u{e9}")
        .header("Incremental", "?1");
    let response = proxy.send(&request).await;
    let head = upstream.next().await.head;
    assert_eq!(head.all("x-own"), ["1", "2"]);
    assert_eq!(head.get("accept"), Some("text/event-stream"));
    assert_eq!(head.get("last-event-id"), Some("7"));
    assert_eq!(head.get("cookie"), Some("session=1; x=2"));
    assert_eq!(head.get("incremental"), Some("?1"));
    assert_eq!(head.get("host"), Some("agents.example.com"));
    assert_eq!(response.status(), 299);
    assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2; HttpOnly"]);
    assert_eq!(response.header("x-own"), Some("r"));
}

#[tokio::test]
async fn the_upstream_learns_how_the_request_came() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let answer = proxy
        .send(&Request::get("/x").header("Via", "1.0 edge"))
        .await;
    let head = upstream.next().await.head;
    let via = head.all("via").join(", ");
    assert!(via.starts_with("1.0 edge, 1.1 "), "{via}");
    let id = head.get("x-request-id").expect("X-Request-Id");
    assert!(!id.is_empty());
    assert_eq!(answer.header("x-request-id"), Some(id));
    assert_eq!(proxy.request_line("/x").await["request_id"], id);
    // Nobody records a span here, so the agent is the root of its trace, and its sampler decides.
    assert_eq!(head.get("traceparent"), None);
    assert_eq!(proxy.request_line("/x").await.get("trace_id"), None);
}

#[tokio::test]
async fn a_trace_goes_on_and_stands_in_the_log() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/open/**\"\naccess = \"public\"")
        .start()
        .await;
    let sampled = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let unsampled = format!("00-{TRACE}-00f067aa0ba902b7-00");
    for (place, sent, goes_on) in [
        ("1", sampled.as_str(), true),
        ("2", unsampled.as_str(), true),
        (
            "3",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            false,
        ),
        (
            "4",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            false,
        ),
        (
            "5",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            false,
        ),
        (
            "6",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            false,
        ),
        ("7", "nonsense", false),
    ] {
        let path = format!("/open/{place}");
        let request = Request::get(&path).header("traceparent", sent);
        assert_eq!(proxy.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.get("traceparent"), goes_on.then_some(sent), "{sent}");
        let line = proxy.request_line(&path).await;
        let trace_id = line.get("trace_id").and_then(|id| id.as_str());
        assert_eq!(trace_id, goes_on.then_some(TRACE), "{sent}");
    }
    // A refusal is part of the trace too.
    let request = Request::get("/closed").header("traceparent", &sampled);
    assert_own(&proxy.send(&request).await, 401, "token_missing");
    assert_eq!(proxy.request_line("/closed").await["trace_id"], TRACE);
}

#[tokio::test]
async fn what_concerns_one_hop_stays_on_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        let fields = [
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("X-End", "1"),
        ];
        Reply::Bytes(response("200 OK", &fields, "hello"))
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let request = Request::get("/x")
        .header("Connection", "keep-alive, X-Hop, Upgrade, HTTP2-Settings")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy-Authorization", "Basic dXNlcjpwYXNz")
        .header("TE", "trailers, deflate")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__")
        .header("X-Hop", "1")
        .header("X-End", "1");
    let answer = proxy.send(&request).await;
    assert_eq!(answer.status(), 200);
    let head = upstream.next().await.head;
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "x-hop",
    ] {
        assert_eq!(head.all(name), Vec::<&str>::new(), "{name}");
    }
    assert!(head.all("te").iter().all(|value| *value == "trailers"));
    assert_eq!(head.get("x-end"), Some("1"));
    for name in ["keep-alive", "proxy-authenticate", "upgrade", "x-hop"] {
        assert_eq!(answer.head.all(name), Vec::<&str>::new(), "{name}");
    }
    assert_eq!(answer.header("x-end"), Some("1"));
}

#[tokio::test]
async fn bodies_pass_whole() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Echo);
    let proxy = open_proxy(&issuer, &upstream).await;
    for body in [&b""[..], b"x", b"{\"messages\":[]}", &[0xff; 10_000]] {
        let answer = proxy.send(&Request::post("/x", body)).await;
        assert_eq!(answer.body, body);
        let exchange = upstream.next().await;
        assert_eq!(exchange.body().await, body);
        let length = body.len().to_string();
        assert_eq!(exchange.head.get("content-length"), Some(length.as_str()));
    }
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let body: Vec<u8> = (0_u32..2_000_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    assert_eq!(
        proxy
            .send(&Request::post("/x", body.clone()))
            .await
            .status(),
        200
    );
    assert!(
        upstream.next().await.body().await == body,
        "8 MB have changed on the way"
    );
}

#[tokio::test]
async fn a_chunked_body_stays_chunked() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    client
        .send(b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status(), 200);
    let exchange = upstream.next().await;
    assert_eq!(exchange.body().await, b"hello world");
    assert_eq!(exchange.head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(exchange.head.all("content-length"), Vec::<&str>::new());
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_never_completed() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    for (field, part) in [
        (("Content-Length", "100"), &b"only this"[..]),
        (("Transfer-Encoding", "chunked"), b"9\r\nonly this\r\n"),
        (
            ("Transfer-Encoding", "chunked"),
            b"9\r\nonly this\r\nnonsense\r\n",
        ),
    ] {
        let request = Request::new("POST", "/x").header(field.0, field.1);
        let mut client = request.open(proxy.data).await;
        client.send(part).await;
        let exchange = upstream.next().await;
        exchange.body_reaches(9).await;
        drop(client);
        assert!(!exchange.body_is_whole().await, "{field:?}");
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let unsent = || Request::new("POST", "/x").header("Content-Length", "1000000000");
    for request in [unsent(), unsent().header("Expect", "100-continue")] {
        let mut client = request.open(proxy.data).await;
        // The first head is the refusal: no interim answer has asked for the body.
        assert_own(&client.response().await, 401, "token_missing");
        client.closed().await;
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let request = Request::new("POST", "/x")
        .header("Content-Length", "5")
        .header("Expect", "100-continue");
    let mut client = request.open(proxy.data).await;
    assert_eq!(client.head().await.status(), 100);
    client.send(b"hello").await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(upstream.next().await.body().await, b"hello");
}

#[tokio::test]
async fn an_early_answer_is_passed_on_early() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Early(response("413 Content Too Large", &[], "no")));
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    client.send(&chunk(b"the beginning")).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (413, "no"));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/204" => Reply::Bytes(b"HTTP/1.1 204 No Content\r\nX-End: 1\r\n\r\n".to_vec()),
        "/304" => Reply::Bytes(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec()),
        _ => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()),
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    assert_eq!(client.request(&Request::get("/204")).await.status(), 204);
    assert_eq!(
        client.request(&Request::get("/304")).await.header("etag"),
        Some("\"x\"")
    );
    let answer = client.request(&Request::new("HEAD", "/head")).await;
    assert_eq!(answer.header("content-length"), Some("5"));
    assert_eq!(
        client.request(&Request::get("/204")).await.header("x-end"),
        Some("1")
    );
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    for _ in 0..5 {
        assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_fails_is_named_as_such() {
    let issuer = Issuer::start();
    let mut upstream = Upstream::start(|head| match head.target() {
        "/close" => Reply::Close,
        "/garbage" => Reply::Last(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()),
        "/half-a-head" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        "/two-lengths" => Reply::Last(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".to_vec(),
        ),
        "/switches" => Reply::Last(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()),
        _ => Reply::Hang,
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nresponse_header = \"1s\"")
        .start()
        .await;
    let mut findings = Findings::default();
    for path in [
        "/close",
        "/garbage",
        "/half-a-head",
        "/two-lengths",
        "/switches",
    ] {
        let answer = proxy.send(&Request::get(path)).await;
        findings.add(path, own(&answer, 502, "upstream_failed"));
        let line = proxy.request_line(path).await;
        findings.check(path, line["outcome"] == "failed", || line.to_string());
    }
    findings.add(
        "/hang",
        own(
            &proxy.send(&Request::get("/hang")).await,
            504,
            "upstream_timeout",
        ),
    );
    upstream.go_down().await;
    let answer = proxy.send(&Request::get("/down")).await;
    findings.add("/down", own(&answer, 502, "upstream_unreachable"));
    upstream.come_up();
    let answer = proxy.send(&Request::get("/close")).await;
    findings.add("up again", own(&answer, 502, "upstream_failed"));
    findings.assert_none();
}

#[tokio::test]
async fn an_upstream_answers_over_a_unix_socket() {
    let issuer = Issuer::start();
    let upstream = Upstream::start_unix(|_| Reply::ok("hello"));
    let proxy = open_proxy(&issuer, &upstream).await;
    assert_eq!(proxy.send(&Request::get("/x?y")).await.text(), "hello");
    let head = upstream.next().await.head;
    assert_eq!(head.target(), "/x?y");
    assert_eq!(head.get("host"), Some("agents.example.com"));
}

#[tokio::test]
async fn an_upstream_answers_over_tls() {
    let issuer = Issuer::start();
    let upstream = Upstream::start_tls(&issuer, |_| Reply::ok("hello"));
    let ca_file = issuer.ca_file().display().to_string();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .environment("SSL_CERT_FILE", &ca_file)
        .start()
        .await;
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");

    let distrustful = Setup::new(&issuer, &upstream).rest(OPEN).start().await;
    let answer = distrustful.send(&Request::get("/x")).await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn clients_may_speak_http_2() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let mut client = H2::connect(proxy.data).await;
    let token = issuer.user("auth0|alice").mint();
    let request = |authorization: Option<String>| {
        let mut request = http::Request::post("http://agents.example.com/api/x?a=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-forwarded-user", "mallory");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request
            .body(Full::new(Bytes::from_static(b"hello")))
            .expect("a request")
    };
    let refused = client.send(request(None)).await;
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("www-authenticate"));
    let body: serde_json::Value = serde_json::from_slice(&h2::body(refused).await).expect("JSON");
    assert_eq!(body["code"], "token_missing");

    let answer = client.send(request(Some(format!("Bearer {token}")))).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(h2::body(answer).await, "hello");
    let exchange = upstream.next().await;
    assert_eq!(exchange.head.first_line, "POST /api/x?a=1 HTTP/1.1");
    assert_eq!(exchange.head.get("host"), Some("agents.example.com"));
    assert_eq!(exchange.head.get("cookie"), Some("a=1; b=2"));
    assert_eq!(exchange.head.get("x-forwarded-user"), Some("auth0|alice"));
    assert!(exchange.head.get("via").expect("Via").starts_with('2'));
    assert_eq!(exchange.body().await, b"hello");
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_are_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (case, bytes, statuses) in malformed() {
        let mut client = Client::connect(proxy.data).await;
        client.send(&bytes).await;
        let status = client.head_or_end().await.map(|head| head.status());
        let right = status.is_some_and(|status| statuses.contains(&status));
        findings.check(case, right, || format!("{status:?}, expected {statuses:?}"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {} of them", upstream.requests())
    });
    findings.assert_none();
}

#[rustfmt::skip]
fn malformed() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    fn text(
        case: &'static str,
        text: &str,
        statuses: &'static [u16],
    ) -> (&'static str, Vec<u8>, &'static [u16]) {
        (case, text.as_bytes().to_vec(), statuses)
    }
    vec![
        text("no Host", "GET /x HTTP/1.1\r\n\r\n", &[400]),
        text("two Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        text("two equal Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400]),
        text("a Host with a space", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
        text("a Host with a path", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400]),
        text("a Host with a user", "GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n", &[400]),
        text("two lengths", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", &[400]),
        text("a signed length", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", &[400]),
        text("a coding before chunked", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        text("chunked twice", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
        text("an unknown coding", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400, 501]),
        text("chunked before the end", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", &[400, 501]),
        text("a folded field", "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", &[400]),
        text("a space before the colon", "GET /x HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", &[400]),
        text("a bare CR", "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n", &[400]),
        text("a NUL", "GET /x HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", &[400]),
        text("a space in the target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        text("CONNECT", "CONNECT agents.example.com:443 HTTP/1.1\r\nHost: agents.example.com:443\r\n\r\n", &[400, 405, 501]),
        text("half a WebSocket handshake", "GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", &[400, 426, 501]),
        text("an unknown version", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", &[400, 505]),
        text("a foreign scheme", "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ]
}

#[tokio::test]
async fn two_lengths_at_once_are_read_in_one_way() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                   0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(request.as_bytes()).await;
    // RFC 9112, section 6.1: refuse, or believe the coding alone and end the connection after it.
    let answer = client.response().await;
    if answer.status() == 200 {
        let head = upstream.next().await.head;
        assert_eq!(head.all("content-length"), Vec::<&str>::new());
        assert_eq!(answer.header("connection"), Some("close"));
    } else {
        assert_eq!(answer.status(), 400);
    }
    client.closed().await;
    assert!(
        upstream.requests() <= 1,
        "the second request was taken from the first"
    );
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let request = Request::get("http://agents.example.com/x?y").host(Some("evil.example"));
    let answer = proxy.send(&request).await;
    if answer.status() == 200 {
        let head: Head = upstream.next().await.head;
        assert_eq!(head.first_line, "GET /x?y HTTP/1.1");
        assert_eq!(head.get("host"), Some("agents.example.com"));
    } else {
        // Refusing the contradiction is sound as well.
        assert_eq!(answer.status(), 400);
        assert_eq!(upstream.requests(), 0);
    }
    let request = Request::get("http://agents.example.com/x?y");
    assert_eq!(proxy.send(&request).await.status(), 200);
}

#[tokio::test]
async fn every_size_has_its_limit() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[limits]\nheader_bytes = \"16KiB\"\nheaders = 30\nuri_bytes = \"1KiB\"\nbody_bytes = \"1KiB\"")
        .start()
        .await;
    let fields = |count: usize| {
        (0..count).fold(Request::get("/x"), |request, number| {
            request.header(&format!("x-{number}"), "1")
        })
    };
    let padded = |bytes: usize| Request::get("/x").header("x-padding", &"p".repeat(bytes));
    let target = |bytes: usize| Request::get(&format!("/{}", "p".repeat(bytes)));
    let mut findings = Findings::default();
    for (case, request, statuses) in [
        ("few fields", fields(25), &[200][..]),
        ("many fields", fields(40), &[431]),
        ("a long field", padded(8_000), &[200]),
        ("too long a field", padded(20_000), &[431]),
        ("a long target", target(900), &[200]),
        ("too long a target", target(1_100), &[414]),
        ("a body", Request::post("/x", vec![b'x'; 1024]), &[200]),
        (
            "too large a body",
            Request::post("/x", vec![b'x'; 1025]),
            &[413],
        ),
    ] {
        let mut client = request.open(proxy.data).await;
        let status = client.head_or_end().await.map(|head| head.status());
        let right = status.is_some_and(|status| statuses.contains(&status));
        findings.check(case, right, || format!("{status:?}, expected {statuses:?}"));
    }
    findings.assert_none();
}

#[tokio::test]
async fn an_undeclared_body_is_limited_as_it_comes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[limits]\nbody_bytes = \"1KiB\"")
        .start()
        .await;
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    client.send(&chunk(&[b'x'; 1000])).await;
    let exchange = upstream.next().await;
    exchange.body_reaches(1000).await;
    client.send(&chunk(&[b'x'; 1000])).await;
    let status = client.head_or_end().await.map(|head| head.status());
    assert_eq!(status, Some(413));
    assert!(!exchange.body_is_whole().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| Reply::ok(head.target()));
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    let both = [Request::get("/1").bytes(), Request::get("/2").bytes()].concat();
    client.send(&both).await;
    assert_eq!(client.response().await.text(), "/1");
    assert_eq!(client.response().await.text(), "/2");
}

#[tokio::test]
async fn what_an_upstream_says_wrongly_does_not_reach_the_client() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Last(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .to_vec(),
        )
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::get("/x").open(proxy.data).await;
    let head = client.head().await;
    assert!(
        head.all("content-length").is_empty() || head.status() == 502,
        "{}",
        latin1(&head.raw)
    );
    if head.status() == 200 {
        assert_eq!(
            client.piece().await.ok(),
            Some(Piece::Data(b"hello".to_vec()))
        );
    }
    within("the end", async { client.body().await }).await.ok();
}
