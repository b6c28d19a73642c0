//! The URI that a proof is made for, and when two spellings of it are one (RFC 3986 §6.2.2 and §6.2.3).

use std::fmt::{self, Write as _};

use http::uri::Authority;

/// `public_url`: the scheme and authority that clients use, wherever TLS ends. It is configured and never
/// taken from a request: who could choose the host of a URI could choose for which one a proof counts. The
/// same goes for the part of the path that an ingress strips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicOrigin {
    /// In its normal form.
    origin: String,
    /// `path_prefix`; empty where nothing is stripped.
    prefix: String,
}

impl PublicOrigin {
    /// Reads `https://HOST[:PORT]`. A final slash may follow.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
        let bare = rest.strip_suffix('/').unwrap_or(rest);
        if bare.contains(['/', '?', '#']) {
            return Err(
                "holds a path, query or fragment (what an ingress strips of the path is path_prefix)",
            );
        }
        if bare.contains('@') {
            return Err("holds user information");
        }
        let is_authority = bare.parse::<Authority>().is_ok_and(|authority| {
            let has_port_text = authority.as_str().len() > authority.host().len();
            !authority.host().is_empty()
                && (!has_port_text || authority.port_u16().is_some_and(|port| port != 0))
        });
        if !is_authority {
            return Err("has no usable host and port");
        }
        let origin = normal_origin(scheme, bare).ok_or("is neither https:// nor http://")?;
        let prefix = String::new();
        Ok(Self { origin, prefix })
    }

    /// The same where something in front strips this beginning of every path, which is in normal form.
    #[must_use]
    pub fn below(self, prefix: &str) -> Self {
        let prefix = prefix.to_owned();
        Self { prefix, ..self }
    }

    /// The host, an IPv6 address in its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let authority = self.origin.split_once("://").map_or("", |(_, rest)| rest);
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => authority,
        }
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }

    /// The URI of a request, by its path as it was received; `None` for a path that cannot be read. Dot
    /// segments of the path do not lead out of the prefix: what is beside it is another service's.
    pub(super) fn target(&self, path: &str) -> Option<String> {
        Some(format!(
            "{}{}{}",
            self.origin,
            self.prefix,
            normal_path(path)?
        ))
    }
}

impl fmt::Display for PublicOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

/// An absolute `http` or `https` URI in its normal form, without query and fragment (RFC 9449 §4.3 compares
/// without them); `None` for what is none.
pub(super) fn normal_uri(uri: &str) -> Option<String> {
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    // First of all: either may follow the authority at once.
    let uri = uri.split(['?', '#']).next()?;
    let (scheme, rest) = uri.split_once("://")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(slash)?;
    Some(format!(
        "{}{}",
        normal_origin(scheme, authority)?,
        normal_path(path)?
    ))
}

fn normal_origin(scheme: &str, authority: &str) -> Option<String> {
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "https" => ("https", "443"),
        "http" => ("http", "80"),
        _ => return None,
    };
    let authority = authority.to_ascii_lowercase();
    // The colons of an IPv6 address stand before its bracket.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (port.is_empty() || port == default_port) => {
            host
        }
        _ => &authority,
    };
    let plausible = !host.is_empty() && !host.contains('@');
    plausible.then(|| format!("{scheme}://{host}"))
}

/// A path with unreserved characters decoded, other escapes in capitals, and dot segments removed. Slashes
/// are kept as they are: `/a`, `/a/` and `//a` are three paths.
fn normal_path(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(char::from(byte));
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let escaped = u8::try_from((digit()? << 4) | digit()?).ok()?;
        if escaped.is_ascii_alphanumeric() || b"-._~".contains(&escaped) {
            decoded.push(char::from(escaped));
        } else {
            _ = write!(decoded, "%{escaped:02X}");
        }
    }
    if !decoded.is_empty() && !decoded.starts_with('/') {
        return None;
    }
    let mut kept = Vec::new();
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => _ = kept.pop(),
            other => {
                kept.push(other);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    Some(format!("/{}", kept.join("/")))
}

#[cfg(test)]
mod tests {
    use super::{PublicOrigin, normal_uri};

    #[test]
    fn equivalent_spellings_are_one() {
        for (uri, expected) in [
            ("https://api.example.com", "https://api.example.com/"),
            ("https://api.example.com/", "https://api.example.com/"),
            ("HTTPS://API.Example.COM/a", "https://api.example.com/a"),
            ("https://api.example.com:443/a", "https://api.example.com/a"),
            ("https://api.example.com:/a", "https://api.example.com/a"),
            ("http://api.example.com:80/a", "http://api.example.com/a"),
            (
                "https://api.example.com:80/a",
                "https://api.example.com:80/a",
            ),
            ("https://[2001:DB8::1]:443/a", "https://[2001:db8::1]/a"),
            ("https://[::443]/a", "https://[::443]/a"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
            ("https://h/%7euser/%41", "https://h/~user/A"),
            ("https://h/a%2fb%3b", "https://h/a%2Fb%3B"),
            ("https://h/%c3%a9", "https://h/%C3%A9"),
            ("https://h/a/../b", "https://h/b"),
            ("https://h/a/./b/.", "https://h/a/b/"),
            ("https://h/a/b/..", "https://h/a/"),
            ("https://h/../..", "https://h/"),
            ("https://h/a/%2e%2E/b", "https://h/b"),
            ("https://h//a//../b", "https://h//a/b"),
            ("https://h/a/", "https://h/a/"),
            ("https://h/a?q=1", "https://h/a"),
            ("https://h/a#f", "https://h/a"),
            ("https://h?q=/x", "https://h/"),
            ("https://h#/x", "https://h/"),
            ("https://h/a;b=c:d@e", "https://h/a;b=c:d@e"),
        ] {
            assert_eq!(normal_uri(uri).as_deref(), Some(expected), "{uri}");
        }
    }

    #[test]
    fn what_is_no_uri_of_http_is_none() {
        for uri in [
            "",
            "/a",
            "h/a",
            "//h/a",
            "ftp://h/a",
            "wss://h/a",
            "https:/h/a",
            "https:///a",
            "https://",
            "https://:443/a",
            "https://user@h/a",
            "https://user:password@h/a",
            "https://h/%",
            "https://h/%4",
            "https://h/%zz",
            "https://h/%+f",
            "https://h/a b",
            "https://h/a\t",
            " https://h/a",
            "https://h/\u{e9}",
        ] {
            assert_eq!(normal_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn an_origin_and_a_path_make_the_uri() {
        for (origin, path, expected) in [
            (
                "https://API.example.com:443/",
                "/a",
                "https://api.example.com/a",
            ),
            (
                "http://127.0.0.1:8080",
                "/a/../b",
                "http://127.0.0.1:8080/b",
            ),
            ("https://[::1]", "", "https://[::1]/"),
        ] {
            let origin = PublicOrigin::parse(origin).expect("an origin");
            assert_eq!(origin.target(path).as_deref(), Some(expected));
        }
        for (path, expected) in [
            ("/mcp", "https://agents.example.com/team-a/mcp"),
            ("/", "https://agents.example.com/team-a/"),
            ("/mcp/../x", "https://agents.example.com/team-a/x"),
            ("/../mcp", "https://agents.example.com/team-a/mcp"),
            (
                "/%2e%2e/%2e%2e/mcp",
                "https://agents.example.com/team-a/mcp",
            ),
        ] {
            let origin = PublicOrigin::parse("https://agents.example.com").expect("an origin");
            let origin = origin.below("/team-a");
            assert_eq!(origin.target(path).as_deref(), Some(expected), "{path}");
            assert_eq!(origin.to_string(), "https://agents.example.com");
        }
        for (text, why) in [
            ("api.example.com", "no scheme"),
            ("wss://api.example.com", "neither"),
            ("https://api.example.com/a", "path"),
            ("https://api.example.com//", "path"),
            ("https://api.example.com?a", "query"),
            ("https://api.example.com#a", "fragment"),
            ("https://user@api.example.com", "user information"),
            ("https://", "host"),
            ("https://:443", "host"),
            ("https://a b", "host"),
            ("https://api.example.com:0", "host"),
            ("https://api.example.com:99999", "host"),
        ] {
            let found = PublicOrigin::parse(text).expect_err(text);
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
