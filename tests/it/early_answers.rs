//! Agents that answer an upload before they have read it, and close.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;

use crate::issuer::Issuer;
use crate::support::wire::chunk;
use crate::support::{Client, Findings, Proxy, Request, Setup, assert_own, within};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// How often each case is tried: the reset and the answer race.
const TIMES: usize = 40;

/// More than all buffers on the way take.
const LARGE: usize = 5 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Tls,
    Unix,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Tls, Kind::Unix];

/// A backend that reads the head of a request and nothing more, says the same to everybody, and closes.
struct Hasty {
    url: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl Drop for Hasty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hasty {
    async fn start(kind: Kind, issuer: &Issuer, answer: &'static str) -> Self {
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        if kind == Kind::Unix {
            let directory = TempDir::new().expect("a directory for the socket");
            let path: PathBuf = directory.path().join("agent.sock");
            let listener = UnixListener::bind(&path).expect("a socket");
            let task = tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(answer_hastily(stream, answer));
                }
            });
            return Self {
                url: format!("unix:{}", path.display()),
                connections,
                task,
                _directory: Some(directory),
            };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let tls = (kind == Kind::Tls).then(|| issuer.tls_acceptor());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                // As servers of HTTP do: else an answer behind the tickets of TLS would wait in its kernel, and
                // go under with the connection.
                stream.set_nodelay(true).expect("TCP_NODELAY");
                count.fetch_add(1, Ordering::Relaxed);
                match tls.clone() {
                    None => drop(tokio::spawn(answer_hastily(stream, answer))),
                    Some(tls) => drop(tokio::spawn(async move {
                        let stream = tls.accept(stream).await.expect("a handshake");
                        answer_hastily(stream, answer).await;
                    })),
                }
            }
        });
        let scheme = if kind == Kind::Tls { "https" } else { "http" };
        Self {
            url: format!("{scheme}://localhost:{port}"),
            connections,
            task,
            _directory: None,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn proxy(&self, issuer: &Issuer) -> Proxy {
        Setup::to(issuer, &self.url)
            .environment("SSL_CERT_FILE", &issuer.ca_file().display().to_string())
            .rest(OPEN)
            .start()
            .await
    }
}

async fn answer_hastily(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // A connection that was never used.
        if !matches!(stream.read(&mut byte).await, Ok(1)) {
            return;
        }
        head.extend(byte);
    }
    // Whoever has gone hears nothing.
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.flush().await;
}

/// How an upload is framed on the wire.
fn upload(chunked: bool, length: usize) -> Vec<u8> {
    let body = vec![b'x'; length];
    if !chunked {
        return Request::post("/upload", body).bytes();
    }
    let mut bytes = Request::new("POST", "/upload")
        .header("Transfer-Encoding", "chunked")
        .bytes();
    for piece in body.chunks(16 * 1024) {
        bytes.extend(chunk(piece));
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Reads to the end of the backend's answer, or of one of authgate's own, or of the connection. A reset behind the
/// answer does not take it back.
async fn read_answer(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"too large") && !answer.ends_with(b"\"}") {
        match from.read_buf(&mut answer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    answer
}

/// What a client gets that looks for an answer while it writes, as curl does.
async fn looking(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(proxy.data).await.expect("a connection");
    let (from, mut to) = stream.into_split();
    let writing = async {
        let _refused = to.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    within("an answer", async {
        tokio::select! {
            answer = read_answer(from) => answer,
            () = writing => Vec::new(),
        }
    })
    .await
}

/// What a client gets that looks only after it has written everything, as many libraries do.
async fn blind(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.data).await.expect("a connection");
    within("an answer", async {
        let _refused = stream.write_all(bytes).await;
        read_answer(stream).await
    })
    .await
}

#[tokio::test]
async fn an_answer_to_an_unread_upload_arrives() {
    const ANSWER: &str =
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large";
    let issuer = Issuer::start();
    let mut findings = Findings::default();
    for kind in KINDS {
        let backend = Hasty::start(kind, &issuer, ANSWER).await;
        let proxy = backend.proxy(&issuer).await;
        let mut uploads = 0;
        for chunked in [false, true] {
            for (is_blind, length) in [(false, LARGE), (true, LARGE), (false, 200_000)] {
                let bytes = upload(chunked, length);
                let case = format!("{kind:?}, chunked {chunked}, blind {is_blind}, {length} bytes");
                let mut whole = 0;
                for _ in 0..TIMES {
                    let answer = if is_blind {
                        blind(&proxy, &bytes).await
                    } else {
                        looking(&proxy, &bytes).await
                    };
                    let is_whole = answer.starts_with(b"HTTP/1.1 413 ")
                        && answer.ends_with(b"\r\n\r\ntoo large");
                    whole += usize::from(is_whole);
                }
                uploads += TIMES;
                findings.check(&case, whole == TIMES, || format!("{whole} of {TIMES}"));
            }
        }
        let tried = backend.connections();
        findings.check(&format!("{kind:?}"), tried == uploads, || {
            format!("{tried} requests for {uploads} uploads")
        });
        for line in proxy.events() {
            if line["path"] == "/upload" {
                let said = (&line["status"], &line["outcome"], &line["code"]);
                let expected = said.0 == 413 && said.1 == "forwarded" && said.2.is_null();
                findings.check(&format!("{kind:?}, the log"), expected, || line.to_string());
            }
        }
    }
    findings.assert_none();
}

/// The end of an answer without a length is the end of the connection, and a reset is none.
#[tokio::test]
async fn what_may_have_been_cut_is_not_whole() {
    let issuer = Issuer::start();
    for (answer, what) in [
        ("", "no answer"),
        (
            "HTTP/1.1 413 Content Too Large\r\nContent-Le",
            "half a head",
        ),
        (
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 100\r\n\r\ntoo large",
            "half a body",
        ),
        (
            "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\ntoo large",
            "a body without a length",
        ),
    ] {
        let backend = Hasty::start(Kind::Tcp, &issuer, answer).await;
        let proxy = backend.proxy(&issuer).await;
        let mut client = Client::connect(proxy.data).await;
        client.send(&upload(false, LARGE)).await;
        match client.head_or_end().await {
            Some(head) if head.status() == 502 => {
                assert!(what.ends_with("answer") || what.ends_with("head"), "{what}");
            }
            // It may break before anything of it has left.
            None => assert!(what.contains("body"), "{what}"),
            Some(head) => {
                assert_eq!(head.status(), 413, "{what}");
                client.body().await.expect_err(what);
            }
        }
        let line = proxy.request_line("/upload").await;
        let said = (&line["outcome"], &line["code"]);
        assert_eq!(
            said,
            (&"failed".into(), &"upstream_failed".into()),
            "{line}"
        );
        assert_eq!(backend.connections(), 1, "{what}");
    }
}

/// A request without a body may be repeated where an idle connection was stale; one with a body never is.
#[tokio::test]
async fn an_upload_is_not_repeated_over_a_stale_connection() {
    let issuer = Issuer::start();
    let backend = Hasty::start(Kind::Unix, &issuer, "").await;
    let proxy = backend.proxy(&issuer).await;
    for tried in 1..=3 {
        let request = Request::post("/upload", vec![b'x'; 200_000]);
        assert_own(&proxy.send(&request).await, 502, "upstream_failed");
        assert_eq!(backend.connections(), tried);
    }
}
