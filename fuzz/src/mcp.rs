//! Any bytes as an MCP message, an answer, an event stream, a name and a session id: what is decided on is
//! what any parser reads, what may not be called is listed nowhere, and nobody makes a session.

use authgate::mcp::{
    Doubt, Events, Message, Principal, SessionKeys, View, bind_answer, bind_request, filter_answer,
    mirrors, read_body,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use std::time::Duration;

pub fn run(data: &[u8]) {
    check_body(data);
    check_tools(data);
    check_events(data);
    check_name(data);
    check_session(data);
}

/// Every parser, one that ignores case too, finds the methods and names that are decided on.
fn check_body(data: &[u8]) {
    let Ok(body) = read_body(data) else {
        return;
    };
    let value: Value = serde_json::from_slice(data).expect("it was read");
    let sent: Vec<&Value> = match &value {
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    };
    assert_eq!(sent.len(), body.messages.len());
    assert!((1..=100).contains(&sent.len()));
    for (sent, message) in sent.into_iter().zip(&body.messages) {
        assert_eq!(sent["jsonrpc"], "2.0");
        let found = alike(sent, "method");
        let Message::Call(call) = message else {
            assert!(found.is_empty());
            continue;
        };
        assert_eq!(found, [&Value::from(call.method())]);
        assert_plain(call.method());
        if let Some(tool) = call.tool() {
            assert_plain(tool);
        }
        if let Some(tool) = call.tool() {
            let params = alike(sent, "params");
            assert_eq!(params.len(), 1);
            assert_eq!(alike(params[0], "name"), [&Value::from(tool)]);
        } else {
            assert!(!call.method().trim().eq_ignore_ascii_case("tools/call"));
        }
    }
}

/// Nobody who stops at a NUL, or drops what cannot be seen, reads another name.
fn assert_plain(name: &str) {
    assert!(
        !name.contains(|letter: char| letter.is_control() || "\u{feff}\u{200b}".contains(letter))
    );
}

/// The members that somebody may take for this one.
fn alike<'v>(object: &'v Value, name: &str) -> Vec<&'v Value> {
    let members = object.as_object().expect("an object");
    members
        .iter()
        .filter(|(other, _)| other.trim().to_uppercase().eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// How long the token of the caller lives, in milliseconds.
const LIFE: f64 = 90_500.0;

const VIEW: View<'_> = View {
    may_call: &|name| !name.contains('d'),
    token_life: Some(Duration::from_millis(90_500)),
};

/// What a message should be once it was made for its caller.
fn restrict(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(restrict_message),
        one => restrict_message(one),
    }
}

fn restrict_message(message: &mut Value) {
    let Some(result) = message.get_mut("result").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(Value::Array(tools)) = result.get_mut("tools") {
        tools.retain(|tool| {
            let name = tool.get("name").and_then(Value::as_str);
            name.is_some_and(|name| !name.contains('d'))
        });
    }
    if let Some(time) = result.get_mut("ttlMs") {
        match time.as_f64() {
            Some(number) if (0.0..=LIFE).contains(&number) => {}
            Some(number) if number > LIFE => *time = Value::from(90_500),
            _ => *time = Value::from(0),
        }
        result.insert("cacheScope".to_owned(), Value::from("private"));
    }
    if let Some(scope) = result.get_mut("cacheScope") {
        *scope = Value::from("private");
    }
}

fn check_tools(data: &[u8]) {
    let Ok(filtered) = filter_answer(data, &VIEW) else {
        return;
    };
    let before: Value = serde_json::from_slice(data).expect("it was read");
    let mut expected = before.clone();
    restrict(&mut expected);
    match filtered {
        None => assert_eq!(before, expected, "something should have changed"),
        Some(kept) => {
            assert_ne!(before, expected);
            let after: Value = serde_json::from_slice(&kept).expect("still JSON");
            assert_eq!(after, expected);
            assert_eq!(filter_answer(&kept, &VIEW), Ok(None));
        }
    }
}

/// The stream in pieces of this size, and whether it came to its end.
fn pass(data: &[u8], size: usize, doubt: Doubt) -> (Vec<u8>, bool) {
    let mut events = Events::new(doubt);
    let mut out = Vec::new();
    let pieces = data
        .chunks(size)
        .all(|piece| events.feed(piece, &VIEW, &mut out).is_ok());
    let whole = pieces && events.finish(&VIEW, &mut out).is_ok();
    (out, whole)
}

fn check_events(data: &[u8]) {
    let whole = data.len().max(1);
    for doubt in [Doubt::Refuse, Doubt::Pass] {
        let (out, ends) = pass(data, whole, doubt);
        for size in [1, 3] {
            let other = pass(data, size, doubt);
            assert_eq!(other, (out.clone(), ends), "in pieces of {size}");
        }
        for event in read_events(&out) {
            let again = filter_answer(&event, &VIEW);
            let passed = again == Ok(None) || doubt == Doubt::Pass && again.is_err();
            assert!(passed, "a list has passed");
        }
        assert!(ends || doubt == Doubt::Refuse);
        if ends {
            assert_eq!(read_events(data).len(), read_events(&out).len());
        }
    }
}

/// The data of each event, as a lenient client reads them: the last one may lack its end.
fn read_events(stream: &[u8]) -> Vec<Vec<u8>> {
    let text = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = text.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if(|next| **next == b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            other => lines.last_mut().expect("a line").push(*other),
        }
    }
    let mut events = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    for line in lines.iter().map(Vec::as_slice).chain([&b""[..]]) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(end) => (&line[..end], &line[end + 1..]),
            None => (line, &b""[..]),
        };
        if line.is_empty() {
            events.extend(data.take().filter(|data| !data.is_empty()));
        } else if name == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => data.extend([b"\n", value].concat()),
            }
        }
    }
    events
}

/// A name is itself, or what its one encoding says.
fn check_name(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("mcp-method", HeaderValue::from_static("tools/call"));
    headers.insert("mcp-name", value);
    let Ok(call) = mirrors(&headers) else {
        return;
    };
    let name = call.tool().expect("a tool is called");
    assert!(!name.is_empty());
    if data.starts_with(b"=?") {
        let encoded = format!("=?base64?{}?=", STANDARD.encode(name));
        assert_eq!(encoded.as_bytes(), data);
    } else {
        assert_eq!(name.as_bytes(), data);
    }
    headers.append("mcp-name", HeaderValue::from_static("other"));
    assert!(mirrors(&headers).is_err());
}

fn check_session(data: &[u8]) {
    let keys = SessionKeys::parse("0123456789abcdef0123456789abcdef").expect("a key");
    let principal = |subject| {
        Some(Principal {
            issuer: "https://a/",
            subject,
            client: None,
        })
    };
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("mcp-session-id", value);
    // Whatever it is, it was not made with the key.
    assert!(bind_request(&keys, &headers, principal("alice")).is_err());
    if bind_answer(&keys, &mut headers, principal("alice")).is_err() {
        return;
    }
    assert!(bind_request(&keys, &headers, principal("bob")).is_err());
    assert!(bind_request(&keys, &headers, None).is_err());
    let session = bind_request(&keys, &headers, principal("alice")).expect("her own");
    session.apply(&mut headers);
    assert_eq!(headers["mcp-session-id"].as_bytes(), data);
}
