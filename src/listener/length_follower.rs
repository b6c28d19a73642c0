//! Whether the head of an HTTP/1 request has a `Content-Length`. hyper takes it out of a head that has
//! `Transfer-Encoding` too, so it is looked for in the bytes.
//!
//! Few requests have `Transfer-Encoding`. So the bytes of a head are only remembered at first, and followed line by
//! line when its request turns out to be one of those, or when the head comes in several pieces.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// In any case; between name and colon nothing is allowed (RFC 9112 §5.1).
const NAME: &[u8] = b"content-length:";

thread_local! {
    /// What was read last of a head. hyper parses it, and asks for more of an unfinished head, before another
    /// connection has its turn: one place for all of a thread is enough.
    static LAST_READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What has come of a head, in this order: nothing; its first bytes, remembered; some, followed; some, followed,
/// and further ones, remembered; all of it, followed.
const NOTHING: u8 = 0;
const FIRST: u8 = 1;
const FOLLOWED: u8 = 2;
const FURTHER: u8 = 3;
const WHOLE: u8 = 4;

/// Follows the heads of one connection, one after the other.
#[derive(Debug)]
pub(super) struct LengthFollower {
    state: AtomicU8,
    lines: Mutex<Lines>,
}

impl LengthFollower {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU8::new(NOTHING),
            lines: Mutex::new(Lines::new()),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A further read begins: the head that was read last, if there is one, is not complete.
    pub(super) fn before_read(&self) {
        match self.state.load(Ordering::Relaxed) {
            FIRST => *self.lines() = Lines::new(),
            FURTHER => {}
            _ => return,
        }
        let is_whole = LAST_READ.with_borrow(|bytes| self.lines().feed(bytes));
        let state = if is_whole { WHOLE } else { FOLLOWED };
        self.state.store(state, Ordering::Relaxed);
    }

    /// These bytes of a head were read, and what comes behind it in the same piece.
    pub(super) fn on_read(&self, bytes: &[u8]) {
        let state = match self.state.load(Ordering::Relaxed) {
            NOTHING => FIRST,
            FOLLOWED => FURTHER,
            _ => return,
        };
        self.state.store(state, Ordering::Relaxed);
        LAST_READ.with_borrow_mut(|last| {
            last.clear();
            last.extend_from_slice(bytes);
        });
    }

    /// Whether the head that hyper has parsed just now has a `Content-Length`. Of one that came in one piece with
    /// the request before it, nothing is known.
    pub(super) fn has_length(&self) -> bool {
        self.before_read();
        self.state.load(Ordering::Relaxed) != NOTHING && self.lines().has_length
    }

    /// What comes next is another head.
    pub(super) fn begin(&self) {
        self.state.store(NOTHING, Ordering::Relaxed);
    }
}

/// The lines of one head, from its first byte on.
#[derive(Debug)]
struct Lines {
    /// The beginning of a line whose end is still to come, as far as it can be the name.
    begun: Vec<u8>,
    has_first_line: bool,
    has_length: bool,
}

impl Lines {
    const fn new() -> Self {
        Self {
            begun: Vec::new(),
            has_first_line: false,
            has_length: false,
        }
    }

    /// Follows further bytes, and says whether the head is whole; the rest of them is not its any more.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = piece.ends_with(b"\n");
            if !is_whole || !self.begun.is_empty() {
                let room = NAME.len().saturating_sub(self.begun.len());
                self.begun.extend(piece.iter().take(room));
            }
            if !is_whole {
                return false;
            }
            let begun = std::mem::take(&mut self.begun);
            let line = if begun.is_empty() { piece } else { &begun };
            if !matches!(line, b"\n" | b"\r\n") {
                self.has_first_line = true;
                self.has_length |= is_length(line);
            // Before the first line, empty ones are skipped (RFC 9112 §2.2).
            } else if self.has_first_line {
                return true;
            }
        }
        false
    }
}

/// Whether a line, of which as much as the name is long is enough, is that of the field.
fn is_length(line: &[u8]) -> bool {
    let name = line.get(..NAME.len());
    name.is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use super::{LengthFollower, Lines};

    /// What is known after these bytes, fed in pieces of every size.
    fn known(head: &str) -> Option<bool> {
        let verdicts: Vec<Option<bool>> = (1..=head.len())
            .map(|size| {
                let mut lines = Lines::new();
                let mut pieces = head.as_bytes().chunks(size);
                pieces.find_map(|piece| lines.feed(piece).then_some(lines.has_length))
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

    /// As the connection calls it: before each read, after it, and when a request has come of it.
    #[test]
    fn heads_are_followed_one_after_the_other() {
        const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        const UPLOAD: &str = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        const CHUNKS: &str = "POST / HTTP/1.1\r\nHost: a\r\n\r\n16\r\nContent-Length: 5\r\n\r\n";
        let follower = LengthFollower::new();
        assert!(!follower.has_length());
        for (pieces, has_length) in [
            (vec![GET], false),
            (vec![UPLOAD], true),
            (vec![CHUNKS], false),
            (vec![&UPLOAD[..30], &UPLOAD[30..]], true),
            (
                vec![
                    &UPLOAD[..20],
                    &UPLOAD[20..25],
                    &UPLOAD[25..40],
                    &UPLOAD[40..],
                ],
                true,
            ),
            (vec![&CHUNKS[..30], &CHUNKS[30..]], false),
            (vec![GET], false),
        ] {
            follower.begin();
            for piece in &pieces {
                follower.before_read();
                follower.on_read(piece.as_bytes());
            }
            assert_eq!(follower.has_length(), has_length, "{pieces:?}");
            // Asked again, and after what is not the head's.
            follower.before_read();
            follower.on_read(UPLOAD.as_bytes());
            assert_eq!(follower.has_length(), has_length, "{pieces:?}");
        }
        follower.begin();
        assert!(!follower.has_length());
    }

    /// One in the middle of its head while others of the thread have theirs.
    #[test]
    fn connections_of_a_thread_do_not_disturb_each_other() {
        let (one, other) = (LengthFollower::new(), LengthFollower::new());
        let read = |follower: &LengthFollower, bytes: &[u8]| {
            follower.before_read();
            follower.on_read(bytes);
            // hyper has not got enough.
            follower.before_read();
        };
        read(&one, b"POST / HTTP/1.1\r\nContent-");
        read(&other, b"POST / HTTP/1.1\r\nHost: a\r\n");
        read(&one, b"Length: 5\r\nX: y\r\n");
        read(&other, b"X: y\r\n");
        one.on_read(b"\r\n");
        assert!(one.has_length());
        other.on_read(b"\r\n");
        assert!(!other.has_length());
    }

    #[test]
    fn no_line_is_held_beyond_the_name() {
        let mut lines = Lines::new();
        for _ in 0..1000 {
            assert!(!lines.feed(&[b'c'; 100]));
        }
        assert!(lines.begun.capacity() < 100);
    }
}
