//! What a hostile or broken peer does on the wire, on either side, and what must not come of it.

use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::issuer::Issuer;
use crate::issuer::keys::SigningKey;
use crate::issuer::port::Port;
use crate::issuer::tokens::now;
use crate::support::frames::{self, Frames, Verdict};
use crate::support::upstream::{Feed, response};
use crate::support::wire::{PATIENCE, Piece, chunk};
use crate::support::{
    Client, Exchange, Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own, within,
};

/// Everything public, for tests that are not about tokens.
const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// Every second of patience that a test cuts short is one that it takes.
const SHORT: Duration = Duration::from_secs(1);

/// Timers count in milliseconds, and may begin a little before the test looks at its clock.
const NEARLY_SHORT: Duration = Duration::from_millis(900);

async fn open_proxy(issuer: &Issuer, upstream: &Upstream) -> Proxy {
    Setup::new(issuer, upstream).rest(OPEN).start().await
}

/// Whatever some reader takes for the authority, the rest is `/api/admin/x`.
const HIDDEN_ADMIN: [&str; 3] = [
    "//evil/api/admin/x",
    "///u@evil:80/api/admin/x",
    "http://h//evil/api/admin/x",
];

const ADMIN: &str = "[[route]]\npath = \"/api/admin/**\"\nrequire = { scopes = [\"admin:all\"] }";

/// A fragment is dropped where nobody sees it any more. What is left of a target may be nothing: it is
/// decided on as the root, and must arrive as the root.
#[tokio::test]
async fn a_target_of_a_fragment_alone_arrives_as_the_root() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Frames::connect(proxy.data).await;
    client.request(1, "#/admin", &[]).await;
    let head = upstream.next().await.head;
    assert_eq!(head.first_line, "GET / HTTP/1.1");

    let mut client = Client::connect(proxy.data).await;
    let next = "GET http://b.example#/admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let both = [&Request::get("/x").bytes(), next.as_bytes()].concat();
    client.send(&both).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(upstream.next().await.head.first_line, "GET /x HTTP/1.1");
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(upstream.next().await.head.first_line, "GET / HTTP/1.1");
}

#[tokio::test]
async fn what_looks_like_an_authority_in_a_path_hides_no_route() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer.user("auth0|alice").mint();
    let strict = Setup::new(&issuer, &upstream).rest(ADMIN).start().await;
    let lax = Setup::new(&issuer, &upstream)
        .rest(ADMIN)
        .rest(OPEN)
        .start()
        .await;
    let mut findings = Findings::default();
    for target in HIDDEN_ADMIN {
        let request = Request::get(target);
        let answer = strict.send(&request.clone().bearer(&token)).await;
        findings.add(target, own(&answer, 403, "scope_missing"));
        let answer = lax.send(&request).await;
        findings.add(target, own(&answer, 401, "token_missing"));
    }
    findings.check("the upstream", upstream.requests() == 0, || {
        format!("has seen {} of them", upstream.requests())
    });
    findings.assert_none();
    // The same callers are welcome elsewhere.
    let elsewhere = Request::get("//evil/api/x");
    let answer = strict.send(&elsewhere.clone().bearer(&token)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(lax.send(&elsewhere).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_a_silent_stream_is_not() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[timeouts]\nidle = \"1s\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/stream").bearer(&token);
    let mut silent = request.open(proxy.data).await;
    assert_eq!(silent.head().await.status(), 200);
    let exchange = upstream.next().await;
    exchange.send("data: 1\n\n");
    assert_eq!(silent.data().await, "data: 1\n\n");
    let silence = Instant::now();
    // Twice in a row, so that the silence is twice as long.
    for path in ["/first", "/second"] {
        let mut attacker = Frames::with_window(proxy.data, 0).await;
        let begun = Instant::now();
        attacker.request(1, path, &[]).await;
        let came = attacker.end().await.frames;
        let lasted = begun.elapsed();
        assert!(
            (NEARLY_SHORT..SHORT * 10).contains(&lasted),
            "it was let go after {lasted:?}: {came:?}"
        );
        let owed = came.iter().any(|frame| {
            (frame.kind, frame.stream) == (frames::HEADERS, 1)
                && frame.flags & frames::END_STREAM == 0
        });
        assert!(owed, "nothing was there to be taken: {came:?}");
        let taken = came
            .iter()
            .any(|frame| frame.kind == frames::DATA && !frame.payload.is_empty());
        assert!(!taken, "the window was not kept: {came:?}");
        assert_eq!(proxy.request_line(path).await["status"], 401);
    }
    assert!(silence.elapsed() > SHORT);
    assert!(!exchange.is_closed());
    exchange.send("data: 2\n\n");
    assert_eq!(silent.data().await, "data: 2\n\n");
}

#[tokio::test]
async fn a_get_with_a_body_arrives_with_its_body() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Client::connect(proxy.data).await;
    let request = Request::get("/x").header("Transfer-Encoding", "chunked");
    for body in ["GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "again"] {
        client.write(&request).await;
        client.send(&chunk(body.as_bytes())).await;
        client.send(b"0\r\n\r\n").await;
        assert_eq!(client.response().await.text(), "hello");
        let exchange = upstream.next().await;
        assert_eq!(exchange.head.first_line, "GET /x HTTP/1.1");
        assert_eq!(exchange.head.get("transfer-encoding"), Some("chunked"));
        assert_eq!(exchange.body().await, body.as_bytes());
    }
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused_over_http_2_too() {
    const OK: Verdict = Verdict::Status(200);
    const BAD_REQUEST: Verdict = Verdict::Status(400);
    /// What RFC 9113, section 8.1.1 asks for; `h2` sees this one itself.
    const PROTOCOL_ERROR: Verdict = Verdict::Reset(frames::PROTOCOL_ERROR);
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for (case, lengths, expected) in [
        ("no length", &[][..], OK),
        ("one length", &["0"], OK),
        ("an empty length", &[""], BAD_REQUEST),
        ("two equal lengths", &["0", "0"], BAD_REQUEST),
        ("two lengths", &["0", "5"], PROTOCOL_ERROR),
    ] {
        let mut client = Frames::connect(proxy.data).await;
        let mut fields = frames::pseudo("POST", "/x");
        fields.extend(lengths.iter().map(|&length| ("content-length", length)));
        client.head(1, frames::WHOLE, &fields).await;
        let verdict = client.verdict(1).await;
        findings.check(case, verdict == expected, || {
            format!("{verdict:?}, expected {expected:?}")
        });
    }
    findings.check("the upstream", upstream.requests() == 2, || {
        format!("has seen {} requests", upstream.requests())
    });
    findings.assert_none();
}

/// A name that HTTP/2 can carry and HTTP/1 cannot would break the request that it is forwarded in.
#[tokio::test]
async fn a_field_name_that_http_1_cannot_have_is_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    for name in ["\"", "c\"ookie", "x-forwarded-user\""] {
        let mut client = Frames::connect(proxy.data).await;
        let mut fields = frames::pseudo("GET", "/x");
        fields.push((name, "a=1"));
        client.head(1, frames::WHOLE, &fields).await;
        assert_eq!(client.verdict(1).await, Verdict::Status(400), "{name}");
    }
    assert_eq!(upstream.requests(), 0);
}

/// A stream that is reset has not ended, whatever reason is given (RFC 9113, section 8.1).
#[tokio::test]
async fn a_reset_is_not_the_end_of_an_upload() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = open_proxy(&issuer, &upstream).await;
    for reason in [frames::NO_ERROR, frames::PROTOCOL_ERROR, frames::CANCEL] {
        let path = format!("/{reason}");
        let mut client = Frames::connect(proxy.data).await;
        client
            .head(1, frames::END_HEADERS, &frames::pseudo("POST", &path))
            .await;
        client.send(&frames::data(0, 1, b"half")).await;
        let exchange = upstream.next().await;
        exchange.body_reaches(4).await;
        client.send(&frames::reset(1, reason)).await;
        assert!(!exchange.body_is_whole().await, "{reason}");
        let line = proxy.request_line(&path).await;
        assert_eq!(line["code"], "client_closed", "{line}");
        // The end of a stream is its end.
        let mut client = Frames::connect(proxy.data).await;
        client
            .head(1, frames::END_HEADERS, &frames::pseudo("POST", "/x"))
            .await;
        client.send(&frames::data(0, 1, b"half")).await;
        let exchange = upstream.next().await;
        exchange.body_reaches(4).await;
        client.send(&frames::data(frames::END_STREAM, 1, b"")).await;
        assert_eq!(exchange.body().await, b"half");
    }
}

#[tokio::test]
async fn an_http_1_0_answer_ends_for_the_client_as_it_ended_here() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Stream(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nonly this".to_vec())
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    for (path, end) in [("/fin", Feed::Cut), ("/rst", Feed::Reset)] {
        let is_proper = matches!(end, Feed::Cut);
        let mut client = Request::get(path).open(proxy.data).await;
        let head = client.head().await;
        assert_eq!(head.first_line, "HTTP/1.1 200 OK", "{path}");
        assert_eq!(head.get("transfer-encoding"), Some("chunked"), "{path}");
        assert_eq!(client.data().await, "only this", "{path}");
        upstream.next().await.feed(end);
        let ended = client.piece().await;
        if is_proper {
            assert_eq!(ended.ok(), Some(Piece::End(Vec::new())), "{path}");
            // A body with an end leaves the connection to the next request.
            client.write(&Request::get("/next")).await;
            assert_eq!(client.head().await.status(), 200);
            upstream.next().await.feed(Feed::Cut);
        } else {
            assert!(ended.is_err(), "{path} has ended as if it were whole");
            assert_eq!(proxy.request_line(path).await["outcome"], "failed");
        }
    }
}

#[tokio::test]
async fn an_upload_has_time_for_as_long_as_it_moves() {
    const PART: &[u8] = b"part";
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nresponse_header = \"1s\"")
        .start()
        .await;
    let upload = |path| Request::new("POST", path).header("Transfer-Encoding", "chunked");
    let begun = Instant::now();
    let mut steady = upload("/steady").open(proxy.data).await;
    let exchange = upstream.next().await;
    let mut sent = 0;
    while begun.elapsed() < SHORT * 2 {
        steady.send(&chunk(PART)).await;
        sent += PART.len();
        exchange.body_reaches(sent).await;
    }
    steady.send(b"0\r\n\r\n").await;
    assert_eq!(steady.response().await.text(), "hello");
    assert_eq!(exchange.body().await.len(), sent);

    let mut stalled = upload("/stalled").open(proxy.data).await;
    stalled.send(&chunk(PART)).await;
    let exchange = upstream.next().await;
    exchange.body_reaches(PART.len()).await;
    let begun = Instant::now();
    let answer = stalled.response().await;
    assert_own(&answer, 408, "request_timeout");
    assert_eq!(answer.header("connection"), Some("close"));
    let lasted = begun.elapsed();
    assert!(
        (NEARLY_SHORT..SHORT * 10).contains(&lasted),
        "given up after {lasted:?}"
    );
    assert!(!exchange.body_is_whole().await);
    let line = proxy.request_line("/stalled").await;
    assert_eq!(line["outcome"], "refused");
}

/// A backend that does not answer, or does not even read, is to blame for it.
#[tokio::test]
async fn a_backend_that_keeps_an_upload_waiting_is_to_blame() {
    const MUCH: usize = 64 << 20;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Hang);
    let port = Port::reserve();
    let _deaf = port.listen();
    let limits = "[timeouts]\nresponse_header = \"1s\"";
    let silent = Setup::new(&issuer, &upstream).rest(OPEN).rest(limits);
    let silent = silent.start().await;
    let whole = Request::post("/whole", "part");
    assert_own(&silent.send(&whole).await, 504, "upstream_timeout");
    let mut chunked = Request::new("POST", "/chunked")
        .header("Transfer-Encoding", "chunked")
        .open(silent.data)
        .await;
    chunked.send(&chunk(b"part")).await;
    chunked.send(b"0\r\n\r\n").await;
    assert_own(&chunked.response().await, 504, "upstream_timeout");

    let url = format!("http://{}", port.address());
    let unread = Setup::to(&issuer, &url).rest(OPEN).rest(limits);
    let unread = unread.start().await;
    let mut client = Request::new("POST", "/unread")
        .header("Content-Length", &MUCH.to_string())
        .open(unread.data)
        .await;
    // How much of it is taken does not matter, and the client still owes some.
    let _taken = client.sends(&vec![b'x'; MUCH - 1]).await;
    let line = unread.request_line("/unread").await;
    assert_eq!(line["code"], "upstream_timeout");
}

/// A proxy with one pool, and so many connections in it.
async fn with_idle_connections(issuer: &Issuer, upstream: &Upstream, count: usize) -> Proxy {
    let proxy = Setup::new(issuer, upstream)
        .rest(OPEN)
        .arguments(&["--workers", "1"])
        .start()
        .await;
    fill_pool(&proxy, upstream, count).await;
    proxy
}

async fn fill_pool(proxy: &Proxy, upstream: &Upstream, count: usize) {
    let mut clients = Vec::new();
    let mut exchanges: Vec<Exchange> = Vec::new();
    for _ in 0..count {
        clients.push(Request::get("/first").open(proxy.data).await);
        exchanges.push(upstream.next().await);
    }
    for exchange in exchanges {
        exchange.feed(Feed::End);
    }
    for mut client in clients {
        assert_eq!(client.head().await.status(), 200);
        client.body().await.expect("a proper end");
    }
}

fn resetting_upstream() -> Upstream {
    Upstream::start(|head| match head.target() {
        "/first" => Reply::events(),
        _ => Reply::Reset,
    })
}

#[tokio::test]
async fn a_request_that_was_read_and_reset_is_not_repeated() {
    let issuer = Issuer::start();
    let upstream = resetting_upstream();
    let proxy = with_idle_connections(&issuer, &upstream, 0).await;
    let mut findings = Findings::default();
    for request in [
        Request::new("DELETE", "/second"),
        Request::new("POST", "/second"),
        Request::post("/second", "{}"),
        Request::new("GET", "/second").body("{}"),
    ] {
        let case = request.method();
        // Several: a repetition would find the next one.
        fill_pool(&proxy, &upstream, 3).await;
        let (seen, connected) = (upstream.requests(), upstream.connections());
        let answer = proxy.send(&request).await;
        findings.add(case, own(&answer, 502, "upstream_failed"));
        let times = upstream.requests() - seen;
        findings.check(case, times == 1, || format!("was sent {times} times"));
        for _ in 0..times {
            let connection = upstream.next().await.connection;
            findings.check(case, connection <= connected, || {
                format!("came over connection {connection}, a new one")
            });
        }
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_get_that_was_reset_is_repeated_once_however_many_connections_are_idle() {
    const IDLE: usize = 6;
    let issuer = Issuer::start();
    let upstream = resetting_upstream();
    let proxy = with_idle_connections(&issuer, &upstream, IDLE).await;
    assert_eq!(upstream.connections(), IDLE);
    let answer = proxy.send(&Request::get("/second")).await;
    assert_own(&answer, 502, "upstream_failed");
    let times = upstream.requests() - IDLE;
    assert!((1..=2).contains(&times), "it was sent {times} times");
    let exchange = upstream.next().await;
    assert!(
        exchange.connection <= IDLE,
        "no idle connection was used, but {}",
        exchange.connection
    );
}

#[tokio::test]
async fn an_upstream_switches_to_nothing_but_a_websocket() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let fields = match head.target() {
            "/h2c" => "Connection: Upgrade\r\nUpgrade: h2c\r\n",
            "/two" => "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
            "/none" => "",
            _ => return Reply::WebSocket,
        };
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
        Reply::Bytes(head.into_bytes())
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for path in ["/h2c", "/two", "/none"] {
        let mut client = Request::get(path).websocket().open(proxy.data).await;
        let head = client.head().await;
        findings.check(path, head.status() == 502, || head.first_line.clone());
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 3);
    let mut client = Request::get("/right").websocket().open(proxy.data).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn an_answer_framed_in_two_ways_is_no_answer() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| {
        let fields = match head.target() {
            "/gzip" => "Transfer-Encoding: gzip, chunked\r\n",
            "/lines" => "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "/both" => "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "/turned" => "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            _ => "Transfer-Encoding: chunked\r\n",
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n");
        Reply::Bytes(answer.into_bytes())
    });
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut findings = Findings::default();
    for path in ["/gzip", "/lines", "/both", "/turned"] {
        for (kind, request) in [
            ("plain", Request::get(path)),
            ("websocket", Request::get(path).websocket()),
        ] {
            let mut client = request.open(proxy.data).await;
            let head = client.head().await;
            findings.check(&format!("{path}, {kind}"), head.status() == 502, || {
                head.first_line.clone()
            });
        }
    }
    findings.assert_none();
    assert_eq!(upstream.requests(), 8);
    assert_eq!(proxy.send(&Request::get("/right")).await.text(), "hello");
}

#[tokio::test]
async fn a_websocket_ends_with_its_client_though_the_upstream_does_not_listen() {
    const DEADLINE: Duration = Duration::from_secs(10);
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::DeafWebSocket);
    let proxy = open_proxy(&issuer, &upstream).await;
    let mut client = Request::get("/ws").websocket().open(proxy.data).await;
    assert_eq!(client.head().await.status(), 101);
    let exchange = upstream.next().await;
    drop(client);
    let ended = async {
        // The end of the tunnel first: bytes that find no client would end it by themselves.
        proxy.request_line("/ws").await;
        exchange.send("\u{1}");
        exchange.closed().await;
    };
    let ended = tokio::time::timeout(DEADLINE, ended).await;
    assert!(ended.is_ok(), "the tunnel has outlived its client");
}

/// Whoever comes when all slots are taken waits while all are busy, and has the slot of the longest idle
/// otherwise.
#[tokio::test]
async fn a_client_too_many_waits_for_one_that_is_not_busy() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/stream" => Reply::events(),
        target => Reply::ok(target),
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[limits]\nconnections = 2")
        .start()
        .await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = Request::get("/stream").open(proxy.data).await;
        assert_eq!(client.head().await.status(), 200);
        busy.push((client, upstream.next().await));
    }
    let mut third = Request::get("/third").open(proxy.data).await;
    for (client, stream) in &mut busy {
        for _ in 0..20 {
            stream.send("data: on\n\n");
            assert_eq!(client.data().await, "data: on\n\n");
        }
    }
    assert_eq!(upstream.requests(), 2, "whoever is in has its turns");
    // One of them is idle from now on, and makes way.
    let (client, stream) = &mut busy[1];
    stream.feed(Feed::End);
    client.body().await.expect("a whole body");
    assert_eq!(third.response().await.text(), "/third");
    client.closed().await;
    // The other one is still served.
    let (client, stream) = &mut busy[0];
    stream.send("data: on\n\n");
    assert_eq!(client.data().await, "data: on\n\n");
    // And so are all who come later: of those that are idle, the first one goes.
    let mut fourth = Client::connect(proxy.data).await;
    assert_eq!(
        fourth.request(&Request::get("/fourth")).await.text(),
        "/fourth"
    );
    third.closed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest("[timeouts]\nidle = \"1s\"")
        .start()
        .await;
    let mut client = Client::connect(proxy.data).await;
    for _ in 0..2 {
        assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
    }
    let begun = Instant::now();
    client.closed().await;
    let lasted = begun.elapsed();
    assert!(
        (NEARLY_SHORT..SHORT * 10).contains(&lasted),
        "closed after {lasted:?}"
    );
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_about_its_client_and_nothing_else() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"127.0.0.0/8\"]")
        .rest(OPEN)
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/x")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Email", "mallory@example.com")
        .header("X_Forwarded_Email", "mallory@example.com")
        .header("X-Forwarded-User", "mallory")
        .header("X_Forwarded_User", "mallory")
        .header("X-Real-IP", "203.0.113.66")
        .header("X_Real_IP", "203.0.113.66")
        .header("X-End", "1");
    for (request, user) in [
        (request.clone(), &[][..]),
        (request.bearer(&token), &["auth0|alice"]),
    ] {
        assert_eq!(proxy.send(&request).await.status(), 200);
        let head = upstream.next().await.head;
        assert_eq!(head.get("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
        assert_eq!(head.get("x-end"), Some("1"));
        assert_eq!(head.all("x-forwarded-user"), user);
        for name in [
            "x-forwarded-email",
            "x_forwarded_email",
            "x_forwarded_user",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
        ] {
            assert_eq!(head.all(name), Vec::<&str>::new(), "{name}");
        }
        let liar = head
            .fields
            .iter()
            .find(|(_, value)| value.contains("mallory") || value.contains("203.0.113.66"));
        assert_eq!(liar, None);
    }
}

const METHODS: &str = r#"
[[route]]
path = "/status"
methods = ["GET"]
access = "public"

[[route]]
path = "/closed/**"
methods = ["OPTIONS"]
access = "deny"

[[route]]
path = "/closed/**"
methods = ["POST"]
access = "public"
"#;

#[tokio::test]
async fn a_public_path_is_public_for_its_methods_only() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(METHODS).start().await;
    let answer = proxy.send(&Request::post("/status", "{}")).await;
    assert_own(&answer, 405, "method_denied");
    let allow = answer.header("allow").expect("Allow");
    let allow: Vec<&str> = allow.split(',').map(str::trim).collect();
    assert!(allow.contains(&"GET"), "{allow:?}");
    assert!(!allow.contains(&"POST"), "{allow:?}");
    assert_eq!(upstream.requests(), 0);
    assert_eq!(proxy.send(&Request::get("/status")).await.status(), 200);
}

#[tokio::test]
async fn a_preflight_is_denied_where_its_method_is() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Bytes(response("204 No Content", &[], "")));
    let proxy = Setup::new(&issuer, &upstream).rest(METHODS).start().await;
    let preflight = |path| {
        Request::new("OPTIONS", path)
            .header("Origin", "https://app.example.com")
            .header("Access-Control-Request-Method", "POST")
    };
    assert_own(
        &proxy.send(&preflight("/closed/x")).await,
        403,
        "rule_denied",
    );
    assert_eq!(upstream.requests(), 0);
    // What is asked for is open, and so is asking elsewhere.
    let answer = proxy.send(&Request::post("/closed/x", "{}")).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(proxy.send(&preflight("/elsewhere")).await.status(), 204);
}

#[tokio::test]
async fn a_token_that_expires_while_its_key_is_fetched_is_refused() {
    /// Seconds; at least half of them are left when the token is sent.
    const LIFE: i64 = 2;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("clock_tolerance = \"0s\"")
        .keys("cooldown = \"1s\"")
        .start()
        .await;
    issuer.behave(|behaviour| behaviour.held = true);
    let fetched = issuer.requests();
    issuer.rotate_to(SigningKey::rsa(1));
    let lasting = issuer.user("auth0|alice").mint();
    // Refused at once until the cooldown is over; the request that then begins the fetch waits for it.
    let mut client = Client::connect(proxy.data).await;
    let expiry = within("a fetch", async {
        loop {
            let expiry = now() + LIFE;
            let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
            client.write(&Request::get("/x").bearer(&token)).await;
            tokio::select! {
                biased;
                answer = client.response() => assert_own(&answer, 401, "token_unknown_key"),
                () = issuer.wait_for_requests(fetched + 1, PATIENCE) => return expiry,
            }
        }
    })
    .await;
    assert!(
        now() < expiry,
        "the token has expired before it had to wait"
    );
    let elapsed = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    let left = Duration::from_secs(expiry.unsigned_abs()).saturating_sub(elapsed);
    tokio::time::sleep(left + Duration::from_millis(10)).await;
    assert!(now() >= expiry);
    issuer.behave(|behaviour| behaviour.held = false);
    assert_own(&client.response().await, 401, "token_expired");
    assert_eq!(upstream.requests(), 0);
    // The fetch has brought the key: only time was against that token.
    let answer = proxy.send(&Request::get("/x").bearer(&lasting)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(issuer.requests(), fetched + 1);
}
