//! What a page sees when there is no answer, or half of one.

use serde_json::json;

use crate::browser::{Ask, Browser};
use crate::issuer::Issuer;
use crate::support::upstream::Feed;
use crate::support::{Reply, Setup, Upstream};
use crate::unmanaged::mastra;

pub async fn a_page_reads_that_the_upstream_failed(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match (head.method(), head.target()) {
        ("GET", "/closes") => Reply::Close,
        ("POST", "/hangs") => Reply::Hang,
        _ => mastra(head),
    });
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    let listed = format!("[cors]\norigins = [\"{}\"]", page.origin);
    for cors in ["", &listed] {
        let proxy = Setup::new(&issuer, &upstream)
            .rest("[limits]\nbody_bytes = \"1KiB\"\n[timeouts]\nresponse_header = \"1s\"")
            .rest(cors)
            .start()
            .await;
        let url = |path: &str| format!("http://{}{path}", proxy.data);
        let closes = Ask::get(&url("/closes")).bearer(&token);
        page.ask(&closes).await.assert_own(502, "upstream_failed");
        let hangs = Ask::new("POST", &url("/hangs")).json(&json!({}));
        let seen = page.ask(&hangs.bearer(&token)).await;
        seen.assert_own(504, "upstream_timeout");
        // More than fits into any socket's buffer, so the refusal comes while the page still sends.
        let upload = Ask::new("POST", &url("/upload")).bearer(&token);
        let seen = page.upload(&upload, 16 * 1024 * 1024).await;
        seen.assert_own(413, "body_too_large");
    }
}

pub async fn a_page_reads_that_keys_are_missing(browser: &Browser) {
    let issuer = Issuer::start();
    issuer.go_down();
    let upstream = Upstream::start(mastra);
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    let listed = format!("[cors]\norigins = [\"{}\"]", page.origin);
    for cors in ["", &listed] {
        let proxy = Setup::new(&issuer, &upstream).rest(cors).launch().await;
        let ask = Ask::get(&format!("http://{}/api/agents", proxy.data));
        let seen = page.ask(&ask.bearer(&token)).await;
        seen.assert_own(503, "keys_unavailable");
        assert!(seen.header("retry-after").is_some(), "{seen:?}");
    }
}

pub async fn a_broken_answer_is_no_whole_one(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| Reply::events());
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&format!("[cors]\norigins = [\"{}\"]", page.origin))
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let input = json!({ "url": format!("http://{}/api/stream", proxy.data), "token": token });
    for (feed, expected) in [(Feed::End, "end"), (Feed::Cut, "TypeError")] {
        page.begin(
            "const headers = {authorization: `Bearer ${input.token}`};
             const reader = (await fetch(input.url, {headers})).body.getReader();
             await reader.read();
             await tell('read');
             return reader.read().then(({done}) => done ? 'end' : 'more', error => error.name)",
            &input,
        );
        let exchange = upstream.next().await;
        exchange.send("data: 1\n\n");
        assert_eq!(page.told().await, "read");
        exchange.feed(feed);
        assert_eq!(page.returned().await, expected);
    }
}
