//! The tools that an answer names, without those that the caller may not call.

use std::ops::Range;

use super::MAX_DEPTH;
use super::error::AnswerError;
use crate::jose::{self, Cursor, JsonError};

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
    let mut document = jose::check(text, MAX_DEPTH)?;
    let mut edited = Edited::of(text);
    if !document.items(|message| filter_message(message, permitted, &mut edited))? {
        filter_message(&mut document, permitted, &mut edited)?;
    }
    edited.finish()
}

fn filter_message(
    message: &mut Cursor<'_>,
    permitted: &dyn Fn(&str) -> bool,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    message.members(|name, value| match name {
        "result" => filter_result(value, permitted, edited),
        _ => Ok(()),
    })?;
    Ok(())
}

fn filter_result(
    result: &mut Cursor<'_>,
    permitted: &dyn Fn(&str) -> bool,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    result.members(|name, value| match name {
        "tools" => filter_list(value, permitted, edited),
        _ => Ok(()),
    })?;
    Ok(())
}

fn filter_list(
    tools: &mut Cursor<'_>,
    permitted: &dyn Fn(&str) -> bool,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    let before = edited.mark();
    let start = tools.start();
    edited.replace(start..start, b"[")?;
    let (mut is_first, mut is_whole) = (true, true);
    let is_list = tools.items(|tool| {
        let start = tool.start();
        if may_be_called(tool, permitted)? {
            edited.keep(start..tool.end(), is_first)?;
            is_first = false;
        } else {
            is_whole = false;
        }
        Ok::<_, AnswerError>(())
    })?;
    if !is_list {
        return Err(AnswerError::NotTools("a list of tools that is no array"));
    }
    if is_whole {
        edited.back_to(before);
        return Ok(());
    }
    edited.skip_to(tools.end());
    edited.replace(tools.end()..tools.end(), b"]")
}

/// Takes a tool. What has no name cannot be called.
fn may_be_called(
    tool: &mut Cursor<'_>,
    permitted: &dyn Fn(&str) -> bool,
) -> Result<bool, JsonError> {
    let mut may = false;
    let is_object = tool.members(|name, value| {
        if name == "name" {
            may = value.text()?.is_some_and(|name| permitted(&name));
        }
        Ok::<_, JsonError>(())
    })?;
    if !is_object {
        tool.skip()?;
    }
    Ok(may)
}

/// A text on its way to another one. Edits come in the order of their places.
struct Edited<'t> {
    text: &'t [u8],
    /// How much of it is in `out`, or replaced.
    copied: usize,
    out: Vec<u8>,
    has_changed: bool,
}

/// A state of an [`Edited`].
#[derive(Clone, Copy)]
struct Mark {
    copied: usize,
    length: usize,
    has_changed: bool,
}

/// The cursor tells places in their order, so this is only for one that does not.
const UNORDERED: AnswerError = AnswerError::NotTools("a list of tools that cannot be found");

impl<'t> Edited<'t> {
    const fn of(text: &'t [u8]) -> Self {
        Self {
            text,
            copied: 0,
            out: Vec::new(),
            has_changed: false,
        }
    }

    /// Puts other bytes into this place.
    fn replace(&mut self, place: Range<usize>, with: &[u8]) -> Result<(), AnswerError> {
        let between = self.text.get(self.copied..place.start).ok_or(UNORDERED)?;
        self.out.extend_from_slice(between);
        self.out.extend_from_slice(with);
        self.copied = place.end;
        self.has_changed = true;
        Ok(())
    }

    /// Keeps an item of a list of which others may go, and nothing between them.
    fn keep(&mut self, item: Range<usize>, is_first: bool) -> Result<(), AnswerError> {
        if !is_first {
            self.out.push(b',');
        }
        self.out
            .extend_from_slice(self.text.get(item).ok_or(UNORDERED)?);
        Ok(())
    }

    fn skip_to(&mut self, place: usize) {
        self.copied = place;
    }

    fn mark(&self) -> Mark {
        Mark {
            copied: self.copied,
            length: self.out.len(),
            has_changed: self.has_changed,
        }
    }

    fn back_to(&mut self, mark: Mark) {
        self.copied = mark.copied;
        self.out.truncate(mark.length);
        self.has_changed = mark.has_changed;
    }

    fn finish(mut self) -> Result<Option<Vec<u8>>, AnswerError> {
        if !self.has_changed {
            return Ok(None);
        }
        let rest = self.text.get(self.copied..).ok_or(UNORDERED)?;
        self.out.extend_from_slice(rest);
        Ok(Some(self.out))
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
