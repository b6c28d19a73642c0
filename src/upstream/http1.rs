//! HTTP/1.1 to the backend: one exchange at a time on a connection, and a pool of idle ones.

use std::sync::Arc;

use http::header::TRANSFER_ENCODING;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody, Upload};
use super::check_answer;
use super::connect::{Connector, Driver, Sender};
use super::connection::{Connection, ExchangeError};
use super::failure::Failure;
use super::pool::{self, Pool};
use super::room::{Asker, Place, Room, Running};

/// One worker's HTTP/1.1 connections.
#[derive(Debug, Clone)]
pub(super) struct Http1 {
    connector: Connector,
    room: Room,
    pool: Arc<Pool>,
}

impl Http1 {
    pub(super) fn new(connector: Connector, room: Room) -> Self {
        let pool = Arc::new(Pool::default());
        room.oversee(&pool);
        Self {
            connector,
            room,
            pool,
        }
    }

    /// A connection that never sees the pool.
    pub(super) async fn handshake(
        &self,
        asker: Asker<'_>,
    ) -> Result<(Sender, Driver, Place), Failure> {
        let place = self.room.single(asker)?;
        let (sender, driver) = self.connector.handshake().await?;
        Ok((sender, driver, place))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let lease = self.room.connection()?;
        let (handshake, is_cut) = self.connector.handshake_for_answers().await?;
        Ok(Connection::new(handshake, is_cut, lease))
    }

    /// A backend may close an idle connection at the very moment it is used again. A request that
    /// met such a connection is sent on another one: any request of which no byte went out, and,
    /// once, a safe one without a body whose connection was reset in answer to it. A reset nearly
    /// always means that nobody has read it, and a safe request does no harm where it does not
    /// (RFC 9110 §9.2.1, §9.2.2). Nothing else is ever repeated.
    pub(super) async fn send(
        &self,
        body: RequestBody,
        make: &impl Fn(RequestBody) -> Request<RequestBody>,
        asker: Asker<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let running = self.room.admit(asker)?;
        let upload = body.upload();
        let has_body = !body.is_end_stream();
        let mut request = with_framing(make(body));
        let is_repeatable = !has_body && is_safe(request.method());
        let mut may_be_stale = true;
        loop {
            let pooled = if may_be_stale { self.pool.take() } else { None };
            may_be_stale = pooled.is_some();
            let connection = match pooled {
                Some(connection) => connection,
                // Boxed, since it is seldom needed and takes room in every request's future.
                None => Box::pin(self.connect()).await?,
            };
            request = match connection.exchange(request).await {
                Ok(answer) => return self.streaming(answer, upload, running),
                Err(ExchangeError::Unsent(request)) if may_be_stale => *request,
                Err(ExchangeError::Unsent(_)) => return Err(Failure::Closed),
                Err(ExchangeError::Refused(error)) if may_be_stale && is_repeatable => {
                    tracing::debug!(%error, "a pooled connection was stale; the request is sent again");
                    may_be_stale = false;
                    make(RequestBody::empty())
                }
                Err(ExchangeError::Refused(error) | ExchangeError::Broken(error)) => {
                    return Err(Failure::broken(error));
                }
            };
        }
    }

    fn streaming(
        &self,
        (mut response, connection): (Response<Incoming>, Connection),
        upload: Upload,
        running: Running,
    ) -> Result<Response<ResponseBody>, Failure> {
        check_answer(&response)?;
        // This gateway speaks for itself: an answer of unknown length from an HTTP/1.0 backend must
        // not reach the client as one that ends with the connection (RFC 9112 §2.3).
        *response.version_mut() = Version::HTTP_11;
        let keep_alive = pool::keep_alive(response.headers());
        Ok(response.map(|incoming| {
            let pool = Arc::clone(&self.pool);
            ResponseBody::pooled(incoming, upload, connection, pool, keep_alive, running)
        }))
    }
}

/// A body of unknown length is chunked, whatever the method: hyper would send a GET without it.
fn with_framing(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        request
            .headers_mut()
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
