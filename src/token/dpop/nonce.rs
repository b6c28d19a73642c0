//! Nonces that nobody has to remember: each is a code over the time it is from (RFC 9449 §8, §9).

use std::time::Duration;

use crate::clock::UnixTime;
use crate::jose::{self, MacKey};

/// How long one nonce is handed out. It is accepted for as long again, so a client that asks at least this
/// often is given the next one in time and never has to ask twice.
pub const NONCE_PERIOD: Duration = Duration::from_mins(5);

/// The key for nonces. Replicas that share it accept each other's.
#[derive(Debug, Clone)]
pub struct Nonces {
    key: MacKey,
}

/// How a nonce stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceAge {
    /// It is handed out now.
    Current,
    /// The one before it: still good, and its owner should get the current one.
    Previous,
    /// None of ours, or too old.
    Unknown,
}

impl Nonces {
    /// Nonces under this key, of which at least 256 bits are unknown to everybody else.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self {
            key: MacKey::new(key),
        }
    }

    /// The nonce to hand out. base64url holds only characters that a nonce may have.
    #[must_use]
    pub fn current(&self, now: UnixTime) -> String {
        self.of(period(now))
    }

    /// Judges what a proof brings.
    #[must_use]
    pub fn judge(&self, nonce: &str, now: UnixTime) -> NonceAge {
        let now = period(now);
        let is_of = |period: u64| jose::same(self.of(period).as_bytes(), nonce.as_bytes());
        // The next one too: the clock of another replica may be a little ahead.
        if is_of(now) || is_of(now.saturating_add(1)) {
            NonceAge::Current
        } else if is_of(now.saturating_sub(1)) {
            NonceAge::Previous
        } else {
            NonceAge::Unknown
        }
    }

    fn of(&self, period: u64) -> String {
        self.key.code(format!("dpop nonce {period}").as_bytes())
    }
}

const fn period(now: UnixTime) -> u64 {
    // The divisor is a constant, and not zero.
    match now.as_secs().checked_div(NONCE_PERIOD.as_secs()) {
        Some(period) => period,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{NONCE_PERIOD, NonceAge, Nonces};
    use crate::clock::UnixTime;

    #[test]
    fn a_nonce_is_good_for_its_period_and_the_next() {
        let nonces = Nonces::new(b"a key of thirty-two bytes or more");
        let length = NONCE_PERIOD.as_secs();
        let at = |seconds: u64| UnixTime::from_secs(length * 1000 + seconds);
        let nonce = nonces.current(at(0));
        assert_eq!(nonce, nonces.current(at(length - 1)));
        assert_ne!(nonce, nonces.current(at(length)));
        for (now, expected) in [
            (at(0), NonceAge::Current),
            (at(length - 1), NonceAge::Current),
            (at(length), NonceAge::Previous),
            (at(2 * length - 1), NonceAge::Previous),
            (at(2 * length), NonceAge::Unknown),
            (UnixTime::from_secs(length * 1000 - 1), NonceAge::Current),
            (UnixTime::from_secs(length * 999 - 1), NonceAge::Unknown),
        ] {
            assert_eq!(nonces.judge(&nonce, now), expected, "{now:?}");
        }
        assert!(nonce.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn only_the_key_makes_nonces() {
        let nonces = Nonces::new(b"a key of thirty-two bytes or more");
        let now = UnixTime::from_secs(1_800_000_000);
        let good = nonces.current(now);
        let cut = good.get(..good.len() - 1).expect("ASCII");
        let other = Nonces::new(b"another key of thirty-two bytes!!").current(now);
        for nonce in ["", cut, &format!("{good}A"), &good.to_lowercase(), &other] {
            assert_eq!(nonces.judge(nonce, now), NonceAge::Unknown, "{nonce}");
        }
    }
}
