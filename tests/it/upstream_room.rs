//! Room for connections to the backend: what one client can make the process hold of them, and who is served
//! all the same.

use std::time::Duration;

use serde_json::Value;

use crate::issuer::Issuer;
use crate::support::frames::Frames;
use crate::support::upstream::Feed;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, assert_own, within};

/// Everybody may ask for what is never answered, which holds a connection to the backend.
const OPEN: &str = "[[route]]\npath = \"/slow\"\naccess = \"public\"";

/// How many files the process may have open, and how many connections to the backend that leaves: half of what
/// is left beside 128.
const FEW_FILES: usize = 200;
const FEW: usize = 36;

/// Between two looks at how far a flood has come.
const TICK: Duration = Duration::from_millis(20);

/// A backend that never answers `/slow`, opens WebSockets at `/ws`, and answers everything else.
fn backend() -> Upstream {
    Upstream::start(|head| match head.target() {
        "/slow" => Reply::Hang,
        "/ws" => Reply::WebSocket,
        _ => Reply::ok("hello"),
    })
}

fn refused(proxy: &Proxy) -> usize {
    let is_refused = |event: &&Value| event["message"] == "request" && event["status"] == 503;
    proxy.events().iter().filter(is_refused).count()
}

/// Waits until each of so many requests has reached the backend or was refused.
async fn settled(proxy: &Proxy, upstream: &Upstream, before: usize, sent: usize) {
    within("each request's fate", async {
        while upstream.requests() - before + refused(proxy) < sent {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

async fn livez(proxy: &Proxy) {
    assert_eq!(proxy.admin("GET", "/livez").await.status(), 200);
}

#[tokio::test]
async fn streams_that_wait_take_no_connection_from_others() {
    const CONNECTIONS: usize = 11;
    const STREAMS: usize = 95;
    for has_token in [false, true] {
        let issuer = Issuer::start();
        let upstream = backend();
        let proxy = Setup::new(&issuer, &upstream)
            .rest(OPEN)
            .open_files(1024)
            .start()
            .await;
        let known = issuer.user("auth0|known").mint();
        let ask = || Request::get("/x").bearer(&known);
        let mut kept = Client::connect(proxy.data).await;
        assert_eq!(kept.request(&ask()).await.status(), 200);
        let before = upstream.requests();
        let mallory = issuer.user("auth0|mallory").mint();
        let bearer = format!("Bearer {mallory}");
        let token = [("authorization", bearer.as_str())];
        let fields = if has_token { &token[..] } else { &[] };
        let mut flood = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Frames::connect(proxy.data).await;
            for stream in (1_u32..).step_by(2).take(STREAMS) {
                connection.request(stream, "/slow", fields).await;
            }
            flood.push(connection);
            assert_eq!(kept.request(&ask()).await.status(), 200);
            livez(&proxy).await;
        }
        let own = CONNECTIONS;
        settled(&proxy, &upstream, before, CONNECTIONS * STREAMS + own).await;
        assert!(refused(&proxy) > 0, "all of it has found room");
        for _ in 0..20 {
            assert_eq!(proxy.send(&ask()).await.status(), 200, "a new connection");
            assert_eq!(kept.request(&ask()).await.status(), 200);
            livez(&proxy).await;
        }
        if has_token {
            let more = proxy.send(&Request::get("/slow").bearer(&mallory)).await;
            assert_own(&more, 503, "overloaded");
            assert_eq!(more.header("retry-after"), Some("1"));
        }
        drop(flood);
        within("room", async {
            while proxy
                .send(&Request::get("/x").bearer(&mallory))
                .await
                .status()
                != 200
            {
                tokio::time::sleep(TICK).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn tunnels_count_as_connections_to_the_backend() {
    let issuer = Issuer::start();
    let upstream = backend();
    let proxy = Setup::new(&issuer, &upstream)
        .open_files(FEW_FILES)
        .start()
        .await;
    let open = async |token: &str| {
        let request = Request::get("/ws").websocket().bearer(token);
        let mut client = request.open(proxy.data).await;
        let status = client.head().await.status();
        (client, status)
    };
    let mallory = issuer.user("auth0|mallory").mint();
    let mut tunnels = Vec::new();
    loop {
        let (client, status) = open(&mallory).await;
        if status != 101 {
            assert_eq!(status, 503);
            break;
        }
        tunnels.push(client);
    }
    assert_eq!(tunnels.len(), FEW * 3 / 4 + 1);
    // Another of her tokens is hers, too.
    let other = issuer.user("auth0|mallory").claim("n", 1).mint();
    assert_eq!(open(&other).await.1, 503);
    let alice = issuer.user("auth0|alice").mint();
    let (_tunnel, status) = open(&alice).await;
    assert_eq!(status, 101);
    drop(tunnels);
    within("room", async {
        while open(&mallory).await.1 != 101 {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

/// Connections that lie idle are closed before anybody is refused.
#[tokio::test]
async fn idle_connections_make_room() {
    const BURST: usize = 30;
    let issuer = Issuer::start();
    let upstream = Upstream::start(|head| match head.target() {
        "/ws" => Reply::WebSocket,
        _ => Reply::events(),
    });
    let proxy = Setup::new(&issuer, &upstream)
        .open_files(FEW_FILES)
        .arguments(&["--workers", "2"])
        .start()
        .await;
    let user = |number: usize| issuer.user(&format!("auth0|{number}")).mint();
    let mut clients = Vec::new();
    for number in 0..BURST {
        let request = Request::get("/x").bearer(&user(number));
        clients.push(request.open(proxy.data).await);
    }
    for _ in 0..BURST {
        upstream.next().await.feed(Feed::End);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    drop(clients);
    let mut tunnels = Vec::new();
    for number in 0..BURST {
        let request = Request::get("/ws").websocket().bearer(&user(number));
        let mut client = request.open(proxy.data).await;
        assert_eq!(client.head().await.status(), 101, "{number}");
        tunnels.push(client);
    }
    assert_eq!(refused(&proxy), 0);
}
