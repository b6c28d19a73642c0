//! Probes, metrics and the drain, on a listener of their own: nothing on the data listener can be taken
//! for one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::listener::{Phase, Slots};
use crate::logging;
use crate::metrics::{Metrics, Vitals};
use crate::proxy::Shared;

/// Probes are few; this many connections at a time leave room for several probers.
const MAX_CONNECTIONS: usize = 64;

/// For a probe to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole probe, answer included.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The media type of what [`Metrics::render`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the `Allow` of a refused method says, for what is read and for what is done.
const READ: &str = "GET, HEAD";
const DO: &str = "POST";

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
    fn drain(&self) {
        let begun = self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Lingering;
            }
            serving
        });
        if begun {
            tracing::info!("draining on request: not ready any more, still serving");
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

/// Answers probes for ever.
pub async fn serve(listener: TcpListener, health: Health) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept probes; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &health);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                // One probe a connection, so that nobody can keep the slots.
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if !matches!(
                tokio::time::timeout(PROBE_TIMEOUT, connection).await,
                Ok(Ok(()))
            ) {
                tracing::debug!("a probe was not answered");
            }
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let allowed = match request.uri().path() {
        "/livez" | "/metrics" | "/readyz" => READ,
        "/drain" => DO,
        _ => return respond(StatusCode::NOT_FOUND, r#"{"status":"no such probe"}"#),
    };
    let is_allowed = match *request.method() {
        Method::GET | Method::HEAD => allowed == READ,
        Method::POST => allowed == DO,
        _ => false,
    };
    if !is_allowed {
        let body = format!(r#"{{"status":"use {allowed}"}}"#);
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, body);
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    match (request.uri().path(), health.not_ready()) {
        ("/livez", _) => respond(StatusCode::OK, r#"{"status":"alive"}"#),
        ("/metrics", _) => {
            let mut response = respond(StatusCode::OK, health.metrics());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
            response
        }
        // Browsers name the page's origin with every POST, and no page has any business here.
        ("/drain", _) if request.headers().contains_key(ORIGIN) => {
            respond(StatusCode::FORBIDDEN, r#"{"status":"not for web pages"}"#)
        }
        ("/drain", _) => {
            health.drain();
            respond(StatusCode::OK, health.remaining())
        }
        (_, None) => respond(StatusCode::OK, r#"{"status":"ready"}"#),
        (_, Some(reason)) => {
            let body = serde_json::json!({"status": "not ready", "reason": reason});
            respond(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
        }
    }
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
