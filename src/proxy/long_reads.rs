//! Long JSON takes its turn, so that many long messages at once do not stand before everybody.
//!
//! One is read in some milliseconds, without a pause: the reader cannot stop in the middle. So between two
//! of them every other request of the worker gets through, as between two signature checks.

use super::first_sight::{FirstSight, Overloaded};
use crate::listener::Standing;

/// From here on a text is long. Any shorter one is read in less than a millisecond, and waiting for a turn
/// costs its share of that.
const LONG: usize = 64 * 1024;

/// The long texts of one worker thread.
#[derive(Debug, Default)]
pub(super) struct LongReads(FirstSight);

impl LongReads {
    /// Whether a text of this length has to wait for its turn.
    pub(super) const fn is_long(length: usize) -> bool {
        length > LONG
    }

    /// Reads a text of this length when its turn comes, which is at once for a short one.
    pub(super) async fn in_turn<T>(
        &self,
        length: usize,
        read: impl FnOnce() -> T,
    ) -> Result<T, Overloaded> {
        if Self::is_long(length) {
            self.0.in_turn(Standing::Good, read).await
        } else {
            Ok(read())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONG, LongReads};
    use std::cell::RefCell;

    #[test]
    fn others_run_between_two_long_reads() {
        let (turns, run) = (LongReads::default(), RefCell::new(String::new()));
        let read = |length: usize, name: char| {
            let (turns, run) = (&turns, &run);
            async move {
                turns
                    .in_turn(length, || run.borrow_mut().push(name))
                    .await
                    .is_ok()
            }
        };
        let bystander = async {
            for _ in 0..8 {
                run.borrow_mut().push('.');
                tokio::task::yield_now().await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let done = runtime.expect("a runtime").block_on(async {
            tokio::join!(
                read(LONG + 1, 'a'),
                read(LONG + 1, 'b'),
                read(LONG, 's'),
                bystander,
            )
        });
        assert_eq!(done, (true, true, true, ()));
        let order = run.take();
        let place = |name| order.find(name).expect("it ran");
        assert_eq!(place('s'), 0, "a short one does not wait: {order}");
        assert!(order[place('a')..place('b')].contains('.'), "{order}");
    }
}
