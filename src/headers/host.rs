//! Which host a request is for, by RFC 9112 §3.2 and RFC 9113 §8.3.1.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{HOST, HeaderMap, HeaderName};
use http::{HeaderValue, Version, request};

use super::only_value;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The one, well-formed host of a request, with its port if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(HeaderValue);

/// Why a request has no such host. All of these are the client's mistake (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostError {
    /// `:authority` and `Host` disagree.
    Contradiction,
    /// Neither a host name nor an address, with an optional port.
    Malformed,
    /// There is none.
    Missing,
    /// There are several.
    Repeated,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contradiction => "Host differs from :authority",
            Self::Malformed => "Host is malformed",
            Self::Missing => "Host is missing",
            Self::Repeated => "more than one Host",
        })
    }
}

impl std::error::Error for HostError {}

impl Host {
    /// As a header value.
    #[must_use]
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// The name, or the address, without the port. An address of IPv6 is in brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        let text = self.0.to_str().ok();
        text.and_then(split).map_or("", |(name, _)| name)
    }

    /// Whether it is an address or `localhost`, which nobody can have resolve to another place.
    #[must_use]
    pub fn is_address_or_localhost(&self) -> bool {
        let name = self.name();
        name.eq_ignore_ascii_case("localhost") || address(name).is_some()
    }
}

/// Finds the host. In HTTP/1 the authority of an absolute target replaces `Host` (RFC 9112 §3.2.2).
///
/// # Errors
///
/// [`HostError`] when there is not exactly one well-formed host.
pub fn effective_host(head: &request::Parts) -> Result<Host, HostError> {
    let mut lines = head.headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(HostError::Repeated);
    }
    if line.is_some_and(|line| !is_well_formed(line.as_bytes())) {
        return Err(HostError::Malformed);
    }
    let value = match (head.uri.authority(), line) {
        (None, None) => return Err(HostError::Missing),
        (None, Some(line)) => return Ok(Host(line.clone())),
        (Some(authority), line) => {
            let is_http2 = head.version == Version::HTTP_2;
            if line.is_none() && !is_http2 {
                return Err(HostError::Missing);
            }
            let differs = line.is_some_and(|line| {
                !line
                    .as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes())
            });
            if is_http2 && differs {
                return Err(HostError::Contradiction);
            }
            HeaderValue::from_str(authority.as_str()).map_err(|_| HostError::Malformed)?
        }
    };
    if is_well_formed(value.as_bytes()) {
        Ok(Host(value))
    } else {
        Err(HostError::Malformed)
    }
}

/// The host that a proxy in front says the client has asked for, where it says one. It is for the caller to know
/// whether that proxy is trusted.
#[must_use]
pub fn forwarded_host(headers: &HeaderMap) -> Option<Host> {
    let value = only_value(headers, &X_FORWARDED_HOST)?;
    is_well_formed(value.as_bytes()).then(|| Host(value.clone()))
}

/// RFC 3986 §3.2.2 without userinfo, percent-encoding and sub-delimiters, which no real host has and
/// which let one header mean two hosts.
fn is_well_formed(host: &[u8]) -> bool {
    std::str::from_utf8(host).is_ok_and(|text| split(text).is_some())
}

/// A host's name, or its address in brackets, and its port.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = match text.rsplit_once(':') {
        // A colon between brackets belongs to the address.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_name = |name: &str| {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !name.is_empty() && name.bytes().all(is_fine)
    };
    if !address.map_or_else(
        || is_name(name),
        |address| address.parse::<Ipv6Addr>().is_ok(),
    ) {
        return None;
    }
    let Some(port) = port else {
        return Some((name, None));
    };
    // `parse` would take a sign.
    let is_number = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number)?;
    Some((name, Some(port)))
}

/// The address that a name is.
fn address(name: &str) -> Option<IpAddr> {
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    inner.unwrap_or(name).parse().ok()
}

/// A host by its name, as in `allowed_hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case.
    name: String,
    /// `None` leaves it open.
    port: Option<u16>,
}

impl AllowedHost {
    /// A name, or an address, in brackets if of IPv6; with a port or without. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, port) = split(text)?;
        Some(Self {
            name: name.to_ascii_lowercase(),
            port,
        })
    }

    /// Whether it is this machine itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.name == "localhost" || address(&self.name).is_some_and(|address| address.is_loopback())
    }

    /// Whether another one is among those that this one stands for.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.name == other.name && (self.port.is_none() || self.port == other.port)
    }

    /// Whether a request for this host is one for the entry. Without a port it is for every port.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        let host = host.0.to_str().ok().and_then(split);
        host.is_some_and(|(name, port)| {
            name.eq_ignore_ascii_case(&self.name) && (self.port.is_none() || self.port == port)
        })
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{AllowedHost, Host, HostError, effective_host};
    use http::{HeaderValue, Request, Version};

    fn host(version: Version, uri: &str, lines: &[&str]) -> Result<String, HostError> {
        let mut request = Request::builder().version(version).uri(uri);
        for line in lines {
            request = request.header("host", *line);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        effective_host(&head).map(|host| host.value().to_str().expect("visible").to_owned())
    }

    #[test]
    fn http1() {
        use HostError::{Malformed, Missing, Repeated};
        for (uri, lines, expected) in [
            ("/", &["a.example"][..], Ok("a.example")),
            ("/", &["a.example:8080"], Ok("a.example:8080")),
            (
                "/",
                &["under_score~x.example."],
                Ok("under_score~x.example."),
            ),
            ("/", &["[::1]:80"], Ok("[::1]:80")),
            ("/", &["127.0.0.1:65535"], Ok("127.0.0.1:65535")),
            ("http://b.example/x", &["a.example"], Ok("b.example")),
            ("http://b.example/x", &[], Err(Missing)),
            ("http://b@c.example/x", &["a.example"], Err(Malformed)),
            ("/", &[], Err(Missing)),
            ("/", &[""], Err(Malformed)),
            ("/", &["a", "a"], Err(Repeated)),
            ("/", &["a b"], Err(Malformed)),
            ("/", &["a,b"], Err(Malformed)),
            ("/", &["user@a"], Err(Malformed)),
            ("/", &["a/b"], Err(Malformed)),
            ("/", &["a?b"], Err(Malformed)),
            ("/", &["a#b"], Err(Malformed)),
            ("/", &["http://a"], Err(Malformed)),
            ("/", &["a:65536"], Err(Malformed)),
            ("/", &["a:port"], Err(Malformed)),
            ("/", &["[::1"], Err(Malformed)),
            ("/", &["[::g]"], Err(Malformed)),
            ("/", &["[::1]x"], Err(Malformed)),
        ] {
            assert_eq!(
                host(Version::HTTP_11, uri, lines),
                expected.map(str::to_owned),
                "{uri} {lines:?}"
            );
        }
    }

    #[test]
    fn http2() {
        for (uri, lines, expected) in [
            ("http://a.example/", &[][..], Ok("a.example")),
            ("http://a.example/", &["A.example"], Ok("a.example")),
            (
                "http://a.example/",
                &["b.example"],
                Err(HostError::Contradiction),
            ),
            ("http://u@a.example/", &[], Err(HostError::Malformed)),
        ] {
            assert_eq!(
                host(Version::HTTP_2, uri, lines),
                expected.map(str::to_owned),
                "{uri} {lines:?}"
            );
        }
    }

    #[test]
    fn an_allowed_host_is_compared_whole() {
        for (entry, host, covered) in [
            ("a.example", "a.example", true),
            ("a.example", "A.EXAMPLE", true),
            ("A.example", "a.example", true),
            ("a.example", "a.example:8080", true),
            ("a.example:8080", "a.example:8080", true),
            ("[::1]", "[::1]:80", true),
            ("[::1]:80", "[::1]:80", true),
            ("a.example:8080", "a.example", false),
            ("a.example:8080", "a.example:80", false),
            ("a.example:80", "a.example:8080", false),
            ("a.example", "a.example.", false),
            ("a.example", "x.a.example", false),
            ("a.example", "a.example.evil", false),
            ("a.example", "aaexample", false),
            ("a.example", "a", false),
            ("[::1]", "[::2]", false),
            ("[::1]", "127.0.0.1", false),
        ] {
            let allowed = AllowedHost::parse(entry).expect("an entry");
            let host = Host(HeaderValue::from_static(host));
            assert_eq!(allowed.covers(&host), covered, "{entry} and {host:?}");
        }
        for wrong in [
            "",
            " ",
            "*",
            "*.a.example",
            "http://a.example",
            "a.example/",
            "a/b",
            "u@a",
            "a:",
            "a:x",
            "a:65536",
            "a:+80",
            "::1",
            "[::1",
            "[a]",
            "a b",
            "a,b",
        ] {
            assert_eq!(AllowedHost::parse(wrong), None, "{wrong}");
        }
    }
}
