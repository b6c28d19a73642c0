//! HTTP/2 to the backend, frame by frame: a backend and a client that end their streams by hand.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::support::frames::{Frames, Verdict};
use crate::support::h2::H2;
use crate::support::proxy::{program, run_to_end};
use crate::support::wire::{Piece, chunk};
use crate::support::{Findings, Proxy, Reply, Request, Setup, Upstream, assert_own, own, within};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// A stream that has reached the backend.
struct Exchange {
    head: http::request::Parts,
    body: RecvStream,
    answer: SendResponse<Bytes>,
}

impl Exchange {
    /// The next part of the body; nothing at its end.
    async fn part(&mut self) -> Option<Result<Bytes, h2::Error>> {
        loop {
            let part = within("a part of the body", self.body.data()).await;
            if let Some(Ok(part)) = &part {
                // The frame that is only an end.
                if part.is_empty() {
                    continue;
                }
                let released = self.body.flow_control().release_capacity(part.len());
                released.expect("what has come");
            }
            return part;
        }
    }

    /// The head of an answer.
    fn begin(&mut self) -> SendStream<Bytes> {
        let head = Response::new(());
        self.answer
            .send_response(head, false)
            .expect("an open stream")
    }

    /// The whole of an answer.
    fn reply(&mut self, text: &'static str) {
        let mut stream = self.begin();
        let sent = stream.send_data(Bytes::from_static(text.as_bytes()), true);
        sent.expect("an open stream");
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let values = self.head.headers.get_all(name);
        let values = values.iter().map(|value| value.to_str().expect("visible"));
        values.collect()
    }
}

/// A running backend. It ends with this value.
struct Backend {
    port: Port,
    exchanges: Mutex<mpsc::UnboundedReceiver<Exchange>>,
    task: JoinHandle<()>,
}

impl Backend {
    fn start() -> Self {
        let port = Port::reserve();
        let listener = port.listen();
        let (sender, exchanges) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Self {
            port,
            exchanges: Mutex::new(exchanges),
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    async fn next(&self) -> Exchange {
        let mut exchanges = self.exchanges.lock().await;
        within("a request at the backend", exchanges.recv())
            .await
            .expect("a running backend")
    }

    async fn is_untouched(&self) -> bool {
        self.exchanges.lock().await.try_recv().is_err()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, exchanges: mpsc::UnboundedSender<Exchange>) {
    // What speaks HTTP/1 has lost its way.
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, answer))) = connection.accept().await {
        let (head, body) = request.into_parts();
        // A test that has ended asks for nothing any more.
        let _ended = exchanges.send(Exchange { head, body, answer });
    }
}

async fn open_proxy(issuer: &Issuer, url: &str) -> Proxy {
    Setup::http2(issuer, url).rest(OPEN).start().await
}

fn get(path: &str) -> http::Request<Full<Bytes>> {
    http::Request::get(format!("http://agents.example.com{path}"))
        .body(Full::new(Bytes::new()))
        .expect("a request")
}

/// Every reason is an end before the end, also the one that says "no error".
#[tokio::test]
async fn an_answer_that_is_given_up_is_seen_to_break() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = open_proxy(&issuer, &backend.url()).await;
    for (path, reason) in [
        ("/no-error", Reason::NO_ERROR),
        ("/cancel", Reason::CANCEL),
        ("/internal", Reason::INTERNAL_ERROR),
        ("/refused", Reason::REFUSED_STREAM),
    ] {
        let mut client = Request::get(path).open(proxy.data).await;
        let mut exchange = backend.next().await;
        let mut stream = exchange.begin();
        assert_eq!(client.head().await.status(), 200, "{path}");
        stream
            .send_data(Bytes::from_static(b"part"), false)
            .expect("an open stream");
        assert_eq!(client.data().await, "part", "{path}");
        stream.send_reset(reason);
        let ended = client.body().await;
        assert!(ended.is_err(), "{path} has ended as if it were whole");
        let line = proxy.request_line(path).await;
        assert_eq!(line["outcome"], "failed", "{path}");

        let mut client = H2::connect(proxy.data).await;
        let (mut answer, mut stream) = tokio::join!(client.send(get(path)), async {
            let mut stream = backend.next().await.begin();
            let sent = stream.send_data(Bytes::from_static(b"part"), false);
            sent.expect("an open stream");
            stream
        });
        let frame = within("a part", answer.frame()).await.expect("a part");
        let part = frame.expect("a part").into_data().expect("data");
        assert_eq!(part, "part");
        stream.send_reset(reason);
        let end = within("the end", answer.frame()).await;
        assert!(
            matches!(end, Some(Err(_))),
            "{path} has ended as if it were whole"
        );
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_fails_once() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = open_proxy(&issuer, &backend.url()).await;
    let mut findings = Findings::default();
    for reason in [
        Reason::NO_ERROR,
        Reason::CANCEL,
        Reason::PROTOCOL_ERROR,
        Reason::REFUSED_STREAM,
    ] {
        let request = Request::get("/x");
        let (answer, ()) = tokio::join!(proxy.send(&request), async {
            backend.next().await.answer.send_reset(reason);
        });
        let case = format!("{reason:?}");
        findings.add(&case, own(&answer, 502, "upstream_failed"));
        let once = backend.is_untouched().await;
        findings.check(&case, once, || "it was sent again".to_owned());
    }
    findings.assert_none();
}

/// RFC 9113, section 8.1: a backend that has answered may refuse the rest of the upload.
#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_whole() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = open_proxy(&issuer, &backend.url()).await;
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    client.send(&chunk(b"part")).await;
    let mut exchange = backend.next().await;
    assert_eq!(
        exchange.part().await.expect("a part").expect("a part"),
        "part"
    );
    exchange.reply("enough");
    // Resets it with NO_ERROR behind the answer, since the upload is not over.
    drop(exchange);
    assert_eq!(client.head().await.status(), 200);
    let (body, _) = client.body().await.expect("a whole body");
    assert_eq!(body, b"enough");
}

/// A client over which a test has every say.
async fn raw_client(proxy: &Proxy) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.data).await.expect("a connection");
    let (client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client.ready().await.expect("an open connection")
}

fn post() -> http::Request<()> {
    http::Request::post("http://agents.example.com/x")
        .body(())
        .expect("a request")
}

/// What the client has given up must not reach the backend as a whole.
#[tokio::test]
async fn an_upload_that_is_given_up_is_seen_to_break() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let plain = Upstream::start(|_| Reply::ok("hello"));
    let over_h2 = open_proxy(&issuer, &backend.url()).await;
    let over_h1 = Setup::new(&issuer, &plain).rest(OPEN).start().await;
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        for answered in [false, true] {
            let mut client = raw_client(&over_h2).await;
            let (answer, mut upload) = client.send_request(post(), false).expect("a stream");
            let part = Bytes::from_static(b"part");
            upload.send_data(part, false).expect("an open stream");
            let mut exchange = backend.next().await;
            let found = exchange.part().await.expect("a part");
            assert_eq!(found.expect("a part"), "part");
            let _answer = if answered {
                let stream = exchange.begin();
                Some((stream, answer.await.expect("an answer")))
            } else {
                None
            };
            upload.send_reset(reason);
            let end = exchange.part().await;
            assert!(
                matches!(end, Some(Err(_))),
                "{reason:?}, answered: {answered}: it has ended as if it were whole"
            );
        }

        let mut client = raw_client(&over_h1).await;
        let (_answer, mut upload) = client.send_request(post(), false).expect("a stream");
        let part = Bytes::from_static(b"part");
        upload.send_data(part, false).expect("an open stream");
        let exchange = plain.next().await;
        exchange.body_reaches(4).await;
        upload.send_reset(reason);
        assert!(
            !exchange.body_is_whole().await,
            "{reason:?}: it has ended as if it were whole"
        );
    }
}

#[tokio::test]
async fn an_upload_does_not_outlive_its_answer() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = open_proxy(&issuer, &backend.url()).await;
    let mut client = raw_client(&proxy).await;
    let (answer, mut upload) = client.send_request(post(), false).expect("a stream");
    let part = Bytes::from_static(b"part");
    upload.send_data(part, false).expect("an open stream");
    let mut exchange = backend.next().await;
    let found = exchange.part().await.expect("a part");
    assert_eq!(found.expect("a part"), "part");
    exchange.reply("enough");
    let mut answer = answer.await.expect("an answer").into_body();
    let text = within("the answer", answer.data()).await.expect("a part");
    assert_eq!(text.expect("a part"), "enough");
    let end = exchange.part().await;
    assert!(matches!(end, Some(Err(_))), "the upload goes on: {end:?}");
}

#[tokio::test]
async fn http_1_clients_reach_it() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = open_proxy(&issuer, &backend.url()).await;
    for (te, expected) in [
        (None, &[][..]),
        (Some("trailers"), &["trailers"]),
        (Some("gzip;q=0.5, Trailers"), &["trailers"]),
        (Some("gzip"), &[]),
        (Some("trailersx"), &[]),
    ] {
        let mut request = Request::new("POST", "/a//b?c=%20d")
            .header("Transfer-Encoding", "chunked")
            .header("Connection", "TE, X-Hop, keep-alive")
            .header("Keep-Alive", "timeout=5")
            .header("X-Hop", "1")
            .header("X-End", "1")
            .header("Expect", "100-continue");
        if let Some(te) = te {
            request = request.header("TE", te);
        }
        let mut client = request.open(proxy.data).await;
        let mut exchange = backend.next().await;
        assert_eq!(exchange.head.uri, "http://agents.example.com/a//b?c=%20d");
        for name in [
            "host",
            "connection",
            "keep-alive",
            "x-hop",
            "transfer-encoding",
            "expect",
        ] {
            assert!(exchange.all(name).is_empty(), "{name}");
        }
        assert_eq!(exchange.all("te"), expected, "{te:?}");
        assert_eq!(exchange.all("x-end"), ["1"]);
        assert!(exchange.all("via")[0].starts_with("1.1 authgate-"));
        for part in ["one", "two"] {
            client.send(&chunk(part.as_bytes())).await;
            assert_eq!(
                exchange.part().await.expect("a part").expect("a part"),
                part
            );
        }
        client.send(b"0\r\nX-Forwarded-User: mallory\r\n\r\n").await;
        assert!(exchange.part().await.is_none());
        let trailers = exchange.body.trailers().await.expect("a proper end");
        assert!(trailers.is_none(), "{trailers:?}");
        let mut stream = exchange.begin();
        let mut head = client.head().await;
        if head.status() == 100 {
            head = client.head().await;
        }
        assert_eq!(head.first_line, "HTTP/1.1 200 OK");
        for part in ["three", "four"] {
            stream
                .send_data(Bytes::from_static(part.as_bytes()), false)
                .expect("an open stream");
            assert_eq!(client.data().await, part);
        }
        let trailers =
            HeaderMap::from_iter([(http::header::SET_COOKIE, "a=b".parse().expect("a value"))]);
        stream.send_trailers(trailers).expect("an open stream");
        assert_eq!(client.piece().await.ok(), Some(Piece::End(Vec::new())));
    }
}

#[tokio::test]
async fn te_does_not_reach_a_backend_of_http_1() {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream).rest(OPEN).start().await;
    let mut client = H2::connect(proxy.data).await;
    let mut request = get("/x");
    let trailers = "trailers".parse().expect("a value");
    request.headers_mut().insert("te", trailers);
    assert_eq!(client.send(request).await.status(), 200);
    assert_eq!(upstream.next().await.head.get("te"), None);
}

#[tokio::test]
async fn trailers_of_a_backend_of_http_1_are_looked_at() {
    let issuer = Issuer::start();
    let upstream = Upstream::start(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
              X-Checksum: 1\r\nSet-Cookie: a=b\r\nContent-Type: text/html\r\n\
              Access-Control-Allow-Origin: *\r\nContent-Length: 5\r\n\r\n"
                .to_vec(),
        )
    });
    let proxy = Setup::new(&issuer, &upstream).rest(OPEN).start().await;
    let mut client = H2::connect(proxy.data).await;
    let answer = client.send(get("/x")).await;
    let body = within("a body", answer.into_body().collect()).await;
    let body = body.expect("a whole body");
    let trailers = body.trailers().expect("trailers");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    assert_eq!(trailers["x-checksum"], "1");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_given_up() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let proxy = Setup::http2(&issuer, &backend.url())
        .rest(OPEN)
        .rest("[timeouts]\nresponse_header = \"200ms\"")
        .start()
        .await;
    let request = Request::get("/x");
    let (answer, ()) = tokio::join!(proxy.send(&request), async {
        let mut exchange = backend.next().await;
        let reset = std::future::poll_fn(|cx| exchange.answer.poll_reset(cx));
        let reason = within("a reset", reset).await.expect("a reset");
        assert_eq!(reason, Reason::CANCEL);
    });
    assert_own(&answer, 504, "upstream_timeout");

    // Here it is the client that is waited for.
    let mut client = Request::new("POST", "/x")
        .header("Transfer-Encoding", "chunked")
        .open(proxy.data)
        .await;
    client.send(&chunk(b"part")).await;
    let mut exchange = backend.next().await;
    let part = exchange.part().await.expect("a part");
    assert_eq!(part.expect("a part"), "part");
    assert_own(&client.response().await, 408, "request_timeout");
    let end = exchange.part().await;
    assert!(matches!(end, Some(Err(_))), "the upload goes on: {end:?}");
}

#[tokio::test]
async fn check_says_what_is_spoken_and_whether_it_is() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let plain = Upstream::start(|_| Reply::Close);
    for (url, code, expected) in [
        (backend.url(), 0, "reachable"),
        (plain.url(), 69, "it is not HTTP/2"),
    ] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = Setup::http2(&issuer, &url).text();
        std::fs::write(file.path(), text).expect("the configuration");
        let mut command = program();
        command.args(["check", "--online", "--upstream", &url, "--config"]);
        command.arg(file.path());
        let output = run_to_end(command, "").await;
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let line = text
            .lines()
            .find(|line| line.starts_with("upstream_protocol"));
        assert_eq!(
            line.and_then(|line| line.split_whitespace().nth(1)),
            Some("http2")
        );
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn the_protocol_changes_while_requests_run() {
    let issuer = Issuer::start();
    let backend = Backend::start();
    let http1 = || Setup::to(&issuer, &backend.url()).rest(OPEN);
    let http2 = Setup::http2(&issuer, &backend.url()).rest(OPEN);
    let proxy = http1().start().await;
    let request = Request::get("/x");
    assert_own(&proxy.send(&request).await, 502, "upstream_failed");
    proxy.reload(&http2).await;
    let mut client = Request::get("/kept").open(proxy.data).await;
    let mut exchange = backend.next().await;
    let mut stream = exchange.begin();
    assert_eq!(client.head().await.status(), 200);
    proxy.reload(&http1()).await;
    assert_own(&proxy.send(&request).await, 502, "upstream_failed");
    let sent = stream.send_data(Bytes::from_static(b"still here"), true);
    sent.expect("an open stream");
    let (body, _) = client.body().await.expect("a whole body");
    assert_eq!(body, b"still here");
}

/// Streams count as connections do: one caller cannot take all of them.
#[tokio::test]
async fn one_caller_cannot_take_every_stream() {
    /// What so few open files leave to one connection: three quarters of 36 places. Two are its own, and its
    /// first stream is in them.
    const FILES: usize = 200;
    const ADMITTED: usize = 26;
    let (issuer, backend) = (Issuer::start(), Backend::start());
    let proxy = Setup::http2(&issuer, &backend.url())
        .open_files(FILES)
        .start()
        .await;
    let bearer = format!("Bearer {}", issuer.user("auth0|mallory").mint());
    let fields = [("authorization", bearer.as_str())];
    let mut connection = Frames::connect(proxy.data).await;
    let mut held = Vec::new();
    for stream in (1_u32..).step_by(2).take(ADMITTED) {
        connection.request(stream, "/slow", &fields).await;
        held.push(backend.next().await);
    }
    for stream in (201_u32..).step_by(2).take(20) {
        connection.request(stream, "/slow", &fields).await;
        assert_eq!(connection.verdict(stream).await, Verdict::Status(503));
    }
    let alice = Request::get("/x").bearer(&issuer.user("auth0|alice").mint());
    let (answer, ()) = tokio::join!(proxy.send(&alice), async {
        backend.next().await.reply("hello");
    });
    assert_eq!(answer.status(), 200);
    held.pop().expect("a stream").reply("late");
    for stream in (301_u32..).step_by(2) {
        connection.request(stream, "/slow", &fields).await;
        tokio::select! {
            _ = backend.next() => return,
            verdict = connection.verdict(stream) => assert_eq!(verdict, Verdict::Status(503)),
        }
    }
}
