//! HTTP/1.1 as bytes, for both ends: the tests must see what was sent, not what a library made of it.

use std::any::Any;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take before the test gives up. No test waits this long when it passes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits `future`, and names what was awaited when it does not come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await;
    output.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Field names and values in the order and spelling of the wire.
pub type Fields = Vec<(String, String)>;

/// The head of a message.
#[derive(Clone, Debug)]
pub struct Head {
    /// Everything up to and with the empty line.
    pub raw: Vec<u8>,
    pub first_line: String,
    pub fields: Fields,
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let text = latin1(&raw);
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Self {
            raw,
            first_line,
            fields,
        }
    }

    /// The values of every field of this name, whatever its case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of the only field of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(
            values.len() <= 1,
            "{name} is there {} times: {values:?}",
            values.len()
        );
        values.first().copied()
    }

    /// The status code of a response.
    pub fn status(&self) -> u16 {
        self.word(1)
            .parse()
            .unwrap_or_else(|_| panic!("no status in {:?}", self.first_line))
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// The target of a request, untouched.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    /// How the body of a request is delimited.
    pub fn request_framing(&self) -> Framing {
        self.declared_framing().unwrap_or(Framing::Length(0))
    }

    /// How the body of a response is delimited.
    pub fn response_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::Length(0);
        }
        self.declared_framing().unwrap_or(Framing::UntilClose)
    }

    fn declared_framing(&self) -> Option<Framing> {
        if let Some(coding) = self.get("transfer-encoding") {
            assert_eq!(coding, "chunked");
            return Some(Framing::Chunked);
        }
        let length = self.get("content-length")?;
        Some(Framing::Length(
            length
                .parse()
                .unwrap_or_else(|_| panic!("Content-Length: {length}")),
        ))
    }

    fn word(&self, index: usize) -> &str {
        self.first_line.split(' ').nth(index).unwrap_or_default()
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Vec<u8>),
    /// The proper end, with trailers if there were any.
    End(Fields),
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    fn as_any(&self) -> &dyn Any;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A connection with what has been read of it and not yet used.
pub struct Wire {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self {
            socket: Box::new(socket),
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Ends our direction only.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.socket.shutdown().await
    }

    /// Makes the end of the connection a reset: `SO_LINGER` of zero.
    pub fn reset_at_the_end(&self) -> io::Result<()> {
        // Not of the box, which is a socket of this kind too.
        let tcp = (*self.socket).as_any().downcast_ref::<TcpStream>();
        tcp.expect("a TCP connection, for a reset")
            .set_zero_linger()
    }

    /// Reads what is there into the buffer; false at the end. Safe to cancel.
    pub async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.socket.read_buf(&mut self.buffer).await? > 0)
    }

    /// Nothing if the connection ends where a message could begin. Safe to cancel.
    pub async fn read_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(Head::parse(self.take(end + 4))));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(cut_short())
                };
            }
        }
    }

    /// The next part of a body. A body that ends too early is an error.
    pub async fn read_piece(&mut self, framing: &mut Framing) -> io::Result<Piece> {
        match framing {
            Framing::Length(0) => Ok(Piece::End(Fields::new())),
            Framing::Length(rest) => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(cut_short());
                }
                let data = self.take((*rest).min(self.buffer.len()));
                *rest -= data.len();
                Ok(Piece::Data(data))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Ok(Piece::End(Fields::new()));
                }
                Ok(Piece::Data(std::mem::take(&mut self.buffer)))
            }
            Framing::Chunked => self.read_chunk().await,
        }
    }

    async fn read_chunk(&mut self) -> io::Result<Piece> {
        let line = self.read_line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16)
            .map_err(|_| io::Error::other(format!("chunk size {line:?}")))?;
        if length == 0 {
            let mut trailers = Fields::new();
            loop {
                let line = self.read_line().await?;
                if line.is_empty() {
                    return Ok(Piece::End(trailers));
                }
                trailers.push(field(&line));
            }
        }
        let mut data = self.read_exact(length + 2).await?;
        if data.split_off(length) != b"\r\n" {
            return Err(io::Error::other("a chunk without its end"));
        }
        Ok(Piece::Data(data))
    }

    async fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2);
                return Ok(latin1(&line).trim_end().to_owned());
            }
            if !self.fill().await? {
                return Err(cut_short());
            }
        }
    }

    pub async fn read_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Err(cut_short());
            }
        }
        Ok(self.take(length))
    }

    /// Whatever has arrived, or comes next.
    pub async fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits until the peer has ended the connection, properly or not, and drops what it still sends.
    pub async fn wait_closed(&mut self) {
        while matches!(self.fill().await, Ok(true)) {
            self.buffer.clear();
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }
}

/// One chunk on the wire.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

/// Every byte as the character of the same number, so that nothing is lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn cut_short() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
