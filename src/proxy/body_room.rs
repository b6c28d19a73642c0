//! Room for MCP messages: while they are read, and until they are passed on. One for the process, out of its
//! budget of message bytes.
//!
//! The first 8 KiB of a message are a part of what its connection costs, and most messages are smaller. What it
//! declares beyond is leased before its first byte is asked for, and its buffer is never larger than that. Where
//! the room is short, messages that stall give way to others.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::budget::{Bound, Budget, Exhausted, Lease, Share};
use crate::clock::after;

/// What a message takes before it counts.
const UNLEASED: usize = 8 * 1024;

/// The first buffer of a message that declares no length. Most are smaller.
const FIRST_BUFFER: usize = 4 * 1024;

/// A message that brings nothing for so long is stalled: more than a lost packet costs on any way.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// A whole message is a matter of milliseconds. For that long any rate will do.
const PATIENCE: Duration = Duration::from_secs(10);

/// Then so many bytes a second must have come, 128 kbit/s: what holds room for longer than that is slower than
/// any network that an MCP client is on.
const LEAST_RATE: usize = 16 * 1024;

/// The room.
#[derive(Debug)]
pub(super) struct BodyRoom {
    budget: Budget,
    epoch: Instant,
    waiting: Mutex<Waiting>,
}

/// The messages that have been waited for.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    bodies: BTreeMap<u64, Arc<Arriving>>,
}

/// A message on its way in.
#[derive(Debug)]
struct Arriving {
    /// On whose behalf it holds room.
    shares: Vec<Share>,
    /// Milliseconds from the epoch.
    last_progress: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Until it has given way.
    held: Option<Held>,
    waker: Option<Waker>,
}

/// A body in the room, with what it takes of it.
pub(super) struct Held {
    bytes: Vec<u8>,
    lease: Lease,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.bytes.len())
    }
}

/// Reads one message into the room. Dropped, it leaves nothing there.
#[derive(Debug)]
pub(super) struct Entry {
    room: Arc<BodyRoom>,
    arriving: Arc<Arriving>,
    /// Among those that have been waited for.
    number: Option<u64>,
    began: Instant,
    length: usize,
}

/// Why a message was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// There is no room for it.
    NoRoom(Exhausted),
    /// It stalled, and others needed its room.
    GaveWay,
    /// It came too slowly.
    TooSlow,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(why) => why.fmt(f),
            Self::GaveWay => write!(
                f,
                "nothing of the message came for {STALLED_AFTER:?}, and others needed its room"
            ),
            Self::TooSlow => write!(
                f,
                "the message did not come within {PATIENCE:?}, or {LEAST_RATE} bytes a second"
            ),
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyRoom {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            epoch: Instant::now(),
            waiting: Mutex::default(),
        }
    }

    /// A message that has declared so many bytes, or none, on behalf of these shares.
    pub(super) fn admit(
        self: &Arc<Self>,
        shares: Vec<Share>,
        declared: usize,
        now: Instant,
    ) -> Result<Entry, Unread> {
        let mut held = Held {
            bytes: Vec::new(),
            lease: self.budget.lease(shares.iter().cloned()),
        };
        self.enlarge(&mut held, declared, now)?;
        let arriving = Arriving {
            shares,
            last_progress: AtomicU64::new(self.millis(now)),
            state: Mutex::new(State {
                held: Some(held),
                waker: None,
            }),
        };
        Ok(Entry {
            room: Arc::clone(self),
            arriving: Arc::new(arriving),
            number: None,
            began: now,
            length: 0,
        })
    }

    /// Makes the buffer exactly so large.
    fn enlarge(&self, held: &mut Held, size: usize, now: Instant) -> Result<(), Unread> {
        let leased = size.saturating_sub(UNLEASED);
        let more = leased.saturating_sub(held.lease.amount());
        while let Err(why) = held.lease.grow(more) {
            // Who holds a full share disturbs nobody else for more.
            if !self.evict(why.bound == Bound::Share, now) {
                return Err(Unread::NoRoom(why));
            }
        }
        let space = size.saturating_sub(held.bytes.len());
        held.bytes.reserve_exact(space);
        Ok(())
    }

    /// Takes its room from the message that has been stalled for longest, those first whose share holds more than
    /// it may, or those only. `false` where there is none.
    fn evict(&self, over_share_only: bool, now: Instant) -> bool {
        let (now, most) = (self.millis(now), self.budget.one_share());
        let stalled_after = u64::try_from(STALLED_AFTER.as_millis()).unwrap_or(u64::MAX);
        let mut waiting = self.waiting();
        let stalled = waiting.bodies.iter().filter_map(|(number, body)| {
            let since = now.saturating_sub(body.last_progress.load(Ordering::Relaxed));
            let is_over = body.shares.iter().any(|share| share.held() > most);
            let counts = since >= stalled_after && (is_over || !over_share_only);
            counts.then_some((is_over, since, *number, body))
        });
        let mut stalled: Vec<_> = stalled.collect();
        stalled
            .sort_unstable_by_key(|&(is_over, since, number, _)| Reverse((is_over, since, number)));
        let evicted = stalled.into_iter().find(|(.., body)| body.give_way());
        let Some((_, _, number, _)) = evicted else {
            return false;
        };
        waiting.bodies.remove(&number);
        true
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Arriving {
    /// Gives its room up. Not where its task is at it at this moment, which is progress.
    fn give_way(&self) -> bool {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let held = state.held.take();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        held.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// How much has come.
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Until when the next part is waited for.
    pub(super) fn deadline(&self, most: Duration) -> Instant {
        let earned = u64::try_from(self.length.checked_div(LEAST_RATE).unwrap_or_default());
        let earned = Duration::from_secs(earned.unwrap_or(u64::MAX));
        after(self.began, PATIENCE.saturating_add(earned).min(most))
    }

    /// Ready when it has given way. The task is woken when it does.
    pub(super) fn poll_given_up(&mut self, cx: &Context<'_>) -> Poll<Unread> {
        let mut state = self.arriving.state();
        if state.held.is_none() {
            return Poll::Ready(Unread::GaveWay);
        }
        state.waker = Some(cx.waker().clone());
        drop(state);
        if self.number.is_none() {
            let mut waiting = self.room.waiting();
            waiting.last = waiting.last.wrapping_add(1);
            let number = waiting.last;
            waiting.bodies.insert(number, Arc::clone(&self.arriving));
            self.number = Some(number);
        }
        Poll::Pending
    }

    /// Takes the next part in. `most` is what the message may have in all, as the caller has checked.
    pub(super) fn push(&mut self, data: &[u8], most: usize, now: Instant) -> Result<(), Unread> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.arriving.state();
        let held = state.held.as_mut().ok_or(Unread::GaveWay)?;
        let progress = self.room.millis(now);
        self.arriving
            .last_progress
            .store(progress, Ordering::Relaxed);
        let needed = self.length.saturating_add(data.len());
        let size = held.bytes.capacity();
        if needed > size {
            let ahead = size.saturating_mul(2).max(FIRST_BUFFER).min(most);
            let ahead = self.room.enlarge(held, ahead.max(needed), now);
            ahead.or_else(|_| self.room.enlarge(held, needed, now))?;
        }
        held.bytes.extend_from_slice(data);
        self.length = needed;
        Ok(())
    }

    /// The whole message. It keeps what it takes, and gives way no more.
    pub(super) fn finish(mut self) -> Result<Held, Unread> {
        self.leave();
        let held = self.arriving.state().held.take();
        let mut held = held.ok_or(Unread::GaveWay)?;
        held.bytes.shrink_to_fit();
        let leased = held.bytes.len().saturating_sub(UNLEASED);
        let spare = held.lease.amount().saturating_sub(leased);
        held.lease.shrink(spare);
        Ok(held)
    }

    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.room.waiting().bodies.remove(&number);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BodyRoom, Entry, FIRST_BUFFER, LEAST_RATE, PATIENCE, STALLED_AFTER, UNLEASED, Unread,
    };
    use crate::budget::{Bound, Budget, Share};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::{Duration, Instant};

    const KIB: usize = 1024;
    /// Of which one message of the tests takes an eighth.
    const ROOM: usize = 800 * KIB;
    const EIGHTH: usize = 100 * KIB;
    const MESSAGE: usize = EIGHTH + UNLEASED;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn room() -> (Arc<BodyRoom>, Budget, Instant) {
        let budget = Budget::new("message_bytes", ROOM);
        (Arc::new(BodyRoom::new(&budget)), budget, Instant::now())
    }

    /// Waits for the next part, as its task does.
    fn wait(entry: &mut Entry) -> Poll<Unread> {
        entry.poll_given_up(&Context::from_waker(Waker::noop()))
    }

    fn has_given_way(entry: &mut Entry) -> bool {
        wait(entry) == Poll::Ready(Unread::GaveWay)
    }

    fn bound(refused: &Result<Entry, Unread>) -> Option<Bound> {
        match refused {
            Err(Unread::NoRoom(why)) => Some(why.bound),
            Err(Unread::GaveWay | Unread::TooSlow) => panic!("it was not read"),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_message_takes_what_it_declares_and_gives_it_back() {
        let (room, budget, now) = room();
        let mut entry = room.admit(vec![], MESSAGE, now).expect("room");
        assert_eq!(budget.used(), EIGHTH, "before the first byte");
        for _ in 0..MESSAGE / KIB {
            entry.push(&[7; KIB], MESSAGE, now).expect("declared");
        }
        assert_eq!(budget.used(), EIGHTH);
        let held = entry.finish().expect("whole");
        assert_eq!(
            (held.as_ref().len(), held.bytes.capacity()),
            (MESSAGE, MESSAGE)
        );
        assert_eq!(budget.used(), EIGHTH, "until it is passed on");
        drop(held);
        assert_eq!(budget.used(), 0);
        drop(room.admit(vec![], MESSAGE, now).expect("room"));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_buffer_is_never_larger_than_its_lease() {
        let (room, budget, now) = room();
        let most = 150 * KIB;
        let mut entry = room.admit(vec![], 0, now).expect("room");
        assert_eq!(budget.used(), 0);
        for length in (1..)
            .map(|count| count * 700)
            .take_while(|length| *length < most)
        {
            entry.push(&[7; 700], most, now).expect("room");
            let state = entry.arriving.state();
            let held = state.held.as_ref().expect("there");
            let (capacity, leased) = (held.bytes.capacity(), held.lease.amount());
            assert_eq!(leased, capacity.saturating_sub(UNLEASED), "{length}");
            assert!(capacity <= most, "{length}: {capacity}");
            assert!(
                capacity <= (2 * length).max(FIRST_BUFFER),
                "{length}: {capacity}"
            );
        }
        let length = entry.length();
        let held = entry.finish().expect("whole");
        assert_eq!(budget.used(), length - UNLEASED);
        drop(held);
        // Where twice as much is not to be had, what is needed may be.
        let mut others = budget.lease([]);
        others.grow(ROOM - 10).expect("room");
        let mut entry = room.admit(vec![], 0, now).expect("room");
        entry.push(&[7; UNLEASED], most, now).expect("in any case");
        entry.push(&[7; 10], most, now).expect("exactly");
        let full = entry.push(&[7; 1], most, now);
        assert!(matches!(full, Err(Unread::NoRoom(_))), "{full:?}");
    }

    #[test]
    fn stalled_messages_give_way_and_no_others() {
        let (room, budget, begun) = room();
        let mut entries: Vec<Entry> = (0..8)
            .map(|_| room.admit(vec![], MESSAGE, begun).expect("room"))
            .collect();
        for entry in &mut entries {
            assert_eq!(wait(entry), Poll::Pending);
        }
        let soon = begun + Duration::from_millis(999);
        assert_eq!(
            bound(&room.admit(vec![], MESSAGE, soon)),
            Some(Bound::Capacity)
        );
        // All of them go on, the third last of all but one.
        for (place, entry) in entries.iter_mut().enumerate() {
            let at = soon + Duration::from_millis(u64::from(place != 3));
            entry.push(&[7], MESSAGE, at).expect("declared");
            entry
                .push(&[], MESSAGE, at + Duration::from_mins(1))
                .expect("nothing");
        }
        let later = soon + STALLED_AFTER;
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        assert!(
            entries[3]
                .poll_given_up(&Context::from_waker(&waker))
                .is_pending()
        );
        let newcomer = room.admit(vec![], MESSAGE, later).expect("one has stalled");
        assert_eq!(budget.used(), ROOM, "at once");
        for (place, entry) in entries.iter_mut().enumerate() {
            assert_eq!(has_given_way(entry), place == 3, "{place}");
        }
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "it is told");
        assert_eq!(entries[3].push(&[7], MESSAGE, later), Err(Unread::GaveWay));
        assert_eq!(
            bound(&room.admit(vec![], MESSAGE, later)),
            Some(Bound::Capacity)
        );
        assert_eq!(entries.remove(3).finish().err(), Some(Unread::GaveWay));
        // What has come whole gives way no more.
        let whole = entries.remove(0).finish().expect("whole");
        drop((newcomer, whole));
        drop(entries);
        assert_eq!(budget.used(), 0);
        assert!(room.waiting().bodies.is_empty());
    }

    /// The bytes of S6: one caller with as many messages as it can, which lack their last byte.
    #[test]
    fn one_caller_leaves_room_for_others_and_gives_way_first() {
        let (room, budget, begun) = room();
        let (mallory, alice, bob) = (Share::new(), Share::new(), Share::new());
        let admit =
            |share: &Share, size: usize, now: Instant| room.admit(vec![share.clone()], size, now);
        let mut slow = admit(&bob, EIGHTH / 2 + UNLEASED, begun).expect("room");
        assert_eq!(wait(&mut slow), Poll::Pending);
        let mut stalled = Vec::new();
        while let Ok(mut entry) = admit(&mallory, MESSAGE, begun) {
            assert_eq!(wait(&mut entry), Poll::Pending);
            stalled.push(entry);
        }
        assert_eq!(stalled.len(), 5, "not beyond three quarters");
        let hers = admit(&alice, MESSAGE, begun).expect("her share");
        let more = admit(&alice, MESSAGE, begun);
        assert_eq!(bound(&more), Some(Bound::Share), "nobody has stalled yet");
        let later = begun + STALLED_AFTER;
        // Mallory's own give way for her, and never Bob's, who is within his share.
        let again = admit(&mallory, MESSAGE, later);
        assert!(again.is_ok(), "{again:?}");
        drop(again);
        let second = admit(&alice, 2 * EIGHTH + UNLEASED, later).expect("room that was stalled");
        assert!(!has_given_way(&mut slow));
        assert!(
            stalled
                .iter_mut()
                .filter_map(|one| has_given_way(one).then_some(()))
                .count()
                >= 2
        );
        drop((hers, second, stalled, slow));
        assert_eq!(budget.used(), 0);
        assert_eq!([mallory, alice, bob].map(|share| share.held()), [0, 0, 0]);
    }

    #[test]
    fn a_message_has_some_seconds_and_then_a_least_rate() {
        let (room, _, begun) = room();
        let most = Duration::from_mins(5);
        let mut entry = room.admit(vec![], 0, begun).expect("room");
        assert_eq!(entry.deadline(most), begun + PATIENCE);
        entry.push(&[7; LEAST_RATE - 1], ROOM, begun).expect("room");
        assert_eq!(entry.deadline(most), begun + PATIENCE);
        entry.push(&[7], ROOM, begun).expect("room");
        assert_eq!(
            entry.deadline(most),
            begun + PATIENCE + Duration::from_secs(1)
        );
        entry
            .push(&vec![7; 9 * LEAST_RATE], ROOM, begun)
            .expect("room");
        assert_eq!(
            entry.deadline(most),
            begun + PATIENCE + Duration::from_secs(10)
        );
        let configured = Duration::from_secs(3);
        assert_eq!(entry.deadline(configured), begun + configured);
    }
}
