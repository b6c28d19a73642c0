//! A backend that speaks HTTP/2 only, and gRPC over it: the server and client of `tonic`, with plain
//! bytes for messages.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::wire::within;
use crate::issuer::Issuer;
use crate::issuer::port::Port;

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Answers = mpsc::Sender<Result<Bytes, Status>>;
type Answer = tonic::Response<ReceiverStream<Result<Bytes, Status>>>;

/// A call that has reached the backend.
pub struct Call {
    /// The head of the HTTP/2 request.
    pub head: Parts,
    /// Which connection it came over, counted from 1.
    pub connection: usize,
    /// What the client sends.
    pub messages: Streaming<Bytes>,
    answer: oneshot::Sender<Result<Answer, Status>>,
}

/// A call that is being answered.
pub struct Accepted {
    pub messages: Streaming<Bytes>,
    answers: Answers,
}

impl Call {
    /// Sends the head of an answer.
    pub fn accept(self, metadata: MetadataMap) -> Accepted {
        let (answers, stream) = mpsc::channel(1);
        let mut answer = tonic::Response::new(ReceiverStream::new(stream));
        *answer.metadata_mut() = metadata;
        // A client that has gone takes no answer.
        let _gone = self.answer.send(Ok(answer));
        Accepted {
            messages: self.messages,
            answers,
        }
    }

    /// Answers with trailers only.
    pub fn refuse(self, status: Status) {
        let _gone = self.answer.send(Err(status));
    }

    /// The values of a field of the head.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let values = self.head.headers.get_all(name);
        let values = values.iter().map(|value| value.to_str().expect("visible"));
        values.collect()
    }

    /// Waits until the client has given the call up before it was answered.
    pub async fn cancelled(mut self) {
        within("the end of the call", self.answer.closed()).await;
    }
}

impl Accepted {
    pub async fn send(&self, message: impl Into<Bytes>) {
        let sent = self.answers.send(Ok(message.into()));
        within("room for a message", sent)
            .await
            .expect("a running call");
    }

    /// As long as somebody takes them.
    pub async fn send_while_wanted(&self, message: &Bytes) -> usize {
        let mut sent = 0;
        while self.answers.send(Ok(message.clone())).await.is_ok() {
            sent += 1;
        }
        sent
    }

    /// Ends the call with this status, the metadata of which are trailers.
    pub async fn end(self, status: Status) {
        let _gone = self.answers.send(Err(status)).await;
    }

    /// The next message of the client.
    pub async fn next(&mut self) -> Option<Bytes> {
        within("a message", self.messages.message())
            .await
            .expect("an unbroken call")
    }

    /// Waits until the call has ended before its time.
    pub async fn cancelled(&self) {
        within("the end of the call", self.answers.closed()).await;
    }
}

enum Place {
    Tcp(Port),
    Tls(Port, TlsAcceptor),
    Unix { path: PathBuf, _directory: TempDir },
}

struct Shared {
    max_streams: u32,
    calls: mpsc::UnboundedSender<Call>,
    connections: AtomicUsize,
    leaving: watch::Sender<usize>,
}

/// A running backend. It ends with this value.
pub struct GrpcServer {
    place: Place,
    shared: Arc<Shared>,
    calls: Mutex<mpsc::UnboundedReceiver<Call>>,
    task: Option<JoinHandle<()>>,
}

/// More than any test opens.
const MANY_STREAMS: u32 = 1000;

impl GrpcServer {
    pub fn start() -> Self {
        Self::at(Place::Tcp(Port::reserve()), MANY_STREAMS)
    }

    /// One that takes so many streams on a connection.
    pub fn start_narrow(max_streams: u32) -> Self {
        Self::at(Place::Tcp(Port::reserve()), max_streams)
    }

    /// One behind TLS that knows these protocols by ALPN.
    pub fn start_tls(issuer: &Issuer, protocols: &[&str]) -> Self {
        let acceptor = issuer.tls_acceptor();
        let mut config = (**acceptor.config()).clone();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::at(Place::Tls(Port::reserve(), acceptor), MANY_STREAMS)
    }

    pub fn start_unix() -> Self {
        let directory = TempDir::new().expect("a directory for the socket");
        let path = directory.path().join("upstream.sock");
        Self::at(
            Place::Unix {
                path,
                _directory: directory,
            },
            MANY_STREAMS,
        )
    }

    fn at(place: Place, max_streams: u32) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let mut server = Self {
            place,
            shared: Arc::new(Shared {
                max_streams,
                calls: sender,
                connections: AtomicUsize::new(0),
                leaving: watch::Sender::new(0),
            }),
            calls: Mutex::new(calls),
            task: None,
        };
        server.come_up();
        server
    }

    /// What stands in `upstream`.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Tcp(port) => format!("http://{}", port.address()),
            Place::Tls(port, _) => format!("https://localhost:{}", port.address().port()),
            Place::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    /// Listens, again if need be.
    pub fn come_up(&mut self) {
        let shared = Arc::clone(&self.shared);
        let task = match &self.place {
            Place::Tcp(port) => {
                let listener = port.listen();
                tokio::spawn(serve(shared, async move || {
                    listener.accept().await.expect("a connection").0
                }))
            }
            Place::Tls(port, acceptor) => {
                let (listener, acceptor) = (port.listen(), acceptor.clone());
                tokio::spawn(serve(shared, async move || {
                    loop {
                        let (stream, _) = listener.accept().await.expect("a connection");
                        // A client that asks for another protocol hangs up.
                        if let Ok(stream) = acceptor.accept(stream).await {
                            return stream;
                        }
                    }
                }))
            }
            Place::Unix { path, .. } => {
                let listener = UnixListener::bind(path).expect("a Unix socket");
                tokio::spawn(serve(shared, async move || {
                    listener.accept().await.expect("a connection").0
                }))
            }
        };
        self.task = Some(task);
    }

    /// Refuses connections and ends those that are open.
    pub async fn go_down(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Its end is its being cancelled, and the listener is gone by then.
            let _cancelled = within("the server's end", task).await;
        }
    }

    /// Says GOAWAY on every connection that is open: what runs may finish.
    pub fn leave(&self) {
        self.shared.leaving.send_modify(|times| *times += 1);
    }

    /// The next call that reaches it.
    pub async fn next(&self) -> Call {
        let mut calls = self.calls.lock().await;
        within("a call at the server", calls.recv())
            .await
            .expect("a running server")
    }

    /// Whether a call has reached it that no test has asked for.
    pub async fn is_untouched(&self) -> bool {
        self.calls.lock().await.try_recv().is_err()
    }

    /// How many connections have reached it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn serve<S>(shared: Arc<Shared>, accept: impl AsyncFn() -> S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let stream = accept().await;
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        connections.spawn(serve_connection(Arc::clone(&shared), number, stream));
    }
}

async fn serve_connection<S>(shared: Arc<Shared>, number: usize, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut leaving = shared.leaving.subscribe();
    let calls = shared.calls.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let calls = calls.clone();
        async move {
            let (head, body) = request.into_parts();
            let handler = Handler {
                head: head.clone(),
                connection: number,
                calls,
            };
            let request = http::Request::from_parts(head, body);
            let mut grpc =
                tonic::server::Grpc::new(BytesCodec).max_decoding_message_size(usize::MAX);
            Ok::<_, Infallible>(grpc.streaming(handler, request).await)
        }
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(shared.max_streams)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // A broken connection is the test's business, where it matters.
        _ended = connection.as_mut() => return,
        _ = leaving.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}

struct Handler {
    head: Parts,
    connection: usize,
    calls: mpsc::UnboundedSender<Call>,
}

impl tonic::server::StreamingService<Bytes> for Handler {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            head: self.head.clone(),
            connection: self.connection,
            messages: request.into_inner(),
            answer,
        };
        // A test that has ended asks for nothing any more.
        let _ended = self.calls.send(call);
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(Status::aborted("the test has dropped the call")))
        })
    }
}

/// A client, with what it sends with each call.
#[derive(Clone)]
pub struct GrpcClient {
    grpc: tonic::client::Grpc<Channel>,
    metadata: MetadataMap,
}

/// What a client sends: everything at once, or bit by bit.
pub struct Outgoing(mpsc::Receiver<Bytes>, VecDeque<Bytes>);

impl tokio_stream::Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.1.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None => self.0.poll_recv(cx),
        }
    }
}

/// Messages that can be sent one by one; the call's upload ends with the sender.
pub fn outgoing() -> (mpsc::Sender<Bytes>, Outgoing) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Outgoing(receiver, VecDeque::new()))
}

/// One message and no more.
pub fn one(message: &'static str) -> Outgoing {
    let (_, receiver) = mpsc::channel(1);
    Outgoing(receiver, VecDeque::from([Bytes::from(message)]))
}

impl GrpcClient {
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .origin(http::Uri::from_static("http://agents.example.com"))
            .timeout(Duration::from_secs(60));
        let channel = within("a connection", endpoint.connect())
            .await
            .expect("a connection");
        Self {
            grpc: tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX),
            metadata: MetadataMap::new(),
        }
    }

    /// One more field, beside any of the same name.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = value.parse().expect("a metadata value");
        self.metadata.append(name, value);
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    /// One message out, one message back.
    pub async fn unary(
        &self,
        path: &'static str,
        message: &'static str,
    ) -> Result<tonic::Response<Bytes>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let request = self.request(Bytes::from(message));
        let path = http::uri::PathAndQuery::from_static(path);
        within("an answer", grpc.unary(request, path, BytesCodec)).await
    }

    /// Any number either way.
    pub async fn streaming(
        &self,
        path: &'static str,
        messages: Outgoing,
    ) -> Result<tonic::Response<Streaming<Bytes>>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let request = self.request(messages);
        let path = http::uri::PathAndQuery::from_static(path);
        within("an answer", grpc.streaming(request, path, BytesCodec)).await
    }
}

/// The next message, which must come.
pub async fn message(stream: &mut Streaming<Bytes>) -> Bytes {
    within("a message", stream.message())
        .await
        .expect("an unbroken call")
        .expect("a message before the end")
}
