//! Cross-origin requests of browsers (Fetch §3.2). Pure.
//!
//! With `[cors] origins` this program speaks for the upstream: it answers preflights, sets the
//! headers of every answer, and drops the upstream's own. Without, the upstream speaks for itself,
//! and only the answers made here carry headers, so that a page can read why it was refused.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};

/// What a page may read of an answer beside its body. A wildcard would not cover
/// `WWW-Authenticate` in every mode, so each is named.
const EXPOSED: &str = "WWW-Authenticate, Mcp-Session-Id, DPoP-Nonce, Retry-After, X-Request-Id";

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
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

/// Which origins are welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// These, each spelled as a browser sends it.
    Listed(Vec<HeaderValue>),
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
    /// Its origin is not welcome.
    Foreign,
}

impl Origin {
    /// Judges a request's `Origin`. Several of them are as good as a foreign one.
    #[must_use]
    pub fn of(headers: &HeaderMap, settings: Option<&CorsSettings>) -> Self {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (origin, further) = (origins.next(), origins.next());
        match (settings.map(|settings| &settings.origins), origin) {
            (Some(_), _) if further.is_some() => Self::Foreign,
            // Also without an origin: a cache may keep the answer and show it to a page later.
            (Some(Origins::Any), _) => Self::Welcome(HeaderValue::from_static("*")),
            (_, None) => Self::None,
            (None, Some(_)) => Self::Unmanaged,
            (Some(Origins::Listed(listed)), Some(origin)) if listed.contains(origin) => {
                Self::Welcome(origin.clone())
            }
            (Some(Origins::Listed(_)), Some(_)) => Self::Foreign,
        }
    }

    /// Sets the headers of an answer that was made here. No cache keeps those.
    pub fn mark_own(&self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            // Any page may read why it was refused: there is nothing of the upstream in it.
            Self::Unmanaged => allow(headers, HeaderValue::from_static("*")),
            Self::Welcome(_) | Self::Foreign => self.mark(headers),
        }
    }

    /// Sets the headers of the upstream's answer, which owns them where no origins are configured.
    pub fn mark_forwarded(&self, headers: &mut HeaderMap, settings: Option<&CorsSettings>) {
        if settings.is_some() {
            remove_upstreams(headers);
            self.mark(headers);
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
        if !matches!(self, Self::Welcome(_)) {
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
            Self::Welcome(origin) => {
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
    use super::{CorsSettings, Origin, Origins};
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use std::time::Duration;

    fn settings(origins: Origins) -> CorsSettings {
        CorsSettings {
            origins,
            enforce_origin: false,
            max_age: Duration::from_hours(2),
        }
    }

    fn listed() -> CorsSettings {
        settings(Origins::Listed(vec![HeaderValue::from_static(
            "https://app.example",
        )]))
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
