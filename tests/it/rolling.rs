//! Restarts behind a balancer that learns of a drain late, under load: nothing is lost.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::issuer::Issuer;
use crate::support::upstream::Feed;
use crate::support::wire::{Piece, Wire};
use crate::support::{Client, Head, Proxy, Reply, Request, Setup, Upstream, within};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// How often the balancer asks, and how often a test looks for a change that nothing announces.
const TICK: Duration = Duration::from_millis(20);

/// How long bytes are under way between a client and authgate. On a path without length, a request
/// and the end of its connection hardly ever meet.
const ONE_WAY: Duration = Duration::from_millis(10);

/// What the balancer has seen go wrong, and what shows that it was put to the test.
#[derive(Debug, Default)]
struct Seen {
    refused: AtomicUsize,
    resets: AtomicUsize,
    /// HTTP/1.1 bytes for a process that had ended the connection already. HTTP/2 has its goodbyes.
    races: AtomicUsize,
    /// Clients for whom there was no process.
    nowhere: AtomicUsize,
    connections: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn read(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// A balancer of TCP connections.
struct Balancer {
    address: SocketAddr,
    members: Mutex<Vec<Arc<Member>>>,
    turn: AtomicUsize,
    lag: Duration,
    seen: Seen,
}

struct Member {
    data: SocketAddr,
    admin: SocketAddr,
    /// What the balancer believes, which was so `lag` ago.
    ready: watch::Sender<bool>,
    gone: AtomicBool,
}

impl Balancer {
    async fn start(lag: Duration) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let balancer = Arc::new(Self {
            address: listener.local_addr().expect("an address"),
            members: Mutex::default(),
            turn: AtomicUsize::new(0),
            lag,
            seen: Seen::default(),
        });
        let serving = Arc::clone(&balancer);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a client");
                tokio::spawn(Arc::clone(&serving).relay(client));
            }
        });
        balancer
    }

    /// Takes a process in, and waits until it is believed to be ready.
    async fn add(self: &Arc<Self>, proxy: &Proxy) -> Arc<Member> {
        let member = Arc::new(Member {
            data: proxy.data,
            admin: proxy.admin,
            ready: watch::Sender::new(false),
            gone: AtomicBool::new(false),
        });
        self.members
            .lock()
            .expect("members")
            .push(Arc::clone(&member));
        tokio::spawn(poll(Arc::clone(&member), self.lag));
        let mut ready = member.ready.subscribe();
        let believed = ready.wait_for(|ready| *ready);
        _ = within("the balancer's belief", believed).await;
        member
    }

    fn remove(&self, member: &Arc<Member>) {
        member.gone.store(true, Ordering::SeqCst);
        let mut members = self.members.lock().expect("members");
        members.retain(|other| !Arc::ptr_eq(other, member));
    }

    fn choose(&self) -> Option<SocketAddr> {
        let members = self.members.lock().expect("members");
        let ready: Vec<_> = members
            .iter()
            .filter(|member| *member.ready.borrow())
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        ready
            .get(turn.checked_rem(ready.len())?)
            .map(|member| member.data)
    }

    async fn relay(self: Arc<Self>, client: TcpStream) {
        count(&self.seen.connections);
        let Some(address) = self.choose() else {
            return count(&self.seen.nowhere);
        };
        let Ok(server) = TcpStream::connect(address).await else {
            return count(&self.seen.refused);
        };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("TCP_NODELAY");
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let ended = AtomicBool::new(false);
        tokio::join!(
            self.relay_requests(from_client, to_server, &ended),
            self.relay_answers(from_server, to_client, &ended),
        );
    }

    async fn relay_requests(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        ended: &AtomicBool,
    ) {
        let mut space = vec![0; 16 * 1024];
        let mut http1 = None;
        // A client's own resets are its affair.
        while let Ok(length @ 1..) = from.read(&mut space).await {
            tokio::time::sleep(ONE_WAY).await;
            let http1 = *http1.get_or_insert_with(|| !space.starts_with(b"PRI * HTTP/2"));
            if http1 && ended.load(Ordering::SeqCst) {
                count(&self.seen.races);
            }
            if to.write_all(&space[..length]).await.is_err() {
                return count(&self.seen.resets);
            }
        }
        // Both may end it at the same time.
        _ = to.shutdown().await;
    }

    async fn relay_answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        ended: &AtomicBool,
    ) {
        let mut space = vec![0; 16 * 1024];
        loop {
            let length = match from.read(&mut space).await {
                Ok(0) => break,
                Ok(length) => length,
                Err(_) => {
                    count(&self.seen.resets);
                    break;
                }
            };
            tokio::time::sleep(ONE_WAY).await;
            if to.write_all(&space[..length]).await.is_err() {
                return;
            }
        }
        ended.store(true, Ordering::SeqCst);
        tokio::time::sleep(ONE_WAY).await;
        _ = to.shutdown().await;
    }
}

/// Asks a process again and again, and believes each answer when it is `lag` old.
async fn poll(member: Arc<Member>, lag: Duration) {
    while !member.gone.load(Ordering::SeqCst) {
        let ready = ask(member.admin).await.unwrap_or(false);
        let member = Arc::clone(&member);
        tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            member
                .ready
                .send_if_modified(|believed| std::mem::replace(believed, ready) != ready);
        });
        tokio::time::sleep(TICK).await;
    }
}

async fn ask(admin: SocketAddr) -> io::Result<bool> {
    let mut wire = Wire::new(TcpStream::connect(admin).await?);
    wire.send(&Request::get("/readyz").bytes()).await?;
    Ok(wire
        .read_head()
        .await?
        .is_some_and(|head| head.status() == 200))
}

/// What the clients have to tell.
#[derive(Default)]
struct Report {
    done: Mutex<BTreeMap<&'static str, usize>>,
    lost: Mutex<Vec<String>>,
    /// Answers that told their client to go elsewhere.
    told: AtomicUsize,
    stop: AtomicBool,
}

impl Report {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn note(&self, kind: &'static str, result: io::Result<()>) {
        match result {
            Ok(()) => *self.done.lock().expect("a count").entry(kind).or_default() += 1,
            Err(error) => self
                .lost
                .lock()
                .expect("a list")
                .push(format!("{kind}: {error}")),
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<Wire> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Wire::new(stream))
}

async fn head(wire: &mut Wire, expected: u16) -> io::Result<Head> {
    let head = wire.read_head().await?;
    let head = head.ok_or_else(|| io::Error::other("no answer"))?;
    if head.status() == expected {
        Ok(head)
    } else {
        Err(io::Error::other(head.first_line))
    }
}

async fn body(wire: &mut Wire, head: &Head) -> io::Result<Vec<u8>> {
    let mut framing = head.response_framing("GET");
    let mut body = Vec::new();
    while let Piece::Data(data) = wire.read_piece(&mut framing).await? {
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// One request. Returns whether the connection may be used again.
async fn exchange(
    wire: &mut Wire,
    request: &Request,
    expected: &[u8],
    report: &Report,
) -> io::Result<bool> {
    wire.send(&request.bytes()).await?;
    let head = head(wire, 200).await?;
    if body(wire, &head).await? != expected {
        return Err(io::Error::other("another body"));
    }
    let again = head.get("connection") != Some("close");
    if !again {
        count(&report.told);
    }
    Ok(again)
}

/// Whether the connection has ended since its last answer, which a client looks at before it uses
/// one again.
async fn has_ended(wire: &mut Wire) -> bool {
    tokio::time::timeout(Duration::ZERO, wire.fill())
        .await
        .is_ok()
}

/// A client that keeps its connection for as long as it is let, with these pauses between its
/// requests in turn.
async fn kept(
    kind: &'static str,
    address: SocketAddr,
    request: Request,
    expected: &[u8],
    pauses: &[Duration],
    report: &Report,
) {
    let mut open: Option<Wire> = None;
    for pause in pauses.iter().cycle() {
        if report.is_over() {
            return;
        }
        let result = async {
            if let Some(wire) = &mut open
                && has_ended(wire).await
            {
                open = None;
            }
            let mut wire = match open.take() {
                Some(wire) => wire,
                None => connect(address).await?,
            };
            if exchange(&mut wire, &request, expected, report).await? {
                open = Some(wire);
            }
            Ok(())
        };
        let result = result.await;
        report.note(kind, result);
        tokio::time::sleep(*pause).await;
    }
}

async fn newcomers(address: SocketAddr, report: &Report) {
    while !report.is_over() {
        let result = async {
            let mut wire = connect(address).await?;
            exchange(&mut wire, &Request::get("/new"), b"hello", report).await?;
            Ok(())
        };
        report.note("newcomer", result.await);
    }
}

/// How many events a stream has, and how far they are apart.
const EVENTS: usize = 10;
const EVENT_PAUSE: Duration = Duration::from_millis(100);

async fn streams(address: SocketAddr, report: &Report) {
    while !report.is_over() {
        let result = async {
            let mut wire = connect(address).await?;
            wire.send(&Request::get("/stream").bytes()).await?;
            let head = head(&mut wire, 200).await?;
            let body = body(&mut wire, &head).await?;
            if body != b"data: 1\n\n".repeat(EVENTS) {
                return Err(io::Error::other("not the whole stream"));
            }
            Ok(())
        };
        report.note("stream", result.await);
    }
}

async fn websockets(address: SocketAddr, report: &Report) {
    while !report.is_over() {
        let result = async {
            let mut wire = connect(address).await?;
            wire.send(&Request::get("/ws").websocket().bytes()).await?;
            head(&mut wire, 101).await?;
            for _ in 0..EVENTS {
                wire.send(b"an echo").await?;
                if wire.read_exact(7).await? != b"an echo" {
                    return Err(io::Error::other("another echo"));
                }
                tokio::time::sleep(EVENT_PAUSE).await;
            }
            wire.finish().await?;
            match wire.read_some().await?.as_slice() {
                b"" => Ok(()),
                more => Err(io::Error::other(format!("more: {more:?}"))),
            }
        };
        report.note("websocket", result.await);
    }
}

/// Whether GOAWAY says of a request that it was not looked at (RFC 9113, section 6.8): this client
/// library still opens streams between the announcement of the end and the end.
fn was_left_out(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// One connection until it is told to go away. A request that was never sent, or of which GOAWAY says
/// that it was not looked at, is no loss and is sent again.
async fn http2(address: SocketAddr, pause: Duration, report: &Report) {
    let mut open: Option<SendRequest<Full<Bytes>>> = None;
    while !report.is_over() {
        let result = async {
            let kept = match open.take() {
                Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
                None => None,
            };
            let mut sender = match kept {
                Some(sender) => sender,
                None => {
                    let stream = TcpStream::connect(address).await?;
                    let handshake = handshake(TokioExecutor::new(), TokioIo::new(stream));
                    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
                    tokio::spawn(async move { _ = connection.await });
                    sender
                }
            };
            let request = http::Request::get("http://agents.example.com/h2");
            let request = request.body(Full::default()).expect("a request");
            let answer = match sender.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut error) => {
                    if error.take_message().is_some() || was_left_out(error.error()) {
                        return Ok(false);
                    }
                    return Err(io::Error::other(format!("{:?}", error.error())));
                }
            };
            let status = answer.status();
            let body = answer
                .into_body()
                .collect()
                .await
                .map_err(io::Error::other)?;
            if status != 200 || body.to_bytes() != "hello" {
                return Err(io::Error::other(format!("{status}")));
            }
            open = Some(sender);
            Ok(true)
        };
        match result.await {
            Ok(false) => {}
            Ok(true) => report.note("http2", Ok(())),
            Err(error) => report.note("http2", Err(error)),
        }
        tokio::time::sleep(pause).await;
    }
}

fn upstream() -> Arc<Upstream> {
    Arc::new(Upstream::start(|head| match head.target() {
        "/stream" => Reply::events(),
        "/ws" => Reply::WebSocket,
        "/post" => Reply::Echo,
        _ => Reply::ok("hello"),
    }))
}

/// Feeds every stream that comes, to its end.
fn feed_streams(upstream: Arc<Upstream>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let exchange = upstream.next().await;
            if exchange.head.target() == "/stream" {
                tokio::spawn(async move {
                    for _ in 0..EVENTS {
                        exchange.send("data: 1\n\n");
                        tokio::time::sleep(EVENT_PAUSE).await;
                    }
                    exchange.feed(Feed::End);
                });
            }
        }
    })
}

/// Clients of every kind, several of each, until the report is over.
fn load(clients: &mut JoinSet<()>, address: SocketAddr, linger: Duration, report: &Arc<Report>) {
    for number in 0..4_u32 {
        let report = |_: &str| Arc::clone(report);
        let (get, post, new) = (report("get"), report("post"), report("new"));
        clients.spawn(async move {
            let pauses = [Duration::ZERO, TICK, TICK * number];
            kept("get", address, Request::get("/x"), b"hello", &pauses, &get).await;
        });
        clients.spawn(async move {
            let request = Request::post("/post", "a body");
            let pauses = [Duration::ZERO, TICK * number];
            kept("post", address, request, b"a body", &pauses, &post).await;
        });
        clients.spawn(async move { newcomers(address, &new).await });
        let (stream, websocket, http2_busy) = (report("sse"), report("ws"), report("h2"));
        clients.spawn(async move { streams(address, &stream).await });
        clients.spawn(async move { websockets(address, &websocket).await });
        clients.spawn(async move { http2(address, TICK * number, &http2_busy).await });
        let http2_idle = report("h2");
        let pause = linger * (number + 1) / 4;
        clients.spawn(async move { http2(address, pause, &http2_idle).await });
    }
    // Their pauses are of the linger's length and up to twice that: they are idle through a whole
    // linger, and ask when the listener has closed, all along the time that is left to them.
    for number in 0..150_u32 {
        let report = Arc::clone(report);
        clients.spawn(async move {
            let pauses = [
                linger * (60 + number / 5) / 60,
                linger * (80 + number / 5) / 60,
                linger / 3,
            ];
            kept(
                "idle",
                address,
                Request::get("/x"),
                b"hello",
                &pauses,
                &report,
            )
            .await;
        });
    }
}

/// Replaces each of three processes `restarts` times, side by side, each new one before its old one, and
/// shows that nothing is lost.
async fn restart(restarts: usize, lag: Duration, linger: Duration, settings: &str) {
    let issuer = Arc::new(Issuer::start());
    let upstream = upstream();
    let feeder = feed_streams(Arc::clone(&upstream));
    let balancer = Balancer::start(lag).await;
    let report = Arc::new(Report::default());
    let start = async || {
        Setup::new(&issuer, &upstream)
            .rest(OPEN)
            .rest(settings)
            .start()
            .await
    };
    let join = async || {
        let proxy = start().await;
        let member = balancer.add(&proxy).await;
        (proxy, member)
    };
    let running = [join().await, join().await, join().await];
    let mut clients = JoinSet::new();
    load(&mut clients, balancer.address, linger, &report);

    let ends = Mutex::new(JoinSet::new());
    let roll = async |mut running: (Proxy, Arc<Member>)| {
        for _ in 0..restarts {
            let (mut old, former) = std::mem::replace(&mut running, join().await);
            old.signal("TERM");
            let balancer = Arc::clone(&balancer);
            ends.lock().expect("ends").spawn(async move {
                let status = old.exit().await;
                balancer.remove(&former);
                status.code()
            });
        }
        running
    };
    let [first, second, third] = running;
    let _running = tokio::join!(roll(first), roll(second), roll(third));
    let ends = ends.into_inner().expect("ends");
    let codes = within("the last process", ends.join_all()).await;
    report.stop.store(true, Ordering::SeqCst);
    within("the clients", clients.join_all()).await;
    feeder.abort();

    let done = report.done.lock().expect("a count");
    let lost = report.lost.lock().expect("a list");
    let seen = &balancer.seen;
    let told = read(&report.told);
    println!(
        "{} restarts, {done:?}, {told} told to go elsewhere, {seen:?}",
        codes.len()
    );
    assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
    assert_eq!(codes, vec![Some(0); restarts * 3]);
    for (what, number) in [
        ("refused", &seen.refused),
        ("resets", &seen.resets),
        ("races", &seen.races),
        ("nowhere", &seen.nowhere),
    ] {
        assert_eq!(read(number), 0, "{what}: {seen:?}");
    }
    for kind in [
        "get",
        "post",
        "newcomer",
        "stream",
        "websocket",
        "http2",
        "idle",
    ] {
        let number = done.get(kind).copied().unwrap_or_default();
        assert!(number > 10, "{number} of {kind}");
    }
    assert!(done.values().sum::<usize>() > 50 * codes.len(), "{done:?}");
    // It was late, and clients did come to processes that were leaving.
    assert!(told > codes.len(), "{told}");
}

/// A balancer learns of a drain after 2 s, and the linger is 5 s unless set otherwise. What counts
/// is that it learns in time, by a wide margin: both are shorter here, in the same proportion.
#[tokio::test]
async fn restarts_lose_nothing() {
    let (lag, linger) = (Duration::from_millis(800), Duration::from_secs(2));
    restart(17, lag, linger, "[timeouts]\nlinger = \"2s\"").await;
}

/// The same with the default settings, and a balancer that is as late as they are made for.
#[tokio::test]
async fn restarts_lose_nothing_by_default() {
    restart(1, Duration::from_secs(2), Duration::from_secs(5), "").await;
}

async fn until_refusing(proxy: &Proxy) {
    within("the listener's end", async {
        while TcpStream::connect(proxy.data).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    })
    .await;
}

/// Nobody could tell it anything while it was silent.
#[tokio::test]
async fn a_connection_that_was_idle_through_the_linger_is_answered_once_more() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let setup = Setup::new(&issuer, &upstream).rest(OPEN);
    let mut proxy = setup.rest("[timeouts]\nlinger = \"2s\"").start().await;
    let request = Request::get("/x");
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(proxy.data).await;
        let answer = client.request(&request).await;
        assert_eq!((answer.status(), answer.header("connection")), (200, None));
        clients.push(client);
    }
    let mut silent = clients.pop().expect("a client");
    let mut slow = clients.pop().expect("a client");
    proxy.signal("TERM");
    until_refusing(&proxy).await;
    for client in &mut clients {
        let answer = client.request(&request).await;
        assert_eq!(
            (answer.status(), answer.header("connection")),
            (200, Some("close"))
        );
        client.closed().await;
    }
    // A head that has begun is waited for, also when the idle ones are let go.
    let (begun, rest) = (b"GET /x HTTP/1.1\r\nHost: agents.", b"example.com\r\n\r\n");
    slow.send(begun).await;
    silent.closed().await;
    slow.send(rest).await;
    let answer = slow.response().await;
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(proxy.exit().await.code(), Some(0));
}

/// The kernel has told their clients that they are connected.
#[tokio::test]
async fn connections_that_wait_to_be_accepted_are_served_before_the_listener_closes() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    for signal in ["TERM", "INT"] {
        let setup = Setup::new(&issuer, &upstream).rest(OPEN);
        let mut proxy = setup.rest("[timeouts]\nlinger = \"0s\"").start().await;
        proxy.signal("STOP");
        let mut clients = Vec::new();
        for _ in 0..200 {
            clients.push(Request::get("/x").open(proxy.data).await);
        }
        proxy.signal(signal);
        proxy.signal("CONT");
        for client in &mut clients {
            // Some may be answered before the signal is heard.
            assert_eq!(client.response().await.status(), 200);
        }
        assert_eq!(proxy.exit().await.code(), Some(0));
    }
}
