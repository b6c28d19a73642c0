//! Places for client connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connections::Connections;
use crate::budget::{Budget, Budgets, Exhausted, Lease};

/// While fewer places than this part of all are free, inactive connections are asked to go, so that the
/// newcomers behind this one need not wait until they have gone.
const FEW_FREE: usize = 16;

/// Streams of HTTP/2 beyond the first of each connection take no place while fewer than this part of all
/// are free: what is left is for those who have nothing yet.
const FREE_FOR_CONNECTIONS: usize = 4;

/// The most places that one connection has for itself: with TLS and HTTP/2.
const MOST_OF_ONE: usize = 3;

/// How often a newcomer for whom there is no place looks whether somebody has become inactive.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// All connection slots of the process. One is worth what a connection of HTTP/1 in clear text takes; TLS
/// and HTTP/2 take another each, and so does each stream of HTTP/2 beyond the first. Tunnels hold one too.
#[derive(Debug, Clone)]
pub struct Slots(Arc<House>);

#[derive(Debug)]
struct House {
    all: Arc<Semaphore>,
    count: u32,
    /// Those with a connection, and not with a stream.
    taken: AtomicUsize,
    connections: Arc<Connections>,
}

/// One connection's slot. It is free again when the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Slot(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    slots: Slots,
    _place: Place,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.slots.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slot's worth of room.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _lease: Lease,
}

impl Slots {
    /// As many slots as the budget of connections allows.
    #[must_use]
    pub fn new(budgets: &Budgets) -> Self {
        let count = budgets.connections.capacity().min(Semaphore::MAX_PERMITS);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self(Arc::new(House {
            all: Arc::new(Semaphore::new(
                usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            count,
            taken: AtomicUsize::new(0),
            connections: Arc::new(Connections::new(budgets.clone())),
        }))
    }

    /// A slot for a connection that is there. Where none is free, connections that are inactive are asked to
    /// go; where all are busy, it is waited for.
    pub async fn slot(&self) -> Option<Slot> {
        let permit = self.permit().await?;
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        Some(Slot(Arc::new(Taken {
            slots: self.clone(),
            _place: self.place(permit),
        })))
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.0.all).try_acquire_owned() {
            let few = self.count() / FEW_FREE;
            let free = self.0.all.available_permits();
            if free.saturating_add(self.0.connections.leaving()) < few {
                self.0.connections.shed();
            }
            return Some(permit);
        }
        let free = Arc::clone(&self.0.all).acquire_owned();
        tokio::pin!(free);
        loop {
            self.shed();
            tokio::select! {
                biased;
                // The semaphore is never closed.
                permit = &mut free => return permit.ok(),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Asks inactive connections to go, unless some were asked already.
    pub(super) fn shed(&self) {
        if self.0.connections.leaving() == 0 {
            self.0.connections.shed();
        }
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let mut lease = self.budget().lease([]);
        // It has a permit, of which there are no more.
        _ = lease.grow(1);
        Place {
            _permit: permit,
            _lease: lease,
        }
    }

    fn budget(&self) -> &Budget {
        &self.0.connections.budgets.connections
    }

    /// Waits until no connection is left.
    pub async fn all_free(&self) {
        _ = self.0.all.acquire_many(self.0.count).await;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.0.count).unwrap_or(usize::MAX)
    }

    /// How many connections there are in them.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Slot {
    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.0.slots.0.connections
    }

    /// Another place for the same connection, which takes more than a slot is worth. Where there are too few
    /// slots for that, it has none.
    pub(super) async fn another_place(&self) -> Option<Place> {
        let slots = &self.0.slots;
        if slots.count() < MOST_OF_ONE {
            return None;
        }
        slots.permit().await.map(|permit| slots.place(permit))
    }

    /// Another place, for a stream beyond the first of the connection in this slot.
    pub(super) fn place_for_stream(&self) -> Result<Place, Exhausted> {
        let slots = &self.0.slots;
        let is_left = slots.0.all.available_permits() > slots.count() / FREE_FOR_CONNECTIONS;
        let permit = is_left
            .then(|| Arc::clone(&slots.0.all).try_acquire_owned().ok())
            .flatten();
        match permit {
            Some(permit) => Ok(slots.place(permit)),
            None => Err(slots.budget().refuse_capacity()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;
    use crate::budget::container::Container;
    use crate::budget::{Bound, Budgets, Sizes};
    use crate::listener::activity::Activity;
    use crate::listener::connections::Connections;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    fn slots(count: usize) -> Slots {
        let sizes = Sizes::within(&Container::default(), 1, count);
        Slots::new(&Budgets::new(sizes))
    }

    #[tokio::test]
    async fn slots_are_as_many_as_the_budget_allows() {
        let slots = slots(2);
        let first = slots.slot().await.expect("a slot");
        let second = slots.slot().await.expect("a slot");
        assert_eq!((slots.count(), slots.taken()), (2, 2));
        let mut third = Box::pin(slots.slot());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        let tunnel = second.clone();
        drop(second);
        assert!(third.as_mut().poll(&mut cx).is_pending(), "a copy is left");
        drop(tunnel);
        assert!(matches!(third.as_mut().poll(&mut cx), Poll::Ready(Some(_))));
        drop((first, third));
        assert_eq!(slots.taken(), 0);
        assert_eq!(slots.budget().used(), 0);
    }

    #[tokio::test]
    async fn a_newcomer_has_the_place_of_whoever_is_idle() {
        let slots = slots(2);
        let idle = slots.slot().await.expect("a slot");
        let activity = Arc::new(Activity::new(idle.connections()));
        let entry = Connections::enter(&activity);
        let _busy = slots.slot().await.expect("a slot");
        let leaving = async {
            activity.asked_to_go().await;
            drop((entry, idle));
        };
        let (newcomer, ()) = tokio::join!(slots.slot(), leaving);
        newcomer.expect("a slot");
    }

    #[tokio::test]
    async fn streams_leave_a_quarter_for_connections() {
        let slots = slots(16);
        let connection = slots.slot().await.expect("a slot");
        let mut streams = Vec::new();
        let refused = loop {
            match connection.place_for_stream() {
                Ok(place) => streams.push(place),
                Err(refused) => break refused,
            }
        };
        assert_eq!((streams.len(), refused.bound), (11, Bound::Capacity));
        assert_eq!((slots.taken(), slots.budget().used()), (1, 12));
        let mut others = Vec::new();
        for _ in 0..4 {
            others.push(slots.slot().await.expect("a slot"));
        }
        assert_eq!(slots.budget().used(), 16);
        drop((connection, streams, others));
        assert_eq!(slots.budget().used(), 0);
    }
}
