//! What every one of authgate's own answers must look like.

use std::collections::BTreeMap;

use super::client::Response;

/// Collects what is wrong in a table of cases, so that one run shows all of it.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn add(&mut self, case: &str, finding: Result<(), String>) {
        if let Err(finding) = finding {
            self.0.push(format!("{case}: {finding}"));
        }
    }

    pub fn check(&mut self, case: &str, holds: bool, finding: impl FnOnce() -> String) {
        self.add(case, if holds { Ok(()) } else { Err(finding()) });
    }

    pub fn assert_none(self) {
        assert!(
            self.0.is_empty(),
            "{} findings:\n  {}",
            self.0.len(),
            self.0.join("\n  ")
        );
    }
}

/// Fails unless the answer is authgate's own, with this status and code and everything that goes with
/// them.
#[track_caller]
pub fn assert_own(response: &Response, status: u16, code: &str) {
    if let Err(finding) = own(response, status, code) {
        panic!("{finding}");
    }
}

/// The same as a value.
pub fn own(response: &Response, status: u16, code: &str) -> Result<(), String> {
    own_whatever_challenge(response, status, code)?;
    challenge(response, status, code)
}

/// The same but for the challenges, which are for the caller to look at.
pub fn own_whatever_challenge(response: &Response, status: u16, code: &str) -> Result<(), String> {
    let found = format!("{} {}", response.head.first_line, response.text());
    if response.status() != status {
        return Err(format!("expected {status} {code}, found {found}"));
    }
    let body: serde_json::Value =
        serde_json::from_slice(&response.body).map_err(|error| format!("{error} in {found}"))?;
    let members: Vec<&str> = body
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in ["error", "code", "request_id"] {
        if !body[name].is_string() {
            return Err(format!("no {name} in {found}"));
        }
    }
    if members.len() != 3 {
        return Err(format!("members {members:?} in {found}"));
    }
    if body["code"] != code {
        return Err(format!("expected {code}, found {found}"));
    }
    if let Some(words) = mastra_words(status, code)
        && body["error"] != words
    {
        return Err(format!("expected the words {words:?}, found {found}"));
    }
    fields(response, &body)?;
    proxy_status(response, code)
}

/// RFC 9209: who has answered, and a registered error type that fits the code. Nothing more is said.
fn proxy_status(response: &Response, code: &str) -> Result<(), String> {
    let fitting: &[&str] = match code {
        "rule_denied"
        | "scope_missing"
        | "origin_denied"
        | "method_denied"
        | "method_not_served"
        | "host_not_served"
        | "mcp_session_unknown" => &["http_request_denied"],
        "authorization_malformed"
        | "body_too_large"
        | "headers_too_large"
        | "headers_too_many"
        | "mcp_unreadable"
        | "host_malformed"
        | "path_ambiguous"
        | "path_malformed"
        | "request_malformed"
        | "request_timeout"
        | "resource_unknown"
        | "upgrade_not_served"
        | "uri_too_long" => &["http_request_error"],
        "mcp_answer_unreadable" => &["http_protocol_error"],
        "keys_unavailable" | "overloaded" => &["proxy_internal_error"],
        "loop_detected" => &["proxy_loop_detected"],
        "upstream_unreachable" => &[
            "connection_refused",
            "destination_ip_unroutable",
            "destination_unavailable",
            "dns_error",
            "http_protocol_error",
            "tls_alert_received",
            "tls_certificate_error",
            "tls_protocol_error",
        ],
        "upstream_failed" => &[
            "connection_terminated",
            "http_protocol_error",
            "http_upgrade_failed",
        ],
        "upstream_timeout" => &["connection_timeout", "http_response_timeout"],
        token if token.starts_with("token_") => &["http_request_denied"],
        proof if proof.starts_with("dpop_") => &["http_request_denied"],
        other => return Err(format!("no error type is known for {other}")),
    };
    let found = error_type(response)?;
    if fitting.contains(&found) {
        Ok(())
    } else {
        Err(format!("error type {found} for {code}"))
    }
}

/// The error type in the `Proxy-Status` of an answer of authgate's own.
pub fn error_type(response: &Response) -> Result<&str, String> {
    let lines = response.head.all("proxy-status");
    match lines.as_slice() {
        [line] => line
            .strip_prefix("authgate; error=")
            .ok_or(format!("proxy-status is {line}")),
        lines => Err(format!("proxy-status is there {} times", lines.len())),
    }
}

/// The texts that Mastra's own clients print.
fn mastra_words(status: u16, code: &str) -> Option<&'static str> {
    match status {
        401 if code == "token_missing" => Some("Authentication required"),
        401 => Some("Invalid or expired token"),
        403 => Some("Access denied"),
        _ => None,
    }
}

fn fields(response: &Response, body: &serde_json::Value) -> Result<(), String> {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-type", "application/json"),
    ] {
        if response.header(name) != Some(value) {
            return Err(format!("{name} is {:?}", response.header(name)));
        }
    }
    let length = response.body.len().to_string();
    if response.header("content-length") != Some(&length) {
        return Err(format!(
            "content-length is {:?}",
            response.header("content-length")
        ));
    }
    let id = response.header("x-request-id");
    if body["request_id"].as_str() != id || id.is_none_or(str::is_empty) {
        return Err(format!(
            "request_id is {} and x-request-id {id:?}",
            body["request_id"]
        ));
    }
    Ok(())
}

fn challenge(response: &Response, status: u16, code: &str) -> Result<(), String> {
    let expected = match (status, code) {
        (401, "token_missing") => Some(None),
        (401, _) => Some(Some("invalid_token")),
        (400, "authorization_malformed") => Some(Some("invalid_request")),
        (403, "scope_missing") => Some(Some("insufficient_scope")),
        _ => None,
    };
    let lines = response.head.all("www-authenticate");
    let Some(error) = expected else {
        return if lines.is_empty() {
            Ok(())
        } else {
            Err(format!("a challenge: {lines:?}"))
        };
    };
    let [line] = lines.as_slice() else {
        return Err(format!("challenges: {lines:?}"));
    };
    let parameters = parameters("Bearer", line)?;
    if !parameters.contains_key("realm") {
        return Err(format!("no realm in {line}"));
    }
    if parameters.get("error").map(String::as_str) != error {
        return Err(format!("expected error {error:?} in {line}"));
    }
    if error.is_some()
        && parameters
            .get("error_description")
            .is_none_or(String::is_empty)
    {
        return Err(format!("no description in {line}"));
    }
    Ok(())
}

/// The parameters of a challenge of this scheme, each of which may occur once (RFC 6750, section 3).
pub fn parameters(scheme: &str, challenge: &str) -> Result<BTreeMap<String, String>, String> {
    let mut rest = challenge
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or(format!("not {scheme}: {challenge}"))?;
    let mut parameters = BTreeMap::new();
    loop {
        let (name, after) = rest
            .split_once("=\"")
            .ok_or(format!("not quoted: {challenge}"))?;
        let (value, after) = after
            .split_once('"')
            .ok_or(format!("not closed: {challenge}"))?;
        if value.contains('\\') || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(format!("characters that a value may not have: {challenge}"));
        }
        if parameters
            .insert(name.to_owned(), value.to_owned())
            .is_some()
        {
            return Err(format!("{name} twice: {challenge}"));
        }
        if after.is_empty() {
            return Ok(parameters);
        }
        rest = after
            .strip_prefix(", ")
            .ok_or(format!("no comma: {challenge}"))?;
    }
}
