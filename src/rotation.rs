//! When to fetch a key set: a state machine that is told the time and what happened, and does
//! nothing itself.
//!
//! - Keys are fetched again before they are [`RotationSettings::refresh`] old.
//! - An unknown key id may ask for a fetch, at most once per [`RotationSettings::cooldown`], counted
//!   from the last attempt: a flood of made-up ids costs one fetch, an outage is not made worse.
//! - A failed fetch is repeated with growing pauses. Meanwhile the last good keys serve, for
//!   [`RotationSettings::serve_stale`] after they became due.

use std::time::{Duration, Instant};

use crate::clock::after;

/// The pause after the first failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest pause between attempts: an issuer that is back is noticed within a minute.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// The longest `Retry-After` that is believed. Longer ones would let one bad answer stop rotation.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// The knobs, from `[auth0.keys]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationSettings {
    /// How old keys may grow.
    pub refresh: Duration,
    /// The least time between attempts that unknown key ids ask for.
    pub cooldown: Duration,
    /// How long keys serve after they became due.
    pub serve_stale: Duration,
}

/// The state of one issuer's keys.
#[derive(Debug, Clone)]
pub struct Rotation {
    settings: RotationSettings,
    next_attempt: Instant,
    last_attempt: Option<Instant>,
    last_success: Option<Instant>,
    failures: u32,
    fetching: bool,
}

/// The answer to a request whose key id is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDemand {
    /// An attempt was made too recently: refuse the token now.
    CoolingDown,
    /// A fetch is under way: wait for it.
    Join,
    /// A fetch is due now: start it and wait for it.
    Start,
}

impl Rotation {
    /// A state in which the first fetch is due at once.
    #[must_use]
    pub const fn new(settings: RotationSettings, now: Instant) -> Self {
        Self {
            settings,
            next_attempt: now,
            last_attempt: None,
            last_success: None,
            failures: 0,
            fetching: false,
        }
    }

    /// Whether a fetch should begin now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        !self.fetching && now >= self.next_attempt
    }

    /// When to look again: the next attempt, or the end of the keys in hand.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Instant {
        match self.usable_until() {
            Some(end) if end > now => self.next_attempt.min(end),
            _ => self.next_attempt,
        }
    }

    /// Until when the keys of the last success may be used; `None` before the first.
    #[must_use]
    pub fn usable_until(&self) -> Option<Instant> {
        self.last_success.map(|success| {
            after(
                after(success, self.settings.refresh),
                self.settings.serve_stale,
            )
        })
    }

    /// Whether the keys of the last success may still be used.
    #[must_use]
    pub fn is_usable(&self, now: Instant) -> bool {
        self.usable_until().is_some_and(|end| now < end)
    }

    /// Whether the last fetch has failed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// A request came with an unknown key id.
    pub fn on_unknown_key(&mut self, now: Instant) -> OnDemand {
        if self.fetching {
            return OnDemand::Join;
        }
        let cooling = self
            .last_attempt
            .is_some_and(|attempt| now < after(attempt, self.settings.cooldown));
        if cooling {
            return OnDemand::CoolingDown;
        }
        self.next_attempt = now;
        OnDemand::Start
    }

    /// A fetch begins.
    pub const fn on_started(&mut self, now: Instant) {
        self.fetching = true;
        self.last_attempt = Some(now);
    }

    /// The fetch brought at least one usable key. `jitter` from 0 to 1 spreads replicas apart.
    pub fn on_success(&mut self, now: Instant, jitter: f64) {
        self.fetching = false;
        self.failures = 0;
        self.last_success = Some(now);
        // Early enough that the fetch is done when the keys become due.
        self.next_attempt = after(
            now,
            self.settings
                .refresh
                .mul_f64(0.8 + 0.1 * jitter.clamp(0.0, 1.0)),
        );
    }

    /// The fetch failed; the issuer may have said when to come back.
    pub fn on_failure(&mut self, now: Instant, retry_after: Option<Duration>, jitter: f64) {
        self.fetching = false;
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << doublings)
            .min(MAX_BACKOFF);
        let spread = backoff.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        // Without keys every token is answered with 503; then even a patient issuer is asked again soon.
        let most = if self.is_usable(now) {
            MAX_RETRY_AFTER
        } else {
            MAX_BACKOFF
        };
        let asked = retry_after.unwrap_or_default().min(most);
        self.next_attempt = after(now, spread.max(asked));
    }
}

#[cfg(test)]
mod tests {
    use super::{OnDemand, Rotation, RotationSettings};
    use std::time::{Duration, Instant};

    const SETTINGS: RotationSettings = RotationSettings {
        refresh: Duration::from_mins(10),
        cooldown: Duration::from_secs(30),
        serve_stale: Duration::from_hours(1),
    };

    /// A clock that only moves when told to.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn start() -> (Clock, Rotation) {
        let clock = Clock(Instant::now());
        let rotation = Rotation::new(SETTINGS, clock.at(0));
        (clock, rotation)
    }

    #[test]
    fn the_first_fetch_is_due_at_once_and_the_next_before_the_keys_are() {
        let (clock, mut rotation) = start();
        assert!(rotation.is_due(clock.at(0)));
        assert!(!rotation.is_usable(clock.at(0)), "no keys yet");
        rotation.on_started(clock.at(0));
        assert!(!rotation.is_due(clock.at(1)), "one at a time");
        rotation.on_success(clock.at(1), 0.5);
        assert!(!rotation.is_due(clock.at(480)));
        assert!(
            rotation.is_due(clock.at(600)),
            "before they are older than refresh"
        );
        for jitter in [0.0, 1.0, -5.0, 7.0] {
            rotation.on_success(clock.at(0), jitter);
            assert!(!rotation.is_due(clock.at(479)), "jitter {jitter}");
            assert!(rotation.is_due(clock.at(541)), "jitter {jitter}");
        }
    }

    #[test]
    fn unknown_keys_share_one_attempt_per_cooldown_even_when_it_fails() {
        let (clock, mut rotation) = start();
        rotation.on_started(clock.at(0));
        assert_eq!(rotation.on_unknown_key(clock.at(0)), OnDemand::Join);
        rotation.on_success(clock.at(1), 0.0);
        assert_eq!(rotation.on_unknown_key(clock.at(29)), OnDemand::CoolingDown);
        assert_eq!(rotation.on_unknown_key(clock.at(30)), OnDemand::Start);
        assert!(rotation.is_due(clock.at(30)));
        rotation.on_started(clock.at(30));
        for _ in 0..1_000 {
            assert_eq!(rotation.on_unknown_key(clock.at(31)), OnDemand::Join);
        }
        assert!(!rotation.has_failed(), "not yet");
        rotation.on_failure(clock.at(35), None, 0.0);
        assert!(rotation.has_failed());
        assert_eq!(
            rotation.on_unknown_key(clock.at(59)),
            OnDemand::CoolingDown,
            "counted by attempts"
        );
        assert_eq!(rotation.on_unknown_key(clock.at(60)), OnDemand::Start);
        rotation.on_started(clock.at(60));
        assert!(rotation.has_failed(), "until a fetch succeeds");
        rotation.on_success(clock.at(61), 0.0);
        assert!(!rotation.has_failed());
    }

    #[test]
    fn failures_back_off_with_jitter_up_to_a_bound() {
        let (clock, mut rotation) = start();
        let mut now = 0;
        for (least, most) in [
            (0.75, 1.25),
            (1.5, 2.5),
            (3.0, 5.0),
            (6.0, 10.0),
            (12.0, 20.0),
            (24.0, 40.0),
            (45.0, 75.0),
            (45.0, 75.0),
        ] {
            for (jitter, pause) in [(0.0, least), (1.0, most)] {
                let mut copy = rotation.clone();
                copy.on_failure(clock.at(now), None, jitter);
                assert_eq!(
                    copy.wake_at(clock.at(now)),
                    clock.at(now) + Duration::from_secs_f64(pause)
                );
            }
            rotation.on_started(clock.at(now));
            rotation.on_failure(clock.at(now), None, 0.5);
            now += 100;
        }
        for _ in 0..100 {
            rotation.on_failure(clock.at(now), None, 1.0);
        }
        assert!(
            rotation.is_due(clock.at(now + 75)),
            "never longer than that"
        );
        rotation.on_success(clock.at(now), 0.0);
        rotation.on_failure(clock.at(now), None, 0.5);
        assert!(rotation.is_due(clock.at(now + 1)), "success starts over");
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        for (asked, expected) in [(0, 1), (20, 20), (60, 60), (600, 60)] {
            let (clock, mut rotation) = start();
            rotation.on_failure(clock.at(0), Some(Duration::from_secs(asked)), 0.5);
            assert!(
                !rotation.is_due(clock.at(expected - 1)),
                "{asked} without keys"
            );
            assert!(rotation.is_due(clock.at(expected)), "{asked} without keys");
        }
        for (asked, expected) in [(0, 1), (20, 20), (600, 600), (86_400, 600)] {
            let (clock, mut rotation) = start();
            rotation.on_success(clock.at(0), 0.0);
            rotation.on_failure(clock.at(0), Some(Duration::from_secs(asked)), 0.5);
            assert!(!rotation.is_due(clock.at(expected - 1)), "{asked}");
            assert!(rotation.is_due(clock.at(expected)), "{asked}");
        }
    }

    #[test]
    fn good_keys_outlive_an_outage_for_as_long_as_configured() {
        let (clock, mut rotation) = start();
        rotation.on_success(clock.at(0), 0.0);
        for now in (600..4_200).step_by(60) {
            rotation.on_started(clock.at(now));
            rotation.on_failure(clock.at(now), None, 0.5);
            assert!(rotation.is_usable(clock.at(now)), "{now}");
        }
        assert!(rotation.is_usable(clock.at(4_199)));
        assert!(
            !rotation.is_usable(clock.at(4_200)),
            "refresh and serve_stale are over"
        );
        assert_eq!(
            rotation.wake_at(clock.at(4_199)),
            clock.at(4_200),
            "the end is noticed in time"
        );
        rotation.on_success(clock.at(5_000), 0.0);
        assert!(rotation.is_usable(clock.at(5_000)));
    }
}
