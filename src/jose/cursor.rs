//! A way through JSON that was checked.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::slice::Iter;

use serde_json::Number;

use super::json::JsonError;

/// A place before a value of a text that [`check`](super::check) has let pass. Values are taken one after
/// the other, without a copy; whatever is not taken is passed over.
pub struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Takes an object: `each` is told the name of every member, and may take its value. `false` when the
    /// value is no object, which is not taken then.
    ///
    /// # Errors
    ///
    /// What `each` returns; and [`JsonError`] if the text is not what was checked.
    pub fn members<E: From<JsonError>>(
        &mut self,
        mut each: impl FnMut(&str, &mut Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.list(b'{', b'}', |cursor| {
            let name = cursor.text()?.ok_or_else(lost)?;
            cursor.expect(b':')?;
            cursor.value(|value| each(&name, value))
        })
    }

    /// Takes an array: `each` may take every item. `false` when the value is no array, which is not taken
    /// then.
    ///
    /// # Errors
    ///
    /// What `each` returns; and [`JsonError`] if the text is not what was checked.
    pub fn items<E: From<JsonError>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.list(b'[', b']', |cursor| cursor.value(&mut each))
    }

    /// Takes a text, unescaped. `None` when the value is none, which is not taken then.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if the text is not what was checked.
    pub fn text(&mut self) -> Result<Option<Cow<'t, str>>, JsonError> {
        if self.peek() != Some(b'"') {
            return Ok(None);
        }
        let span = self.skip()?;
        let quoted = self.text.get(span).ok_or_else(lost)?;
        if quoted.contains('\\') {
            return Ok(Some(Cow::Owned(serde_json::from_str(quoted)?)));
        }
        let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
        inner
            .map(|inner| Some(Cow::Borrowed(inner)))
            .ok_or_else(lost)
    }

    /// Takes a number. `None` when the value is none, which is not taken then.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if the text is not what was checked.
    pub fn number(&mut self) -> Result<Option<Number>, JsonError> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => {
                let span = self.skip()?;
                let number = self.text.get(span).ok_or_else(lost)?;
                Ok(Some(serde_json::from_str(number)?))
            }
            _ => Ok(None),
        }
    }

    /// Takes any value, and says where in the text it stands.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if the text is not what was checked.
    pub fn skip(&mut self) -> Result<Range<usize>, JsonError> {
        let first = self.peek().ok_or_else(lost)?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut rest = bytes.get(start..).unwrap_or_default().iter();
        match first {
            b'"' | b'[' | b'{' => pass_over(&mut rest).ok_or_else(lost)?,
            _ => rest = from_end_of_word(&rest),
        }
        self.at = bytes.len().saturating_sub(rest.len());
        Ok(start..self.at)
    }

    /// Where the next value begins.
    pub fn start(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// Where the value that was taken last has ended.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.at
    }

    fn list<E: From<JsonError>>(
        &mut self,
        begin: u8,
        end: u8,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        if self.peek() != Some(begin) {
            return Ok(false);
        }
        self.step();
        if self.peek() == Some(end) {
            self.step();
            return Ok(true);
        }
        loop {
            each(self)?;
            let after = self.peek();
            self.step();
            match after {
                Some(b',') => {}
                Some(byte) if byte == end => return Ok(true),
                _ => return Err(lost().into()),
            }
        }
    }

    fn value<E: From<JsonError>>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.start();
        each(self)?;
        if self.at == start {
            self.skip()?;
        }
        Ok(())
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.step();
        }
        self.byte()
    }

    const fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        let found = self.peek();
        self.step();
        (found == Some(byte)).then_some(()).ok_or_else(lost)
    }
}

/// Shows the place and not the text, which holds what a client has sent.
impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Cursor");
        shown.field("at", &self.at).finish_non_exhaustive()
    }
}

/// Passes a text, an array or an object over.
fn pass_over(rest: &mut Iter<'_, u8>) -> Option<()> {
    let mut depth: usize = 0;
    loop {
        match rest.next()? {
            b'"' => pass_over_text(rest)?,
            b'[' | b'{' => depth = depth.saturating_add(1),
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return Some(());
        }
    }
}

/// Passes the rest of a text over.
fn pass_over_text(rest: &mut Iter<'_, u8>) -> Option<()> {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
    // A test of all bytes of a piece is one that compilers make vector instructions of.
    let is_plain = |piece: &[u8; 32]| !piece.iter().fold(false, |any, one| any | is_special(one));
    loop {
        while rest.as_slice().first_chunk().is_some_and(is_plain) {
            rest.nth(31)?;
        }
        match rest.find(|byte| is_special(byte))? {
            b'"' => return Some(()),
            _ => rest.next()?,
        };
    }
}

/// What stands behind a number, `true`, `false` or `null`.
fn from_end_of_word<'t>(rest: &Iter<'t, u8>) -> Iter<'t, u8> {
    let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
    let bytes = rest.as_slice();
    let length = bytes.iter().position(ends).unwrap_or(bytes.len());
    bytes.get(length..).unwrap_or_default().iter()
}

/// For what cannot be: the text was checked before.
fn lost() -> JsonError {
    JsonError::new("not the JSON that was checked")
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::{Cursor, JsonError};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    /// The whole value, built.
    fn built(cursor: &mut Cursor<'_>) -> Value {
        let start = cursor.start();
        if let Some(text) = cursor.text().expect("sound") {
            return Value::String(text.into_owned());
        }
        if let Some(number) = cursor.number().expect("sound") {
            return Value::Number(number);
        }
        let mut items = Vec::new();
        let take = |item: &mut Cursor<'_>| {
            items.push(built(item));
            Ok::<_, JsonError>(())
        };
        if cursor.items(take).expect("sound") {
            return Value::Array(items);
        }
        let mut object = Map::new();
        let take = |name: &str, value: &mut Cursor<'_>| {
            object.insert(name.to_owned(), built(value));
            Ok::<_, JsonError>(())
        };
        if cursor.members(take).expect("sound") {
            return Value::Object(object);
        }
        assert_eq!(cursor.start(), start, "what is not taken stays");
        let word = cursor.skip().expect("sound");
        serde_json::from_str(&cursor.text[word]).expect("a word")
    }

    fn built_of(text: &str) -> Value {
        let mut cursor = check(text.as_bytes(), 100).expect("sound");
        let value = built(&mut cursor);
        assert_eq!(cursor.end(), text.trim_end().len());
        value
    }

    #[test]
    fn everything_is_found() {
        let long = format!(
            r#"{{"a":"{}\"{}","b":[1]}}"#,
            "x".repeat(100),
            "\\\\".repeat(33)
        );
        for text in [
            " [ ] ",
            "{}",
            r#" { "a" : [ 1 , -2.5e3 , "x" , null , true , false , { } , [ ] ] , "b" : "" } "#,
            r#"{"\u0061\"\\":"\ud83d\ude00","]}":"]}\",[{"}"#,
            r#"["\\","\"","\\\"","ä"]"#,
            "0",
            "\"\"",
            &long,
        ] {
            let expected: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(built_of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_taken_is_passed_over() {
        let text = r#"{"a":{"x":[1,"]"]},"b":"}","c":1,"d":null,"e":[{}],"f":"last"} "#;
        let mut cursor = check(text.as_bytes(), 10).expect("sound");
        let mut found = Vec::new();
        let is_object = cursor.members(|name, value| {
            found.push((name.to_owned(), value.start()));
            if name == "f" {
                assert_eq!(value.text()?.as_deref(), Some("last"));
            }
            Ok::<_, JsonError>(())
        });
        assert_eq!(is_object, Ok(true));
        let places: Vec<&str> = found.iter().map(|(_, at)| &text[*at..=*at]).collect();
        assert_eq!(places, ["{", "\"", "1", "n", "[", "\""]);
        assert_eq!(cursor.end(), text.len() - 1);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e6..1e6f64).prop_map(|number| json!(number)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..12)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_found(document in documents()) {
            let plain = document.to_string();
            prop_assert_eq!(&built_of(&plain), &document);
            let pretty = serde_json::to_string_pretty(&document).expect("JSON");
            prop_assert_eq!(&built_of(&pretty), &document);
        }
    }
}
