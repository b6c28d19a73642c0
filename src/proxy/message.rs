//! What an MCP request asks for, where the rules of its path want to know.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Version};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

use super::Refusal;
use super::body_room::{BodyRoom, Entry, Held, Unread};
use super::first_sight::Overloaded;
use super::long_reads::LongReads;
use crate::budget::Share;
use crate::canonical::CanonicalRequest;
use crate::config::Config;
use crate::listener::Client;
use crate::mcp::{self, Call, Message, MessageError, Principal, RequestId, Revision};
use crate::policy::{Caller, Denial, Matched, Permit};
use crate::upstream::{Failure, RequestBody, RequestBodyError};

/// A client's body: still to come, or read for what it asks.
pub(super) struct ClientBody {
    pub(super) incoming: Incoming,
    read: Option<Bytes>,
}

/// Where a body is read, and on whose behalf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intake<'r> {
    pub(super) room: &'r Arc<BodyRoom>,
    /// What the client's connection holds there; `None` where others speak through it.
    pub(super) connection: Option<&'r Share>,
    pub(super) caller: &'r Share,
    pub(super) turns: &'r LongReads,
}

impl Intake<'_> {
    fn admit(self, declared: u64) -> Result<Entry, Unread> {
        let declared = usize::try_from(declared).unwrap_or(usize::MAX);
        let shares = self.connection.into_iter().chain([self.caller]);
        let shares = shares.cloned().collect();
        self.room.admit(shares, declared, Instant::now())
    }
}

impl ClientBody {
    pub(super) const fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            read: None,
        }
    }

    /// What is passed on: the bytes that were read, unchanged, or what is still to come.
    pub(super) fn into_request_body(
        self,
        version: Version,
        limit: Option<usize>,
        client: &Client,
    ) -> RequestBody {
        let on_end = {
            let client = client.clone();
            move || client.body_ended()
        };
        match self.read {
            Some(bytes) => RequestBody::read(bytes),
            None => RequestBody::new(self.incoming, version, limit, client.buffers(), on_end),
        }
    }

    /// The whole of it. It is read once, however often it is asked for.
    async fn whole(
        &mut self,
        config: &Config,
        version: Version,
        client: &Client,
        intake: Intake<'_>,
    ) -> Result<Bytes, Refusal> {
        if let Some(read) = &self.read {
            return Ok(read.clone());
        }
        let limit = config.limits.body_bytes.unwrap_or(usize::MAX);
        let limit = limit.min(config.mcp.max_body);
        let declared = self.incoming.size_hint().lower();
        if declared > u64::try_from(limit).unwrap_or(u64::MAX) {
            return Err(Refusal::Message(MessageError::BodyTooLarge));
        }
        let is_empty = self.incoming.is_end_stream();
        let entry = intake.admit(declared).map_err(Refusal::Unread)?;
        let patience = config.timeouts.response_header;
        let read = self.collect(limit, patience, version, entry).await?;
        if !is_empty {
            client.body_ended();
        }
        Ok(self.read.insert(Bytes::from_owner(read)).clone())
    }

    async fn collect(
        &mut self,
        limit: usize,
        patience: Duration,
        version: Version,
        mut entry: Entry,
    ) -> Result<Held, Refusal> {
        loop {
            let deadline = entry.deadline(patience).into();
            let next = self.next_frame(&mut entry);
            let next = tokio::time::timeout_at(deadline, next).await;
            let next = next.map_err(|_| Refusal::Unread(Unread::TooSlow))?;
            let frame = match next.map_err(Refusal::Unread)? {
                // hyper takes a stream that is reset with NO_ERROR for one that has ended.
                None if version == Version::HTTP_2 && !self.incoming.is_end_stream() => {
                    return Err(Failure::Body(RequestBodyError::Gone(None)).into());
                }
                None => return entry.finish().map_err(Refusal::Unread),
                Some(Err(error)) => {
                    return Err(Failure::Body(RequestBodyError::of_client(error)).into());
                }
                Some(Ok(frame)) => frame,
            };
            let Some(data) = frame.data_ref() else {
                return entry.finish().map_err(Refusal::Unread);
            };
            if entry.length().saturating_add(data.len()) > limit {
                return Err(Refusal::Message(MessageError::BodyTooLarge));
            }
            let pushed = entry.push(data, limit, Instant::now());
            pushed.map_err(Refusal::Unread)?;
        }
    }

    /// The next part, unless the message has given way before it comes.
    async fn next_frame(
        &mut self,
        entry: &mut Entry,
    ) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, Unread> {
        poll_fn(|cx| match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => entry.poll_given_up(cx).map(Err),
        })
        .await
    }
}

/// Whether nobody can decide on this request before its message is read. What can be said without it is
/// said first: a stranger's body is not asked for.
pub(super) fn is_needed(matched: &Matched<'_>, caller: &Caller) -> bool {
    matched.is_gated()
        && matches!(
            matched.judge(caller.claims()),
            Err(Denial::MessageUnread { .. })
        )
}

/// Whether a refusal of this request is for somebody who speaks JSON-RPC.
pub(super) fn is_rpc(matched: &Matched<'_>, request: &CanonicalRequest) -> bool {
    matched.is_gated() && *request.method() == Method::POST
}

/// Methods that carry no message carry no body either, where a backend might read one into it; and nothing
/// else may carry messages past the rules.
pub(super) fn check_body(matched: &Matched<'_>, request: &CanonicalRequest) -> Result<(), Refusal> {
    let is_without = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
    );
    if !matched.is_gated() {
        return Ok(());
    }
    let problem = if is_without && request.has_body() {
        "a body beside a method that has none"
    } else if request.is_websocket() {
        "a WebSocket, whose messages nobody would read"
    } else {
        return Ok(());
    };
    Err(Refusal::Message(MessageError::BodyKind(problem)))
}

/// What the head tells of the message: all of it, if the body is not read.
pub(crate) fn of_head(
    config: &Config,
    request: &CanonicalRequest,
) -> Result<Option<Call>, MessageError> {
    let headers = request.headers();
    let call = match mcp::revision(headers)? {
        Revision::Mirrored => Some(mcp::mirrors(headers)?),
        Revision::Older => None,
    };
    if config.mcp.read_bodies {
        mcp::check_body_kind(headers)?;
    } else if call.is_none() {
        return Err(MessageError::BodyNotRead);
    }
    Ok(call)
}

/// The messages of a request, and the id that an answer to it has.
pub(super) async fn read(
    config: &Config,
    request: &CanonicalRequest,
    body: &mut ClientBody,
    client: &Client,
    intake: Intake<'_>,
    id: &mut RequestId,
) -> Result<Vec<Message>, Refusal> {
    let call = of_head(config, request).map_err(Refusal::Message)?;
    let call = match call {
        Some(call) if !config.mcp.read_bodies => return Ok(vec![Message::Call(call)]),
        call => call,
    };
    let bytes = body
        .whole(config, request.version(), client, intake)
        .await?;
    *id = RequestId::Null;
    let read = || mcp::read_body(&bytes);
    let read = intake.turns.in_turn(bytes.len(), read).await;
    let read = read.map_err(|Overloaded| Refusal::Overloaded)?;
    let body = read.map_err(Refusal::Message)?;
    *id = body.id.clone();
    if let Some(call) = call {
        body.check_mirrors(&call).map_err(Refusal::Message)?;
    }
    Ok(body.messages)
}

/// Whose a session is, if it is anybody's.
pub(super) fn principal<'p>(permit: &'p Permit<'_>) -> Option<Principal<'p>> {
    let token = permit.identity()?.token();
    let client = |name| token.claims().string(name).ok().flatten();
    Some(Principal {
        issuer: token.issuer(),
        subject: token.subject(),
        client: client("azp").or_else(|| client("client_id")),
    })
}
