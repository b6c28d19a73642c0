//! An HTTP/2 client that writes every byte by hand: what it sends is what the test says, sound or not.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wire::within;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;
/// A request that is over with its head.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Settings (RFC 9113, section 6.5.2; RFC 8441, section 3).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Error codes (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// The window of a stream and of the connection where nothing else is said, and the largest.
pub const USUAL_WINDOW: u32 = 65_535;
pub const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// The largest frame where nothing else is said.
pub const LARGEST_FRAME: usize = 16_384;

/// A frame on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub fn data(flags: u8, stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// The priority of a stream, by the one it depends on.
pub fn priority(stream: u32, on: u32) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &dependency(on))
}

/// What a priority holds: the stream depended on, and a weight.
pub fn dependency(on: u32) -> Vec<u8> {
    [&on.to_be_bytes()[..], &[15]].concat()
}

pub fn ping(flags: u8) -> Vec<u8> {
    frame(PING, flags, 0, b"whatever")
}

pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(
        GOAWAY,
        0,
        0,
        &[last.to_be_bytes(), code.to_be_bytes()].concat(),
    )
}

/// A header block of literals that enter no table, without Huffman coding (RFC 7541, section 6.2.2).
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_ref());
        string(&mut block, value.as_ref());
    }
    block
}

/// A literal that enters the dynamic table, where it is number 62 (RFC 7541, section 6.2.1).
pub fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    string(&mut block, name.as_bytes());
    string(&mut block, value.as_bytes());
    block
}

/// A reference to the newest entry of the dynamic table.
pub const NEWEST: u8 = 0x80 | 62;

fn string(block: &mut Vec<u8>, text: &[u8]) {
    // An integer with a prefix of seven bits (RFC 7541, section 5.1).
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x7f => block.push(length),
        _ => {
            block.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                block.push(u8::try_from(rest % 0x80).expect("seven bits") | 0x80);
                rest /= 0x80;
            }
            block.push(u8::try_from(rest).expect("seven bits"));
        }
    }
    block.extend_from_slice(text);
}

/// A request for a path: the pseudo-header fields that every request has.
pub fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "agents.example.com"),
        (":path", path),
    ]
}

/// A frame that was read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn parse(bytes: &mut BytesMut) -> Option<Self> {
        let head = bytes.get(..9)?;
        let length = usize::from_be_bytes([0, 0, 0, 0, 0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if bytes.len() < 9 + length {
            return None;
        }
        let payload = bytes.split_to(9 + length).split_off(9).to_vec();
        Some(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// The error code of a reset or of the end.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload[at..at + 4].try_into();
        u32::from_be_bytes(code.expect("four bytes"))
    }

    /// The settings in it.
    pub fn settings(&self) -> Vec<(u16, u32)> {
        self.payload
            .chunks_exact(6)
            .map(|one| {
                (
                    u16::from_be_bytes([one[0], one[1]]),
                    u32::from_be_bytes([one[2], one[3], one[4], one[5]]),
                )
            })
            .collect()
    }

    /// The status of an answer. Our table is empty, so that it is never a reference into it.
    pub fn status(&self) -> u16 {
        const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let mut bytes = self
            .payload
            .iter()
            .copied()
            // Changes of the table's size stand first.
            .skip_while(|byte| byte & 0xe0 == 0x20);
        let first = bytes.next().expect("a status");
        if first & 0x80 != 0 {
            return STATIC[usize::from(first & 0x7f) - 8];
        }
        let length = bytes.next().expect("a length");
        let text: Vec<u8> = bytes.take(usize::from(length & 0x7f)).collect();
        let digits = if length & 0x80 == 0 {
            String::from_utf8(text).expect("digits")
        } else {
            huffman_digits(&text)
        };
        digits.parse().expect("a status")
    }
}

/// Digits in the Huffman code of RFC 7541, appendix B: 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |number, bit| number << 1 | bit);
    let mut digits = String::new();
    let mut rest = bits.as_slice();
    while rest.len() >= 5 {
        let short = number(&rest[..5]);
        let (digit, length) = match short {
            0..=2 => (short, 5),
            // Filled up with ones.
            0x1f => break,
            _ if rest.len() >= 6 => (number(&rest[..6]) - 0b01_0110, 6),
            _ => break,
        };
        digits.push(char::from(b'0' + digit));
        rest = &rest[length..];
    }
    digits
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    /// The connection has ended without a word.
    End,
}

/// How a connection ended.
#[derive(Debug)]
pub struct End {
    /// The codes of all `GOAWAY`.
    pub goaway: Vec<u32>,
    /// Everything.
    pub frames: Vec<Frame>,
}

/// One HTTP/2 connection.
pub struct Frames {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Frames {
    /// A connection on which nothing was said.
    pub async fn raw(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address))
            .await
            .expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// A connection with windows as usual.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, USUAL_WINDOW).await
    }

    /// A connection with a window of so many bytes for each stream.
    pub async fn with_window(address: SocketAddr, window: u32) -> Self {
        let mut frames = Self::raw(address).await;
        let settings = settings(&[(HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, window)]);
        frames.send(&[PREFACE, &settings].concat()).await;
        frames.send(&frame(SETTINGS, ACK, 0, &[])).await;
        frames
    }

    /// Raw bytes, while everything that comes is kept for later. A peer that does not take them all
    /// has ended the connection, which is read next.
    pub async fn send(&mut self, bytes: &[u8]) {
        let (mut from, mut to) = self.stream.split();
        let reading = async {
            while matches!(from.read_buf(&mut self.buffer).await, Ok(length) if length > 0) {}
            // What is written now is written in vain, which the writer finds out.
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! {
                biased;
                _taken_or_not = to.write_all(bytes) => {}
                () = reading => {}
            }
        };
        within("room to send", both).await;
    }

    /// Sends the same bytes again and again until the peer ends the connection, and drops what
    /// comes, or does not even read it.
    pub async fn flood(&mut self, bytes: &[u8], reads: bool) {
        let (mut from, mut to) = self.stream.split();
        let writing = async { while to.write_all(bytes).await.is_ok() {} };
        let reading = async {
            let mut space = [0; 4096];
            while reads && matches!(from.read(&mut space).await, Ok(length) if length > 0) {}
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! {
                () = writing => {}
                () = reading => {}
            }
        };
        within("the end of the connection", both).await;
    }

    /// Opens a stream.
    pub async fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        self.send(&frame(HEADERS, flags, stream, &block(fields)))
            .await;
    }

    /// Opens a stream with a request without a body.
    pub async fn request(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) {
        let fields = [&pseudo("GET", path), more].concat();
        self.head(stream, WHOLE, &fields).await;
    }

    /// The next frame, or nothing if the connection ends, properly or not. Safe to cancel.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            loop {
                if let Some(frame) = Frame::parse(&mut self.buffer) {
                    return Some(frame);
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        within("a frame or the end", read).await
    }

    /// The next frame of a kind on a stream.
    pub async fn expect(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await;
            let frame = frame.unwrap_or_else(|| panic!("the end before frame {kind} on {stream}"));
            let answers = matches!(kind, SETTINGS | PING) && frame.flags & ACK != 0;
            if (frame.kind, frame.stream) == (kind, stream) && !answers {
                return frame;
            }
        }
    }

    /// What comes first of the answer on a stream.
    pub async fn verdict(&mut self, stream: u32) -> Verdict {
        while let Some(frame) = self.next().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return Verdict::Status(frame.status()),
                RST_STREAM if frame.stream == stream => return Verdict::Reset(frame.code()),
                GOAWAY if frame.code() != NO_ERROR => return Verdict::GoAway(frame.code()),
                _ => {}
            }
        }
        Verdict::End
    }

    /// The body of an answer whose head was read, to its proper end.
    pub async fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.expect("a whole body");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, RST_STREAM, "reset with {}", frame.code());
            if frame.kind == DATA {
                body.extend_from_slice(&frame.payload);
            }
            if frame.flags & END_STREAM != 0 {
                return body;
            }
        }
    }

    /// Reads until the connection ends.
    pub async fn end(&mut self) -> End {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        let goaway = frames
            .iter()
            .filter(|frame| frame.kind == GOAWAY)
            .map(Frame::code)
            .collect();
        End { goaway, frames }
    }
}
