//! What a connection is doing, so that its patience can be measured.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::Service;

use super::{BoxError, Client, ConnectionSettings};
use crate::clock::after;

/// Written by the connection's I/O and its requests, read by whoever moves it along. Times are
/// milliseconds since the connection began.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    running: AtomicUsize,
    /// Whether the last request has a body that was not read to its end yet.
    body_open: AtomicBool,
    /// How many of the running ones wait for the client to take what is there for it.
    owed: AtomicUsize,
    /// When anything was last taken.
    last_taken: AtomicU64,
    last_end: AtomicU64,
    /// When the head that is arriving began; [`NO_HEAD`] when none is.
    head_began: AtomicU64,
    in_first_line: AtomicBool,
    fragment: AtomicBool,
}

const NO_HEAD: u64 = u64::MAX;

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            running: AtomicUsize::new(0),
            body_open: AtomicBool::new(false),
            owed: AtomicUsize::new(0),
            last_taken: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            // A newcomer has as long for its first head as for any other.
            head_began: AtomicU64::new(0),
            in_first_line: AtomicBool::new(true),
            fragment: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NO_HEAD - 1)
    }

    /// Bytes arrived. Between requests they begin a head.
    pub(super) fn on_read(&self, bytes: &[u8], http1: bool) {
        let in_request = self.running.load(Ordering::Relaxed) > 0;
        // What follows a body that nobody read may still be that body.
        if !http1 || in_request || self.body_open.load(Ordering::Relaxed) {
            return;
        }
        if self.head_began.load(Ordering::Relaxed) == NO_HEAD {
            self.head_began.store(self.now(), Ordering::Relaxed);
            self.in_first_line.store(true, Ordering::Relaxed);
        }
        if self.in_first_line.load(Ordering::Relaxed) {
            let line_end = bytes.iter().position(|byte| *byte == b'\n');
            let line = bytes
                .get(..line_end.unwrap_or(bytes.len()))
                .unwrap_or_default();
            if line.contains(&b'#') {
                self.fragment.store(true, Ordering::Relaxed);
            }
            if line_end.is_some() {
                self.in_first_line.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Whether a request has come at all.
    pub(super) fn has_served(&self) -> bool {
        self.head_began.load(Ordering::Relaxed) != 0
    }

    /// The body of the running request was read to its end.
    pub(super) fn on_body_end(&self) {
        self.body_open.store(false, Ordering::Relaxed);
    }

    /// Whether a fragment was seen since the last question.
    pub(super) fn take_fragment(&self) -> bool {
        self.fragment.swap(false, Ordering::Relaxed)
    }

    /// Whether whatever arrives now can only be a later request, sent ahead of its turn.
    pub(super) fn is_ahead_of_its_turn(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0 && !self.body_open.load(Ordering::Relaxed)
    }

    fn on_request(&self, has_body: bool) {
        self.body_open.store(has_body, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.head_began.store(NO_HEAD, Ordering::Relaxed);
    }

    fn on_response_end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.last_end.store(self.now(), Ordering::Relaxed);
    }

    /// There is something for the client to take.
    fn on_owed(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.last_taken.store(self.now(), Ordering::Relaxed);
    }

    /// It was taken, or is not there any more.
    fn on_taken(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
        self.last_taken.store(self.now(), Ordering::Relaxed);
    }

    /// When the connection's patience ends, as things stand. An upstream may be silent for as long
    /// as it likes; a client that takes nothing of what is there for it may not.
    pub(super) fn deadline(&self, settings: &ConnectionSettings) -> Instant {
        let running = self.running.load(Ordering::Relaxed);
        if running > 0 && self.owed.load(Ordering::Relaxed) >= running {
            return after(self.at(&self.last_taken), settings.idle_timeout);
        }
        if running > 0 {
            return after(Instant::now(), settings.idle_timeout);
        }
        match self.head_began.load(Ordering::Relaxed) {
            NO_HEAD => after(self.at(&self.last_end), settings.idle_timeout),
            _ => after(self.at(&self.head_began), settings.header_timeout),
        }
    }

    fn at(&self, milliseconds: &AtomicU64) -> Instant {
        after(
            self.began,
            Duration::from_millis(milliseconds.load(Ordering::Relaxed)),
        )
    }
}

/// Counts the requests of a connection while they run, bodies included.
pub(super) struct Counted<H> {
    handler: H,
    client: Client,
}

impl<H> Counted<H> {
    pub(super) const fn new(handler: H, client: Client) -> Self {
        Self { handler, client }
    }
}

impl<H, F, B> Service<Request<Incoming>> for Counted<H>
where
    H: Fn(Request<Incoming>, Client) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<CountedBody<B>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        let running = Running::new(Arc::clone(&self.client.activity), has_body);
        let response = (self.handler)(request, self.client.clone());
        Box::pin(async move {
            let response = response.await;
            Ok(response.map(|body| CountedBody::new(body, running)))
        })
    }
}

struct Running(Arc<Activity>);

impl Running {
    fn new(activity: Arc<Activity>, has_body: bool) -> Self {
        activity.on_request(has_body);
        Self(activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.on_response_end();
    }
}

/// A response body that counts as running until it is dropped. hyper asks for a frame when it has
/// room for one; between a frame and the next question, it is the client's turn.
pub(super) struct CountedBody<B> {
    body: Pin<Box<B>>,
    running: Running,
    owed: bool,
}

impl<B> CountedBody<B> {
    fn new(body: B, running: Running) -> Self {
        running.0.on_owed();
        Self {
            body: Box::pin(body),
            running,
            owed: true,
        }
    }

    fn set_owed(&mut self, owed: bool) {
        match (self.owed, owed) {
            (false, true) => self.running.0.on_owed(),
            (true, false) => self.running.0.on_taken(),
            (true, true) | (false, false) => {}
        }
        self.owed = owed;
    }
}

impl<B> Drop for CountedBody<B> {
    fn drop(&mut self) {
        self.set_owed(false);
    }
}

impl<B: http_body::Body> http_body::Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.set_owed(false);
        let frame = self.body.as_mut().poll_frame(cx);
        self.set_owed(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
