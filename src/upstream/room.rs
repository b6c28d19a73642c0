//! Room for exchanges with the backend: how many connections and streams the whole process may have, and how
//! many of them one client may use when there are few left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::connect::ConnectError;
use super::pool::Pool;
use crate::budget::{Budget, Budgets, Exhausted, Holding, Lease, Share};

/// What bounds all connections to the backend. Clones are the same room.
#[derive(Debug, Clone)]
pub struct Room {
    connections: Budget,
    /// Streams of connections that are shared, as many as there may be connections: each stands for a request
    /// and an answer that are on their way.
    streams: Budget,
    /// Where connections lie idle, which count and are closed first.
    pools: Arc<Mutex<Vec<Weak<Pool>>>>,
}

/// On whose behalf a request goes to the backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker<'s> {
    /// What the client's connection uses; `None` where others speak through it.
    pub connection: Option<&'s Share>,
    /// What the caller uses, over whichever connection.
    pub caller: Option<&'s Share>,
}

/// An exchange that runs, as long as it does.
#[derive(Debug)]
pub(super) struct Running([Option<Holding>; 2]);

/// An exchange with a connection or a stream of its own.
#[derive(Debug)]
pub struct Place {
    _lease: Lease,
    _running: Running,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(&Budgets::default().upstream_connections)
    }
}

impl Room {
    /// Room for so many connections.
    #[must_use]
    pub fn new(connections: &Budget) -> Self {
        Self {
            connections: connections.clone(),
            streams: Budget::new("upstream_streams", connections.capacity()),
            pools: Arc::default(),
        }
    }

    /// Makes room in this pool too, where there is none.
    pub(super) fn oversee(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// One more exchange over HTTP/1, on a connection of whichever age.
    pub(super) fn admit(&self, asker: Asker<'_>) -> Result<Running, ConnectError> {
        let running = Running::of(asker);
        while self.connections.is_short() && self.close_idle() {}
        running.within(&self.connections)
    }

    /// A new connection.
    pub(super) fn connection(&self) -> Result<Lease, ConnectError> {
        let is_full = || self.connections.used() >= self.connections.capacity();
        while is_full() && self.close_idle() {}
        one(&self.connections).map_err(ConnectError::NoRoom)
    }

    /// An exchange on a connection that is not pooled.
    pub(super) fn single(&self, asker: Asker<'_>) -> Result<Place, ConnectError> {
        let running = self.admit(asker)?;
        Ok(Place {
            _lease: self.connection()?,
            _running: running,
        })
    }

    /// A stream on a connection that is shared.
    pub(super) fn stream(&self, asker: Asker<'_>) -> Result<Place, ConnectError> {
        let running = Running::of(asker).within(&self.streams)?;
        Ok(Place {
            _lease: one(&self.streams).map_err(ConnectError::NoRoom)?,
            _running: running,
        })
    }

    /// Closes the connection that has been idle for longest in the fullest pool, if there is any.
    fn close_idle(&self) -> bool {
        let pools: Vec<Arc<Pool>> = self.pools().iter().filter_map(Weak::upgrade).collect();
        let fullest = pools.iter().max_by_key(|pool| pool.len());
        fullest.is_some_and(|pool| pool.close_oldest())
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn one(budget: &Budget) -> Result<Lease, Exhausted> {
    let mut lease = budget.lease([]);
    lease.grow(1)?;
    Ok(lease)
}

impl Running {
    fn of(asker: Asker<'_>) -> Self {
        let Asker { connection, caller } = asker;
        Self([connection, caller].map(|share| share.map(|share| share.hold(1))))
    }

    /// While the budget is short, no share holds more than its part; one exchange is everybody's.
    fn within(self, budget: &Budget) -> Result<Self, ConnectError> {
        let most = budget.one_share().max(1);
        let mut holdings = self.0.iter().flatten();
        if budget.is_short() && holdings.any(|holding| holding.of_share() > most) {
            return Err(ConnectError::NoRoom(budget.refuse_share()));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, Room};
    use crate::budget::{Budget, Share};
    use crate::upstream::connect::ConnectError;

    fn room(capacity: usize) -> Room {
        Room::new(&Budget::new("upstream_connections", capacity))
    }

    fn bound(error: &ConnectError) -> String {
        error.to_string()
    }

    #[test]
    fn one_share_never_takes_all() {
        for (as_connection, as_caller) in [(true, true), (true, false), (false, true)] {
            let room = room(64);
            let (connection, caller) = (Share::new(), Share::new());
            let hog = Asker {
                connection: as_connection.then_some(&connection),
                caller: as_caller.then_some(&caller),
            };
            let mut held = Vec::new();
            let refused = loop {
                match room.single(hog) {
                    Ok(place) => held.push(place),
                    Err(error) => break error,
                }
            };
            assert_eq!(
                held.len(),
                49,
                "the first beyond three quarters is the last"
            );
            assert!(bound(&refused).contains("share"), "{refused}");
            let newcomer = (Share::new(), Share::new());
            let newcomer = Asker {
                connection: Some(&newcomer.0),
                caller: Some(&newcomer.1),
            };
            let share: Vec<_> = (0..8).map(|_| room.single(newcomer)).collect();
            assert!(share.iter().all(Result::is_ok));
            room.single(newcomer).expect_err("it has its eighth");
            drop(held);
            assert_eq!(connection.held() + caller.held(), 0);
            room.single(hog).expect("there is room again");
        }
    }

    #[test]
    fn the_process_never_has_more_than_there_is_room_for() {
        let room = room(3);
        let nobody = Asker::default();
        let held: Vec<_> = (0..3).map(|_| room.single(nobody).expect("room")).collect();
        let full = room.single(nobody).expect_err("full");
        assert!(bound(&full).contains("used up"), "{full}");
        let streams: Vec<_> = (0..3).map(|_| room.stream(nobody).expect("room")).collect();
        room.stream(nobody).expect_err("full");
        drop(held);
        room.single(nobody).expect("room");
        room.stream(nobody).expect_err("streams are counted apart");
        drop(streams);
        room.stream(nobody).expect("room");
    }

    #[test]
    fn where_there_is_little_room_each_has_one_exchange() {
        for capacity in [1, 2, 7] {
            let room = room(capacity);
            let shares: Vec<_> = (0..capacity).map(|_| Share::new()).collect();
            let asker = |share| Asker {
                connection: Some(share),
                caller: None,
            };
            let held: Vec<_> = shares
                .iter()
                .map(|share| room.single(asker(share)))
                .collect();
            assert!(held.iter().all(Result::is_ok), "{capacity}");
        }
    }
}
