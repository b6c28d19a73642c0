//! The JSON-RPC body of a request: one message, or several in an array.

use std::borrow::Cow;

use serde_json::Value;

use super::MAX_DEPTH;
use super::error::MessageError;
use super::message::{Call, Message, NamedBy, is_spelled, named_by};
use super::name::check_name;
use crate::jose::{self, Cursor};

/// How many messages one body may hold. Clients batch a handful; each is decided on by itself.
const MAX_MESSAGES: usize = 100;

/// The longest id that an answer of our own repeats; clients count, or send a UUID.
const MAX_ID_BYTES: usize = 256;

/// The members of a message. Some parsers (Go's among them) ignore case, so another spelling of one of
/// these means nothing here and something there.
const MEMBERS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// The same within `params`.
const NAMES: [&str; 2] = ["name", "uri"];

/// What a body holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    /// Its messages, at least one.
    pub messages: Vec<Message>,
    /// Whom an answer is for.
    pub id: RequestId,
    /// Whether they stand in an array.
    pub is_batch: bool,
}

/// The `id` of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RequestId {
    /// Nobody has looked for one.
    #[default]
    Unread,
    /// It is known not to be one: there are several, or none.
    Null,
    /// This one, a text or a number.
    Of(Value),
}

impl Body {
    /// Compares with what headers say of it.
    ///
    /// # Errors
    ///
    /// [`MessageError::Mismatch`] names the header that says something else.
    pub fn check_mirrors(&self, said: &Call) -> Result<(), MessageError> {
        let call = match self.messages.as_slice() {
            [Message::Call(call)] if !self.is_batch && call.method() == said.method() => call,
            _ => return Err(MessageError::Mismatch { name: "Mcp-Method" }),
        };
        if call.name().is_some() && call.name() != said.name() {
            return Err(MessageError::Mismatch { name: "Mcp-Name" });
        }
        Ok(())
    }
}

/// Reads a body.
///
/// # Errors
///
/// [`MessageError`] for whatever two parsers could read in two ways, and for what is no message.
pub fn read_body(bytes: &[u8]) -> Result<Body, MessageError> {
    use MessageError::NotMessage;
    let mut document = jose::check(bytes, MAX_DEPTH)?;
    if let Some((message, id)) = read_message(&mut document)? {
        return Ok(Body {
            messages: vec![message],
            id,
            is_batch: false,
        });
    }
    let mut messages = Vec::new();
    let is_batch = document.items(|item| {
        if messages.len() >= MAX_MESSAGES {
            return Err(NotMessage("a batch of more than 100 messages"));
        }
        let (message, _) =
            read_message(item)?.ok_or(NotMessage("a batch of other things than objects"))?;
        messages.push(message);
        Ok(())
    })?;
    if !is_batch {
        return Err(NotMessage("neither an object nor an array"));
    }
    if messages.is_empty() {
        return Err(NotMessage("an empty batch"));
    }
    Ok(Body {
        messages,
        id: RequestId::Null,
        is_batch: true,
    })
}

/// A message and its id; `None` when the value is no object.
fn read_message(value: &mut Cursor<'_>) -> Result<Option<(Message, RequestId)>, MessageError> {
    let mut members = Members::default();
    if !value.members(|name, value| members.take(name, value))? {
        return Ok(None);
    }
    let id = members.id.take().unwrap_or(RequestId::Null);
    members.into_message().map(|message| Some((message, id)))
}

/// What matters of a message.
#[derive(Default)]
struct Members<'t> {
    is_version_2: bool,
    id: Option<RequestId>,
    /// Whether there is an id that is neither a text nor a number.
    has_bad_id: bool,
    method: Option<Member<'t>>,
    params: Option<Params<'t>>,
    is_answer: bool,
}

/// What matters of `params`.
#[derive(Default)]
struct Params<'t> {
    is_object: bool,
    name: Option<Member<'t>>,
    uri: Option<Member<'t>>,
    /// What is wrong with the name of a member.
    problem: Option<&'static str>,
}

/// The value of a member that should be a text.
enum Member<'t> {
    Text(Cow<'t, str>),
    Other,
}

impl<'t> Member<'t> {
    fn take(value: &mut Cursor<'t>) -> Result<Self, MessageError> {
        Ok(value.text()?.map_or(Self::Other, Self::Text))
    }
}

impl<'t> Members<'t> {
    fn take(&mut self, name: &str, value: &mut Cursor<'t>) -> Result<(), MessageError> {
        match name {
            "jsonrpc" => self.is_version_2 = value.text()?.as_deref() == Some("2.0"),
            "id" => {
                self.id = read_id(value)?;
                self.has_bad_id = self.id.is_none();
            }
            "method" => self.method = Some(Member::take(value)?),
            "params" => self.params = Some(Params::take(value)?),
            "result" | "error" => self.is_answer = true,
            other => check_member(other, &MEMBERS).map_err(MessageError::NotMessage)?,
        }
        Ok(())
    }

    fn into_message(self) -> Result<Message, MessageError> {
        use MessageError::NotMessage;
        if !self.is_version_2 {
            return Err(NotMessage("jsonrpc is not \"2.0\""));
        }
        match (self.method, self.is_answer) {
            (Some(_), true) => Err(NotMessage("both a method and a result")),
            (None, true) => Ok(Message::Answer),
            (None, false) => Err(NotMessage("neither a method nor a result")),
            (Some(_), false) if self.has_bad_id => {
                Err(NotMessage("id is neither a text nor a number"))
            }
            (Some(Member::Other), false) => Err(NotMessage("method is not a text")),
            (Some(Member::Text(method)), false) => {
                let name = named_by(&method).map(|by| Params::into_name(self.params, by));
                let call = Call::new(method.into_owned(), name.transpose()?)?;
                Ok(Message::Call(call))
            }
        }
    }
}

impl<'t> Params<'t> {
    fn take(value: &mut Cursor<'t>) -> Result<Self, MessageError> {
        let mut params = Self::default();
        params.is_object = value.members(|name, value| {
            match name {
                "name" => params.name = Some(Member::take(value)?),
                "uri" => params.uri = Some(Member::take(value)?),
                other => {
                    let checked = check_member(other, &NAMES);
                    params.problem = params.problem.or(checked.err());
                }
            }
            Ok::<_, MessageError>(())
        })?;
        Ok(params)
    }

    /// The name that a method is about.
    fn into_name(params: Option<Self>, by: NamedBy) -> Result<String, MessageError> {
        use MessageError::NotMessage;
        let params = params.filter(|params| params.is_object);
        let params = params.ok_or(NotMessage("params is not an object"))?;
        if let Some(problem) = params.problem {
            return Err(NotMessage(problem));
        }
        let name = match by {
            NamedBy::Name => params.name,
            NamedBy::Uri => params.uri,
        };
        match name {
            Some(Member::Text(name)) => Ok(name.into_owned()),
            Some(Member::Other) | None => {
                Err(NotMessage("params.name, or params.uri, is not a text"))
            }
        }
    }
}

/// The id that an answer repeats, unless it is long; `None` for what is no id.
fn read_id(value: &mut Cursor<'_>) -> Result<Option<RequestId>, MessageError> {
    if let Some(text) = value.text()? {
        if text.len() > MAX_ID_BYTES {
            return Ok(Some(RequestId::Null));
        }
        return Ok(Some(RequestId::Of(Value::String(text.into_owned()))));
    }
    let number = value.number()?;
    Ok(number.map(|number| RequestId::Of(Value::Number(number))))
}

/// A member that is none of these must not be one of them to another parser.
fn check_member(name: &str, known: &[&str]) -> Result<(), &'static str> {
    if check_name(name).is_err() {
        return Err("a member with control characters, unseen ones, or not in NFKC");
    }
    if known.iter().any(|known| is_spelled(name, known)) {
        return Err("another spelling of a member of JSON-RPC");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Message, RequestId, read_body};
    use serde_json::json;

    /// Method and name of each message, `-` for an answer.
    fn told(text: &str) -> Result<String, String> {
        let body = read_body(text.as_bytes()).map_err(|error| error.code().to_owned())?;
        let words = body.messages.iter().map(|message| match message {
            Message::Answer => "-".to_owned(),
            Message::Call(call) => format!("{} {}", call.method(), call.name().unwrap_or("")),
        });
        Ok(words.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn messages_are_read() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
                "tools/list ",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
                "notifications/initialized ",
            ),
            (
                r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","arguments":{"Name":1}}}"#,
                "tools/call x",
            ),
            (
                r#" { "jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"\u0064elete"}}"#,
                "tools/call delete",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}"#,
                "resources/read file:///a",
            ),
            // What no rule reads may hold anything.
            (
                r#"{"jsonrpc":"2.0","id":"\u0000","method":"tools/call","params":{"name":"x","arguments":{"a\u0000":"\u0000\ufeff","\uff4eame":1},"_meta":{"\u200b":"\n"}}}"#,
                "tools/call x",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///\ufb01\u200d"}}"#,
                "resources/read file:///\u{fb01}\u{200d}",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x\u0000":1,"Name":2}}"#,
                "ping ",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "-"),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#,
                "-",
            ),
            (
                r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}]"#,
                "-, tools/call x",
            ),
        ] {
            assert_eq!(told(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_two_parsers_read_differently_is_refused() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","method":"a","params":{}{}}}"#,
            "[".repeat(100),
            "]".repeat(100)
        );
        let many = format!(
            "[{}]",
            vec![r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#; 101].join(",")
        );
        for text in [
            "",
            "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","meth\u006fd":"b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","METHOD ":"tools/call"}"#,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\"},\"param\u{17f}\":{}}",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["a"]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"TOOLS/CALL","params":{"name":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            "[]",
            "[[]]",
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},null]"#,
            // Names that another program takes for others.
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call\u0000","params":{"name":"a"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping\n"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_shell\u0000"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_shell\u0000x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ufeffrun_shell"}}"#,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\u{feff}run_shell\"}}",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_shell\u001f"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run\u200d_shell"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\uff52un_shell"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"a\u202e"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a\u0000"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method\u0000":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","\ufeffmethod":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","\uff4dethod":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","x\u0000":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"method\u200b":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name\u0000":"run_shell"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","na\u00adme":"run_shell"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","\uff4eame":"run_shell"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params\u0000":{"name":"b"},"params":{"name":"a"}}"#,
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\u0000"}}]"#,
            r#""ping""#,
            "null",
            &deep,
            &many,
        ] {
            assert_eq!(told(text), Err("mcp_unreadable".to_owned()), "{text}");
        }
    }

    #[test]
    fn an_answer_is_for_whom_has_asked() {
        let long = "x".repeat(257);
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#.to_owned(),
                RequestId::Of(json!(7)),
            ),
            (
                r#"{"jsonrpc":"2.0","id":"a\"","method":"ping"}"#.to_owned(),
                RequestId::Of(json!("a\"")),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"ping"}"#.to_owned(),
                RequestId::Null,
            ),
            (
                r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#.to_owned(),
                RequestId::Null,
            ),
            (
                format!(r#"{{"jsonrpc":"2.0","id":"{long}","method":"ping"}}"#),
                RequestId::Null,
            ),
        ] {
            assert_eq!(
                read_body(text.as_bytes()).expect("a body").id,
                expected,
                "{text}"
            );
        }
    }
}
