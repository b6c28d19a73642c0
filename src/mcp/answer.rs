//! What the caller of an answer may learn from it: the tools that it may call, and nothing that it may keep
//! for others, or for longer than its token lives.

use std::ops::Range;
use std::time::Duration;

use serde_json::Number;

use super::MAX_DEPTH;
use super::error::AnswerError;
use crate::jose::{self, Cursor, JsonError};

/// How many tools of one answer are looked at: each is judged by the rules, without a pause. Servers have some
/// hundreds.
const MAX_TOOLS: usize = 10_000;

/// What an answer is made for, at the moment.
#[derive(Clone, Copy)]
pub struct View<'v> {
    /// Whether the caller may call a tool.
    pub may_call: &'v dyn Fn(&str) -> bool,
    /// How long its token lives on. `None` for a caller without one.
    pub token_life: Option<Duration>,
}

/// Makes a JSON-RPC answer, or each answer of a batch, one for its caller. Tools of `result.tools` that it may
/// not call are taken out. Caching hints of a result (revision 2026-07-28, "Caching") count for this caller
/// alone: `cacheScope` is `"private"`, also where only `ttlMs` is there, since some clients take a missing one
/// for `"public"`; `ttlMs` is at most the life of the token, and 0 where it is no number or a negative one.
/// What stays, stays byte for byte; `None` when everything does.
///
/// # Errors
///
/// [`AnswerError`] for what cannot be read with certainty.
pub fn filter_answer(text: &[u8], view: &View<'_>) -> Result<Option<Vec<u8>>, AnswerError> {
    let mut document = jose::check(text, MAX_DEPTH)?;
    let mut edited = Edited::of(text);
    if !document.items(|message| filter_message(message, view, &mut edited))? {
        filter_message(&mut document, view, &mut edited)?;
    }
    edited.finish()
}

fn filter_message(
    message: &mut Cursor<'_>,
    view: &View<'_>,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    message.members(|name, value| match name {
        "result" => filter_result(value, view, edited),
        _ => Ok(()),
    })?;
    Ok(())
}

fn filter_result(
    result: &mut Cursor<'_>,
    view: &View<'_>,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    let (mut has_scope, mut has_life) = (false, false);
    let is_object = result.members(|name, value| match name {
        "tools" => filter_tools(value, view, edited),
        "cacheScope" => {
            has_scope = true;
            make_private(value, edited)
        }
        "ttlMs" => {
            has_life = true;
            shorten(value, view.token_life, edited)
        }
        _ => Ok(()),
    })?;
    if is_object && has_life && !has_scope {
        // Before the brace that ends it.
        let end = result.end().saturating_sub(1);
        edited.replace(end..end, br#","cacheScope":"private""#)?;
    }
    Ok(())
}

fn filter_tools(
    tools: &mut Cursor<'_>,
    view: &View<'_>,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    let before = edited.mark();
    let start = tools.start();
    edited.replace(start..start, b"[")?;
    let (mut is_first, mut is_whole) = (true, true);
    let is_list = tools.items(|tool| {
        edited.count_tool()?;
        let start = tool.start();
        if may_be_called(tool, view)? {
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
fn may_be_called(tool: &mut Cursor<'_>, view: &View<'_>) -> Result<bool, JsonError> {
    let mut may = false;
    let is_object = tool.members(|name, value| {
        if name == "name" {
            may = value.text()?.is_some_and(|name| (view.may_call)(&name));
        }
        Ok::<_, JsonError>(())
    })?;
    if !is_object {
        tool.skip()?;
    }
    Ok(may)
}

fn make_private(scope: &mut Cursor<'_>, edited: &mut Edited<'_>) -> Result<(), AnswerError> {
    let start = scope.start();
    match scope.text()? {
        Some(text) if text == "private" => return Ok(()),
        Some(_) => {}
        None => {
            scope.skip()?;
        }
    }
    edited.replace(start..scope.end(), br#""private""#)
}

fn shorten(
    time: &mut Cursor<'_>,
    token_life: Option<Duration>,
    edited: &mut Edited<'_>,
) -> Result<(), AnswerError> {
    let start = time.start();
    let number = time.number()?;
    if number.is_none() {
        time.skip()?;
    }
    let lower = match number.filter(|number| !is_negative(number)) {
        None => 0,
        Some(number) => match token_life {
            Some(life) if is_longer(&number, life) => milliseconds(life),
            _ => return Ok(()),
        },
    };
    edited.replace(start..time.end(), lower.to_string().as_bytes())
}

fn is_negative(number: &Number) -> bool {
    number.as_f64().is_none_or(|number| number < 0.0)
}

/// Whether so many milliseconds are longer than this.
fn is_longer(number: &Number, life: Duration) -> bool {
    match number.as_u64() {
        Some(whole) => whole > milliseconds(life),
        None => number
            .as_f64()
            .is_none_or(|number| number / 1000.0 > life.as_secs_f64()),
    }
}

/// Whole milliseconds, rounded down.
fn milliseconds(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX)
}

/// A text on its way to another one. Edits come in the order of their places.
struct Edited<'t> {
    text: &'t [u8],
    /// How much of it is in `out`, or replaced.
    copied: usize,
    out: Vec<u8>,
    has_changed: bool,
    /// How many tools have been looked at.
    tools: usize,
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
            tools: 0,
        }
    }

    fn count_tool(&mut self) -> Result<(), AnswerError> {
        self.tools = self.tools.saturating_add(1);
        if self.tools > MAX_TOOLS {
            return Err(AnswerError::NotTools(
                "more than 10,000 tools in one answer",
            ));
        }
        Ok(())
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
    use super::{MAX_TOOLS, View, filter_answer};
    use std::time::Duration;

    fn filtered(text: &str) -> Result<Option<String>, String> {
        seen(text, Some(Duration::from_millis(90_500)))
    }

    /// By a caller whose token lives for so long.
    fn seen(text: &str, token_life: Option<Duration>) -> Result<Option<String>, String> {
        let view = View {
            may_call: &|name| !name.starts_with("delete"),
            token_life,
        };
        filter_answer(text.as_bytes(), &view)
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
    #[rustfmt::skip]
    fn what_may_be_kept_is_kept_for_its_caller() {
        for (text, expected) in [
            (r#"{"result":{"tools":[],"ttlMs":300000,"cacheScope":"public"}}"#,
                r#"{"result":{"tools":[],"ttlMs":90500,"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope" : "public" , "ttlMs" : 300000 , "x":1.50}}"#,
                r#"{"result":{"cacheScope" : "private" , "ttlMs" : 90500 , "x":1.50}}"#),
            (r#"{"result":{"ttlMs":90501,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":90500,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":1.5e99,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":90500,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":90500.5,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":90500,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":18446744073709551615,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":90500,"cacheScope":"private"}}"#),
            (r#"{"r\u0065sult":{"ttl\u004ds":300000,"cache\u0053cope":"publi\u0063"}}"#,
                r#"{"r\u0065sult":{"ttl\u004ds":90500,"cache\u0053cope":"private"}}"#),
            // Between tools that go, before them and behind them.
            (r#"{"result":{"ttlMs":300000,"tools":[{"name":"delete"},{"name":"a"}],"cacheScope":"public"}}"#,
                r#"{"result":{"ttlMs":90500,"tools":[{"name":"a"}],"cacheScope":"private"}}"#),
            (r#"[{"result":{"cacheScope":"public"}}, {"result":{"cacheScope":"public","tools":[]}},{}]"#,
                r#"[{"result":{"cacheScope":"private"}}, {"result":{"cacheScope":"private","tools":[]}},{}]"#),
            // A scope that is not said is public to some.
            (r#"{"result":{"ttlMs":1}}"#, r#"{"result":{"ttlMs":1,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":300000 } }"#, r#"{"result":{"ttlMs":90500 ,"cacheScope":"private"} }"#),
            // What is none of the two values.
            (r#"{"result":{"cacheScope":"Private"}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope":"private "}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope":null}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope":1}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope":["private"]}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            (r#"{"result":{"cacheScope":{"a":"}"}}}"#, r#"{"result":{"cacheScope":"private"}}"#),
            // What is no time.
            (r#"{"result":{"ttlMs":-1,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":-1e99,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":"300000","cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":null,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":[1,{"a":"]"}],"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
            (r#"{"result":{"ttlMs":true,"cacheScope":"private"}}"#, r#"{"result":{"ttlMs":0,"cacheScope":"private"}}"#),
        ] {
            assert_eq!(filtered(text), Ok(Some(expected.to_owned())), "{text}");
            assert_eq!(filtered(expected), Ok(None), "{expected}");
        }
    }

    #[test]
    fn so_many_tools_are_looked_at() {
        let list = |count: usize| format!("[{}]", vec![r#"{"name":"delete"}"#; count].join(","));
        let answer = |tools: &str| format!(r#"{{"result":{{"tools":{tools}}}}}"#);
        assert_eq!(filtered(&answer(&list(MAX_TOOLS))), Ok(Some(answer("[]"))));
        let one_more = filtered(&answer(&list(MAX_TOOLS + 1)));
        assert!(one_more.is_err_and(|error| error.contains("10,000")));
        // All lists of a batch together.
        let batch = [list(MAX_TOOLS), list(1)]
            .map(|list| answer(&list))
            .join(",");
        assert!(filtered(&format!("[{batch}]")).is_err());
    }

    #[test]
    fn time_is_at_most_the_life_of_the_token() {
        let answer =
            |time: &str| format!(r#"{{"result":{{"cacheScope":"private","ttlMs":{time}}}}}"#);
        for (time, life, expected) in [
            ("1", Some(Duration::ZERO), Some("0")),
            ("0", Some(Duration::ZERO), None),
            ("0.5", Some(Duration::ZERO), Some("0")),
            ("1000", Some(Duration::from_micros(999_999)), Some("999")),
            ("1000", Some(Duration::from_secs(1)), None),
            ("1e3", Some(Duration::from_secs(1)), None),
            ("1000.5", Some(Duration::from_secs(1)), Some("1000")),
            ("300000", Some(Duration::MAX), None),
            ("1e99", Some(Duration::MAX), Some("18446744073709551615")),
            // Nothing ends with a token that is not there.
            ("300000", None, None),
            ("1e99", None, None),
            ("-1", None, Some("0")),
            ("\"1\"", None, Some("0")),
        ] {
            assert_eq!(
                seen(&answer(time), life),
                Ok(expected.map(answer)),
                "{time} {life:?}"
            );
        }
        let public = r#"{"result":{"cacheScope":"public","ttlMs":5}}"#;
        assert_eq!(
            seen(public, None),
            Ok(Some(public.replace("public", "private")))
        );
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
            r#"{"result":{"cacheScope":"private","ttlMs":90500}}"#,
            r#"{"result":{"cacheScope":"privat\u0065","ttlMs":9.05e4}}"#,
            r#"{"result":{"ttlMs":-0,"cacheScope":"private"}}"#,
            // These are somebody else's.
            r#"{"cacheScope":"public","ttlMs":300000,"result":{}}"#,
            r#"{"result":{"structuredContent":{"cacheScope":"public","ttlMs":300000}}}"#,
            r#"{"result":{"content":[{"cacheScope":"public","ttlMs":"x","tools":[{"name":"delete"}]}]}}"#,
            r#"{"result":{"_meta":{"ttlMs":300000},"contents":[{"text":"\"cacheScope\":\"public\""}]}}"#,
            r#"{"result":{"result":{"cacheScope":"public","tools":[{"name":"delete"}]}}}"#,
            r#"{"result":[{"cacheScope":"public"}]}"#,
            r#"{"error":{"cacheScope":"public","ttlMs":300000}}"#,
            r#"{"params":{"cacheScope":"public"},"method":"x"}"#,
            r#"[[{"result":{"cacheScope":"public"}}]]"#,
            r#""cacheScope""#,
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
            r#"{"result":{"ttlMs":1,"ttlMs":2}}"#,
            r#"{"result":{"cacheScope":"private","cache\u0053cope":"public"}}"#,
            r#"{"result":{"ttlMs":1e400}}"#,
            r#"{"result":{"a":{"b":1,"b":1},"cacheScope":"public"}}"#,
            "{\"result\":{\"tools\":[{\"name\":\"\\ud800\"}]}}",
            "\u{feff}{}",
            "{}{}",
        ] {
            assert!(filtered(text).is_err(), "{text}");
        }
    }
}
