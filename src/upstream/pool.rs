//! Idle connections to the backend, of one worker thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName};

use super::connection::Connection;
use crate::clock::after;

/// How many idle connections a worker keeps: enough for a burst to be served without connecting
/// anew, few enough that many replicas do not exhaust a backend.
const MAX_IDLE: usize = 256;

/// How long a connection may lie idle and be used again. Node's servers, Mastra's among them,
/// close after 5 s of silence; a request that meets that moment fails unless it may be repeated, so
/// connections are given up well before.
const MAX_IDLE_TIME: Duration = Duration::from_secs(3);

/// How long before the end of an announced `Keep-Alive: timeout=N` a connection is given up.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Idle connections. Those whose time is over are closed, whether or not another request comes.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<IdleConnections>,
}

#[derive(Debug, Default)]
struct IdleConnections {
    /// The last used at the end.
    queue: VecDeque<Idle>,
    /// Whether a task is closing those whose time is over.
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    until: Instant,
}

impl Pool {
    /// The most recently used connection. It may have been closed since, which the exchange tells.
    pub(super) fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle();
        while let Some(newest) = idle.queue.pop_back() {
            if newest.until > now {
                return Some(newest.connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is over. `for_at_most` is what the backend announced.
    pub(super) fn put(self: &Arc<Self>, mut connection: Connection, for_at_most: Duration) {
        // An upload that the backend did not wait for must not go on behind the next request.
        if !connection.rest() {
            return;
        }
        let until = after(Instant::now(), for_at_most.min(MAX_IDLE_TIME));
        let mut idle = self.idle();
        if idle.queue.len() >= MAX_IDLE {
            idle.queue.pop_front();
        }
        idle.queue.push_back(Idle { connection, until });
        if !idle.is_swept {
            idle.is_swept = true;
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.idle().queue.len()
    }

    /// Closes the one that has been idle for longest, if there is any.
    pub(super) fn close_oldest(&self) -> bool {
        // Dropped when the lock is free again.
        let oldest = self.idle().queue.pop_front();
        oldest.is_some()
    }

    /// Closes connections as their time is over, until none is left.
    async fn sweep(self: Arc<Self>) {
        while let Some(next) = self.drop_overdue() {
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// When to look again; `None` when there is nothing left to look after.
    fn drop_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.queue.retain(|idle| idle.until > now);
        let next = idle.queue.iter().map(|idle| idle.until).min();
        idle.is_swept = next.is_some();
        next
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the backend says it keeps the connection, less a margin.
pub(super) fn keep_alive(headers: &HeaderMap) -> Duration {
    headers
        .get(KEEP_ALIVE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            value
                .split(',')
                .find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())
        })
        .map_or(MAX_IDLE_TIME, |seconds| {
            Duration::from_secs(seconds).saturating_sub(KEEP_ALIVE_MARGIN)
        })
}

#[cfg(test)]
mod tests {
    use super::{KEEP_ALIVE, MAX_IDLE_TIME, keep_alive};
    use http::header::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn the_announced_time_is_believed_less_a_margin() {
        for (value, expected) in [
            ("timeout=5", Duration::from_secs(4)),
            ("max=100, timeout=2", Duration::from_secs(1)),
            ("timeout=0", Duration::ZERO),
            ("timeout=soon", MAX_IDLE_TIME),
            ("max=3", MAX_IDLE_TIME),
        ] {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, HeaderValue::from_static(value))]);
            assert_eq!(keep_alive(&headers), expected, "{value}");
        }
        assert_eq!(keep_alive(&HeaderMap::new()), MAX_IDLE_TIME);
    }
}
