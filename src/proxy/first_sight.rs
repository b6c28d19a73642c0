//! Signature checks take their turn, so that a flood of new tokens does not stand before everybody.
//!
//! A token that is in the cache costs nothing here. Any other waits for its turn. There is one turn at a
//! time, and it lets the I/O driver run once before its check: so between two checks every request that
//! needs none gets through.
//!
//! Connections in good standing are first, in the order of arrival. The doubtful ones, whose last token
//! was not taken, wait behind them: a newcomer has newcomers before it, and nobody who floods.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::listener::Standing;

/// How many may wait in each class on one worker: more than there are connections, unless
/// `limits.connections` is raised, since each connection waits once. A check takes some tens of
/// microseconds with the keys that Auth0 uses, so the last one waits for less than a second. To refuse
/// earlier would not help: whoever waits costs nothing, and whoever is refused asks again.
const MAX_WAITING: usize = 10 * 1024;

/// How long a refusal is held back. Thousands that are refused at once and ask again at once keep
/// everybody waiting, even those whose tokens are known.
pub(super) const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// How many turns the front has for each one of the back while somebody waits in both. Who brought a
/// bad token once is not kept out for as long as a flood over fresh connections lasts.
const FRONT_TURNS: usize = 7;

/// How many turns those who were judged wait for one another while there is a line: with the keys that Auth0
/// uses, less than a millisecond. Each that goes on alone wakes the upstream or its client, which takes a third as long as
/// the check itself.
const TURNS_TOGETHER: usize = 8;

/// The turn-taking of one worker thread.
#[derive(Debug, Default)]
pub(super) struct FirstSight {
    line: Mutex<Line>,
}

/// Too many tokens are waiting for their first check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overloaded;

impl FirstSight {
    /// Runs `check` when its turn comes. Dropped before that, it leaves the line or passes the turn on.
    pub(super) async fn in_turn<T>(
        &self,
        standing: Standing,
        check: impl FnOnce() -> T,
    ) -> Result<T, Overloaded> {
        let number = self.line().join(standing)?;
        let place = Place { of: self, number };
        poll_fn(|cx| self.line().poll(place.number, cx)).await;
        tokio::task::yield_now().await;
        Ok(check())
    }

    /// Waits for others who were judged, to go on with them. Nobody waits when there is no line.
    pub(super) async fn with_others(&self) {
        let mut group = None;
        poll_fn(|cx| self.line().poll_group(&mut group, cx)).await;
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line and then the turn; given up when it is dropped.
struct Place<'f> {
    of: &'f FirstSight,
    number: Number,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let (next, group) = self.of.line().leave(self.number);
        for waker in next.into_iter().chain(group) {
            waker.wake();
        }
    }
}

/// Who has the turn, and who waits for it. Nobody waits while nobody has it.
#[derive(Debug, Default)]
struct Line {
    turn: Option<Number>,
    last: Number,
    front: Class,
    back: Class,
    /// Turns of the front since the last one of the back.
    front_turns: usize,
    group: Group,
}

/// Those who were judged and wait to go on together.
#[derive(Debug, Default)]
struct Group {
    number: Number,
    turns: usize,
    waiting: Vec<Waker>,
    /// Whether the last group has been woken, and may not have run yet.
    is_going: bool,
}

/// Drawn in the order of arrival.
type Number = u64;

/// Those who wait, the next one first, each with what wakes it.
type Class = BTreeMap<Number, Option<Waker>>;

impl Line {
    fn join(&mut self, standing: Standing) -> Result<Number, Overloaded> {
        let class = match standing {
            Standing::Good => &mut self.front,
            Standing::Doubtful => &mut self.back,
        };
        if class.len() >= MAX_WAITING {
            return Err(Overloaded);
        }
        self.last = self.last.wrapping_add(1);
        class.insert(self.last, None);
        if self.turn.is_none() {
            // It is the only one, and has not slept yet.
            _ = self.next();
        }
        Ok(self.last)
    }

    fn poll(&mut self, number: Number, cx: &Context<'_>) -> Poll<()> {
        if self.turn == Some(number) {
            return Poll::Ready(());
        }
        for class in [&mut self.front, &mut self.back] {
            if let Some(waker) = class.get_mut(&number) {
                *waker = Some(cx.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Whoever is to be woken because of it: the next one, and those who may go on.
    fn leave(&mut self, number: Number) -> (Option<Waker>, Vec<Waker>) {
        if self.turn == Some(number) {
            let next = self.next();
            return (next, self.count_turn());
        }
        self.front.remove(&number);
        self.back.remove(&number);
        (None, Vec::new())
    }

    /// A turn is over.
    fn count_turn(&mut self) -> Vec<Waker> {
        self.group.turns = self.group.turns.saturating_add(1);
        if self.turn.is_some() && self.group.turns < TURNS_TOGETHER {
            return Vec::new();
        }
        self.group.turns = 0;
        self.group.number = self.group.number.wrapping_add(1);
        self.group.is_going = !self.group.waiting.is_empty();
        std::mem::take(&mut self.group.waiting)
    }

    /// Whether the group that somebody belongs to may go on. They join one at their first question.
    fn poll_group(&mut self, group: &mut Option<Number>, cx: &Context<'_>) -> Poll<()> {
        let is_over = group.is_some_and(|group| group != self.group.number);
        if is_over || (self.turn.is_none() && !self.group.is_going) {
            return Poll::Ready(());
        }
        *group = Some(self.group.number);
        if self.turn.is_none() {
            // The last of the line, behind the group that goes.
            self.group.is_going = false;
            cx.waker().wake_by_ref();
        } else {
            self.group.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Gives the turn to the next one.
    fn next(&mut self) -> Option<Waker> {
        let back_is_due = self.front.is_empty() || self.front_turns >= FRONT_TURNS;
        let from_back = if back_is_due {
            self.back.pop_first()
        } else {
            None
        };
        self.front_turns = match from_back {
            Some(_) => 0,
            None => self.front_turns.saturating_add(1),
        };
        let (number, waker) = from_back.or_else(|| self.front.pop_first()).unzip();
        self.turn = number;
        waker.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, FRONT_TURNS, FirstSight, MAX_WAITING, TURNS_TOGETHER};
    use crate::listener::Standing::{self, Doubtful, Good};
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    /// Checks that note themselves in the order in which they run.
    #[derive(Default)]
    struct Checks {
        first_sight: FirstSight,
        run: RefCell<String>,
    }

    type Waiting<'c> = Pin<Box<dyn Future<Output = bool> + 'c>>;

    impl Checks {
        fn check(&self, standing: Standing, name: char) -> Waiting<'_> {
            let check = move || self.run.borrow_mut().push(name);
            Box::pin(async move { self.first_sight.in_turn(standing, check).await.is_ok() })
        }

        /// One that has joined the line.
        fn waiting(&self, standing: Standing, name: char) -> Waiting<'_> {
            let mut check = self.check(standing, name);
            assert!(poll(&mut check).is_pending(), "{name}");
            check
        }

        /// One for each letter: capitals are in good standing.
        fn all_waiting(&self, names: &str) -> Vec<Waiting<'_>> {
            let join = |name: char| {
                let standing = if name.is_uppercase() { Good } else { Doubtful };
                self.waiting(standing, name)
            };
            names.chars().map(join).collect()
        }

        /// The order in which these run. It is not that in which they are polled.
        fn order(&self, mut waiting: Vec<Waiting<'_>>) -> String {
            waiting.reverse();
            // Each takes a poll for its turn and one for the yield.
            for _ in 0..waiting.len() * 2 {
                waiting.retain_mut(|check| match poll(check) {
                    Poll::Ready(was_run) => {
                        assert!(was_run);
                        false
                    }
                    Poll::Pending => true,
                });
            }
            assert_eq!(waiting.len(), 0, "some never had their turn");
            self.assert_nobody_is_left();
            self.run.take()
        }

        fn assert_nobody_is_left(&self) {
            let line = self.first_sight.line();
            let waiting = [&line.front, &line.back].map(Class::len);
            let left = (line.turn, waiting, line.group.waiting.len());
            assert_eq!(left, (None, [0, 0], 0));
        }
    }

    fn poll(check: &mut Waiting<'_>) -> Poll<bool> {
        let mut context = Context::from_waker(Waker::noop());
        check.as_mut().poll(&mut context)
    }

    #[test]
    fn others_run_between_two_checks() {
        let checks = Checks::default();
        runtime().block_on(async {
            let bystander = async {
                for _ in 0..4 {
                    checks.run.borrow_mut().push('.');
                    tokio::task::yield_now().await;
                }
            };
            let (a, b) = (checks.check(Good, 'a'), checks.check(Good, 'b'));
            assert_eq!(tokio::join!(a, b, bystander), (true, true, ()));
        });
        let order = checks.run.take();
        let (a, b) = (order.find('a').expect("ran"), order.find('b').expect("ran"));
        assert!(order[a..b].contains('.'), "{order}");
    }

    #[test]
    fn the_doubtful_wait_behind_and_each_class_in_its_order() {
        for (arrivals, order) in [
            ("A", "A"),
            ("a", "a"),
            ("ABC", "ABC"),
            ("abc", "abc"),
            ("aA", "aA"),
            ("abcA", "aAbc"),
            ("aAbBcC", "aABCbc"),
            ("AaBbCc", "ABCabc"),
        ] {
            let checks = Checks::default();
            assert_eq!(checks.order(checks.all_waiting(arrivals)), order);
        }
    }

    #[test]
    fn those_behind_have_their_share_of_a_flood_of_newcomers() {
        let checks = Checks::default();
        let arrivals = format!("{}{}", "A".repeat(3 * FRONT_TURNS + 1), "a".repeat(4));
        let order = checks.order(checks.all_waiting(&arrivals));
        let share = "A".repeat(FRONT_TURNS);
        assert_eq!(order, format!("{share}a{share}a{share}aAa"));
        // And a newcomer has its own of a flood behind.
        let order = checks.order(checks.all_waiting(&format!("{}AB", "a".repeat(20))));
        assert_eq!(order, format!("aAB{}", "a".repeat(19)));
    }

    #[test]
    fn whoever_leaves_is_not_waited_for() {
        // Which of them leave, and what the others make of it.
        for (arrivals, leaving, order) in [
            ("ABC", "A", "BC"),
            ("ABC", "B", "AC"),
            ("ABC", "AB", "C"),
            ("ABC", "ABC", ""),
            ("aAb", "a", "Ab"),
            ("aAb", "A", "ab"),
            ("Aab", "Aa", "b"),
        ] {
            let checks = Checks::default();
            let waiting = checks.all_waiting(arrivals);
            let names = arrivals.chars();
            let (gone, staying): (Vec<_>, Vec<_>) = names
                .zip(waiting)
                .partition(|(name, _)| leaving.contains(*name));
            drop(gone);
            let staying = staying.into_iter().map(|(_, check)| check).collect();
            assert_eq!(checks.order(staying), order, "{arrivals} without {leaving}");
        }
    }

    #[test]
    fn a_turn_that_is_given_up_wakes_the_next() {
        runtime().block_on(async {
            let first_sight = Arc::new(FirstSight::default());
            let in_turn = || {
                let first_sight = Arc::clone(&first_sight);
                async move { first_sight.in_turn(Good, || ()).await.is_ok() }
            };
            let mut has_turn = Box::pin(in_turn());
            let polled = has_turn
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            let next = tokio::spawn(in_turn());
            // It has looked, and sleeps.
            tokio::task::yield_now().await;
            assert!(!next.is_finished());
            drop(has_turn);
            assert!(next.await.expect("no panic"));
        });
    }

    #[test]
    fn the_judged_go_on_together_while_there_is_a_line() {
        let checks = Checks::default();
        let judged = || -> Waiting<'_> {
            Box::pin(async {
                checks.first_sight.with_others().await;
                true
            })
        };
        assert!(poll(&mut judged()).is_ready(), "nobody is in the line");
        for (waiting, turns) in [
            (1, 1),
            (3, 3),
            (TURNS_TOGETHER, TURNS_TOGETHER),
            (2 * TURNS_TOGETHER + 1, TURNS_TOGETHER),
        ] {
            let mut line = checks.all_waiting(&"a".repeat(waiting));
            let (mut one, mut other) = (judged(), judged());
            assert!(poll(&mut other).is_pending());
            let mut turns_taken = 0;
            while poll(&mut one).is_pending() {
                let mut check = line.remove(0);
                // It is its turn, so it needs one for that and one for the yield at most.
                assert!(poll(&mut check).is_ready() || poll(&mut check).is_ready());
                turns_taken += 1;
            }
            assert_eq!(turns_taken, turns, "{waiting} in the line");
            assert!(poll(&mut other).is_ready());
            drop(line);
            checks.assert_nobody_is_left();
        }
    }

    #[test]
    fn each_class_is_bounded_and_places_are_given_back() {
        let checks = Checks::default();
        let has_turn = checks.waiting(Good, '.');
        for standing in [Doubtful, Good] {
            let join = |_| checks.waiting(standing, '.');
            let mut waiting: Vec<_> = (0..MAX_WAITING).map(join).collect();
            assert_eq!(
                poll(&mut checks.check(standing, '!')),
                Poll::Ready(false),
                "{standing:?}"
            );
            waiting.pop();
            waiting.push(checks.waiting(standing, '.'));
            assert_eq!(poll(&mut checks.check(standing, '!')), Poll::Ready(false));
            // The other class is not concerned.
            let other = if standing == Good { Doubtful } else { Good };
            drop(checks.waiting(other, '.'));
        }
        drop(has_turn);
        checks.assert_nobody_is_left();
        assert_eq!(checks.run.take(), "");
    }
}
