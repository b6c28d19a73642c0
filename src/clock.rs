//! What time it is, as a value.
//!
//! The core never asks for the time; it is told. [`UnixTime::now`] is the one place that reads the
//! wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, in time since 1970-01-01T00:00:00Z without leap seconds: the `NumericDate` of RFC 7519 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(Duration);

impl UnixTime {
    /// Reads the system clock. A clock set before 1970 reads as 1970.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that may ask the system for the time"
    )]
    pub fn now() -> Self {
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    /// A moment given in whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The moment in seconds, as `NumericDate` claims carry it.
    #[must_use]
    pub const fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// The moment in whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// The millionth parts of a second after [`UnixTime::as_secs`].
    #[must_use]
    pub const fn subsec_micros(self) -> u32 {
        self.0.subsec_micros()
    }

    /// How long after `earlier` this moment is; nothing when it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `later` after this one.
    #[must_use]
    pub const fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// The instant `later` after another. One that the platform cannot express is no later at all, so
/// that an absurd patience ends at once instead of never.
#[must_use]
pub fn after(instant: Instant, later: Duration) -> Instant {
    instant.checked_add(later).unwrap_or(instant)
}
