//! The bytes of unfinished heads: leased from the budget of all, and waited for where it is used up.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::activity::Activity;
use crate::budget::Lease;

/// What one connection holds for a head beyond its first buffer: nothing for nearly all heads. It is given
/// back when the request is over, as its fields are parts of the buffer.
#[derive(Debug)]
pub(super) struct HeadRoom {
    activity: Arc<Activity>,
    /// From the first head on that is larger.
    lease: Option<Lease>,
}

impl HeadRoom {
    pub(super) const fn new(activity: Arc<Activity>) -> Self {
        Self {
            activity,
            lease: None,
        }
    }

    /// Whether nothing is held.
    pub(super) const fn is_empty(&self) -> bool {
        self.lease.is_none()
    }

    /// Holds at least so many bytes. Where they are not to be had, the oldest unfinished heads are asked to
    /// go, and the task is woken when they have. It may be asked itself meanwhile.
    pub(super) fn poll_hold(&mut self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        let Self { activity, lease } = self;
        let connections = activity.connections();
        let lease = lease.get_or_insert_with(|| connections.budgets.heads.lease([]));
        let more = bytes.saturating_sub(lease.amount());
        if more == 0 {
            return Poll::Ready(());
        }
        let mut is_held = lease.grow(more).is_ok();
        if !is_held {
            connections.wait_for_head(activity, cx.waker());
            // What was given back in between has woken nobody.
            is_held = lease.grow(more).is_ok();
        }
        if !is_held {
            connections.evict_heads(more);
            return Poll::Pending;
        }
        activity.hold_head(lease.amount());
        Poll::Ready(())
    }

    /// Gives everything back.
    pub(super) fn release(&mut self) {
        if self.lease.take().is_some() {
            self.activity.hold_head(0);
            self.activity.connections().on_head_released();
        }
    }
}

impl Drop for HeadRoom {
    fn drop(&mut self) {
        self.release();
    }
}
