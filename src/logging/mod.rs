//! Where log lines go: standard output, as JSON or as text. A queue stands between the threads that log and the one
//! that writes.

mod queue;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::UnixTime;
use crate::config::{LogFormat, Logging, Problem};
use queue::{END_PATIENCE, LINES};

/// The log of the process. At its end nothing is held back any more.
#[derive(Debug)]
#[must_use = "the log ends with it"]
pub struct Log(());

impl Drop for Log {
    fn drop(&mut self) {
        LINES.end(END_PATIENCE);
    }
}

/// How many lines were dropped since the start because standard output was not read, or could not be written.
#[must_use]
pub fn dropped_lines() -> u64 {
    LINES.dropped()
}

/// Installs the log. A second call in one process leaves the first in place.
///
/// # Errors
///
/// When the thread that writes it cannot start.
pub fn install(logging: &Logging) -> io::Result<Log> {
    let filter: Targets = logging
        .filter
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    // HTTP libraries write whole header blocks at trace level, tokens included: of other crates
    // only warnings are ever shown, whatever the filter says.
    let secrecy = filter_fn(|metadata| {
        metadata.target().starts_with("authgate") || *metadata.level() <= Level::WARN
    });
    let json = match logging.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stdout().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(ToStdout);
    let layer = if json {
        layer.event_format(JsonLines::default()).boxed()
    } else {
        layer
            .with_target(false)
            .with_ansi(io::stdout().is_terminal())
            .boxed()
    };
    let installed = tracing_subscriber::registry()
        .with(layer.with_filter(filter).with_filter(secrecy))
        .try_init();
    if installed.is_ok() {
        queue::start()?;
    } else {
        tracing::debug!("a log is installed already");
    }
    Ok(Log(()))
}

/// Standard output, for whole lines.
struct ToStdout;

impl MakeWriter<'_> for ToStdout {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for ToStdout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as one JSON object on a line: the time, the level, the fields in their order, the target. The
/// library's own format takes seven times the instructions, which each request would pay.
#[derive(Debug, Default)]
struct JsonLines {
    clock: Mutex<Clock>,
}

/// The text of the second that was last asked for.
#[derive(Debug, Default)]
struct Clock {
    second: Option<u64>,
    text: String,
}

impl Clock {
    /// What time it is, as RFC 3339 writes it, with six digits of the second.
    fn write(&mut self, line: &mut Vec<u8>, now: impl Fn() -> UnixTime) -> io::Result<()> {
        let now = loop {
            let before = now();
            if self.second == Some(before.as_secs()) {
                break before;
            }
            self.text.clear();
            SystemTime
                .format_time(&mut Writer::new(&mut self.text))
                .map_err(io::Error::other)?;
            // The next second may have begun in between.
            self.second = Some(before.as_secs()).filter(|second| *second == now().as_secs());
        };
        let whole = self.text.split('.').next().unwrap_or_default();
        write!(line, "\"{whole}.{:06}Z\"", now.subsec_micros())
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = JsonObject::new();
        line.name("timestamp");
        self.clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&mut line.text, UnixTime::now)
            .map_err(|_| fmt::Error)?;
        line.value("level", metadata.level().as_str());
        event.record(&mut line);
        line.value("target", metadata.target());
        writer.write_str(std::str::from_utf8(&line.text).map_err(|_| fmt::Error)?)?;
        writer.write_str("}\n")
    }
}

/// A JSON object that is being written, without its end. It holds UTF-8.
struct JsonObject {
    text: Vec<u8>,
}

impl JsonObject {
    /// Most lines of requests fit.
    const USUAL_BYTES: usize = 512;

    fn new() -> Self {
        Self {
            text: Vec::with_capacity(Self::USUAL_BYTES),
        }
    }

    /// Names are those of fields in this program: none needs escaping.
    fn name(&mut self, name: &str) {
        let before: &[u8] = if self.text.is_empty() { b"{\"" } else { b",\"" };
        self.text.extend_from_slice(before);
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    fn value(&mut self, name: &str, value: impl Serialize) {
        self.name(name);
        // Numbers, texts and booleans are always written.
        _ = serde_json::to_writer(&mut self.text, &value);
    }
}

impl Visit for JsonObject {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        match value.downcast_ref::<List>() {
            Some(List(items)) => self.value(field.name(), items),
            None => self.value(field.name(), value.to_string()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.value(field.name(), format!("{value:?}"));
    }
}

/// A list, which is one in the log too. The field's value is passed as an error, the only kind of value that can be
/// asked what it is.
#[derive(Debug)]
pub struct List(pub Vec<String>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for List {}

impl List {
    /// The value of the field.
    #[must_use]
    pub fn value(&self) -> &(dyn std::error::Error + 'static) {
        self
    }
}

/// Logs what loading a configuration has found beside errors.
pub fn tell(notes: &[String], warnings: &[Problem]) {
    for note in notes {
        tracing::info!(note, "configuration");
    }
    for warning in warnings {
        tracing::warn!(
            path = warning.path,
            problem = warning.message,
            "configuration"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, JsonLines, List};
    use crate::clock::UnixTime;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("sound").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(JsonLines::default())
            .with_writer(move || writer.clone());
        let hostile = "a\"b\\c\n{\u{7f}\u{2028}\u{1b}[31m";
        let list = List(vec![hostile.to_owned(), "b".to_owned()]);
        let failure: &(dyn std::error::Error + 'static) = &std::fmt::Error;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(
                target: "authgate::request",
                text = hostile,
                shown = %hostile,
                status = 200_u16,
                behind = -3_i64,
                part = 0.25,
                odd = f64::NAN,
                yes = true,
                list = list.value(),
                failure = failure,
                none = Option::<&str>::None,
                "a \"message\""
            );
            tracing::warn!("another");
        });
        let text = String::from_utf8(lines.0.lock().expect("sound").clone()).expect("UTF-8");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        let [one, two] = &lines[..] else {
            panic!("two lines: {text}");
        };
        for (name, expected) in [
            ("level", "INFO".into()),
            ("text", hostile.into()),
            ("shown", hostile.into()),
            ("status", 200.into()),
            ("behind", (-3).into()),
            ("part", 0.25.into()),
            ("odd", serde_json::Value::Null),
            ("yes", true.into()),
            ("list", vec![hostile, "b"].into()),
            ("failure", std::fmt::Error.to_string().into()),
            ("message", "a \"message\"".into()),
            ("target", "authgate::request".into()),
        ] {
            assert_eq!(one[name], expected, "{name}");
        }
        assert!(one.get("none").is_none());
        assert_eq!(
            (&two["level"], &two["message"]),
            (&"WARN".into(), &"another".into())
        );
    }

    #[test]
    fn the_time_is_of_the_moment() {
        let mut clock = Clock::default();
        let write = |clock: &mut Clock, now: UnixTime| {
            let mut line = Vec::new();
            clock.write(&mut line, || now).expect("written");
            String::from_utf8(line).expect("UTF-8")
        };
        let now = UnixTime::now();
        let line = write(&mut clock, now);
        let text = line.trim_matches('"');
        assert_eq!(text.len(), "2026-11-24T21:05:38.947591Z".len(), "{text}");
        assert!(text.ends_with(&format!(".{:06}Z", now.subsec_micros())));
        // The text of a second is made once, and anew for the next.
        clock.text = "2026-01-01T00:00:00.5Z".to_owned();
        let again = write(&mut clock, now);
        assert!(again.starts_with("\"2026-01-01T00:00:00."), "{again}");
        let next = now.plus(std::time::Duration::from_secs(1));
        let later = write(&mut clock, next);
        assert!(!later.starts_with("\"2026-01-01T"), "{later}");
    }

    #[test]
    fn a_second_that_ends_meanwhile_is_not_kept() {
        let start = UnixTime::now();
        let readings = std::cell::Cell::new(0_u64);
        let ticking = || {
            readings.set(readings.get() + 1);
            // The second ends between the first two readings, and only there.
            start.plus(std::time::Duration::from_secs(u64::from(
                readings.get() > 1,
            )))
        };
        let mut clock = Clock::default();
        clock.write(&mut Vec::new(), ticking).expect("written");
        assert_eq!(readings.get(), 5, "asked again");
        assert_eq!(clock.second, Some(start.as_secs() + 1));
    }
}
