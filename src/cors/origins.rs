//! Which origins a list of them means: whole ones as browsers send them, and patterns. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderValue;

/// An entry of `cors.origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginEntry {
    /// One origin, spelled as browsers send it.
    Exact(String),
    /// All that fit.
    Pattern(OriginPattern),
}

/// Why no browser ever sends an origin that an entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginError {
    /// Not scheme and host.
    Form,
    /// No page has a URL of this scheme, or one that it tells of.
    Scheme,
    /// Letters that browsers send in another form.
    NotAscii,
    /// The host is no name and no address.
    Host,
    /// A host that ends in a number is an address, and browsers send this one otherwise.
    Address,
    /// The port is no number up to 65535.
    Port,
    /// A `*` where none can be.
    Star(&'static str),
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str(
                "is not an origin; write scheme and host, such as \"https://app.example.com\"",
            ),
            Self::Scheme => f.write_str(
                "can never match: no page's origin has this scheme; a page that opens wss:// comes from https://",
            ),
            Self::NotAscii => f.write_str(
                "can never match: browsers send such a name in its ASCII form, which begins with xn--",
            ),
            Self::Host => f.write_str("can never match: its host is no host name and no address"),
            Self::Address => f.write_str(
                "can never match: a host that ends in a number is an address, which browsers send as four numbers",
            ),
            Self::Port => f.write_str("can never match: its port is no number from 1 to 65535"),
            Self::Star(why) => write!(f, "can never match: {why}"),
        }
    }
}

impl std::error::Error for OriginError {}

/// Origins of one scheme whose hosts differ in parts of labels, or on this machine in their port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: String,
    labels: Vec<Label>,
    port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Label {
    Fixed(String),
    /// At least one more character between these two.
    Around(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Default,
    Number(u16),
    Any,
}

impl OriginEntry {
    /// Reads an entry. A slash at its end, capitals and a default port are left out.
    ///
    /// # Errors
    ///
    /// [`OriginError`] for what no browser sends.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let bare = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (scheme, authority) = bare.split_once("://").ok_or(OriginError::Form)?;
        let no_part_of_it = |sign: char| "/?#@\\".contains(sign) || sign.is_ascii_control();
        if !is_scheme(scheme) || authority.is_empty() || authority.contains(no_part_of_it) {
            return Err(OriginError::Form);
        }
        if matches!(scheme, "ws" | "wss" | "file") {
            return Err(OriginError::Scheme);
        }
        if !authority.is_ascii() {
            return Err(OriginError::NotAscii);
        }
        let (host, port) = split(authority);
        let is_web = matches!(scheme, "http" | "https");
        let mut port = port.map_or(Ok(Port::Default), Port::parse)?;
        if matches!(
            (scheme, port),
            ("http", Port::Number(80)) | ("https", Port::Number(443))
        ) {
            port = Port::Default;
        }
        let host = read_host(host, is_web)?;
        if port == Port::Any && !is_loopback(&host) {
            return Err(OriginError::Star(
                "\":*\" is for ports of this machine only, such as \"http://localhost:*\"",
            ));
        }
        if port != Port::Any && !host.contains('*') {
            return Ok(Self::Exact(format!("{scheme}://{host}{port}")));
        }
        Ok(Self::Pattern(OriginPattern {
            scheme: scheme.to_owned(),
            labels: host.split('.').map(Label::read).collect(),
            port,
        }))
    }
}

impl fmt::Display for OriginEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(origin) => f.write_str(origin),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

impl OriginPattern {
    /// Whether an origin, as a browser sent it, fits. A `*` is at least one letter, digit, `-` or `_` of one
    /// label, never a dot.
    #[must_use]
    pub fn fits(&self, origin: &HeaderValue) -> bool {
        let rest = origin.to_str().ok().and_then(|origin| {
            origin
                .strip_prefix(self.scheme.as_str())?
                .strip_prefix("://")
        });
        rest.is_some_and(|authority| {
            let (host, port) = split(authority);
            let mut labels = host.split('.');
            self.port.fits(port)
                && self
                    .labels
                    .iter()
                    .all(|label| labels.next().is_some_and(|found| label.fits(found)))
                && labels.next().is_none()
        })
    }

    /// What is fixed at the end of the hosts, where that is so short that strangers may have names under it:
    /// two labels or fewer. Names under `localhost` are this machine's.
    #[must_use]
    pub fn shared_end(&self) -> Option<String> {
        let is_open = |label: &Label| matches!(label, Label::Around(..));
        let open = self.labels.iter().rposition(is_open)?;
        let fixed = self.labels.get(open.saturating_add(1)..)?;
        let fixed: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        let is_own = fixed.last().is_some_and(|last| last == "localhost");
        (fixed.len() <= 2 && !is_own).then(|| fixed.join("."))
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels.iter().map(ToString::to_string).collect();
        write!(f, "{}://{}{}", self.scheme, labels.join("."), self.port)
    }
}

impl Label {
    fn read(text: &str) -> Self {
        text.split_once('*').map_or_else(
            || Self::Fixed(text.to_owned()),
            |(before, after)| Self::Around(before.to_owned(), after.to_owned()),
        )
    }

    fn fits(&self, found: &str) -> bool {
        match self {
            Self::Fixed(text) => text == found,
            Self::Around(before, after) => {
                let middle = found
                    .strip_prefix(before.as_str())
                    .and_then(|rest| rest.strip_suffix(after.as_str()));
                // Punycode shows other letters than it is written with, so a part of it means nothing.
                let is_whole = before.is_empty() && after.is_empty();
                let is_plain = is_whole || before.starts_with("xn--") || !found.starts_with("xn--");
                is_plain
                    && middle.is_some_and(|middle| {
                        !middle.is_empty() && middle.bytes().all(is_of_a_label)
                    })
            }
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(text) => f.write_str(text),
            Self::Around(before, after) => write!(f, "{before}*{after}"),
        }
    }
}

impl Port {
    fn parse(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        // `parse` would take a sign.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_number && *number > 0);
        number.map(Self::Number).ok_or(OriginError::Port)
    }

    fn fits(self, found: Option<&str>) -> bool {
        match self {
            Self::Default => found.is_none(),
            Self::Number(number) => found.is_some_and(|found| found == number.to_string()),
            Self::Any => found.is_none_or(|found| {
                Self::parse(found).is_ok_and(|port| port.to_string().get(1..) == Some(found))
                    && found != "*"
            }),
        }
    }
}

/// With its colon; nothing for the default one.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::Number(number) => write!(f, ":{number}"),
            Self::Any => f.write_str(":*"),
        }
    }
}

/// Host and port of an authority. A colon between brackets belongs to the address.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// RFC 3986 §3.1, in lower case.
fn is_scheme(text: &str) -> bool {
    let is_fine = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.')
    };
    text.bytes().all(is_fine) && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

const fn is_of_a_label(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}

/// The host as browsers spell it. `is_web` tells URLs whose hosts are names and addresses from those of
/// programs, whose hosts are whatever they like.
fn read_host(text: &str, is_web: bool) -> Result<String, OriginError> {
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
        return address.map(spelled).ok_or(OriginError::Host);
    }
    let is_pattern = text.contains('*');
    if text.contains([':', '[', ']', ' ', '%']) {
        return Err(OriginError::Host);
    }
    if !is_web && !is_pattern {
        return Ok(text.to_owned());
    }
    // A name may end in a dot, and is another one then.
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let is_label = |label: &&str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|byte| is_of_a_label(byte) || byte == b'*')
    };
    if !labels.iter().all(is_label) {
        return Err(OriginError::Host);
    }
    let last = labels.last().copied().unwrap_or_default();
    if last.contains('*') {
        return Err(OriginError::Star(
            "the last label of its host must have no \"*\"; \"*\" alone, instead of the list, welcomes every origin",
        ));
    }
    if labels
        .iter()
        .any(|label| label.matches('*').nth(1).is_some())
    {
        return Err(OriginError::Star("a label has one \"*\" at most"));
    }
    // WHATWG URL, "ends in a number".
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(is_hex);
    if is_number {
        if is_pattern {
            return Err(OriginError::Star("an address has no \"*\""));
        }
        // Only four decimal numbers without zeros before them are taken by `parse`.
        text.parse::<Ipv4Addr>().map_err(|_| OriginError::Address)?;
    }
    Ok(text.to_owned())
}

/// An address of IPv6 as URLs have it: an IPv4 address in it is in hexadecimal digits too.
fn spelled(address: Ipv6Addr) -> String {
    let [.., high, low] = address.segments();
    if address.to_ipv4_mapped().is_some() {
        format!("[::ffff:{high:x}:{low:x}]")
    } else {
        format!("[{address}]")
    }
}

/// Whether a host, in lower case, is this machine itself, as browsers see it.
fn is_loopback(host: &str) -> bool {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = inner.unwrap_or(host).parse::<IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{OriginEntry, OriginError};
    use http::HeaderValue;

    fn pattern(text: &str) -> super::OriginPattern {
        match OriginEntry::parse(text) {
            Ok(OriginEntry::Pattern(pattern)) => pattern,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn entries_are_spelled_as_browsers_spell_them() {
        for (text, expected) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com/", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80/", "http://app.example.com"),
            ("http://app.example.com:443", "http://app.example.com:443"),
            ("http://localhost:03000", "http://localhost:3000"),
            ("https://app.example.com.", "https://app.example.com."),
            ("https://under_score.example", "https://under_score.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
            ("http://[::FFFF:127.0.0.1]", "http://[::ffff:7f00:1]"),
            (
                "https://xn--bcher-kva.example",
                "https://xn--bcher-kva.example",
            ),
            ("tauri://localhost", "tauri://localhost"),
            ("vscode-webview://0a1b~2", "vscode-webview://0a1b~2"),
            ("app://.", "app://."),
            ("https://*.Vercel.app/", "https://*.vercel.app"),
            ("https://*.vercel.app:443", "https://*.vercel.app"),
            (
                "https://app-*-team.vercel.app:8443",
                "https://app-*-team.vercel.app:8443",
            ),
            ("https://a-*.b-*.example.com", "https://a-*.b-*.example.com"),
            ("http://localhost:*", "http://localhost:*"),
            ("http://*.localhost:*", "http://*.localhost:*"),
            ("http://127.0.0.2:*", "http://127.0.0.2:*"),
            ("http://[::1]:*", "http://[::1]:*"),
        ] {
            let found = OriginEntry::parse(text).map(|entry| entry.to_string());
            assert_eq!(found.as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_entry() {
        use OriginError::{Address, Form, Host, NotAscii, Port, Scheme};
        for (text, expected) in [
            ("app.example.com", Form),
            ("*.example.com", Form),
            ("*://app.example.com", Form),
            ("null", Form),
            ("", Form),
            ("https://", Form),
            ("file:///", Form),
            ("https://app.example.com/page", Form),
            ("https://app.example.com//", Form),
            ("https://app.example.com?x", Form),
            ("https://app.example.com#x", Form),
            ("https://me@app.example.com", Form),
            ("https://me@*.example.com", Form),
            ("https://a\\b.example", Form),
            ("wss://app.example.com", Scheme),
            ("file://host", Scheme),
            ("https://b\u{fc}cher.example", NotAscii),
            ("https://.example.com", Host),
            ("https://app..example.com", Host),
            ("https://app.example.com..", Host),
            ("https://*..example.com", Host),
            ("https://a%2eb.example", Host),
            ("https://a b.example", Host),
            ("https://a~b.example", Host),
            ("https://a:b:80", Host),
            ("https://[::1", Host),
            ("https://[::*]", Host),
            ("https://[::1]x", Host),
            ("https://127.1", Address),
            ("https://127.0.0.01", Address),
            ("https://0x7f000001", Address),
            ("https://256.0.0.1", Address),
            ("https://app.example.com:", Port),
            ("https://app.example.com:0", Port),
            ("https://app.example.com:+80", Port),
            ("https://app.example.com:65536", Port),
            ("http://localhost:3*", Port),
        ] {
            assert_eq!(OriginEntry::parse(text), Err(expected), "{text}");
        }
        for text in [
            "https://*",
            "https://app.*",
            "https://app.example.c*",
            "chrome-extension://*",
            "https://**.example.com",
            "https://a-*-*.example.com",
            "http://10.0.*.1",
            "http://*.0.0.1",
            "https://app.example.com:*",
            "https://*.example.com:*",
            "http://localhost.example.com:*",
            "http://0.0.0.0:*",
        ] {
            let found = OriginEntry::parse(text);
            assert!(
                matches!(found, Err(OriginError::Star(_))),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn a_star_is_a_part_of_one_label() {
        for (text, origin, expected) in [
            ("https://*.vercel.app", "https://x.vercel.app", true),
            ("https://*.vercel.app", "https://my-app_2.vercel.app", true),
            (
                "https://*.vercel.app",
                "https://xn--bcher-kva.vercel.app",
                true,
            ),
            ("https://*.vercel.app", "https://vercel.app", false),
            ("https://*.vercel.app", "https://.vercel.app", false),
            ("https://*.vercel.app", "https://a.b.vercel.app", false),
            ("https://*.vercel.app", "https://x.vercel.app.", false),
            (
                "https://*.vercel.app",
                "https://x.vercel.app.evil.com",
                false,
            ),
            ("https://*.vercel.app", "https://x.vercel.app.", false),
            (
                "https://*.vercel.app",
                "https://evil.com/x.vercel.app",
                false,
            ),
            (
                "https://*.vercel.app",
                "https://evil.com#.vercel.app",
                false,
            ),
            (
                "https://*.vercel.app",
                "https://evil.com?.vercel.app",
                false,
            ),
            (
                "https://*.vercel.app",
                "https://evil.com\\.vercel.app",
                false,
            ),
            ("https://*.vercel.app", "https://x@evil.vercel.app", false),
            ("https://*.vercel.app", "https://x:y@evil.vercel.app", false),
            ("https://*.vercel.app", "https://x%2eevil.vercel.app", false),
            ("https://*.vercel.app", "https://evilvercel.app", false),
            ("https://*.vercel.app", "https://x.vercelxapp", false),
            ("https://*.vercel.app", "https://X.vercel.app", false),
            ("https://*.vercel.app", "https://x.Vercel.app", false),
            ("https://*.vercel.app", "HTTPS://x.vercel.app", false),
            ("https://*.vercel.app", "http://x.vercel.app", false),
            ("https://*.vercel.app", "https://x.vercel.app:443", false),
            ("https://*.vercel.app", "https://x.vercel.app:8443", false),
            ("https://*.vercel.app", "https://x.vercel.app/", false),
            (
                "https://*.vercel.app",
                "https://x.vercel.app https://evil.com",
                false,
            ),
            ("https://*.vercel.app", "https://*.vercel.app", false),
            (
                "https://*.vercel.app",
                "https://b\u{fc}cher.vercel.app",
                false,
            ),
            ("https://*.vercel.app", "null", false),
            ("https://*.vercel.app", "", false),
            (
                "https://app-*-team.vercel.app",
                "https://app-git-main-team.vercel.app",
                true,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x-team.vercel.app",
                true,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app--team.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-team.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x.evil.com-team.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x.evil-team.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x-team.evil.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://evil-app-x-team.vercel.app",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x-team.vercel.app.evil.com",
                false,
            ),
            (
                "https://app-*-team.vercel.app",
                "https://app-x/-team.vercel.app",
                false,
            ),
            (
                "https://*-team.vercel.app",
                "https://xn--app-team.vercel.app",
                false,
            ),
            (
                "https://xn--*.example.com",
                "https://xn--bcher-kva.example.com",
                true,
            ),
            (
                "https://*--agent.netlify.app",
                "https://deploy-preview-7--agent.netlify.app",
                true,
            ),
            (
                "https://*--agent.netlify.app",
                "https://xn--agent.netlify.app",
                false,
            ),
            (
                "https://*.preview.example.com:8443",
                "https://x.preview.example.com:8443",
                true,
            ),
            (
                "https://*.preview.example.com:8443",
                "https://x.preview.example.com",
                false,
            ),
            (
                "https://*.preview.example.com:8443",
                "https://x.preview.example.com:84430",
                false,
            ),
            (
                "https://a-*.b-*.example.com",
                "https://a-1.b-2.example.com",
                true,
            ),
            (
                "https://a-*.b-*.example.com",
                "https://a-1.example.com",
                false,
            ),
            ("http://localhost:*", "http://localhost:3000", true),
            ("http://localhost:*", "http://localhost", true),
            ("http://localhost:*", "http://localhost:65535", true),
            ("http://localhost:*", "http://localhost:65536", false),
            ("http://localhost:*", "http://localhost:0", false),
            ("http://localhost:*", "http://localhost:*", false),
            ("http://localhost:*", "http://localhost:", false),
            ("http://localhost:*", "http://localhost:03000", false),
            ("http://localhost:*", "http://localhost:+80", false),
            ("http://localhost:*", "http://localhost:80@evil.com", false),
            ("http://localhost:*", "http://localhost:80.evil.com", false),
            ("http://localhost:*", "http://localhost.evil.com:80", false),
            ("http://localhost:*", "https://localhost:3000", false),
            ("http://localhost:*", "http://127.0.0.1:3000", false),
            ("http://127.0.0.1:*", "http://127.0.0.1:5173", true),
            (
                "http://127.0.0.1:*",
                "http://127.0.0.1.evil.com:5173",
                false,
            ),
            ("http://[::1]:*", "http://[::1]:5173", true),
            ("http://[::1]:*", "http://[::1]", true),
            ("http://[::1]:*", "http://[::2]:5173", false),
            ("http://*.localhost:*", "http://agent.localhost:8080", true),
            ("http://*.localhost:*", "http://localhost:8080", false),
        ] {
            let value = HeaderValue::from_bytes(origin.as_bytes()).expect("a value");
            assert_eq!(pattern(text).fits(&value), expected, "{text} and {origin}");
        }
    }

    #[test]
    fn a_short_end_is_not_one_operators_own() {
        for (text, expected) in [
            ("https://*.vercel.app", Some("vercel.app")),
            ("https://app-*-team.vercel.app", Some("vercel.app")),
            ("https://*.app", Some("app")),
            ("https://a-*.x.*.example.com", Some("example.com")),
            ("https://*.example.com", Some("example.com")),
            ("https://*.preview.example.com", None),
            ("https://*-agent.preview.example.com", None),
            ("http://*.localhost:3000", None),
            ("http://localhost:*", None),
        ] {
            assert_eq!(pattern(text).shared_end().as_deref(), expected, "{text}");
        }
    }
}
