//! Bodies on their way: what was handed to a connection and is not written yet.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::{Budget, Lease};

/// Smaller pieces are not accounted for: a connection holds sixteen of them at most (hyper flushes then),
/// and an event of a stream is one.
const SMALL_PIECE: usize = 1024;

/// What may wait to be written before the next piece is asked for. As long as pieces are written at once,
/// which is as long as the peer takes them, they are as large as they come.
const MAX_IN_FLIGHT: usize = 64 * 1024;

/// A piece is a part of the buffer that it was read into, which stays as long as the piece does and is up
/// to twice as large: a buffer that is filled to less than half becomes smaller.
const BUFFER_OF_PIECE: usize = 2;

/// What passes in one direction of one exchange, bounded by a budget. Where the budget is short, one piece
/// at a time passes, and whoever reads the next one reads less.
#[derive(Debug, Clone)]
pub struct Flow(Arc<State>);

#[derive(Debug)]
struct State {
    budget: Budget,
    in_flight: AtomicUsize,
    is_held_back: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A piece whose end is noticed.
struct Piece {
    bytes: Bytes,
    flow: Flow,
    _lease: Lease,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.flow.passed(self.bytes.len());
    }
}

impl Flow {
    /// A flow of which nothing is on its way.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        Self(Arc::new(State {
            budget: budget.clone(),
            in_flight: AtomicUsize::new(0),
            is_held_back: AtomicBool::new(false),
            waker: Mutex::new(None),
        }))
    }

    /// Whether a piece of this size is worth accounting for.
    #[must_use]
    pub const fn counts(length: usize) -> bool {
        length >= SMALL_PIECE
    }

    /// Ready when another piece may be handed on; the task is woken when it is.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_open() {
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *waker = Some(cx.waker().clone());
        drop(waker);
        self.0.is_held_back.store(true, Ordering::SeqCst);
        // What ended in between has woken nobody.
        if self.is_open() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Hands a piece on. It is on its way until the last clone of it is dropped.
    #[must_use]
    pub fn pass(&self, bytes: Bytes) -> Bytes {
        if !Self::counts(bytes.len()) {
            return bytes;
        }
        let mut lease = self.0.budget.lease([]);
        // It is here already: where nothing is left for it, the budget is short, and the next piece waits.
        _ = lease.grow(bytes.len().saturating_mul(BUFFER_OF_PIECE));
        self.0.in_flight.fetch_add(bytes.len(), Ordering::SeqCst);
        Bytes::from_owner(Piece {
            bytes,
            flow: self.clone(),
            _lease: lease,
        })
    }

    fn is_open(&self) -> bool {
        let most = if self.0.budget.is_short() {
            0
        } else {
            MAX_IN_FLIGHT
        };
        self.0.in_flight.load(Ordering::SeqCst) <= most
    }

    fn passed(&self, length: usize) {
        self.0.in_flight.fetch_sub(length, Ordering::SeqCst);
        if self.0.is_held_back.swap(false, Ordering::SeqCst) {
            let mut waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner);
            let waker = waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flow, MAX_IN_FLIGHT, SMALL_PIECE};
    use crate::budget::Budget;
    use bytes::Bytes;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn piece(length: usize) -> Bytes {
        vec![7; length].into()
    }

    #[test]
    fn a_flow_is_held_back_until_pieces_are_written() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = Context::from_waker(&waker);
        let wake_ups = || task.0.swap(0, Ordering::Relaxed);
        let budget = Budget::new("test", 1 << 20);
        let flow = Flow::new(&budget);
        assert_eq!(flow.poll_ready(&cx), Poll::Ready(()));
        let first = flow.pass(piece(MAX_IN_FLIGHT));
        assert_eq!(flow.poll_ready(&cx), Poll::Ready(()), "as much as may wait");
        let mut second = flow.pass(piece(SMALL_PIECE));
        assert_eq!(budget.used(), 2 * (MAX_IN_FLIGHT + SMALL_PIECE));
        assert_eq!(flow.poll_ready(&cx), Poll::Pending);
        // A piece that is partly written, or of which a part was copied, is still there.
        let part = second.split_to(10);
        drop(second);
        assert_eq!((wake_ups(), flow.poll_ready(&cx)), (0, Poll::Pending));
        drop(part);
        assert_eq!((wake_ups(), flow.poll_ready(&cx)), (1, Poll::Ready(())));
        drop(first);
        assert_eq!((wake_ups(), budget.used()), (0, 0), "nobody waits");
    }

    #[test]
    fn one_piece_at_a_time_passes_where_the_budget_is_short() {
        let cx = Context::from_waker(Waker::noop());
        let budget = Budget::new("test", 100_000);
        let mut others = budget.lease([]);
        others.grow(99_000).expect("it fits");
        let flow = Flow::new(&budget);
        assert_eq!(flow.poll_ready(&cx), Poll::Ready(()));
        let first = flow.pass(piece(SMALL_PIECE));
        assert_eq!(budget.used(), 99_000, "nothing is left for it");
        assert_eq!(flow.poll_ready(&cx), Poll::Pending);
        drop(first);
        assert_eq!(flow.poll_ready(&cx), Poll::Ready(()));
        let _second = flow.pass(piece(SMALL_PIECE));
        assert_eq!(flow.poll_ready(&cx), Poll::Pending);
        drop(others);
        assert_eq!(
            flow.poll_ready(&cx),
            Poll::Ready(()),
            "there is plenty again"
        );
    }

    #[test]
    fn small_pieces_pass_as_they_are() {
        let budget = Budget::new("test", 0);
        let flow = Flow::new(&budget);
        let small = piece(SMALL_PIECE - 1);
        let passed = flow.pass(small.clone());
        assert_eq!(passed.as_ptr(), small.as_ptr());
        assert_eq!(
            flow.poll_ready(&Context::from_waker(Waker::noop())),
            Poll::Ready(())
        );
        let large = piece(SMALL_PIECE);
        assert_eq!(flow.pass(large.clone()), large);
    }
}
