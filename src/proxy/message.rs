//! What an MCP request asks for, where the rules of its path want to know.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::Refusal;
use super::first_sight::Overloaded;
use super::long_reads::LongReads;
use crate::canonical::CanonicalRequest;
use crate::config::Config;
use crate::listener::Client;
use crate::mcp::{self, Call, Message, MessageError, Principal, RequestId, Revision};
use crate::policy::{Caller, Denial, Matched, Permit};
use crate::upstream::{Failure, RequestBody, RequestBodyError};

/// How many bytes of bodies a worker thread holds until they are passed on: as many messages as it
/// decides on at a time are far smaller, and all connections together must not fill the memory.
const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// A client's body: still to come, or read for what it asks.
pub(super) struct ClientBody {
    pub(super) incoming: Incoming,
    read: Option<Bytes>,
}

/// Room for bodies that are read.
#[derive(Debug, Default)]
pub(super) struct Room {
    taken: AtomicUsize,
}

/// A body in it.
struct Held {
    bytes: Vec<u8>,
    room: Arc<Room>,
    taken: usize,
}

impl Held {
    const fn new(room: Arc<Room>) -> Self {
        Self {
            bytes: Vec::new(),
            room,
            taken: 0,
        }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let before = self.room.taken.fetch_add(data.len(), Ordering::Relaxed);
        self.taken = self.taken.saturating_add(data.len());
        if before.saturating_add(data.len()) > MAX_HELD_BYTES {
            return Err(Refusal::NoRoom);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.taken, Ordering::Relaxed);
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
        room: &Arc<Room>,
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
        let patience = config.timeouts.response_header;
        let held = Held::new(Arc::clone(room));
        let read = tokio::time::timeout(patience, self.collect(limit, version, held)).await;
        let read = read.map_err(|_| Failure::UploadStalled(patience))??;
        if !is_empty {
            client.body_ended();
        }
        Ok(self.read.insert(Bytes::from_owner(read)).clone())
    }

    async fn collect(
        &mut self,
        limit: usize,
        version: Version,
        mut held: Held,
    ) -> Result<Held, Refusal> {
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut self.incoming).poll_frame(cx)).await;
            let frame = match frame {
                // hyper takes a stream that is reset with NO_ERROR for one that has ended.
                None if version == Version::HTTP_2 && !self.incoming.is_end_stream() => {
                    return Err(Failure::Body(RequestBodyError::Gone(None)).into());
                }
                None => return Ok(held),
                Some(Err(error)) => {
                    return Err(Failure::Body(RequestBodyError::of_client(error)).into());
                }
                Some(Ok(frame)) => frame,
            };
            let Some(data) = frame.data_ref() else {
                return Ok(held);
            };
            if held.bytes.len().saturating_add(data.len()) > limit {
                return Err(Refusal::Message(MessageError::BodyTooLarge));
            }
            held.push(data)?;
        }
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
    room: &Arc<Room>,
    turns: &LongReads,
    id: &mut RequestId,
) -> Result<Vec<Message>, Refusal> {
    let call = of_head(config, request).map_err(Refusal::Message)?;
    let call = match call {
        Some(call) if !config.mcp.read_bodies => return Ok(vec![Message::Call(call)]),
        call => call,
    };
    let bytes = body.whole(config, request.version(), client, room).await?;
    *id = RequestId::Null;
    let read = turns.in_turn(bytes.len(), || mcp::read_body(&bytes)).await;
    let read = read.map_err(|Overloaded| Refusal::NoRoom)?;
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

#[cfg(test)]
mod tests {
    use super::{Held, MAX_HELD_BYTES, Refusal, Room};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    #[test]
    fn all_bodies_together_are_bounded() {
        let room = Arc::new(Room::default());
        let part = vec![0; MAX_HELD_BYTES / 4];
        let mut held: Vec<Held> = (0..5).map(|_| Held::new(Arc::clone(&room))).collect();
        for (place, one) in held.iter_mut().enumerate() {
            let pushed = one.push(&part);
            assert_eq!(pushed.is_ok(), place < 4, "{place}");
            assert!(place < 4 || matches!(pushed, Err(Refusal::NoRoom)));
        }
        held.truncate(2);
        let mut again = Held::new(Arc::clone(&room));
        assert!(again.push(&part).is_ok() && again.push(&part).is_ok());
        drop((held, again));
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }
}
