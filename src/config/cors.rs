//! `[cors]`: which pages on other origins may ask and read.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::parse_header;
use super::reader::{Problems, Section};
use crate::cors::{CorsSettings, OriginEntry, OriginPattern, Origins};

/// Browsers remember no preflight for longer than a day; Chromium caps it at two hours.
const LONGEST_MAX_AGE: Duration = Duration::from_hours(24);

/// Reads `[cors]`; `None` when no origins are listed, so that the upstream answers for itself.
pub(super) fn read(mut section: Section, problems: &mut Problems) -> Option<CorsSettings> {
    let path = section.path_of("origins");
    let origins = section.strings("origins", problems).unwrap_or_default();
    let enforce_path = section.path_of("enforce_origin");
    let enforce_origin = section.boolean("enforce_origin", problems).unwrap_or(false);
    let patterns_path = section.path_of("patterns_enforce");
    let patterns_enforce = section
        .boolean("patterns_enforce", problems)
        .unwrap_or(false);
    let expose_path = section.path_of("expose_headers");
    let expose_headers: Vec<HeaderName> = section
        .strings("expose_headers", problems)
        .unwrap_or_default()
        .iter()
        .filter_map(|name| parse_header(&expose_path, name, problems))
        .collect();
    let age_path = section.path_of("max_age");
    let max_age = section
        .duration("max_age", problems)
        .unwrap_or(Duration::from_hours(2));
    if max_age > LONGEST_MAX_AGE {
        problems.error(age_path, "is more than 24h, which no browser keeps");
    }
    section.finish(problems);
    if origins.is_empty() && !expose_headers.is_empty() {
        problems.error(
            expose_path,
            "needs cors.origins: without them the upstream answers for itself",
        );
    }
    let any = origins.iter().any(|origin| origin == "*");
    let (exact, patterns) = if any {
        (Vec::new(), Vec::new())
    } else {
        parse(&path, &origins, problems)
    };
    // An entry with an error of its own is complaint enough.
    let is_broken = !any && exact.len().saturating_add(patterns.len()) < origins.len();
    let names_somebody = !exact.is_empty() || (patterns_enforce && !patterns.is_empty());
    if enforce_origin && !names_somebody && !is_broken {
        problems.error(
            enforce_path,
            "needs a list of exact origins in cors.origins, or patterns there and patterns_enforce = true",
        );
    }
    if patterns_enforce && patterns.is_empty() {
        problems.warning(
            patterns_path,
            "has no effect: cors.origins has no pattern, such as \"https://app-*.example.com\"",
        );
    }
    if any && origins.len() > 1 {
        problems.error(&path, "holds \"*\" beside others: \"*\" stands alone");
    }
    let origins = if any {
        Origins::Any
    } else if exact.is_empty() && patterns.is_empty() {
        return None;
    } else {
        Origins::Listed { exact, patterns }
    };
    Some(CorsSettings {
        origins,
        enforce_origin,
        patterns_enforce,
        expose_headers,
        max_age,
    })
}

/// Origins as browsers send them, and patterns.
fn parse(
    path: &str,
    origins: &[String],
    problems: &mut Problems,
) -> (Vec<HeaderValue>, Vec<OriginPattern>) {
    let (mut exact, mut patterns) = (Vec::new(), Vec::new());
    for text in origins {
        let entry = match OriginEntry::parse(text) {
            Ok(entry) => entry,
            Err(error) => {
                problems.error(path, format!("{text:?} {error}"));
                continue;
            }
        };
        let spelled = entry.to_string();
        if spelled != *text {
            problems.warning(
                path,
                format!("{text:?} is not how browsers spell it: write {spelled:?}"),
            );
        }
        match entry {
            OriginEntry::Exact(origin) => exact.extend(HeaderValue::try_from(origin)),
            OriginEntry::Pattern(pattern) => {
                if let Some(end) = pattern.shared_end() {
                    problems.warning(
                        path,
                        format!("{text:?} welcomes whoever can have a name under {end}: where that is a domain of a hosting service, everybody"),
                    );
                }
                patterns.push(pattern);
            }
        }
    }
    (exact, patterns)
}
