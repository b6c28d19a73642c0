//! The socket of a client connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::activity::Activity;
use super::head_follower::HeadFollower;
use super::heads::HeadRoom;
use crate::budget::{FIRST_BUFFER, Lease, Reading};
use crate::writing::Space;

/// What an HTTP/1 client may send ahead of its turn while a request runs: some dozens of pipelined
/// requests with tokens.
const MAX_AHEAD_BYTES: usize = 64 * 1024;

/// How much of an upload is read and thrown away after its answer, and for how long. Bytes that
/// arrive at a closed socket are answered by a reset, which can overtake the answer (RFC 9112 §9.6);
/// a client that has sent this much without looking does not look.
const MAX_DISCARDED_BYTES: usize = 8 * 1024 * 1024;
const MAX_FAREWELL: Duration = Duration::from_secs(2);

/// What a read of an HTTP/2 connection, 8 KiB at first, takes of the 128 steps that tokio gives a task
/// before the next one has its turn: eight reads or so are a turn.
const HTTP2_READ_SHARES: usize = 15;

/// What a head of HTTP/2 holds that goes on behind its first frame, as a multiple of `limits.header_bytes`:
/// fields that are unpacked from an index of one byte each count 32 bytes there (RFC 9113 §6.5.2), and take
/// some 100 in the map that they are in.
const UNPACKED: usize = 4;

/// A socket that tells [`Activity`] what passes, and corrects three habits of hyper over HTTP/1:
///
/// - While a request runs, hyper reads only to learn whether the client has gone, and stops doing so
///   at the first byte of a later request. Such bytes are held back here until their turn, and the
///   end of the connection is seen behind them.
/// - hyper answers what it cannot read with a bare status. That answer ends here; whoever holds the
///   connection gives a better one.
/// - hyper closes a socket on which an upload is still arriving. Here it stays open for
///   [`Watched::farewell`].
///
/// Interim answers, for which hyper has no place, go out between its writes.
///
/// And it sees how large the buffer has become that hyper reads into, and leases what is beyond the first
/// one: for a head it waits until that is to be had; bodies are read in smaller pieces.
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    http1: bool,
    /// Where the heads of HTTP/2 begin and end.
    heads: HeadFollower,
    /// Read already, and not yet hyper's.
    ahead: Vec<u8>,
    /// What is leased for it, where it is more than a little.
    ahead_room: Option<Lease>,
    /// An interim answer on its way out.
    interim: Vec<u8>,
    /// Whether everything that hyper has written is on the wire.
    flushed: bool,
    /// Whether hyper has answered something by itself.
    has_bare_answer: bool,
    bounds: Bounds,
    /// What is here of the head that arrives, over HTTP/1.
    head_bytes: usize,
    head_room: HeadRoom,
    /// From the first buffer on that is larger than the first one.
    reading: Option<Reading>,
}

/// How much is read into memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The largest head.
    pub(super) head: usize,
    /// The largest buffer, over HTTP/1.
    pub(super) buffer: usize,
}

impl<S> Watched<S> {
    pub(super) fn new(
        stream: S,
        activity: Arc<Activity>,
        http1: bool,
        first_bytes: Vec<u8>,
        bounds: Bounds,
    ) -> Self {
        Self {
            stream,
            bounds,
            head_bytes: 0,
            head_room: HeadRoom::new(Arc::clone(&activity)),
            reading: None,
            activity,
            http1,
            heads: HeadFollower::new(),
            ahead: first_bytes,
            ahead_room: None,
            interim: Vec::new(),
            flushed: true,
            has_bare_answer: false,
        }
    }

    /// Whether the connection should end with [`Watched::farewell`].
    pub(super) fn needs_farewell(&self) -> bool {
        self.http1 && (self.has_bare_answer || self.activity.has_open_body())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// Says the last words, which may be none, and waits for a while until the client has heard them, or
    /// until others need the place.
    pub(super) async fn farewell(mut self, last_words: &[u8]) {
        self.head_room.release();
        self.reading = None;
        let activity = Arc::clone(&self.activity);
        activity.stay();
        activity.on_farewell();
        let farewell = async {
            self.stream.write_all(last_words).await?;
            self.stream.shutdown().await?;
            let mut space = vec![0; 16 * 1024];
            let mut discarded = 0_usize;
            while discarded < MAX_DISCARDED_BYTES {
                match self.stream.read(&mut space).await? {
                    0 => break,
                    length => discarded = discarded.saturating_add(length),
                }
            }
            io::Result::Ok(())
        };
        // A client that does not listen, or has gone, misses only this.
        tokio::select! {
            biased;
            _ = tokio::time::timeout(MAX_FAREWELL, farewell) => {}
            () = activity.asked_to_go() => {}
        }
    }

    /// Ends the connection as it ends where hyper does so.
    pub(super) async fn close(mut self) {
        if self.needs_farewell() {
            return self.farewell(b"").await;
        }
        // A client that takes nothing any more misses only the end.
        _ = tokio::time::timeout(MAX_FAREWELL, self.stream.shutdown()).await;
    }

    /// How much of so much space may be filled, once that is leased.
    fn poll_allowed(&mut self, cx: &Context<'_>, space: usize) -> Poll<usize> {
        if !self.http1 {
            return self.poll_block_room(cx).map(|()| space);
        }
        if !self.activity.is_in_head() {
            self.head_bytes = 0;
        }
        let capacity = self.head_bytes.saturating_add(space);
        if capacity <= FIRST_BUFFER && self.reading.is_none() {
            return Poll::Ready(space);
        }
        if self.head_bytes == 0 {
            return Poll::Ready(self.allowed_for_body(space));
        }
        // A buffer that an earlier body has left behind is leased already.
        let held = self.reading.as_ref().map_or(0, Reading::held);
        let beyond = capacity.saturating_sub(FIRST_BUFFER).saturating_sub(held);
        self.head_room.poll_hold(cx, beyond).map(|()| space)
    }

    fn allowed_for_body(&mut self, space: usize) -> usize {
        let buffers = self.activity.buffers();
        let most = self.bounds.buffer;
        let reading = self
            .reading
            .get_or_insert_with(|| Reading::new(buffers, most));
        let allowed = reading.allow(buffers, space);
        self.activity.hold_buffer(reading.held());
        if allowed < space {
            self.activity.connections().shed_buffers(Instant::now());
        }
        allowed
    }

    /// The head that is open on an HTTP/2 connection holds nothing before its first frame is whole.
    fn poll_block_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.heads.is_continued() {
            let bytes = self.bounds.head.saturating_mul(UNPACKED);
            return self.head_room.poll_hold(cx, bytes);
        }
        if !self.head_room.is_empty() {
            self.head_room.release();
        }
        Poll::Ready(())
    }

    /// Reads from the socket, at most so much of the buffer full.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        allowed: usize,
    ) -> Poll<io::Result<()>> {
        if allowed >= buffer.remaining() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(allowed));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let length = part.filled().len();
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }

    /// Reads what was sent ahead of its turn. Ready only at the end of the connection.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); 2048];
        loop {
            if !self.may_hold_ahead() {
                return Poll::Ready(Err(io::Error::other("too much was sent ahead of its turn")));
            }
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
    }

    /// Whether there is room for what was sent ahead of its turn.
    fn may_hold_ahead(&mut self) -> bool {
        let length = self.ahead.len();
        if length <= FIRST_BUFFER {
            self.ahead_room = None;
            return true;
        }
        let buffers = self.activity.buffers();
        let room = self.ahead_room.get_or_insert_with(|| buffers.lease([]));
        let more = self.ahead.capacity().saturating_sub(room.amount());
        length <= MAX_AHEAD_BYTES && room.grow(more).is_ok()
    }

    /// Writes what is due before anything more of hyper's.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // While an earlier answer is under way, there is no place for an interim one.
        if let Some(interim) = self.activity.take_interim()
            && self.flushed
        {
            self.interim.extend_from_slice(&interim);
        }
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.drain(..written.min(self.interim.len()));
        }
        Poll::Ready(Ok(()))
    }

    /// Whether what hyper wants to write is its own answer to what it cannot read.
    fn is_bare_answer(&mut self) -> bool {
        self.has_bare_answer |= self.http1 && self.activity.is_between_requests();
        self.has_bare_answer
    }
}

/// Lets a read count for more than one step of tokio's budget. Of small frames, hundreds fit a read,
/// and a client that never stops sending them must not keep the others of its thread waiting.
fn take_shares(cx: &mut Context<'_>) {
    for _ in 0..HTTP2_READ_SHARES {
        match poll_proceed(cx) {
            Poll::Ready(share) => share.made_progress(),
            Poll::Pending => return,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.http1 && self.activity.is_ahead_of_its_turn() {
            return self.poll_ahead(cx);
        }
        if self.http1 {
            self.activity.before_read();
        }
        let before = buffer.filled().len();
        let allowed = ready!(self.poll_allowed(cx, buffer.remaining()));
        if self.ahead.is_empty() {
            ready!(self.poll_fill(cx, buffer, allowed))?;
        } else {
            let turn = self.ahead.len().min(allowed);
            let rest = self.ahead.split_off(turn);
            buffer.put_slice(&self.ahead);
            self.ahead = rest;
            self.ahead_room = None;
        }
        let filled = buffer.filled();
        let bytes = filled.get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            if self.http1 {
                if self.activity.on_read(bytes) {
                    self.head_bytes = self.head_bytes.saturating_add(bytes.len());
                }
            } else {
                let is_in_head = self.heads.feed(bytes);
                self.activity.on_http2_read(is_in_head);
                take_shares(cx);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_bare_answer() {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_interim(cx))?;
        self.flushed = false;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_bare_answer() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        ready!(self.poll_interim(cx))?;
        self.flushed = false;
        let stream = Pin::new(&mut self.stream);
        match Space::new().join(slices) {
            Some(bytes) => stream.poll_write(cx, bytes),
            None => stream.poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushed = true;
        // The fields of a head are parts of its buffer until the request is over.
        if self.activity.on_flushed()
            && self.http1
            && !self.head_room.is_empty()
            && !self.activity.is_in_head()
        {
            self.head_room.release();
        }
        // hyper reads nothing while it holds the beginning of a later request, which can have come
        // with the one that runs; but it flushes whenever it does anything.
        if self.http1
            && self.activity.is_ahead_of_its_turn()
            && let Poll::Ready(ended) = self.poll_ahead(cx)
        {
            let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
            return Poll::Ready(ended.and(Err(gone)));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.needs_farewell() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
