//! All client connections of the process, and which of them go when there is no room for others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::activity::Activity;
use crate::budget::{Budget, Budgets};

/// How many inactive connections are asked to go at a time, as nginx has it: an eighth of them, at least one
/// and at most 32. One look at all connections makes room for as many newcomers.
const MOST_AT_A_TIME: usize = 32;
const PART_AT_A_TIME: usize = 8;

/// What is made free at a time of bytes in heads, as a part of the whole: one look at all connections makes
/// room for some.
const HEADS_AT_A_TIME: usize = 8;

/// How often connections are looked at that hold large buffers. They are in want with every read while the
/// budget is short.
const LOOK_AT_BUFFERS: Duration = Duration::from_millis(10);

/// Why a connection is asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A newcomer needs its place, or others its buffers.
    Place,
    /// Another head needs the bytes of its unfinished one.
    Head,
}

/// The connections of all worker threads. Each is known by its activity as long as it is served; the two
/// hold each other until its [`Entry`] is dropped.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) budgets: Budgets,
    /// In the order of their arrival.
    open: Mutex<Open>,
    /// Those that were asked to go for want of places, and have neither gone nor answered.
    asked_for_place: AtomicUsize,
    asked_for_head: AtomicUsize,
    began: Instant,
    /// Milliseconds from `began` to the last look at buffers.
    last_look: AtomicU64,
    /// Connections whose heads wait for bytes, with their tasks.
    waiting: Mutex<Vec<(Arc<Activity>, Waker)>>,
    is_waited: AtomicBool,
}

#[derive(Debug, Default)]
struct Open {
    arrivals: u64,
    connections: BTreeMap<u64, Arc<Activity>>,
}

/// A connection's place in the list of all.
#[derive(Debug)]
pub(super) struct Entry {
    number: u64,
    activity: Arc<Activity>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.activity.go();
        let connections = self.activity.connections();
        let gone = connections.open().connections.remove(&self.number);
        drop(gone);
    }
}

impl Connections {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self {
            budgets,
            open: Mutex::default(),
            asked_for_place: AtomicUsize::new(0),
            asked_for_head: AtomicUsize::new(0),
            began: Instant::now(),
            last_look: AtomicU64::new(0),
            waiting: Mutex::default(),
            is_waited: AtomicBool::new(false),
        }
    }

    /// Counts a connection among those that can be asked to go.
    pub(super) fn enter(activity: &Arc<Activity>) -> Entry {
        let mut open = activity.connections().open();
        let number = open.arrivals;
        open.arrivals = number.saturating_add(1);
        open.connections.insert(number, Arc::clone(activity));
        drop(open);
        Entry {
            number,
            activity: Arc::clone(activity),
        }
    }

    /// How many are on their way out.
    pub(super) fn leaving(&self) -> usize {
        self.asked_for_place.load(Ordering::Relaxed)
    }

    /// Asks those to go that have been inactive for longest, so that newcomers have a place. Answers how
    /// many that are; none if all are busy.
    pub(super) fn shed(&self) -> usize {
        self.shed_those(Activity::inactive_since, &self.budgets.connections)
    }

    /// The same for those that hold large buffers, while these are short.
    pub(super) fn shed_buffers(&self, now: Instant) {
        let now = now.saturating_duration_since(self.began).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let last_look = Duration::from_millis(self.last_look.load(Ordering::Relaxed));
        if Duration::from_millis(now).saturating_sub(last_look) < LOOK_AT_BUFFERS {
            return;
        }
        self.last_look.store(now, Ordering::Relaxed);
        if self.leaving() == 0 {
            let holds_any = |activity: &Activity| {
                (activity.held_buffer() > 0)
                    .then(|| activity.inactive_since())
                    .flatten()
            };
            self.shed_those(holds_any, &self.budgets.buffers);
        }
    }

    fn shed_those(&self, since: impl Fn(&Activity) -> Option<Instant>, budget: &Budget) -> usize {
        let mut inactive = self.choose(since);
        let count = (inactive.len() / PART_AT_A_TIME).clamp(1, MOST_AT_A_TIME);
        inactive.truncate(count);
        self.ask(&inactive, Need::Place);
        budget.on_evicted(inactive.len());
        inactive.len()
    }

    /// Asks those with the oldest unfinished heads to go until so many bytes are on their way back. Those
    /// that were asked before have their time first.
    pub(super) fn evict_heads(&self, bytes: usize) {
        if self.asked_for_head.load(Ordering::SeqCst) > 0 {
            return;
        }
        let holds_any = |activity: &Activity| {
            (activity.held_head() > 0)
                .then(|| activity.inactive_since())
                .flatten()
        };
        let heads = &self.budgets.heads;
        let mut wanted = bytes.max(heads.capacity() / HEADS_AT_A_TIME);
        let mut oldest = self.choose(holds_any);
        let enough = oldest.iter().position(|activity| {
            wanted = wanted.saturating_sub(activity.held_head());
            wanted == 0
        });
        oldest.truncate(enough.map_or(usize::MAX, |last| last.saturating_add(1)));
        self.ask(&oldest, Need::Head);
        heads.on_evicted(oldest.len());
    }

    /// All that are in question, the longest first.
    fn choose(&self, since: impl Fn(&Activity) -> Option<Instant>) -> Vec<Arc<Activity>> {
        let open = self.open();
        let mut chosen: Vec<(Instant, &Arc<Activity>)> = open
            .connections
            .values()
            .filter_map(|activity| Some((since(activity)?, activity)))
            .collect();
        chosen.sort_by_key(|(since, _)| *since);
        chosen
            .into_iter()
            .map(|(_, activity)| Arc::clone(activity))
            .collect()
    }

    fn ask(&self, chosen: &[Arc<Activity>], need: Need) {
        for activity in chosen {
            self.asked(need).fetch_add(1, Ordering::SeqCst);
            if !activity.request_to_go(need) {
                self.on_answer(need);
            }
        }
    }

    fn asked(&self, need: Need) -> &AtomicUsize {
        match need {
            Need::Place => &self.asked_for_place,
            Need::Head => &self.asked_for_head,
        }
    }

    /// Somebody who was asked has gone, or stays because it is busy.
    pub(super) fn on_answer(&self, need: Need) {
        let before = self.asked(need).fetch_sub(1, Ordering::SeqCst);
        if need == Need::Head && before == 1 {
            self.on_head_released();
        }
    }

    /// Wakes the connection's task when bytes of heads have been given back.
    pub(super) fn wait_for_head(&self, activity: &Arc<Activity>, waker: &Waker) {
        if activity.begin_wait() {
            self.waiting().push((Arc::clone(activity), waker.clone()));
        }
        self.is_waited.store(true, Ordering::SeqCst);
    }

    /// Bytes of heads were given back. Those that wait look again when all have answered that were asked for
    /// theirs: one by one, each would wake all.
    pub(super) fn on_head_released(&self) {
        if self.asked_for_head.load(Ordering::SeqCst) > 0
            || !self.is_waited.swap(false, Ordering::SeqCst)
        {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting());
        for (activity, waker) in waiting {
            activity.end_wait();
            waker.wake();
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Arc<Activity>, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, Entry, LOOK_AT_BUFFERS, Need};
    use crate::budget::container::Container;
    use crate::budget::{Budgets, Sizes};
    use crate::listener::activity::Activity;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::time::Instant;

    fn connections() -> Arc<Connections> {
        let sizes = Sizes::within(&Container::default(), 1, 1000);
        Arc::new(Connections::new(Budgets::new(sizes)))
    }

    /// So many connections that say nothing, the oldest first.
    fn silent(connections: &Arc<Connections>, count: usize) -> Vec<Entry> {
        (0..count)
            .map(|_| Connections::enter(&Arc::new(Activity::new(connections))))
            .collect()
    }

    fn asked(entries: &[Entry]) -> Vec<bool> {
        entries
            .iter()
            .map(|entry| entry.activity.is_asked_to_go())
            .collect()
    }

    #[test]
    fn the_longest_inactive_are_asked_first() {
        for (count, expected) in [
            (0, 0),
            (1, 1),
            (7, 1),
            (8, 1),
            (17, 2),
            (100, 12),
            (900, 32),
        ] {
            let connections = connections();
            let entries = silent(&connections, count);
            assert_eq!(connections.shed(), expected, "{count}");
            let asked = asked(&entries);
            assert!(asked[..expected].iter().all(|asked| *asked), "{count}");
            assert!(!asked[expected..].iter().any(|asked| *asked), "{count}");
            assert_eq!(connections.leaving(), expected);
            let evicted = connections.budgets.connections.evicted();
            assert_eq!(usize::try_from(evicted), Ok(expected));
            drop(entries);
            assert_eq!(connections.leaving(), 0, "{count}");
            assert!(connections.open().connections.is_empty());
        }
    }

    #[test]
    fn whoever_is_busy_is_not_asked() {
        let connections = connections();
        let entries = silent(&connections, 3);
        let [first, second, third] = &entries[..] else {
            panic!("three")
        };
        first.activity.on_read(b"GET / HTTP/1.1\r\n\r\n");
        first.activity.on_request(false);
        assert_eq!(connections.shed(), 1);
        assert_eq!(asked(&entries), [false, true, false]);
        // It has become busy meanwhile, and stays.
        second.activity.on_request(false);
        second.activity.stay();
        assert_eq!((connections.leaving(), asked(&entries)[1]), (0, false));
        assert_eq!(connections.shed(), 1);
        assert_eq!(asked(&entries), [false, false, true]);
        assert_eq!(connections.shed(), 0, "nobody else is inactive");
        // It is inactive again when its answer is on the wire, and not before.
        first.activity.on_response_end();
        assert_eq!(connections.shed(), 0);
        first.activity.on_flushed();
        assert_eq!(connections.shed(), 1);
        assert_eq!(asked(&entries), [true, false, true]);
        third.activity.stay();
        assert_eq!(connections.leaving(), 1);
    }

    #[test]
    fn whoever_has_gone_cannot_be_asked() {
        let connections = connections();
        let entry = silent(&connections, 1).pop().expect("one");
        let activity = Arc::clone(&entry.activity);
        assert_eq!(connections.shed(), 1);
        drop(entry);
        connections.ask(&[activity], Need::Place);
        assert_eq!(connections.leaving(), 0);
    }

    #[test]
    fn large_buffers_of_those_that_are_idle_make_way() {
        let connections = connections();
        let entries = silent(&connections, 3);
        entries[1].activity.hold_buffer(100_000);
        let later = Instant::now() + LOOK_AT_BUFFERS;
        connections.shed_buffers(later);
        assert_eq!(asked(&entries), [false, true, false]);
        entries[1].activity.stay();
        connections.shed_buffers(later);
        assert_eq!(asked(&entries), [false; 3], "not so soon again");
        connections.shed_buffers(later + LOOK_AT_BUFFERS);
        assert_eq!(asked(&entries), [false, true, false]);
        entries[2].activity.hold_buffer(100_000);
        connections.shed_buffers(later + 2 * LOOK_AT_BUFFERS);
        assert_eq!(asked(&entries), [false, true, false], "that one first");
    }

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_oldest_unfinished_heads_make_way_for_those_that_wait() {
        let connections = connections();
        let part = connections.budgets.heads.capacity() / super::HEADS_AT_A_TIME;
        let entries = silent(&connections, 6);
        for (entry, held) in entries.iter().zip([0, part / 2, part / 2, part, part, 0]) {
            entry.activity.hold_head(held);
        }
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let wake_ups = || task.0.swap(0, Ordering::Relaxed);
        for _ in 0..2 {
            connections.wait_for_head(&entries[5].activity, &waker);
            connections.evict_heads(10);
            // An eighth of all at least, and no more before those have answered.
            assert_eq!(asked(&entries), [false, true, true, false, false, false]);
        }
        entries[1].activity.stay();
        connections.on_head_released();
        assert_eq!(wake_ups(), 0, "one is still to answer");
        entries[2].activity.stay();
        assert_eq!(wake_ups(), 1, "it waits once, however often it asks");
        connections.on_head_released();
        assert_eq!(wake_ups(), 0, "nobody waits");
        connections.evict_heads(3 * part);
        assert_eq!(asked(&entries), [false, true, true, true, true, false]);
    }
}
