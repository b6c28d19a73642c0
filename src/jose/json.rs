//! JSON objects from strangers: duplicate members and deep nesting are refused.
//!
//! RFC 7515 §4 and RFC 7519 §4 let a parser refuse duplicates or keep the last one. Two programs
//! that choose differently read two different tokens, so they are refused here, at every depth. A token is
//! short, so it is built; for what may be long see [`check`](super::check).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deeply arrays and objects of a token may nest. Auth0 nests `act` five deep; recursion must end
/// somewhere.
const MAX_DEPTH: u8 = 32;

/// Why bytes are not an acceptable JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError(String);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JsonError {}

impl JsonError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// Parses UTF-8 JSON bytes that must be one object, with no duplicate member names anywhere.
///
/// # Errors
///
/// [`JsonError`] says what is wrong: syntax, a duplicate, too deep, or not an object.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(JsonError::new("not a JSON object"))
        }
    }
}

/// Deserializes any JSON value, refusing what [`parse_object`] refuses.
#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_add(1) {
            Some(depth) if depth <= MAX_DEPTH => Ok(Self { depth }),
            _ => Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate member {name:?}")));
            }
            let value = members.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, parse_object};

    #[test]
    fn an_object_is_read_whole() {
        let object = parse_object(br#"{"s":"x","n":-1,"f":1.5,"b":true,"z":null,"a":[{"k":1}]}"#)
            .expect("valid JSON");
        assert_eq!(
            serde_json::Value::Object(object),
            serde_json::json!({"s":"x","n":-1,"f":1.5,"b":true,"z":null,"a":[{"k":1}]})
        );
    }

    #[test]
    fn hostile_documents_are_refused() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let deepest = usize::from(MAX_DEPTH) - 1;
        assert!(parse_object(nested(deepest).as_bytes()).is_ok());
        let too_deep = nested(deepest + 1);
        let far_too_deep = nested(100_000);
        for (document, why) in [
            (&br#"{"alg":"RS256","alg":"none"}"#[..], "duplicate member"),
            (br#"{"a":{"b":1,"b":1}}"#, "duplicate member inside"),
            (br#"{"a":1,"\u0061":2}"#, "duplicate after unescaping"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (b"[]", "array"),
            (b"\"text\"", "string"),
            (b"{} {}", "two documents"),
            (b"{}\0", "trailing NUL"),
            (b"", "nothing"),
            (br#"{"a":1e400}"#, "number out of range"),
            (br#"{"a":NaN}"#, "NaN"),
            (br#"{"a":01}"#, "leading zero"),
            (br#"{"a":"\ud800"}"#, "lone surrogate"),
            (b"{\"a\":\"\xff\"}", "not UTF-8"),
            (b"{\0\"\0a\0\"\0:\x001\0}\0", "UTF-16"),
            (br#"{"a":1,}"#, "trailing comma"),
            (too_deep.as_bytes(), "one level too deep"),
            (far_too_deep.as_bytes(), "far too deep"),
        ] {
            assert!(parse_object(document).is_err(), "{why}");
        }
    }
}
