//! `[cors]`: which pages on other origins may ask and read.

use std::time::Duration;

use http::{HeaderValue, Uri};

use super::reader::{Problems, Section};
use crate::cors::{CorsSettings, Origins};

/// Browsers remember no preflight for longer than a day; Chromium caps it at two hours.
const LONGEST_MAX_AGE: Duration = Duration::from_hours(24);

/// Reads `[cors]`; `None` when no origins are listed, so that the upstream answers for itself.
pub(super) fn read(mut section: Section, problems: &mut Problems) -> Option<CorsSettings> {
    let path = section.path_of("origins");
    let origins = section.strings("origins", problems).unwrap_or_default();
    let enforce_path = section.path_of("enforce_origin");
    let enforce_origin = section.boolean("enforce_origin", problems).unwrap_or(false);
    let age_path = section.path_of("max_age");
    let max_age = section
        .duration("max_age", problems)
        .unwrap_or(Duration::from_hours(2));
    if max_age > LONGEST_MAX_AGE {
        problems.error(age_path, "is more than 24h, which no browser keeps");
    }
    section.finish(problems);
    let any = origins.iter().any(|origin| origin == "*");
    if enforce_origin && (any || origins.is_empty()) {
        problems.error(
            enforce_path,
            "needs a list of exact origins in cors.origins",
        );
    }
    if any {
        if origins.len() > 1 {
            problems.error(path, "holds \"*\" beside others: \"*\" stands alone");
        }
        return Some(CorsSettings {
            origins: Origins::Any,
            enforce_origin,
            max_age,
        });
    }
    let listed: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| parse(&path, origin, problems))
        .collect();
    (!listed.is_empty()).then_some(CorsSettings {
        origins: Origins::Listed(listed),
        enforce_origin,
        max_age,
    })
}

/// An origin as browsers send it: scheme and host, with the port where it is not the default.
fn parse(path: &str, text: &str, problems: &mut Problems) -> Option<HeaderValue> {
    let bare = text.trim_end_matches('/');
    let uri: Option<Uri> = bare.parse().ok();
    let uri = uri.filter(|uri| {
        let plain = uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'));
        uri.scheme().is_some()
            && plain
            && uri.path() == "/"
            && uri.query().is_none()
            && !bare.contains('#')
    });
    let Some(uri) = uri else {
        problems.error(path, format!("{text:?} is not an origin; write scheme and host, such as \"https://app.example.com\""));
        return None;
    };
    let default_port = matches!(
        (uri.scheme_str(), uri.port_u16()),
        (Some("https"), Some(443)) | (Some("http"), Some(80))
    );
    let lower = bare.to_ascii_lowercase();
    let origin = if default_port {
        lower
            .rsplit_once(':')
            .map_or(lower.as_str(), |(before, _)| before)
    } else {
        &lower
    };
    if origin != text {
        problems.warning(
            path,
            format!("{text:?} is not how browsers spell it: write {origin:?}"),
        );
    }
    HeaderValue::try_from(origin).ok()
}
