//! Probes, metrics and the drain, on a listener of their own: nothing on the data listener can be taken
//! for one.

mod access;
mod liveness;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::listener::{Phase, Slots};
use crate::logging;
use crate::metrics::{Metrics, Vitals};
use crate::proxy::Shared;
use access::{Access, Ends, Question, Refusal};
use liveness::{LOOK_INTERVAL, Liveness, MAX_TURN, Progress};

/// Probes are few; this many connections at a time leave room for several probers. Beyond it the oldest one goes:
/// a prober sends its request at once, and a client that does not holds nothing that others need.
const MAX_CONNECTIONS: usize = 64;

/// For a probe to say what it wants: the kubelet itself waits one second unless told otherwise.
const HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// For a whole probe, answer included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a request is read: some twenty times what probers send, and room for the token that Prometheus may
/// be told to send to all its targets.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long to wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The media type of what [`Metrics::render`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What probes are told of, and the one thing that they can change.
#[derive(Debug, Clone)]
pub struct Health {
    /// The settings in force, with their keys.
    pub shared: Arc<Shared>,
    /// Whether the process is on its way out.
    pub phase: watch::Sender<Phase>,
    /// What it has counted.
    pub metrics: Arc<Metrics>,
    /// Its client connections.
    pub slots: Slots,
    /// The worker threads' runtimes, as far as they have started.
    pub runtimes: Arc<Mutex<Vec<Handle>>>,
}

/// The same, with what was seen of the workers.
#[derive(Debug, Clone)]
struct Watched {
    health: Health,
    liveness: Arc<Mutex<Liveness>>,
}

impl Health {
    fn metrics(&self) -> String {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.render(Vitals {
            generation: self.shared.current().generation,
            connections: self.slots.taken(),
            connection_limit: self.slots.count(),
            tasks: runtimes
                .iter()
                .map(|runtime| runtime.metrics().num_alive_tasks())
                .sum(),
            dropped_log_lines: logging::dropped_lines(),
        })
    }

    /// Why the process is not ready; `None` when it is.
    fn not_ready(&self) -> Option<&'static str> {
        if *self.phase.borrow() != Phase::Serving {
            return Some("draining");
        }
        (!self.shared.current().keys.current().is_complete()).then_some("keys are not there yet")
    }

    /// Stops being ready and goes on serving: the first part of what SIGTERM does. A process that
    /// drains already is left as it is.
    fn drain(&self, ends: Ends) {
        let begun = self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Lingering;
            }
            serving
        });
        if begun {
            tracing::warn!(
                client = %ends.peer,
                "draining on request: not ready any more, still serving"
            );
        }
    }

    /// What is left to do, for whoever waits for the end of it.
    fn remaining(&self) -> String {
        let body = serde_json::json!({
            "status": "draining",
            "requests": self.metrics.requests_in_flight(),
            "connections": self.slots.taken(),
        });
        body.to_string()
    }
}

impl Watched {
    /// How many workers are stuck now.
    fn stuck_workers(&self) -> usize {
        let runtimes = &self.health.runtimes;
        let runtimes = runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let progress: Vec<Progress> = runtimes.iter().map(Progress::of).collect();
        let mut liveness = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        liveness.look(Instant::now(), &progress)
    }

    /// Watches the workers for ever, whether probes ask or not.
    async fn watch(&self) {
        let mut before = 0;
        loop {
            let stuck = self.stuck_workers();
            if stuck > before {
                tracing::error!(stuck, "worker threads make no progress; not live any more");
            }
            before = stuck;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Answers probes for ever.
    async fn answer(&self, listener: TcpListener) {
        let mut open = VecDeque::<AbortHandle>::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    let connection = tokio::spawn(serve_connection(stream, self.clone()));
                    open.push_back(connection.abort_handle());
                    // Of many that wait to be accepted, each has its turn before it can be the oldest.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept probes; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers probes for ever, and watches whether the workers make progress.
pub async fn serve(listener: TcpListener, health: Health) {
    let watched = Watched {
        health,
        liveness: Arc::default(),
    };
    tokio::join!(watched.answer(listener), watched.watch());
}

async fn serve_connection(stream: TcpStream, watched: Watched) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let ends = Ends {
        peer: peer.ip(),
        local: local.ip(),
    };
    let service = service_fn(|request| {
        let response = answer(request, ends, &watched);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        // One probe a connection: the next one is accepted as a newcomer.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let answered = tokio::time::timeout(PROBE_TIMEOUT, connection).await;
    if !matches!(answered, Ok(Ok(()))) {
        tracing::debug!("a probe was not answered");
    }
}

fn answer(request: Request<Incoming>, ends: Ends, watched: &Watched) -> Response<Full<Bytes>> {
    let (head, _) = request.into_parts();
    let health = &watched.health;
    let settings = health.shared.current();
    let access = Access {
        hosts: &settings.config.admin_hosts,
        anyone_may_drain: settings.config.anyone_may_drain,
    };
    match access.question(&head, ends) {
        Err(refusal) => refuse(refusal),
        Ok(Question::Live) => match watched.stuck_workers() {
            0 => respond(StatusCode::OK, r#"{"status":"alive"}"#),
            stuck => {
                let patience = MAX_TURN.as_secs();
                let reason = format!("worker threads without progress for {patience} s: {stuck}");
                not("alive", &reason)
            }
        },
        Ok(Question::Ready) => match health.not_ready() {
            None => respond(StatusCode::OK, r#"{"status":"ready"}"#),
            Some(reason) => not("ready", reason),
        },
        Ok(Question::Metrics) => {
            let mut response = respond(StatusCode::OK, health.metrics());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
            response
        }
        Ok(Question::Drain) => {
            health.drain(ends);
            respond(StatusCode::OK, health.remaining())
        }
    }
}

fn not(status: &str, reason: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({"status": format!("not {status}"), "reason": reason});
    respond(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let (status, words) = match refusal {
        Refusal::Unknown => (StatusCode::NOT_FOUND, "no such probe"),
        Refusal::Method(access::DO) => (StatusCode::METHOD_NOT_ALLOWED, "use POST"),
        Refusal::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "use GET, HEAD"),
        Refusal::Host => (
            StatusCode::FORBIDDEN,
            "Host is none of this listener's; admin_hosts adds one",
        ),
        Refusal::Origin => (StatusCode::FORBIDDEN, "not for web pages"),
        Refusal::Drain => (
            StatusCode::FORBIDDEN,
            "only from this machine, unless admin_drain = \"anyone\"",
        ),
    };
    let mut response = respond(status, serde_json::json!({"status": words}).to_string());
    if let Refusal::Method(allowed) = refusal {
        let allowed = HeaderValue::from_static(allowed);
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
