//! HTTP/2 to the backend: a few connections that all requests of a worker share.
//!
//! One attempt at a time opens a connection, whoever asked for it first, and everybody who waits for
//! it shares its outcome. A stream that lasts must not hold up others, so a connection that carries as
//! many as it may gets a second one beside it.

mod line;
mod stream;

pub(super) use line::Line;
pub(super) use stream::{AnswerSide, Stream};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version, uri};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::body::{RequestBody, ResponseBody, Upload};
use super::check_answer;
use super::connect::{ConnectError, Connector, MAX_RESPONSE_HEADERS};
use super::failure::Failure;
use super::room::{Asker, Place, Room};
use line::{MAX_STREAMS, Sender};

/// How many connections a worker has at most: with [`MAX_STREAMS`] on each, as many streams as
/// `limits.connections` admits clients unless set. A backend that takes one stream per connection still
/// gets this many at a time.
const MAX_LINES: usize = 100;

/// How many connections a request may find closed before it gives up. One closes at any moment; a
/// backend that closes three in a row does not serve.
const MAX_TRIES: usize = 3;

const _: () = assert!(MAX_LINES * MAX_STREAMS >= 10_000);

/// One worker's HTTP/2 connections.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    connector: Connector,
    room: Room,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    /// The oldest first. It is filled first too, so that the others run empty.
    open: Vec<Line>,
    opening: Option<Opening>,
}

/// What everybody waits for who needs a connection.
type Opening = watch::Receiver<Option<Result<(), ConnectError>>>;

/// What there is for a request.
enum Choice {
    Full,
    Opening(Opening),
    Stream(Sender, Arc<Stream>),
}

impl Http2 {
    pub(super) fn new(connector: Connector, room: Room) -> Self {
        Self {
            connector,
            room,
            lines: Arc::default(),
        }
    }

    /// A connection can close at the very moment it is used. A request of which no byte went out is
    /// sent on another one; nothing else is ever repeated.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        asker: Asker<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let upload = request.body().upload();
        let mut request = self.addressed(request)?;
        for _ in 0..MAX_TRIES {
            let place = self.room.stream(asker)?;
            let (mut sender, stream) = self.stream(place).await?;
            let answer = AnswerSide::new(&stream);
            request.body_mut().carried_by(stream);
            match sender.try_send_request(request).await {
                Ok(response) => return streaming(response, upload, answer),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    // A stream that was reset for its body says nothing of why.
                    None => return Err(upload.failure(Failure::Broken(error.into_error()))),
                },
            }
        }
        Err(Failure::Closed)
    }

    /// A place on a connection, which is opened if need be.
    async fn stream(&self, place: Place) -> Result<(Sender, Arc<Stream>), Failure> {
        let mut place = Some(place);
        let mut closed = 0;
        while closed < MAX_TRIES {
            let mut opening = match self.choose(&mut place) {
                Choice::Full => return Err(Failure::Full),
                Choice::Stream(sender, stream) => return Ok((sender, stream)),
                Choice::Opening(opening) => opening,
            };
            let outcome = opening
                .wait_for(Option::is_some)
                .await
                .map(|outcome| outcome.clone());
            match outcome {
                Ok(Some(Err(error))) => return Err(error.into()),
                // Others may have filled it, which is no fault of it.
                Ok(_) if self.lock().open.iter().any(Line::is_open) => {}
                Ok(_) | Err(_) => closed = closed.saturating_add(1),
            }
        }
        Err(Failure::Closed)
    }

    /// The first connection with room, for which the place is taken; else the one that is being opened.
    fn choose(&self, place: &mut Option<Place>) -> Choice {
        let now = Instant::now();
        let mut lines = self.lock();
        let mut chosen = None;
        lines.open.retain(|line| {
            if !line.is_open() {
                return false;
            }
            if chosen.is_some() {
                return !line.is_idle(now);
            }
            chosen = line.stream(place);
            true
        });
        if let Some((sender, stream)) = chosen {
            return Choice::Stream(sender, stream);
        }
        if let Some(opening) = &lines.opening {
            return Choice::Opening(opening.clone());
        }
        if lines.open.len() >= MAX_LINES {
            return Choice::Full;
        }
        let opening = self.open();
        lines.opening = Some(opening.clone());
        Choice::Opening(opening)
    }

    /// Begins an attempt. It goes on when whoever began it has gone: others may wait for it by then.
    fn open(&self) -> Opening {
        let (outcome, opening) = watch::channel(None);
        let this = self.clone();
        tokio::spawn(async move {
            let opened = match this.room.connection() {
                Ok(lease) => Line::open(&this.connector, Some(lease)).await,
                Err(full) => Err(full),
            };
            let opened = {
                let mut lines = this.lock();
                lines.opening = None;
                opened.map(|line| lines.open.push(line))
            };
            outcome.send_replace(Some(opened));
        });
        opening
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host moves to `:authority`, where HTTP/2 has it (RFC 9113 §8.3.1).
    fn addressed(&self, request: Request<RequestBody>) -> Result<Request<RequestBody>, Failure> {
        let (mut head, body) = request.into_parts();
        let mut target = uri::Parts::default();
        target.scheme = Some(if self.connector.is_tls() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        target.authority = head
            .headers
            .remove(HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok());
        target.path_and_query = head.uri.into_parts().path_and_query;
        head.uri = Uri::from_parts(target)
            .map_err(|_| Failure::Unsound("the host is none that HTTP/2 can name"))?;
        head.version = Version::HTTP_2;
        // Whoever shares a compression context with a secret can guess at it (RFC 7541 §7.1.3).
        for name in [AUTHORIZATION, COOKIE] {
            if let Some(secret) = head.headers.get_mut(name) {
                secret.set_sensitive(true);
            }
        }
        Ok(Request::from_parts(head, body))
    }
}

fn streaming(
    mut response: Response<Incoming>,
    upload: Upload,
    answer: AnswerSide,
) -> Result<Response<ResponseBody>, Failure> {
    check_answer(&response)?;
    let headers = response.headers();
    if headers.len() > MAX_RESPONSE_HEADERS {
        return Err(Failure::Unsound("the answer has too many header fields"));
    }
    // The stream ends the body here; over HTTP/1 to the client this field will.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    if lengths.any(|length| Some(length) != first) {
        return Err(Failure::Unsound("Content-Length contradicts itself"));
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|incoming| ResponseBody::of_stream(incoming, upload, answer)))
}
