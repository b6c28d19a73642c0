//! Client connections: their first bytes, what on them is no request, and their last ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use http_body_util::Full;

use crate::issuer::Issuer;
use crate::support::answer::{Findings, own};
use crate::support::h2::H2;
use crate::support::upstream::response;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// Larger than `limits.header_bytes`.
const TOO_MUCH: usize = 300_000;

async fn open_proxy(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(OPEN).start().await
}

fn unreadable() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let malformed = [
        ("no request", "hello\r\n\r\n"),
        (
            "a line without colon",
            "GET /x HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        ),
        (
            "a folded field",
            "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        ),
        (
            "a space before the colon",
            "GET /x HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        ),
        ("a bare CR", "GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n"),
        ("a NUL", "GET /x HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
        (
            "a space in the target",
            "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("no target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/0.9", "GET /x\r\n\r\n"),
        ("HTTP/1.2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("HTTP/2 as a version", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n"),
        (
            "a method that is no token",
            "G@T /x HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "two lengths",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        (
            "a signed length",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        ),
        (
            "a length list",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        ),
        (
            "a length in hexadecimal",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        ),
        (
            "a coding in HTTP/1.0",
            "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a TLS handshake",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03",
        ),
        (
            "a PROXY header that nobody asked for",
            "PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n",
        ),
        ("nearly HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
    ];
    let mut cases: Vec<_> = malformed
        .into_iter()
        .map(|(case, text)| (case, text.as_bytes().to_vec(), 400, "request_malformed"))
        .collect();
    let large = "x".repeat(TOO_MUCH);
    let many = "X: 1\r\n".repeat(200);
    for (case, text, status, code) in [
        (
            "a large field",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {large}\r\n\r\n"),
            431,
            "headers_too_large",
        ),
        (
            "a head without end",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {large}"),
            431,
            "headers_too_large",
        ),
        (
            "many fields",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
            431,
            "headers_too_large",
        ),
        (
            "a large target",
            format!("GET /{large} HTTP/1.1\r\nHost: a\r\n\r\n"),
            414,
            "uri_too_long",
        ),
        (
            "a first line without end",
            format!("GET /{large}"),
            414,
            "uri_too_long",
        ),
    ] {
        cases.push((case, text.into_bytes(), status, code));
    }
    cases
}

#[tokio::test]
async fn what_is_no_request_gets_an_answer_and_a_line() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (case, bytes, status, code) in unreadable() {
        // As the first thing on a connection, and after a request that was fine.
        for warm in [false, true] {
            let mut client = Client::connect(proxy.data).await;
            if warm {
                assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
            }
            client.send(&bytes).await;
            let answer = client.response().await;
            findings.add(case, own(&answer, status, code));
            let close = answer.header("connection") == Some("close");
            findings.check(case, close, || "no Connection: close".to_owned());
            client.end().await;
            client.closed().await;
            let id = answer.header("x-request-id").unwrap_or_default().to_owned();
            let line = proxy
                .event(case, |event| {
                    event["message"] == "request" && event["request_id"] == id
                })
                .await;
            let line = (&line["outcome"], &line["code"], &line["status"]);
            findings.check(
                case,
                line == (&"refused".into(), &code.into(), &status.into()),
                || format!("logged as {line:?}"),
            );
        }
    }
    let good = unreadable().len();
    findings.check("the upstream", upstream.requests() == good, || {
        format!(
            "has seen {} requests for {good} good ones",
            upstream.requests()
        )
    });
    findings.assert_none();
}

#[tokio::test]
async fn nothing_unreadable_is_answered_out_of_turn() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| Reply::ok(head.target()));
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    let mut bytes = Request::get("/1").bytes();
    bytes.extend(Request::get("/2").bytes());
    bytes.extend(b"no request\r\n\r\n");
    client.send(&bytes).await;
    assert_eq!(client.response().await.text(), "/1");
    assert_eq!(client.response().await.text(), "/2");
    own(&client.response().await, 400, "request_malformed").expect("an own answer");
}

#[tokio::test]
async fn a_slow_head_is_told_that_it_was_too_slow() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nheader = \"1s\"\nidle = \"1s\"")
        .start()
        .await;
    let mut findings = Findings::default();
    for (case, bytes) in [
        ("a part of the first line", &b"GE"[..]),
        ("the first line", b"GET /x HTTP/1.1\r\n"),
        (
            "a part of a field",
            b"GET /x HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        ),
        ("all but the last byte", b"GET /x HTTP/1.1\r\nHost: a\r\n\r"),
    ] {
        for warm in [false, true] {
            let mut client = Client::connect(proxy.data).await;
            if warm {
                assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
            }
            client.send(bytes).await;
            findings.add(case, own(&client.response().await, 408, "request_timeout"));
            client.end().await;
            client.closed().await;
        }
    }
    // Who has asked for nothing is told nothing.
    let mut silent = Client::connect(proxy.data).await;
    let mut idle = Client::connect(proxy.data).await;
    assert_eq!(idle.request(&Request::get("/x")).await.text(), "hello");
    for client in [&mut silent, &mut idle] {
        let said = client.head_or_end().await;
        findings.check("silence", said.is_none(), || format!("{said:?}"));
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_drip_of_bytes_makes_no_head_last_longer() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nheader = \"1s\"")
        .start()
        .await;
    let mut client = Client::connect(proxy.data).await;
    client.send(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    let dripping = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            if client.drip(b"x").await.is_some() {
                return;
            }
        }
    };
    crate::support::wire::within("the end of the drip", dripping).await;
    own(&client.response().await, 408, "request_timeout").expect("an own answer");
}

#[tokio::test]
async fn an_upload_that_is_refused_hears_why() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let body = vec![b'x'; 6 * 1024 * 1024];
    for (rest, status, code) in [
        ("", 401, "token_missing"),
        ("[limits]\nbody_bytes = \"1MiB\"", 413, "body_too_large"),
    ] {
        let proxy = Setup::new(&issuer, &upstream).rest(rest).start().await;
        // The client looks only after it has sent everything, as many libraries do: being reset
        // before that would cost it the answer.
        let mut client = Client::connect(proxy.data).await;
        let request = Request::post("/x", body.clone());
        assert!(client.sends(&request.bytes()).await, "the upload was reset");
        own(&client.response().await, status, code).expect("an own answer");
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn early_hints_pass() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let hints = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\
                     Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n\
                     HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n";
        let mut bytes = hints.as_bytes().to_vec();
        bytes.extend(response("200 OK", &[], head.target()));
        Reply::Bytes(bytes)
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    for path in ["/1", "/2"] {
        client.write(&Request::get(path)).await;
        for link in ["</a.css>; rel=preload", "</b.css>; rel=preload"] {
            let hint = client.head().await;
            assert_eq!((hint.status(), hint.get("link")), (103, Some(link)));
            assert_eq!((hint.get("x-hop"), hint.get("connection")), (None, None));
            assert_eq!(hint.get("keep-alive"), None);
        }
        assert_eq!(client.response().await.text(), path);
    }
    // An HTTP/1.0 client knows no interim answers.
    let mut old = Client::connect(proxy.data).await;
    old.send(b"GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(old.head().await.status(), 200);
}

#[tokio::test]
async fn a_proxy_header_names_the_client_where_one_is_due() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true")
        .rest(OPEN)
        .start()
        .await;
    let v2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for (header, forwarded_for) in [
        (
            &b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n"[..],
            "198.51.100.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 8080 80\r\n",
            "2001:db8::7",
        ),
        (v2, "198.51.100.7"),
        // The balancer's own health check.
        (local, "203.0.113.9, 127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "203.0.113.9, 127.0.0.1"),
        // The client is a trusted proxy itself.
        (
            b"PROXY TCP4 127.0.0.5 10.0.0.1 8080 80\r\n",
            "203.0.113.9, 127.0.0.5",
        ),
    ] {
        let mut client = Client::connect(proxy.data).await;
        client.send(header).await;
        let request = Request::get("/x").header("X-Forwarded-For", "203.0.113.9");
        for _ in 0..2 {
            assert_eq!(client.request(&request).await.text(), "hello");
            let head = upstream.next().await.head;
            assert_eq!(
                head.get("x-forwarded-for"),
                Some(forwarded_for),
                "{header:?}"
            );
        }
    }
    let seen = upstream.requests();
    for bytes in [
        &b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 198.51.100.777 10.0.0.1 8080 80\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = Client::connect(proxy.data).await;
        client.send(bytes).await;
        client.closed().await;
    }
    assert_eq!(upstream.requests(), seen);
}

/// A listener of IPv6 shows clients of IPv4 by IPv4-mapped addresses. They are the same peers.
#[tokio::test]
async fn a_mapped_address_is_the_address() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let request = Request::get("/x")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-Forwarded-Proto", "https");
    let trusted = ("203.0.113.9, 127.0.0.1", "https");
    for (network, expected) in [
        ("127.0.0.1", trusted),
        ("::ffff:127.0.0.1", trusted),
        ("::ffff:7f00:1", trusted),
        ("::ffff:127.0.0.0/104", trusted),
        ("::ffff:127.0.0.2", ("127.0.0.1", "http")),
    ] {
        let proxy = Setup::new(&issuer, &upstream)
            .data_on(Ipv6Addr::UNSPECIFIED.into())
            .top(&format!("trusted_proxies = [\"{network}\"]"))
            .rest(OPEN)
            .start()
            .await;
        let mut client = Client::connect((Ipv4Addr::LOCALHOST, proxy.data.port()).into()).await;
        assert_eq!(client.request(&request).await.status(), 200);
        let head = upstream.next().await.head;
        let found = (head.get("x-forwarded-for"), head.get("x-forwarded-proto"));
        let (address, scheme) = expected;
        assert_eq!(found, (Some(address), Some(scheme)), "{network}");
        let line = proxy.request_line("/x").await;
        let logged = line["client"].as_str().expect("an address");
        assert!(logged.starts_with("127.0.0.1:"), "{logged}");
    }
    // With the PROXY protocol, too: on both sides of the header.
    let proxy = Setup::new(&issuer, &upstream)
        .data_on(Ipv6Addr::UNSPECIFIED.into())
        .top("trusted_proxies = [\"::ffff:127.0.0.1\"]\nproxy_protocol = true")
        .rest(OPEN)
        .start()
        .await;
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, proxy.data.port()).into()).await;
    let header = b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:10.0.0.1 8080 80\r\n";
    client.send(header).await;
    assert_eq!(client.request(&request).await.status(), 200);
    let head = upstream.next().await.head;
    assert_eq!(head.get("x-forwarded-for"), Some("198.51.100.7"));
    let line = proxy.request_line("/x").await;
    assert_eq!(line["client"], "198.51.100.7:8080");
}

#[tokio::test]
async fn a_stranger_cannot_name_itself_by_a_proxy_header() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    for top in [
        "trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true",
        "trusted_proxies = [\"127.0.0.0/8\"]",
    ] {
        let proxy = Setup::new(&issuer, &upstream)
            .top(top)
            .rest(OPEN)
            .start()
            .await;
        let mut client = Client::connect(proxy.data).await;
        client
            .send(b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        own(&client.response().await, 400, "request_malformed").expect("an own answer");
        assert_eq!(proxy.send(&Request::get("/x")).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    }
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn no_more_connections_are_accepted_than_files_can_be_opened_for() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/hang" => Reply::Hang,
        other => Reply::ok(other),
    });
    // 128 are for other things, and each connection may need two.
    let proxy = Setup::new(&issuer, &upstream)
        .open_files(144)
        .rest(OPEN)
        .start()
        .await;
    let warning = proxy
        .event("the limit of open files", |event| {
            event["open_files"] == 144
        })
        .await;
    assert_eq!(
        (&warning["wanted"], &warning["connections"]),
        (&10_000.into(), &8.into())
    );
    let mut inside = Vec::new();
    for number in 0..8 {
        // Each by a caller of its own: one alone gets three quarters of what is there.
        let token = issuer.user(&format!("auth0|{number}")).mint();
        inside.push(Request::get("/hang").bearer(&token).open(proxy.data).await);
        upstream.next().await;
    }
    let mut outside = Vec::new();
    for number in 0..20 {
        let token = issuer.user(&format!("google|{number}")).mint();
        let later = Request::get("/later").bearer(&token);
        outside.push(later.open(proxy.data).await);
    }
    assert_eq!(upstream.requests(), 8);
    drop(inside);
    for client in &mut outside {
        assert_eq!(client.response().await.text(), "/later");
        client.end().await;
    }
}

/// Budgets keep the process from it; what else runs on the machine may bring it about.
#[tokio::test]
async fn running_out_of_files_passes_by_waiting() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/hang" => Reply::Hang,
        other => Reply::ok(other),
    });
    let proxy = Setup::new(&issuer, &upstream)
        // The worker that meets the trouble is the one that sees its end.
        .top("workers = 1")
        .rest(OPEN)
        .start()
        .await;
    let client = H2::connect(proxy.data).await;
    let send = |path| {
        let mut client = client.clone();
        let request = http::Request::get(format!("http://a{path}"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        async move { client.send(request).await.status() }
    };
    assert_eq!(send("/before").await, 200);
    upstream.next().await;
    let before = proxy.limit_files(3);
    // One of them has the connection of the request before.
    let hanging = tokio::spawn(send("/hang"));
    upstream.next().await;
    assert_eq!(send("/another").await, 503);
    let overloaded = proxy.request_line("/another").await;
    assert_eq!(overloaded["code"], "overloaded");
    let mut late = Request::get("/late").open(proxy.data).await;
    proxy
        .event("a connection that could not be accepted", |event| {
            event["message"] == "cannot accept connections; trying again"
        })
        .await;
    proxy.limit_files(before);
    assert_eq!(late.response().await.text(), "/late");
    proxy
        .event("the end of the trouble", |event| {
            event["message"] == "accepting connections again"
        })
        .await;
    assert_eq!(proxy.send(&Request::get("/good")).await.text(), "/good");
    hanging.abort();
}

#[tokio::test]
async fn an_idle_upstream_connection_is_closed_though_no_request_comes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
    upstream.next().await.closed().await;
}

/// However many connections the upstream's name is looked up for at a time, few threads do it.
#[tokio::test]
async fn looking_up_names_takes_few_threads() {
    const MOST: usize = 4;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let named = format!("http://localhost:{}", upstream.address().port());
    let proxy = Setup::to(&issuer, &named).rest(OPEN).start().await;
    let before = proxy.threads();
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(Client::connect(proxy.data).await);
    }
    proxy
        .while_stopped(async {
            for client in &mut clients {
                client.write(&Request::get("/x")).await;
            }
        })
        .await;
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    assert!(upstream.connections() > MOST, "each needed its own");
    let threads = proxy.threads() - before;
    assert!(threads <= MOST, "{threads} more threads");
}
