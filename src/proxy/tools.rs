//! Answers to MCP messages, made for their caller: with the tools that it may call, and to be kept by it alone.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName};
use http::{Method, Response};
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use super::body::Upstream;
use super::first_sight::Overloaded;
use super::long_reads::LongReads;
use super::{Refusal, Shared};
use crate::budget::{Exhausted, Lease};
use crate::canonical::CanonicalRequest;
use crate::clock::UnixTime;
use crate::mcp::{self, AnswerError, Call, Doubt, Events, Held, MAX_ANSWER_BYTES, Message, View};
use crate::policy::{Caller, Matched, Permit};
use crate::upstream::{Failure, ResponseBody};

/// What is said of the bytes of a body, and is wrong of fewer.
const DIGESTS: [HeaderName; 5] = [
    ETAG,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// What an answer, or an event of one, takes before it counts: it is a part of what its connection costs.
const UNLEASED: usize = 8 * 1024;

/// Whether the answer to a request is looked at: one to messages, or a stream on which an answer is taken up
/// again.
pub(super) fn is_looked_at(matched: &Matched<'_>, method: &Method) -> bool {
    matched.is_gated() && (*method == Method::GET || *method == Method::POST)
}

/// What one caller may learn on one path, under the rules of the moment.
pub(super) struct ToolFilter {
    shared: Arc<Shared>,
    request: CanonicalRequest,
    caller: Caller,
    is_stream: bool,
    doubt: Doubt,
    /// Of the bytes of answers that the process may hold.
    lease: Lease,
}

impl ToolFilter {
    pub(super) fn new(
        shared: &Arc<Shared>,
        permit: &Permit<'_>,
        messages: &[Message],
        lease: Lease,
    ) -> Self {
        let is_stream = *permit.request().method() == Method::GET;
        Self {
            shared: Arc::clone(shared),
            request: permit.request().clone(),
            caller: permit
                .identity()
                .map_or(Caller::Anonymous, |one| Caller::Verified(Arc::clone(one))),
            is_stream,
            doubt: doubt(is_stream, messages),
            lease,
        }
    }

    fn permits(&self, tool: &str) -> bool {
        let Ok(call) = Call::tool_call(tool) else {
            return false;
        };
        let settings = self.shared.current();
        let call = [Message::Call(call)];
        let readings = self.request.readings();
        let policy = &settings.config.policy;
        let matched = policy.matched_with(Method::POST.as_str(), &readings, &call);
        matched.judge(self.caller.claims()).is_ok()
    }

    /// What is done with it, as of now.
    fn with_view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let token_life = match &self.caller {
            Caller::Anonymous => None,
            Caller::Verified(identity) => {
                Some(identity.token().valid_until().since(UnixTime::now()))
            }
        };
        look(&View {
            may_call: &|tool| self.permits(tool),
            token_life,
        })
    }

    /// Filters an answer: one of JSON as a whole, an event stream event by event.
    pub(super) async fn apply(
        mut self,
        response: Response<ResponseBody>,
        expiry: Option<Instant>,
        turns: &Arc<LongReads>,
    ) -> Result<Response<Upstream>, Refusal> {
        let (mut head, body) = response.into_parts();
        if body.is_end_stream() {
            return Ok(Response::from_parts(head, Upstream::Pooled(body)));
        }
        let kind = Kind::of(&head.headers);
        let coded = head
            .headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let body = match kind {
            // An error in words, or what a server shows to a browser, is nothing of MCP's.
            Kind::Other if self.is_stream || !head.status.is_success() => Upstream::Pooled(body),
            Kind::Other => self.pass_or(
                body,
                "an answer to an MCP message that is neither JSON nor an event stream",
            )?,
            _ if coded => self.pass_or(
                body,
                "an answer with a Content-Encoding, where tools are filtered",
            )?,
            Kind::Events => {
                head.headers.remove(CONTENT_LENGTH);
                Upstream::Events(Box::new(EventBody {
                    body: Some(body),
                    events: Events::new(self.doubt),
                    filter: self,
                    turns: Arc::clone(turns),
                    waiting: None,
                }))
            }
            Kind::Json => self.read(&mut head.headers, body, expiry, turns).await?,
        };
        Ok(Response::from_parts(head, body))
    }

    /// What cannot be read.
    fn pass_or(&self, body: ResponseBody, problem: &'static str) -> Result<Upstream, Refusal> {
        match self.doubt {
            Doubt::Pass => Ok(Upstream::Pooled(body)),
            Doubt::Refuse => Err(Refusal::Answer(AnswerError::Kind(problem))),
        }
    }

    /// An answer of JSON, which is held until it is whole.
    async fn read(
        &mut self,
        headers: &mut HeaderMap,
        mut body: ResponseBody,
        expiry: Option<Instant>,
        turns: &LongReads,
    ) -> Result<Upstream, Refusal> {
        let patience = self.shared.current().config.timeouts.response_header;
        let deadline = Instant::now().checked_add(patience);
        let deadline = deadline.into_iter().chain(expiry).min();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let announced = announced.min(MAX_ANSWER_BYTES);
        // All of it at once: of many that come together, each would have a part, and none the rest.
        let room = self.lease.resize(announced.saturating_sub(UNLEASED));
        let mut held = Held::announced(announced);
        let whole = async {
            match room {
                Ok(()) => collect(&mut body, &mut held, announced, &mut self.lease).await,
                Err(why) => Ok(Collected::NoRoom(why)),
            }
        };
        let whole = match deadline {
            None => Ok(whole.await),
            Some(deadline) => tokio::time::timeout_at(deadline, whole).await,
        };
        let more = match (whole, self.doubt) {
            (Ok(Ok(Collected::Whole)), _) => {
                let filter = || self.filter(headers, &held);
                let filtered = turns.in_turn(held.bytes().len(), filter).await;
                let kept = filtered.map_err(|Overloaded| Refusal::Overloaded)??;
                let whole = kept.unwrap_or_else(|| held.into_bytes());
                return Ok(Upstream::Read(Some(leased(whole, &mut self.lease))));
            }
            (Ok(Err(failure)), _) => return Err(failure.into()),
            (Ok(Ok(Collected::TooLarge(_))), Doubt::Refuse) => {
                return Err(Refusal::Answer(AnswerError::TooLarge));
            }
            (Ok(Ok(Collected::NoRoom(why))), Doubt::Refuse) => return Err(Refusal::Exhausted(why)),
            (Err(_), Doubt::Refuse) => return Err(Failure::ResponseTimeout(patience).into()),
            (Ok(Ok(Collected::TooLarge(more))), Doubt::Pass) => more,
            (Ok(Ok(Collected::NoRoom(_))) | Err(_), Doubt::Pass) => Bytes::new(),
        };
        let begun = [leased(held.into_bytes(), &mut self.lease), more];
        Ok(Upstream::Begun(Box::new(Begun { begun, body })))
    }

    /// What an answer becomes, if it changes.
    fn filter(&self, headers: &mut HeaderMap, held: &Held) -> Result<Option<Vec<u8>>, Refusal> {
        let kept = self.with_view(|view| mcp::filter_answer(held.bytes(), view));
        let kept = match (kept, self.doubt) {
            (Ok(kept), _) => kept,
            (Err(_), Doubt::Pass) => None,
            (Err(error), Doubt::Refuse) => return Err(Refusal::Answer(error)),
        };
        if kept.is_some() {
            headers.remove(CONTENT_LENGTH);
            for name in DIGESTS {
                headers.remove(name);
            }
        }
        Ok(kept)
    }
}

/// What cannot be read passes only where nothing that was asked for lists tools, or may be kept: a tool's
/// result may be large, and is its caller's own.
fn doubt(is_stream: bool, messages: &[Message]) -> Doubt {
    let asks = |message: &Message| matches!(message, Message::Call(call) if call.is_cacheable());
    if is_stream || messages.is_empty() || messages.iter().any(asks) {
        Doubt::Refuse
    } else {
        Doubt::Pass
    }
}

/// What an answer is.
enum Kind {
    Json,
    Events,
    Other,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Self {
        let mut kinds = headers.get_all(CONTENT_TYPE).iter();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else {
            return Self::Other;
        };
        let kind = kind.to_str().unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if kind.eq_ignore_ascii_case("text/event-stream") {
            Self::Events
        } else {
            Self::Other
        }
    }
}

/// What has come of a body.
enum Collected {
    /// All of it.
    Whole,
    /// More than is held; this part of it is not.
    TooLarge(Bytes),
    /// More than there is room for.
    NoRoom(Exhausted),
}

/// What is held grows by one piece before it is leased: each worker thread does this for one answer at a time.
async fn collect(
    body: &mut ResponseBody,
    held: &mut Held,
    announced: usize,
    lease: &mut Lease,
) -> Result<Collected, Failure> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        // Trailers say nothing of JSON.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if held.push(&data).is_err() {
            return Ok(Collected::TooLarge(data));
        }
        let size = held.size().max(announced);
        if let Err(why) = lease.resize(size.saturating_sub(UNLEASED)) {
            return Ok(Collected::NoRoom(why));
        }
    }
    Ok(Collected::Whole)
}

/// Bytes that keep what they take until the client has them.
struct Leased {
    bytes: Vec<u8>,
    _lease: Lease,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes from the lease what these bytes need.
fn leased(mut bytes: Vec<u8>, lease: &mut Lease) -> Bytes {
    if bytes.len() <= UNLEASED {
        return bytes.into();
    }
    bytes.shrink_to_fit();
    let lease = lease.split(bytes.len());
    Bytes::from_owner(Leased {
        bytes,
        _lease: lease,
    })
}

/// A body that passes unread, after it was held for a while.
pub(super) struct Begun {
    begun: [Bytes; 2],
    body: ResponseBody,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begun")
    }
}

impl Begun {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.begun.iter_mut().find(|part| !part.is_empty()) {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(part))))),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.begun.iter().all(Bytes::is_empty) && self.body.is_end_stream()
    }
}

/// An event stream on its way through the filter.
pub(super) struct EventBody {
    /// `None` at its end.
    body: Option<ResponseBody>,
    events: Events,
    filter: ToolFilter,
    turns: Arc<LongReads>,
    /// Bytes behind which a long event may be whole, and the turn that it needs then.
    waiting: Option<(Bytes, Turn)>,
}

type Turn = Pin<Box<dyn Future<Output = Result<(), Overloaded>> + Send>>;

impl fmt::Debug for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventBody")
    }
}

impl EventBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            let mut out = Vec::new();
            let data = match ready!(self.poll_data(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(data)) => data,
            };
            let events = &mut self.events;
            let filtered = self.filter.with_view(|view| match &data {
                Some(data) => events.feed(data, view, &mut out),
                None => events.finish(view, &mut out),
            });
            let filtered = filtered.map_err(|error| Failure::Unsound(error.problem()));
            if let Err(failure) = filtered.and_then(|()| self.hold(&mut out)) {
                self.body = None;
                return Poll::Ready(Some(Err(failure)));
            }
            if !out.is_empty() {
                let out = leased(out, &mut self.filter.lease);
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }

    /// Leases what is held now: of an event that is not whole, and of what is to be passed on.
    fn hold(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let size = self.events.size().saturating_add(out.capacity());
        let lease = &mut self.filter.lease;
        let Err(why) = lease.resize(size.saturating_sub(UNLEASED)) else {
            return Ok(());
        };
        if self.events.size() > UNLEASED {
            let given_up = self.events.give_up(out);
            return given_up.map_err(|_| Failure::Exhausted(why));
        }
        Ok(())
    }

    /// More of the stream, `Some(Ok(None))` at its end, and `None` behind that.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Option<Bytes>, Failure>>> {
        loop {
            if let Some((data, turn)) = &mut self.waiting {
                // With too many before it, it goes at once: nothing is gained by ending the stream.
                _ = ready!(turn.as_mut().poll(cx));
                let data = std::mem::take(data);
                self.waiting = None;
                return Poll::Ready(Some(Ok(Some(data))));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            let data = match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers say nothing of an event stream.
                    Err(_) => continue,
                },
                None => {
                    self.body = None;
                    return Poll::Ready(Some(Ok(None)));
                }
            };
            let length = self.events.size().saturating_add(data.len());
            if !LongReads::is_long(length) || !data.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
            {
                return Poll::Ready(Some(Ok(Some(data))));
            }
            let turns = Arc::clone(&self.turns);
            let turn = async move { turns.in_turn(length, || ()).await };
            self.waiting = Some((data, Box::pin(turn)));
        }
    }

    pub(super) const fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.waiting.is_none()
    }
}
