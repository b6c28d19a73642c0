//! What a connection is doing, so that its patience can be measured.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::connections::{Connections, Need};
use super::length_follower::LengthFollower;
use super::slots::Place;
use super::{Answering, Client, ConnectionSettings, Handler, Standing};
use crate::budget::{Budget, Exhausted, FIRST_BUFFER, Flow, Lease, Share};
use crate::clock::after;

/// Written by the connection's I/O and its requests, read by whoever moves it along. Times are
/// milliseconds since the connection began.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// What counts as now while the connection is moved along; [`NO_TURN`] where requests run in tasks
    /// of their own and have to look at the clock.
    turn: AtomicU64,
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
    /// Whether anything of that head is here.
    head_has_bytes: AtomicBool,
    /// Whether a head of HTTP/2 has begun and not ended. It may stand beside running requests.
    http2_head_is_open: AtomicBool,
    in_first_line: AtomicBool,
    fragment: AtomicBool,
    /// What hyper takes out of heads of HTTP/1.
    lengths: LengthFollower,
    /// Whether every answer is on the wire and no request has come since.
    between_requests: AtomicBool,
    switched: AtomicBool,
    /// Interim answers that wait for a place between hyper's writes.
    interim: Mutex<Vec<u8>>,
    has_interim: AtomicBool,
    /// Where hyper hands over the connection once it is done with it, after a request with `Upgrade`.
    on_upgrade: Mutex<Option<OnUpgrade>>,
    /// Held by one request of the connection at a time.
    pub(super) standing: tokio::sync::Mutex<Standing>,
    connections: Arc<Connections>,
    /// Whether, and why, the connection is asked to go.
    asked_to_go: AtomicU8,
    asking: Notify,
    /// Whether it is kept only to say its last words.
    is_in_farewell: AtomicBool,
    /// Bytes that are leased for the head that arrives, and for the buffer that bodies are read into.
    held_head: AtomicUsize,
    held_buffer: AtomicUsize,
    /// Whether its head waits for bytes.
    waits_for_head: AtomicBool,
}

/// Values of [`Activity::asked_to_go`].
const NOT_ASKED: u8 = 0;
const ASKED_FOR_PLACE: u8 = 1;
const ASKED_FOR_HEAD: u8 = 2;
/// Nobody is there who could be asked.
const GONE: u8 = 3;

/// What a connection can be interrupted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// A request runs, or its answer is not on the wire yet.
    Requests,
    /// A head has begun and is not complete.
    Head,
    /// Nothing.
    Nothing,
}

const NO_HEAD: u64 = u64::MAX;

const NO_TURN: u64 = u64::MAX;

/// The most that waits of interim answers. Early hints take some hundreds of bytes; what is over
/// is dropped, since they are only hints.
const MAX_INTERIM_BYTES: usize = 16 * 1024;

impl Activity {
    pub(super) fn new(connections: &Arc<Connections>) -> Self {
        Self {
            connections: Arc::clone(connections),
            asked_to_go: AtomicU8::new(NOT_ASKED),
            asking: Notify::new(),
            is_in_farewell: AtomicBool::new(false),
            held_head: AtomicUsize::new(0),
            held_buffer: AtomicUsize::new(0),
            waits_for_head: AtomicBool::new(false),
            began: Instant::now(),
            turn: AtomicU64::new(NO_TURN),
            running: AtomicUsize::new(0),
            body_open: AtomicBool::new(false),
            owed: AtomicUsize::new(0),
            last_taken: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            // A newcomer has as long for its first head as for any other.
            head_began: AtomicU64::new(0),
            head_has_bytes: AtomicBool::new(false),
            http2_head_is_open: AtomicBool::new(false),
            in_first_line: AtomicBool::new(true),
            fragment: AtomicBool::new(false),
            lengths: LengthFollower::new(),
            between_requests: AtomicBool::new(true),
            switched: AtomicBool::new(false),
            interim: Mutex::new(Vec::new()),
            on_upgrade: Mutex::new(None),
            has_interim: AtomicBool::new(false),
            standing: tokio::sync::Mutex::default(),
        }
    }

    /// The connection is moved along now, and all that runs on it in the same turn: each of its events
    /// would read the clock otherwise.
    pub(super) fn begin_turn(&self, now: Instant) {
        self.turn.store(self.since_began(now), Ordering::Relaxed);
    }

    fn since_began(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.began);
        u64::try_from(elapsed.as_millis()).unwrap_or(NO_HEAD - 1)
    }

    fn now(&self) -> u64 {
        match self.turn.load(Ordering::Relaxed) {
            NO_TURN => self.since_began(Instant::now()),
            turn => turn,
        }
    }

    /// Bytes of HTTP/2 arrived, at the end of which a header block is open or not.
    pub(super) fn on_http2_read(&self, is_in_head: bool) {
        if is_in_head == self.http2_head_is_open.load(Ordering::Relaxed) {
            return;
        }
        self.http2_head_is_open.store(is_in_head, Ordering::Relaxed);
        // The first head has had its time from the beginning of the connection.
        if self.has_served() {
            let began = if is_in_head { self.now() } else { NO_HEAD };
            self.head_began.store(began, Ordering::Relaxed);
        }
    }

    /// Bytes of HTTP/1 arrived. Between requests they begin a head; answers whether they belong to one.
    pub(super) fn on_read(&self, bytes: &[u8]) -> bool {
        let in_request = self.running.load(Ordering::Relaxed) > 0;
        // A body that was not read is over with its answer: hyper has thrown it away, or ends the connection.
        if !in_request && !self.switched.load(Ordering::Relaxed) {
            self.lengths.on_read(bytes);
        }
        // What follows a body that nobody read may still be that body.
        if in_request || self.body_open.load(Ordering::Relaxed) {
            return false;
        }
        if self.head_began.load(Ordering::Relaxed) == NO_HEAD {
            self.head_began.store(self.now(), Ordering::Relaxed);
            self.in_first_line.store(true, Ordering::Relaxed);
        }
        self.head_has_bytes.store(true, Ordering::Relaxed);
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
        true
    }

    /// Bytes of HTTP/1 are about to be read.
    pub(super) fn before_read(&self) {
        self.lengths.before_read();
    }

    /// Whether a request has come at all.
    pub(super) fn has_served(&self) -> bool {
        self.head_began.load(Ordering::Relaxed) != 0
    }

    /// Whether a head has begun to arrive and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.head_has_bytes.load(Ordering::Relaxed)
    }

    /// Whether the first line of a head is all that has arrived of it.
    pub(super) fn is_in_first_line(&self) -> bool {
        self.is_in_head() && self.in_first_line.load(Ordering::Relaxed)
    }

    /// Whether there is nothing that hyper could be answering.
    pub(super) fn is_between_requests(&self) -> bool {
        self.between_requests.load(Ordering::Relaxed)
    }

    /// Whether the last request has a body that was not read to its end.
    pub(super) fn has_open_body(&self) -> bool {
        self.body_open.load(Ordering::Relaxed)
    }

    /// Keeps what the latest request with `Upgrade` came with. hyper hands the connection over there when it is
    /// done, whether or not anything was switched.
    fn leave_upgrade(&self, on_upgrade: OnUpgrade) {
        *self.on_upgrade() = Some(on_upgrade);
    }

    pub(super) fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.on_upgrade().take()
    }

    fn on_upgrade(&self) -> MutexGuard<'_, Option<OnUpgrade>> {
        self.on_upgrade
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connection is doing, as far as it is known.
    pub(super) fn doing(&self) -> Doing {
        let is_busy = self.running.load(Ordering::Relaxed) > 0
            || self.switched.load(Ordering::Relaxed)
            || !self.between_requests.load(Ordering::Relaxed);
        if is_busy {
            Doing::Requests
        } else if self.is_in_head() || self.http2_head_is_open.load(Ordering::Relaxed) {
            Doing::Head
        } else {
            Doing::Nothing
        }
    }

    /// Since when the connection has done nothing that anybody waits for: since its last answer, since the
    /// head that is still incomplete began, or since its own beginning. `None` while it is of use, and when
    /// it was asked to go already.
    pub(super) fn inactive_since(&self) -> Option<Instant> {
        if self.asked_to_go.load(Ordering::Relaxed) != NOT_ASKED {
            return None;
        }
        if self.is_in_farewell.load(Ordering::Relaxed) {
            return Some(self.began);
        }
        if self.doing() == Doing::Requests {
            return None;
        }
        Some(if self.head_began.load(Ordering::Relaxed) == NO_HEAD {
            self.at(&self.last_end)
        } else {
            self.at(&self.head_began)
        })
    }

    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    pub(super) fn buffers(&self) -> &Budget {
        &self.connections.budgets.buffers
    }

    /// Asks the connection to go as soon as it can; false when it was asked before.
    pub(super) fn request_to_go(&self, need: Need) -> bool {
        let asked = match need {
            Need::Place => ASKED_FOR_PLACE,
            Need::Head => ASKED_FOR_HEAD,
        };
        let is_new = self
            .asked_to_go
            .compare_exchange(NOT_ASKED, asked, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if is_new {
            self.asking.notify_one();
        }
        is_new
    }

    /// Whether the connection is asked to go.
    pub(super) fn is_asked_to_go(&self) -> bool {
        self.asked_to_go.load(Ordering::Relaxed) != NOT_ASKED
    }

    /// Ready when the connection is asked to go.
    pub(super) fn asked_to_go(&self) -> Notified<'_> {
        self.asking.notified()
    }

    /// The connection stays, because a request has come or it has still something to say.
    pub(super) fn stay(&self) {
        self.answer_request_to_go(NOT_ASKED);
    }

    /// The connection has gone.
    pub(super) fn go(&self) {
        self.answer_request_to_go(GONE);
    }

    fn answer_request_to_go(&self, state: u8) {
        match self.asked_to_go.swap(state, Ordering::Relaxed) {
            ASKED_FOR_PLACE => self.connections.on_answer(Need::Place),
            ASKED_FOR_HEAD => self.connections.on_answer(Need::Head),
            _ => {}
        }
    }

    /// Nothing but last words is left of the connection.
    pub(super) fn on_farewell(&self) {
        self.is_in_farewell.store(true, Ordering::Relaxed);
    }

    pub(super) fn held_head(&self) -> usize {
        self.held_head.load(Ordering::Relaxed)
    }

    pub(super) fn hold_head(&self, bytes: usize) {
        self.held_head.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn held_buffer(&self) -> usize {
        self.held_buffer.load(Ordering::Relaxed)
    }

    pub(super) fn hold_buffer(&self, bytes: usize) {
        self.held_buffer.store(bytes, Ordering::Relaxed);
    }

    /// Whether the connection was not waiting for bytes of its head already.
    pub(super) fn begin_wait(&self) -> bool {
        !self.waits_for_head.swap(true, Ordering::SeqCst)
    }

    pub(super) fn end_wait(&self) {
        self.waits_for_head.store(false, Ordering::SeqCst);
    }

    /// The connection belongs to a tunnel from here on.
    fn on_switched(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Everything that was written is on the wire; answers whether no request runs any more.
    pub(super) fn on_flushed(&self) -> bool {
        let is_over =
            self.running.load(Ordering::Relaxed) == 0 && !self.switched.load(Ordering::Relaxed);
        if is_over {
            self.between_requests.store(true, Ordering::Relaxed);
        }
        is_over
    }

    /// Leaves an interim answer for the next flush.
    pub(super) fn leave_interim(&self, head: &[u8]) {
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        if interim.len().saturating_add(head.len()) <= MAX_INTERIM_BYTES {
            interim.extend_from_slice(head);
            self.has_interim.store(true, Ordering::Relaxed);
        }
    }

    /// The interim answers that were left.
    pub(super) fn take_interim(&self) -> Option<Vec<u8>> {
        if !self.has_interim.load(Ordering::Relaxed) {
            return None;
        }
        self.has_interim.store(false, Ordering::Relaxed);
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *interim))
    }

    /// The body of the running request was read to its end.
    pub(super) fn on_body_end(&self) {
        self.body_open.store(false, Ordering::Relaxed);
        // It may have gone on after its answer, and was taken for a head then.
        self.lengths.begin();
    }

    /// Whether a fragment was seen since the last question.
    pub(super) fn take_fragment(&self) -> bool {
        self.fragment.swap(false, Ordering::Relaxed)
    }

    /// Whether whatever arrives now can only be a later request, sent ahead of its turn.
    pub(super) fn is_ahead_of_its_turn(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0 && !self.body_open.load(Ordering::Relaxed)
    }

    pub(super) fn on_request(&self, has_body: bool) {
        self.body_open.store(has_body, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.head_began.store(NO_HEAD, Ordering::Relaxed);
        self.head_has_bytes.store(false, Ordering::Relaxed);
        self.lengths.begin();
        self.between_requests.store(false, Ordering::Relaxed);
    }

    pub(super) fn on_response_end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.last_end.store(self.now(), Ordering::Relaxed);
    }

    /// There is something for the client to take.
    fn on_owed(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.on_progress();
    }

    /// It was taken, or is not there any more.
    fn on_taken(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
        self.on_progress();
    }

    /// The client takes what is there for it.
    fn on_progress(&self) {
        self.last_taken.store(self.now(), Ordering::Relaxed);
    }

    /// When the connection's patience ends, as things stand. An upstream may be silent for as long
    /// as it likes; a client that takes nothing of what is there for it may not.
    pub(super) fn deadline(&self, settings: &ConnectionSettings, now: Instant) -> Instant {
        let running = self.running.load(Ordering::Relaxed);
        let head_began = self.head_began.load(Ordering::Relaxed);
        let head_is_due = self.http2_head_is_open.load(Ordering::Relaxed) || running == 0;
        if head_is_due && head_began != NO_HEAD {
            return after(self.at(&self.head_began), settings.header_timeout);
        }
        if running == 0 {
            return after(self.at(&self.last_end), settings.idle_timeout);
        }
        if self.owed.load(Ordering::Relaxed) >= running {
            return after(self.at(&self.last_taken), settings.idle_timeout);
        }
        after(now, settings.idle_timeout)
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
    /// What the heads of the connection's requests hold together, over HTTP/2.
    heads: Option<Share>,
}

impl<H> Counted<H> {
    pub(super) fn new(handler: H, client: Client, is_http2: bool) -> Self {
        Self {
            handler,
            client,
            heads: is_http2.then(Share::new),
        }
    }

    /// What a request over HTTP/2 takes beside what its connection has: over HTTP/1 there is one at a time,
    /// and its head is accounted for where it is read.
    fn admit(&self, request: &Request<Incoming>) -> Result<Option<Admission>, Exhausted> {
        let Some(share) = &self.heads else {
            return Ok(None);
        };
        let activity = &self.client.0.activity;
        let is_first = activity.running.load(Ordering::Relaxed) == 0;
        let bytes = head_bytes(request).saturating_sub(FIRST_BUFFER);
        if is_first && bytes == 0 {
            return Ok(None);
        }
        let place = if is_first {
            None
        } else {
            Some(self.client.0.slot.place_for_stream()?)
        };
        let share = self.client.has_share().then(|| share.clone());
        let mut head = activity.connections.budgets.heads.lease(share);
        head.grow(bytes)?;
        Ok(Some(Admission(Box::new((place, head)))))
    }

    /// Puts back the `Content-Length` that hyper has taken out of a head with `Transfer-Encoding`, so that what
    /// checks the head sees both.
    fn restore_length(&self, request: &mut Request<Incoming>) {
        let headers = request.headers_mut();
        if headers.contains_key(TRANSFER_ENCODING) && self.client.0.activity.lengths.has_length() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
}

/// What the fields of a head take, with the map that they are in.
fn head_bytes(request: &Request<Incoming>) -> usize {
    /// A field's place in the map (RFC 9113 §6.5.2 counts half of it).
    const FIELD: usize = 64;
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| {
        let text = name.as_str().len().saturating_add(value.len());
        text.saturating_add(FIELD)
    });
    let target = request.uri().path_and_query();
    target
        .map_or(0, |target| target.as_str().len())
        .saturating_add(fields.fold(0, usize::saturating_add))
}

/// What a request over HTTP/2 holds as long as it runs. Boxed, since most hold nothing.
struct Admission(#[expect(dead_code, reason = "held, not read")] Box<(Option<Place>, Lease)>);

impl<H: Handler> Service<Request<Incoming>> for Counted<H> {
    type Response = Response<CountedBody<H::Body>>;
    type Error = std::convert::Infallible;
    type Future = CountedAnswer<H::Body>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let has_body = !request.body().is_end_stream();
        if has_body {
            self.restore_length(&mut request);
        }
        if let Some(on_upgrade) = request.extensions_mut().remove() {
            self.client.0.activity.leave_upgrade(on_upgrade);
        }
        let (admission, refused) = match self.admit(&request) {
            Ok(admission) => (admission, None),
            Err(why) => (None, Some(why)),
        };
        let activity = Arc::clone(&self.client.0.activity);
        let running = Running::new(activity, has_body, admission);
        let client = self.client.clone();
        CountedAnswer {
            answer: match refused {
                None => self.handler.answer(request, client),
                Some(why) => self.handler.refuse(request, client, why),
            },
            running: Some(running),
        }
    }
}

/// An answer to come, whose request counts as running.
pub(super) struct CountedAnswer<B> {
    answer: Answering<B>,
    /// Until the answer is there.
    running: Option<Running>,
}

impl<B> Future for CountedAnswer<B> {
    type Output = Result<Response<CountedBody<B>>, std::convert::Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.answer).poll(cx));
        let Some(running) = self.running.take() else {
            return Poll::Pending;
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            running.activity.on_switched();
        }
        Poll::Ready(Ok(response.map(|body| CountedBody::new(body, running))))
    }
}

struct Running {
    activity: Arc<Activity>,
    _admission: Option<Admission>,
}

impl Running {
    fn new(activity: Arc<Activity>, has_body: bool, admission: Option<Admission>) -> Self {
        activity.on_request(has_body);
        Self {
            activity,
            _admission: admission,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.activity.on_response_end();
    }
}

/// A response body that counts as running until it is dropped. hyper asks for a frame when it has
/// room for one; between a frame and the next question, it is the client's turn.
pub(super) struct CountedBody<B> {
    body: B,
    running: Running,
    owed: bool,
    /// What hyper has of it and the client has not, once there is a large piece.
    flow: Option<Flow>,
}

impl<B> CountedBody<B> {
    fn new(body: B, running: Running) -> Self {
        running.activity.on_owed();
        Self {
            body,
            running,
            owed: true,
            flow: None,
        }
    }
}

impl<B> CountedBody<B> {
    fn pass(&mut self, data: Bytes) -> Bytes {
        let buffers = self.running.activity.buffers();
        self.flow
            .get_or_insert_with(|| Flow::new(buffers))
            .pass(data)
    }
}

fn is_large(frame: &http_body::Frame<Bytes>) -> bool {
    frame
        .data_ref()
        .is_some_and(|data| Flow::counts(data.len()))
}

impl<B> Drop for CountedBody<B> {
    fn drop(&mut self) {
        if self.owed {
            self.running.activity.on_taken();
        }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        // While it is held back, it is the client's turn.
        if let Some(flow) = &self.flow {
            ready!(flow.poll_ready(cx));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match (self.owed, frame.is_ready()) {
            (false, true) => self.running.activity.on_owed(),
            (true, false) => self.running.activity.on_taken(),
            // One frame was taken, and there is another.
            (true, true) => self.running.activity.on_progress(),
            (false, false) => {}
        }
        self.owed = frame.is_ready();
        match frame {
            Poll::Ready(Some(Ok(frame))) if is_large(&frame) => {
                Poll::Ready(Some(Ok(frame.map_data(|data| self.pass(data)))))
            }
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
