//! A client that sends exactly what a test says.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpStream;

use super::wire::{Fields, Framing, Head, Piece, Wire, within};
use crate::issuer::secrets;

/// A request to be written.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    host: Option<String>,
    fields: Fields,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        if let Some((_, query)) = target.split_once('?') {
            secrets::note(query);
        }
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: Some("agents.example.com".to_owned()),
            fields: Fields::new(),
            body: Vec::new(),
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// One more field, beside any of the same name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn host(mut self, host: Option<&str>) -> Self {
        self.host = host.map(str::to_owned);
        self
    }

    /// A body with its `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// The opening of a WebSocket.
    pub fn websocket(self) -> Self {
        self.header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    /// The request on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if let Some(host) = &self.host {
            bytes.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
        }
        for (name, value) in &self.fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it over a connection of its own and reads the whole answer.
    pub async fn send(&self, address: SocketAddr) -> Response {
        let mut client = Client::connect(address).await;
        client.request(self).await
    }

    /// Sends it over a connection of its own, to be read bit by bit.
    pub async fn open(&self, address: SocketAddr) -> Client {
        let mut client = Client::connect(address).await;
        client.write(self).await;
        client
    }
}

/// An answer that has been read to its end.
#[derive(Debug)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body {:?}", self.text()))
    }
}

/// A connection to the proxy.
pub struct Client {
    wire: Wire,
    framing: Framing,
    method: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address))
            .await
            .expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self::over(Wire::new(stream))
    }

    /// A client over something that is connected already.
    pub fn over(wire: Wire) -> Self {
        Self {
            wire,
            framing: Framing::Length(0),
            method: "GET".to_owned(),
        }
    }

    pub async fn write(&mut self, request: &Request) {
        request.method().clone_into(&mut self.method);
        self.send(&request.bytes()).await;
    }

    pub async fn request(&mut self, request: &Request) -> Response {
        self.write(request).await;
        self.response().await
    }

    /// Raw bytes. A peer that does not take them all may have answered already, which is read next.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _refused = within("room to send", self.wire.send(bytes)).await;
    }

    /// Raw bytes, and whether the peer has taken them all.
    pub async fn sends(&mut self, bytes: &[u8]) -> bool {
        within("room to send", self.wire.send(bytes)).await.is_ok()
    }

    /// The next head, interim or final.
    pub async fn head(&mut self) -> Head {
        let head = within("a response", self.wire.read_head()).await;
        let head = head
            .expect("a response")
            .expect("a response before the end");
        self.framing = head.response_framing(&self.method);
        head
    }

    /// The next head, or nothing if the connection ends, properly or not.
    pub async fn head_or_end(&mut self) -> Option<Head> {
        let head = within("a response or the end", self.wire.read_head())
            .await
            .ok()
            .flatten()?;
        self.framing = head.response_framing(&self.method);
        Some(head)
    }

    /// The next part of the body, as soon as it is there.
    pub async fn piece(&mut self) -> io::Result<Piece> {
        within(
            "a part of the body",
            self.wire.read_piece(&mut self.framing),
        )
        .await
    }

    /// The next part of the body, as text.
    pub async fn data(&mut self) -> String {
        match self.piece().await.expect("a part of the body") {
            Piece::Data(data) => String::from_utf8_lossy(&data).into_owned(),
            Piece::End(_) => panic!("the body has ended"),
        }
    }

    /// The rest of the body.
    pub async fn body(&mut self) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        loop {
            match self.piece().await? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End(trailers) => return Ok((body, trailers)),
            }
        }
    }

    /// The next final answer.
    pub async fn response(&mut self) -> Response {
        let mut head = self.head().await;
        while head.status() < 200 && head.status() != 101 {
            head = self.head().await;
        }
        let (body, _) = self.body().await.expect("a whole body");
        Response { head, body }
    }

    /// Bytes after an upgrade.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        within("bytes", self.wire.read_exact(length))
            .await
            .expect("bytes")
    }

    /// Ends our direction.
    pub async fn end(&mut self) {
        // A peer that has gone already needs no end.
        let _gone = within("our end", self.wire.finish()).await;
    }

    /// Sends some bytes, and says whether anything has come or the connection has ended.
    pub async fn drip(&mut self, bytes: &[u8]) -> Option<()> {
        if self.wire.send(bytes).await.is_err() {
            return Some(());
        }
        let moment = std::time::Duration::from_millis(1);
        tokio::time::timeout(moment, self.wire.fill())
            .await
            .ok()
            .map(|_| ())
    }

    /// Makes the end of the connection a reset.
    pub fn reset_at_the_end(&self) {
        self.wire.reset_at_the_end().expect("SO_LINGER");
    }

    /// Leaves by a reset.
    pub fn reset(self) {
        self.wire.reset_at_the_end().expect("SO_LINGER");
    }

    /// Waits until the proxy has ended the connection.
    pub async fn closed(&mut self) {
        within("the end of the connection", self.wire.wait_closed()).await;
    }
}
