//! WebSocket: after `101` from the upstream, bytes pass both ways until either side ends.

use http::header::{HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::access_log::AccessLog;
use super::body::{Body, Upstream};
use super::{Answer, headers};
use crate::listener::{Client, Slot};

/// How much of a direction is held at a time; WebSocket frames of agents are small.
const BUFFER_BYTES: usize = 8 * 1024;

/// An upgrade that the upstream agreed to.
pub(super) struct Switched {
    response: Response<Incoming>,
    client: OnUpgrade,
    slot: Slot,
}

/// Looks at the upstream's answer to an upgrade. Only `101` with `websocket` opens a tunnel; any
/// other answer is an ordinary one (CVE-2026-2833: no byte passes before that).
pub(super) fn open(
    mut response: Response<Incoming>,
    client: OnUpgrade,
    request_id: &HeaderValue,
    connection: &Client,
) -> Answer {
    let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response
            .headers()
            .get(UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if agreed {
        headers::rewrite_switching_response(response.headers_mut(), request_id);
        return Answer::Switched(Switched {
            response,
            client,
            slot: connection.slot(),
        });
    }
    headers::rewrite_response(response.headers_mut(), request_id);
    Answer::Forwarded(response.map(Upstream::Single))
}

/// Answers the client and lets the tunnel run on its own. The log line comes at its end.
pub(super) fn answer(switched: Switched, mut log: AccessLog) -> Response<Body> {
    let Switched {
        mut response,
        client,
        slot,
    } = switched;
    let upstream = hyper::upgrade::on(&mut response);
    log.status(response.status());
    tokio::spawn(async move {
        // The slot counts as a connection for as long as the tunnel runs.
        let _slot = slot;
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                let ended = tokio::io::copy_bidirectional_with_sizes(
                    &mut client,
                    &mut upstream,
                    BUFFER_BYTES,
                    BUFFER_BYTES,
                )
                .await;
                if let Err(error) = ended {
                    tracing::debug!(%error, request_id = log.request_id(), "tunnel ended");
                }
                log.complete();
            }
            Err(error) => log.broken(&error),
        }
    });
    response.map(|_| Body::none())
}
