//! Another configuration in the running program.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::issuer::Issuer;
use crate::issuer::keys::SigningKey;
use crate::support::answer::Findings;
use crate::support::upstream::Feed;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, assert_own, within};

/// A rule for `/x` beside the default.
fn rule(issuer: &Issuer, upstream: &Upstream, toml: &str) -> Setup {
    let rest = format!("[[route]]\npath = \"/x\"\n{toml}");
    Setup::new(issuer, upstream).rest(&rest)
}

const DENY: &str = "access = \"deny\"";
const PUBLIC: &str = "access = \"public\"";

/// The line that says that a change needs a restart, or that something is wrong, after a mark.
async fn line(proxy: &Proxy, mark: usize, key: &str, value: &str) -> Value {
    proxy
        .event_after(mark, value, |event| event[key] == value)
        .await
}

#[tokio::test]
async fn rules_change_at_a_signal_without_dropping_a_connection() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/stream" => Reply::events(),
        _ => Reply::ok("hello"),
    });
    let proxy = rule(&issuer, &upstream, DENY).start().await;
    let token = issuer.user("auth0|alice").mint();
    let request = Request::get("/x").bearer(&token);
    let mut kept = Client::connect(proxy.data).await;
    assert_own(&kept.request(&request).await, 403, "rule_denied");
    let mut stream = Request::get("/stream")
        .bearer(&token)
        .open(proxy.data)
        .await;
    assert_eq!(stream.head().await.status(), 200);
    let exchange = upstream.next().await;

    let generation = proxy.reload(&rule(&issuer, &upstream, PUBLIC)).await;
    assert_eq!(generation, 2);
    assert_eq!(kept.request(&request).await.text(), "hello");
    exchange.send("data: still here\n\n");
    assert_eq!(stream.data().await, "data: still here\n\n");

    assert_eq!(proxy.reload(&rule(&issuer, &upstream, DENY)).await, 3);
    assert_own(&kept.request(&request).await, 403, "rule_denied");
    exchange.feed(Feed::End);
    assert!(stream.body().await.is_ok());
    let metrics = proxy.admin("GET", "/metrics").await.text();
    for line in [
        "authgate_config_generation 3",
        "authgate_config_reloads_total{result=\"success\"} 2",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in\n{metrics}"
        );
    }
    // Its keys are those of before: nothing was fetched again.
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = rule(&issuer, &upstream, DENY).start().await;
    let mark = proxy.mark();
    proxy.rewrite(&rule(&issuer, &upstream, PUBLIC));
    line(&proxy, mark, "message", "configuration loaded").await;
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
}

#[tokio::test]
async fn a_swapped_link_is_noticed_as_kubernetes_swaps_it() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = tempfile::TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for (version, toml) in [("v1", DENY), ("v2", PUBLIC)] {
        std::fs::create_dir(at(version)).expect("a directory");
        let text = rule(&issuer, &upstream, toml).text();
        std::fs::write(at(version).join("authgate.toml"), text).expect("a file");
    }
    symlink("v1", at("..data")).expect("a link");
    symlink("..data/authgate.toml", at("authgate.toml")).expect("a link");
    let file = at("authgate.toml").display().to_string();
    let proxy = Setup::bare()
        .upstream(&upstream.url())
        .file(&file)
        .start()
        .await;
    assert_own(&proxy.send(&Request::get("/x")).await, 401, "token_missing");
    let mark = proxy.mark();
    symlink("v2", at("..data_tmp")).expect("a link");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("a swap");
    line(&proxy, mark, "message", "configuration loaded").await;
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
}

/// A mount of one file shows the old text for ever, and a file that is gone shows nothing at all.
#[tokio::test]
async fn a_file_that_is_gone_or_the_same_is_told_of() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("authgate.toml");
    let text = |toml: &str| rule(&issuer, &upstream, toml).text();
    std::fs::write(&file, text(DENY)).expect("a file");
    let name = file.display().to_string();
    let proxy = Setup::bare()
        .upstream(&upstream.url())
        .file(&name)
        .start()
        .await;
    let loaded = async |mark| line(&proxy, mark, "message", "configuration loaded").await;
    assert_eq!(loaded(0).await.get("same_text"), None);
    for (toml, is_same) in [(DENY, true), (PUBLIC, false), (PUBLIC, true)] {
        std::fs::write(&file, text(toml)).expect("a file");
        let mark = proxy.mark();
        proxy.signal("HUP");
        assert_eq!(loaded(mark).await["same_text"], is_same, "{toml}");
    }

    let mark = proxy.mark();
    std::fs::remove_file(&file).expect("a file");
    let gone = "a file of the configuration is gone; what was loaded stays in force";
    let event = line(&proxy, mark, "message", gone).await;
    assert_eq!(
        (&event["level"], &event["file"]),
        (&"ERROR".into(), &name.into())
    );
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
    let metrics = proxy.admin("GET", "/metrics").await.text();
    let counted = "authgate_config_reloads_total{result=\"failure\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");

    let mark = proxy.mark();
    std::fs::write(&file, text(DENY)).expect("a file");
    assert_eq!(loaded(mark).await["same_text"], false);
    assert_own(&proxy.send(&Request::get("/x")).await, 401, "token_missing");
    let told = proxy
        .events()
        .into_iter()
        .filter(|event| event["message"] == gone);
    assert_eq!(told.count(), 1);
}

#[tokio::test]
async fn a_bad_file_changes_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = rule(&issuer, &upstream, DENY).start().await;
    let token = issuer.user("auth0|alice").mint();
    for (toml, path) in [
        ("access = \"open\"", "route[0].access"),
        (
            "access = \"public\"\nrequire = { scopes = [] }",
            "route[0].require.scopes",
        ),
        ("access = \"public\"\n[nonsense]", "nonsense"),
        ("access = ", ""),
    ] {
        proxy.rewrite(&rule(&issuer, &upstream, toml));
        let mark = proxy.mark();
        proxy.signal("HUP");
        let kept = "configuration not loaded; the one before stays in force";
        let event = line(&proxy, mark, "message", kept).await;
        assert_eq!(event["generation"], 1);
        if !path.is_empty() {
            assert_eq!(line(&proxy, mark, "path", path).await["level"], "ERROR");
        }
        let answer = proxy.send(&Request::get("/x").bearer(&token)).await;
        assert_own(&answer, 403, "rule_denied");
    }
    let metrics = proxy.admin("GET", "/metrics").await.text();
    let failures = metrics
        .lines()
        .find_map(|line| line.strip_prefix("authgate_config_reloads_total{result=\"failure\"} "))
        .and_then(|count| count.parse::<usize>().ok());
    assert!(failures.is_some_and(|count| count >= 4), "{metrics}");
}

#[tokio::test]
async fn what_needs_a_restart_says_so() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = rule(&issuer, &upstream, DENY).start().await;
    let mark = proxy.mark();
    let next = rule(&issuer, &upstream, PUBLIC)
        .top("workers = 7\nlog_format = \"text\"\nlog = \"debug\"")
        .rest("[limits]\nconnections = 5");
    proxy.reload(&next).await;
    // The format is given by a flag, which wins before and after.
    for setting in ["workers", "log", "limits.connections"] {
        let event = line(&proxy, mark, "setting", setting).await;
        assert_eq!(event["level"], "WARN", "{setting}");
    }
    assert_eq!(proxy.send(&Request::get("/x")).await.text(), "hello");
}

#[tokio::test]
async fn every_other_setting_changes_too() {
    let issuer = Issuer::start();
    let first = Upstream::start(|_| Reply::ok("first"));
    let second = Upstream::start(|_| Reply::ok("second"));
    let token = issuer.user("auth0|alice").claim("org_id", "org_1").mint();
    let file = |upstream: &Upstream| {
        Setup::bare()
            .top(&format!("upstream = \"{}\"", upstream.url()))
            .auth0(&format!(
                "domain = \"{}\"\naudience = \"{}\"",
                issuer.domain(),
                crate::issuer::tokens::AUDIENCE
            ))
            .keys(&format!("ca_file = \"{}\"", issuer.ca_file().display()))
    };
    let proxy = file(&first).start().await;
    let request = Request::get("/x").bearer(&token);
    let mut kept = Client::connect(proxy.data).await;
    assert_eq!(kept.request(&request).await.text(), "first");
    assert_eq!(first.next().await.head.get("x-org"), None);
    let next = file(&second)
        .rest("[identity]\nsubject_header = \"x-sub\"\n[identity.headers]\n\"x-org\" = \"org_id\"")
        .rest("[limits]\nuri_bytes = \"1KiB\"\n[cors]\norigins = [\"https://app.example\"]");
    proxy.reload(&next).await;
    let answer = kept
        .request(&request.clone().header("Origin", "https://app.example"))
        .await;
    assert_eq!(answer.text(), "second");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let head = second.next().await.head;
    // The token was remembered with the headers of before.
    assert_eq!(
        (head.get("x-org"), head.get("x-sub")),
        (Some("org_1"), Some("auth0|alice"))
    );
    assert_eq!(head.get("x-forwarded-user"), None);
    let long = Request::get(&format!("/{}", "x".repeat(2000)));
    assert_own(&kept.request(&long).await, 414, "uri_too_long");

    proxy
        .reload(&file(&second).auth0("algorithms = [\"ES256\"]"))
        .await;
    assert_own(
        &kept.request(&request).await,
        401,
        "token_algorithm_not_allowed",
    );
}

#[tokio::test]
async fn another_issuer_takes_over_without_a_gap() {
    let old = Issuer::start();
    let new = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&old, &upstream).start().await;
    let (old_token, new_token) = (old.user("auth0|a").mint(), new.user("auth0|b").mint());
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&old_token))
            .await
            .status(),
        200
    );
    proxy.reload(&Setup::new(&new, &upstream)).await;
    // Its keys were there before the configuration was.
    assert_eq!(new.requests(), 1);
    assert_eq!(
        proxy
            .send(&Request::get("/x").bearer(&new_token))
            .await
            .status(),
        200
    );
    let answer = proxy.send(&Request::get("/x").bearer(&old_token)).await;
    assert_eq!(answer.status(), 401, "{}", answer.text());
    assert_eq!(proxy.admin("GET", "/readyz").await.status(), 200);
    // Keys that nobody fetches any more would look as if they grew old.
    let metrics = proxy.admin("GET", "/metrics").await.text();
    let fetched = "authgate_keys_fetched_timestamp_seconds{";
    assert!(
        metrics.contains(&format!("{fetched}issuer=\"{}\"}}", new.issuer())),
        "{metrics}"
    );
    assert!(!metrics.contains(&old.issuer()), "{metrics}");
}

#[tokio::test]
async fn a_request_that_waits_for_a_key_is_decided_by_the_rules_of_then() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = rule(&issuer, &upstream, "")
        .keys("cooldown = \"10ms\"\ntimeout = \"15s\"")
        .start()
        .await;
    issuer.behave(|behaviour| behaviour.held = true);
    issuer.rotate_to(SigningKey::rsa(1));
    let token = issuer.user("auth0|alice").mint();
    // A question within the cooldown of the first fetch is answered at once; then it is asked again.
    let asking = async {
        loop {
            let client = Request::get("/x").bearer(&token).open(proxy.data).await;
            for _ in 0..10 {
                if issuer.requests() == 2 {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let mut waiting = within("the fetch for an unknown key", asking).await;
    let denying = rule(&issuer, &upstream, DENY).keys("cooldown = \"10ms\"\ntimeout = \"15s\"");
    proxy.reload(&denying).await;
    issuer.behave(|behaviour| behaviour.held = false);
    assert_own(&waiting.response().await, 403, "rule_denied");
    assert_eq!(upstream.requests(), 0);
}

/// Fifty reloads under load: no request fails, and none is decided by rules that are no longer in
/// force when it is sent.
#[tokio::test]
async fn fifty_reloads_lose_nothing_and_leave_nothing_behind() {
    const RELOADS: usize = 50;
    const CLIENTS: usize = 6;
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Arc::new(rule(&issuer, &upstream, DENY).start().await);
    let token = issuer.user("auth0|alice").mint();
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (over, served) = (Arc::clone(&over), Arc::clone(&served));
        let (address, token) = (proxy.data, token.clone());
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            // Half of them on what never changes, half on what does.
            let path = if number % 2 == 0 { "/steady" } else { "/x" };
            let request = Request::get(path).bearer(&token);
            while !over.load(Ordering::Relaxed) {
                let status = client.request(&request).await.status();
                let fine = status == 200 || (path == "/x" && status == 403);
                assert!(fine, "{path} was answered with {status}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut findings = Findings::default();
    let mut kept = Client::connect(proxy.data).await;
    for number in 1..=RELOADS {
        let (toml, expected) = if number % 2 == 0 {
            (DENY, 403)
        } else {
            (PUBLIC, 200)
        };
        let before = served.load(Ordering::Relaxed);
        proxy.reload(&rule(&issuer, &upstream, toml)).await;
        for _ in 0..5 {
            let request = Request::get("/x").bearer(&token);
            let status = kept.request(&request).await.status();
            findings.check(&format!("reload {number}"), status == expected, || {
                format!("{status}, expected {expected}")
            });
        }
        within("requests between two reloads", async {
            while served.load(Ordering::Relaxed) < before + CLIENTS {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client without a failure");
    }
    findings.assert_none();
}

#[tokio::test]
async fn a_hangup_without_a_change_harms_nothing() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = rule(&issuer, &upstream, DENY).start().await;
    proxy.signal("HUP");
    proxy
        .event("a second generation", |event| {
            event["message"] == "configuration loaded" && event["generation"] == 2
        })
        .await;
    assert_eq!(proxy.admin("GET", "/livez").await.status(), 200);
}
