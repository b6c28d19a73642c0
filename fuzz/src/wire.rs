//! HTTP/1.1 read by the letter (RFC 9112): what is merely tolerated elsewhere is an error here.

/// A field: its name in lower case, and its value.
pub type Field = (String, String);

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Requests,
    Answers,
}

/// The head of a message. An answer has its status for a method, and no target.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    pub target: String,
    pub fields: Vec<Field>,
}

/// What has been read.
#[derive(Debug)]
pub enum Event {
    Head(Head),
    /// A message is complete; these are its trailers.
    End(Vec<Field>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Body(usize),
    ChunkSize,
    Chunk(usize),
    Trailers,
    /// Nothing more is to be read as HTTP.
    Opaque,
}

/// Reads messages as their bytes come in.
#[derive(Debug)]
pub struct Parser {
    kind: Kind,
    state: State,
    bytes: Vec<u8>,
}

impl Parser {
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            state: State::Head,
            bytes: Vec::new(),
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What follows is another protocol.
    pub fn switch(&mut self) {
        self.state = State::Opaque;
    }

    /// The next event, if enough bytes are there.
    pub fn next_event(&mut self) -> Result<Option<Event>, String> {
        loop {
            match self.state {
                State::Head => {
                    let Some(block) = self.block(b"\r\n\r\n")? else {
                        return Ok(None);
                    };
                    let head = self.head(&block)?;
                    self.state = self.framing(&head)?;
                    return Ok(Some(Event::Head(head)));
                }
                State::Body(0) => {
                    self.state = State::Head;
                    return Ok(Some(Event::End(Vec::new())));
                }
                State::Body(left) => {
                    let Some(left) = self.skip(left) else {
                        return Ok(None);
                    };
                    self.state = State::Body(left);
                }
                State::ChunkSize => {
                    let Some(line) = self.block(b"\r\n")? else {
                        return Ok(None);
                    };
                    let digits = !line.is_empty() && line.len() <= 8;
                    if !digits || !line.iter().all(u8::is_ascii_hexdigit) {
                        return Err(format!("chunk size {:?}", String::from_utf8_lossy(&line)));
                    }
                    let text = String::from_utf8_lossy(&line).into_owned();
                    self.state = match usize::from_str_radix(&text, 16) {
                        Ok(0) => State::Trailers,
                        Ok(size) => State::Chunk(size),
                        Err(error) => return Err(error.to_string()),
                    };
                }
                State::Chunk(0) => match self.block(b"\r\n")? {
                    None => return Ok(None),
                    Some(rest) if rest.is_empty() => self.state = State::ChunkSize,
                    Some(_) => return Err("a chunk is longer than it says".to_owned()),
                },
                State::Chunk(left) => {
                    let Some(left) = self.skip(left) else {
                        return Ok(None);
                    };
                    self.state = State::Chunk(left);
                }
                State::Trailers => {
                    let end: &[u8] = if self.bytes.starts_with(b"\r\n") {
                        b"\r\n"
                    } else {
                        b"\r\n\r\n"
                    };
                    let Some(block) = self.block(end)? else {
                        return Ok(None);
                    };
                    self.state = State::Head;
                    return Ok(Some(Event::End(fields(&block)?)));
                }
                State::Opaque => return Ok(None),
            }
        }
    }

    /// Takes out what stands before `end`, which goes too.
    fn block(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let place = self
            .bytes
            .windows(end.len())
            .position(|window| window == end);
        let Some(place) = place else {
            return if self.bytes.len() > 1024 * 1024 {
                Err("a line has no end".to_owned())
            } else {
                Ok(None)
            };
        };
        let rest = self.bytes.split_off(place + end.len());
        let mut block = std::mem::replace(&mut self.bytes, rest);
        block.truncate(place);
        Ok(Some(block))
    }

    /// Drops up to that many bytes; `None` when there are none.
    fn skip(&mut self, left: usize) -> Option<usize> {
        let turn = left.min(self.bytes.len());
        self.bytes.drain(..turn);
        (turn > 0).then_some(left - turn)
    }

    fn head(&self, block: &[u8]) -> Result<Head, String> {
        let end = block.windows(2).position(|pair| pair == b"\r\n");
        let (first, rest) = match end {
            Some(end) => (&block[..end], &block[end + 2..]),
            None => (block, &[][..]),
        };
        let line = std::str::from_utf8(first).map_err(|_| "the first line is not ASCII")?;
        let wrong = || format!("first line {line:?}");
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let (method, target) = match (self.kind, words.as_slice()) {
            (Kind::Requests, [method, target, "HTTP/1.1"]) => (*method, *target),
            (Kind::Answers, ["HTTP/1.1" | "HTTP/1.0", status, ..]) => (*status, ""),
            _ => return Err(wrong()),
        };
        let is_fine = match self.kind {
            Kind::Requests => {
                is_token(method)
                    && target.starts_with('/')
                    && target.bytes().all(|byte| byte.is_ascii_graphic())
                    && !target.contains('#')
            }
            Kind::Answers => method.len() == 3 && method.bytes().all(|byte| byte.is_ascii_digit()),
        };
        if !is_fine {
            return Err(wrong());
        }
        Ok(Head {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: fields(rest)?,
        })
    }

    /// RFC 9112 §6.3.
    fn framing(&self, head: &Head) -> Result<State, String> {
        let all = |name: &str| -> Vec<&str> {
            let fields = head.fields.iter().filter(|(known, _)| known == name);
            fields.map(|(_, value)| value.as_str()).collect()
        };
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        if self.kind == Kind::Answers {
            match head.method.as_str() {
                "101" => return Ok(State::Opaque),
                "204" | "304" => return Ok(State::Body(0)),
                status if status.starts_with('1') => return Ok(State::Body(0)),
                _ => {}
            }
        }
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) if self.kind == Kind::Answers => Ok(State::Opaque),
            ([], []) => Ok(State::Body(0)),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => length
                .parse()
                .map(State::Body)
                .map_err(|_| format!("content length {length:?}")),
            ([], ["chunked"]) => Ok(State::ChunkSize),
            _ => Err(format!("framed by {lengths:?} and {codings:?}")),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_fine)
}

fn fields(block: &[u8]) -> Result<Vec<Field>, String> {
    let mut found = Vec::new();
    let mut rest = block;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 2..]),
            None => (rest, &[][..]),
        };
        rest = after;
        // Bytes beyond ASCII are letters of a text that nobody knows.
        let line: String = line.iter().map(|byte| char::from(*byte)).collect();
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("field line {line:?}"))?;
        let value = value.trim_matches([' ', '\t']);
        let is_fine = |c: char| c == '\t' || !(c.is_ascii_control());
        if !is_token(name) || !value.chars().all(is_fine) {
            return Err(format!("field line {line:?}"));
        }
        found.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(found)
}
