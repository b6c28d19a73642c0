//! Log lines on their way to standard output.
//!
//! One thread writes them, so that a reader that stops or is slow costs lines and nothing else: no request, no
//! worker and no signal ever waits for standard output. (The writer of tracing-appender is bounded in lines, of
//! which strangers choose the length, and when its queue is full at the end of the process it prints to standard
//! output itself, and waits.)

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What waits at most: some 3,000 lines of requests, more than a tenth of a second of what two workers can log.
/// Bytes and not lines are counted, since the length of a line is its client's choice.
pub(super) const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// What is written at once: what a pipe takes in one piece (`PIPE_BUF` on Linux), so that no other program that
/// writes to the same pipe tears a line. Only a line that is longer goes in more.
const MAX_PIECE_BYTES: usize = 4096;

/// How long lines come together after everything was written: a wake-up and a write for each line of a busy
/// process would take a fifth of what the request takes. A process that is killed loses as much.
const PACE: Duration = Duration::from_millis(10);

/// Room that is kept for the next lines: what a busy process logs within [`PACE`]. More was a burst.
const KEPT_BYTES: usize = 256 * 1024;

/// How often a log that is always behind says that lines are missing.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How long the end of the process waits for a reader. Kubernetes grants 5 s beyond `timeouts.drain`.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(2);

/// The lines of the process.
pub(super) static LINES: Queue = Queue::new();

thread_local! {
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Starts to write the lines of the process to standard output.
///
/// # Errors
///
/// When there is no thread or no descriptor left.
pub(super) fn start() -> io::Result<()> {
    // Unbuffered: `Stdout` would hold the beginning of a line back, and its lock would be held while a reader sleeps.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(|| LINES.write_forever(stdout))?;
    Ok(())
}

/// Whole lines, in the order in which they were added.
pub(super) struct Queue {
    state: Mutex<State>,
    /// The writer has something to do.
    wake: Condvar,
    /// The writer has nothing to do.
    idle: Condvar,
}

struct State {
    /// The first piece stays here until it is written.
    lines: VecDeque<u8>,
    /// Whether the writer waits to be woken.
    writer_waits: bool,
    dropped: u64,
    /// How many of those the log has told of, and when.
    told: u64,
    told_at: Option<Instant>,
    has_ended: bool,
}

impl Queue {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                writer_waits: false,
                dropped: 0,
                told: 0,
                told_at: None,
                has_ended: false,
            }),
            wake: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, its end included. Without room it is dropped and counted.
    pub(super) fn add(&self, line: &[u8]) {
        let mut state = self.state();
        // The writer's own line, which says how many were dropped, is one at a time.
        let is_full = state.lines.len().saturating_add(line.len()) > MAX_QUEUED_BYTES;
        if is_full && !IS_WRITER.get() {
            state.dropped = state.dropped.saturating_add(1);
            return;
        }
        state.lines.extend(line);
        let writer_waits = std::mem::take(&mut state.writer_waits);
        drop(state);
        if writer_waits {
            self.wake.notify_one();
        }
    }

    /// How many lines were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until everything is written, or for so long. What comes later is written without a pause.
    pub(super) fn end(&self, patience: Duration) {
        let mut state = self.state();
        state.has_ended = true;
        self.wake.notify_one();
        _ = self
            .idle
            .wait_timeout_while(state, patience, |state| !state.lines.is_empty());
    }

    fn write_forever(&self, mut to: impl Write) {
        IS_WRITER.set(true);
        let mut piece = Vec::with_capacity(MAX_PIECE_BYTES);
        loop {
            self.write_piece(&mut to, &mut piece);
            self.pause();
        }
    }

    /// Waits for lines and writes the first ones.
    fn write_piece(&self, to: &mut impl Write, piece: &mut Vec<u8>) {
        self.wait_for_piece(piece);
        let is_written = write_whole(to, piece).is_ok();
        if let Some(lines) = self.on_written(piece, is_written) {
            tracing::warn!(
                lines,
                "lines of the log were dropped: standard output was not read"
            );
        }
    }

    fn wait_for_piece(&self, piece: &mut Vec<u8>) {
        let mut state = self.state();
        while state.lines.is_empty() {
            state.writer_waits = true;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.copy_piece(piece);
    }

    /// Takes a piece that was written, or cannot be, out of the queue. Answers how many lines are missing, when
    /// that is to be told.
    fn on_written(&self, piece: &[u8], is_written: bool) -> Option<u64> {
        let mut state = self.state();
        let length = piece.len().min(state.lines.len());
        state.lines.drain(..length);
        if state.lines.is_empty() {
            state.lines.shrink_to(KEPT_BYTES);
            self.idle.notify_all();
        }
        if is_written {
            state.untold(Instant::now())
        } else {
            // A log that cannot be written is no reason to stop serving, and nothing to keep either.
            let lines = piece.split_inclusive(|byte| *byte == b'\n').count();
            let lines = u64::try_from(lines).unwrap_or(u64::MAX);
            state.dropped = state.dropped.saturating_add(lines);
            None
        }
    }

    /// After everything was written, lets lines come together.
    fn pause(&self) {
        let state = self.state();
        if state.lines.is_empty() {
            _ = self
                .wake
                .wait_timeout_while(state, PACE, |state| !state.has_ended);
        }
    }
}

impl State {
    /// Copies as many whole lines as make a piece, and one at least.
    fn copy_piece(&self, piece: &mut Vec<u8>) {
        let within = self.lines.len().min(MAX_PIECE_BYTES);
        let is_end = |byte: &u8| *byte == b'\n';
        let last = self.lines.range(..within).rposition(is_end);
        let last = last.or_else(|| self.lines.iter().position(is_end));
        let length = last.map_or(self.lines.len(), |last| last.saturating_add(1));
        let (front, back) = self.lines.as_slices();
        let from_front = length.min(front.len());
        let from_back = length.saturating_sub(from_front);
        piece.clear();
        piece.extend_from_slice(front.get(..from_front).unwrap_or_default());
        piece.extend_from_slice(back.get(..from_back).unwrap_or_default());
    }

    /// How many dropped lines the log has not told of, once the reader has caught up, or from time to time.
    fn untold(&mut self, now: Instant) -> Option<u64> {
        let lines = self.dropped.saturating_sub(self.told);
        let is_due = self.lines.is_empty()
            || self
                .told_at
                .is_none_or(|told| now.saturating_duration_since(told) >= TELL_INTERVAL);
        if lines == 0 || !is_due {
            return None;
        }
        self.told = self.dropped;
        self.told_at = Some(now);
        Some(lines)
    }
}

fn write_whole(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // `O_NONBLOCK` belongs to the pipe: another program that holds it may have set it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PACE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{IS_WRITER, MAX_PIECE_BYTES, MAX_QUEUED_BYTES, Queue, TELL_INTERVAL};
    use std::io::{self, ErrorKind, Write};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Notes each piece that is written.
    #[derive(Default)]
    struct Written(Vec<String>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec());
            self.0.push(text.expect("UTF-8"));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes until nothing is left.
    fn write_all(queue: &Queue, to: &mut impl Write) {
        let mut piece = Vec::new();
        while !queue.state().lines.is_empty() {
            queue.write_piece(to, &mut piece);
        }
    }

    fn line(length: usize) -> Vec<u8> {
        let mut line = vec![b'x'; length - 1];
        line.push(b'\n');
        line
    }

    #[test]
    fn lines_are_written_in_whole_pieces_and_in_order() {
        let (queue, mut to) = (Queue::new(), Written::default());
        for line in [&b"one\n"[..], b"two\n", b"three\n"] {
            queue.add(line);
        }
        write_all(&queue, &mut to);
        assert_eq!(to.0, ["one\ntwo\nthree\n"]);

        for _ in 0..9 {
            queue.add(&line(1000));
        }
        queue.add(&line(MAX_PIECE_BYTES));
        queue.add(&line(MAX_PIECE_BYTES + 1));
        queue.add(b"last\n");
        write_all(&queue, &mut to);
        let lengths: Vec<usize> = to.0.iter().skip(1).map(String::len).collect();
        let whole = MAX_PIECE_BYTES;
        assert_eq!(lengths, [4000, 4000, 1000, whole, whole + 1, 5]);
        assert!(to.0.iter().all(|piece| piece.ends_with('\n')));
    }

    /// The ring of bytes has an end, which lies in the middle of lines sooner or later.
    #[test]
    fn no_line_is_torn_where_the_ring_ends() {
        let (queue, mut to) = (Queue::new(), Written::default());
        let mut expected = String::new();
        for number in 0..2000 {
            let line = format!("{number} {}\n", "y".repeat(number % 83));
            expected.push_str(&line);
            queue.add(line.as_bytes());
            if number % 3 == 0 {
                queue.write_piece(&mut to, &mut Vec::new());
            }
        }
        write_all(&queue, &mut to);
        assert!(to.0.iter().all(|piece| piece.ends_with('\n')));
        assert_eq!(to.0.concat(), expected);
    }

    #[test]
    fn what_has_no_room_is_dropped_counted_and_told_of_once() {
        let subscriber = Told::default();
        let queue = Queue::new();
        let fit = MAX_QUEUED_BYTES / 1000;
        for _ in 0..fit + 7 {
            queue.add(&line(1000));
        }
        queue.add(&line(MAX_QUEUED_BYTES));
        assert_eq!(queue.dropped(), 8);
        assert!(queue.state().lines.len() <= MAX_QUEUED_BYTES);
        // What is shorter still fits.
        queue.add(b"short\n");
        let mut to = Written::default();
        tracing::subscriber::with_default(subscriber.clone(), || write_all(&queue, &mut to));
        assert_eq!(to.0.concat().len(), fit * 1000 + 6);
        assert_eq!(queue.dropped(), 8);
        assert_eq!(*subscriber.0.lock().expect("sound"), [8]);
        assert!(queue.state().lines.capacity() < MAX_QUEUED_BYTES);
    }

    /// What the log was told of as dropped.
    #[derive(Clone, Default)]
    struct Told(Arc<std::sync::Mutex<Vec<u64>>>);

    impl tracing::field::Visit for Told {
        fn record_u64(&mut self, _: &tracing::field::Field, value: u64) {
            self.0.lock().expect("sound").push(value);
        }

        fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
    }

    impl tracing::Subscriber for Told {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_log_that_is_always_behind_says_so_from_time_to_time() {
        let queue = Queue::new();
        queue.add(b"a line that waits\n");
        let mut state = queue.state();
        let start = Instant::now();
        assert_eq!(state.untold(start), None);
        state.dropped = 3;
        assert_eq!(state.untold(start), Some(3));
        state.dropped = 5;
        assert_eq!(state.untold(start + TELL_INTERVAL / 2), None);
        assert_eq!(state.untold(start + TELL_INTERVAL), Some(2));
        assert_eq!(state.untold(start + TELL_INTERVAL * 9), None);
        state.dropped = 6;
        state.lines.clear();
        assert_eq!(state.untold(start + TELL_INTERVAL), Some(1));
    }

    /// In a full queue too: it could not say so otherwise.
    #[test]
    fn the_writer_has_room_for_its_own_line() {
        let queue = Queue::new();
        queue.add(&line(MAX_QUEUED_BYTES));
        queue.add(b"dropped\n");
        IS_WRITER.set(true);
        queue.add(b"kept\n");
        IS_WRITER.set(false);
        assert_eq!(queue.dropped(), 1);
        assert_eq!(queue.state().lines.len(), MAX_QUEUED_BYTES + 5);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_not_kept() {
        /// Fails, works, and fails.
        struct Broken(usize);
        impl Write for Broken {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => Err(ErrorKind::BrokenPipe.into()),
                    2 => Ok(bytes.len()),
                    _ => Ok(0),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, mut broken) = (Queue::new(), Broken(0));
        for dropped in [2, 2, 4] {
            queue.add(b"one\n");
            queue.add(b"two\n");
            write_all(&queue, &mut broken);
            assert_eq!(queue.dropped(), dropped);
        }
    }

    #[test]
    fn an_interrupted_write_goes_on_where_it_stopped() {
        /// Takes three bytes of every third write.
        #[derive(Default)]
        struct Halting(usize, Vec<u8>);
        impl Write for Halting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 % 3 {
                    0 => {
                        let taken = bytes.len().min(3);
                        self.1.extend_from_slice(&bytes[..taken]);
                        Ok(taken)
                    }
                    1 => Err(ErrorKind::Interrupted.into()),
                    _ => Err(ErrorKind::WouldBlock.into()),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, mut to) = (Queue::new(), Halting::default());
        queue.add(b"a line\n");
        queue.add(b"another\n");
        write_all(&queue, &mut to);
        assert_eq!(to.1, b"a line\nanother\n");
    }

    #[test]
    fn the_end_waits_for_what_can_be_written_and_not_for_a_stuck_reader() {
        struct Sending(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Sending {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        queue.add(b"nobody writes this\n");
        queue.end(Duration::ZERO);
        let (sender, written) = std::sync::mpsc::channel();
        // It ends with the process.
        std::thread::spawn(|| queue.write_forever(Sending(sender)));
        queue.end(Duration::MAX);
        assert_eq!(
            written.try_recv().expect("a piece"),
            b"nobody writes this\n"
        );
        queue.add(b"late\n");
        assert_eq!(written.recv().expect("a piece"), b"late\n");
    }
}
