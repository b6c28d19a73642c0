//! The JSON-RPC body of a request: one message, or several in an array.

use serde_json::{Map, Value};

use super::MAX_DEPTH;
use super::error::MessageError;
use super::message::{Call, Message, fold, named_by};
use crate::jose;

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
    match jose::parse_value(bytes, MAX_DEPTH).map_err(MessageError::NotJson)? {
        Value::Object(members) => Ok(Body {
            messages: vec![message(&members)?],
            id: members.get("id").map_or(RequestId::Null, id),
            is_batch: false,
        }),
        Value::Array(items) => {
            if items.is_empty() {
                return Err(MessageError::NotMessage("an empty batch"));
            }
            if items.len() > MAX_MESSAGES {
                return Err(MessageError::NotMessage(
                    "a batch of more than 100 messages",
                ));
            }
            let messages = items.iter().map(|item| match item {
                Value::Object(members) => message(members),
                _ => Err(MessageError::NotMessage(
                    "a batch of other things than objects",
                )),
            });
            Ok(Body {
                messages: messages.collect::<Result<_, _>>()?,
                id: RequestId::Null,
                is_batch: true,
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(MessageError::NotMessage("neither an object nor an array"))
        }
    }
}

fn id(id: &Value) -> RequestId {
    match id {
        Value::String(text) if text.len() > MAX_ID_BYTES => RequestId::Null,
        Value::String(_) | Value::Number(_) => RequestId::Of(id.clone()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => RequestId::Null,
    }
}

fn message(members: &Map<String, Value>) -> Result<Message, MessageError> {
    use MessageError::NotMessage;
    check_spelling(members, &MEMBERS)?;
    if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(NotMessage("jsonrpc is not \"2.0\""));
    }
    if !matches!(
        members.get("id"),
        None | Some(Value::String(_) | Value::Number(_))
    ) && members.contains_key("method")
    {
        return Err(NotMessage("id is neither a text nor a number"));
    }
    let answers = members.contains_key("result") || members.contains_key("error");
    match (members.get("method"), answers) {
        (Some(_), true) => Err(NotMessage("both a method and a result")),
        (None, true) => Ok(Message::Answer),
        (None, false) => Err(NotMessage("neither a method nor a result")),
        (Some(Value::String(method)), false) => call(method, members.get("params")),
        (Some(_), false) => Err(NotMessage("method is not a text")),
    }
}

fn call(method: &str, params: Option<&Value>) -> Result<Message, MessageError> {
    let Some(member) = named_by(method) else {
        return Ok(Message::Call(Call::new(method.to_owned(), None)?));
    };
    let Some(Value::Object(params)) = params else {
        return Err(MessageError::NotMessage("params is not an object"));
    };
    check_spelling(params, &NAMES)?;
    let Some(Value::String(name)) = params.get(member) else {
        return Err(MessageError::NotMessage(
            "params.name, or params.uri, is not a text",
        ));
    };
    Ok(Message::Call(Call::new(
        method.to_owned(),
        Some(name.clone()),
    )?))
}

fn check_spelling(members: &Map<String, Value>, known: &[&str]) -> Result<(), MessageError> {
    let other =
        |name: &&String| !known.contains(&name.as_str()) && known.contains(&fold(name).as_str());
    match members.keys().find(other) {
        Some(_) => Err(MessageError::NotMessage(
            "another spelling of a member of JSON-RPC",
        )),
        None => Ok(()),
    }
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
