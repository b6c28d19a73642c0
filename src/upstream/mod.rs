//! The way to the backend: one pool of connections per worker thread, streaming both ways.

mod body;
mod connect;
mod connection;
mod failure;
mod pool;

pub use body::{RequestBody, RequestBodyError, ResponseBody};
pub use connect::{Connector, ConnectorError};
pub use failure::Failure;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::authorized::AuthorizedRequest;
use connection::{Connection, ExchangeError};
use pool::Pool;

/// Sends requests to the backend.
#[derive(Debug, Clone)]
pub struct Upstream {
    connector: Connector,
    pool: Arc<Pool>,
    response_header_timeout: Duration,
}

impl Upstream {
    /// An upstream without connections yet. Each worker thread has its own.
    #[must_use]
    pub fn new(connector: Connector, response_header_timeout: Duration) -> Self {
        Self {
            connector,
            pool: Arc::new(Pool::default()),
            response_header_timeout,
        }
    }

    /// Sends a request and waits for the head of the answer; the body streams afterwards.
    ///
    /// # Errors
    ///
    /// [`Failure`] says whether the backend could not be reached, broke, or took too long.
    pub async fn send(
        &self,
        request: AuthorizedRequest<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        tokio::time::timeout(
            self.response_header_timeout,
            self.send_with_retry(request.into_request()),
        )
        .await
        .map_err(|_| Failure::ResponseTimeout(self.response_header_timeout))?
    }

    /// Opens a connection of its own for a request that asks for an upgrade.
    ///
    /// # Errors
    ///
    /// [`Failure`], as for [`Upstream::send`].
    pub async fn send_upgrade(
        &self,
        request: AuthorizedRequest<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let exchange = async {
            let (mut sender, connection) = self.connector.handshake().await?;
            // Driven on its own: after 101 the connection belongs to the tunnel.
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            let response = sender
                .send_request(request.into_request())
                .await
                .map_err(Failure::broken)?;
            check_framing(response.headers())?;
            Ok(response)
        };
        tokio::time::timeout(self.response_header_timeout, exchange)
            .await
            .map_err(|_| Failure::ResponseTimeout(self.response_header_timeout))?
    }

    /// A backend may close an idle connection at the very moment it is used again. A request that
    /// met such a connection is sent once more on a new one: any request of which no byte went out,
    /// and an idempotent one without a body whose bytes came to a closed door (RFC 9110 §9.2.2).
    /// One that may have been read is never repeated.
    async fn send_with_retry(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut request = request;
        while let Some(connection) = self.pool.take().await {
            let spare = spare_copy(&request);
            request = match (connection.exchange(request).await, spare) {
                (Ok(answer), _) => return self.streaming(answer),
                (Err(ExchangeError::Unsent(request)), _) => *request,
                (Err(ExchangeError::Refused(error)), Some(spare)) => {
                    tracing::debug!(%error, "a pooled connection was stale; the request is sent again");
                    spare
                }
                (Err(ExchangeError::Refused(error) | ExchangeError::Broken(error)), _) => {
                    return Err(Failure::broken(error));
                }
            };
        }
        let connection = Connection::new(self.connector.handshake().await?);
        match connection.exchange(request).await {
            Ok(answer) => self.streaming(answer),
            Err(ExchangeError::Unsent(_)) => Err(Failure::Closed),
            Err(ExchangeError::Refused(error) | ExchangeError::Broken(error)) => {
                Err(Failure::broken(error))
            }
        }
    }

    fn streaming(
        &self,
        (response, connection): (Response<Incoming>, Connection),
    ) -> Result<Response<ResponseBody>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Unsound("101 without being asked"));
        }
        check_framing(response.headers())?;
        let keep_alive = pool::keep_alive(response.headers());
        Ok(response.map(|incoming| {
            ResponseBody::new(incoming, connection, Arc::clone(&self.pool), keep_alive)
        }))
    }
}

/// RFC 9112 §6.3: an answer framed in two ways means two things to two readers.
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Failure::Unsound(
            "both Transfer-Encoding and Content-Length",
        ));
    }
    Ok(())
}

/// A second copy of a request that may be sent twice.
fn spare_copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    if !idempotent || !request.body().is_end_stream() {
        return None;
    }
    let (mut head, ()) = Request::new(()).into_parts();
    let request::Parts {
        method,
        uri,
        headers,
        ..
    } = &mut head;
    *method = request.method().clone();
    *uri = request.uri().clone();
    *headers = request.headers().clone();
    Some(Request::from_parts(head, RequestBody::empty()))
}
