//! Where log lines go: standard output, as JSON or as text.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, Logging, Problem};

/// Installs the log. A second call in one process leaves the first in place.
pub fn install(logging: &Logging) {
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
        LogFormat::Auto => !std::io::stdout().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stdout);
    let layer = if json {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        layer
            .with_target(false)
            .with_ansi(std::io::stdout().is_terminal())
            .boxed()
    };
    let installed = tracing_subscriber::registry()
        .with(layer.with_filter(filter).with_filter(secrecy))
        .try_init();
    if installed.is_err() {
        tracing::debug!("a log is installed already");
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
