//! Durations and sizes as configuration writes them: `"250ms"`, `"5s"`, `"10m"`, `"24h"`; `"64KiB"`.

use std::time::Duration;

/// How a duration is written, for messages.
pub(super) const DURATION_FORM: &str = "a duration such as \"250ms\", \"5s\", \"10m\" or \"24h\"";

/// How a size is written, for messages.
pub(super) const SIZE_FORM: &str = "a size such as \"16KiB\" or \"4MiB\"";

/// Longer than this is a slip of the finger.
const LONGEST: Duration = Duration::from_hours(8784);

/// Parses a duration; `None` for any other text.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(milliseconds)?);
    (duration <= LONGEST).then_some(duration)
}

/// Parses a size in bytes; `None` for any other text.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(bytes)?).ok()
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::{duration, size};
    use std::time::Duration;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("10m", Some(600_000)),
            ("24h", Some(86_400_000)),
            ("0s", Some(0)),
            ("5", None),
            ("5 s", None),
            ("s", None),
            ("", None),
            ("-5s", None),
            ("1.5s", None),
            ("5S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("8784h", Some(31_622_400_000)),
            ("8785h", None),
        ] {
            assert_eq!(
                duration(text),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1_048_576)),
            ("10B", Some(10)),
            ("64", None),
            ("64kb", None),
            ("64KB", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
