//! Answers that list tools, with those that their caller may call.

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
use super::{Refusal, Shared};
use crate::canonical::CanonicalRequest;
use crate::mcp::{self, AnswerError, Call, Events, MAX_ANSWER_BYTES, Message};
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

/// Whether the answer to a request may list tools: one that asks for them, or a stream on which an answer
/// is taken up again.
pub(super) fn may_be_listed(matched: &Matched<'_>, method: &Method, messages: &[Message]) -> bool {
    let asks = |message: &Message| matches!(message, Message::Call(call) if call.lists_tools());
    matched.is_gated() && (*method == Method::GET || messages.iter().any(asks))
}

/// The tools that one caller may call on one path, under the rules of the moment.
pub(super) struct ToolFilter {
    shared: Arc<Shared>,
    request: CanonicalRequest,
    caller: Caller,
    is_stream: bool,
}

impl ToolFilter {
    pub(super) fn new(shared: &Arc<Shared>, permit: &Permit<'_>) -> Self {
        Self {
            shared: Arc::clone(shared),
            request: permit.request().clone(),
            caller: permit
                .identity()
                .map_or(Caller::Anonymous, |one| Caller::Verified(Arc::clone(one))),
            is_stream: *permit.request().method() == Method::GET,
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

    /// Filters an answer: one of JSON as a whole, an event stream event by event.
    pub(super) async fn apply(
        self,
        response: Response<ResponseBody>,
        expiry: Option<Instant>,
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
            // An error in words, or what a server shows to a browser, lists no tools.
            Kind::Other if self.is_stream || !head.status.is_success() => Upstream::Pooled(body),
            Kind::Other => {
                return Err(Refusal::Answer(AnswerError::Kind(
                    "an answer to tools/list that is neither JSON nor an event stream",
                )));
            }
            _ if coded => {
                return Err(Refusal::Answer(AnswerError::Kind(
                    "an answer with a Content-Encoding, where tools are filtered",
                )));
            }
            Kind::Events => {
                head.headers.remove(CONTENT_LENGTH);
                Upstream::Events(Box::new(EventBody {
                    body: Some(body),
                    events: Events::default(),
                    filter: self,
                }))
            }
            Kind::Json => {
                let patience = self.shared.current().config.timeouts.response_header;
                let deadline = Instant::now().checked_add(patience);
                let deadline = deadline.into_iter().chain(expiry).min();
                let whole = whole(body);
                let whole = match deadline {
                    None => whole.await?,
                    Some(deadline) => tokio::time::timeout_at(deadline, whole)
                        .await
                        .map_err(|_| Failure::ResponseTimeout(patience))??,
                };
                let kept = mcp::filter_tools(&whole, &|tool| self.permits(tool));
                Upstream::Read(Some(match kept.map_err(Refusal::Answer)? {
                    None => whole.into(),
                    Some(kept) => {
                        head.headers.remove(CONTENT_LENGTH);
                        for name in DIGESTS {
                            head.headers.remove(name);
                        }
                        kept.into()
                    }
                }))
            }
        };
        Ok(Response::from_parts(head, body))
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

async fn whole(mut body: ResponseBody) -> Result<Vec<u8>, Refusal> {
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if whole.len().saturating_add(data.len()) > MAX_ANSWER_BYTES {
            return Err(Refusal::Answer(AnswerError::TooLarge));
        }
        whole.extend_from_slice(data);
    }
    Ok(whole)
}

/// An event stream on its way through the filter.
pub(super) struct EventBody {
    /// `None` at its end.
    body: Option<ResponseBody>,
    events: Events,
    filter: ToolFilter,
}

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
        let permitted = |tool: &str| self.filter.permits(tool);
        loop {
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            let mut out = Vec::new();
            let filtered = match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.events.feed(&data, &permitted, &mut out),
                    // Trailers say nothing of an event stream.
                    Err(_) => Ok(()),
                },
                None => {
                    self.body = None;
                    self.events.finish(&permitted, &mut out)
                }
            };
            if let Err(error) = filtered {
                self.body = None;
                return Poll::Ready(Some(Err(Failure::Unsound(error.problem()))));
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }

    pub(super) const fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}
