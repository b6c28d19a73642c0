//! Signature checks take their turn, so that a flood of new tokens does not stand before everybody.
//!
//! A token that is in the cache costs nothing here. Any other waits for its turn, one at a time in
//! the order of arrival, and then lets the I/O driver run once before its check: so between two
//! checks every request that needs none gets through.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// How many requests may wait for their turn on one worker. A check takes some tens of microseconds
/// with the keys that Auth0 uses, so the last of them waits for a small part of a second. Further ones
/// are refused at once instead of making the wait longer.
const MAX_WAITING: usize = 2048;

/// The turn-taking of one worker thread.
#[derive(Debug)]
pub(super) struct FirstSight {
    turn: Semaphore,
    waiting: AtomicUsize,
}

/// Too many tokens are waiting for their first check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overloaded;

impl FirstSight {
    pub(super) fn new() -> Self {
        Self {
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Runs `check` when its turn comes.
    pub(super) async fn in_turn<T>(&self, check: impl FnOnce() -> T) -> Result<T, Overloaded> {
        let waiting = Waiting::join(&self.waiting).ok_or(Overloaded)?;
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await.map_err(|_| Overloaded)?;
        tokio::task::yield_now().await;
        drop(waiting);
        Ok(check())
    }
}

/// A place in the queue, given up when it is dropped.
struct Waiting<'q>(&'q AtomicUsize);

impl<'q> Waiting<'q> {
    fn join(waiting: &'q AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstSight, MAX_WAITING};
    use std::cell::Cell;
    use std::sync::atomic::Ordering;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn others_run_between_two_checks() {
        let order = Cell::new(String::new());
        let note = |what: &str| order.set(order.take() + what);
        runtime().block_on(async {
            let first_sight = FirstSight::new();
            let check = |name: &'static str| first_sight.in_turn(|| note(name));
            let bystander = async {
                for _ in 0..4 {
                    note(".");
                    tokio::task::yield_now().await;
                }
            };
            let (a, b, ()) = tokio::join!(check("a"), check("b"), bystander);
            assert!(a.is_ok() && b.is_ok());
        });
        let order = order.take();
        let (a, b) = (order.find('a').expect("ran"), order.find('b').expect("ran"));
        assert!(order[a..b].contains('.'), "{order}");
    }

    #[test]
    fn the_queue_is_bounded_and_places_are_given_back() {
        runtime().block_on(async {
            let first_sight = FirstSight::new();
            first_sight.waiting.store(MAX_WAITING, Ordering::Relaxed);
            assert!(first_sight.in_turn(|| ()).await.is_err());
            assert_eq!(first_sight.waiting.load(Ordering::Relaxed), MAX_WAITING);
            first_sight
                .waiting
                .store(MAX_WAITING - 1, Ordering::Relaxed);
            assert!(first_sight.in_turn(|| ()).await.is_ok());
            assert_eq!(first_sight.waiting.load(Ordering::Relaxed), MAX_WAITING - 1);
        });
    }
}
