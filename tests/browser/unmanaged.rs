//! Without `[cors]`: the upstream speaks for itself, and refusals are readable all the same.

use serde_json::json;

use crate::browser::{Ask, Browser};
use crate::issuer::Issuer;
use crate::support::upstream::response;
use crate::support::wire::Head;
use crate::support::{Proxy, Reply, Setup, Upstream};

/// Mastra's own CORS, as its server answers by default.
pub fn mastra(head: &Head) -> Reply {
    if head.method() == "OPTIONS" {
        return Reply::Bytes(
            b"HTTP/1.1 204 No Content\r\n\
              access-control-allow-origin: *\r\n\
              access-control-max-age: 3600\r\n\
              access-control-allow-methods: GET,POST,PUT,DELETE,OPTIONS\r\n\
              access-control-allow-headers: Content-Type,Authorization,x-mastra-client-type\r\n\
              vary: Access-Control-Request-Headers\r\n\r\n"
                .to_vec(),
        );
    }
    let fields = [
        ("Access-Control-Allow-Origin", "*"),
        (
            "Access-Control-Expose-Headers",
            "Content-Length,X-Requested-With",
        ),
        ("Content-Type", "application/json"),
    ];
    Reply::Bytes(response("200 OK", &fields, r#"{"text":"hello"}"#))
}

fn url(proxy: &Proxy, path: &str) -> String {
    format!("http://{}{path}", proxy.data)
}

pub async fn the_upstream_answers_preflights_and_a_good_token_passes(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(mastra);
    let proxy = Setup::new(&issuer, &upstream).start().await;
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();

    let agents = Ask::get(&url(&proxy, "/api/agents")).bearer(&token);
    let seen = page.ask(&agents).await;
    assert_eq!((seen.status(), seen.text()), (200, r#"{"text":"hello"}"#));
    let preflight = upstream.next().await.head;
    assert_eq!(preflight.method(), "OPTIONS");
    assert_eq!(preflight.get("origin"), Some(page.origin.as_str()));
    assert_eq!(
        preflight.get("access-control-request-headers"),
        Some("authorization")
    );
    assert_eq!(preflight.get("x-forwarded-user"), None);
    let request = upstream.next().await.head;
    assert_eq!(request.get("x-forwarded-user"), Some("auth0|alice"));
    assert_eq!(request.get("authorization"), None);

    // As Mastra's client asks.
    let message = json!({ "messages": ["hello"] });
    let generate = Ask::new("POST", &url(&proxy, "/api/agents/weather/generate"))
        .json(&message)
        .init("credentials", "omit")
        .bearer(&token);
    assert_eq!(page.ask(&generate).await.status(), 200);
    let preflight = upstream.next().await.head;
    assert_eq!(
        preflight.get("access-control-request-headers"),
        Some("authorization,content-type")
    );
    let request = upstream.next().await;
    assert_eq!(request.head.method(), "POST");
    assert_eq!(request.body().await, message.to_string().into_bytes());
}

pub async fn a_page_reads_why_it_was_refused(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(mastra);
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/api/tools/**\"\nrequire = { scopes = [\"run:tools\"] }")
        .start()
        .await;
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    let expired = issuer.user("auth0|alice").expires_in(-60).mint();

    // No preflight comes before this one.
    let seen = page.ask(&Ask::get(&url(&proxy, "/api/agents"))).await;
    seen.assert_own(401, "token_missing");
    let challenge = seen.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    assert_eq!(upstream.requests(), 0);

    let agents = Ask::get(&url(&proxy, "/api/agents"));
    let seen = page.ask(&agents.clone().bearer(&expired)).await;
    seen.assert_own(401, "token_expired");
    let challenge = seen.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");

    let tools = Ask::new("POST", &url(&proxy, "/api/tools/search")).json(&json!({}));
    let seen = page.ask(&tools.bearer(&token)).await;
    seen.assert_own(403, "scope_missing");
    let challenge = seen.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("scope=\"run:tools\""), "{challenge}");

    // Both preflights have passed, and no request has.
    assert_eq!(upstream.requests(), 2);
}

pub async fn an_upstream_without_cors_stays_closed_to_pages(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[[route]]\npath = \"/public\"\naccess = \"public\"")
        .start()
        .await;
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    let agents = Ask::get(&url(&proxy, "/api/agents"));
    page.ask(&agents.bearer(&token)).await.assert_rejected();
    page.ask(&Ask::get(&url(&proxy, "/public")))
        .await
        .assert_rejected();
    // A preflight, and the request that needs none.
    assert_eq!(upstream.next().await.head.method(), "OPTIONS");
    assert_eq!(upstream.next().await.head.target(), "/public");
    assert_eq!(upstream.requests(), 2);
}
