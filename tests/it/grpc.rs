//! HTTP/2 to the backend, and gRPC through it: a real client, a real server, and the program between.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::issuer::tokens::now;
use crate::support::grpc::{Accepted, GrpcClient, GrpcServer, message, one, outgoing};
use crate::support::upstream::Reply;
use crate::support::{Proxy, Request, Setup, Upstream, assert_own, within};

const METHOD: &str = "/agents.Agents/Run";

async fn proxy(issuer: &Issuer, server: &GrpcServer) -> Proxy {
    Setup::http2(issuer, &server.url()).start().await
}

async fn client(issuer: &Issuer, proxy: &Proxy) -> GrpcClient {
    let token = issuer.user("auth0|alice").mint();
    GrpcClient::connect(proxy.data).await.bearer(&token)
}

fn metadata(fields: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in fields {
        metadata.append(*name, value.parse().expect("a metadata value"));
    }
    metadata
}

#[tokio::test]
async fn a_unary_call_passes_with_metadata_and_trailers_both_ways() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy)
        .await
        .with("x-trip", "out")
        .with("x-forwarded-user", "auth0|mallory")
        .with("x_forwarded_user", "auth0|mallory")
        .with("x-real-ip", "10.0.0.1");
    let served = async {
        let mut call = server.next().await;
        assert_eq!(call.head.method, "POST");
        assert_eq!(call.head.uri, "http://agents.example.com/agents.Agents/Run");
        for (name, values) in [
            ("x-forwarded-user", &["auth0|alice"][..]),
            ("x_forwarded_user", &[]),
            ("x-real-ip", &[]),
            ("authorization", &[]),
            ("host", &[]),
            ("te", &["trailers"]),
            ("x-forwarded-host", &["agents.example.com"]),
            ("x-trip", &["out"]),
            ("content-type", &["application/grpc"]),
        ] {
            assert_eq!(call.all(name), values, "{name}");
        }
        assert!(call.all("via")[0].starts_with("2 authgate-"));
        let sent = call.messages.message().await.expect("an unbroken call");
        assert_eq!(sent, Some(Bytes::from("ping")));
        let call = call.accept(metadata(&[("x-trip", "back")]));
        call.send("pong").await;
        let trailers = [
            ("x-last", "word"),
            ("set-cookie", "a=b"),
            ("cache-control", "public"),
            ("www-authenticate", "Basic"),
            ("access-control-allow-origin", "*"),
            ("content-encoding", "gzip"),
        ];
        call.end(Status::with_metadata(Code::Ok, "", metadata(&trailers)))
            .await;
    };
    let (answer, ()) = tokio::join!(client.unary(METHOD, "ping"), served);
    let answer = answer.expect("an answer");
    assert_eq!(answer.get_ref(), "pong");
    let metadata = answer.metadata();
    assert_eq!(metadata.get("x-trip").expect("metadata"), "back");
    assert_eq!(metadata.get("x-last").expect("a trailer"), "word");
    for name in [
        "set-cookie",
        "cache-control",
        "www-authenticate",
        "access-control-allow-origin",
        "content-encoding",
    ] {
        assert!(metadata.get(name).is_none(), "{name}");
    }
    let line = proxy.request_line(METHOD).await;
    assert_eq!(line["outcome"], "forwarded");
    assert_eq!(line["sub"], "auth0|alice");
}

#[tokio::test]
async fn every_message_passes_before_the_next_is_sent() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let (messages, out) = outgoing();
    let (answer, call) = tokio::join!(client.streaming(METHOD, out), async {
        // The head of the answer comes alone.
        server.next().await.accept(MetadataMap::new())
    });
    let (mut answer, mut call) = (answer.expect("an answer").into_inner(), call);
    call.send("first").await;
    assert_eq!(message(&mut answer).await, "first");
    for number in 0..50 {
        let ping = Bytes::from(format!("ping {number}"));
        messages.send(ping.clone()).await.expect("a running call");
        assert_eq!(call.next().await, Some(ping));
        let pong = Bytes::from(format!("pong {number}"));
        call.send(pong.clone()).await;
        assert_eq!(message(&mut answer).await, pong);
    }
    drop(messages);
    assert_eq!(call.next().await, None);
    call.send("after your end").await;
    assert_eq!(message(&mut answer).await, "after your end");
    call.end(Status::with_metadata(
        Code::Ok,
        "",
        metadata(&[("x-last", "word")]),
    ))
    .await;
    let end = within("the end", answer.message()).await;
    assert_eq!(end.expect("a proper end"), None);
    let trailers = answer
        .trailers()
        .await
        .expect("trailers")
        .expect("trailers");
    assert_eq!(trailers.get("x-last").expect("a trailer"), "word");
}

#[tokio::test]
async fn a_status_passes_alone_and_after_messages() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let status = || {
        Status::with_metadata(
            Code::NotFound,
            "no agent called \u{e4}",
            metadata(&[("x-hint", "list them")]),
        )
    };
    let check = |found: Status| {
        assert_eq!(found.code(), Code::NotFound);
        assert_eq!(found.message(), "no agent called \u{e4}");
        assert_eq!(
            found.metadata().get("x-hint").expect("metadata"),
            "list them"
        );
    };
    let (answer, ()) = tokio::join!(client.unary(METHOD, "ping"), async {
        server.next().await.refuse(status());
    });
    check(answer.expect_err("a status"));
    let (answer, ()) = tokio::join!(client.streaming(METHOD, one("ping")), async {
        let call = server.next().await.accept(MetadataMap::new());
        call.send("pong").await;
        call.end(status()).await;
    });
    let mut answer = answer.expect("an answer").into_inner();
    assert_eq!(message(&mut answer).await, "pong");
    check(answer.message().await.expect_err("a status"));
}

#[tokio::test]
async fn refusals_are_grpc_statuses_to_a_grpc_client() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let rules = "[[route]]\npath = \"/agents.Admin/*\"\nrequire = { subjects = [\"auth0|root\"] }";
    let proxy = Setup::http2(&issuer, &server.url())
        .rest(rules)
        .start()
        .await;
    let anyone = GrpcClient::connect(proxy.data).await;
    let expired = issuer.user("auth0|alice").expires_in(-60).mint();
    let alice = issuer.user("auth0|alice").mint();
    for (client, path, code) in [
        (anyone.clone(), METHOD, Code::Unauthenticated),
        (
            anyone.clone().bearer(&expired),
            METHOD,
            Code::Unauthenticated,
        ),
        (
            anyone.clone().bearer("nonsense"),
            METHOD,
            Code::Unauthenticated,
        ),
        (
            anyone.bearer(&alice),
            "/agents.Admin/Stop",
            Code::PermissionDenied,
        ),
    ] {
        let status = client.unary(path, "ping").await.expect_err("a refusal");
        assert_eq!(status.code(), code, "{path}: {status:?}");
        let whose = status.metadata().get("proxy-status");
        assert_eq!(
            whose.expect("Proxy-Status"),
            "authgate; error=http_request_denied"
        );
    }
    assert!(server.is_untouched().await);
    assert_eq!(server.connections(), 0);
}

/// Opens a call over which messages go both ways.
async fn open(
    client: &GrpcClient,
    server: &GrpcServer,
) -> (tonic::Streaming<Bytes>, Accepted, usize) {
    let (answer, (call, connection)) = tokio::join!(client.streaming(METHOD, one("ping")), async {
        let call = server.next().await;
        let connection = call.connection;
        (call.accept(MetadataMap::new()), connection)
    });
    (answer.expect("an answer").into_inner(), call, connection)
}

#[tokio::test]
async fn a_client_that_gives_up_is_noticed_at_once() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    // In the middle of an answer.
    let (answer, call, _) = open(&client, &server).await;
    call.send("first").await;
    drop(answer);
    call.cancelled().await;
    assert_eq!(proxy.request_line(METHOD).await["outcome"], "cancelled");
    // Before there is one.
    let call = tokio::select! {
        _ = client.streaming(METHOD, one("ping")) => panic!("nobody has answered"),
        call = server.next() => call,
    };
    call.cancelled().await;
    // The connection serves on.
    let (_, _, connection) = open(&client, &server).await;
    assert_eq!(connection, 1);
}

#[tokio::test]
async fn a_deadline_is_passed_on_and_kept() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await.with("grpc-timeout", "200m");
    let (answer, ()) = tokio::join!(client.unary(METHOD, "ping"), async {
        let call = server.next().await;
        assert_eq!(call.all("grpc-timeout"), ["200m"]);
        call.cancelled().await;
    });
    let code = answer.expect_err("a status").code();
    assert!(
        matches!(code, Code::Cancelled | Code::DeadlineExceeded),
        "{code:?}"
    );
}

#[tokio::test]
async fn a_backend_that_dies_breaks_its_calls_and_is_found_again() {
    let issuer = Issuer::start();
    let mut server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let (mut answer, call, _) = open(&client, &server).await;
    call.send("first").await;
    assert_eq!(message(&mut answer).await, "first");
    server.go_down().await;
    let end = within("the end", answer.message()).await;
    assert!(end.is_err(), "the call has ended properly: {end:?}");
    assert_eq!(proxy.request_line(METHOD).await["code"], "upstream_failed");
    let status = client.unary(METHOD, "ping").await.expect_err("no server");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "Bad gateway (upstream_unreachable)");
    server.come_up();
    let (_, _, connection) = open(&client, &server).await;
    assert_eq!(connection, 2);
}

#[tokio::test]
async fn a_backend_that_leaves_finishes_its_calls_and_gets_no_more() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let (mut answer, call, connection) = open(&client, &server).await;
    assert_eq!(connection, 1);
    server.leave();
    // What comes after it is a sign that GOAWAY is here.
    call.send("still here").await;
    assert_eq!(message(&mut answer).await, "still here");
    for _ in 0..3 {
        let (_, _, connection) = open(&client, &server).await;
        assert_eq!(connection, 2);
    }
    call.send("to the end").await;
    assert_eq!(message(&mut answer).await, "to the end");
    call.end(Status::ok("")).await;
    let end = within("the end", answer.message()).await;
    assert_eq!(end.expect("a proper end"), None);
}

#[tokio::test]
async fn long_calls_do_not_hold_up_others() {
    let issuer = Issuer::start();
    let server = GrpcServer::start_narrow(2);
    let proxy = Setup::http2(&issuer, &server.url())
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let client = client(&issuer, &proxy).await;
    let mut calls = Vec::new();
    for _ in 0..7 {
        calls.push(open(&client, &server).await);
    }
    let connections: Vec<usize> = calls.iter().map(|(_, _, connection)| *connection).collect();
    assert_eq!(connections, [1, 1, 2, 2, 3, 3, 4]);
    for (answer, call, _) in &mut calls {
        call.send("pong").await;
        assert_eq!(message(answer).await, "pong");
    }
    // Room that is given back is used again.
    let (mut answer, call, _) = calls.remove(0);
    call.end(Status::ok("")).await;
    assert_eq!(answer.message().await.expect("a proper end"), None);
    let (_, _, connection) = open(&client, &server).await;
    assert_eq!(connection, 1);
}

/// Nobody is put behind others before the backend has said how many it takes.
#[tokio::test]
async fn calls_that_come_at_once_do_not_hold_up_each_other() {
    let issuer = Issuer::start();
    let server = GrpcServer::start_narrow(2);
    let proxy = Setup::http2(&issuer, &server.url())
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let client = client(&issuer, &proxy).await;
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        herd.spawn(async move { client.streaming(METHOD, one("ping")).await });
    }
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(server.next().await.accept(MetadataMap::new()));
    }
    while let Some(answer) = herd.join_next().await {
        assert!(answer.expect("a task").is_ok());
    }
    assert_eq!(server.connections(), 10);
}

/// A backend that takes one call per connection uses up what a worker may have.
#[tokio::test]
async fn what_is_full_says_so_and_recovers() {
    let issuer = Issuer::start();
    let server = GrpcServer::start_narrow(1);
    let proxy = Setup::http2(&issuer, &server.url())
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let mut calls = Vec::new();
    for _ in 0..2 {
        let client = client(&issuer, &proxy).await;
        for _ in 0..50 {
            calls.push(open(&client, &server).await);
        }
    }
    assert_eq!(server.connections(), 100);
    let client = client(&issuer, &proxy).await;
    let status = client.unary(METHOD, "ping").await.expect_err("no room");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "Overloaded (overloaded)");
    let (mut answer, call, connection) = calls.remove(42);
    call.end(Status::ok("")).await;
    assert_eq!(answer.message().await.expect("a proper end"), None);
    assert_eq!(open(&client, &server).await.2, connection);
}

#[tokio::test]
async fn a_herd_shares_one_connection() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = Setup::http2(&issuer, &server.url())
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let client = client(&issuer, &proxy).await;
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        herd.spawn(async move { client.streaming(METHOD, one("ping")).await });
    }
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(server.next().await.accept(MetadataMap::new()));
    }
    while let Some(answer) = herd.join_next().await {
        assert!(answer.expect("a task").is_ok());
    }
    assert_eq!(server.connections(), 1);
}

/// Everybody waits for one attempt and gets its failure.
#[tokio::test]
async fn a_herd_shares_one_failure() {
    let issuer = Issuer::start();
    let port = Port::reserve();
    let silent = port.listen();
    let proxy = Setup::http2(&issuer, &format!("http://{}", port.address()))
        .arguments(&["--workers", "1"])
        .rest("[timeouts]\nconnect = \"2s\"")
        .start()
        .await;
    let client = client(&issuer, &proxy).await;
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        herd.spawn(async move { client.unary(METHOD, "ping").await });
    }
    let (_held, _) = silent.accept().await.expect("a connection");
    let mut codes = Vec::new();
    while let Some(answer) = within("an answer", herd.join_next()).await {
        let status = answer.expect("a task").expect_err("no answer");
        assert_eq!(status.code(), Code::Unavailable);
        codes.push(status.message().to_owned());
    }
    assert!(
        codes
            .iter()
            .all(|code| code == "Gateway timeout (upstream_timeout)"),
        "{codes:?}"
    );
    assert_eq!(codes.len(), 50);
    assert!(is_quiet(&silent).await, "there was a second attempt");
}

/// Whether nobody has connected. (A first accept may find the backlog not looked at yet.)
async fn is_quiet(listener: &TcpListener) -> bool {
    tokio::select! {
        biased;
        _ = listener.accept() => false,
        () = tokio::task::yield_now() => true,
    }
}

#[tokio::test]
async fn tls_needs_h2_by_alpn() {
    let issuer = Issuer::start();
    for (protocols, code) in [
        (&["h2"][..], None),
        (&["http/1.1", "h2"], None),
        (&["http/1.1"], Some("NoApplicationProtocol")),
        (&[], Some("it did not choose h2 by ALPN")),
    ] {
        let server = GrpcServer::start_tls(&issuer, protocols);
        let proxy = Setup::http2(&issuer, &server.url())
            .environment("SSL_CERT_FILE", &issuer.ca_file().display().to_string())
            .start()
            .await;
        let client = client(&issuer, &proxy).await;
        let Some(detail) = code else {
            let (answer, ()) = tokio::join!(client.unary(METHOD, "ping"), async {
                let call = server.next().await;
                assert_eq!(call.head.uri.scheme_str(), Some("https"));
                assert_eq!(
                    call.head.uri.authority().expect("one"),
                    "agents.example.com"
                );
                let call = call.accept(MetadataMap::new());
                call.send("pong").await;
                call.end(Status::ok("")).await;
            });
            assert_eq!(answer.expect("an answer").get_ref(), "pong");
            continue;
        };
        let status = client.unary(METHOD, "ping").await.expect_err("no HTTP/2");
        assert_eq!(status.message(), "Bad gateway (upstream_unreachable)");
        let line = proxy.request_line(METHOD).await;
        let found = line["detail"].as_str().expect("a detail");
        assert!(found.contains(detail), "{protocols:?}: {found}");
    }
}

#[tokio::test]
async fn a_unix_socket_takes_http_2_too() {
    let issuer = Issuer::start();
    let server = GrpcServer::start_unix();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let (mut answer, call, _) = open(&client, &server).await;
    call.send("pong").await;
    assert_eq!(message(&mut answer).await, "pong");
}

#[tokio::test]
async fn a_backend_without_http_2_is_a_clear_failure() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::Close);
    let proxy = Setup::http2(&issuer, &upstream.url()).start().await;
    let client = client(&issuer, &proxy).await;
    let status = client.unary(METHOD, "ping").await.expect_err("no HTTP/2");
    assert_eq!(status.message(), "Bad gateway (upstream_unreachable)");
    let line = proxy.request_line(METHOD).await;
    let detail = line["detail"].as_str().expect("a detail");
    assert!(detail.contains("it is not HTTP/2"), "{detail}");
}

/// Either way, whatever has been sent by then.
#[tokio::test]
async fn no_call_outlives_its_token_by_much() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = Setup::http2(&issuer, &server.url())
        .auth0("clock_tolerance = \"0s\"")
        .rest("[streams]\nexpiry_grace = \"1s\"")
        .start()
        .await;
    let expiry = now() + 2;
    let token = issuer.user("auth0|alice").claim("exp", expiry).mint();
    let client = GrpcClient::connect(proxy.data).await.bearer(&token);
    // One whose answer has begun, with nothing to say either way.
    let (_silent, out) = outgoing();
    let (answer, mut call) = tokio::join!(client.streaming(METHOD, out), async {
        server.next().await.accept(MetadataMap::new())
    });
    let mut answer = answer.expect("an answer").into_inner();
    // One that is not answered while its client sends.
    let (busy, out) = outgoing();
    let sending = tokio::spawn(async move {
        while busy.send(Bytes::from("more")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let uploading = client.streaming(METHOD, out);
    let drinking = async {
        let mut call = server.next().await;
        while let Ok(Some(_)) = call.messages.message().await {}
        call.cancelled().await;
    };
    let ended = async {
        let (end, upload, ()) = tokio::join!(answer.message(), uploading, drinking);
        (end, upload)
    };
    let (end, upload) = within("the ends", ended).await;
    let late = now() - expiry;
    assert!((1..=2).contains(&late), "{late} s after exp");
    for status in [
        end.expect_err("an expired token"),
        upload.map(drop).expect_err("an expired token"),
    ] {
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), "Invalid or expired token (token_expired)");
    }
    call.cancelled().await;
    let upload = within("the end of the upload", call.messages.message()).await;
    assert!(upload.is_err(), "the upload has ended properly: {upload:?}");
    within("the end of the client", sending)
        .await
        .expect("no panic");
}

#[tokio::test]
async fn a_slow_client_slows_the_backend_down_and_nobody_else() {
    const MESSAGES: usize = 200;
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = Setup::http2(&issuer, &server.url())
        .arguments(&["--workers", "1"])
        .start()
        .await;
    let client = client(&issuer, &proxy).await;
    let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
    let before = proxy.resident_kib();
    // Clients of their own: one that reads nothing stops its own connection, as it should.
    let mut slow = Vec::new();
    for _ in 0..20 {
        let client = self::client(&issuer, &proxy).await;
        let (answer, call, connection) = open(&client, &server).await;
        assert_eq!(connection, 1);
        let megabyte = megabyte.clone();
        slow.push((
            answer,
            tokio::spawn(async move { call.send_while_wanted(&megabyte).await }),
        ));
    }
    let (mut answer, call, connection) = open(&client, &server).await;
    assert_eq!(connection, 1);
    let sent = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            call.send(megabyte.clone()).await;
        }
        call.end(Status::ok("")).await;
    });
    let mut most = 0;
    let mut received = 0;
    while let Some(message) = within("a message", answer.message())
        .await
        .expect("a message")
    {
        received += message.len();
        most = most.max(proxy.resident_kib());
    }
    sent.await.expect("no panic");
    assert_eq!(received, MESSAGES << 20);
    let grown = most.saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
    for (answer, sending) in slow {
        drop(answer);
        let sent = within("the end of a slow call", sending).await;
        assert!(sent.expect("no panic") < 20);
    }
}

#[tokio::test]
async fn a_slow_backend_slows_its_client_down() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let client = client(&issuer, &proxy).await;
    let (messages, out) = outgoing();
    let (answer, mut call) = tokio::join!(client.streaming(METHOD, out), async {
        server.next().await.accept(MetadataMap::new())
    });
    let _answer = answer.expect("an answer");
    let before = proxy.resident_kib();
    let sending = tokio::spawn(async move {
        let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..200 {
            messages
                .send(megabyte.clone())
                .await
                .expect("a running call");
        }
    });
    let mut received = 0;
    let mut most = 0;
    while let Some(message) = call.next().await {
        received += message.len();
        most = most.max(proxy.resident_kib());
    }
    assert_eq!(received, 200 << 20);
    sending.await.expect("no panic");
    let grown = most.saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
}

#[tokio::test]
async fn no_websocket_is_opened_over_http_2() {
    let issuer = Issuer::start();
    let server = GrpcServer::start();
    let proxy = proxy(&issuer, &server).await;
    let websocket = Request::get("/ws").websocket();
    assert_own(&proxy.send(&websocket).await, 401, "token_missing");
    let token = issuer.user("auth0|alice").mint();
    let answer = proxy.send(&websocket.bearer(&token)).await;
    assert_own(&answer, 400, "upgrade_not_served");
    let line = proxy
        .event("the refusal", |event| event["code"] == "upgrade_not_served")
        .await;
    assert_eq!(line["outcome"], "refused");
    assert!(server.is_untouched().await);
}
