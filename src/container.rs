//! What the container allows this process: its control groups, and the limits of getrlimit(2).

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::budget::container::{Container, ResourceLimits, memory_limit};

/// The limits of this process. That of open files is raised as far as that is allowed: to the hard one,
/// which needs no privilege.
#[must_use]
pub fn limits() -> Container {
    let limits = ResourceLimits {
        data: getrlimit(Resource::Data).current,
        address_space: getrlimit(Resource::As).current,
    };
    Container {
        memory: memory_limit(limits, |path| fs::read_to_string(path).ok()),
        descriptors: raise_descriptors(),
    }
}

/// How many files may be open, after the limit was raised; `None` where there is no limit.
fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where that is refused, the old limit holds.
    _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}
