//! Where keys come from, and what happens when they do not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::issuer::keys::{Algorithm, SigningKey};
use crate::issuer::tokens::{AUDIENCE, Mint};
use crate::issuer::{Behaviour, Issuer, KEYS_PATH};
use crate::support::frames::{Frames, HEADERS};
use crate::support::proxy::{program, run_to_end};
use crate::support::wire::PATIENCE;
use crate::support::{
    Findings, Proxy, Request, Response, Setup, Upstream, assert_own, own, within,
};

/// How often a test looks for a change that only requests can show.
const TICK: Duration = Duration::from_millis(20);

async fn get(proxy: &Proxy, token: &str) -> Response {
    proxy.send(&Request::get("/x").bearer(token)).await
}

/// Sends the same request until the answer is as wanted; every answer before must be `meanwhile`.
async fn until_status(proxy: &Proxy, token: &str, wanted: u16, meanwhile: u16) -> Response {
    within(&format!("an answer of {wanted}"), async {
        loop {
            let response = get(proxy, token).await;
            if response.status() == wanted {
                return response;
            }
            assert_eq!(response.status(), meanwhile, "{}", response.text());
            tokio::time::sleep(TICK).await;
        }
    })
    .await
}

async fn fetch_failed(proxy: &Proxy) {
    proxy
        .event("a failed fetch", |event| {
            event["message"] == "key fetch failed"
        })
        .await;
}

#[tokio::test]
async fn a_key_that_is_of_no_use_costs_nothing_else() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let weak = Arc::new(SigningKey::weak_rsa());
    let ec = Arc::new(SigningKey::ec(Algorithm::Es256));
    let silent = Arc::new(SigningKey::rsa(1));
    let encryption = Arc::new(SigningKey::rsa(2));
    issuer.behave(|behaviour| {
        let mut published = vec![
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AA" }),
            json!({ "kty": "EC", "crv": "P-521", "kid": "p521", "x": "AA", "y": "AA" }),
            json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "shared" }),
            json!({ "kty": "RSA", "kid": "hollow" }),
            json!({ "kid": 7 }),
            json!("no key at all"),
            json!(null),
            weak.jwk(),
            ec.jwk(),
        ];
        let mut jwk = silent.jwk();
        jwk.as_object_mut().expect("an object").remove("alg");
        published.push(jwk);
        let mut jwk = encryption.jwk();
        jwk["use"] = json!("enc");
        published.push(jwk);
        published.append(&mut behaviour.keys);
        behaviour.keys = published;
    });
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let user = || issuer.user("auth0|alice");
    assert_eq!(get(&proxy, &user().mint()).await.status(), 200);
    assert_eq!(get(&proxy, &user().key(&silent).mint()).await.status(), 200);
    for (key, code) in [
        (&weak, "token_unknown_key"),
        (&encryption, "token_unknown_key"),
    ] {
        assert_own(&get(&proxy, &user().key(key).mint()).await, 401, code);
    }
    let event = proxy
        .event("the keys", |event| event["message"] == "keys fetched")
        .await;
    assert_eq!(event["issuer"], issuer.issuer());
    assert_eq!(event["keys"], 2);
}

#[tokio::test]
async fn two_keys_may_bear_one_name() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let namesake = Arc::new(SigningKey::rsa(1).with_kid(issuer.key().kid()));
    issuer.publish(&namesake);
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let user = || issuer.user("auth0|alice");
    assert_eq!(get(&proxy, &user().mint()).await.status(), 200);
    assert_eq!(
        get(&proxy, &user().forged_with(&namesake).mint())
            .await
            .status(),
        200
    );
    let stranger = Arc::new(SigningKey::rsa(2));
    let forged = user().forged_with(&stranger).mint();
    assert_own(&get(&proxy, &forged).await, 401, "token_signature_invalid");
}

#[tokio::test]
async fn a_new_key_is_found_by_its_first_token() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("cooldown = \"1s\"")
        .start()
        .await;
    let old = issuer.user("auth0|alice").mint();
    let key = issuer.rotate_to(SigningKey::rsa(1));
    let new = issuer.user("auth0|alice").mint();
    // The first fetch may still be cooling down.
    until_status(&proxy, &new, 200, 401).await;
    assert_eq!(get(&proxy, &old).await.status(), 200);
    assert_eq!(proxy.request_line("/x").await["message"], "request");
    let kid = key.kid().to_owned();
    proxy
        .event("a request with the new key", |event| {
            event["kid"] == kid.as_str()
        })
        .await;
}

#[tokio::test]
async fn unknown_keys_cannot_make_it_fetch_without_end() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let fetched = issuer.requests();
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..40 {
        let address = proxy.data;
        let token = issuer
            .user("auth0|alice")
            .header("kid", format!("made-up-{number}"))
            .mint();
        flood.spawn(async move { Request::get("/x").bearer(&token).send(address).await });
    }
    let mut findings = Findings::default();
    while let Some(response) = within("the flood's end", flood.join_next()).await {
        findings.add(
            "flood",
            own(&response.expect("an answer"), 401, "token_unknown_key"),
        );
    }
    findings.assert_none();
    let more = issuer.requests() - fetched;
    assert!(more <= 1, "{more} fetches for one cooldown");
    assert_eq!(
        get(&proxy, &issuer.user("auth0|alice").mint())
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_known_key_waits_for_no_fetch() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("cooldown = \"1s\"")
        .start()
        .await;
    issuer.behave(|behaviour| behaviour.held = true);
    let fetched = issuer.requests();
    let key = issuer.rotate_to(SigningKey::rsa(1));
    let new = issuer.user("auth0|alice").mint();
    // Those who come before the cooldown is over are refused; the one who makes it fetch waits.
    let mut waiting = tokio::task::JoinSet::new();
    within("a fetch", async {
        while issuer.requests() == fetched {
            let address = proxy.data;
            let token = new.clone();
            waiting.spawn(async move { Request::get("/x").bearer(&token).send(address).await });
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    let known = issuer
        .user("auth0|bob")
        .forged_with(&Arc::new(SigningKey::rsa(0)));
    let first_kid = known.header("kid", first_kid(&issuer)).mint();
    assert_eq!(get(&proxy, &first_kid).await.status(), 200);
    issuer.behave(|behaviour| behaviour.held = false);
    let mut statuses = Vec::new();
    while let Some(response) = within("an answer", waiting.join_next()).await {
        statuses.push(response.expect("an answer").status());
    }
    assert!(
        statuses.contains(&200),
        "nobody waited for {}: {statuses:?}",
        key.kid()
    );
    assert!(
        statuses.iter().all(|status| [200, 401].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(issuer.requests(), fetched + 1, "the fetch is shared");
}

/// The `kid` that was published first.
fn first_kid(issuer: &Issuer) -> String {
    let mut kid = String::new();
    issuer.behave(|behaviour| {
        behaviour.keys[0]["kid"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut kid);
    });
    kid
}

#[tokio::test]
async fn the_last_good_keys_serve_while_the_issuer_is_away() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("refresh = \"1s\"")
        .start()
        .await;
    issuer.go_down();
    fetch_failed(&proxy).await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(get(&proxy, &token).await.status(), 200);
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
    let mark = proxy.mark();
    issuer.come_back();
    proxy
        .event_after(mark, "a recovery", |event| {
            event["message"] == "keys fetched"
        })
        .await;
}

#[tokio::test]
async fn stale_keys_serve_only_so_long() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("refresh = \"1s\"\nserve_stale = \"2s\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(get(&proxy, &token).await.status(), 200);
    issuer.go_down();
    let response = until_status(&proxy, &token, 503, 200).await;
    assert_own(&response, 503, "keys_unavailable");
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 503);
    issuer.come_back();
    until_status(&proxy, &token, 200, 503).await;
}

#[tokio::test]
async fn it_starts_without_keys_and_says_so() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    issuer.go_down();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/public\"\naccess = \"public\"")
        .launch()
        .await;
    fetch_failed(&proxy).await;
    assert_eq!(proxy.admin("GET", "/livez").await.status(), 200);
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 503);
    let token = issuer.user("auth0|alice").mint();
    let response = get(&proxy, &token).await;
    assert_own(&response, 503, "keys_unavailable");
    let pause: u64 = response
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((1..=300).contains(&pause), "{pause}");
    // What needs no key is decided without one.
    assert_own(&proxy.send(&Request::get("/x")).await, 401, "token_missing");
    assert_own(&get(&proxy, "a.b").await, 401, "token_malformed");
    assert_eq!(proxy.send(&Request::get("/public")).await.status(), 200);

    issuer.come_back();
    proxy.ready().await;
    assert_eq!(get(&proxy, &token).await.status(), 200);
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
}

/// A rollout: requests come as soon as the listener is there, and the key server takes its time.
#[tokio::test]
async fn tokens_wait_for_the_first_fetch() {
    const REQUESTS: usize = 200;
    let issuer = Issuer::start();
    let other = Issuer::start_another();
    let upstream = Upstream::hello();
    issuer.behave(|behaviour| behaviour.held = true);
    let proxy = Setup::new(&issuer, &upstream).launch().await;
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..REQUESTS {
        let token = issuer.user(&format!("auth0|{number}")).mint();
        let address = proxy.data;
        waiting.spawn(async move { Request::get("/x").bearer(&token).send(address).await });
    }
    // Whoever has no token of that issuer waits for nothing.
    assert_own(&proxy.send(&Request::get("/x")).await, 401, "token_missing");
    assert_own(&get(&proxy, "a.b").await, 401, "token_malformed");
    let weak = issuer.user("auth0|alice").header("alg", "HS256").mint();
    assert_own(
        &get(&proxy, &weak).await,
        401,
        "token_algorithm_not_allowed",
    );
    let foreign = other.user("auth0|alice").mint();
    assert_own(&get(&proxy, &foreign).await, 503, "keys_unavailable");
    issuer.behave(|behaviour| behaviour.held = false);
    for response in waiting.join_all().await {
        assert_eq!(response.status(), 200, "{}", response.text());
    }
    assert_eq!(issuer.requests(), 1, "one fetch for all of them");
}

/// A fetch that fails is over too, and nobody waits for the next one.
#[tokio::test]
async fn tokens_wait_for_no_fetch_but_the_first() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    issuer.behave(|behaviour| behaviour.held = true);
    let proxy = Setup::new(&issuer, &upstream)
        .keys("timeout = \"1s\"")
        .launch()
        .await;
    let token = issuer.user("auth0|alice").mint();
    // At most as long as the fetch.
    assert_own(&get(&proxy, &token).await, 503, "keys_unavailable");
    assert_own(&get(&proxy, &token).await, 503, "keys_unavailable");
    issuer.behave(|behaviour| behaviour.held = false);
    proxy.ready().await;
    assert_eq!(get(&proxy, &token).await.status(), 200);
}

type Spoil = Box<dyn Fn(&mut Behaviour)>;

#[tokio::test]
async fn answers_that_are_no_key_set_are_refused() {
    let elsewhere = Issuer::start();
    let location = elsewhere.keys_url();
    let oversized = Bytes::from(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(4 << 20)));
    let body = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let table: Vec<(&str, Spoil)> = vec![
        ("500", Box::new(|behaviour| behaviour.status = 500)),
        ("404", Box::new(|behaviour| behaviour.status = 404)),
        (
            "429",
            Box::new(|behaviour| {
                behaviour.status = 429;
                behaviour.headers = vec![("retry-after".to_owned(), "1".to_owned())];
            }),
        ),
        (
            "a redirect",
            Box::new(move |behaviour| {
                behaviour.status = 302;
                behaviour.headers = vec![("location".to_owned(), location.clone())];
            }),
        ),
        (
            "HTML",
            Box::new(move |behaviour| behaviour.body = body("<html>captive portal</html>")),
        ),
        (
            "an array",
            Box::new(move |behaviour| behaviour.body = body("[]")),
        ),
        (
            "no keys",
            Box::new(move |behaviour| behaviour.body = body("{}")),
        ),
        (
            "keys of another type",
            Box::new(move |behaviour| behaviour.body = body("{\"keys\":{}}")),
        ),
        (
            "nothing",
            Box::new(move |behaviour| behaviour.body = body("")),
        ),
        (
            "too much",
            Box::new(move |behaviour| behaviour.body = Some(oversized.clone())),
        ),
        ("a hang-up", Box::new(|behaviour| behaviour.hang_up = true)),
        ("silence", Box::new(|behaviour| behaviour.held = true)),
    ];
    let upstream = Upstream::hello();
    let mut findings = Findings::default();
    for (case, spoil) in table {
        let issuer = Issuer::start();
        issuer.behave(spoil);
        let proxy = Setup::new(&issuer, &upstream)
            .keys("timeout = \"1s\"")
            .launch()
            .await;
        fetch_failed(&proxy).await;
        let token = issuer.user("auth0|alice").mint();
        findings.add(
            case,
            own(&get(&proxy, &token).await, 503, "keys_unavailable"),
        );
        let strange = issuer
            .targets()
            .into_iter()
            .find(|target| target != KEYS_PATH);
        findings.check(case, strange.is_none(), || {
            format!("a request for {strange:?}")
        });
    }
    findings.check("a redirect", elsewhere.requests() == 0, || {
        "was followed".to_owned()
    });
    findings.assert_none();
}

/// Servers, balancers and proxies that read along close without the `close_notify` of TLS. What was framed is
/// whole all the same; what only the end of the connection ends may have been cut.
#[tokio::test]
async fn a_whole_key_set_counts_without_a_close_notify() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer.user("auth0|alice").mint();
    let keys = json!({ "keys": [issuer.key().jwk()] }).to_string();
    let length = keys.len();
    for (framing, body, is_whole) in [
        (format!("Content-Length: {length}"), keys.clone(), true),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{length:x}\r\n{keys}\r\n0\r\n\r\n"),
            true,
        ),
        (
            format!("Content-Length: {}", length + 1),
            keys.clone(),
            false,
        ),
        ("Connection: close".to_owned(), keys.clone(), false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let tls = issuer.tls_acceptor();
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let mut stream = tls.accept(stream).await.expect("a handshake");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0);
                }
                stream.write_all(answer.as_bytes()).await.expect("room");
                stream.flush().await.expect("room");
                // Dropped without a shutdown.
            }
        });
        let proxy = Setup::new(&issuer, &upstream)
            .keys(&format!("url = \"https://localhost:{port}/keys\""))
            .launch()
            .await;
        if is_whole {
            proxy.ready().await;
            let failed = |event: &Value| event["message"] == "key fetch failed";
            assert!(!proxy.events().iter().any(failed), "{framing}");
            assert_eq!(get(&proxy, &token).await.status(), 200, "{framing}");
        } else {
            fetch_failed(&proxy).await;
            assert_own(&get(&proxy, &token).await, 503, "keys_unavailable");
        }
        server.abort();
    }
}

#[tokio::test]
async fn a_set_of_no_use_is_no_key() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    issuer.behave(|behaviour| behaviour.keys.clear());
    let proxy = Setup::new(&issuer, &upstream).launch().await;
    issuer.wait_for_requests(1, PATIENCE).await;
    let token = issuer.user("auth0|alice").mint();
    assert_own(&get(&proxy, &token).await, 503, "keys_unavailable");
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 503);
}

#[tokio::test]
async fn keys_are_taken_only_from_whom_the_roots_vouch_for() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let token = issuer.user("auth0|alice").mint();
    let without_root = || {
        Setup::bare()
            .auth0(&format!(
                "domain = \"{}\"\naudience = \"{AUDIENCE}\"",
                issuer.domain()
            ))
            .upstream(&upstream.url())
    };
    let proxy = without_root().launch().await;
    fetch_failed(&proxy).await;
    assert_own(&get(&proxy, &token).await, 503, "keys_unavailable");

    let ca_file = issuer.ca_file().display().to_string();
    let proxy = without_root()
        .environment("SSL_CERT_FILE", &ca_file)
        .start()
        .await;
    assert_eq!(get(&proxy, &token).await.status(), 200);
}

#[tokio::test]
async fn keys_come_over_plain_http_from_loopback() {
    let issuer = Issuer::start_plain();
    let upstream = Upstream::hello();
    let proxy = Setup::bare()
        .auth0(&format!(
            "domain = \"{}\"\naudience = \"{AUDIENCE}\"",
            issuer.domain()
        ))
        .keys(&format!("url = \"{}\"", issuer.keys_url()))
        .upstream(&upstream.url())
        .start()
        .await;
    assert_eq!(
        get(&proxy, &issuer.user("auth0|alice").mint())
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn keys_come_from_a_file() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [issuer.key().jwk()] }).to_string()).expect("the keys");
    let proxy = Setup::bare()
        .auth0(&format!(
            "domain = \"{}\"\naudience = \"{AUDIENCE}\"",
            issuer.domain()
        ))
        .keys(&format!("file = \"{}\"", file.display()))
        .upstream(&upstream.url())
        .start()
        .await;
    assert_eq!(
        get(&proxy, &issuer.user("auth0|alice").mint())
            .await
            .status(),
        200
    );
    assert_eq!(issuer.requests(), 0);
}

/// What is on the disk is there before the program, so a slip of the finger need not look like an outage.
#[tokio::test]
async fn a_key_file_that_is_none_is_a_wrong_configuration() {
    let issuer = Issuer::start();
    let directory = TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let good = json!({ "keys": [issuer.key().jwk()] }).to_string();
    std::fs::write(at("good"), format!("\u{feff}{good}")).expect("a file");
    std::fs::write(at("page"), "<!DOCTYPE html>").expect("a file");
    std::fs::write(at("pem"), "-----BEGIN PUBLIC KEY-----").expect("a file");
    for (name, status, words) in [
        ("good", 0, ""),
        ("missing", 78, "auth0.keys.file"),
        ("page", 78, "it is HTML or XML"),
        ("pem", 78, "it is PEM"),
    ] {
        let text = format!(
            "[auth0]\ndomain = \"{}\"\naudience = \"{AUDIENCE}\"\n[auth0.keys]\nfile = \"{}\"",
            issuer.domain(),
            at(name)
        );
        let file = at("authgate.toml");
        std::fs::write(&file, text).expect("a file");
        for command in ["check", "run"] {
            if (name, command) == ("good", "run") {
                continue;
            }
            let mut program = program();
            program.args([
                command,
                "--config",
                &file,
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "off",
            ]);
            let output = run_to_end(program, "").await;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                output.status.code(),
                Some(status),
                "{command} {name}: {told}"
            );
            assert!(told.contains(words), "{command} {name}: {told}");
        }
    }
}

/// The issuer is no place that can be reached: its keys are.
#[tokio::test]
async fn check_online_says_that_the_keys_are_out_of_reach() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, Setup::new(&issuer, &upstream).text()).expect("a file");
    issuer.go_down();
    let mut program = program();
    program
        .arg("check")
        .arg("--online")
        .arg("--config")
        .arg(&file);
    program.args(["--upstream", &upstream.url()]);
    let output = run_to_end(program, "").await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}");
    let domain = issuer.domain();
    let expected = format!("https://{domain}/: keys from https://{domain}/.well-known/jwks.json: ");
    assert!(told.contains(&expected), "{told}");
}

#[tokio::test]
async fn a_revoked_key_takes_its_cached_tokens_along() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("refresh = \"1s\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let revoked = issuer.key().kid().to_owned();
    issuer.rotate_to(SigningKey::rsa(1));
    assert_eq!(get(&proxy, &token).await.status(), 200);
    issuer.revoke(&revoked);
    let response = until_status(&proxy, &token, 401, 200).await;
    assert_own(&response, 401, "token_unknown_key");
}

#[tokio::test]
async fn keys_are_fetched_through_the_proxy_of_the_environment() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (asked, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let tunnels = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let asked = asked.clone();
            tokio::spawn(tunnel(client, asked));
        }
    });
    let through = format!("http://{address}");
    let proxy = Setup::new(&issuer, &upstream)
        .environment("HTTPS_PROXY", &through)
        .start()
        .await;
    assert_eq!(
        get(&proxy, &issuer.user("auth0|alice").mint())
            .await
            .status(),
        200
    );
    let target = within("a CONNECT", seen.recv()).await.expect("a tunnel");
    assert_eq!(target, issuer.domain());

    for no_proxy in ["localhost", &issuer.domain()] {
        let proxy = Setup::new(&issuer, &upstream)
            .environment("HTTPS_PROXY", &through)
            .environment("NO_PROXY", no_proxy)
            .start()
            .await;
        assert_eq!(
            get(&proxy, &issuer.user("auth0|alice").mint())
                .await
                .status(),
            200
        );
        assert!(
            seen.try_recv().is_err(),
            "the tunnel was used in spite of NO_PROXY={no_proxy}"
        );
    }

    // `check` says which way it went.
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    std::fs::write(&file, Setup::new(&issuer, &upstream).text()).expect("a file");
    let with_credentials = format!("http://user:secret@{address}");
    for (no_proxy, way) in [
        ("*.example.com", format!("through the proxy {through}")),
        ("localhost:1", format!("through the proxy {through}")),
        ("*.example.com,localhost", "directly".to_owned()),
    ] {
        let mut command = program();
        command.args(["check", "--online", "--upstream", &upstream.url()]);
        command.arg("--config").arg(&file);
        command.env("HTTPS_PROXY", &with_credentials);
        command.env("NO_PROXY", no_proxy);
        let output = run_to_end(command, "").await;
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = format!("usable keys: 1, fetched {way}\n");
        assert!(text.contains(&expected), "NO_PROXY={no_proxy}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    tunnels.abort();
}

/// One CONNECT, as far as it goes.
async fn tunnel(mut client: TcpStream, asked: tokio::sync::mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    // The client says nothing more before it is answered, so no byte of the tunnel is lost.
    while !head.ends_with(b"\r\n\r\n") {
        client.readable().await.expect("a request");
        match client.try_read_buf(&mut head) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let target = line.split(' ').nth(1).expect("a target").to_owned();
    assert!(line.starts_with("CONNECT "), "{line}");
    let mut server = TcpStream::connect(&target).await.expect("the target");
    asked.send(target).expect("a test");
    client
        .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
        .await
        .expect("room");
    // Either side may end the tunnel.
    let _ended = copy_bidirectional(&mut client, &mut server).await;
}

/// Several issuers of one process, each with its own address and certificate.
struct Domains {
    issuers: Vec<Issuer>,
    directory: TempDir,
}

impl Domains {
    fn start(count: usize) -> Self {
        Self {
            issuers: (0..count).map(|_| Issuer::start()).collect(),
            directory: TempDir::new().expect("a directory"),
        }
    }

    /// All of them publish the keys of the first, as a tenant does under its custom domains.
    fn of_one_tenant(count: usize) -> Self {
        let domains = Self::start(count);
        let key = domains.issuers[0].key();
        for issuer in &domains.issuers {
            issuer.behave(|behaviour| behaviour.keys = vec![key.jwk()]);
        }
        domains
    }

    fn setup(&self, upstream: &Upstream) -> Setup {
        let roots = self.directory.path().join("roots.pem");
        let pem: Vec<&str> = self.issuers.iter().map(Issuer::ca_pem).collect();
        std::fs::write(&roots, pem.concat()).expect("the roots");
        let names: Vec<String> = self.issuers.iter().map(Issuer::domain).collect();
        Setup::bare()
            .auth0(&format!("domain = {names:?}\naudience = \"{AUDIENCE}\""))
            .auth0("algorithms = [\"RS256\", \"ES256\"]")
            .keys(&format!("ca_file = \"{}\"", roots.display()))
            .upstream(&upstream.url())
    }

    /// What `check --online` says.
    async fn check(&self, upstream: &Upstream) -> (Option<i32>, String) {
        let file = self.directory.path().join("authgate.toml");
        std::fs::write(&file, self.setup(upstream).text()).expect("the configuration");
        let mut command = program();
        command.args([
            "check",
            "--online",
            "--upstream",
            &upstream.url(),
            "--config",
        ]);
        command.arg(&file);
        let output = run_to_end(command, "").await;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    }
}

/// A token of this issuer, signed with another's key.
fn user_of(issuer: &Issuer, key: &Arc<SigningKey>) -> Mint {
    Mint::user(key, &issuer.issuer(), "auth0|alice")
}

#[tokio::test]
async fn any_number_of_domains_may_publish_one_set() {
    for count in [2, 6, 60] {
        let upstream = Upstream::hello();
        let domains = Domains::of_one_tenant(count);
        let proxy = domains.setup(&upstream).start().await;
        let key = domains.issuers[0].key();
        let stranger = Arc::new(SigningKey::rsa(1).with_kid(key.kid()));
        for place in [0, count / 2, count - 1] {
            let issuer = &domains.issuers[place];
            let token = user_of(issuer, &key).mint();
            assert_eq!(
                get(&proxy, &token).await.status(),
                200,
                "{place} of {count}"
            );
            let token = user_of(issuer, &key).without_header("kid").mint();
            assert_eq!(
                get(&proxy, &token).await.status(),
                200,
                "{place} of {count}"
            );
            let forged = user_of(issuer, &stranger).mint();
            assert_own(&get(&proxy, &forged).await, 401, "token_signature_invalid");
        }
        let (code, text) = domains.check(&upstream).await;
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.matches("usable keys: 1").count(), count, "{text}");
        assert!(!text.contains("have the kid"), "{text}");
    }
}

#[tokio::test]
async fn an_issuer_that_takes_anothers_kid_shuts_nobody_out() {
    let upstream = Upstream::hello();
    for others in [1, 5, 6] {
        let domains = Domains::start(2);
        let (victim, hostile) = (&domains.issuers[1], &domains.issuers[0]);
        let key = victim.key();
        for _ in 0..others {
            let namesake = SigningKey::ec(Algorithm::Es256).with_kid(key.kid());
            hostile.publish(&namesake);
        }
        let own = victim.rotate_to(SigningKey::ec(Algorithm::Es256).with_kid(key.kid()));
        let proxy = domains.setup(&upstream).start().await;
        for kid in [true, false] {
            let mint = |mint: Mint| {
                if kid {
                    mint
                } else {
                    mint.without_header("kid")
                }
            };
            let good = mint(victim.user("auth0|alice")).mint();
            assert_eq!(get(&proxy, &good).await.status(), 200, "{others}, {kid}");
        }
        let claimed = user_of(hostile, &own).mint();
        assert_own(&get(&proxy, &claimed).await, 401, "token_wrong_issuer");
        let event = proxy
            .event("an ambiguous kid", |event| {
                event["message"] == "a kid does not say which key is meant"
            })
            .await;
        assert_eq!(event["kid"], key.kid());
        let (code, text) = domains.check(&upstream).await;
        assert_eq!(code, Some(0), "{text}");
        let told = format!("{} keys have the kid {:?}", others + 1, key.kid());
        assert!(text.contains(&told), "{text}");
        assert_eq!(text.contains("none is tried"), others > 5, "{text}");
    }
}

/// One domain was asked later than the others, and knows a key that they publish too.
#[tokio::test]
async fn a_key_that_came_by_way_of_another_domain_is_asked_for() {
    let upstream = Upstream::hello();
    let domains = Domains::of_one_tenant(2);
    let [first, second] = &domains.issuers[..] else {
        panic!("two")
    };
    let proxy = domains
        .setup(&upstream)
        .keys("cooldown = \"1s\"")
        .start()
        .await;
    let key = first.rotate_to(SigningKey::rsa(1));
    let of_first = first.user("auth0|alice").mint();
    until_status(&proxy, &of_first, 200, 401).await;
    let of_second = user_of(second, &key).mint();
    assert_own(&get(&proxy, &of_second).await, 401, "token_wrong_issuer");
    second.publish(&key);
    until_status(&proxy, &of_second, 200, 401).await;
}

/// A rotation during an outage: clients must not take it for the end of their session.
#[tokio::test]
async fn an_unknown_key_is_no_refusal_while_fetches_fail() {
    let upstream = Upstream::hello();
    for count in [1, 2] {
        let domains = Domains::start(count);
        let issuer = &domains.issuers[0];
        let away = &domains.issuers[count - 1];
        let proxy = domains
            .setup(&upstream)
            .keys("cooldown = \"1s\"")
            .start()
            .await;
        let old = issuer.user("auth0|alice").mint();
        let key = Arc::new(SigningKey::rsa(1));
        let new = user_of(issuer, &key).mint();
        assert_own(&get(&proxy, &new).await, 401, "token_unknown_key");
        away.go_down();
        let response = until_status(&proxy, &new, 503, 401).await;
        assert_own(&response, 503, "keys_unavailable");
        assert!(response.header("retry-after").is_some());
        // At once, too, where no fetch may run now.
        for _ in 0..20 {
            assert_own(&get(&proxy, &new).await, 503, "keys_unavailable");
        }
        // What is known is decided as before, and what no key could save.
        assert_eq!(get(&proxy, &old).await.status(), 200);
        let forged = issuer.user("auth0|bob").forged_with(&key).mint();
        let forged = get(&proxy, &forged).await;
        assert_own(&forged, 401, "token_signature_invalid");
        assert_own(&get(&proxy, "a.b").await, 401, "token_malformed");
        let other = issuer
            .user("auth0|alice")
            .claim("iss", "https://other.example/");
        assert_own(&get(&proxy, &other.mint()).await, 401, "token_wrong_issuer");
        away.come_back();
        let response = until_status(&proxy, &new, 401, 503).await;
        assert_own(&response, 401, "token_unknown_key");
        issuer.publish(&key);
        until_status(&proxy, &new, 200, 401).await;
    }
}

/// Nobody can fill the memory with requests that wait for a fetch.
#[tokio::test]
async fn only_so_many_wait_for_a_fetch() {
    const MOST: usize = 1_000;
    const STREAMS: usize = 95;
    const CONNECTIONS: usize = MOST / STREAMS + 1;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .keys("cooldown = \"1s\"\ntimeout = \"60s\"")
        .start()
        .await;
    issuer.behave(|behaviour| behaviour.held = true);
    let token = issuer.user("auth0|alice").header("kid", "new").mint();
    let fetched = issuer.requests();
    let mut waiting = tokio::task::JoinSet::new();
    within("a fetch", async {
        while issuer.requests() == fetched {
            let (address, token) = (proxy.data, token.clone());
            waiting.spawn(async move { Request::get("/x").bearer(&token).send(address).await });
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Frames::connect(proxy.data).await;
        for stream in (1_u32..).step_by(2).take(STREAMS) {
            connection.request(stream, "/x", &fields).await;
        }
        connections.push(connection);
    }
    let is_refused = |event: &Value| event["code"] == "keys_unavailable";
    within("those that cannot wait", async {
        while proxy
            .events()
            .iter()
            .filter(|event| is_refused(event))
            .count()
            < CONNECTIONS * STREAMS - MOST
        {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    issuer.behave(|behaviour| behaviour.held = false);
    let mut statuses = Vec::new();
    for connection in &mut connections {
        let mut missing = STREAMS;
        while missing > 0 {
            let frame = connection.next().await.expect("an answer to each");
            if frame.kind == HEADERS {
                statuses.push(frame.status());
                missing -= 1;
            }
        }
    }
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(401) + count(503), CONNECTIONS * STREAMS);
    assert!(
        (MOST - 100..=MOST).contains(&count(401)),
        "{} waited",
        count(401)
    );
    let known = issuer.user("auth0|bob").mint();
    assert_eq!(get(&proxy, &known).await.status(), 200);
}
