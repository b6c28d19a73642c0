//! A backend that records what reaches it, byte for byte, and behaves as a test says.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::wire::{Fields, Framing, Head, Piece, Wire, chunk, within};
use crate::issuer::Issuer;
use crate::issuer::port::Port;

/// What the backend does with one request.
pub enum Reply {
    /// Reads the whole request, then writes these bytes.
    Bytes(Vec<u8>),
    /// Writes these bytes before it reads a body, and reads it then.
    Early(Vec<u8>),
    /// Reads the whole request, writes these bytes and ends the connection.
    Last(Vec<u8>),
    /// Ends the connection with the head only, the body unread.
    Close,
    /// Never answers.
    Hang,
    /// Never answers, and never reads more than the head.
    Deaf,
    /// Writes this head and then what [`Exchange::feed`] brings.
    Stream(Vec<u8>),
    /// Sends every part of the body back as it comes, and trailers as trailers.
    Echo,
    /// Accepts a WebSocket and sends every byte back.
    WebSocket,
    /// Accepts a WebSocket and never reads again, not even its end. [`Feed::Chunk`] is sent again and
    /// again until nobody is there to take it.
    DeafWebSocket,
    /// Reads the whole request and resets the connection.
    Reset,
}

impl Reply {
    /// 200 with a text.
    pub fn ok(text: &str) -> Self {
        Self::Bytes(response("200 OK", &[], text))
    }

    /// An event stream, unending until told otherwise.
    pub fn events() -> Self {
        Self::Stream(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
              Transfer-Encoding: chunked\r\n\r\n"
                .to_vec(),
        )
    }
}

/// A whole response with its length.
pub fn response(status: &str, fields: &[(&str, &str)], text: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", text.len());
    for (name, value) in fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    format!("{head}\r\n{text}").into_bytes()
}

/// What a test gives a reply that has begun.
#[derive(Debug)]
pub enum Feed {
    /// One chunk of the body.
    Chunk(Vec<u8>),
    /// The proper end of the body.
    End,
    /// The end of the connection, whatever is open.
    Cut,
    /// The same by a reset.
    Reset,
}

#[derive(Clone, Debug, Default)]
struct Body {
    bytes: Vec<u8>,
    trailers: Fields,
    /// How it ended, once it has.
    whole: Option<bool>,
}

/// A request that has reached the backend.
pub struct Exchange {
    pub head: Head,
    /// Which connection it came over, counted from 1.
    pub connection: usize,
    body: watch::Receiver<Body>,
    closed: watch::Receiver<bool>,
    gone: watch::Receiver<bool>,
    feed: mpsc::UnboundedSender<Feed>,
}

impl Exchange {
    /// The whole body.
    pub async fn body(&self) -> Vec<u8> {
        let body = self.ended_body().await;
        assert_eq!(body.whole, Some(true), "the body was cut short: {body:?}");
        body.bytes
    }

    /// The trailers after the body.
    pub async fn trailers(&self) -> Fields {
        self.ended_body().await.trailers
    }

    /// Whether the body came to its proper end.
    pub async fn body_is_whole(&self) -> bool {
        self.ended_body().await.whole == Some(true)
    }

    async fn ended_body(&self) -> Body {
        let mut body = self.body.clone();
        let ended = body.wait_for(|body| body.whole.is_some());
        within("the end of the request's body", ended)
            .await
            .expect("a running upstream")
            .clone()
    }

    /// Waits until so much of the body has come.
    pub async fn body_reaches(&self, length: usize) {
        let mut body = self.body.clone();
        let reached = body.wait_for(|body| body.bytes.len() >= length);
        within("the request's body", reached)
            .await
            .expect("a running upstream");
    }

    /// Waits until the proxy has ended the connection.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let ended = closed.wait_for(|closed| *closed);
        within("the proxy to hang up on the upstream", ended)
            .await
            .expect("a running upstream");
    }

    /// Ends the connection, and waits until its end is on the wire.
    pub async fn cut(&self) {
        self.feed(Feed::Cut);
        let mut gone = self.gone.clone();
        let ended = gone.wait_for(|gone| *gone);
        within("the end of the connection", ended)
            .await
            .expect("a running upstream");
    }

    /// Whether the proxy has ended the connection.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Goes on with a reply.
    pub fn feed(&self, feed: Feed) {
        // A connection that has ended takes nothing, which the test finds out where it matters.
        let _ended = self.feed.send(feed);
    }

    /// One chunk of a stream.
    pub fn send(&self, text: &str) {
        self.feed(Feed::Chunk(text.as_bytes().to_vec()));
    }
}

type Behaviour = dyn Fn(&Head) -> Reply + Send + Sync;

struct Shared {
    behaviour: Box<Behaviour>,
    exchanges: mpsc::UnboundedSender<Exchange>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

enum Place {
    Tcp(Port),
    Tls(Port, TlsAcceptor),
    Unix { path: PathBuf, _directory: TempDir },
}

/// A running backend. It ends with this value.
pub struct Upstream {
    place: Place,
    shared: Arc<Shared>,
    exchanges: Mutex<mpsc::UnboundedReceiver<Exchange>>,
    task: Option<JoinHandle<()>>,
}

impl Upstream {
    /// A backend on loopback TCP that decides by the head of each request.
    pub fn start(behaviour: impl Fn(&Head) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(Place::Tcp(Port::reserve()), behaviour)
    }

    /// The same over TLS, with the certificate authority of `issuer`.
    pub fn start_tls(
        issuer: &Issuer,
        behaviour: impl Fn(&Head) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::at(
            Place::Tls(Port::reserve(), issuer.tls_acceptor()),
            behaviour,
        )
    }

    /// The same on a Unix socket.
    pub fn start_unix(behaviour: impl Fn(&Head) -> Reply + Send + Sync + 'static) -> Self {
        let directory = TempDir::new().expect("a directory for the socket");
        let path = directory.path().join("upstream.sock");
        Self::at(
            Place::Unix {
                path,
                _directory: directory,
            },
            behaviour,
        )
    }

    /// A backend that answers everything with 200 and `hello`.
    pub fn hello() -> Self {
        Self::start(|_| Reply::ok("hello"))
    }

    fn at(place: Place, behaviour: impl Fn(&Head) -> Reply + Send + Sync + 'static) -> Self {
        let (sender, exchanges) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            behaviour: Box::new(behaviour),
            exchanges: sender,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let mut upstream = Self {
            place,
            shared,
            exchanges: Mutex::new(exchanges),
            task: None,
        };
        upstream.come_up();
        upstream
    }

    /// What stands in `upstream`.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Tcp(port) => format!("http://{}", port.address()),
            Place::Tls(port, _) => format!("https://localhost:{}", port.address().port()),
            Place::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    /// Where it listens, unless that is a path.
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(port) | Place::Tls(port, _) => port.address(),
            Place::Unix { path, .. } => panic!("{} is no address", path.display()),
        }
    }

    /// Listens, again if need be.
    pub fn come_up(&mut self) {
        let shared = Arc::clone(&self.shared);
        let task = match &self.place {
            Place::Tcp(port) => tokio::spawn(serve_tcp(shared, port.listen(), None)),
            Place::Tls(port, tls) => {
                tokio::spawn(serve_tcp(shared, port.listen(), Some(tls.clone())))
            }
            Place::Unix { path, .. } => tokio::spawn(serve_unix(shared, unix_listener(path))),
        };
        self.task = Some(task);
    }

    /// Refuses connections and ends those that are open.
    pub async fn go_down(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Its end is its being cancelled, and the listener is gone by then.
            let _cancelled = within("the upstream's end", task).await;
        }
    }

    /// The next request that reaches it.
    pub async fn next(&self) -> Exchange {
        let mut exchanges = self.exchanges.lock().await;
        within("a request at the upstream", exchanges.recv())
            .await
            .expect("a running upstream")
    }

    /// How many requests have reached it.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many connections have reached it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn unix_listener(path: &Path) -> UnixListener {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", path.display()),
    }
    UnixListener::bind(path).expect("a Unix socket")
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let shared = Arc::clone(&shared);
        match tls.clone() {
            None => connections.spawn(converse(shared, Wire::new(stream))),
            Some(tls) => connections.spawn(async move {
                // A proxy that distrusts the certificate ends the handshake.
                if let Ok(stream) = tls.accept(stream).await {
                    converse(shared, Wire::new(stream)).await;
                }
            }),
        };
    }
}

async fn serve_unix(shared: Arc<Shared>, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        connections.spawn(converse(Arc::clone(&shared), Wire::new(stream)));
    }
}

/// Whether the connection goes on, and if not, who ended it.
enum Next {
    Another,
    EndedByPeer,
    EndedByUs,
}

async fn converse(shared: Arc<Shared>, mut wire: Wire) {
    let gone = watch::Sender::new(false);
    answer_all(&shared, &mut wire, &gone).await;
    drop(wire);
    gone.send_replace(true);
}

async fn answer_all(shared: &Shared, wire: &mut Wire, gone: &watch::Sender<bool>) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    let closed = watch::Sender::new(false);
    let (feed, mut orders) = mpsc::unbounded_channel();
    loop {
        let head = tokio::select! {
            head = wire.read_head() => head,
            () = cut(&mut orders) => return,
        };
        let Ok(Some(head)) = head else {
            closed.send_replace(true);
            return;
        };
        let framing = head.request_framing();
        let body = watch::Sender::new(Body::default());
        let reply = (shared.behaviour)(&head);
        let key = head.get("sec-websocket-key").map(str::to_owned);
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let exchange = Exchange {
            head,
            connection,
            body: body.subscribe(),
            closed: closed.subscribe(),
            gone: gone.subscribe(),
            feed: feed.clone(),
        };
        // A test that wants no more exchanges still wants the answers.
        let _unwanted = shared.exchanges.send(exchange);
        let mut turn = Turn {
            wire,
            framing,
            body,
            orders: &mut orders,
            key,
        };
        match turn.perform(reply).await {
            Ok(Next::Another) => {}
            Ok(Next::EndedByUs) => return,
            Ok(Next::EndedByPeer) | Err(_) => {
                turn.body.send_modify(|body| {
                    body.whole.get_or_insert(false);
                });
                closed.send_replace(true);
                return;
            }
        }
    }
}

/// Waits for the test to end an idle connection.
async fn cut(fed: &mut mpsc::UnboundedReceiver<Feed>) {
    loop {
        match fed.recv().await {
            Some(Feed::Cut) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

struct Turn<'a> {
    wire: &'a mut Wire,
    framing: Framing,
    body: watch::Sender<Body>,
    orders: &'a mut mpsc::UnboundedReceiver<Feed>,
    key: Option<String>,
}

impl Turn<'_> {
    async fn perform(&mut self, reply: Reply) -> io::Result<Next> {
        match reply {
            Reply::Bytes(bytes) => {
                self.read_body().await?;
                self.wire.send(&bytes).await?;
                Ok(Next::Another)
            }
            Reply::Early(bytes) => {
                self.wire.send(&bytes).await?;
                self.read_body().await?;
                Ok(Next::Another)
            }
            Reply::Last(bytes) => {
                self.read_body().await?;
                self.wire.send(&bytes).await?;
                self.wire.finish().await?;
                Ok(Next::EndedByUs)
            }
            Reply::Close => Ok(Next::EndedByUs),
            Reply::Hang => {
                self.read_body().await?;
                self.wire.wait_closed().await;
                Ok(Next::EndedByPeer)
            }
            Reply::Deaf => std::future::pending().await,
            Reply::Stream(head) => {
                self.read_body().await?;
                self.wire.send(&head).await?;
                self.stream().await
            }
            Reply::Echo => self.echo().await,
            Reply::WebSocket => self.websocket().await,
            Reply::DeafWebSocket => self.deaf_websocket().await,
            Reply::Reset => {
                self.read_body().await?;
                self.wire.reset_at_the_end()?;
                Ok(Next::EndedByUs)
            }
        }
    }

    async fn read_body(&mut self) -> io::Result<()> {
        while self.read_piece().await?.is_some() {}
        Ok(())
    }

    /// Reads and records; nothing at the end.
    async fn read_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.wire.read_piece(&mut self.framing).await? {
            Piece::Data(data) => {
                self.body
                    .send_modify(|body| body.bytes.extend_from_slice(&data));
                Ok(Some(data))
            }
            Piece::End(trailers) => {
                self.body.send_modify(|body| {
                    body.trailers = trailers;
                    body.whole = Some(true);
                });
                Ok(None)
            }
        }
    }

    async fn stream(&mut self) -> io::Result<Next> {
        loop {
            let feed = tokio::select! {
                feed = self.orders.recv() => feed,
                () = self.wire.wait_closed() => return Ok(Next::EndedByPeer),
            };
            match feed {
                Some(Feed::Chunk(data)) => self.wire.send(&chunk(&data)).await?,
                Some(Feed::End) => {
                    self.wire.send(b"0\r\n\r\n").await?;
                    return Ok(Next::Another);
                }
                Some(Feed::Reset) => {
                    self.wire.reset_at_the_end()?;
                    return Ok(Next::EndedByUs);
                }
                Some(Feed::Cut) | None => return Ok(Next::EndedByUs),
            }
        }
    }

    async fn echo(&mut self) -> io::Result<Next> {
        self.wire
            .send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        while let Some(data) = self.read_piece().await? {
            self.wire.send(&chunk(&data)).await?;
        }
        let trailers = self.body.borrow().trailers.clone();
        let mut end = b"0\r\n".to_vec();
        for (name, value) in trailers {
            end.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        end.extend_from_slice(b"\r\n");
        self.wire.send(&end).await?;
        Ok(Next::Another)
    }

    async fn websocket(&mut self) -> io::Result<Next> {
        self.accept_websocket().await?;
        loop {
            tokio::select! {
                bytes = self.wire.read_some() => match bytes? {
                    bytes if bytes.is_empty() => return Ok(Next::EndedByPeer),
                    bytes => {
                        self.body.send_modify(|body| body.bytes.extend_from_slice(&bytes));
                        self.wire.send(&bytes).await?;
                    }
                },
                () = cut(self.orders) => return Ok(Next::EndedByUs),
            }
        }
    }

    async fn deaf_websocket(&mut self) -> io::Result<Next> {
        self.accept_websocket().await?;
        let Some(Feed::Chunk(data)) = self.orders.recv().await else {
            return Ok(Next::EndedByUs);
        };
        while self.wire.send(&data).await.is_ok() {}
        Ok(Next::EndedByPeer)
    }

    async fn accept_websocket(&mut self) -> io::Result<()> {
        let key = self
            .key
            .take()
            .ok_or_else(|| io::Error::other("no Sec-WebSocket-Key"))?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            websocket_accept(&key)
        );
        self.wire.send(answer.as_bytes()).await
    }
}

/// The proof that a WebSocket key was read (RFC 6455, section 4.2.2).
pub fn websocket_accept(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}
