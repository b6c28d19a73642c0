//! A token as people paste it: a header line, a quoted string, a piece of JSON or of a URL, in several
//! lines.

use serde_json::Value;

/// How deep JSON is looked into: an access token stands at the top, or in the headers of a request.
const MAX_DEPTH: usize = 4;

/// Members of JSON objects that hold a token, the best first.
const MEMBERS: [&str; 6] = [
    "access_token",
    "accessToken",
    "authorization",
    "token",
    "id_token",
    "idToken",
];

/// What surrounds a token in mail, code and shells.
const WRAPPING: [char; 12] = [
    '"', '\'', '`', ',', ';', '<', '>', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '\\',
];

/// The value that an `Authorization` header would have; `None` when nothing was pasted.
///
/// What is no wrapping stays as it is, so that a credential which the proxy cannot read is shown as
/// one which it cannot read.
#[must_use]
pub fn credential(pasted: &str) -> Option<String> {
    let text = pasted.trim_matches(is_blank);
    let text = match from_json(text) {
        Some(found) => found,
        None => header_value(text).to_owned(),
    };
    let text = one_line(&text);
    let text = unwrap(&text);
    // The header's name, when it came out of JSON or quotes.
    let text = unwrap(header_value(text));
    if text.is_empty() {
        return None;
    }
    let (scheme, rest) = text.split_once(is_blank).unwrap_or((text, ""));
    let rest = unwrap(rest);
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(format!("Bearer {rest}").trim_end().to_owned());
    }
    if !rest.is_empty() && is_scheme_name(scheme) {
        return Some(format!("{scheme} {rest}"));
    }
    Some(format!("Bearer {text}"))
}

/// A scheme of another kind than `Bearer`: a word of letters. A token has digits or dots.
fn is_scheme_name(text: &str) -> bool {
    text.len() <= 16
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
}

fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{feff}' | '\u{200b}' | '\0')
}

fn unwrap(text: &str) -> &str {
    text.trim_matches(|character| is_blank(character) || WRAPPING.contains(&character))
}

/// The token in a whole JSON document, or in a fragment of one such as `"access_token": "…",`.
fn from_json(text: &str) -> Option<String> {
    if let Ok(document) = serde_json::from_str::<Value>(text) {
        return in_value(&document, MAX_DEPTH);
    }
    let in_fragment = MEMBERS.iter().find_map(|member| {
        let (_, after) = text.split_once(&format!("\"{member}\""))?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let value = value.strip_prefix('"')?;
        Some(value.split('"').next().unwrap_or(value).to_owned())
    });
    in_fragment.or_else(|| from_form(text))
}

/// The token in a form, in the address that a log-in leads back to, or in a list of variables.
fn from_form(text: &str) -> Option<String> {
    const NAME: &str = "access_token=";
    // ASCII lower case keeps every place in the text.
    let place = text.to_ascii_lowercase().find(NAME)?;
    let value = text.get(place.saturating_add(NAME.len())..)?;
    let value = unwrap(value);
    let end = value.find(|c: char| c == '&' || c.is_whitespace() || WRAPPING.contains(&c));
    Some(value.get(..end.unwrap_or(value.len()))?.to_owned())
}

fn in_value(value: &Value, depth: usize) -> Option<String> {
    let deeper = depth.checked_sub(1)?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(members) => {
            let named = MEMBERS.iter().find_map(|name| {
                let (_, value) = members
                    .iter()
                    .find(|(member, _)| member.eq_ignore_ascii_case(name))?;
                value.as_str().map(str::to_owned)
            });
            let nested = || {
                members
                    .values()
                    .filter(|value| value.is_object() || value.is_array())
                    .find_map(|value| in_value(value, deeper))
            };
            named.or_else(nested)
        }
        Value::Array(items) => items
            .iter()
            .filter(|value| value.is_object())
            .find_map(|value| in_value(value, deeper)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// What follows `Authorization:`, up to the next header line; the text itself when it has none.
fn header_value(text: &str) -> &str {
    const NAME: &str = "authorization";
    // ASCII lower case keeps every place in the text.
    let Some(place) = text.to_ascii_lowercase().find(NAME) else {
        return text;
    };
    let after = text
        .get(place.saturating_add(NAME.len())..)
        .unwrap_or_default();
    let after = after.trim_start_matches(['"', '\'', ' ']);
    let Some(value) = after.strip_prefix([':', '=']) else {
        return text;
    };
    let mut end: usize = 0;
    for line in value.split_inclusive('\n') {
        if end > 0 && is_header_line(line) {
            break;
        }
        end = end.saturating_add(line.len());
    }
    let value = value.get(..end).unwrap_or(value);
    // The end of a quoted argument, as in `curl -H 'Authorization: …' https://…`.
    match value.find(['\'', '"']) {
        Some(end) if !unwrap(value.get(..end).unwrap_or_default()).is_empty() => {
            let inside = value.get(..end).unwrap_or(value);
            // `Bearer "…"`: the quotes are around the token.
            if unwrap(inside).eq_ignore_ascii_case("bearer") {
                value
            } else {
                inside
            }
        }
        _ => value,
    }
}

/// `Name: value`, with the mark of a verbose client before it or not.
fn is_header_line(line: &str) -> bool {
    let line = line.trim_start_matches(['>', '<', '*', ' ']);
    line.split_once(':').is_some_and(|(name, _)| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Lines were broken by a terminal or a mail program; within a line, spaces stay.
fn one_line(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.trim_matches(|character| is_blank(character) || character == '\\');
        // Behind the scheme, the line break stands for the space.
        if joined.eq_ignore_ascii_case("bearer") {
            joined.push(' ');
        }
        joined.push_str(line);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::credential;

    #[test]
    fn a_token_is_found_in_what_people_paste() {
        for pasted in [
            "aaaa.bbbb.cccc",
            "aaaa.bbbb.cccc\n",
            "  aaaa.bbbb.cccc\r\n\r\n",
            "\u{feff}aaaa.bbbb.cccc",
            "aaaa.bb\nbb.cccc",
            "aaaa.bb\r\n   bb.cc\r\n   cc\r\n",
            "\"aaaa.bbbb.cccc\"",
            "'aaaa.bbbb.cccc',",
            "`aaaa.bbbb.cccc`",
            "\u{201c}aaaa.bbbb.cccc\u{201d}",
            "Bearer aaaa.bbbb.cccc",
            "bearer   aaaa.bbbb.cccc",
            "Bearer\naaaa.bbbb.cccc",
            "Bearer \"aaaa.bbbb.cccc\"",
            "'Bearer aaaa.bbbb.cccc'",
            "Authorization: Bearer aaaa.bbbb.cccc",
            "authorization:Bearer aaaa.bbbb.cccc\r\n",
            "> Authorization: Bearer aaaa.bbbb.cccc\r\n> Accept: */*\r\n>",
            "> GET /api HTTP/1.1\n> Host: a.example\n> Authorization: Bearer aaaa.bbbb\n.cccc\n> Accept: */*",
            "Authorization: Bearer aaaa.bb\n bb.cccc\nAccept: x",
            "curl -H 'Authorization: Bearer aaaa.bbbb.cccc' https://a.example/api",
            "curl https://a.example/ \\\n  -H \"authorization: Bearer aaaa.bbbb.cccc\" \\\n  -H \"accept: x\"",
            "\"Authorization\": \"Bearer aaaa.bbbb.cccc\",",
            "Authorization=Bearer aaaa.bbbb.cccc",
            "Authorization: Bearer \"aaaa.bbbb.cccc\"",
            "\"access_token\": \"aaaa.bbbb.cccc\",",
            "\"access_token\":\"aaaa.bbbb.cccc\",\"expires_in\":86400",
            "https://app.example/#access_token=aaaa.bbbb.cccc&scope=openid&token_type=Bearer",
            "ACCESS_TOKEN='aaaa.bbbb.cccc'\nOTHER=1",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"access_token\":\"aaaa.bbbb.cccc\"}",
            r#"{"access_token":"aaaa.bbbb.cccc","id_token":"x.y.z","token_type":"Bearer"}"#,
            r#"{"id_token":"x.y.z","accessToken":"aaaa.bbbb.cccc"}"#,
            "{\n  \"data\": {\"access_token\": \"aaaa.bbbb.cccc\"}\n}",
            r#"{"headers":{"Authorization":"Bearer aaaa.bbbb.cccc"}}"#,
            r#"{"Authorization":"bearer aaaa.bbbb.cccc"}"#,
        ] {
            assert_eq!(
                credential(pasted).as_deref(),
                Some("Bearer aaaa.bbbb.cccc"),
                "{pasted:?}"
            );
        }
    }

    #[test]
    fn what_the_proxy_could_not_read_stays_so() {
        for (pasted, expected) in [
            ("Bearer", Some("Bearer")),
            ("Bearer a b", Some("Bearer a b")),
            ("Bearer Bearer a.b.c", Some("Bearer Bearer a.b.c")),
            ("a1.b.c d", Some("Bearer a1.b.c d")),
            ("Basic dXNlcjpwYXNz", Some("Basic dXNlcjpwYXNz")),
            ("Authorization: DPoP a.b.c", Some("DPoP a.b.c")),
            ("opaque0token", Some("Bearer opaque0token")),
            ("null", Some("Bearer null")),
            ("{}", Some("Bearer {}")),
            ("\"\"", None),
            ("", None),
            (" \r\n\t\n", None),
            ("Authorization:", None),
        ] {
            assert_eq!(credential(pasted).as_deref(), expected, "{pasted:?}");
        }
    }
}
