//! With `[cors] origins`: authgate speaks for the upstream.

use serde_json::json;

use crate::browser::{Ask, Browser, Page};
use crate::issuer::Issuer;
use crate::support::upstream::response;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream};

/// An upstream with opinions of its own, which nobody may hear.
fn opinionated() -> Upstream {
    Upstream::start(|_| {
        let fields = [
            ("Access-Control-Allow-Origin", "https://elsewhere.example"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "X-Upstream"),
            ("X-Upstream", "1"),
            ("X-Hidden", "1"),
            ("Mcp-Session-Id", "session-1"),
            ("Retry-After", "7"),
        ];
        Reply::Bytes(response("200 OK", &fields, "hello"))
    })
}

fn welcoming(page: &Page) -> String {
    format!(
        "[cors]\norigins = [\"https://app.example.com\", \"{}\"]",
        page.origin
    )
}

fn url(proxy: &Proxy, path: &str) -> String {
    format!("http://{}{path}", proxy.data)
}

pub async fn preflights_are_answered_here(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&welcoming(&page))
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();

    let message = json!({ "messages": ["hello"] });
    let generate = Ask::new("POST", &url(&proxy, "/api/agents/weather/generate"))
        .json(&message)
        .init("credentials", "omit")
        .bearer(&token);
    assert_eq!(page.ask(&generate).await.status(), 200);
    let request = upstream.next().await;
    assert_eq!(request.head.method(), "POST");
    assert_eq!(request.head.get("x-forwarded-user"), Some("auth0|alice"));
    assert_eq!(request.body().await, message.to_string().into_bytes());

    // What clients of MCP and A2A send, and a header that nobody has heard of.
    let names = [
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "mcp-param-city",
        "last-event-id",
        "a2a-version",
        "traceparent",
        "x-mastra-client-type",
        "x-never-heard-of",
    ];
    let mut mcp = Ask::new("POST", &url(&proxy, "/mcp"))
        .json(&json!({}))
        .header("Accept", "application/json, text/event-stream")
        .bearer(&token);
    for name in names {
        mcp = mcp.header(name, "1");
    }
    assert_eq!(page.ask(&mcp).await.status(), 200);
    let request = upstream.next().await.head;
    for name in names {
        // This one is Mastra's and means something to it.
        let expected = (name != "x-mastra-client-type").then_some("1");
        if name != "traceparent" {
            assert_eq!(request.get(name), expected, "{name}");
        }
    }
    assert_eq!(upstream.requests(), 2);

    // A bound token is refused, but by us and not by the browser.
    let dpop = Ask::get(&url(&proxy, "/dpop")).dpop(&token, "a.b.c");
    page.ask(&dpop).await.assert_own(401, "token_missing");
    assert_eq!(upstream.requests(), 2);
}

pub async fn a_page_reads_what_is_exposed(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&welcoming(&page))
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();

    let agents = Ask::get(&url(&proxy, "/api/agents"));
    let seen = page.ask(&agents.clone().bearer(&token)).await;
    assert_eq!((seen.status(), seen.text()), (200, "hello"));
    assert_eq!(seen.header("mcp-session-id"), Some("session-1"));
    assert_eq!(seen.header("retry-after"), Some("7"));
    assert!(seen.header("x-request-id").is_some(), "{seen:?}");
    // What the upstream exposes is exposed beside what authgate does, and nothing else.
    assert_eq!(seen.header("x-upstream"), Some("1"));
    assert_eq!(seen.header("x-hidden"), None);

    let seen = page.ask(&agents).await;
    seen.assert_own(401, "token_missing");
    assert!(seen.header("www-authenticate").is_some(), "{seen:?}");

    // The same answer on the wire: two lines would have failed above, and one is there.
    let mut client = Client::connect(proxy.data).await;
    let request = Request::get("/api/agents").bearer(&token);
    let answer = client
        .request(&request.header("Origin", &page.origin))
        .await;
    assert_eq!(
        answer.head.all("access-control-allow-origin"),
        [page.origin.as_str()]
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

pub async fn every_method_passes(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&welcoming(&page))
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let target = format!("/api/threads/{method}");
        let ask = Ask::new(method, &url(&proxy, &target)).bearer(&token);
        assert_eq!(page.ask(&ask).await.status(), 200, "{method}");
        let request = upstream.next().await.head;
        assert_eq!(
            (request.method(), request.target()),
            (method, target.as_str())
        );
    }
}

pub async fn a_foreign_page_reads_nothing(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let (page, foreign) = (browser.open().await, browser.open().await);
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&welcoming(&page))
        .rest("[[route]]\npath = \"/public\"\naccess = \"public\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let agents = Ask::get(&url(&proxy, "/api/agents"));
    for ask in [
        // With a preflight, and without.
        agents.clone().bearer(&token),
        agents,
        Ask::get(&url(&proxy, "/public")),
    ] {
        foreign.ask(&ask).await.assert_rejected();
    }
    // Reading is what is refused; asking is `enforce_origin`'s.
    assert_eq!(upstream.next().await.head.target(), "/public");
    assert_eq!(upstream.requests(), 1);
    let seen = page.ask(&Ask::get(&url(&proxy, "/public"))).await;
    assert_eq!(seen.status(), 200);
}

pub async fn a_foreign_page_does_not_reach_a_closed_upstream(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let (page, foreign) = (browser.open().await, browser.open().await);
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&welcoming(&page))
        .rest("enforce_origin = true")
        .rest("[token_sources]\nquery_parameter = \"access_token\"")
        .rest("[[route]]\npath = \"/public\"\naccess = \"public\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let public = Ask::get(&url(&proxy, "/public"));
    let simple_post = Ask::new("POST", &url(&proxy, "/public")).init("body", "hello");
    for ask in [
        Ask::get(&url(&proxy, "/api/agents")).bearer(&token),
        Ask::get(&url(&proxy, &format!("/api/agents?access_token={token}"))),
        public.clone(),
        simple_post,
    ] {
        foreign.ask(&ask).await.assert_rejected();
    }
    let socket = foreign
        .run(
            "return new Promise(resolve => {
               const socket = new WebSocket(input);
               socket.onopen = () => resolve('open');
               socket.onclose = event => resolve(event.code);
             })",
            &json!(format!("ws://{}/public", proxy.data)),
        )
        .await;
    assert_eq!(socket, 1006);
    proxy
        .event("the refused WebSocket", |event| {
            event["message"] == "request" && event["code"] == "origin_denied"
        })
        .await;
    assert_eq!(upstream.requests(), 0);
    assert_eq!(page.ask(&public).await.status(), 200);
}

pub async fn every_origin_can_be_welcome(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = opinionated();
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[cors]\norigins = [\"*\"]")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let ask = Ask::new("PATCH", &url(&proxy, "/api/agents"))
        .json(&json!({}))
        .header("Mcp-Session-Id", "1");
    let seen = page.ask(&ask.clone().bearer(&token)).await;
    assert_eq!((seen.status(), seen.text()), (200, "hello"));
    let seen = page.ask(&ask).await;
    seen.assert_own(401, "token_missing");
    assert!(seen.header("www-authenticate").is_some(), "{seen:?}");
    assert_eq!(upstream.requests(), 1);
}
