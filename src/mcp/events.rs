//! The same for an event stream, event by event.

use std::borrow::Cow;

use super::answer::{View, filter_answer};
use super::error::AnswerError;
use super::held::Held;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What becomes of an answer, or an event, that cannot be read with certainty, or is too large to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Doubt {
    /// It reaches nobody.
    #[default]
    Refuse,
    /// It passes as it came: what was asked for has no lists, and nothing that may be kept.
    Pass,
}

/// A stream of server-sent events on its way through (HTML, "Server-sent events"). Lines pass as soon as
/// they are whole; from the first line of data on, an event is held until it is.
#[derive(Debug, Default)]
pub struct Events {
    doubt: Doubt,
    /// The event from its first line of data on, as it came, and the line that is not whole yet.
    held: Held,
    /// Where that line begins.
    line: usize,
    /// Whether lines of data are held.
    has_data: bool,
    /// Whether the last byte was a carriage return, which a line feed may belong to.
    after_return: bool,
    /// Whether a line has passed; before the first there may be a byte order mark.
    has_begun: bool,
    /// The length of that mark, where what is held begins with it.
    mark: usize,
    /// For an event that passes unread: whether its line has bytes.
    passing: Option<bool>,
}

impl Events {
    /// The beginning of a stream.
    #[must_use]
    pub fn new(doubt: Doubt) -> Self {
        Self {
            doubt,
            ..Self::default()
        }
    }

    /// How much memory it takes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.held.size()
    }

    /// Gives up holding the event that is held, for which there is no room: it passes unread, as far as it
    /// may, and what is held of it is added to `out`.
    ///
    /// # Errors
    ///
    /// [`AnswerError::TooLarge`] where events that are not read do not pass.
    pub fn give_up(&mut self, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        match self.doubt {
            Doubt::Refuse => Err(AnswerError::TooLarge),
            Doubt::Pass => {
                self.let_pass(out);
                Ok(())
            }
        }
    }

    /// Takes bytes in, and adds what may pass to `out`.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] for an event that cannot be read with certainty, or is too large to hold, unless such
    /// events pass.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        view: &View<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        let mut rest = bytes;
        if self.after_return
            && let [first, after @ ..] = rest
        {
            self.after_return = false;
            if *first == b'\n' {
                self.end_line(b"\n", out)?;
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
            self.hold(line, out)?;
            self.take_line(ending, view, out)?;
            rest = after;
        }
        self.hold(rest, out)
    }

    /// What is held at the end of the stream. A client that is not strict may take it for an event.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn finish(&mut self, view: &View<'_>, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        if self.held.bytes().len() > self.line {
            self.take_line(b"", view, out)?;
        }
        self.release(view, out)
    }

    /// Adds to the line that is not whole yet.
    fn hold(&mut self, part: &[u8], out: &mut Vec<u8>) -> Result<(), AnswerError> {
        if self.passing.is_none() {
            match (self.held.push(part), self.doubt) {
                (Ok(()), _) => return Ok(()),
                (Err(error), Doubt::Refuse) => return Err(error),
                (Err(_), Doubt::Pass) => self.let_pass(out),
            }
        }
        out.extend_from_slice(part);
        if let Some(has_bytes) = &mut self.passing {
            *has_bytes |= !part.is_empty();
        }
        Ok(())
    }

    /// Gives up reading the event that is held.
    fn let_pass(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        out.extend_from_slice(held.bytes());
        self.passing = Some(held.bytes().len() > self.line);
        self.line = 0;
        self.has_data = false;
        self.mark = 0;
        self.has_begun = true;
    }

    /// The line is whole.
    fn take_line(
        &mut self,
        ending: &[u8],
        view: &View<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), AnswerError> {
        if let Some(has_bytes) = self.passing {
            out.extend_from_slice(ending);
            self.passing = has_bytes.then_some(false);
            return Ok(());
        }
        let line = self.held.bytes().get(self.line..).unwrap_or_default();
        let unmarked = line.strip_prefix(BYTE_ORDER_MARK);
        let unmarked = unmarked.filter(|_| !self.has_begun);
        let text = unmarked.unwrap_or(line);
        if text.is_empty() {
            let line = line.to_vec();
            self.release(view, out)?;
            out.extend_from_slice(&line);
        } else if data_of(text).is_some() {
            self.mark = self.mark.max(line.len().saturating_sub(text.len()));
            self.has_data = true;
        }
        self.has_begun = true;
        self.end_line(ending, out)
    }

    /// Ends a line, behind what is held; a line feed may come later than its carriage return.
    fn end_line(&mut self, ending: &[u8], out: &mut Vec<u8>) -> Result<(), AnswerError> {
        if self.passing.is_some() {
            out.extend_from_slice(ending);
            return Ok(());
        }
        if !self.has_data {
            let held = std::mem::take(&mut self.held);
            out.extend_from_slice(held.bytes());
            out.extend_from_slice(ending);
            self.line = 0;
            return Ok(());
        }
        self.hold(ending, out)?;
        self.line = self.held.bytes().len();
        if let Some(has_bytes) = &mut self.passing {
            *has_bytes = false;
        }
        Ok(())
    }

    /// The end of an event.
    fn release(&mut self, view: &View<'_>, out: &mut Vec<u8>) -> Result<(), AnswerError> {
        let held = std::mem::take(&mut self.held);
        let event = held.bytes().get(..self.line).unwrap_or_default();
        self.line = 0;
        let mark = std::mem::take(&mut self.mark);
        if !std::mem::take(&mut self.has_data) {
            return Ok(());
        }
        let lines = lines(event.get(mark..).unwrap_or_default());
        let data = joined(lines.clone().filter_map(data_of));
        // An event without data only tells its id.
        let kept = if data.is_empty() {
            Ok(None)
        } else {
            filter_answer(&data, view)
        };
        let kept = match (kept, self.doubt) {
            (Ok(kept), _) => kept,
            (Err(_), Doubt::Pass) => None,
            (Err(error), Doubt::Refuse) => return Err(error),
        };
        let Some(kept) = kept else {
            out.extend_from_slice(event);
            return Ok(());
        };
        for line in kept.split(|byte| *byte == b'\n') {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        for line in lines.filter(|line| data_of(line).is_none()) {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        Ok(())
    }
}

/// The lines of an event, of which none is empty.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    event
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .filter(|line| !line.is_empty())
}

/// The values of the lines of data, which are one as a rule.
fn joined<'l>(mut values: impl Iterator<Item = &'l [u8]>) -> Cow<'l, [u8]> {
    let mut data = Cow::Borrowed(values.next().unwrap_or_default());
    for value in values {
        let data = data.to_mut();
        data.push(b'\n');
        data.extend_from_slice(value);
    }
    data
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
    use super::super::held::MAX_ANSWER_BYTES;
    use super::{Doubt, Events, View};
    use std::time::Duration;

    const VIEW: View<'_> = View {
        may_call: &|name| !name.starts_with("delete"),
        token_life: Some(Duration::from_secs(1)),
    };

    /// The whole, fed in pieces of this size.
    fn fed(text: &str, size: usize) -> Result<String, String> {
        fed_to(Events::default(), text, size)
    }

    fn fed_to(mut events: Events, text: &str, size: usize) -> Result<String, String> {
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            events
                .feed(piece, &VIEW, &mut out)
                .map_err(|error| error.to_string())?;
        }
        events
            .finish(&VIEW, &mut out)
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    const LIST: &str = r#"{"result":{"tools":[{"name":"a"},{"name":"delete"}]}}"#;
    const HINTS: &str = r#"{"result":{"ttlMs":300000,"cacheScope":"public"}}"#;
    const MY_HINTS: &str = r#"{"result":{"ttlMs":1000,"cacheScope":"private"}}"#;
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
            (format!("data: {HINTS}\n\ndata: {{}}\n\n"), format!("data: {MY_HINTS}\n\ndata: {{}}\n\n")),
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
            events.feed(part.as_bytes(), &VIEW, &mut out).expect(part);
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

    /// Wherever an event is given up, its bytes pass in their order, and the next event is read again.
    #[test]
    fn an_event_without_room_passes_or_ends_the_stream() {
        let event = format!("id: 1\r\ndata: {LIST}\r\nevent: x\r\n\r\n");
        let text = format!("{event}data: {LIST}\n\n");
        for place in 0..event.len() {
            let (before, after) = text.split_at(place);
            let (mut events, mut out) = (Events::new(Doubt::Pass), Vec::new());
            let mut feed = |events: &mut Events, part: &str| {
                events
                    .feed(part.as_bytes(), &VIEW, &mut out)
                    .expect("it passes");
                if part == before && events.size() > 0 {
                    events.give_up(&mut out).expect("it passes");
                    return true;
                }
                false
            };
            let is_given_up = feed(&mut events, before);
            feed(&mut events, after);
            let first = if is_given_up { &event } else { continue };
            assert_eq!(
                String::from_utf8_lossy(&out),
                format!("{first}data: {KEPT}\n\n"),
                "{place}"
            );
            let mut events = Events::new(Doubt::Refuse);
            events
                .feed(before.as_bytes(), &VIEW, &mut Vec::new())
                .expect("so far");
            assert!(events.give_up(&mut Vec::new()).is_err(), "{place}");
        }
    }

    #[test]
    fn what_is_not_certain_may_pass() {
        let long = format!("\"{}\"", "x".repeat(MAX_ANSWER_BYTES));
        let lines = format!("data: 1\n{}", "x: 1\n".repeat(MAX_ANSWER_BYTES / 5 + 1));
        for unread in [
            "data: [DONE]\n\n",
            "data: {\"result\":\r\ndata\ndata: x}\n\n",
            "data: {\"a\":1,\"a\":2}\r\r",
            "data: {\"result\":{\"tools\":null}}\n\n",
            &format!("id: 1\ndata: {long}\n\n"),
            &format!("id: 1\r\ndata: 1\r\ndata: {long}\r\nid: 2\r\ndata: 1\r\n\r\n"),
            &format!("data: {long}\rdata: 2\r\r"),
            &format!(": {long}\n\n"),
            &format!("{lines}data: 1\n\n"),
        ] {
            // What comes behind it is read again.
            let text = format!("data: {LIST}\n\n{unread}data: {LIST}\n\n: x\n\ndata: {HINTS}\n\n");
            let expected =
                format!("data: {KEPT}\n\n{unread}data: {KEPT}\n\n: x\n\ndata: {MY_HINTS}\n\n");
            for size in [4096, usize::MAX] {
                let passed = fed_to(Events::new(Doubt::Pass), &text, size);
                let is_as_expected = passed.as_deref() == Ok(expected.as_str());
                assert!(
                    is_as_expected,
                    "{} by {size}",
                    &unread[..40.min(unread.len())]
                );
            }
        }
        // Also at the end of the stream, and byte by byte around the bound.
        let size = MAX_ANSWER_BYTES - 8;
        for more in [0, 1, 2, 3, 15] {
            let text = format!("data: {}\n\ndata: {LIST}", "x".repeat(size + more));
            let expected = format!("data: {}\n\ndata: {KEPT}\n", "x".repeat(size + more));
            let passed = fed_to(Events::new(Doubt::Pass), &text, usize::MAX);
            assert!(passed.as_deref() == Ok(expected.as_str()), "{more}");
        }
    }

    #[test]
    fn no_more_is_held_than_is_said() {
        let mut events = Events::default();
        let mut out = Vec::new();
        let piece = [b'x'; 1000];
        events.feed(b"data: ", &VIEW, &mut out).expect("room");
        while events.feed(&piece, &VIEW, &mut out).is_ok() {
            assert!(events.size() <= MAX_ANSWER_BYTES);
        }
        assert!(out.is_empty());
    }
}
