//! Room for MCP messages: whoever holds it with messages that never end keeps nobody else out.

use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::issuer::Issuer;
use crate::support::upstream::response;
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream, within};

const RULES: &str = r#"
[mcp]
read_bodies = true

[[route]]
path = "/mcp"

[[route]]
path    = "/mcp"
mcp     = { tool = "*" }
require = { scopes = ["call"] }

[[route]]
path   = "/open"
access = "public"

[[route]]
path = "/open"
mcp  = { tool = "run_shell" }
access = "deny"
"#;

/// The largest message, which is `mcp.max_body` by default.
const LARGEST: usize = 1 << 20;

/// Between two looks at the log.
const TICK: Duration = Duration::from_millis(20);

struct Scene {
    issuer: Issuer,
    proxy: Proxy,
    alice: String,
    kept: Client,
    _upstream: Upstream,
}

impl Scene {
    async fn set(arguments: &[&str]) -> Self {
        let issuer = Issuer::start();
        let json = &[("Content-Type", "application/json")];
        let answer = response("200 OK", json, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
        let upstream = Upstream::start(move |_| Reply::Bytes(answer.clone()));
        let proxy = Setup::new(&issuer, &upstream)
            .rest(RULES)
            .arguments(arguments)
            .start()
            .await;
        Self {
            alice: issuer.user("auth0|alice").claim("scope", "call").mint(),
            kept: Client::connect(proxy.data).await,
            issuer,
            proxy,
            _upstream: upstream,
        }
    }

    /// A caller without the scope that calls need.
    fn mallory(&self, number: usize) -> String {
        let user = self.issuer.user(&format!("auth0|mallory-{number}"));
        user.claim("scope", "read").mint()
    }

    /// The beginning of a message of the largest size.
    fn declared(&self, token: &str) -> Request {
        Request::new("POST", "/mcp")
            .header("Content-Type", "application/json")
            .header("Content-Length", &LARGEST.to_string())
            .bearer(token)
    }

    /// Somebody else is served, over a kept connection and a new one.
    async fn others_are_served(&mut self) {
        let request = message(64).bearer(&self.alice);
        assert_eq!(self.kept.request(&request).await.status(), 200);
        assert_eq!(self.proxy.send(&request).await.status(), 200);
    }
}

/// A whole call with an argument of this length.
fn message(length: usize) -> Request {
    let text = "x".repeat(length);
    let call = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "echo", "arguments": { "text": text } },
    });
    Request::post("/mcp", call.to_string()).header("Content-Type", "application/json")
}

#[tokio::test]
async fn messages_that_lack_their_last_byte_keep_nobody_out() {
    let mut scene = Scene::set(&["--workers", "1"]).await;
    let token = scene.mallory(0);
    let almost = vec![b' '; LARGEST - 1];
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let mut client = scene.declared(&token).open(scene.proxy.data).await;
        // One that is refused may not take it all.
        client.sends(&almost).await;
        stalled.push(client);
        scene.others_are_served().await;
    }
    let large = message(LARGEST - 1024).bearer(&scene.alice);
    for _ in 0..10 {
        scene.others_are_served().await;
        assert_eq!(scene.proxy.send(&large).await.status(), 200);
    }
    // A caller without a token has a share, too.
    let open = Request::post("/open", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\"}");
    let open = open.header("Content-Type", "application/json");
    assert_eq!(scene.proxy.send(&open).await.status(), 200);
}

#[tokio::test]
async fn messages_that_are_only_announced_keep_nobody_out() {
    let mut scene = Scene::set(&[]).await;
    let token = scene.mallory(0);
    let mut announced = Vec::new();
    for _ in 0..70 {
        announced.push(scene.declared(&token).open(scene.proxy.data).await);
        scene.others_are_served().await;
    }
}

#[tokio::test]
async fn one_connection_with_many_streams_keeps_nobody_out() {
    let mut scene = Scene::set(&["--workers", "1"]).await;
    let stream = TcpStream::connect(scene.proxy.data)
        .await
        .expect("a connection");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        // It ends with the test.
        let _ended = connection.await;
    });
    let token = scene.mallory(0);
    let mut streams: Vec<SendStream<Bytes>> = Vec::new();
    for _ in 0..70 {
        let request = http::Request::post("http://agents.example.com/mcp")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
        let mut ready = within("a stream", sender.ready()).await.expect("open");
        let (_, mut stream) = ready.send_request(request, false).expect("a stream");
        // One that was refused takes nothing.
        let _refused = stream.send_data(vec![b' '; LARGEST - 1].into(), false);
        streams.push(stream);
        sender = ready;
    }
    within("as much of them as there is room for", async {
        while refused(&scene.proxy) == 0 {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    for _ in 0..20 {
        scene.others_are_served().await;
    }
}

/// However many callers and worker threads there are, the process holds no more than its room.
#[tokio::test]
async fn all_messages_together_are_bounded() {
    const MESSAGES: usize = 240;
    let scene = Scene::set(&["--workers", "4"]).await;
    let before = scene.proxy.resident_kib();
    let almost = vec![b' '; LARGEST - 1];
    let mut stalled = Vec::new();
    for number in 0..MESSAGES {
        let token = scene.mallory(number);
        let mut client = scene.declared(&token).open(scene.proxy.data).await;
        client.sends(&almost).await;
        stalled.push(client);
    }
    within("those that find no room", async {
        while refused(&scene.proxy) < MESSAGES - 64 {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
    let grown = scene.proxy.resident_kib() - before;
    // The messages, and what each connection reads into.
    assert!(grown < 220 * 1024, "{grown} KiB more");
}

fn refused(proxy: &Proxy) -> usize {
    let is_refused = |event: &&Value| [408, 503].map(Value::from).contains(&event["status"]);
    proxy.events().iter().filter(is_refused).count()
}

#[tokio::test]
async fn a_message_has_some_seconds() {
    let scene = Scene::set(&[]).await;
    let token = scene.mallory(0);
    let stalled = async {
        let mut client = scene.declared(&token).open(scene.proxy.data).await;
        client.send(b"{").await;
        client.response().await
    };
    let trickled = async {
        let mut client = scene.declared(&token).open(scene.proxy.data).await;
        within("an answer", async {
            while client.drip(b" ").await.is_none() {
                tokio::time::sleep(TICK).await;
            }
        })
        .await;
        client.response().await
    };
    let (stalled, trickled) = tokio::join!(stalled, trickled);
    for answer in [stalled, trickled] {
        assert_eq!(answer.status(), 408);
        assert!(
            answer.text().contains("request_timeout"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("connection"), Some("close"));
    }
}
