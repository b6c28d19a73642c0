//! Which host a request is for, by RFC 9112 §3.2 and RFC 9113 §8.3.1.

use std::fmt;

use http::header::HOST;
use http::{HeaderValue, Version, request};

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
        (None, Some(line)) => line.clone(),
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

/// RFC 3986 §3.2.2 without userinfo, percent-encoding and sub-delimiters, which no real host has and
/// which let one header mean two hosts.
fn is_well_formed(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else {
        return false;
    };
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                match after.strip_prefix(':') {
                    Some(port) => ("v6", Some(port)),
                    None if after.is_empty() => ("v6", None),
                    None => return false,
                }
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name_is_fine = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let port_is_fine = port.is_none_or(|port| {
        port.len() <= 5
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    });
    name_is_fine && port_is_fine
}

#[cfg(test)]
mod tests {
    use super::{HostError, effective_host};
    use http::{Request, Version};

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
}
