//! Open files: what a process of many connections runs out of first.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but clients and what they cause: listeners, probes, key fetches, the
/// runtimes, and upstream connections that lie idle.
const RESERVED: u64 = 128;

/// Each client's connection may need one to the upstream.
const PER_CONNECTION: u64 = 2;

/// Raises the soft limit to the hard one, which needs no privilege, and tells what may be open now.
/// `None` where there is no limit.
#[must_use]
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where that is refused, the old limit holds.
    _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

/// How many client connections so many descriptors are enough for; at least one.
#[must_use]
pub fn connections_within(limit: u64) -> usize {
    let connections = limit.saturating_sub(RESERVED).checked_div(PER_CONNECTION);
    usize::try_from(connections.unwrap_or_default().max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::connections_within;

    #[test]
    fn connections_leave_room_for_the_rest() {
        for (limit, connections) in [
            (0, 1),
            (64, 1),
            (128, 1),
            (130, 1),
            (132, 2),
            (1024, 448),
            (20_128, 10_000),
        ] {
            assert_eq!(connections_within(limit), connections, "{limit}");
        }
    }
}
