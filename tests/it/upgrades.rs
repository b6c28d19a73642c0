//! Offers of another protocol (RFC 9110, section 7.8), which are ignored unless they are a WebSocket's.

use std::process::Command;

use crate::issuer::Issuer;
use crate::support::proxy::run_to_end;
use crate::support::{Client, Findings, Head, Reply, Request, Setup, Upstream, own};

/// Fields of the client's connection, which no agent may see.
const OF_THE_CONNECTION: [&str; 3] = ["connection", "upgrade", "http2-settings"];

/// What an upstream has seen of the client's connection.
fn of_the_connection(head: &Head) -> Vec<(&str, &str)> {
    let seen = OF_THE_CONNECTION
        .iter()
        .filter_map(|name| Some((*name, head.get(name)?)));
    seen.collect()
}

fn echoing() -> Upstream {
    Upstream::start(|head| match head.method() {
        "GET" => Reply::ok("hello"),
        _ => Reply::Echo,
    })
}

#[tokio::test]
async fn another_protocol_is_not_taken_up() {
    let issuer = Issuer::start();
    let upstream = echoing();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let mut findings = Findings::default();
    for (case, head, body) in [
        (
            "GET of OpenJDK 17's HttpClient",
            "GET /x HTTP/1.1\nConnection: Upgrade, HTTP2-Settings\nHost: 127.0.0.1:8080\n\
             HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\nUpgrade: h2c\n\
             User-Agent: Java-http-client/17.0.15",
            None,
        ),
        (
            "its POST",
            "POST /x HTTP/1.1\nConnection: Upgrade, HTTP2-Settings\nContent-Length: 5\nHost: 127.0.0.1:8080\n\
             HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\nUpgrade: h2c\n\
             User-Agent: Java-http-client/17.0.15",
            Some("whole"),
        ),
        (
            "its POST of unknown length",
            "POST /x HTTP/1.1\nConnection: Upgrade, HTTP2-Settings\nHost: 127.0.0.1:8080\n\
             HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\nTransfer-encoding: chunked\nUpgrade: h2c\n\
             User-Agent: Java-http-client/17.0.15",
            Some("5\r\nwhole\r\n0\r\n\r\n"),
        ),
        (
            "curl --http2",
            "GET /x HTTP/1.1\nHost: 127.0.0.1:8080\nUser-Agent: curl/7.88.1\nAccept: */*\n\
             Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
            None,
        ),
        (
            "TLS within HTTP (RFC 2817)",
            "GET /x HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: TLS/1.0",
            None,
        ),
        (
            "nobody's protocol",
            "GET /x HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: foo",
            None,
        ),
        (
            "no Connection",
            "GET /x HTTP/1.1\nHost: a\nUpgrade: h2c",
            None,
        ),
        (
            "nothing",
            "GET /x HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade:",
            None,
        ),
        (
            "several lines",
            "GET /x HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: h2c\nUpgrade: TLS/1.2, IRC/6.9",
            None,
        ),
        (
            "h2c in HTTP/1.0",
            "GET /x HTTP/1.0\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: h2c",
            None,
        ),
        (
            "a WebSocket in HTTP/1.0",
            "GET /x HTTP/1.0\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket",
            None,
        ),
    ] {
        let head = format!("{head}\nAuthorization: Bearer {token}\n\n").replace('\n', "\r\n");
        let bytes = [head.as_bytes(), body.unwrap_or_default().as_bytes()].concat();
        let mut client = Client::connect(proxy.data).await;
        // The connection serves on.
        for _ in 0..2 {
            client.send(&bytes).await;
            let answer = client.response().await;
            let expected = if body.is_some() { "whole" } else { "hello" };
            let is_served = answer.status() == 200 && answer.text() == expected;
            findings.check(case, is_served, || {
                format!("{} {}", answer.head.first_line, answer.text())
            });
            if is_served {
                let seen = upstream.next().await.head;
                let seen = of_the_connection(&seen);
                findings.check(case, seen.is_empty(), || {
                    format!("the upstream saw {seen:?}")
                });
            }
        }
    }
    findings.assert_none();
}

/// What ends a connection is the same with an offer that was not taken up: hyper hands such connections over
/// instead of closing them.
#[tokio::test]
async fn an_upload_with_an_offer_hears_why_it_is_refused() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let offer = || {
        Request::post("/x", vec![b'x'; 6 << 20])
            .header("Connection", "Upgrade")
            .header("Upgrade", "h2c")
    };
    let mut client = Client::connect(proxy.data).await;
    assert!(client.sends(&offer().bytes()).await, "the upload was reset");
    own(&client.response().await, 401, "token_missing").expect("an own answer");
    assert_eq!(upstream.requests(), 0);
}

/// Runs a client that not every machine has. Its output, or `None` where it is missing.
async fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let found = Command::new(program).arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        eprintln!("there is no {program} here, so it is not tried");
        return None;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(variable);
    }
    let output = run_to_end(command, "").await;
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {complaints}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

#[tokio::test]
async fn the_jdks_client_is_served() {
    const SOURCE: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/support/JdkClient.java"
    );
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let url = format!("http://{}/x", proxy.data);
    // Compiled in memory, with little of everything: it is one of many tests at a time.
    let arguments = [
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        SOURCE,
        &url,
        &token,
    ];
    let Some(printed) = run("java", &arguments).await else {
        return;
    };
    let round = "GET 200 HTTP_1_1 hello\nPOST 200 HTTP_1_1 hello\n";
    assert_eq!(printed, round.repeat(2));
    for method in ["GET", "POST"].repeat(2) {
        let exchange = upstream.next().await;
        assert_eq!(exchange.head.method(), method);
        let expected = if method == "GET" { 0 } else { 100_000 };
        assert_eq!(exchange.body().await.len(), expected);
        assert_eq!(of_the_connection(&exchange.head), []);
    }
}

#[tokio::test]
async fn curl_with_http2_is_served() {
    let issuer = Issuer::start();
    let upstream = echoing();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let token = issuer.user("auth0|alice").mint();
    let url = format!("http://{}/x", proxy.data);
    let bearer = format!("Authorization: Bearer {token}");
    for (data, expected) in [(&[][..], "hello"), (&["--data", "whole"], "whole")] {
        let common = [
            "--silent",
            "--show-error",
            "--http2",
            "--header",
            &bearer,
            &url,
        ];
        let Some(printed) = run("curl", &[&common[..], data].concat()).await else {
            return;
        };
        assert_eq!(printed, expected);
        assert_eq!(of_the_connection(&upstream.next().await.head), []);
    }
}
