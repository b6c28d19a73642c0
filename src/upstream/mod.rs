//! The way to the backend: one pool of connections per worker thread, streaming both ways.

mod body;
mod connect;
mod connection;
mod failure;
mod pool;

pub use body::{RequestBody, RequestBodyError, ResponseBody};
pub use connect::{Connector, ConnectorError};
pub use failure::Failure;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::authorized::AuthorizedRequest;
use crate::clock::after;
use body::Upload;
use connection::{Connection, ExchangeError};
use pool::Pool;

/// Told of an interim answer (RFC 9110 §15.2).
pub type OnInterim = Box<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

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
    /// `on_interim` is told of what comes before that head.
    ///
    /// # Errors
    ///
    /// [`Failure`] says whether the backend could not be reached, broke, or took too long.
    pub async fn send(
        &self,
        request: AuthorizedRequest<RequestBody>,
        on_interim: Option<OnInterim>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut request = request.into_request();
        if let Some(on_interim) = on_interim {
            hyper::ext::on_informational(&mut request, move |answer| {
                on_interim(answer.status(), answer.headers());
            });
        }
        let upload = Arc::clone(request.body().upload());
        self.within_patience(&upload, self.send_with_retry(request, &upload))
            .await
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
        let request = request.into_request();
        let upload = Arc::clone(request.body().upload());
        let exchange = async {
            let (mut sender, connection) = self.connector.handshake().await?;
            // Driven on its own: after 101 the connection belongs to the tunnel.
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            let response = sender
                .send_request(request)
                .await
                .map_err(Failure::broken)?;
            check_framing(response.headers())?;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let to = response.headers().get(UPGRADE);
            if switches && !to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
                return Err(Failure::UnaskedUpgrade);
            }
            Ok(response)
        };
        self.within_patience(&upload, exchange).await
    }

    /// Waits for an answer for as long as `timeouts.response_header` after the upload last moved: there
    /// is no total timeout on a stream, in either direction.
    async fn within_patience<T>(
        &self,
        upload: &Upload,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut exchange = pin!(exchange);
        loop {
            let deadline = after(upload.last_moved(), self.response_header_timeout);
            if let Ok(answer) = tokio::time::timeout_at(deadline.into(), exchange.as_mut()).await {
                return answer;
            }
            if after(upload.last_moved(), self.response_header_timeout) <= deadline {
                return Err(Failure::ResponseTimeout(self.response_header_timeout));
            }
        }
    }

    /// A backend may close an idle connection at the very moment it is used again. A request that
    /// met such a connection is sent on another one: any request of which no byte went out, and,
    /// once, a safe one without a body whose connection was reset in answer to it. A reset nearly
    /// always means that nobody has read it, and a safe request does no harm where it does not
    /// (RFC 9110 §9.2.1, §9.2.2). Nothing else is ever repeated.
    async fn send_with_retry(
        &self,
        request: Request<RequestBody>,
        upload: &Arc<Upload>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut request = with_framing(request);
        while let Some(connection) = self.pool.take().await {
            let spare = spare_copy(&request);
            request = match (connection.exchange(request).await, spare) {
                (Ok(answer), _) => return self.streaming(answer, upload),
                (Err(ExchangeError::Unsent(request)), _) => *request,
                (Err(ExchangeError::Refused(error)), Some(spare)) => {
                    tracing::debug!(%error, "a pooled connection was stale; the request is sent again");
                    request = spare;
                    break;
                }
                (Err(ExchangeError::Refused(error) | ExchangeError::Broken(error)), _) => {
                    return Err(Failure::broken(error));
                }
            };
        }
        let connection = Connection::new(self.connector.handshake().await?);
        match connection.exchange(request).await {
            Ok(answer) => self.streaming(answer, upload),
            Err(ExchangeError::Unsent(_)) => Err(Failure::Closed),
            Err(ExchangeError::Refused(error) | ExchangeError::Broken(error)) => {
                Err(Failure::broken(error))
            }
        }
    }

    fn streaming(
        &self,
        (mut response, connection): (Response<Incoming>, Connection),
        upload: &Arc<Upload>,
    ) -> Result<Response<ResponseBody>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::UnaskedUpgrade);
        }
        check_framing(response.headers())?;
        // This gateway speaks for itself: an answer of unknown length from an HTTP/1.0 backend must
        // not reach the client as one that ends with the connection (RFC 9112 §2.3).
        *response.version_mut() = Version::HTTP_11;
        let keep_alive = pool::keep_alive(response.headers());
        Ok(response.map(|incoming| {
            let (upload, pool) = (Arc::clone(upload), Arc::clone(&self.pool));
            ResponseBody::new(incoming, connection, upload, pool, keep_alive)
        }))
    }
}

/// RFC 9112 §6.3: an answer framed in two ways means two things to two readers.
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings
        .next()
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || codings.next().is_some() {
        return Err(Failure::Unsound(
            "Transfer-Encoding is not exactly one \"chunked\"",
        ));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Failure::Unsound(
            "both Transfer-Encoding and Content-Length",
        ));
    }
    Ok(())
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

/// A second copy of a request that may be sent twice.
fn spare_copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if !safe || !request.body().is_end_stream() {
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
