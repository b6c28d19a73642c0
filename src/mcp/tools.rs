//! The tools that an answer names, without those that the caller may not call.

use std::ops::Range;

use serde_json::Value;

use super::MAX_DEPTH;
use super::error::AnswerError;
use crate::jose;

/// Takes the tools out of `result.tools` of a JSON-RPC answer, or of each answer of a batch, that are not
/// permitted. What stays, stays byte for byte; `None` when everything does.
///
/// # Errors
///
/// [`AnswerError`] for what cannot be read with certainty.
pub fn filter_tools(
    text: &[u8],
    permitted: &dyn Fn(&str) -> bool,
) -> Result<Option<Vec<u8>>, AnswerError> {
    let value = jose::parse_value(text, MAX_DEPTH).map_err(AnswerError::NotJson)?;
    let mut edits = Vec::new();
    let mut scan = Scan { text, at: 0 };
    let messages = match &value {
        Value::Array(items) => {
            let spans = scan.items().ok_or(UNSCANNED)?;
            spans.into_iter().zip(items).collect()
        }
        other => vec![(0..text.len(), other)],
    };
    for (span, message) in messages {
        edits.extend(edit_of_message(text, span, message, permitted)?);
    }
    if edits.is_empty() {
        return Ok(None);
    }
    let mut kept = Vec::with_capacity(text.len());
    let mut copied = 0;
    for (span, list) in edits {
        kept.extend_from_slice(text.get(copied..span.start).ok_or(UNSCANNED)?);
        kept.extend_from_slice(&list);
        copied = span.end;
    }
    kept.extend_from_slice(text.get(copied..).ok_or(UNSCANNED)?);
    Ok(Some(kept))
}

/// The text was parsed already, so this is only for what the scanner would have overlooked.
const UNSCANNED: AnswerError = AnswerError::NotTools("a list of tools that cannot be found");

/// A place in a text, and what stands there afterwards.
type Edit = (Range<usize>, Vec<u8>);

/// The list of one message, and what takes its place; `None` when it stays.
fn edit_of_message(
    text: &[u8],
    span: Range<usize>,
    message: &Value,
    permitted: &dyn Fn(&str) -> bool,
) -> Result<Option<Edit>, AnswerError> {
    let Some(tools) = message.get("result").and_then(|result| result.get("tools")) else {
        return Ok(None);
    };
    let Value::Array(tools) = tools else {
        return Err(AnswerError::NotTools("a list of tools that is no array"));
    };
    let may_call = |tool: &Value| {
        tool.get("name")
            .and_then(Value::as_str)
            .is_some_and(permitted)
    };
    let verdicts: Vec<bool> = tools.iter().map(may_call).collect();
    if !verdicts.contains(&false) {
        return Ok(None);
    }
    let list = Scan::of(text, span)
        .member("result")
        .and_then(|result| Scan::of(text, result).member("tools"))
        .ok_or(UNSCANNED)?;
    let items = Scan::of(text, list.clone()).items().ok_or(UNSCANNED)?;
    if items.len() != verdicts.len() {
        return Err(UNSCANNED);
    }
    let mut kept = vec![b'['];
    for (item, _) in items.into_iter().zip(verdicts).filter(|(_, keep)| *keep) {
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend_from_slice(text.get(item).ok_or(UNSCANNED)?);
    }
    kept.push(b']');
    Ok(Some((list, kept)))
}

/// Finds values in a text that is known to be JSON.
struct Scan<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scan<'t> {
    const fn of(text: &'t [u8], span: Range<usize>) -> Self {
        Self {
            text,
            at: span.start,
        }
    }

    /// The places of an array's items.
    fn items(&mut self) -> Option<Vec<Range<usize>>> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        if self.peek()? == b']' {
            return Some(items);
        }
        loop {
            items.push(self.value()?);
            match self.peek()? {
                b',' => self.step(),
                b']' => return Some(items),
                _ => return None,
            }
        }
    }

    /// The place of an object's member. Duplicates were refused.
    fn member(&mut self, name: &str) -> Option<Range<usize>> {
        self.expect(b'{')?;
        loop {
            self.peek()?;
            let key = self.value()?;
            let key: String = serde_json::from_slice(self.text.get(key)?).ok()?;
            self.expect(b':')?;
            self.peek()?;
            let value = self.value()?;
            if key == name {
                return Some(value);
            }
            self.expect(b',')?;
        }
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.step();
        }
        None
    }

    const fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.step();
        found.then_some(())
    }

    /// Passes a value over.
    fn value(&mut self) -> Option<Range<usize>> {
        self.peek()?;
        let start = self.at;
        let mut depth: usize = 0;
        loop {
            match self.text.get(self.at)? {
                b'"' => self.string()?,
                b'[' | b'{' => {
                    depth = depth.saturating_add(1);
                    self.step();
                }
                b']' | b'}' => {
                    depth = depth.checked_sub(1)?;
                    self.step();
                }
                _ => self.step(),
            }
            let ends = match self.text.get(self.at) {
                None => true,
                Some(next) => matches!(
                    next,
                    b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'
                ),
            };
            if depth == 0 && ends {
                return Some(start..self.at);
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        self.step();
        loop {
            let byte = *self.text.get(self.at)?;
            self.step();
            match byte {
                b'"' => return Some(()),
                b'\\' => self.step(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::filter_tools;

    fn filtered(text: &str) -> Result<Option<String>, String> {
        filter_tools(text.as_bytes(), &|name| !name.starts_with("delete"))
            .map(|kept| kept.map(|kept| String::from_utf8(kept).expect("UTF-8")))
            .map_err(|error| error.to_string())
    }

    #[test]
    #[rustfmt::skip]
    fn what_may_not_be_called_is_taken_out() {
        for (text, expected) in [
            (r#"{"result":{"tools":[{"name":"a"},{"name":"delete"},{"name":"b"}],"nextCursor":"x"}}"#,
                r#"{"result":{"tools":[{"name":"a"},{"name":"b"}],"nextCursor":"x"}}"#),
            (r#"{"result":{"tools":[{"name":"delete"}]}}"#, r#"{"result":{"tools":[]}}"#),
            // Whatever stays, stays as it was written.
            ("{\"z\":1.50,\"result\" : { \"tools\" : [ {\"name\":\"b\", \"x\":\"]},\\\"\"} ,\n{\"name\":\"\\u0064elete\"}\t] , \"a\":1e3 } }",
                "{\"z\":1.50,\"result\" : { \"tools\" : [{\"name\":\"b\", \"x\":\"]},\\\"\"}] , \"a\":1e3 } }"),
            (r#"{"r\u0065sult":{"\u0074ools":[{"name":"delete"},{"name":"a"}]}}"#,
                r#"{"r\u0065sult":{"\u0074ools":[{"name":"a"}]}}"#),
            (r#"{"x":{"result":{"tools":[{"name":"delete"}]}},"result":{"x":[{}],"tools":[{"name":"delete"},{"name":"a"}]}}"#,
                r#"{"x":{"result":{"tools":[{"name":"delete"}]}},"result":{"x":[{}],"tools":[{"name":"a"}]}}"#),
            (r#"[{"result":{"tools":[{"name":"delete"}]}}, {"result":{"tools":[{"name":"a"},{"name":"delete"}]}}]"#,
                r#"[{"result":{"tools":[]}}, {"result":{"tools":[{"name":"a"}]}}]"#),
            // What has no name can be called by nobody.
            (r#"{"result":{"tools":[{"title":"a"},{"name":1},null,[],{"name":"a"}]}}"#, r#"{"result":{"tools":[{"name":"a"}]}}"#),
        ] {
            assert_eq!(filtered(text), Ok(Some(expected.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_needs_no_change_gets_none() {
        for text in [
            r#"{"result":{"tools":[{"name":"a"}]}}"#,
            r#"{"result":{"tools":[]}}"#,
            r#"{"result":{}}"#,
            r#"{"result":[{"name":"delete"}]}"#,
            r#"{"tools":[{"name":"delete"}]}"#,
            r#"{"error":{"code":1,"message":"no"}}"#,
            "[]",
            "[1,{}]",
            "null",
        ] {
            assert_eq!(filtered(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_refused() {
        for text in [
            "",
            "tools",
            r#"{"result":{"tools":[{"name":"a"}]}"#,
            r#"{"result":{"tools":[{"name":"a"}],"tools":[]}}"#,
            r#"{"result":{},"result":{"tools":[]}}"#,
            r#"{"result":{"tools":[{"name":"a","name":"delete"}]}}"#,
            r#"{"result":{"tools":{"name":"delete"}}}"#,
            r#"{"result":{"tools":"delete"}}"#,
            r#"{"result":{"tools":null}}"#,
            "{\"result\":{\"tools\":[{\"name\":\"\\ud800\"}]}}",
            "\u{feff}{}",
            "{}{}",
        ] {
            assert!(filtered(text).is_err(), "{text}");
        }
    }
}
