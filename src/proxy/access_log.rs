//! One line per request, on success, refusal, failure and abort alike.
//!
//! The record travels with the request and then with the response body, and writes its line when
//! it is dropped: whichever way a request ends, it cannot end without one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::Refusal;
use super::possession::Remembered;
use crate::clock::UnixTime;
use crate::headers::{self, TraceId};
use crate::metrics::{Finished, Metrics, StreamKind};
use crate::token::VerifiedToken;
use crate::upstream::{Failure, RequestBodyError};

/// The longest part of a path that is logged; a path can be as long as `limits.uri_bytes`.
const MAX_LOGGED_PATH: usize = 1024;

/// The longest part of anything else that a stranger chose: a method, or a claim in a detail.
const MAX_LOGGED_TEXT: usize = 256;

/// What is known of a request so far. Never a token, never a query string.
#[derive(Debug)]
pub(super) struct AccessLog(
    /// Boxed, since it is passed on from the request to the answer to its body.
    Box<Record>,
);

#[derive(Debug)]
struct Record {
    metrics: Arc<Metrics>,
    request_id: HeaderValue,
    /// The trace that the client said the request is part of.
    trace_id: Option<TraceId>,
    client: Option<SocketAddr>,
    /// What was asked for; `None` when that could not be read.
    asked: Option<(Method, String)>,
    started: Instant,
    sent: Option<Instant>,
    upstream: Option<Duration>,
    status: Option<StatusCode>,
    outcome: Outcome,
    code: Option<&'static str>,
    detail: Option<String>,
    route: Option<Arc<str>>,
    caller: Option<Arc<Remembered>>,
    kid: Option<String>,
    /// What kind of answer is under way, once it is.
    stream: Option<StreamKind>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The client went away before the end.
    Cancelled,
    /// The upstream could not answer, or broke in the middle of its answer.
    Failed,
    /// The upstream answered, to the end.
    Forwarded,
    /// It was answered, or ended, here.
    Refused,
}

impl Outcome {
    /// What became of a request that met this failure.
    const fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Body(RequestBodyError::Gone(_)) => Self::Cancelled,
            Failure::Body(_)
            | Failure::Expired
            | Failure::Full
            | Failure::Upgrade
            | Failure::UploadStalled(_) => Self::Refused,
            _ => Self::Failed,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
        }
    }
}

impl AccessLog {
    /// Starts the record. Until something else is known, the client has gone away.
    pub(super) fn begin(
        request: Option<&Request<Incoming>>,
        request_id: &HeaderValue,
        client: Option<SocketAddr>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        metrics.on_begin();
        let asked = request.map(|request| {
            let path = cut(request.uri().path(), MAX_LOGGED_PATH);
            (request.method().clone(), path.to_owned())
        });
        Self(Box::new(Record {
            metrics: Arc::clone(metrics),
            request_id: request_id.clone(),
            trace_id: request.and_then(|request| headers::trace_id(request.headers())),
            client,
            asked,
            started: Instant::now(),
            sent: None,
            upstream: None,
            status: None,
            outcome: Outcome::Cancelled,
            code: None,
            detail: None,
            route: None,
            caller: None,
            kid: None,
            stream: None,
        }))
    }

    pub(super) fn request_id(&self) -> &str {
        self.0.request_id.to_str().unwrap_or_default()
    }

    pub(super) fn matched(&mut self, route: Option<&Arc<str>>) {
        self.0.route = route.cloned();
    }

    /// A rule in shadow would have refused.
    pub(super) fn shadowed(&self, code: &'static str) {
        self.0
            .metrics
            .on_shadow_refusal(self.0.route.as_ref(), code);
    }

    pub(super) fn kid(&mut self, kid: Option<&str>) {
        self.0.kid = kid.map(str::to_owned);
    }

    /// Whose token it is; also told of a token whose proof is refused then, which may be a stolen one.
    pub(super) fn caller(&mut self, token: &Arc<Remembered>) {
        self.0.caller = Some(Arc::clone(token));
    }

    /// The request goes to the upstream now.
    pub(super) fn sending(&mut self) -> Instant {
        *self.0.sent.insert(Instant::now())
    }

    /// The head of the upstream's answer is here.
    pub(super) fn answered(&mut self) {
        self.0.upstream = self.0.sent.map(|sent| sent.elapsed());
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.0.code = Some(refusal.code());
        self.0.detail = Some(refusal.to_string());
        self.0.outcome = match refusal {
            Refusal::Upstream(failure) => Outcome::of(failure),
            _ => Outcome::Refused,
        };
    }

    /// The head of the answer goes to the client; a body may still be to come.
    pub(super) fn status(&mut self, status: StatusCode) {
        self.0.status = Some(status);
        self.0.metrics.on_first_byte(self.0.started.elapsed());
    }

    /// The answer may go on for long.
    pub(super) fn streams(&mut self, kind: StreamKind) {
        self.0.stream = Some(kind);
        if kind != StreamKind::Other {
            self.0.metrics.on_stream_begin(kind);
        }
    }

    /// The answer passed to its end.
    pub(super) fn complete(&mut self) {
        self.0.outcome = Outcome::Forwarded;
    }

    fn token(&self) -> Option<&VerifiedToken> {
        let caller = self.0.caller.as_ref()?;
        Some(caller.credential.token())
    }

    /// When a stream of this caller must end: `grace` after the end of its token.
    pub(super) fn expiry(&self, grace: Option<Duration>, now: Instant) -> Option<Instant> {
        let end = self.token()?.valid_until().plus(grace?);
        now.checked_add(end.since(UnixTime::now()))
    }

    /// The stream was ended because its token has expired.
    pub(super) fn expired(&mut self) {
        self.0
            .metrics
            .on_stream_expired(self.0.stream.unwrap_or(StreamKind::Other));
        self.0.outcome = Outcome::Refused;
        self.0.code = Some("token_expired");
        self.0.detail =
            Some("streams.expiry_grace after exp is over; the stream was ended".to_owned());
    }

    /// The exchange broke in the middle of the answer.
    pub(super) fn broken(&mut self, failure: &Failure) {
        self.0.outcome = Outcome::of(failure);
        self.0.code = Some(failure.code());
        self.0.detail = Some(format!("the answer broke off: {failure}"));
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let asked = self.0.asked.as_ref();
        let token = self.token();
        let code = self
            .0
            .code
            .or((self.0.outcome == Outcome::Cancelled).then_some("client_closed"));
        let duration = self.0.started.elapsed();
        self.0.metrics.on_finished(&Finished {
            outcome: self.0.outcome.name(),
            code,
            route: self.0.route.as_ref(),
            method: asked.map(|(method, _)| method),
            duration,
        });
        if let Some(kind) = self.0.stream.filter(|kind| *kind != StreamKind::Other) {
            self.0.metrics.on_stream_end(kind);
        }
        tracing::info!(
            target: "authgate::request",
            request_id = self.request_id(),
            trace_id = self.0.trace_id.as_ref().map(TraceId::as_str),
            client = self.0.client.map(tracing::field::display),
            method = asked.map(|(method, _)| cut(method.as_str(), MAX_LOGGED_TEXT)),
            path = asked.map(|(_, path)| path.as_str()),
            status = self.0.status.map(|status| status.as_u16()),
            outcome = self.0.outcome.name(),
            code,
            detail = self.0.detail.as_deref().map(|detail| cut(detail, MAX_LOGGED_TEXT)),
            route = self.0.route.as_deref(),
            iss = token.map(VerifiedToken::issuer),
            sub = token.map(VerifiedToken::subject),
            kid = token.map_or(self.0.kid.as_deref(), |token| token.kid()),
            duration_ms = milliseconds(duration),
            upstream_ms = self.0.upstream.map(milliseconds),
            "request"
        );
    }
}

/// The beginning of a text, of at most this many bytes.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most))
        .unwrap_or_default()
}

/// Milliseconds with three decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
