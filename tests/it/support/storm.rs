//! Storms in the memory of the Kubernetes sample, and somebody who uses the process while they last.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{JoinHandle, spawn_blocking};

use super::frames::{
    CONTINUATION, END_STREAM, GOAWAY, HEADERS, PREFACE, block, frame, pseudo, settings,
};
use super::upstream::response;
use super::wire::PATIENCE;
use super::{Head, Proxy, Reply, Request, Setup, Upstream, raise_limit, within};
use crate::issuer::Issuer;

/// Of [`Scene::wave`], as the tests have it.
const WAVE: usize = 500;

/// `limits.memory` of config/kubernetes.yaml, which a test compares.
pub const MEMORY: usize = 128 * 1024 * 1024;

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

pub const GOOD: &str = "/good";

pub const DEAF: &str = "/deaf";

pub const HANG: &str = "/hang";

pub const LARGE: &str = "/large";

pub const MCP_GOOD: &str = "/mcp/good";

pub const MCP_LIST: &str = "/mcp/list";

pub const MCP_EVENTS: &str = "/mcp/events";

/// The longest answer that is filtered.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// An answer that a client must take a while for, and that no buffers of the kernel hold.
const LARGE_BYTES: usize = 1024 * 1024;

/// What the known user and the prober do between two rounds.
const PAUSE: Duration = Duration::from_millis(5);

/// Between two looks at metrics that settle.
const LOOK: Duration = Duration::from_millis(20);

/// How often the known user asks at least, in each of its ways.
const ROUNDS: usize = 20;

/// Connections that a storm may have open at a time, beside what the test needs itself.
const DESCRIPTORS: u64 = 10_500;

fn backend(head: &Head) -> Reply {
    match head.target() {
        DEAF => Reply::Deaf,
        HANG => Reply::Hang,
        LARGE => Reply::Bytes(response("200 OK", &[], &"q".repeat(LARGE_BYTES))),
        MCP_GOOD => Reply::Bytes(response(
            "200 OK",
            &[("Content-Type", "application/json")],
            r#"{"jsonrpc":"2.0","id":1,"result":"hello"}"#,
        )),
        MCP_LIST => Reply::Bytes(response(
            "200 OK",
            &[("Content-Type", "application/json")],
            &long_list(),
        )),
        MCP_EVENTS => Reply::Bytes(response(
            "200 OK",
            &[("Content-Type", "text/event-stream")],
            &format!("data: {}\n\n", long_list()),
        )),
        _ => Reply::ok("hello"),
    }
}

/// An answer of almost the largest size that is filtered.
fn long_list() -> String {
    let tool = format!(r#"{{"name":"x","description":"{}"}}"#, "d".repeat(1000));
    let tools = vec![&*tool; LONGEST_ANSWER / (tool.len() + 1) - 1].join(",");
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{tools}]}}}}"#)
}

/// Messages are read for rules, and answers for the tools that they list.
const MCP: &str = r#"
[mcp]
read_bodies  = true
filter_tools = true

[[route]]
path   = "/good"
access = "public"

[[route]]
path = "/mcp/*"

[[route]]
path    = "/mcp/*"
mcp     = { tool = "*" }
require = { scopes = ["call"] }
"#;

/// A process with little memory, and somebody who uses it.
pub struct Scene {
    pub proxy: Proxy,
    _upstream: Upstream,
    pub issuer: Issuer,
    /// What the known user asks for.
    asked: Vec<u8>,
    /// After so many connections a storm waits until the known user has been served once more: whoever comes
    /// new waits behind those who came before, and the program of a test is slow.
    pub wave: usize,
    /// How long the known user waited in all storms.
    waits: std::sync::Mutex<Waits>,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    pub async fn set() -> Self {
        Self::with(|setup| setup).await
    }

    /// With no more open files than many systems give by default.
    pub async fn with_few_files() -> Self {
        Self::with(|setup| setup.open_files(1024)).await
    }

    /// How long the known user waited in all storms so far.
    pub fn waits(&self) -> Waits {
        std::mem::take(&mut self.waits.lock().expect("no panic"))
    }

    /// The known user calls a tool.
    pub async fn with_mcp() -> Self {
        let scene = Self::with(|setup| setup.rest(MCP)).await;
        let token = scene.issuer.user("auth0|alice").claim("scope", "call");
        let message = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
        Self {
            asked: call(MCP_GOOD, &token.mint(), message),
            ..scene
        }
    }

    pub async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        /// One storm at a time.
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        raise_limit(DESCRIPTORS);
        let issuer = Issuer::start();
        // What a Unix socket takes without being read is little, wherever the test runs.
        let upstream = Upstream::start_unix(backend);
        let setup = Setup::new(&issuer, &upstream)
            .memory(MEMORY)
            .top("workers = 2")
            .rest(OPEN);
        Self {
            proxy: change(setup).start().await,
            _upstream: upstream,
            issuer,
            asked: Request::get(GOOD).bytes(),
            wave: WAVE,
            waits: std::sync::Mutex::default(),
            _alone: alone,
        }
    }

    /// Goes through a storm; answers with what is left of it.
    pub async fn endures<T: Send + 'static>(
        &self,
        storm: impl FnOnce(&Place) -> T + Send + 'static,
    ) -> T {
        let served = Arc::<Served>::default();
        let user = KnownUser::arrives(&self.proxy, self.asked.clone(), Arc::clone(&served));
        let place = Place {
            address: self.proxy.data,
            served,
            wave: self.wave,
        };
        let crowd = spawn_blocking(move || storm(&place)).await;
        let waits = user.leaves().await;
        self.waits.lock().expect("no panic").add(waits);
        crowd.expect("a whole storm")
    }

    /// What is held of a budget, or another value of it.
    pub async fn budget(&self, value: &str, budget: &str) -> usize {
        let name = format!("authgate_budget_{value}{{budget=\"{budget}\"}}");
        let metrics = self.proxy.admin("GET", "/metrics").await.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        let number = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        number.trim().parse().expect("a number")
    }

    /// When a storm is over, nothing is held for it.
    pub async fn recovers(self) {
        let rounds = self.waits().kept.len();
        assert!(rounds >= ROUNDS, "the known user has asked {rounds} times");
        let peak = self.proxy.peak_kib();
        assert!(peak < MEMORY / 1024, "{peak} KiB");
        for budget in [
            "head_bytes",
            "buffer_bytes",
            "message_bytes",
            "answer_bytes",
        ] {
            let given_back = async {
                while self.budget("used", budget).await > 0 {
                    tokio::time::sleep(LOOK).await;
                }
            };
            within(&format!("all {budget} to be given back"), given_back).await;
        }
        assert_eq!(self.proxy.send(&Request::get(GOOD)).await.text(), "hello");
    }
}

/// Where a storm goes, and how the known user is getting on there.
pub struct Place {
    address: SocketAddr,
    served: Arc<Served>,
    wave: usize,
}

/// How long a known user waited for each of its answers.
#[derive(Debug, Default)]
pub struct Waits {
    pub kept: Vec<Duration>,
    pub new: Vec<Duration>,
    pub probe: Vec<Duration>,
}

impl Waits {
    fn add(&mut self, more: Self) {
        self.kept.extend(more.kept);
        self.new.extend(more.new);
        self.probe.extend(more.probe);
    }
}

/// How long something takes.
fn timed(act: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    act();
    begun.elapsed()
}

impl Place {
    /// Waits until the known user was served in all ways, from here on.
    pub fn wait_for_known_user(&self) {
        let Served { rounds, next } = &*self.served;
        let before = rounds.lock().expect("the known user is served");
        let enough = *before + 2;
        let waited = next.wait_timeout_while(before, PATIENCE, |rounds| *rounds < enough);
        let (now, _) = waited.expect("the known user is served");
        assert!(*now >= enough, "the known user waits in vain");
    }
}

/// How many rounds of the known user are over.
#[derive(Default)]
struct Served {
    rounds: std::sync::Mutex<usize>,
    next: Condvar,
}

/// Somebody who asks on one connection again and again, and on a new one each time, and a prober.
struct KnownUser {
    task: JoinHandle<Waits>,
    storm_is_over: Arc<AtomicBool>,
}

impl KnownUser {
    pub fn arrives(proxy: &Proxy, asked: Vec<u8>, served: Arc<Served>) -> Self {
        let storm_is_over = Arc::new(AtomicBool::new(false));
        let (data, admin, over) = (proxy.data, proxy.admin, Arc::clone(&storm_is_over));
        let task = spawn_blocking(move || {
            let probe = Request::get("/livez").bytes();
            let mut kept = None;
            let mut waits = Waits::default();
            let mut round = 0;
            while round < ROUNDS || !over.load(Ordering::Relaxed) {
                waits
                    .kept
                    .push(timed(|| ask_on_kept(data, &mut kept, &asked)));
                waits.new.push(timed(|| {
                    ask_on_new(data, &asked, "hello").expect("a new connection is served");
                }));
                waits.probe.push(timed(|| {
                    ask_on_new(admin, &probe, "alive").expect("probes are served");
                }));
                round += 1;
                *served.rounds.lock().expect("a running storm") = round;
                served.next.notify_all();
                std::thread::sleep(PAUSE);
            }
            waits
        });
        Self {
            task,
            storm_is_over,
        }
    }

    pub async fn leaves(self) -> Waits {
        self.storm_is_over.store(true, Ordering::Relaxed);
        // Every step of it has its patience.
        self.task.await.expect("the known user is served")
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// An idle connection may be closed: then there is another one, as every client makes it.
fn ask_on_kept(address: SocketAddr, kept: &mut Option<TcpStream>, request: &[u8]) {
    if let Some(stream) = kept
        && ask(stream, request, "hello").is_ok()
    {
        return;
    }
    let mut stream = connect(address).expect("a connection");
    ask(&mut stream, request, "hello").expect("the known user is served");
    *kept = Some(stream);
}

fn ask_on_new(address: SocketAddr, request: &[u8], text: &str) -> io::Result<()> {
    ask(&mut connect(address)?, request, text)
}

/// Asks once, and reads until the text is there.
fn ask(stream: &mut TcpStream, request: &[u8], text: &str) -> io::Result<()> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut space = [0; 2048];
    loop {
        let length = stream.read(&mut space)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&space[..length]);
        let so_far = String::from_utf8_lossy(&answer);
        if so_far.contains(text) {
            assert!(so_far.starts_with("HTTP/1.1 200 "), "{so_far}");
            return Ok(());
        }
    }
}

/// The connections of a storm.
pub struct Crowd(pub Vec<TcpStream>);

impl Crowd {
    /// So many connections, each of which does this.
    pub fn each(place: &Place, count: usize, mut act: impl FnMut(&mut TcpStream)) -> Self {
        let mut crowd = Vec::new();
        for number in 1..=count {
            let mut stream = connect(place.address).expect("a connection");
            act(&mut stream);
            crowd.push(stream);
            if number % place.wave == 0 || number == count {
                place.wait_for_known_user();
            }
        }
        Self(crowd)
    }

    /// Each says this and stops.
    pub fn of(place: &Place, count: usize, bytes: &[u8]) -> Self {
        Self::each(place, count, |stream| {
            // Who is sent away does not take it all, and hears of it later.
            let _gone = stream.write_all(bytes);
        })
    }

    /// Each says this and waits for its answer, in which this text is.
    pub fn served(place: &Place, count: usize, bytes: &[u8], text: &[u8]) -> Self {
        Self::each(place, count, |stream| {
            let mut answer = Vec::new();
            let mut space = [0; 2048];
            stream.write_all(bytes).expect("room to send");
            while !answer.windows(text.len()).any(|part| part == text) {
                let length = stream.read(&mut space).expect("an answer");
                assert!(length > 0, "the end after {answer:?}");
                answer.extend_from_slice(&space[..length]);
            }
        })
    }

    /// Each begins with this, and goes on with as much of a body as is taken at once.
    pub fn uploading(place: &Place, count: usize, head: &[u8], piece: &[u8], times: usize) -> Self {
        Self::each(place, count, |stream| {
            stream.write_all(head).expect("room to send");
            stream.set_nonblocking(true).expect("an option");
            for _ in 0..times {
                let _full = stream.write(piece);
            }
        })
    }

    /// What each of them has heard.
    pub fn tally(self) -> BTreeMap<Heard, usize> {
        let mut tally = BTreeMap::new();
        for stream in self.0 {
            *tally.entry(Heard::on(stream)).or_default() += 1;
        }
        tally
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    Nothing,
    Status(u16),
    /// Frames of HTTP/2, among them a GOAWAY or none.
    Frames {
        goaway: bool,
    },
    /// The end of the connection, properly or not.
    End,
}

impl Heard {
    /// What has come so far.
    pub fn on(mut stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("an option");
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        let is_open = ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if let Some(line) = bytes.strip_prefix(b"HTTP/1.1 ") {
            let status = String::from_utf8_lossy(&line[..3]);
            return Self::Status(status.parse().expect("a status"));
        }
        match (bytes.is_empty(), is_open) {
            (true, true) => Self::Nothing,
            (true, false) => Self::End,
            (false, _) => Self::Frames {
                goaway: has_goaway(&bytes),
            },
        }
    }
}

fn has_goaway(mut bytes: &[u8]) -> bool {
    while let Some([high, middle, low, kind]) = bytes.first_chunk() {
        if *kind == GOAWAY {
            return true;
        }
        let length = u32::from_be_bytes([0, *high, *middle, *low]);
        let frame = 9 + usize::try_from(length).expect("a short frame");
        bytes = bytes.get(frame..).unwrap_or_default();
    }
    false
}

/// A head over HTTP/1 of so many bytes, that is not over.
pub fn unfinished_head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /x HTTP/1.1\r\nHost: a\r\n".to_vec();
    while head.len() < bytes {
        head.extend_from_slice(b"X-Padding: ");
        head.extend(vec![b'y'; 4000.min(bytes - head.len())]);
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// A head over HTTP/2 of so many bytes, that goes on in further frames and is not over.
pub fn unfinished_head_of_http2(bytes: usize) -> Vec<u8> {
    let mut fields = block(&pseudo("GET", "/x"));
    while fields.len() < bytes {
        let name = format!("x-padding-{}", fields.len());
        fields.extend(block(&[(name, "y".repeat(4000))]));
    }
    let mut pieces = fields.chunks(16_000);
    let first = pieces.next().expect("a first piece");
    let mut head = [PREFACE, &settings(&[])].concat();
    head.extend(frame(HEADERS, END_STREAM, 1, first));
    for piece in pieces {
        head.extend(frame(CONTINUATION, 0, 1, piece));
    }
    head
}

/// `mcp.max_body` by default.
pub const LARGEST_MESSAGE: usize = 1024 * 1024;

/// Clients of a storm that talk at the same time.
pub const AT_ONCE: usize = 16;

/// A call of the largest size that is made of so many of these values.
pub fn message_of(value: &str) -> String {
    let begin =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":["#;
    let end = "]}}}";
    let room = LARGEST_MESSAGE - begin.len() - end.len();
    let values = vec![value; (room + 1) / (value.len() + 1)].join(",");
    format!("{begin}{values}{end}")
}

/// Some clients at once, each of which sends its message so often, on one connection as long as it is kept or on
/// a new one each time. Answers with how often each status came.
pub fn converse(
    place: &Place,
    messages: &[Vec<u8>],
    times: usize,
    is_kept: bool,
) -> BTreeMap<u16, usize> {
    let client = |message: &[u8]| -> Vec<u16> {
        let mut kept = None;
        let mut statuses = Vec::new();
        for _ in 0..times {
            let stream = kept.take().filter(|_| is_kept);
            let mut stream =
                stream.unwrap_or_else(|| connect(place.address).expect("a connection"));
            let mut answer = exchange(&mut stream, message);
            if is_kept && answer.is_err() {
                // A kept connection may have been closed.
                stream = connect(place.address).expect("a connection");
                answer = exchange(&mut stream, message);
            }
            let (status, may_be_kept) = match answer {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => (CUT, false),
                answer => answer.expect("an answer"),
            };
            statuses.push(status);
            kept = may_be_kept.then_some(stream);
        }
        statuses
    };
    let client = &client;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_ONCE)
            .map(|number| scope.spawn(move || client(&messages[number % messages.len()])))
            .collect();
        let statuses = clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        statuses.flatten().collect()
    });
    place.wait_for_known_user();
    let mut tally = BTreeMap::new();
    for status in statuses {
        *tally.entry(status).or_default() += 1;
    }
    tally
}

const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// The status of an answer that was not passed on to its end.
pub const CUT: u16 = 0;

/// Sends a request and reads its answer: the status, and whether the connection may be used again.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<(u16, bool)> {
    // One that is refused may not be taken to its end.
    let is_sent = stream.write_all(request).is_ok();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let length = field("content-length: ").and_then(|length| length.parse().ok());
    let status = head[9..12].parse().expect("a status");
    let mut body = Vec::new();
    if let Some(length) = length {
        stream.take(length).read_to_end(&mut body)?;
        return Ok((status, is_sent && field("connection: close").is_none()));
    }
    let mut space = [0; 65_536];
    while !body.ends_with(LAST_CHUNK) {
        match stream.read(&mut space)? {
            0 => return Ok((CUT, false)),
            length => body.extend_from_slice(&space[..length]),
        }
    }
    Ok((status, is_sent))
}

/// A call by this caller.
pub fn call(path: &str, token: &str, message: &str) -> Vec<u8> {
    Request::post(path, message)
        .header("Content-Type", "application/json")
        .bearer(token)
        .bytes()
}
