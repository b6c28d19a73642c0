//! Whose session an `Mcp-Session-Id` is: the server's id with a seal on it, made for one principal.
//!
//! Nothing is remembered, so that every replica with the key can check it, and a restart changes nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use super::error::AnswerError;
use super::fields::{Revision, revision};
use crate::headers::ManagedNames;
use crate::secret::Secret;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The longest id of a server's. They are UUIDs, hashes or small JWTs.
const MAX_ID_BYTES: usize = 2048;

/// As many bytes as HMAC-SHA256 puts out: a shorter key would be the weaker part.
const MIN_KEY_BYTES: usize = 32;

/// How many keys there may be: one that signs, and those before it while their sessions last.
const MAX_KEYS: usize = 8;

/// Says what a seal is for, so that nothing else that is made with the same key is one.
const PURPOSE: &[u8] = b"authgate mcp session 1";

/// The keys of the seals. The first one seals; all of them verify.
#[derive(Clone)]
pub struct SessionKeys(Vec<hmac::Key>);

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKeys({})", self.0.len())
    }
}

/// Why a text holds no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// There is none in it.
    Empty,
    /// One is short.
    Short,
    /// There are more than anybody needs.
    Many,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "holds no key",
            Self::Short => {
                "holds a key of less than 32 characters; make one with \"openssl rand -base64 48\""
            }
            Self::Many => "holds more than 8 keys",
        })
    }
}

impl std::error::Error for KeyError {}

/// Who has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal<'t> {
    /// `iss`
    pub issuer: &'t str,
    /// `sub`
    pub subject: &'t str,
    /// `azp`, or else `client_id`
    pub client: Option<&'t str>,
}

/// The id is none that this principal was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownSession;

impl SessionKeys {
    /// Reads keys that stand between white space, or commas.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when they are none, short, or too many.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys: Vec<&str> = text
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|key| !key.is_empty())
            .collect();
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        if keys.len() > MAX_KEYS {
            return Err(KeyError::Many);
        }
        if keys.iter().any(|key| key.len() < MIN_KEY_BYTES) {
            return Err(KeyError::Short);
        }
        let key = |key: &&str| hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        Ok(Self(keys.iter().map(key).collect()))
    }

    /// The id as this principal may know it; `None` for one that no server should make.
    fn seal(&self, principal: Option<Principal<'_>>, id: &[u8]) -> Option<String> {
        let id = sound(id)?;
        let tag = hmac::sign(self.0.first()?, &sealed(principal, id));
        Some(format!("{id}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    /// The server's id, if this one was made for this principal. Compares in constant time.
    fn open<'v>(&self, principal: Option<Principal<'_>>, value: &'v [u8]) -> Option<&'v str> {
        let (id, tag) = std::str::from_utf8(value).ok()?.rsplit_once('.')?;
        let id = sound(id.as_bytes())?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let text = sealed(principal, id);
        let fits = |key: &hmac::Key| hmac::verify(key, &text, &tag).is_ok();
        self.0.iter().any(fits).then_some(id)
    }
}

/// Visible ASCII, of a bounded length.
fn sound(id: &[u8]) -> Option<&str> {
    let is_sound =
        !id.is_empty() && id.len() <= MAX_ID_BYTES && id.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(id).ok().filter(|_| is_sound)
}

/// What a seal is over. Every part has its length before it, so that no two lists read alike.
fn sealed(principal: Option<Principal<'_>>, id: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let mut add = |part: Option<&str>| match part {
        None => text.push(0),
        Some(part) => {
            text.push(1);
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            text.extend_from_slice(&length.to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
    };
    add(principal.map(|principal| principal.issuer));
    add(principal.map(|principal| principal.subject));
    add(principal.and_then(|principal| principal.client));
    add(Some(id));
    [PURPOSE, &text].concat()
}

/// Checks the session of a request, and gives the server's own id back to it. Where sessions are no more,
/// the id goes: no server should look at it, and nobody has checked it.
///
/// # Errors
///
/// [`UnknownSession`] for an id that this principal was never given.
pub fn bind_request(
    keys: &SessionKeys,
    headers: &HeaderMap,
    principal: Option<Principal<'_>>,
) -> Result<BoundSession, UnknownSession> {
    let alike: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ManagedNames::alike(name, &SESSION_ID))
        .cloned()
        .collect();
    if alike.is_empty() {
        return Ok(BoundSession::default());
    }
    let is_over = revision(headers) == Ok(Revision::Mirrored);
    let mut values = headers.get_all(SESSION_ID).iter();
    let id = match (values.next(), values.next()) {
        _ if is_over => None,
        (Some(value), None) if alike.len() == 1 => {
            let id = keys.open(principal, value.as_bytes());
            Some(
                id.and_then(|id| HeaderValue::try_from(id).ok())
                    .ok_or(UnknownSession)?,
            )
        }
        _ => return Err(UnknownSession),
    };
    let id = id.map(Secret::new);
    Ok(BoundSession { alike, id })
}

/// What becomes of the session id of a request.
#[derive(Debug, Clone, Default)]
pub struct BoundSession {
    /// The client's fields.
    alike: Vec<HeaderName>,
    /// The server's own id.
    id: Option<Secret<HeaderValue>>,
}

impl BoundSession {
    /// Puts the server's own id in the place of the client's.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.alike {
            headers.remove(name);
        }
        if let Some(id) = &self.id {
            headers.insert(SESSION_ID, id.expose().clone());
        }
    }
}

/// Seals the session of an answer.
///
/// # Errors
///
/// [`AnswerError::Session`] for one that cannot be sealed.
pub fn bind_answer(
    keys: &SessionKeys,
    headers: &mut HeaderMap,
    principal: Option<Principal<'_>>,
) -> Result<(), AnswerError> {
    let mut values = headers.get_all(SESSION_ID).iter();
    let Some(value) = values.next() else {
        return Ok(());
    };
    let sealed = keys
        .seal(principal, value.as_bytes())
        .filter(|_| values.next().is_none())
        .and_then(|sealed| HeaderValue::try_from(sealed).ok())
        .ok_or(AnswerError::Session)?;
    headers.insert(SESSION_ID, sealed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::headers_of as headers;
    use super::{
        KeyError, MAX_ID_BYTES, Principal, SessionKeys, UnknownSession, bind_answer, bind_request,
    };
    use http::header::HeaderMap;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn keys(text: &str) -> SessionKeys {
        SessionKeys::parse(text).expect("keys")
    }

    const ALICE: Option<Principal<'static>> = Some(Principal {
        issuer: "https://a/",
        subject: "alice",
        client: Some("app"),
    });

    /// What a client gets for the server's `id`.
    fn given(keys: &SessionKeys, who: Option<Principal<'_>>, id: &str) -> String {
        let mut answer = headers(&[("mcp-session-id", id)]);
        bind_answer(keys, &mut answer, who).expect(id);
        answer["mcp-session-id"].to_str().expect("text").to_owned()
    }

    /// What the server gets of what the client sends.
    fn taken(
        keys: &SessionKeys,
        who: Option<Principal<'_>>,
        lines: &[(&str, &str)],
    ) -> Result<HeaderMap, UnknownSession> {
        let mut request = headers(lines);
        bind_request(keys, &request, who).map(|session| {
            session.apply(&mut request);
            request
        })
    }

    #[test]
    fn a_session_is_for_one_principal() {
        let keys = keys(KEY);
        for id in [
            "a",
            "1868a90c-7e8e-4a7c",
            "a.b.c",
            "x~!\"%",
            &"x".repeat(MAX_ID_BYTES),
        ] {
            let sealed = given(&keys, ALICE, id);
            let request = taken(&keys, ALICE, &[("mcp-session-id", &sealed)]).expect(id);
            assert_eq!(request["mcp-session-id"], id);
            assert_eq!(request.len(), 1);
            let someone = |issuer, subject, client| {
                Some(Principal {
                    issuer,
                    subject,
                    client,
                })
            };
            for other in [
                None,
                someone("https://a/", "bob", Some("app")),
                someone("https://b/", "alice", Some("app")),
                someone("https://a/", "alice", None),
                someone("https://a/", "alice", Some("other")),
                someone("https://a/", "alice", Some("")),
                // The same letters, divided in another way.
                someone("https://a/a", "lice", Some("app")),
                someone("https://a/", "aliceapp", None),
            ] {
                assert_eq!(
                    taken(&keys, other, &[("mcp-session-id", &sealed)]),
                    Err(UnknownSession),
                    "{other:?}"
                );
            }
        }
        let open = given(&keys, None, "a");
        assert!(taken(&keys, None, &[("mcp-session-id", &open)]).is_ok());
        assert!(taken(&keys, ALICE, &[("mcp-session-id", &open)]).is_err());
    }

    #[test]
    fn nobody_makes_a_session() {
        let keys = keys(KEY);
        let sealed = given(&keys, ALICE, "abc");
        let (_, tag) = sealed.rsplit_once('.').expect("a seal");
        let flipped = format!(
            "abc.{}{}",
            if tag.starts_with('A') { "B" } else { "A" },
            &tag[1..]
        );
        let last = format!(
            "{}{}",
            &sealed[..sealed.len() - 1],
            if sealed.ends_with('A') { "B" } else { "A" }
        );
        for forged in [
            "",
            "abc",
            "abc.",
            ".",
            &format!(".{tag}"),
            &format!("abd.{tag}"),
            &format!("abc..{tag}"),
            &format!("{sealed}="),
            &format!("{sealed}."),
            &format!("{sealed} x"),
            &flipped,
            &last,
            &sealed[..sealed.len() - 4],
            &format!("{sealed}AAAA"),
            &format!("{sealed}.{tag}"),
            &sealed.to_ascii_uppercase(),
            &given(&self::keys(OTHER), ALICE, "abc"),
            "abc.ä",
        ] {
            assert_eq!(
                taken(&keys, ALICE, &[("mcp-session-id", forged)]),
                Err(UnknownSession),
                "{forged:?}"
            );
        }
        let good = ("mcp-session-id", sealed.as_str());
        for lines in [
            &[good, good][..],
            &[good, ("mcp_session_id", "abc")],
            &[("mcp_session_id", "abc")],
            &[("mcp_session_id", &sealed)],
            &[("mcp.session.id", "abc"), good],
        ] {
            assert_eq!(taken(&keys, ALICE, lines), Err(UnknownSession), "{lines:?}");
        }
    }

    #[test]
    fn where_sessions_are_no_more_the_id_goes() {
        let keys = keys(KEY);
        let new = ("mcp-protocol-version", "2026-07-28");
        for id in [("mcp-session-id", "abc"), ("mcp_session_id", "abc")] {
            let request = taken(&keys, ALICE, &[new, id]).expect("a request");
            assert_eq!(request.len(), 1, "{id:?}");
        }
        for other in ["2025-11-25", "next"] {
            let lines = [("mcp-protocol-version", other), ("mcp-session-id", "abc")];
            assert!(taken(&keys, ALICE, &lines).is_err(), "{other}");
        }
        assert!(taken(&keys, ALICE, &[new, new, ("mcp-session-id", "abc")]).is_err());
        assert_eq!(taken(&keys, ALICE, &[]), Ok(HeaderMap::new()));
    }

    #[test]
    fn keys_can_be_rotated() {
        let sealed = given(&keys(KEY), ALICE, "abc");
        let line = [("mcp-session-id", sealed.as_str())];
        assert!(taken(&keys(&format!("{OTHER}\n{KEY}\n")), ALICE, &line).is_ok());
        assert!(taken(&keys(OTHER), ALICE, &line).is_err());
        assert_eq!(
            given(&keys(&format!("{KEY},{OTHER}")), ALICE, "abc"),
            sealed
        );
        for (text, error) in [
            ("", KeyError::Empty),
            (" \n,", KeyError::Empty),
            ("short", KeyError::Short),
            (&format!("{KEY} short"), KeyError::Short),
            (&KEY[1..], KeyError::Short),
            (&format!("{KEY}\n").repeat(9), KeyError::Many),
        ] {
            assert_eq!(SessionKeys::parse(text).err(), Some(error), "{text:?}");
        }
        let shown = format!("{:?}", keys(KEY));
        assert!(!shown.contains("0123"), "{shown}");
    }

    #[test]
    fn an_id_that_cannot_be_sealed_is_refused() {
        let keys = keys(KEY);
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for id in ["", "a b", "ä", &long] {
            let mut answer = headers(&[("mcp-session-id", id)]);
            assert!(bind_answer(&keys, &mut answer, ALICE).is_err(), "{id:?}");
        }
        let mut twice = headers(&[("mcp-session-id", "a"), ("mcp-session-id", "a")]);
        assert!(bind_answer(&keys, &mut twice, ALICE).is_err());
        assert_eq!(bind_answer(&keys, &mut HeaderMap::new(), ALICE), Ok(()));
    }
}
