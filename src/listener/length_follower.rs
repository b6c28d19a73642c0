//! Whether the head of an HTTP/1 request has a `Content-Length`. hyper takes it away from a head that has
//! `Transfer-Encoding` too, so it is looked for in the bytes. Nothing else of the head is looked at.

use std::io::BufRead as _;

use super::activity::{Activity, HeadBytes};

/// In any case; between name and colon nothing is allowed (RFC 9112 §5.1).
const NAME: &[u8] = b"content-length:";

/// Follows the head of one request, from its first byte on.
#[derive(Debug)]
pub(super) struct LengthFollower {
    /// The beginning of a line whose end is still to come, as far as it can be the name.
    line: Vec<u8>,
    has_first_line: bool,
    has_length: bool,
}

impl LengthFollower {
    pub(super) const fn new() -> Self {
        Self {
            line: Vec::new(),
            has_first_line: false,
            has_length: false,
        }
    }

    /// Follows what has arrived on a connection, as far as it belongs to heads.
    pub(super) fn follow(&mut self, bytes: &[u8], activity: &Activity) {
        match activity.head_bytes() {
            HeadBytes::None => return,
            HeadBytes::First => *self = Self::new(),
            HeadBytes::Further => {}
        }
        if let Some((has_length, rest)) = self.feed(bytes) {
            // A body, or pipelined requests, of which the beginnings are not known.
            let mut lines = rest.split_inclusive(|byte| *byte == b'\n');
            activity.on_length_known(has_length, lines.any(is_length));
        }
    }

    /// Follows further bytes of a head. At its end it is known whether there is a `Content-Length`; the rest is not
    /// the head's any more.
    fn feed<'b>(&mut self, mut bytes: &'b [u8]) -> Option<(bool, &'b [u8])> {
        while !bytes.is_empty() {
            let all = bytes;
            // A slice is read without errors.
            let length = bytes.skip_until(b'\n').unwrap_or(all.len());
            let piece = all.get(..length).unwrap_or_default();
            let is_whole = piece.ends_with(b"\n");
            if !is_whole || !self.line.is_empty() {
                let room = NAME.len().saturating_sub(self.line.len());
                self.line.extend(piece.iter().take(room));
            }
            if !is_whole {
                return None;
            }
            let begun = std::mem::take(&mut self.line);
            let line = if begun.is_empty() { piece } else { &begun };
            if !matches!(line, b"\n" | b"\r\n") {
                self.has_first_line = true;
                self.has_length |= is_length(line);
            // Before the first line, empty ones are skipped (RFC 9112 §2.2).
            } else if self.has_first_line {
                return Some((self.has_length, bytes));
            }
        }
        None
    }
}

/// Whether a line, of which as much as the name is long is enough, is that of the field.
fn is_length(line: &[u8]) -> bool {
    let may_match = matches!(line.first(), Some(b'c' | b'C'));
    let name = line.get(..NAME.len());
    may_match && name.is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use super::LengthFollower;

    /// What is known after these bytes, fed in pieces of every size.
    fn known(head: &str) -> Option<bool> {
        let verdicts: Vec<Option<bool>> = (1..=head.len())
            .map(|size| {
                let mut follower = LengthFollower::new();
                let mut pieces = head.as_bytes().chunks(size);
                pieces.find_map(|piece| Some(follower.feed(piece)?.0))
            })
            .collect();
        assert!(
            verdicts.windows(2).all(|two| two[0] == two[1]),
            "{head:?}: {verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_length_is_found_in_the_head_and_nowhere_else() {
        let long = "x".repeat(300);
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Some(false)),
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), Some(false)),
            ("GET / HTTP/1.1\r\n\n".to_owned(), Some(false)),
            ("\r\n\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), Some(false)),
            (
                "\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n".to_owned(),
                Some(true),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
                Some(true),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\ncontent-length:5\r\n\r\n".to_owned(),
                Some(true),
            ),
            (
                "POST / HTTP/1.1\r\ncOnTeNt-LeNgTh:\r\n\r\n".to_owned(),
                Some(true),
            ),
            (
                "POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 5\n\n".to_owned(),
                Some(true),
            ),
            (
                format!("POST / HTTP/1.1\r\nX: {long}\r\nContent-Length: {long}\r\n\r\n"),
                Some(true),
            ),
            (
                format!("POST /{long} HTTP/1.1\r\nC: {long}\r\n\r\n"),
                Some(false),
            ),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n".to_owned(), Some(false)),
            // In the body, in a value, and what is another name.
            (
                "POST / HTTP/1.1\r\nHost: a\r\n\r\nContent-Length: 5\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nX: content-length: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST /content-length: HTTP/1.1\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Lengths: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Lengt: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nContent_Length: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nXContent-Length: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Type: a\r\nCookie: a\r\n\r\n".to_owned(),
                Some(false),
            ),
            // Refused by the parser, whatever is said here.
            (
                "POST / HTTP/1.1\r\n Content-Length: 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\n".to_owned(),
                Some(false),
            ),
            // Not at the end yet.
            (String::from("\r\n"), None),
            ("POST / HTTP/1.1\r\nHost: a\r\n".to_owned(), None),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r".to_owned(), None),
            ("POST / HTTP/1.1\r\nContent-Length".to_owned(), None),
        ] {
            assert_eq!(known(&head), expected, "{head:?}");
        }
    }

    #[test]
    fn the_rest_begins_behind_the_head() {
        for (bytes, rest) in [
            ("GET / HTTP/1.1\r\n\r\n", ""),
            ("GET / HTTP/1.1\r\n\r\n\r\nGET", "\r\nGET"),
            ("POST / HTTP/1.1\nContent-Length: 5\n\nhello\n", "hello\n"),
        ] {
            let fed = LengthFollower::new()
                .feed(bytes.as_bytes())
                .map(|known| known.1.to_vec());
            assert_eq!(fed.as_deref(), Some(rest.as_bytes()), "{bytes:?}");
        }
    }

    #[test]
    fn no_line_is_held_beyond_the_name() {
        let mut follower = LengthFollower::new();
        for _ in 0..1000 {
            assert!(follower.feed(&[b'c'; 100]).is_none());
        }
        assert!(follower.line.capacity() < 100);
    }
}
