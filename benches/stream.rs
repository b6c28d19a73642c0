//! What authgate adds to the way of one event of a stream, and to the first byte of a small answer:
//! each over one connection, directly and through the built program with a token that it knows.
//!
//! Numbers count in release only, and on an idle machine: most of each is waking threads.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tempfile::TempDir;

#[path = "../tests/support/issuer.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it is written for the integration tests, which use all of it"
)]
mod issuer;

use issuer::Issuer;
use issuer::port::Port;
use issuer::tokens::AUDIENCE;

/// One token of a model's answer, as AI SDKs frame it.
const EVENT: &[u8] = b"data: {\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\" weather\"}\n\n";

const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    transfer-encoding: chunked\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 16\r\n\r\n{\"success\":true}";

/// Between two questions to a program that is starting.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Nothing here takes so long; a stream that stalls ends the benchmark.
const PATIENCE: Duration = Duration::from_secs(10);

/// An upstream that sends an event when it is asked to, by a side channel.
struct Upstream {
    address: SocketAddr,
    ask: mpsc::Sender<()>,
    /// When each event was written.
    written: mpsc::Receiver<Instant>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let (ask, asked) = mpsc::channel();
        let (write, written) = mpsc::channel();
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                // One at a time; the end of a connection is its client's.
                let _ended = converse(&mut stream, &asked, &write);
            }
        });
        Self {
            address,
            ask,
            written,
        }
    }

    /// How long one event was on its way to `client`.
    fn event(&self, client: &mut Client) -> Duration {
        self.ask.send(()).expect("a running upstream");
        client.read_to(b"\n\n\r\n").expect("an event");
        let read = Instant::now();
        read.duration_since(self.written.recv().expect("a running upstream"))
    }
}

fn converse(
    stream: &mut TcpStream,
    asked: &mpsc::Receiver<()>,
    write: &mpsc::Sender<Instant>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut client = Client {
        stream: stream.try_clone()?,
        buffer: Vec::new(),
    };
    loop {
        let head = client.read_to(b"\r\n\r\n")?;
        if !head.starts_with(b"GET /stream ") {
            stream.write_all(ANSWER)?;
            continue;
        }
        stream.write_all(STREAM)?;
        let chunk = [format!("{:x}\r\n", EVENT.len()).as_bytes(), EVENT, b"\r\n"].concat();
        while asked.recv().is_ok() {
            let now = Instant::now();
            stream.write_all(&chunk)?;
            write.send(now).map_err(io::Error::other)?;
        }
    }
}

/// One end of a connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    fn write(&mut self, path: &str, token: &str) -> io::Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: agents.example.com\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())
    }

    /// Reads what is there.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let length = self.stream.read(&mut bytes)?;
        self.buffer.extend(bytes.iter().take(length));
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads until all that has come ends in `end`.
    fn read_to(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        while !self.buffer.ends_with(end) {
            self.read()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// How long it takes until the answer to a small request begins.
    fn first_byte(&mut self, token: &str) -> io::Result<Duration> {
        let start = Instant::now();
        self.write("/agents", token)?;
        self.read()?;
        let elapsed = start.elapsed();
        let answer = self.read_to(b"{\"success\":true}")?;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{answer:?}");
        Ok(elapsed)
    }
}

/// The program with its defaults, its log thrown away. It ends with this value.
struct Authgate {
    child: Child,
    address: SocketAddr,
    _ports: [Port; 2],
    _directory: TempDir,
}

impl Authgate {
    fn start(issuer: &Issuer, upstream: SocketAddr) -> Self {
        let ports = [Port::reserve(), Port::reserve()];
        let [data, admin] = ports.each_ref().map(Port::address);
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("authgate.toml");
        let config = format!(
            "listen = \"{data}\"\nadmin = \"{admin}\"\nupstream = \"http://{upstream}\"\n\
             [auth0]\ndomain = \"{}\"\naudience = \"{AUDIENCE}\"\n[auth0.keys]\nca_file = \"{}\"\n",
            issuer.domain(),
            issuer.ca_file().display()
        );
        std::fs::write(&file, config).expect("the configuration file");
        let child = Command::new(env!("CARGO_BIN_EXE_authgate"))
            .env_clear()
            .arg("--config")
            .arg(file)
            .stdout(Stdio::null())
            .spawn()
            .expect("the program");
        let start = Instant::now();
        while !is_ready(admin) {
            assert!(start.elapsed() < PATIENCE, "it does not get ready");
            std::thread::sleep(BACK_OFF);
        }
        Self {
            child,
            address: data,
            _ports: ports,
            _directory: directory,
        }
    }
}

impl Drop for Authgate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut client = Client::connect(admin)?;
        client.write("/readyz", "")?;
        client.read()?;
        Ok(client.buffer.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

fn streams(criterion: &mut Criterion) {
    let issuer = Issuer::start();
    let token = issuer.user("auth0|alice").mint();
    for through in [false, true] {
        let way = if through {
            "through authgate"
        } else {
            "direct"
        };
        let upstream = Upstream::start();
        let authgate = through.then(|| Authgate::start(&issuer, upstream.address));
        let address = authgate
            .as_ref()
            .map_or(upstream.address, |authgate| authgate.address);
        let mut client = Client::connect(address).expect("a connection");
        criterion.bench_function(&format!("first byte of a small GET: {way}"), |bencher| {
            bencher.iter_custom(|count| {
                (0..count)
                    .map(|_| client.first_byte(&token).expect("an answer"))
                    .sum()
            });
        });
        // The upstream serves one connection, which authgate keeps and uses again.
        client.write("/stream", &token).expect("room");
        client.read_to(b"\r\n\r\n").expect("the head of a stream");
        criterion.bench_function(&format!("one event of a stream: {way}"), |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| upstream.event(&mut client)).sum());
        });
    }
}

criterion_group!(stream, streams);
criterion_main!(stream);
