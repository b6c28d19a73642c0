//! How a gateway has to behave between a client and its upstream, rule by rule.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::issuer::Issuer;
use crate::support::answer::error_type;
use crate::support::h2::{self, H2};
use crate::support::upstream::{Feed, response};
use crate::support::wire::chunk;
use crate::support::{
    Client, Exchange, Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own,
};

/// Everything public, for rules that are not about tokens.
const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

async fn open_proxy(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(OPEN).start().await
}

/// A request written byte by byte.
fn raw(head: &str, body: &[u8]) -> Vec<u8> {
    [head.replace('\n', "\r\n").as_bytes(), b"\r\n\r\n", body].concat()
}

/// Every octet that may stand in a field name beside letters and digits (RFC 9110, section 5.6.2).
const SIGNS: &str = "!#$%&'*+-.^_`|~";

/// H1: exactly one sound `Host`, whatever the version and the method.
#[tokio::test]
async fn a_request_without_exactly_one_sound_host_is_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for lines in [
        &[][..],
        &[""],
        &["a", "a"],
        &["a", "b"],
        &["a", ""],
        &["a b"],
        &["a\tb"],
        &["a,b"],
        &["a;b"],
        &["a/"],
        &["a?x"],
        &["a#x"],
        &["a\\b"],
        &["u@a"],
        &["u:p@a"],
        &["http://a"],
        &["a:"],
        &["a:b"],
        &["a:-1"],
        &["a:+80"],
        &["a:65536"],
        &["a:80:80"],
        &["::1"],
        &["[::1"],
        &["::1]"],
        &["[::1]x"],
        &["[::g]"],
        &["[a]"],
        &["%61"],
        &["a%00"],
        &["*"],
        &["<a>"],
        &["caf\u{e9}"],
    ] {
        let request = lines
            .iter()
            .fold(Request::get("/x").host(None), |request, line| {
                request.header("Host", line)
            });
        let answer = proxy.send(&request).await;
        findings.add(&format!("{lines:?}"), own(&answer, 400, "host_malformed"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {} of them", upstream.requests())
    });
    findings.assert_none();
    for host in [
        "a",
        "a:80",
        "A.example.",
        "127.0.0.1:8080",
        "[::1]:8080",
        "a_b",
    ] {
        let answer = proxy.send(&Request::get("/x").host(Some(host))).await;
        assert_eq!(answer.status(), 200, "{host}");
        assert_eq!(upstream.next().await.head.get("host"), Some(host));
    }
}

/// H2: the authority of an absolute target replaces `Host`, for everything that is made of it.
#[tokio::test]
async fn an_absolute_target_replaces_the_host() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (target, host, forwarded, expected) in [
        ("http://b.example/x?y", "a.example", "/x?y", "b.example"),
        ("HTTP://b.example/x", "a.example", "/x", "b.example"),
        (
            "https://b.example:8443/",
            "a.example",
            "/",
            "b.example:8443",
        ),
        ("http://b.example", "a.example", "/", "b.example"),
        ("http://b.example?y", "a.example", "/?y", "b.example"),
        ("http://[::1]:80/x", "a.example", "/x", "[::1]:80"),
    ] {
        let answer = proxy.send(&Request::get(target).host(Some(host))).await;
        findings.check(target, answer.status() == 200, || answer.text());
        let head = upstream.next().await.head;
        let found = (
            head.target(),
            head.get("host"),
            head.get("x-forwarded-host"),
        );
        let wanted = (forwarded, Some(expected), Some(expected));
        findings.check(target, found == wanted, || format!("{found:?}"));
    }
    let seen = upstream.requests();
    for (target, host, code) in [
        ("http://u@b.example/x", Some("a.example"), "host_malformed"),
        (
            "http://u:p@b.example/x",
            Some("a.example"),
            "host_malformed",
        ),
        ("http://b.example/x", None, "host_malformed"),
        ("http://b.example/x", Some("a b"), "host_malformed"),
        ("ftp://b.example/x", Some("a.example"), "request_malformed"),
        ("ws://b.example/x", Some("a.example"), "request_malformed"),
    ] {
        let answer = proxy.send(&Request::get(target).host(host)).await;
        findings.add(&format!("{target} {host:?}"), own(&answer, 400, code));
    }
    findings.check("the upstream", upstream.requests() == seen, || {
        format!("has seen {}", upstream.requests() - seen)
    });
    findings.assert_none();
}

/// H3: where hosts are listed, a request for another one is misdirected, token or not.
#[tokio::test]
async fn a_host_that_is_not_listed_is_not_served() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("allowed_hosts = [\"agents.example.com\", \"Localhost:8080\", \"[::1]\"]")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let get = |host: &str| Request::get("/x").host(Some(host)).bearer(&token);
    let mut findings = Findings::default();
    for host in [
        "evil.example",
        "agents.example.com.",
        "agents.example.com.evil.example",
        "x.agents.example.com",
        "gents.example.com",
        "localhost",
        "localhost:80",
        "localhost:80800",
        "127.0.0.1",
        "[::2]",
    ] {
        let wrong = if host == "localhost:80800" {
            (400, "host_malformed")
        } else {
            (421, "host_not_served")
        };
        for request in [get(host), Request::get("/x").host(Some(host))] {
            let answer = proxy.send(&request).await;
            findings.add(host, own(&answer, wrong.0, wrong.1));
        }
    }
    // The target counts, not the field beside it.
    let request = Request::get("http://evil.example/x").bearer(&token);
    let answer = proxy.send(&request).await;
    findings.add("an absolute target", own(&answer, 421, "host_not_served"));
    let preflight = Request::new("OPTIONS", "/x")
        .host(Some("evil.example"))
        .header("Origin", "http://evil.example")
        .header("Access-Control-Request-Method", "POST");
    findings.add(
        "a preflight",
        own(&proxy.send(&preflight).await, 421, "host_not_served"),
    );
    let star = Request::new("OPTIONS", "*").host(Some("evil.example"));
    findings.add(
        "OPTIONS *",
        own(&proxy.send(&star).await, 421, "host_not_served"),
    );
    let mut client = H2::connect(proxy.data).await;
    let answer = client.send(h2_get("http://evil.example/x", &[])).await;
    findings.check("HTTP/2", answer.status() == 421, || format!("{answer:?}"));
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    for host in [
        "agents.example.com",
        "AGENTS.example.com",
        "agents.example.com:8443",
        "localhost:8080",
        "[::1]:80",
    ] {
        assert_eq!(proxy.send(&get(host)).await.status(), 200, "{host}");
        assert_eq!(upstream.next().await.head.get("host"), Some(host));
    }
}

fn h2_get(uri: &str, fields: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    let request = fields
        .iter()
        .fold(http::Request::get(uri), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(Full::new(Bytes::new())).expect("a request")
}

/// H4 to H8: whatever two readers could frame differently is refused, and nothing that follows on
/// the connection is taken for a request.
#[tokio::test]
async fn ambiguous_framing_ends_the_connection() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut findings = Findings::default();
    for (rule, fields) in [
        ("H4", "Content-Length: 3\nTransfer-Encoding: chunked"),
        ("H4", "Transfer-Encoding: chunked\nContent-Length: 3"),
        ("H4", "Content-Length: 0\nTransfer-Encoding: chunked"),
        ("H4", "Content-Length: 3\nTransfer-Encoding: identity"),
        ("H5", "Transfer-Encoding: gzip, chunked"),
        ("H5", "Transfer-Encoding: chunked, gzip"),
        ("H5", "Transfer-Encoding: chunked, chunked"),
        (
            "H5",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        ),
        ("H5", "Transfer-Encoding: gzip\nTransfer-Encoding: chunked"),
        (
            "H5",
            "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        ),
        ("H5", "Transfer-Encoding: identity"),
        ("H5", "Transfer-Encoding: gzip"),
        ("H5", "Transfer-Encoding: xchunked"),
        ("H5", "Transfer-Encoding: \"chunked\""),
        ("H5", "Transfer-Encoding: chunked;q=1"),
        ("H5", "Transfer-Encoding: ,chunked"),
        ("H5", "Transfer-Encoding: chunked,"),
        ("H5", "Transfer-Encoding:"),
        ("H5", "Transfer-Encoding: \u{b}chunked"),
        ("H6", "Content-Length: +3"),
        ("H6", "Content-Length: -3"),
        ("H6", "Content-Length: 0x3"),
        ("H6", "Content-Length: 3, 3"),
        ("H6", "Content-Length: 3, 4"),
        ("H6", "Content-Length: 3 3"),
        ("H6", "Content-Length: 3\nContent-Length: 4"),
        ("H6", "Content-Length: 3;"),
        ("H6", "Content-Length: three"),
        ("H6", "Content-Length: 18446744073709551616"),
        ("H8", "X: 1\n 2"),
        ("H8", "X: 1\n\t2"),
        ("H8", "Content-Length : 3"),
        ("H8", "Content-Length\t: 3"),
        ("H8", "Transfer-Encoding : chunked"),
        ("H8", " Transfer-Encoding: chunked"),
        ("H8", "X: 1\rTransfer-Encoding: chunked"),
        ("H8", "X\n: 3"),
        ("H8", "no colon"),
        ("H8", ": 3"),
    ] {
        let case = format!("{rule} {fields:?}");
        let head = format!("POST /x HTTP/1.1\nHost: a\n{fields}");
        let mut client = Client::connect(proxy.data).await;
        let bytes = [&raw(&head, b"0\r\n\r\n")[..], smuggled].concat();
        client.send(&bytes).await;
        match client.head_or_end().await {
            Some(head) => {
                findings.check(&case, [400, 501].contains(&head.status()), || {
                    head.first_line.clone()
                });
            }
            None => findings.check(&case, false, || "no answer".to_owned()),
        }
        client.closed().await;
    }
    // Codings did not exist in HTTP/1.0.
    for version in ["1.0", "0.9", "1.2", "2.0", "3"] {
        let head = format!("POST /x HTTP/{version}\nHost: a\nTransfer-Encoding: chunked");
        let mut client = Client::connect(proxy.data).await;
        client
            .send(&[&raw(&head, b"0\r\n\r\n")[..], smuggled].concat())
            .await;
        let status = client.head_or_end().await.map(|head| head.status());
        let refused = status.is_none_or(|status| [400, 505].contains(&status));
        findings.check(&format!("H7 {version}"), refused, || format!("{status:?}"));
        client.closed().await;
    }
    assert_eq!(upstream.requests(), 0);
    findings.assert_none();
}

/// RFC 9112 §6.3 allows to go by the coding alone, if the connection ends with it. Here that is so for pipelined
/// requests only; all others are refused, in whatever pieces they come.
#[tokio::test]
async fn a_length_beside_chunks_is_refused() {
    const CHUNKS: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let post = |fields: &str| raw(&format!("POST /x HTTP/1.1\nHost: a\n{fields}"), CHUNKS);
    let plain = post("Transfer-Encoding: chunked");
    let long = "x".repeat(20_000);
    let get = raw("GET /x HTTP/1.1\nHost: a", b"");
    let upload = raw("POST /x HTTP/1.1\nHost: a\nContent-Length: 5", b"hello");
    let mut findings = Findings::default();
    for fields in [
        "Transfer-Encoding: chunked\nContent-Length: 5",
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "content-length:5\ntransfer-encoding:chunked",
        "CONTENT-LENGTH: 5\nTRANSFER-ENCODING: CHUNKED",
        "Content-Length: 5\nX: y\nContent-Length: 5\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length:",
        "Transfer-Encoding: chunked\nContent-Length: five",
        "Connection: content-length\nTransfer-Encoding: chunked\nContent-Length: 5",
        &format!("Content-Length: 5\nX: {long}\nTransfer-Encoding: chunked"),
        &format!("Transfer-Encoding: chunked\nX: {long}\nContent-Length: 5"),
    ] {
        let both = post(fields);
        let (one, two) = both.split_at(both.len() / 2);
        let small = both.chunks(both.len().div_ceil(30));
        let case = fields.get(..60).unwrap_or(fields);
        for (way, pieces) in [
            ("at once", vec![both.clone()]),
            ("in two pieces", vec![one.to_vec(), two.to_vec()]),
            ("in small pieces", small.map(<[u8]>::to_vec).collect()),
            ("behind empty lines", vec![[b"\r\n\n", &both[..]].concat()]),
        ] {
            // On a new connection, and on one that has served with and without bodies.
            for before in [&[][..], &[&get], &[&upload, &plain]] {
                let mut client = Client::connect(proxy.data).await;
                for request in before {
                    client.send(request).await;
                    assert_eq!(client.response().await.status(), 200);
                }
                for piece in &pieces {
                    client.send(piece).await;
                }
                let status = client.response().await.status();
                let case = format!("{case:?} {way} after {}", before.len());
                findings.check(&case, status == 400, || status.to_string());
                client.closed().await;
            }
        }
        for first in [&get, &upload, &plain] {
            let mut client = Client::connect(proxy.data).await;
            client.send(&[&first[..], &both, &get].concat()).await;
            assert_eq!(client.response().await.status(), 200);
            let answer = client.response().await;
            let is_last = answer.header("connection") == Some("close");
            let sound = is_last && [200, 400].contains(&answer.status());
            findings.check(&format!("{case:?} pipelined"), sound, || answer.text());
            client.closed().await;
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn chunks_are_served_whatever_they_hold_and_follow() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[[route]]\npath = \"/closed\"")
        .start()
        .await;
    let chunked = |path: &str, body: &str| {
        let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        raw(
            &format!("POST {path} HTTP/1.1\nHost: a\nTransfer-Encoding: chunked"),
            body.as_bytes(),
        )
    };
    let telling = "--b\r\nContent-Length: 5\r\n\r\nhello\r\nContent-Length: 5\r\n";
    let get = raw("GET /x HTTP/1.1\nHost: a", b"");
    let upload = raw("POST /x HTTP/1.1\nHost: a\nContent-Length: 5", b"hello");
    let mut client = Client::connect(proxy.data).await;
    for (bytes, status) in [
        (chunked("/x", telling), 200),
        (chunked("/x", telling), 200),
        (get.clone(), 200),
        // Refused before its body was read, which is here already.
        (chunked("/closed", telling), 401),
        (chunked("/x", "hello"), 200),
        (upload.clone(), 200),
        (chunked("/x", telling), 200),
    ] {
        client.send(&bytes).await;
        let answer = client.response().await;
        assert_eq!(
            answer.status(),
            status,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    // Pipelined.
    for first in [&get, &upload, &chunked("/x", telling)] {
        let mut client = Client::connect(proxy.data).await;
        client
            .send(&[&first[..], &chunked("/x", telling), &get].concat())
            .await;
        for _ in 0..3 {
            assert_eq!(client.response().await.status(), 200);
        }
    }
}

/// H9: control characters end a request; every other byte of a value passes as it is.
#[tokio::test]
async fn values_pass_byte_for_byte_or_not_at_all() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for byte in 0..=u8::MAX {
        if byte == b'\n' {
            // The end of a line for whoever is lenient; what follows is a field then.
            continue;
        }
        let case = format!("{byte:#04x}");
        let head = [
            b"GET /x HTTP/1.1\r\nHost: a\r\nX-Byte: <",
            &[byte][..],
            b">\r\n\r\n",
        ]
        .concat();
        let mut client = Client::connect(proxy.data).await;
        client.send(&head).await;
        let status = client.head_or_end().await.map(|head| head.status());
        let passes = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let expected = if passes { 200 } else { 400 };
        findings.check(&case, status == Some(expected), || format!("{status:?}"));
        if status == Some(200) {
            let found = upstream.next().await.head;
            let value = found.get("x-byte").map(str::to_owned);
            let sent: String = ['<', char::from(byte), '>'].iter().collect();
            findings.check(&case, value.as_ref() == Some(&sent), || {
                format!("{value:?}")
            });
        }
    }
    findings.assert_none();
}

/// H10 and H33: a chunked upload that goes wrong is never completed for the upstream, and what is
/// wrong with it decides how it is told: a mistake of the framing, or a client that has left.
#[tokio::test]
async fn an_upload_that_goes_wrong_is_cut_for_the_upstream() {
    /// What comes after two good chunks.
    const MISTAKES: [(&str, &str); 16] = [
        ("no size", "\r\n"),
        ("no number", "nonsense\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a minus", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        (
            "a size of 2^64 + 3",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        ("a comma in the size", "3,0\r\nabc\r\n0\r\n\r\n"),
        (
            "a line feed in an extension",
            "3;x=a\nb\r\nabc\r\n0\r\n\r\n",
        ),
        ("a carriage return in a size", "3\r3\r\nabc\r\n0\r\n\r\n"),
        ("text after a space", "3 3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a chunk without its end", "3\r\nabc0\r\n\r\n"),
        ("a line feed alone after a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("a line feed alone after a size", "3\nabc\r\n0\r\n\r\n"),
        (
            "a request in place of a chunk",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (number, (case, mistake)) in MISTAKES.iter().enumerate() {
        let path = format!("/mistake/{number}");
        let (mut client, exchange) = half_an_upload(&proxy, &upstream, &path).await;
        client.send(mistake.as_bytes()).await;
        let status = client.head_or_end().await.map(|head| head.status());
        findings.check(case, status == Some(400), || format!("{status:?}"));
        findings.check(case, !exchange.body_is_whole().await, || {
            "is whole".to_owned()
        });
        client.closed().await;
        let line = proxy.request_line(&path).await;
        let told = (&line["outcome"], &line["code"]);
        let right = told == (&"refused".into(), &"request_malformed".into());
        findings.check(case, right, || line.to_string());
    }
    for case in ["end", "end in a size", "end in a chunk", "reset"] {
        let path = format!("/{}", case.replace(' ', "-"));
        let (mut client, exchange) = half_an_upload(&proxy, &upstream, &path).await;
        match case {
            "end in a size" => client.send(b"5").await,
            "end in a chunk" => client.send(b"5\r\nab").await,
            "reset" => client.reset_at_the_end(),
            _ => {}
        }
        drop(client);
        findings.check(case, !exchange.body_is_whole().await, || {
            "is whole".to_owned()
        });
        exchange.closed().await;
        let line = proxy.request_line(&path).await;
        let told = (&line["outcome"], &line["code"], &line["status"]);
        let right = told == (&"cancelled".into(), &"client_closed".into(), &().into());
        findings.check(case, right, || line.to_string());
    }
    findings.assert_none();
}

async fn half_an_upload(proxy: &Proxy, upstream: &Upstream, path: &str) -> (Client, Exchange) {
    let request = Request::new("POST", path).header("Transfer-Encoding", "chunked");
    let mut client = request.open(proxy.data).await;
    client
        .send(b"5\r\nfirst\r\n6;ext=\"1\"\r\nsecond\r\n")
        .await;
    let exchange = upstream.next().await;
    exchange.body_reaches(11).await;
    (client, exchange)
}

/// H33: who breaks off an upload of a declared length has left as well.
#[tokio::test]
async fn a_client_that_leaves_its_upload_is_no_malformed_request() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let proxy = open_proxy(&issuer, &upstream).await;
    for (path, reset) in [("/fin", false), ("/rst", true)] {
        let request = Request::new("POST", path).header("Content-Length", "100");
        let mut client = request.open(proxy.data).await;
        client.send(b"only this").await;
        let exchange = upstream.next().await;
        exchange.body_reaches(9).await;
        if reset {
            client.reset_at_the_end();
        }
        drop(client);
        assert!(!exchange.body_is_whole().await, "{path}");
        let line = proxy.request_line(path).await;
        assert_eq!(line["outcome"], "cancelled", "{line}");
        assert_eq!(line["code"], "client_closed", "{line}");
        assert_eq!(line["status"], Value::Null, "{line}");
    }
}

/// H33: the same when the answer has begun: it is the client that has broken the exchange.
#[tokio::test]
async fn an_upload_that_goes_wrong_under_its_answer_is_not_the_upstreams_failure() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Echo);
    let proxy = open_proxy(&issuer, &upstream).await;
    for (path, end, outcome, code) in [
        (
            "/mistake",
            Some("nonsense\r\n"),
            "refused",
            "request_malformed",
        ),
        ("/fin", None, "cancelled", "client_closed"),
    ] {
        let request = Request::new("POST", path).header("Transfer-Encoding", "chunked");
        let mut client = request.open(proxy.data).await;
        client.send(&chunk(b"hello")).await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.data().await, "hello");
        let exchange = upstream.next().await;
        if let Some(end) = end {
            client.send(end.as_bytes()).await;
            assert!(
                client.body().await.is_err(),
                "{path} has ended as if it were whole"
            );
        }
        drop(client);
        assert!(!exchange.body_is_whole().await, "{path}");
        let line = proxy.request_line(path).await;
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(line["status"], 200, "{line}");
    }
}

/// H11: trailers end here, whatever they are called and wherever they were announced; they become
/// no fields either.
#[tokio::test]
async fn no_trailer_of_a_request_passes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    for name in [
        "X-Forwarded-User",
        "X_Forwarded_User",
        "Authorization",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Via",
        "Cookie",
        "Grpc-Status",
        "X-End",
    ] {
        let mut client = Request::new("POST", "/x")
            .header("Transfer-Encoding", "chunked")
            .header("TE", "trailers")
            .header("Trailer", name)
            .open(proxy.data)
            .await;
        let end = format!("2\r\nhi\r\n0\r\n{name}: mallory\r\n\r\n");
        client.send(end.as_bytes()).await;
        assert_eq!(client.response().await.status(), 200, "{name}");
        let exchange = upstream.next().await;
        assert_eq!(exchange.body().await, b"hi", "{name}");
        assert_eq!(exchange.trailers().await, Vec::new(), "{name}");
        assert!(exchange.head.all("trailer").is_empty(), "{name}");
        let spoofed = exchange
            .head
            .fields
            .iter()
            .find(|field| field.1 == "mallory");
        assert_eq!(spoofed, None, "{name}");
    }
}

/// H12: what speaks of one connection, and what `Connection` names, stays on it, both ways.
#[tokio::test]
async fn connection_fields_stay_on_their_connection() {
    const NAMED: [&str; 3] = ["X-Hop", "x_hop", "Accept-Language"];
    const ALWAYS: [(&str, &str); 7] = [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic dXNlcjpwYXNz"),
        ("Proxy-Authenticate", "Basic"),
        ("TE", "trailers, deflate"),
        ("Trailer", "X-End"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        let mut fields = vec![(
            "Connection",
            "X-Hop,x_hop , Accept-Language,, X-Not-There, b@d name",
        )];
        fields.extend(NAMED.map(|name| (name, "1")));
        fields.extend(ALWAYS);
        fields.extend([("Upgrade", "h2c"), ("X-End", "1")]);
        Reply::Bytes(response("200 OK", &fields, "hello"))
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut request = Request::get("/x")
        .header("Connection", "keep-alive, X-Hop")
        .header(
            "Connection",
            " ,x_hop,Accept-Language, TE, X-Forwarded-For, b@d name",
        );
    for (name, value) in NAMED.map(|name| (name, "1")).into_iter().chain(ALWAYS) {
        request = request.header(name, value);
    }
    let answer = proxy.send(&request.header("X-End", "1")).await;
    assert_eq!(answer.status(), 200);
    let head = upstream.next().await.head;
    let mut findings = Findings::default();
    for (side, head) in [("upstream", &head), ("client", &answer.head)] {
        let names = NAMED.iter().chain(ALWAYS.iter().map(|(name, _)| name));
        // Of the upstream's, only what RFC 9110 names goes; this one is the client's to send.
        for name in names.filter(|name| side == "upstream" || **name != "HTTP2-Settings") {
            let found = head.all(name);
            findings.check(&format!("{name} at the {side}"), found.is_empty(), || {
                format!("{found:?}")
            });
        }
        findings.check(side, head.get("x-end") == Some("1"), || {
            "lost X-End".to_owned()
        });
        findings.check(side, head.all("upgrade").is_empty(), || {
            "Upgrade".to_owned()
        });
    }
    findings.check(
        "the upstream",
        head.all("x-forwarded-for").len() == 1,
        || "has lost X-Forwarded-For".to_owned(),
    );
    findings.assert_none();
}

/// H13: `Via` says which version came in, after what others have said, and who passed it on.
#[tokio::test]
async fn via_names_the_version_and_the_instance() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let mut instances = BTreeSet::new();
    for _ in 0..2 {
        let proxy = open_proxy(&issuer, &upstream).await;
        let mut own_names = BTreeSet::new();
        for (version, lines) in [
            ("1.1", &[][..]),
            ("1.1", &["1.0 edge"]),
            ("1.1", &["1.0 edge, HTTP/1.1 inner (a comment)", "2 third"]),
            ("1.0", &[]),
            ("2", &["1.1 edge"]),
        ] {
            if version == "2" {
                let fields: Vec<_> = lines.iter().map(|line| ("via", *line)).collect();
                let mut client = H2::connect(proxy.data).await;
                client.send(h2_get("http://a/x", &fields)).await;
            } else {
                let mut head = format!("GET /x HTTP/{version}\nHost: a");
                for line in lines {
                    head.extend(["\nVia: ", line]);
                }
                let mut client = Client::connect(proxy.data).await;
                client.send(&raw(&head, b"")).await;
                assert_eq!(client.head().await.status(), 200);
            }
            let head = upstream.next().await.head;
            let via = head.all("via");
            let (own, others) = via.split_last().expect("Via");
            assert_eq!(others, lines);
            let (by_version, name) = own.split_once(' ').expect("two words");
            assert_eq!(by_version, version);
            own_names.insert(name.to_owned());
        }
        assert_eq!(own_names.len(), 1, "{own_names:?}");
        instances.extend(own_names);
    }
    assert_eq!(instances.len(), 2, "{instances:?}");
    for name in instances {
        let digits = name.strip_prefix("authgate-").expect("the prefix");
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(digits.len() == 8 && digits.bytes().all(hex), "{name}");
    }
}

/// H14: a request that this instance has passed on before is not passed on again, whoever it is
/// from and wherever in `Via` that stands.
#[tokio::test]
async fn a_request_that_comes_back_is_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    assert_eq!(proxy.send(&Request::get("/x")).await.status(), 200);
    let via = upstream
        .next()
        .await
        .head
        .get("via")
        .expect("Via")
        .to_owned();
    let name = via.split_once(' ').expect("two words").1;
    let carrying = |lines: &[String]| {
        let get = Request::get("/x");
        lines
            .iter()
            .fold(get, |request, line| request.header("Via", line))
    };
    let mut findings = Findings::default();
    for lines in [
        vec![via.clone()],
        vec![via.to_uppercase()],
        vec![format!("HTTP/2.0 {name}")],
        vec![format!("1.1\t{name}")],
        vec![format!("1.1 edge, 1.1 {name}")],
        vec![format!("1.1 edge,1.1 {name},1.1 inner")],
        vec![format!("1.1 {name} (comment, and more), 1.1 inner")],
        vec!["1.1 edge".to_owned(), via.clone()],
        vec![via.clone(), "1.1 edge".to_owned()],
    ] {
        let case = format!("{lines:?}");
        let answer = proxy.send(&carrying(&lines)).await;
        findings.add(&case, own(&answer, 508, "loop_detected"));
        let nominated = carrying(&lines).header("Connection", "via");
        let answer = proxy.send(&nominated).await;
        findings.add(&case, own(&answer, 508, "loop_detected"));
    }
    let preflight = Request::new("OPTIONS", "/x")
        .header("Origin", "https://a.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Via", &via);
    findings.add(
        "a preflight",
        own(&proxy.send(&preflight).await, 508, "loop_detected"),
    );
    findings.check("the upstream", upstream.requests() == 1, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    // Another instance, and what only looks like this one.
    for line in [
        "1.1 authgate".to_owned(),
        "1.1 authgate-00000000".to_owned(),
        format!("1.1 {name}0"),
        format!("1.1 x{name}"),
        name.to_owned(),
    ] {
        let answer = proxy.send(&carrying(std::slice::from_ref(&line))).await;
        assert_eq!(answer.status(), 200, "{line}");
    }
}

/// H14: the same where the upstream really leads back here.
#[tokio::test]
async fn a_loop_ends_after_one_round() {
    let issuer = Issuer::start();
    let nobody = Upstream::hello();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let proxy = Setup::new(&issuer, &nobody)
        .upstream(&format!("http://{address}"))
        .rest("[identity]\nforward_authorization = true")
        .start()
        .await;
    let passing_on = tokio::spawn(pass_on(listener, proxy.data));
    let token = issuer.user("auth0|alice").mint();
    let answer = proxy.send(&Request::get("/round").bearer(&token)).await;
    passing_on.abort();
    assert_own(&answer, 508, "loop_detected");
    for outcome in ["refused", "forwarded"] {
        let is_one = |event: &Value| event["message"] == "request" && event["outcome"] == outcome;
        proxy.event(outcome, is_one).await;
    }
    let events = proxy.events();
    let requests = events.iter().filter(|event| event["message"] == "request");
    assert_eq!(requests.count(), 2, "{}", proxy.output());
}

/// A port that leads to another.
async fn pass_on(listener: TcpListener, to: SocketAddr) {
    loop {
        let (mut client, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            let mut server = TcpStream::connect(to).await.expect("a connection");
            // Whichever side ends it ends both.
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

/// H15: OPTIONS counts its forwards, and the last one is answered here, after the same checks.
/// TRACE would show what was added, and is refused.
#[tokio::test]
async fn options_go_as_far_as_max_forwards_says() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let options = |values: &[&str]| {
        values
            .iter()
            .fold(Request::new("OPTIONS", "/x"), |request, value| {
                request.header("Max-Forwards", value)
            })
    };
    for zero in ["0", "00"] {
        let answer = proxy.send(&options(&[zero]).bearer(&token)).await;
        assert_eq!(answer.status(), 204, "{zero}");
        assert_eq!(answer.body, b"");
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("proxy-status"), Some("authgate"));
        assert_own(&proxy.send(&options(&[zero])).await, 401, "token_missing");
    }
    let preflight = options(&["0"])
        .header("Origin", "https://a.example")
        .header("Access-Control-Request-Method", "POST");
    assert_eq!(proxy.send(&preflight).await.status(), 204);
    for method in ["TRACE", "trace"] {
        for value in ["0", "1"] {
            let request = Request::new(method, "/x").header("Max-Forwards", value);
            let answer = proxy.send(&request.bearer(&token)).await;
            assert_own(&answer, 501, "method_not_served");
        }
    }
    assert_eq!(upstream.requests(), 0);
    for (values, left) in [
        (&["1"][..], &["0"][..]),
        (&["10"], &["9"]),
        (&["4294967295"], &["4294967294"]),
        (&["4294967296"], &["4294967294"]),
        (&["18446744073709551616"], &["4294967294"]),
        (&["-1"], &["-1"]),
        (&["+1"], &["+1"]),
        (&["1 1"], &["1 1"]),
        (&["0, 0"], &["0, 0"]),
        (&["none"], &["none"]),
        (&[""], &[""]),
        (&["0", "0"], &["0", "0"]),
        (&[], &[]),
    ] {
        let answer = proxy.send(&options(values).bearer(&token)).await;
        assert_eq!(answer.text(), "hello", "{values:?}");
        assert_eq!(upstream.next().await.head.all("max-forwards"), left);
    }
    let get = Request::get("/x").header("Max-Forwards", "0");
    assert_eq!(proxy.send(&get.bearer(&token)).await.text(), "hello");
    assert_eq!(upstream.next().await.head.get("max-forwards"), Some("0"));
}

/// H16: `OPTIONS *` asks about the server as a whole and is answered by it; CONNECT would make a
/// tunnel of it.
#[tokio::test]
async fn options_star_is_answered_here_and_connect_by_nobody() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Bytes(response(
            "200 OK",
            &[("X-Upstream", "1"), ("Allow", "GET")],
            "no",
        ))
    });
    let proxy = Setup::new(&issuer, &upstream)
        .top("unmatched = \"deny\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let star = || Request::new("OPTIONS", "*");
    for request in [
        star(),
        star().bearer(&token),
        star().header("Max-Forwards", "5"),
        star().header("Origin", "https://a.example"),
        star().body("hello"),
    ] {
        let answer = proxy.send(&request).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.body, b"");
        let names: BTreeSet<String> = answer
            .head
            .fields
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .filter(|name| !name.starts_with("access-control-"))
            .collect();
        let allowed = ["connection", "date", "proxy-status", "x-request-id"];
        assert!(
            names.iter().all(|name| allowed.contains(&name.as_str())),
            "{names:?}"
        );
    }
    let mut findings = Findings::default();
    for method in ["GET", "POST", "HEAD"] {
        let answer = proxy.send(&Request::new(method, "*").bearer(&token)).await;
        findings.check(method, answer.status() == 400, || {
            answer.head.first_line.clone()
        });
    }
    for (method, target) in [
        ("CONNECT", "agents.example.com:443"),
        ("CONNECT", "127.0.0.1:22"),
        ("CONNECT", "/x"),
        ("CONNECT", "*"),
        ("CONNECT", "http://a/x"),
    ] {
        let mut client = Request::new(method, target)
            .bearer(&token)
            .open(proxy.data)
            .await;
        let status = client.head_or_end().await.map(|head| head.status());
        findings.check(target, matches!(status, Some(400 | 501)), || {
            format!("{status:?}")
        });
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
}

/// H17: what nobody here knows passes: methods, fields and their order, statuses.
#[tokio::test]
async fn what_is_unknown_passes_unchanged() {
    const STATUSES: [&str; 14] = [
        "200 OK",
        "201 Created",
        "207 Multi-Status",
        "218 This is fine",
        "299 Own Reason",
        "302 Found",
        "399 Own",
        "401 Unauthorized",
        "418 I'm a teapot",
        "451 ",
        "499 Own",
        "500 Internal Server Error",
        "508 Loop Detected",
        "599 Own",
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let number: usize = head.target()[1..].parse().expect("a number");
        let fields = [
            ("X-Own", "1"),
            ("Other", "x"),
            ("X-Own", "2"),
            ("x-own", "3"),
        ];
        Reply::Bytes(response(STATUSES[number], &fields, "own"))
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let methods = [
        "GET",
        "QUERY",
        "PROPFIND",
        "M-SEARCH",
        "GET2",
        "!$%&'*+-.^_`|~",
        "X",
    ];
    for (number, status) in STATUSES.iter().enumerate() {
        let method = methods[number % methods.len()];
        let request = Request::new(method, &format!("/{number}"))
            .header("X-Own", "1")
            .header("X-Unknown-\u{7e}", "a")
            .header("x-own", "2")
            .header("X-OWN", "1, 3");
        let answer = proxy.send(&request).await;
        let head = upstream.next().await.head;
        assert_eq!(head.method(), method);
        assert_eq!(head.all("x-own"), ["1", "2", "1, 3"]);
        assert_eq!(head.get("x-unknown-~"), Some("a"));
        assert_eq!(answer.status().to_string(), status[..3], "{status}");
        assert_eq!(answer.head.all("x-own"), ["1", "2", "3"]);
        assert_eq!(answer.text(), "own");
    }
}

/// H22: whatever only looks like a WebSocket handshake is refused and never offered to the upstream.
#[tokio::test]
async fn only_a_whole_websocket_handshake_is_an_upgrade() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let proxy = open_proxy(&issuer, &upstream).await;
    let websocket = |method: &str| Request::new(method, "/ws").websocket();
    let upgrade = |connection: &str, upgrade: &str| {
        Request::get("/ws")
            .header("Connection", connection)
            .header("Upgrade", upgrade)
            .header("HTTP2-Settings", "AAMAAABkAAQAAP__")
    };
    let mut findings = Findings::default();
    for (case, request) in [
        ("two protocols", upgrade("Upgrade", "websocket, h2c")),
        (
            "two protocols, h2c first",
            upgrade("Upgrade", "h2c, websocket"),
        ),
        (
            "two lines",
            upgrade("Upgrade", "websocket").header("Upgrade", "h2c"),
        ),
        ("a version", upgrade("Upgrade", "websocket/13")),
        ("not nominated", upgrade("keep-alive", "websocket")),
        (
            "not nominated at all",
            Request::get("/ws").header("Upgrade", "websocket"),
        ),
        ("POST", websocket("POST")),
        ("OPTIONS", websocket("OPTIONS")),
        ("a body", websocket("GET").body("hello")),
        (
            "a large body, unsent",
            websocket("GET").header("Content-Length", "1000000"),
        ),
        (
            "chunks, unsent",
            websocket("GET").header("Transfer-Encoding", "chunked"),
        ),
    ] {
        let answer = proxy.send(&request).await;
        findings.add(case, own(&answer, 400, "upgrade_not_served"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    for request in [
        websocket("GET"),
        websocket("GET").header("Content-Length", "0"),
        upgrade("keep-alive, uPGRADE", "WebSocket").header("Sec-WebSocket-Key", "x"),
    ] {
        let mut client = request.open(proxy.data).await;
        assert_eq!(client.head().await.status(), 101);
        let head = upstream.next().await.head;
        assert_eq!(head.get("upgrade"), Some("websocket"));
        assert_eq!(head.get("connection"), Some("upgrade"));
        assert_eq!(head.all("http2-settings"), Vec::<&str>::new());
    }
}

/// A browser asks nobody before it opens a WebSocket, so the list of origins has to be held here.
#[tokio::test]
async fn a_foreign_page_opens_no_websocket_where_origins_are_listed() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::WebSocket);
    let page = "https://app.example.com";
    let listed = Setup::new(&issuer, &upstream)
        .rest(&format!("[cors]\norigins = [\"{page}\"]"))
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let opening = |origins: &[&str]| {
        let request = Request::get("/ws").websocket().bearer(&token);
        origins
            .iter()
            .fold(request, |request, origin| request.header("Origin", origin))
    };
    let mut findings = Findings::default();
    for origins in [
        &["https://evil.example"][..],
        &["null"],
        &[""],
        &["http://app.example.com"],
        &["https://app.example.com:8443"],
        &["https://app.example.com.evil.example"],
        &["https://APP.example.com"],
        &["https://app.example.com/"],
        &[page, "https://evil.example"],
        &[page, page],
    ] {
        let answer = listed.send(&opening(origins)).await;
        findings.add(&format!("{origins:?}"), own(&answer, 403, "origin_denied"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    let any = Setup::new(&issuer, &upstream)
        .rest("[cors]\norigins = [\"*\"]")
        .start()
        .await;
    let unmanaged = Setup::new(&issuer, &upstream).start().await;
    for (proxy, origins) in [
        (&listed, &[page][..]),
        (&listed, &[]),
        (&any, &["https://evil.example"]),
        (&unmanaged, &["https://evil.example"]),
    ] {
        let mut client = opening(origins).open(proxy.data).await;
        assert_eq!(client.head().await.status(), 101, "{origins:?}");
    }
}

/// H23: HTTP/2 names one sound host and scheme, and what HTTP/1 cannot have is mended or refused.
#[tokio::test]
async fn http_2_is_translated_or_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = H2::connect(proxy.data).await;
    let mut findings = Findings::default();
    for (uri, fields, code) in [
        (
            "http://a.example/x",
            &[("host", "b.example")][..],
            "host_malformed",
        ),
        (
            "http://a.example/x",
            &[("host", "a.example:80")],
            "host_malformed",
        ),
        ("http://a.example/x", &[("host", "")], "host_malformed"),
        (
            "http://a.example/x",
            &[("host", "a.example"), ("host", "a.example")],
            "host_malformed",
        ),
        ("http://u@a.example/x", &[], "host_malformed"),
        ("http://u:p@a.example/x", &[], "host_malformed"),
        (
            "http://a.example@b.example/x",
            &[("host", "a.example")],
            "host_malformed",
        ),
        ("ftp://a.example/x", &[], "request_malformed"),
        ("ws://a.example/x", &[], "request_malformed"),
        ("javascript://a.example/x", &[], "request_malformed"),
        ("http://a.example/%zz", &[], "path_malformed"),
    ] {
        let case = format!("{uri} {fields:?}");
        let answer = client.send(h2_get(uri, fields)).await;
        let status = answer.status();
        findings.check(&case, status == 400, || status.to_string());
        let body = h2::body(answer).await;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        findings.check(&case, body["code"] == code, || body.to_string());
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {}", upstream.requests())
    });
    findings.assert_none();
    for (uri, fields, host) in [
        ("http://a.example/x", &[][..], "a.example"),
        ("https://a.example:8443/x", &[], "a.example:8443"),
        ("http://a.example/x", &[("host", "A.Example")], "a.example"),
    ] {
        let mut fields = fields.to_vec();
        fields.extend([
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("cookie", "b=2; c=3"),
            ("x-own", "1"),
            ("cookie", "d=4"),
            ("x-own", "2"),
        ]);
        let answer = client.send(h2_get(uri, &fields)).await;
        assert_eq!(answer.status(), 200, "{uri}");
        let head = upstream.next().await.head;
        assert_eq!(head.first_line, "GET /x HTTP/1.1");
        assert_eq!(head.get("host"), Some(host));
        assert_eq!(head.get("cookie"), Some("a=1; b=2; c=3; d=4"));
        assert_eq!(head.all("te"), Vec::<&str>::new());
        assert_eq!(head.all("x-own"), ["1", "2"]);
        let pseudo = head.fields.iter().find(|(name, _)| name.starts_with(':'));
        assert_eq!(pseudo, None);
    }
    let star = http::Request::options("http://a.example/")
        .uri(http::Uri::from_static("*"))
        .body(Full::new(Bytes::new()));
    // A target without an authority names no host.
    let answer = client.send(star.expect("a request")).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(upstream.requests(), 3);
}

/// H26: an answer is as cacheable as its maker says; authgate's own are not.
#[tokio::test]
async fn nothing_becomes_cacheable_on_the_way() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let fields = match head.target() {
            "/private" => &[("Cache-Control", "private, max-age=60"), ("Vary", "Cookie")][..],
            "/transform" => &[("Cache-Control", "no-cache, no-transform")],
            _ => &[],
        };
        Reply::Bytes(response("200 OK", fields, "hello"))
    });
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    for (path, control, vary) in [
        ("/private", Some("private, max-age=60"), Some("Cookie")),
        ("/transform", Some("no-cache, no-transform"), None),
        ("/nothing", None, None),
    ] {
        let answer = proxy.send(&Request::get(path).bearer(&token)).await;
        assert_eq!(answer.header("cache-control"), control, "{path}");
        assert_eq!(answer.header("vary"), vary, "{path}");
        assert_eq!(answer.header("expires"), None, "{path}");
        let refused = proxy.send(&Request::get(path)).await;
        assert_eq!(refused.header("cache-control"), Some("no-store"), "{path}");
    }
}

/// H27: what went wrong with the upstream has its registered name; what the upstream says of its own
/// way stays.
#[tokio::test]
async fn proxy_status_tells_failures_apart() {
    let issuer = Issuer::start();
    let mut upstream = Upstream::start(|head| match head.target() {
        "/close" => Reply::Close,
        "/reset" => Reply::Reset,
        "/half-a-head" => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        "/garbage" => Reply::Last(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()),
        "/two-lengths" => Reply::Last(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".to_vec(),
        ),
        "/two-framings" => Reply::Last(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        ),
        "/switches" => Reply::Last(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()),
        "/tells" => {
            let fields = [
                ("Proxy-Status", "inner; error=connection_refused"),
                ("Proxy-Status", "outer; received-status=502"),
            ];
            Reply::Bytes(response("502 Bad Gateway", &fields, "inner"))
        }
        _ => Reply::Hang,
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nresponse_header = \"1s\"")
        .start()
        .await;
    let mut findings = Findings::default();
    for (path, status, code, kind) in [
        ("/close", 502, "upstream_failed", "connection_terminated"),
        ("/reset", 502, "upstream_failed", "connection_terminated"),
        (
            "/half-a-head",
            502,
            "upstream_failed",
            "connection_terminated",
        ),
        ("/garbage", 502, "upstream_failed", "http_protocol_error"),
        (
            "/two-lengths",
            502,
            "upstream_failed",
            "http_protocol_error",
        ),
        (
            "/two-framings",
            502,
            "upstream_failed",
            "http_protocol_error",
        ),
        ("/switches", 502, "upstream_failed", "http_upgrade_failed"),
        ("/hang", 504, "upstream_timeout", "http_response_timeout"),
    ] {
        let answer = proxy.send(&Request::get(path)).await;
        findings.add(path, own(&answer, status, code));
        let found = error_type(&answer);
        findings.check(path, found == Ok(kind), || format!("{found:?}"));
    }
    let answer = proxy.send(&Request::get("/tells")).await;
    let lines = answer.head.all("proxy-status");
    findings.check("/tells", answer.text() == "inner", || answer.text());
    findings.check(
        "/tells",
        lines
            == [
                "inner; error=connection_refused",
                "outer; received-status=502",
            ],
        || format!("{lines:?}"),
    );
    upstream.go_down().await;
    let answer = proxy.send(&Request::get("/down")).await;
    let found = error_type(&answer);
    findings.check("/down", found == Ok("connection_refused"), || {
        format!("{found:?}")
    });
    findings.assert_none();
}

/// H27: the same before HTTP begins.
#[tokio::test]
async fn proxy_status_tells_what_keeps_the_upstream_away() {
    let issuer = Issuer::start();
    let nobody = Upstream::hello();
    let tls = Upstream::start_tls(&issuer, |_| Reply::ok("hello"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let in_plain = format!("https://{}", listener.local_addr().expect("an address"));
    let talking = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // A client that does not like it may have gone.
            let _gone = client.write_all(b"220 no TLS here\r\n").await;
        }
    });
    // Longer than DNS allows, so nobody has to be asked.
    let unknown = format!("http://{}.example", "a".repeat(64));
    let mut findings = Findings::default();
    for (url, kind) in [
        (in_plain.as_str(), "tls_protocol_error"),
        (tls.url().as_str(), "tls_certificate_error"),
        (unknown.as_str(), "dns_error"),
        ("unix:/nowhere/agent.sock", "destination_unavailable"),
    ] {
        let proxy = Setup::new(&issuer, &nobody)
            .upstream(url)
            .rest(OPEN)
            .start()
            .await;
        let answer = proxy.send(&Request::get("/x")).await;
        findings.add(url, own(&answer, 502, "upstream_unreachable"));
        let found = error_type(&answer);
        findings.check(url, found == Ok(kind), || format!("{found:?}"));
    }
    talking.abort();
    findings.assert_none();
}

/// H29: `Forwarded` is authgate's own, unless the peer is trusted to have said something before.
#[tokio::test]
async fn forwarded_says_what_the_peer_may_say() {
    const OWN: &str = "for=127.0.0.1;host=\"agents.example.com\";proto=http";
    const LINES: [&[&str]; 9] = [
        &["for=203.0.113.7"],
        &["for=\"[2001:db8::7]:4711\";proto=https;by=_hidden"],
        &["for=_hidden, for=unknown;host=a"],
        &["For=\"_a\\\"b\";HOST=\"x, y\""],
        &["for=1", "for=2, for=3"],
        &[""],
        // What would swallow the next element, or cannot be read.
        &["for=\"203.0.113.7"],
        &["for=\"a\\\"", "for=b"],
        &["for=caf\u{e9}"],
    ];
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let stranger = open_proxy(&issuer, &upstream).await;
    let trusting = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"127.0.0.1\"]")
        .rest(OPEN)
        .start()
        .await;
    for (number, lines) in LINES.into_iter().enumerate() {
        let request = lines.iter().fold(Request::get("/x"), |request, line| {
            request.header("Forwarded", line)
        });
        assert_eq!(stranger.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.all("forwarded"), [OWN], "{lines:?}");
        assert_eq!(trusting.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        let expected = if number < 6 {
            format!("{}, {OWN}", lines.join(", "))
        } else {
            OWN.to_owned()
        };
        assert_eq!(head.all("forwarded"), [expected.as_str()], "{lines:?}");
    }
    for proxy in [&stranger, &trusting] {
        let request = Request::get("/x").header("X-Forwarded-For", "203.0.113.7");
        assert_eq!(proxy.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.all("forwarded"), Vec::<&str>::new());
        assert_eq!(head.all("x-forwarded-for").len(), 1);
    }
}

/// H12 and H30: no sign that a field name may hold makes a managed name another one, with a token or
/// without, on any route; and no nomination takes the true one away.
#[tokio::test]
async fn no_spelling_of_a_managed_name_reaches_the_upstream() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[identity]\nclaims_header = \"x-auth-claims\"\nstrip = [\"x-internal-flag\"]")
        .rest("[identity.headers]\nx-org-id = \"org_id\"")
        .rest("[[route]]\npath = \"/public/**\"\naccess = \"public\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let fold = |name: &str| -> String {
        let hyphen = |character: char| {
            if character.is_ascii_alphanumeric() {
                character.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        name.chars().map(hyphen).collect()
    };
    let mut findings = Findings::default();
    let mut sent = 0_usize;
    let mut client = Client::connect(proxy.data).await;
    for name in [
        "x-forwarded-user",
        "x-auth-claims",
        "x-org-id",
        "x-internal-flag",
        "x-forwarded-email",
        "x-real-ip",
        "x-original-url",
        "x-http-method-override",
        "client-cert",
        "x-request-id",
    ] {
        let words = name
            .split('-')
            .map(|word| word[..1].to_uppercase() + &word[1..]);
        let title = words.collect::<Vec<_>>().join("-");
        let mut spellings = vec![name.to_owned(), name.to_uppercase(), title.clone()];
        for sign in SIGNS.chars() {
            spellings.push(name.replace('-', &sign.to_string()));
            spellings.push(title.replacen('-', &sign.to_string(), 1));
            spellings.push(name.to_uppercase().replace('-', &sign.to_string()));
        }
        for spelling in spellings {
            for (path, bearer, nominated) in [
                ("/x", true, ""),
                ("/x", true, name),
                ("/public/x", true, ""),
                ("/public/x", false, ""),
                ("/public/x", false, name),
            ] {
                let mut request = Request::get(path)
                    .header(&spelling, "mallory")
                    .header("Connection", &format!("keep-alive, {nominated}"))
                    .header(&spelling, "mallory");
                if bearer {
                    request = request.bearer(&token);
                }
                let case =
                    format!("{spelling} on {path}, token: {bearer}, nominated: {nominated:?}");
                let answer = client.request(&request).await;
                findings.check(&case, answer.status() == 200, || answer.text());
                sent += 1;
                let head = upstream.next().await.head;
                let spoofed = head
                    .fields
                    .iter()
                    .find(|(_, value)| value.contains("mallory"));
                findings.check(&case, spoofed.is_none(), || format!("{spoofed:?}"));
                let alike: Vec<_> = head
                    .fields
                    .iter()
                    .filter(|(field, _)| fold(field) == name)
                    .map(|(_, value)| value.as_str())
                    .collect();
                let right = match name {
                    "x-forwarded-user" if bearer => alike == ["auth0|alice"],
                    "x-auth-claims" if bearer => alike.len() == 1,
                    "x-request-id" => alike.len() == 1,
                    _ => alike.is_empty(),
                };
                findings.check(&case, right, || format!("{alike:?}"));
            }
        }
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), sent);
}

/// H31: a sound trace goes on, on one line; anything else is dropped; baggage is the client's word.
#[tokio::test]
async fn a_trace_goes_on_whole_or_not_at_all() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let send = async |parents: &[&str], states: &[&str]| {
        let mut request = Request::get("/x")
            .header("baggage", "userId=mallory,a=%20")
            .header("baggage", "b=2");
        for (name, lines) in [("traceparent", parents), ("tracestate", states)] {
            request = lines
                .iter()
                .fold(request, |request, line| request.header(name, line));
        }
        assert_eq!(proxy.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.all("baggage"), ["userId=mallory,a=%20", "b=2"]);
        head
    };
    let members = |count| vec!["a=1"; count].join(",");
    let long = |length: usize| format!("v={}", "x".repeat(length - 2));
    for (states, expected) in [
        (vec!["v=1".to_owned()], Some("v=1".to_owned())),
        (
            vec!["v=1".to_owned(), "w=2".to_owned()],
            Some("v=1, w=2".to_owned()),
        ),
        (vec![members(32)], Some(members(32))),
        (vec![long(512)], Some(long(512))),
        (vec![members(33)], None),
        (vec![members(16), members(17)], None),
        (vec![long(513)], None),
        (vec![long(256), long(256)], None),
        (vec!["v=caf\u{e9}".to_owned()], None),
    ] {
        let lines: Vec<&str> = states.iter().map(String::as_str).collect();
        let head = send(&[TRACE], &lines).await;
        assert_eq!(head.get("traceparent"), Some(TRACE));
        assert_eq!(head.get("tracestate"), expected.as_deref(), "{states:?}");
    }
    let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
    assert_eq!(send(&[later], &[]).await.get("traceparent"), Some(later));
    for parents in [
        &[][..],
        &[""],
        &["nonsense"],
        &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
        &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
        &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"],
        &["00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01"],
        &["00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01"],
        &["0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        &[TRACE, TRACE],
    ] {
        let head = send(parents, &["v=1"]).await;
        for name in ["traceparent", "tracestate"] {
            assert_eq!(head.all(name), Vec::<&str>::new(), "{name}: {parents:?}");
        }
    }
}

/// H35: `Incremental` passes both ways, and is what happens anyway: no part waits for the next.
#[tokio::test]
async fn incremental_messages_are_announced_and_passed_incrementally() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Stream(
            b"HTTP/1.1 200 OK\r\nIncremental: ?1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        )
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    for value in ["?1", "?0", "?1;x=y"] {
        let request = Request::get("/x").header("Incremental", value);
        let mut client = request.open(proxy.data).await;
        assert_eq!(client.head().await.get("incremental"), Some("?1"));
        let exchange = upstream.next().await;
        assert_eq!(exchange.head.get("incremental"), Some(value));
        for part in ["one", "two"] {
            exchange.send(part);
            assert_eq!(client.data().await, part);
        }
        exchange.feed(Feed::End);
        client.body().await.expect("a proper end");
    }
}

/// H35: the same for an upload.
#[tokio::test]
async fn an_incremental_upload_is_passed_incrementally() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::new("POST", "/x")
        .header("Incremental", "?1")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    let exchange = upstream.next().await;
    assert_eq!(exchange.head.get("incremental"), Some("?1"));
    for number in 1..=3 {
        client.send(&chunk(b"part")).await;
        exchange.body_reaches(4 * number).await;
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
}

/// Requests in a row on one connection: each is judged by what it carries itself and answered in its
/// turn; what was sent at once shares nothing.
#[tokio::test]
async fn pipelined_requests_share_no_identity() {
    const COUNT: usize = 50;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let user = head.get("x-forwarded-user").unwrap_or("nobody");
        Reply::ok(&format!("{} {user}", head.target()))
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/public/**\"\naccess = \"public\"")
        .start()
        .await;
    let expired = issuer.user("auth0|expired").expires_in(-3600).mint();
    let foreign = issuer
        .user("auth0|foreign")
        .claim("aud", "https://another-api.com")
        .mint();
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for number in 0..COUNT {
        let path = format!("/{number}");
        let user = format!("auth0|user-{number}");
        let token = issuer.user(&user).mint();
        let (request, outcome) = match number % 10 {
            2 => (Request::get(&path), Err((401, "token_missing"))),
            4 => (
                Request::get(&path).bearer(&expired),
                Err((401, "token_expired")),
            ),
            5 => (
                Request::get(&path).bearer(&foreign),
                Err((401, "token_wrong_audience")),
            ),
            6 => (
                Request::get(&path).bearer(&token).bearer(&token),
                Err((400, "authorization_malformed")),
            ),
            7 => {
                let path = format!("/public{path}");
                let request = Request::get(&path).header("X_Forwarded_User", "mallory");
                (request, Ok(format!("{path} nobody")))
            }
            8 => (
                Request::get(&format!("/%zz{number}")).bearer(&token),
                Err((400, "path_malformed")),
            ),
            9 => (
                Request::post(&path, "hello").bearer(&token),
                Ok(format!("{path} {user}")),
            ),
            _ => (
                Request::get(&path).bearer(&token),
                Ok(format!("{path} {user}")),
            ),
        };
        bytes.extend(request.bytes());
        expected.push(outcome);
    }
    let mut client = Client::connect(proxy.data).await;
    client.send(&bytes).await;
    let mut findings = Findings::default();
    for (number, expected) in expected.iter().enumerate() {
        let answer = client.response().await;
        let case = format!("request {number}");
        match expected {
            Ok(text) => findings.check(&case, answer.text() == *text, || answer.text()),
            Err((status, code)) => findings.add(&case, own(&answer, *status, code)),
        }
    }
    let passed = expected.iter().filter(|outcome| outcome.is_ok()).count();
    findings.check("the upstream", upstream.requests() == passed, || {
        format!("has seen {} instead of {passed}", upstream.requests())
    });
    findings.assert_none();
}

/// Two codes that a client must try hard for.
#[tokio::test]
async fn what_is_too_much_to_look_at_is_named() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let nested = format!("/%{}41", "25".repeat(90));
    let refused = proxy.send(&Request::get(&nested)).await;
    assert_own(&refused, 400, "path_ambiguous");
    let mut request = http::Request::get("http://agents.example.com/x");
    for number in 0..=100 {
        request = request.header(format!("x-field-{number}"), "1");
    }
    let request = request.body(Full::default()).expect("a request");
    let refused = H2::connect(proxy.data).await.send(request).await;
    assert_eq!(refused.status(), 431);
    let body: Value = serde_json::from_slice(&h2::body(refused).await).expect("JSON");
    assert_eq!(body["code"], "headers_too_many");
    assert_eq!(upstream.requests(), 0);
}
