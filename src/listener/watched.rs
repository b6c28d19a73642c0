//! The socket of a client connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;

/// What an HTTP/1 client may send ahead of its turn while a request runs: some dozens of pipelined
/// requests with tokens.
const MAX_AHEAD_BYTES: usize = 64 * 1024;

/// A socket that tells [`Activity`] what it reads.
///
/// While a request runs, hyper reads only to learn whether the client has gone, and stops doing so
/// at the first byte of a later request. So such bytes are held back here until their turn, and the
/// end of the connection is seen behind them.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
    http1: bool,
    ahead: Vec<u8>,
}

impl Watched {
    pub(super) const fn new(stream: TcpStream, activity: Arc<Activity>, http1: bool) -> Self {
        Self {
            stream,
            activity,
            http1,
            ahead: Vec::new(),
        }
    }

    /// Reads what was sent ahead of its turn. Ready only at the end of the connection.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 2048];
        loop {
            if self.ahead.len() > MAX_AHEAD_BYTES {
                return Poll::Ready(Err(io::Error::other("too much was sent ahead of its turn")));
            }
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.http1 && self.activity.is_ahead_of_its_turn() {
            return self.poll_ahead(cx);
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
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        if !bytes.is_empty() {
            self.activity.on_read(bytes, self.http1);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
