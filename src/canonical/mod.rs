//! The one form of a request: what every decision reads, and what is forwarded.
//!
//! A backend never sees the fields of a client's connection, so no decision may read them either. They
//! are removed first of all, and method, target and host are validated; from then on a request is a
//! [`CanonicalRequest`], which cannot be changed. Pure.

mod path;

use std::fmt;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderMap, ORIGIN, TE};
use http::{Method, Uri, Version, request};

use crate::headers::{self, HeadError, Host, MaxForwards};

pub use path::{PathError, Readings, without_format_suffix};

/// A request head in its one form: without the fields of its connection, with every reading of its path.
#[derive(Clone)]
pub struct CanonicalRequest {
    method: Method,
    /// In origin form, byte for byte as the client sent it, or `*`.
    target: Uri,
    /// The readings of the path beside the path as it was sent.
    other_readings: Vec<String>,
    version: Version,
    headers: HeaderMap,
    host: Host,
    is_websocket: bool,
    takes_trailers: bool,
    has_body: bool,
}

/// Why a head has no such form. All of these are the client's mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// The head is unsound.
    Head(HeadError),
    /// The path is malformed or ambiguous.
    Path(PathError),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(error) => error.fmt(f),
            Self::Path(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

impl From<PathError> for RequestError {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl CanonicalRequest {
    /// Brings a head into its form. `has_body` says whether a body of any length follows.
    ///
    /// # Errors
    ///
    /// [`RequestError`] for a head that is not served.
    pub fn new(head: request::Parts, has_body: bool) -> Result<Self, RequestError> {
        let host = headers::check_head(&head)?;
        let is_websocket = headers::is_websocket_upgrade(&head);
        let takes_trailers = headers::list_holds(&head.headers, &TE, "trailers");
        let request::Parts {
            method,
            uri,
            version,
            mut headers,
            ..
        } = head;
        headers::remove_connection_fields(&mut headers).map_err(HeadError::Nomination)?;
        let is_about_server = method == Method::OPTIONS && uri.path() == "*";
        let other_readings = if is_about_server {
            Vec::new()
        } else {
            path::other_readings(uri.path())?
        };
        let request = Self {
            target: origin_form(&uri),
            other_readings,
            method,
            version,
            headers,
            host,
            is_websocket,
            takes_trailers,
            has_body,
        };
        if let Some(asked) = request.preflight_method() {
            headers::check_method(asked)?;
        }
        Ok(request)
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The target in origin form, with its query.
    #[must_use]
    pub const fn target(&self) -> &Uri {
        &self.target
    }

    /// The path as it was sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// Every reading that a backend could make of the path.
    #[must_use]
    pub fn readings(&self) -> Readings<'_> {
        Readings::new(self.path(), &self.other_readings)
    }

    /// The HTTP version by which the request came.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The fields that are for every recipient.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The host that the request is for.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it is a WebSocket handshake (RFC 6455 §4.1).
    #[must_use]
    pub const fn is_websocket(&self) -> bool {
        self.is_websocket
    }

    /// Whether the client takes trailers (`TE: trailers`, RFC 9110 §10.1.4).
    #[must_use]
    pub const fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    /// Whether a body of any length follows the head.
    #[must_use]
    pub const fn has_body(&self) -> bool {
        self.has_body
    }

    /// Whether the request is about the server as a whole (RFC 9110 §9.3.7), so that no path decides.
    #[must_use]
    pub fn is_about_server(&self) -> bool {
        self.method == Method::OPTIONS && self.path() == "*"
    }

    /// How many more recipients may forward it.
    #[must_use]
    pub fn max_forwards(&self) -> MaxForwards {
        MaxForwards::of(&self.method, &self.headers)
    }

    /// The method that a CORS preflight asks about: OPTIONS with one `Origin` or more and one
    /// `Access-Control-Request-Method`, without credentials and without a body, as browsers send it
    /// (Fetch §4.8). `None` for any other request.
    #[must_use]
    pub fn preflight_method(&self) -> Option<&str> {
        let is_preflight = self.method == Method::OPTIONS
            && self.headers.contains_key(ORIGIN)
            && !self.headers.contains_key(AUTHORIZATION)
            && !self.has_body;
        if !is_preflight {
            return None;
        }
        let mut asked = self.headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
        let asked = asked.next().filter(|_| asked.next().is_none())?;
        asked.to_str().ok()
    }
}

/// Shows no field: some hold credentials.
impl fmt::Debug for CanonicalRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CanonicalRequest")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("version", &self.version)
            .field("host", &self.host)
            .field("is_websocket", &self.is_websocket)
            .finish_non_exhaustive()
    }
}

/// A target without scheme and authority. Where there was no path it is the root, which is what an empty
/// target must be sent as (RFC 9112 §3.2.1).
fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .map(Uri::from)
        .filter(|target| !target.path().is_empty())
        .unwrap_or_default()
}
