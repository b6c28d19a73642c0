//! The first bytes of a connection: who sends them, and which protocol do they speak?

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4). No HTTP/1 request does.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest PROXY header: addresses take 52 bytes of it, and what clouds add about connections
/// and certificates a few hundred. The format would allow 64 KiB.
const MAX_PROXY_HEADER_BYTES: usize = 4 * 1024;

/// How much is read at a time: a whole request head of the usual size.
const READ_BYTES: usize = 2 * 1024;

/// Why a connection cannot be served.
#[derive(Debug)]
pub(super) enum OpeningError {
    /// It ended or broke before it was known what it speaks.
    Io(io::Error),
    /// A PROXY header was due, and something else came.
    NoProxyHeader,
}

impl From<io::Error> for OpeningError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads until it is known whether HTTP/2 follows, and not HTTP/1. `bytes` is what was read.
pub(super) async fn is_http2<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
) -> io::Result<bool> {
    loop {
        let length = bytes.len().min(HTTP2_PREFACE.len());
        let differs = bytes.get(..length) != HTTP2_PREFACE.get(..length);
        if differs || length == HTTP2_PREFACE.len() {
            return Ok(!differs);
        }
        read_more(stream, bytes).await?;
    }
}

/// The source that the header names, if it names one; what follows it stays in `bytes`.
pub(super) async fn read_proxy_header<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
) -> Result<Option<SocketAddr>, OpeningError> {
    loop {
        let parsed = ProxyHeader::parse(bytes, ParseConfig::default())
            .map(|(header, length)| (header.proxied_address().map(|two| two.source), length));
        match parsed {
            Ok((source, length)) => {
                bytes.drain(..length.min(bytes.len()));
                return Ok(source);
            }
            Err(proxy_header::Error::BufferTooShort) if bytes.len() < MAX_PROXY_HEADER_BYTES => {
                read_more(stream, bytes).await?;
            }
            Err(_) => return Err(OpeningError::NoProxyHeader),
        }
    }
}

async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.reserve(READ_BYTES);
    match stream.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// A stream of which some bytes were read too early.
pub(super) struct Rewound<S> {
    ahead: Vec<u8>,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) const fn new(ahead: Vec<u8>, stream: S) -> Self {
        Self { ahead, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let turn = self.ahead.len().min(buffer.remaining());
        let rest = self.ahead.split_off(turn);
        buffer.put_slice(&self.ahead);
        self.ahead = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        HTTP2_PREFACE, MAX_PROXY_HEADER_BYTES, OpeningError, Rewound, is_http2, read_proxy_header,
    };
    use std::net::SocketAddr;
    use tokio::io::AsyncReadExt as _;

    #[derive(Debug)]
    struct Opening {
        source: Option<SocketAddr>,
        is_http2: bool,
        bytes: Vec<u8>,
    }

    async fn read<S: tokio::io::AsyncRead + Unpin>(
        stream: &mut S,
        proxy_header_is_due: bool,
    ) -> Result<Opening, OpeningError> {
        let mut bytes = Vec::new();
        let source = if proxy_header_is_due {
            read_proxy_header(stream, &mut bytes).await?
        } else {
            None
        };
        Ok(Opening {
            source,
            is_http2: is_http2(stream, &mut bytes).await?,
            bytes,
        })
    }

    #[test]
    fn what_was_read_too_early_is_read_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let mut stream = Rewound::new(b"early ".to_vec(), std::io::Cursor::new(b"late".to_vec()));
        let mut text = String::new();
        let read = runtime.block_on(stream.read_to_string(&mut text));
        assert_eq!((read.expect("text"), text.as_str()), (10, "early late"));
    }

    /// Reads what arrives in these pieces.
    fn opening(pieces: &[&[u8]], proxy_header_is_due: bool) -> Result<Opening, OpeningError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let mut stream = arriving(pieces);
        runtime.block_on(read(&mut stream, proxy_header_is_due))
    }

    fn arriving(pieces: &[&[u8]]) -> impl tokio::io::AsyncRead + Unpin {
        let empty: Box<dyn tokio::io::AsyncRead + Unpin> = Box::new(tokio::io::empty());
        pieces.iter().rev().fold(empty, |rest, piece| {
            Box::new(std::io::Cursor::new(piece.to_vec()).chain(rest))
        })
    }

    #[test]
    fn the_protocol_shows_in_the_first_bytes() {
        let (head, tail) = HTTP2_PREFACE.split_at(2);
        for (pieces, is_http2) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], false),
            (&[b"G"], false),
            (&[b"P", b"OST / HTTP/1.1\r\n"], false),
            (&[b"PR", b"OPFIND / HTTP/1.1\r\n"], false),
            (&[b"PRI * HTTP/1.1\r\n"], false),
            (&[HTTP2_PREFACE, b"more"], true),
            (&[head, tail], true),
            (&[b"P", b"R", b"I", HTTP2_PREFACE.split_at(3).1], true),
        ] {
            let opening = opening(pieces, false).expect("an opening");
            assert_eq!(opening.is_http2, is_http2, "{pieces:?}");
            assert!(pieces.concat().starts_with(&opening.bytes), "{pieces:?}");
        }
        for cut_short in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            assert!(
                matches!(opening(&[cut_short], false), Err(OpeningError::Io(_))),
                "{cut_short:?}"
            );
        }
    }

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(rest: &[u8]) -> Vec<u8> {
        [V2, rest].concat()
    }

    #[test]
    fn a_proxy_header_names_the_client() {
        let ipv4 = v2(b"\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50");
        let with_tlv =
            v2(b"\x21\x11\x00\x13\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50\x04\x00\x04abcd");
        let local = v2(b"\x20\x00\x00\x00");
        for (header, source) in [
            (
                &b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n"[..],
                Some("198.51.100.7:8080"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 8080 80\r\n",
                Some("[2001:db8::7]:8080"),
            ),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff 1 1\r\n", None),
            (&ipv4, Some("198.51.100.7:8080")),
            (&with_tlv, Some("198.51.100.7:8080")),
            (&local, None),
        ] {
            for split in [0, 1, 5, header.len()] {
                let (one, two) = header.split_at(split);
                let opening = opening(&[one, two, b"GET /"], true).expect("an opening");
                assert_eq!(
                    opening.source,
                    source.map(|text| text.parse().expect("an address"))
                );
                assert_eq!(opening.bytes, b"GET /", "{header:?}");
            }
        }
        let mut http2 = ipv4;
        http2.extend_from_slice(HTTP2_PREFACE);
        assert!(opening(&[&http2], true).expect("an opening").is_http2);
    }

    #[test]
    fn what_is_no_proxy_header_is_refused_where_one_is_due() {
        let too_long = v2(&[&b"\x21\x11\xff\xff"[..], &[0; MAX_PROXY_HEADER_BYTES]].concat());
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            HTTP2_PREFACE,
            b"PROXY TCP4 198.51.100.777 10.0.0.1 8080 80\r\n",
            b"PROXY TCP4 ::1 ::1 8080 80\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 80800 80\r\n",
            b"PROXY UDP4 198.51.100.7 10.0.0.1 8080 80\r\n",
            b"PROXY  TCP4 198.51.100.7 10.0.0.1 8080 80\r\n",
            b"proxy TCP4 198.51.100.7 10.0.0.1 8080 80\r\n",
            &[b'P'; 200],
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
            &v2(b"\x31\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50"),
            &v2(b"\x22\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50"),
            &v2(b"\x21\x11\x00\x04\xc6\x33\x64\x07\x0a\x00\x00\x01\x1f\x90\x00\x50"),
            &too_long,
        ] {
            assert!(
                matches!(opening(&[bytes], true), Err(OpeningError::NoProxyHeader)),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        for cut_short in [
            &b"PROXY TCP4 198"[..],
            b"PROXY TCP4 198.51.100.7 10.0.0.1 8080\r\n",
            &v2(b"\x21\x11\x00\x0c\xc6\x33"),
        ] {
            assert!(
                matches!(opening(&[cut_short], true), Err(OpeningError::Io(_))),
                "{cut_short:?}"
            );
        }
    }
}
