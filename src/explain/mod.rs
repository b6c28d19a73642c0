//! `authgate explain`: what is decided about one request, step by step, and why.
//!
//! The decision is made by the functions that the proxy calls, in its order; what is told of the way
//! there is read off the same values. Pure: keys and the time are arguments.

mod diagnosis;
mod ink;
mod paste;
mod render;
mod steps;

use std::sync::Arc;

use http::header::{
    ALLOW, AUTHORIZATION, HOST, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, Uri, request};

pub use paste::credential;
pub use steps::{Outcome, Step};

use crate::authorized::{AuthorizedRequest, Forwarding};
use crate::canonical::CanonicalRequest;
use crate::clock::UnixTime;
use crate::config::Config;
use crate::cors::Origin;
use crate::headers::{Outbound, Peer, Pseudonym};
use crate::identity::Credential;
use crate::listener::Unreadable;
use crate::mcp::{Call, Message};
use crate::policy::{Caller, Denial, Permit};
use crate::proxy::{self, Credentials, Realm, Refusal, Schemes, Worth};
use crate::token::{BearerToken, Keyring, Verifier};
use diagnosis::Facts;
use ink::Ink;
use steps::Steps;

/// What is shown where the running proxy writes something new into every request.
const FRESH: &str = "(new for each request)";

/// The host that is asked for when nothing says which.
const DEFAULT_HOST: &str = "localhost";

/// One request to be decided on.
pub struct Question {
    method: Method,
    target: String,
    host: HeaderValue,
    credential: Option<String>,
    message: Option<Message>,
}

/// Why there is no such request to ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionError {
    /// No method has such a name.
    Method,
    /// No header can hold such a host.
    Host,
    /// The path has a query with a token in it.
    TokenInPath,
    /// A tool is called by one method, and no message has such a name.
    Tool,
}

impl std::fmt::Display for QuestionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Method => "--method: not the name of a method",
            Self::Host => "--host: not a host",
            Self::TokenInPath => {
                "--path: its query holds a token; a token is read from standard input only"
            }
            Self::Tool => {
                "--mcp-tool: goes with --mcp-method tools/call, which needs one, or alone; and neither has control characters, unseen ones, or what NFKC changes"
            }
        })
    }
}

impl std::error::Error for QuestionError {}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes to the upstream, or is answered as it wants to be.
    Pass,
    /// It is refused.
    Refuse,
    /// Keys are missing, so nobody can say.
    Unknown,
}

/// The whole story. It holds no part of the token.
#[derive(Debug)]
pub struct Report {
    /// The method.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// What becomes of the request.
    pub decision: Decision,
    /// The status that the client gets from here; `None` when the upstream answers.
    pub status: Option<u16>,
    /// The code of the refusal.
    pub code: Option<&'static str>,
    /// What was looked at, in this order.
    pub steps: Vec<Step>,
    /// The headers that the upstream would get, beside the client's own.
    pub upstream: Vec<(String, String)>,
    /// The headers of the answer that say why.
    pub answer: Vec<(String, String)>,
    /// One line: what is wrong, and how to mend it.
    pub diagnosis: String,
}

/// A request that is not refused.
enum Passed {
    Forwarded(HeaderMap),
    /// With this status.
    AnsweredHere(u16),
    /// It is forwarded together with a proof, which is made for one request and cannot be judged here. So
    /// there is no identity to show either.
    WithProof,
}

impl Question {
    /// A request as a client would send it over HTTP/1.1. `credential` is the value of its
    /// `Authorization` header.
    ///
    /// # Errors
    ///
    /// [`QuestionError`] when that is no request, or would hold two tokens.
    pub fn new(
        config: &Config,
        method: &str,
        target: &str,
        host: Option<&str>,
        credential: Option<String>,
    ) -> Result<Self, QuestionError> {
        let allowed = config.allowed_hosts.first().map(ToString::to_string);
        let host = host.map(str::to_owned).or(allowed);
        let host = host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let question = Self {
            method: method.parse().map_err(|_| QuestionError::Method)?,
            target: target.to_owned(),
            host: HeaderValue::try_from(host).map_err(|_| QuestionError::Host)?,
            credential: None,
            message: None,
        };
        if let Ok(head) = question.head()
            && config.token_sources.find(&head.uri, &head.headers, false) != Ok(None)
        {
            return Err(QuestionError::TokenInPath);
        }
        Ok(Self {
            credential,
            ..question
        })
    }

    /// The same request with an MCP message: a method, or the call of a tool.
    ///
    /// # Errors
    ///
    /// [`QuestionError::Tool`] when the two do not go together, or are no names.
    pub fn with_message(
        self,
        method: Option<&str>,
        tool: Option<&str>,
    ) -> Result<Self, QuestionError> {
        let call = match (method, tool) {
            (None, None) => return Ok(self),
            (None | Some("tools/call"), Some(tool)) => Call::tool_call(tool),
            (Some(_), Some(_)) => return Err(QuestionError::Tool),
            (Some(method), None) => Call::new(method.to_owned(), None),
        };
        let call = call.map_err(|_| QuestionError::Tool)?;
        Ok(Self {
            message: Some(Message::Call(call)),
            ..self
        })
    }

    /// The head as the proxy would see it.
    fn head(&self) -> Result<request::Parts, Refusal> {
        let malformed = |error: http::Error| {
            Refusal::Unreadable(Unreadable::Malformed(format!("the target: {error}")))
        };
        let uri = Uri::try_from(&self.target).map_err(|error| malformed(error.into()))?;
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header(HOST, self.host.clone());
        if let Some(credential) = &self.credential {
            let mut value = HeaderValue::from_bytes(credential.as_bytes())
                .map_err(|error| malformed(error.into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(()).map_err(malformed)?;
        Ok(request.into_parts().0)
    }

    /// What stands on the wire at least, before and with the header fields.
    fn lengths(&self) -> (usize, usize) {
        let add = |parts: &[usize]| {
            parts
                .iter()
                .fold(0_usize, |sum, part| sum.saturating_add(*part))
        };
        let line = add(&[
            self.method.as_str().len(),
            self.target.len(),
            "  HTTP/1.1\r\n".len(),
        ]);
        let credential = self.credential.as_ref().map_or(0, |credential| {
            credential.len().saturating_add("authorization: \r\n".len())
        });
        let head = add(&[line, "host: \r\n\r\n".len(), self.host.len(), credential]);
        (line, head)
    }

    /// The path for the report: a query takes no part, and is nobody's business.
    fn path(&self) -> &str {
        self.target.split(['?', '#']).next().unwrap_or(&self.target)
    }
}

impl Report {
    /// Whether nothing but keys is missing for a verdict.
    #[must_use]
    pub fn lacks_keys(&self) -> bool {
        self.decision == Decision::Unknown
    }
}

/// Decides as the proxy does, and tells how.
#[must_use]
pub fn explain(config: &Config, keyring: &Keyring, question: &Question, now: UnixTime) -> Report {
    let ink = Ink::new(question.credential.as_deref());
    let mut steps = Steps::new(&ink);
    let mut facts = Facts::default();
    let verdict = decide(config, keyring, question, now, &mut steps, &mut facts);
    if let Err(refusal) = &verdict {
        steps.refused(refusal);
    }
    let diagnosis = diagnosis::diagnose(config, &facts, verdict.as_ref().err(), &ink);
    let mut report = Report {
        method: ink.text(question.method.as_str()),
        path: ink.text(question.path()),
        decision: Decision::Pass,
        status: None,
        code: None,
        steps: steps.finish(),
        upstream: Vec::new(),
        answer: Vec::new(),
        diagnosis,
    };
    match verdict {
        Ok(Passed::Forwarded(headers)) => report.upstream = shown_headers(&headers, &ink),
        Ok(Passed::WithProof) => {}
        Ok(Passed::AnsweredHere(status)) => report.status = Some(status),
        Err(refusal) => {
            report.decision = match refusal {
                Refusal::KeysUnavailable => Decision::Unknown,
                _ => Decision::Refuse,
            };
            report.code = Some(refusal.code());
            let id = HeaderValue::from_static(FRESH);
            let request = canonical(config, question).ok();
            let messages: Vec<Message> = question.message.iter().cloned().collect();
            let realm = Realm::of(config, request.as_ref(), &messages, &refusal);
            let credentials = request.as_ref().map_or(Credentials::Nothing, |request| {
                Credentials::under(config, request.headers())
            });
            let schemes = Schemes::new(config, credentials);
            let reader = proxy::Reader::Http;
            let answer = proxy::refusal_text(&refusal, reader, &realm, schemes, &id, &Origin::None);
            report.status = Some(answer.status().as_u16());
            for name in [WWW_AUTHENTICATE, ALLOW, RETRY_AFTER] {
                for value in answer.headers().get_all(&name) {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    report.answer.push((name.to_string(), ink.whole(&value)));
                }
            }
        }
    }
    report
}

/// The proxy's straight path, without a connection.
fn decide<'c>(
    config: &'c Config,
    keyring: &Keyring,
    question: &Question,
    now: UnixTime,
    steps: &mut Steps<'_>,
    facts: &mut Facts<'c>,
) -> Result<Passed, Refusal> {
    let checked = canonical(config, question);
    // What is wrong with the path alone is told of the path.
    let unsound = checked.as_ref().err();
    steps.head(
        question.host.as_bytes(),
        unsound.filter(|refusal| !matches!(refusal, Refusal::Path(_))),
    );
    if let Some(Refusal::Path(error)) = unsound {
        steps.path(*error);
    }
    let request = checked?;
    let id = HeaderValue::from_static(FRESH);
    let metadata = proxy::metadata(config, &request, &id);
    steps.metadata(&metadata);
    if let Some(answer) = metadata? {
        return Ok(Passed::AnsweredHere(answer.status().as_u16()));
    }
    if request.is_about_server() {
        steps.about_server();
        let answer = proxy::options_answer(&Origin::None, &id);
        return Ok(Passed::AnsweredHere(answer.status().as_u16()));
    }
    let method = request.method().as_str();
    let messages: Vec<Message> = question.message.iter().cloned().collect();
    let policy = &config.policy;
    steps.rulings(
        policy,
        method,
        &request.readings(),
        &messages,
        config.deny_unmatched,
    );
    let matched_request = policy.matched_request(&request, &messages);
    let matched = matched_request.rules();
    facts.matched(matched);
    let source = proxy::check_source(config, &request, None, &Origin::None);
    steps.source(&source);
    source?;

    let found = config
        .token_sources
        .find(request.target(), request.headers(), false);
    let needed = !matched.is_public();
    steps.credential(needed, question.credential.as_deref(), &found);
    facts.credential(question.credential.as_deref());
    let caller = match found.map_err(Refusal::Authorization)? {
        None => Caller::Anonymous,
        Some(bearer) => {
            let credential = verify(config, keyring, bearer, now, steps, facts)?;
            let worth = proxy::worth(&credential, bearer.scheme(), config.dpop.as_ref());
            match worth.map_err(Refusal::Token)? {
                Worth::Identity(identity) => Caller::Verified(Arc::clone(identity)),
                Worth::Proof(_, dpop) => {
                    steps.proof(dpop, method, request.path());
                    facts.needs_proof();
                    let token = credential.token();
                    if steps.audience(matched, token.claims()) {
                        steps.rules(matched, token.claims());
                    }
                    let shadowed = refuse(config, &request, matched.judge(Some(token.claims())))?;
                    steps.permitted(&shadowed, Some(token.subject()));
                    return Ok(Passed::WithProof);
                }
            }
        }
    };
    if let Caller::Verified(identity) = &caller {
        let claims = identity.token().claims();
        if steps.audience(matched, claims) {
            steps.rules(matched, claims);
        }
    }
    let permit = refuse(config, &request, matched_request.authorize(caller))?;
    let subject = permit.identity().map(|identity| identity.token().subject());
    steps.permitted(permit.shadowed(), subject);
    Ok(Passed::Forwarded(outbound(config, &permit)))
}

/// What the rules say, in the proxy's words.
fn refuse<T>(
    config: &Config,
    request: &CanonicalRequest,
    verdict: Result<T, Denial>,
) -> Result<T, Refusal> {
    if matches!(verdict, Err(Denial::MessageUnread { .. })) {
        // Nothing says what it is, so it is refused as one that says nothing.
        proxy::message_of_head(config, request).map_err(Refusal::Message)?;
    }
    verdict.map_err(Refusal::Denied)
}

/// The one form of the request, where the connection and the proxy would let it have one.
fn canonical(config: &Config, question: &Question) -> Result<CanonicalRequest, Refusal> {
    let (line, head) = question.lengths();
    for (length, why) in [
        (line, Unreadable::TargetTooLong),
        (head, Unreadable::HeadTooLarge),
    ] {
        if length > config.limits.header_bytes {
            return Err(Refusal::Unreadable(why));
        }
    }
    let head = question.head()?;
    let has_fragment = question.target.contains('#');
    let request = proxy::canonical(config, head, has_fragment, None, false)?;
    proxy::check_served(config, &request, None, None)?;
    Ok(request)
}

/// As the proxy verifies a token that it does not remember.
fn verify(
    config: &Config,
    keyring: &Keyring,
    bearer: BearerToken<'_>,
    now: UnixTime,
    steps: &mut Steps<'_>,
    facts: &mut Facts<'_>,
) -> Result<Credential, Refusal> {
    let settings = &config.auth0.verifier;
    let verifier = Verifier::new(settings.clone());
    let read = verifier.read(bearer);
    steps.shape(settings, bearer, &read);
    facts.claimed(bearer);
    let unverified = read.map_err(Refusal::Token)?;
    let signed = Verifier::check_signature(&unverified, keyring);
    steps.signature(&unverified, keyring, &signed);
    if let Ok(signed) = &signed {
        facts.signed(signed);
        for (check, verdict) in verifier.claim_checks(signed, now) {
            steps.claim(settings, signed, now, check, &verdict);
            facts.claim(check, &verdict);
        }
    } else {
        steps.claimed(facts.claims());
    }
    let token = verifier
        .verify(&unverified, keyring, now)
        .map_err(|error| Refusal::of_token(error, &unverified))?;
    facts.verified();
    Ok(config.identity.identify(token))
}

/// The headers of the request that the upstream would get.
fn outbound(config: &Config, permit: &Permit<'_>) -> HeaderMap {
    let request = permit.request();
    let forwarding = Forwarding {
        managed: &config.managed,
        token_sources: &config.token_sources,
        session: None,
        outbound: Outbound {
            identity: None,
            forward_authorization: config.identity.forward_authorization,
            host: request.host(),
            version: request.version(),
            scheme: if config.tls.is_some() {
                "https"
            } else {
                "http"
            },
            te_trailers: false,
            max_forwards: request.max_forwards(),
            reads_answer: false,
            pseudonym: &Pseudonym::new(0),
            peer: Peer {
                address: Some(&HeaderValue::from_static("127.0.0.1")),
                is_trusted: false,
            },
            path_prefix: config.forwarded_prefix(),
            request_id: &HeaderValue::from_static(FRESH),
        },
    };
    AuthorizedRequest::new(permit, (), &forwarding)
        .into_request()
        .headers()
        .clone()
}

fn shown_headers(headers: &HeaderMap, ink: &Ink) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = match name.as_str() {
                "via" => "1.1 authgate-(instance)".to_owned(),
                "x-forwarded-for" => "(the client's address)".to_owned(),
                _ => ink.text(&String::from_utf8_lossy(value.as_bytes())),
            };
            (name.to_string(), value)
        })
        .collect()
}
