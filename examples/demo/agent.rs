//! A small agent backend. It knows nothing of tokens: it believes one header, as a backend behind
//! authgate may.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

const EVENTS: u32 = 5;
const EVENT_GAP: Duration = Duration::from_millis(200);

type Answer = Response<Either<Full<Bytes>, Events>>;

/// Serves on a free loopback port, in a thread that lives as long as the process.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(serve(listener)));
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // An error here is a client that went away.
            let _ended = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let user = request
        .headers()
        .get("x-forwarded-user")
        .and_then(|value| value.to_str().ok());
    let segments: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    Ok(match (request.method(), segments.as_slice()) {
        (&Method::GET, ["health"]) => json_answer(&json!({ "success": true, "user": user })),
        (&Method::GET, ["api", "agents"]) => {
            json_answer(&json!({ "agents": ["weather", "travel"], "user": user }))
        }
        (&Method::POST, ["api", "agents", agent, "stream"]) => {
            stream_answer(agent, user.unwrap_or("nobody"))
        }
        (&Method::GET, ["admin", page]) => json_answer(&json!({ "admin": page, "user": user })),
        _ => {
            let mut response = json_answer(&json!({ "error": "Not found" }));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

fn json_answer(value: &Value) -> Answer {
    let body = Full::new(Bytes::from(format!("{value}\n")));
    typed("application/json", Either::Left(body))
}

fn stream_answer(agent: &str, user: &str) -> Answer {
    let (events, receiver) = mpsc::channel(1);
    let (agent, user) = (agent.to_owned(), user.to_owned());
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(EVENT_GAP);
        for step in 1..=EVENTS {
            beat.tick().await;
            let event = json!({ "agent": agent, "user": user, "step": step });
            if events
                .send(Bytes::from(format!("data: {event}\n\n")))
                .await
                .is_err()
            {
                return;
            }
        }
        beat.tick().await;
        // A listener who left before the end has missed nothing that matters.
        let _left = events.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    });
    typed("text/event-stream", Either::Right(Events(receiver)))
}

fn typed(content_type: &'static str, body: Either<Full<Bytes>, Events>) -> Answer {
    let mut response = Response::new(body);
    let value = http::HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, value);
    response
}

/// A response body that is written elsewhere.
pub(crate) struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|event| event.map(|data| Ok(Frame::data(data))))
    }
}
