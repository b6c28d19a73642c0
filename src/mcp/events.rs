//! The same for an event stream, event by event.

use super::error::AnswerError;
use super::tools::filter_tools;

/// How much of one event is held. Servers with hundreds of tools list them in pages far below this.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// A stream of server-sent events on its way through (HTML, "Server-sent events"). Lines pass as soon as
/// they are whole; from the first line of data on, an event is held until it is.
#[derive(Debug, Default)]
pub struct Events {
    /// The line that is not whole yet.
    line: Vec<u8>,
    /// The event from its first line of data on, as it came.
    held: Vec<u8>,
    /// Its data; `None` before the first line of it.
    data: Option<Vec<u8>>,
    /// Those of its lines that are no data.
    others: Vec<u8>,
    /// Whether the last byte was a carriage return, which a line feed may belong to.
    after_return: bool,
    /// Whether a line has passed; before the first there may be a byte order mark.
    has_begun: bool,
}

impl Events {
    /// Takes bytes in, and adds what may pass to `out`.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] for an event that cannot be read with certainty, or is too large to hold.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        permitted: &dyn Fn(&str) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        let mut rest = bytes;
        if self.after_return
            && let [first, after @ ..] = rest
        {
            self.after_return = false;
            if *first == b'\n' {
                self.pass(b"\n", out);
                rest = after;
            }
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            let (line, ending) = rest.split_at(end);
            let (ending, after): (&[u8], _) = match ending {
                [b'\r', b'\n', after @ ..] => (b"\r\n", after),
                [b'\r', after @ ..] => {
                    self.after_return = after.is_empty();
                    (b"\r", after)
                }
                [_, after @ ..] => (b"\n", after),
                [] => (b"", ending),
            };
            self.hold_line(line)?;
            self.end_line(ending, permitted, out)?;
            rest = after;
        }
        self.hold_line(rest)
    }

    /// What is held at the end of the stream. A client that is not strict may take it for an event.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn finish(
        &mut self,
        permitted: &dyn Fn(&str) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        if !self.line.is_empty() {
            self.end_line(b"", permitted, out)?;
        }
        self.release(permitted, out)
    }

    fn hold_line(&mut self, part: &[u8]) -> Result<(), AnswerError> {
        let held = self.held.len().saturating_add(self.line.len());
        if held.saturating_add(part.len()) > MAX_ANSWER_BYTES {
            return Err(AnswerError::TooLarge);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    /// Lets bytes pass, behind what is held.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.data.is_some() {
            self.held.extend_from_slice(bytes);
        } else {
            out.extend_from_slice(bytes);
        }
    }

    fn end_line(
        &mut self,
        ending: &[u8],
        permitted: &dyn Fn(&str) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        let line = std::mem::take(&mut self.line);
        let text = match line.strip_prefix("\u{feff}".as_bytes()) {
            Some(text) if !self.has_begun => text,
            _ => line.as_slice(),
        };
        self.has_begun = true;
        if text.is_empty() {
            self.release(permitted, out)?;
        } else if let Some(value) = data_of(text) {
            match &mut self.data {
                None => self.data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        } else if self.data.is_some() {
            self.others.extend_from_slice(text);
            self.others.push(b'\n');
        }
        self.pass(&line, out);
        self.pass(ending, out);
        Ok(())
    }

    /// The end of an event.
    fn release(
        &mut self,
        permitted: &dyn Fn(&str) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        let held = std::mem::take(&mut self.held);
        let others = std::mem::take(&mut self.others);
        let Some(data) = self.data.take() else {
            return Ok(());
        };
        // An event without data only tells its id.
        let kept = if data.is_empty() {
            None
        } else {
            filter_tools(&data, permitted)?
        };
        let Some(kept) = kept else {
            out.extend_from_slice(&held);
            return Ok(());
        };
        for line in kept.split(|byte| *byte == b'\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out.extend_from_slice(&others);
        Ok(())
    }
}

/// The value of a line of data.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    match value {
        [] => Some(value),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, MAX_ANSWER_BYTES};

    fn permitted(name: &str) -> bool {
        !name.starts_with("delete")
    }

    /// The whole, fed in pieces of this size.
    fn fed(text: &str, size: usize) -> Result<String, String> {
        let mut events = Events::default();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            events
                .feed(piece, &permitted, &mut out)
                .map_err(|error| error.to_string())?;
        }
        events
            .finish(&permitted, &mut out)
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    const LIST: &str = r#"{"result":{"tools":[{"name":"a"},{"name":"delete"}]}}"#;
    const KEPT: &str = r#"{"result":{"tools":[{"name":"a"}]}}"#;

    #[test]
    #[rustfmt::skip]
    fn only_lists_of_tools_change() {
        let crlf = format!("event: message\r\nid: 7\r\ndata: {LIST}\r\n\r\n");
        for (text, expected) in [
            (format!("data: {LIST}\n\n"), format!("data: {KEPT}\n\n")),
            (format!("data:{LIST}\n\n"), format!("data: {KEPT}\n\n")),
            (format!("data: {LIST}\r\rdata: {LIST}\r\r"), format!("data: {KEPT}\n\rdata: {KEPT}\n\r")),
            (crlf, format!("event: message\r\nid: 7\r\ndata: {KEPT}\n\r\n")),
            (format!("data: {LIST}\nid: 7\nevent: message\n\n: ping\n"), format!("data: {KEPT}\nid: 7\nevent: message\n\n: ping\n")),
            (format!("\u{feff}data: {LIST}\n\n"), format!("data: {KEPT}\n\n")),
            // Without an end, which some clients take for one.
            (format!("data: {LIST}"), format!("data: {KEPT}\n")),
            (format!("data: {LIST}\n"), format!("data: {KEPT}\n")),
            // In several lines.
            ("data: {\"result\":{\"tools\":\ndata: [{\"name\":\"delete\"},\ndata: {\"name\":\n: x\ndata:  \"a\"}]\ndata: }}\n\n".to_owned(),
                "data: {\"result\":{\"tools\":\ndata: [{\"name\":\ndata:  \"a\"}]\ndata: }}\n: x\n\n".to_owned()),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(fed(&text, size), Ok(expected.clone()), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn everything_else_passes_as_it_came() {
        for text in [
            "",
            ": keep-alive\n\n",
            "id: 1\ndata:\n\n",
            "id: 1\ndata\n\nretry: 5\r\n\r\n",
            "data: {\"method\":\"notifications/progress\"}\r\nid: 2\r\n\r\ndata: {}\r\rdata: 1\n\n",
            "event: x\ndata: {\"result\":{\"tools\":[{\"name\":\"a\"}]}}\n\n",
            "DATA: delete\n data: delete\ndatax: delete\n\n",
            "data: {}",
        ] {
            for size in [1, 2, 5, 1000] {
                assert_eq!(fed(text, size), Ok(text.to_owned()), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn a_line_passes_as_soon_as_it_is_whole() {
        let mut events = Events::default();
        let mut out = Vec::new();
        for (part, passed) in [
            (": ping\n", ": ping\n"),
            ("id: 1", ""),
            ("\n", "id: 1\n"),
            ("data: {}", ""),
            ("\nid: 2\n", ""),
            ("\n", "data: {}\nid: 2\n\n"),
            ("data: 1\r\r", "data: 1\r\r"),
            ("\n", "\n"),
        ] {
            out.clear();
            events
                .feed(part.as_bytes(), &permitted, &mut out)
                .expect(part);
            assert_eq!(String::from_utf8_lossy(&out), passed, "{part:?}");
        }
    }

    #[test]
    fn what_is_not_certain_ends_the_stream() {
        let long = format!("data: \"{}\"\n\n", "x".repeat(MAX_ANSWER_BYTES));
        let lines = format!("data: 1\n{}", "x: 1\n".repeat(MAX_ANSWER_BYTES / 5));
        for text in [
            "data: {\"result\":{\"tools\":[{\"name\":\"a\"}]}\n\n",
            "data: {\"result\":{\"tools\":null}}\n\n",
            "data: {\"result\":\ndata\ndata: x}\n\n",
            "data: [DONE]\n\n",
            "data: {}\n\ndata: {\"a\":1,\"a\":2}",
            &long,
            &lines,
        ] {
            assert!(fed(text, 4096).is_err(), "{}", &text[..40.min(text.len())]);
        }
    }
}
