//! Streams as pages read them, and tokens where pages cannot set headers.

use serde_json::json;
use tokio::net::TcpStream;

use crate::browser::Browser;
use crate::issuer::port::Port;
use crate::issuer::{Issuer, secrets};
use crate::support::upstream::{Feed, websocket_accept};
use crate::support::wire::{Head, Wire, latin1};
use crate::support::{Reply, Setup, Upstream, within};
use crate::unmanaged::mastra;

/// An unending event stream of an upstream that welcomes every page.
fn events(head: &Head) -> Reply {
    if head.method() == "OPTIONS" {
        return mastra(head);
    }
    Reply::Stream(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nAccess-Control-Allow-Origin: *\r\n\
          Transfer-Encoding: chunked\r\n\r\n"
            .to_vec(),
    )
}

pub async fn events_are_read_one_by_one_and_can_be_left(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(events);
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    let listed = format!("[cors]\norigins = [\"{}\"]", page.origin);
    for cors in ["", &listed] {
        let proxy = Setup::new(&issuer, &upstream).rest(cors).start().await;
        page.begin(
            "const stop = new AbortController();
             const response = await fetch(input.url, {
               method: 'POST',
               headers: {authorization: `Bearer ${input.token}`, 'content-type': 'application/json'},
               body: '{}',
               signal: stop.signal,
             });
             const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
             for (let event = 0; event < 5; event++) await tell((await reader.read()).value);
             stop.abort();
             return reader.read().then(() => 'more', error => error.name)",
            &json!({ "url": format!("http://{}/api/stream", proxy.data), "token": token }),
        );
        let mut exchange = upstream.next().await;
        if exchange.head.method() == "OPTIONS" {
            exchange = upstream.next().await;
        }
        for event in 0..5 {
            let event = format!("data: {event}\n\n");
            exchange.send(&event);
            assert_eq!(page.told().await, event);
        }
        assert_eq!(page.returned().await, "AbortError");
        exchange.closed().await;
        proxy
            .event("the stream that was left", |event| {
                event["method"] == "POST" && event["outcome"] == "cancelled"
            })
            .await;
    }
}

pub async fn an_event_source_has_its_token_in_the_query(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = Upstream::start(events);
    let proxy = Setup::new(&issuer, &upstream)
        .rest("[token_sources]\nquery_parameter = \"access_token\"")
        .start()
        .await;
    let page = browser.open().await;
    let token = issuer.user("auth0|alice").mint();
    page.begin(
        "await new Promise(resolve => {
           const source = new EventSource(`${input.url}?run=7&access_token=${input.token}`);
           source.onmessage = event => tell(event.data).then(() => {
             if (event.data === 'second') resolve(source.close());
           });
         })",
        &json!({ "url": format!("http://{}/api/stream", proxy.data), "token": token }),
    );
    let first = upstream.next().await;
    first.send("retry: 1\nid: 41\ndata: first\n\n");
    assert_eq!(page.told().await, "first");
    first.feed(Feed::End);
    // It comes back by itself, with the token again and where it has stopped.
    let second = upstream.next().await;
    second.send("data: second\n\n");
    assert_eq!(page.told().await, "second");
    second.closed().await;
    assert_eq!(second.head.get("last-event-id"), Some("41"));
    for exchange in [first, second] {
        assert_eq!(exchange.head.target(), "/api/stream?run=7");
        assert_eq!(exchange.head.get("x-forwarded-user"), Some("auth0|alice"));
        assert_does_not_hold(&exchange.head, &token);
    }
}

fn assert_does_not_hold(head: &Head, token: &str) {
    let (_, signature) = token.rsplit_once('.').expect("a token");
    assert!(!latin1(&head.raw).contains(signature), "{head:?}");
}

/// What a backend that takes part in the conversation does once: it picks a subprotocol and sends the
/// first message back. Frames of a browser are masked, and those of a server are not.
async fn answer_websocket(stream: TcpStream) -> Head {
    let mut wire = Wire::new(stream);
    let head = wire.read_head().await.expect("a request").expect("a head");
    let accept = websocket_accept(head.get("sec-websocket-key").expect("a key"));
    let protocol = head.get("sec-websocket-protocol").map(|offered| {
        let first = offered.split(',').next().unwrap_or_default();
        format!("Sec-WebSocket-Protocol: {first}\r\n")
    });
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        protocol.unwrap_or_default()
    );
    wire.send(answer.as_bytes()).await.expect("room");
    let start = wire.read_exact(2).await.expect("a frame");
    let (first, length) = (start[0], start[1] & 0x7f);
    assert!(length < 126, "a short message");
    let mask = wire.read_exact(4).await.expect("a mask");
    let mut data = wire.read_exact(length.into()).await.expect("a message");
    for (byte, mask) in data.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    wire.send(&[&[first, length][..], &data].concat())
        .await
        .expect("room");
    // The page closes, which needs no answer but the end.
    wire.read_exact(2).await.expect("a closing frame");
    head
}

pub async fn a_websocket_offers_its_token(browser: &Browser) {
    let issuer = Issuer::start();
    let backend = Port::reserve();
    let listener = backend.listen();
    let page = browser.open().await;
    let proxy = Setup::new(&issuer, &Upstream::hello())
        .upstream(&format!("http://{}", backend.address()))
        .rest("[token_sources]\nwebsocket_protocol = true\nquery_parameter = \"access_token\"")
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    let talk = "return new Promise(resolve => {
        const socket = new WebSocket(input.url, input.protocols);
        socket.onopen = () => socket.send('hello');
        socket.onmessage = event => { resolve([socket.protocol, event.data]); socket.close(); };
        socket.onclose = event => resolve(event.code);
    })";
    let query = format!("access_token={token}");
    secrets::note(&query);
    for (query, protocols, offered) in [
        (
            String::new(),
            json!(["chat", format!("bearer.{token}")]),
            Some("chat"),
        ),
        (format!("?{query}"), json!(["chat"]), Some("chat")),
        (format!("?{query}"), json!([]), None),
    ] {
        let url = format!("ws://{}/api/socket{query}", proxy.data);
        page.begin(talk, &json!({ "url": url, "protocols": protocols }));
        let (stream, _) = within("the upgrade", listener.accept())
            .await
            .expect("a connection");
        let head = within("the end of the WebSocket", answer_websocket(stream)).await;
        assert_eq!(
            page.returned().await,
            json!([offered.unwrap_or(""), "hello"])
        );
        assert_eq!(head.target(), "/api/socket");
        assert_eq!(head.get("sec-websocket-protocol"), offered);
        assert_eq!(head.get("x-forwarded-user"), Some("auth0|alice"));
        assert_does_not_hold(&head, &token);
    }
    let url = format!("ws://{}/api/socket", proxy.data);
    let refused = json!({ "url": url, "protocols": ["chat", "bearer.a.b.c"] });
    assert_eq!(page.run(talk, &refused).await, 1006);
}
