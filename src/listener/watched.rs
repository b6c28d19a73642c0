//! The socket of a client connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::activity::Activity;
use super::head_follower::HeadFollower;
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
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    http1: bool,
    /// Where the heads of HTTP/2 begin and end.
    heads: HeadFollower,
    /// Read already, and not yet hyper's.
    ahead: Vec<u8>,
    /// An interim answer on its way out.
    interim: Vec<u8>,
    /// Whether everything that hyper has written is on the wire.
    flushed: bool,
    /// Whether hyper has answered something by itself.
    has_bare_answer: bool,
}

impl<S> Watched<S> {
    pub(super) const fn new(
        stream: S,
        activity: Arc<Activity>,
        http1: bool,
        first_bytes: Vec<u8>,
    ) -> Self {
        Self {
            stream,
            activity,
            http1,
            heads: HeadFollower::new(),
            ahead: first_bytes,
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
    /// Says the last words, which may be none, and waits for a while until the client has heard them.
    pub(super) async fn farewell(mut self, last_words: &[u8]) {
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
        _ = tokio::time::timeout(MAX_FAREWELL, farewell).await;
    }

    /// Reads what was sent ahead of its turn. Ready only at the end of the connection.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); 2048];
        loop {
            if self.ahead.len() > MAX_AHEAD_BYTES {
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
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let turn = self.ahead.len().min(buffer.remaining());
            let rest = self.ahead.split_off(turn);
            buffer.put_slice(&self.ahead);
            self.ahead = rest;
        }
        let filled = buffer.filled();
        let bytes = filled.get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            if self.http1 {
                self.activity.on_read(bytes);
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
        self.activity.on_flushed();
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
