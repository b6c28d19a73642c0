//! What stands in the log; and what becomes of it, and of everything else, when standard output is not read.

use serde_json::Value;

use crate::issuer::Issuer;
use crate::issuer::tokens::AUDIENCE;
use crate::support::{Client, Findings, Proxy, Request, Setup, Upstream, within};

/// Requests whose lines fill the pipe and everything that waits for it: more than 1 MiB of them.
const ENOUGH: usize = 1500;

/// Refused, with a line of more than 1,200 bytes.
fn long_request(number: usize) -> Request {
    Request::get(&format!("/{number}/{}", "x".repeat(1200)))
}

async fn started() -> (Issuer, Upstream, Proxy) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[timeouts]\nlinger = \"0s\"")
        .start()
        .await;
    (issuer, upstream, proxy)
}

/// Has more logged than fits, over several connections.
async fn overfill(proxy: &Proxy) {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(proxy.data).await);
    }
    for number in 0..ENOUGH {
        let client = &mut clients[number % 4];
        assert_eq!(client.request(&long_request(number)).await.status(), 401);
    }
}

async fn dropped(proxy: &Proxy) -> u64 {
    let metrics = proxy.admin("GET", "/metrics").await.text();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix("authgate_log_lines_dropped_total "));
    value.expect("the counter").parse().expect("a number")
}

fn is_request(event: &Value) -> bool {
    event["message"] == "request"
}

#[tokio::test]
async fn a_reader_that_stops_costs_lines_and_nothing_else() {
    let (issuer, _upstream, proxy) = started().await;
    let token = issuer.user("auth0|alice").mint();
    assert_eq!(dropped(&proxy).await, 0);
    proxy.stop_reading();
    overfill(&proxy).await;
    let good = proxy.send(&Request::get("/good").bearer(&token)).await;
    assert_eq!(good.status(), 200);
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin("GET", path).await.status(), 200, "{path}");
    }
    let missing = dropped(&proxy).await;
    assert!(missing > 0, "everything has found room");

    proxy.read_on();
    let told = proxy
        .event("the lines that are missing", |event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("lines of the log were dropped"))
        })
        .await;
    assert_eq!(
        (&told["level"], &told["lines"]),
        (&"WARN".into(), &missing.into())
    );
    // Of what was logged all the while, each line is whole, and there or counted.
    assert_eq!(
        proxy
            .send(&Request::get("/after").bearer(&token))
            .await
            .status(),
        200
    );
    proxy.request_line("/after").await;
    let printed = proxy.events();
    assert_eq!(
        printed.len(),
        proxy.output().lines().count(),
        "a line is torn"
    );
    let printed = printed.iter().filter(|event| is_request(event)).count();
    let expected = u64::try_from(ENOUGH + 2).expect("a number") - missing;
    assert_eq!(u64::try_from(printed).expect("a number"), expected);
    assert_eq!(dropped(&proxy).await, missing);
}

#[tokio::test]
async fn a_reader_that_stops_does_not_hold_the_end_up() {
    for signal in ["TERM", "INT"] {
        let (_issuer, _upstream, mut proxy) = started().await;
        proxy.stop_reading();
        overfill(&proxy).await;
        proxy.signal(signal);
        assert_eq!(proxy.exit_unread().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_harms_nothing() {
    let (issuer, _upstream, mut proxy) = started().await;
    let token = issuer.user("auth0|alice").mint();
    proxy.close_stdout();
    // Until the pipe is closed, and lines cannot be written any more.
    within("a line that is lost", async {
        while dropped(&proxy).await == 0 {
            let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
            assert_eq!(answer.status(), 200);
        }
    })
    .await;
    overfill(&proxy).await;
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&token))
            .await
            .status(),
        200
    );
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
    proxy.signal("TERM");
    assert_eq!(proxy.exit_unread().await.code(), Some(0));
}

/// The lines of the last requests, and the one after them, are there when the process has ended.
#[tokio::test]
async fn the_end_of_the_log_is_whole() {
    let (_issuer, _upstream, mut proxy) = started().await;
    for number in 0..100 {
        assert_eq!(proxy.send(&long_request(number)).await.status(), 401);
    }
    proxy.signal("TERM");
    assert_eq!(proxy.exit().await.code(), Some(0));
    let events = proxy.events();
    assert_eq!(events.iter().filter(|event| is_request(event)).count(), 100);
    assert_eq!(events.last().expect("a line")["message"], "stopped");
    assert_eq!(
        events.len(),
        proxy.output().lines().count(),
        "a line is torn"
    );
}

/// Whoever reads the line need not have the configuration at hand.
#[tokio::test]
async fn the_line_of_a_refusal_says_what_was_expected_and_what_was_found() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .auth0("max_token_age = \"1h\"\nroles_claim = \"https://your-app.com/roles\"")
        .rest("[[route]]\npath = \"/role\"\nrequire = { any_role = [\"admin\"] }")
        .rest("[[route]]\npath = \"/scope\"\nrequire = { scopes = [\"read:x\"] }")
        .rest("[[route]]\npath = \"/org\"\nrequire = { organizations = [\"org_1\"] }")
        .rest("[[route]]\npath = \"/not\"\nrequire = { not = { clients = [\"a\"] } }")
        .start()
        .await;
    let user = || issuer.user("auth0|alice");
    let iss = issuer.issuer();
    let mut findings = Findings::default();
    for (path, token, expected) in [
        (
            "/aud",
            user().claim("aud", "https://other"),
            format!("aud should name one of [\"{AUDIENCE}\"], and is [\"https://other\"]"),
        ),
        (
            "/iss",
            user().claim("iss", "https://other/"),
            format!("iss should be \"{iss}\", to which the key belongs, and is \"https://other/\""),
        ),
        (
            "/alg",
            user().header("alg", "PS256"),
            "alg is \"PS256\", not RS256".to_owned(),
        ),
        (
            "/typ",
            user().header("typ", "dpop+jwt"),
            "typ should be at+jwt, JWT or none, and is \"dpop+jwt\"".to_owned(),
        ),
        (
            "/age",
            user().issued_ago(7200),
            "auth0.max_token_age is 3600 s".to_owned(),
        ),
        (
            "/role",
            user().claim("https://your-app.com/roles", serde_json::json!(["user"])),
            "any_role (https://your-app.com/roles) [\"admin\"] does not hold; found [\"user\"]"
                .to_owned(),
        ),
        (
            "/org",
            user(),
            "organizations [\"org_1\"] does not hold; found no such claim".to_owned(),
        ),
        (
            "/scope",
            user().claim("scope", "openid email"),
            "needs scopes {\"read:x\"}; found \"openid email\"".to_owned(),
        ),
        ("/not", user().claim("azp", "a"), "does not hold".to_owned()),
    ] {
        let answer = proxy.send(&Request::get(path).bearer(&token.mint())).await;
        let line = proxy.request_line(path).await;
        let detail = line["detail"].as_str().unwrap_or_default().to_owned();
        let is_told = [401, 403].contains(&answer.status()) && detail.contains(&expected);
        findings.check(path, is_told, || format!("{}: {detail}", answer.status()));
    }
    findings.assert_none();
    let event = proxy
        .event("the audiences", |event| {
            event["message"] == "accepting tokens"
        })
        .await;
    assert_eq!(event["audience"], serde_json::json!([AUDIENCE]));
}
