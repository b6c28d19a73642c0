//! Cross-origin requests of browsers (Fetch §3.2). Pure.
//!
//! With `[cors] origins` this program speaks for the upstream: it answers preflights, sets the
//! headers of every answer, and drops the upstream's own. Without, the upstream speaks for itself,
//! and only the answers made here carry headers, so that a page can read why it was refused.

mod origins;

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};

pub use origins::{OriginEntry, OriginError, OriginPattern};

/// What a page may read of an answer beside its body. A wildcard would not cover
/// `WWW-Authenticate` in every mode, so each is named.
const EXPOSED: &str = "WWW-Authenticate, Mcp-Session-Id, DPoP-Nonce, Retry-After, X-Request-Id";

/// How many names of the upstream's own list are added to it.
const MAX_EXPOSED_HEADERS: usize = 100;

/// What a page may send. `Authorization` is never covered by a wildcard (Fetch §4.9), and the
/// others are those of MCP, A2A, `EventSource` and tracing.
const ALLOWED_HEADERS: [&str; 15] = [
    "authorization",
    "content-type",
    "accept",
    "dpop",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "mcp-method",
    "mcp-name",
    "a2a-version",
    "a2a-extensions",
    "traceparent",
    "tracestate",
    "x-request-id",
    "cache-control",
];

const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How many further header names of a preflight are echoed: more than any page sends.
const MAX_ECHOED_HEADERS: usize = 32;

/// `[cors]`, when origins are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsSettings {
    /// Whose pages may read answers.
    pub origins: Origins,
    /// Whether requests from any other origin are refused.
    pub enforce_origin: bool,
    /// Whether patterns count where an origin is refused, and not only where answers may be read.
    pub patterns_enforce: bool,
    /// What pages may read beside the usual, and what the upstream exposes.
    pub expose_headers: Vec<HeaderName>,
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

/// Which origins are welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// Some.
    Listed {
        /// Each spelled as a browser sends it.
        exact: Vec<HeaderValue>,
        /// Those that fit one of these.
        patterns: Vec<OriginPattern>,
    },
}

/// What a request's origin means for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It comes from no page on another origin.
    None,
    /// It has an origin, and the upstream speaks for itself.
    Unmanaged,
    /// Its origin is welcome; this is what `Access-Control-Allow-Origin` says.
    Welcome(HeaderValue),
    /// Its origin fits a pattern, which is enough to read answers. Where foreign origins are refused, it is one.
    Reader(HeaderValue),
    /// Its origin is not welcome.
    Foreign,
}

impl Origin {
    /// Judges a request's `Origin`. Several of them are as good as a foreign one.
    #[must_use]
    pub fn of(headers: &HeaderMap, settings: Option<&CorsSettings>) -> Self {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (origin, further) = (origins.next(), origins.next());
        let Some(settings) = settings else {
            return origin.map_or(Self::None, |_| Self::Unmanaged);
        };
        match (&settings.origins, origin) {
            _ if further.is_some() => Self::Foreign,
            // Also without an origin: a cache may keep the answer and show it to a page later.
            (Origins::Any, _) => Self::Welcome(HeaderValue::from_static("*")),
            (_, None) => Self::None,
            (Origins::Listed { exact, .. }, Some(origin)) if exact.contains(origin) => {
                Self::Welcome(origin.clone())
            }
            (Origins::Listed { patterns, .. }, Some(origin)) => {
                if !patterns.iter().any(|pattern| pattern.fits(origin)) {
                    Self::Foreign
                } else if settings.patterns_enforce {
                    Self::Welcome(origin.clone())
                } else {
                    Self::Reader(origin.clone())
                }
            }
        }
    }

    /// Whether the request is refused where foreign origins are.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign | Self::Reader(_))
    }

    /// Sets the headers of an answer that was made here. No cache keeps those.
    pub fn mark_own(&self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            // Any page may read why it was refused: there is nothing of the upstream in it.
            Self::Unmanaged => allow(headers, HeaderValue::from_static("*")),
            Self::Welcome(_) | Self::Reader(_) | Self::Foreign => self.mark(headers),
        }
    }

    /// Sets the headers of the upstream's answer, which owns them where no origins are configured.
    pub fn mark_forwarded(&self, headers: &mut HeaderMap, settings: Option<&CorsSettings>) {
        let Some(settings) = settings else {
            return;
        };
        let exposed = exposed(headers, &settings.expose_headers);
        remove_upstreams(headers);
        self.mark(headers);
        if let Some(listed) = headers.get_mut(ACCESS_CONTROL_EXPOSE_HEADERS)
            && let Some(exposed) = exposed
        {
            *listed = exposed;
        }
    }

    /// Sets the headers of a preflight's answer.
    pub fn mark_preflight(
        &self,
        headers: &mut HeaderMap,
        request: &HeaderMap,
        settings: &CorsSettings,
    ) {
        self.mark(headers);
        headers.append(
            VARY,
            HeaderValue::from_static(
                "Access-Control-Request-Method, Access-Control-Request-Headers",
            ),
        );
        if !matches!(self, Self::Welcome(_) | Self::Reader(_)) {
            return;
        }
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(ALLOWED_METHODS),
        );
        headers.insert(
            ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from(settings.max_age.as_secs()),
        );
        if let Ok(names) = HeaderValue::try_from(allowed_headers(request)) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }

    /// Where origins are configured. An answer to a request without one varies too: a cache that
    /// kept it would have nothing to show to a welcome page.
    fn mark(&self, headers: &mut HeaderMap) {
        match self {
            Self::Unmanaged => {}
            Self::Foreign | Self::None => {
                headers.append(VARY, HeaderValue::from_static("Origin"));
            }
            Self::Welcome(origin) | Self::Reader(origin) => {
                if origin.as_bytes() != b"*" {
                    headers.append(VARY, HeaderValue::from_static("Origin"));
                }
                allow(headers, origin.clone());
            }
        }
    }
}

/// Sets the headers of the answer to an OPTIONS for what any page may read.
pub fn mark_public_preflight(headers: &mut HeaderMap, request: &HeaderMap, methods: &'static str) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, methods),
        // The longest that Chromium keeps one.
        (ACCESS_CONTROL_MAX_AGE, "7200"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(names) = HeaderValue::try_from(allowed_headers(request)) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
}

/// What a page may read where that is more than the usual. It is the upstream's to say what is in its own
/// answers, and to other origins this opens nothing.
fn exposed(upstreams: &HeaderMap, configured: &[HeaderName]) -> Option<HeaderValue> {
    let added = upstreams
        .get_all(ACCESS_CONTROL_EXPOSE_HEADERS)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok())
        .take(MAX_EXPOSED_HEADERS);
    let mut names: Vec<&str> = EXPOSED.split(", ").collect();
    let usual = names.len();
    for name in configured.iter().map(HeaderName::as_str).chain(added) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    let is_more = names.len() > usual;
    is_more
        .then(|| HeaderValue::try_from(names.join(", ")).ok())
        .flatten()
}

fn remove_upstreams(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// The fixed names, and what else the page asks for: it is welcome, so its own headers are too.
fn allowed_headers(request: &HeaderMap) -> String {
    let asked = request
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let mut names: Vec<String> = ALLOWED_HEADERS.map(str::to_owned).to_vec();
    for name in asked.take(MAX_ECHOED_HEADERS) {
        if !names.iter().any(|known| known == name.as_str()) {
            names.push(name.as_str().to_owned());
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{CorsSettings, Origin, OriginEntry, Origins};
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use std::time::Duration;

    fn settings(origins: Origins) -> CorsSettings {
        CorsSettings {
            origins,
            enforce_origin: false,
            patterns_enforce: false,
            expose_headers: Vec::new(),
            max_age: Duration::from_hours(2),
        }
    }

    fn listed() -> CorsSettings {
        settings(Origins::Listed {
            exact: vec![HeaderValue::from_static("https://app.example")],
            patterns: Vec::new(),
        })
    }

    /// One whole origin and one pattern.
    fn with_pattern(patterns_enforce: bool) -> CorsSettings {
        let mut settings = listed();
        settings.patterns_enforce = patterns_enforce;
        let entry = OriginEntry::parse("https://app-*-team.example");
        if let Origins::Listed { patterns, .. } = &mut settings.origins
            && let Ok(OriginEntry::Pattern(pattern)) = entry
        {
            patterns.push(pattern);
        }
        settings
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    }

    #[test]
    fn an_origin_is_compared_whole() {
        let welcome = |origin| Origin::Welcome(HeaderValue::from_static(origin));
        for (fields, settings, expected) in [
            (&[][..], Some(listed()), Origin::None),
            (
                &[("origin", "https://app.example")],
                Some(listed()),
                welcome("https://app.example"),
            ),
            (
                &[("origin", "https://app.example")],
                None,
                Origin::Unmanaged,
            ),
            (
                &[("origin", "https://x")],
                Some(settings(Origins::Any)),
                welcome("*"),
            ),
            (&[], Some(settings(Origins::Any)), welcome("*")),
            (&[], None, Origin::None),
            (
                &[("origin", "https://app.example.evil")],
                Some(listed()),
                Origin::Foreign,
            ),
            (
                &[("origin", "http://app.example")],
                Some(listed()),
                Origin::Foreign,
            ),
            (
                &[("origin", "https://app.example/")],
                Some(listed()),
                Origin::Foreign,
            ),
            (&[("origin", "null")], Some(listed()), Origin::Foreign),
            (&[("origin", "")], Some(listed()), Origin::Foreign),
            (
                &[
                    ("origin", "https://app.example"),
                    ("origin", "https://evil"),
                ],
                Some(listed()),
                Origin::Foreign,
            ),
        ] {
            assert_eq!(
                Origin::of(&headers(fields), settings.as_ref()),
                expected,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn a_pattern_lets_read_and_only_where_told_so_lets_in() {
        let of = |origins: &[&'static str], patterns_enforce| {
            let fields: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
            Origin::of(&headers(&fields), Some(&with_pattern(patterns_enforce)))
        };
        let fits = "https://app-x-team.example";
        let value = HeaderValue::from_static(fits);
        assert_eq!(of(&[fits], false), Origin::Reader(value.clone()));
        assert_eq!(of(&[fits], true), Origin::Welcome(value.clone()));
        for enforced in [false, true] {
            assert!(!of(&["https://app.example"], enforced).is_foreign());
            assert!(!of(&[], enforced).is_foreign());
            assert_eq!(of(&[fits, fits], enforced), Origin::Foreign);
            assert_eq!(
                of(&["https://app-x.team.example"], enforced),
                Origin::Foreign
            );
        }
        assert!(of(&[fits], false).is_foreign());
        let mut answer = HeaderMap::new();
        of(&[fits], false).mark_own(&mut answer);
        assert_eq!(answer["access-control-allow-origin"], value);
        assert_eq!(answer["vary"], "Origin");
    }

    #[test]
    fn what_the_upstream_exposes_is_added() {
        const USUAL: &str =
            "WWW-Authenticate, Mcp-Session-Id, DPoP-Nonce, Retry-After, X-Request-Id";
        for (lines, configured, expected) in [
            (&[][..], &[][..], ""),
            (&["X-Total-Count"], &[], ", X-Total-Count"),
            (
                &[
                    "X-Total-Count, content-location",
                    "X-TOTAL-COUNT,, a b, \u{e9}",
                ],
                &[],
                ", X-Total-Count, content-location",
            ),
            (&["x-request-id"], &["retry-after"], ""),
            (
                &["X-Own, *"],
                &["x-own", "grpc-status"],
                ", x-own, grpc-status, *",
            ),
        ] {
            let settings = CorsSettings {
                expose_headers: configured
                    .iter()
                    .map(|name| HeaderName::from_static(name))
                    .collect(),
                ..with_pattern(false)
            };
            for (origin, is_readable) in [
                ("https://app.example", true),
                ("https://app-x-team.example", true),
                ("https://evil.example", false),
            ] {
                let mut answer = HeaderMap::new();
                for line in lines {
                    let line = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
                    answer.append("access-control-expose-headers", line);
                }
                let origin = Origin::of(&headers(&[("origin", origin)]), Some(&settings));
                origin.mark_forwarded(&mut answer, Some(&settings));
                let found: Vec<_> = answer
                    .get_all("access-control-expose-headers")
                    .iter()
                    .map(|value| value.to_str().expect("visible"))
                    .collect();
                let expected = format!("{USUAL}{expected}");
                let expected: Vec<_> = is_readable
                    .then_some(expected.as_str())
                    .into_iter()
                    .collect();
                assert_eq!(found, expected, "{lines:?} {configured:?} {origin:?}");
            }
        }
    }

    #[test]
    fn there_is_one_allowed_origin_ever() {
        let welcome = Origin::of(
            &headers(&[("origin", "https://app.example")]),
            Some(&listed()),
        );
        let upstreams = [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("vary", "accept"),
        ];
        let mut managed = headers(&upstreams);
        welcome.mark_forwarded(&mut managed, Some(&listed()));
        assert_eq!(
            managed
                .get_all("access-control-allow-origin")
                .iter()
                .collect::<Vec<_>>(),
            ["https://app.example"]
        );
        assert_eq!(managed.get("access-control-allow-credentials"), None);
        assert_eq!(
            managed.get_all("vary").iter().collect::<Vec<_>>(),
            ["accept", "Origin"]
        );

        let mut foreign = headers(&upstreams);
        Origin::Foreign.mark_forwarded(&mut foreign, Some(&listed()));
        assert_eq!(foreign.get("access-control-allow-origin"), None);

        let mut kept_by_a_cache = headers(&upstreams);
        Origin::None.mark_forwarded(&mut kept_by_a_cache, Some(&listed()));
        assert_eq!(kept_by_a_cache.get("access-control-allow-origin"), None);
        assert_eq!(
            kept_by_a_cache.get_all("vary").iter().collect::<Vec<_>>(),
            ["accept", "Origin"]
        );

        let mut untouched = headers(&upstreams);
        Origin::Unmanaged.mark_forwarded(&mut untouched, None);
        assert_eq!(untouched, headers(&upstreams));
    }

    #[test]
    fn a_preflight_names_what_may_be_sent() {
        let request = headers(&[(
            "access-control-request-headers",
            "x-own, Authorization, bad name, mcp-param-a",
        )]);
        let mut answer = HeaderMap::new();
        let welcome = Origin::Welcome(HeaderValue::from_static("https://app.example"));
        welcome.mark_preflight(&mut answer, &request, &listed());
        let allowed = answer["access-control-allow-headers"]
            .to_str()
            .expect("visible");
        for name in [
            "authorization",
            "mcp-session-id",
            "a2a-version",
            "traceparent",
            "x-own",
            "mcp-param-a",
        ] {
            assert!(
                allowed.split(", ").any(|one| one == name),
                "{name} in {allowed}"
            );
        }
        assert!(!allowed.contains("bad name"), "{allowed}");
        assert_eq!(answer["access-control-max-age"], "7200");

        let mut foreign = HeaderMap::new();
        Origin::Foreign.mark_preflight(&mut foreign, &request, &listed());
        assert_eq!(
            foreign.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["vary"]
        );
    }
}
