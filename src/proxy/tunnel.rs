//! WebSocket: after `101` from the upstream, bytes pass both ways until either side ends, or the
//! caller's token has.

use std::io;
use std::pin::pin;

use http::header::HeaderValue;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Duration, Instant};

use super::access_log::AccessLog;
use super::body::{Body, Upstream};
use super::frames::FrameBoundary;
use super::{Answer, Refusal, headers};
use crate::headers::TooManyOptions;
use crate::listener::{Client, Slot};
use crate::upstream::{Failure, Place};

/// How much of a direction is held at a time; WebSocket frames of agents are small.
const BUFFER_BYTES: usize = 8 * 1024;

/// A close frame (RFC 6455 §5.5.1) with code 3000, registered as "Unauthorized".
const UNAUTHORIZED: [u8; 4] = [0x88, 0x02, 0x0b, 0xb8];

/// How long one direction may go on after the other has ended. WebSocket has no half-open state:
/// what is still under way is a last close frame (RFC 6455 §7.1.1).
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long the end of a frame is waited for, so that the close frame does not land inside it.
const FRAME_PATIENCE: Duration = Duration::from_millis(500);

/// An upgrade that the upstream agreed to.
pub(super) struct Switched {
    response: Response<Incoming>,
    client: OnUpgrade,
    slot: Slot,
    place: Place,
}

type Reader = ReadHalf<TokioIo<Upgraded>>;
type Writer = WriteHalf<TokioIo<Upgraded>>;

/// Looks at the upstream's answer to an upgrade. Only `101` opens a tunnel; any other answer is an
/// ordinary one (CVE-2026-2833: no byte passes before that).
pub(super) fn open(
    mut response: Response<Incoming>,
    place: Place,
    request_id: &HeaderValue,
    connection: &Client,
) -> Result<Answer, Refusal> {
    let too_many = |TooManyOptions| Refusal::Upstream(Failure::TOO_MANY_OPTIONS);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        headers::rewrite_switching_response(response.headers_mut(), request_id)
            .map_err(too_many)?;
        let client = connection.take_upgrade();
        let client = client.ok_or(Refusal::Upstream(Failure::UnaskedUpgrade))?;
        return Ok(Answer::Switched(Switched {
            response,
            client,
            slot: connection.slot(),
            place,
        }));
    }
    headers::rewrite_response(response.headers_mut(), request_id).map_err(too_many)?;
    Ok(Answer::Forwarded(
        response.map(|body| Upstream::Single(body, place)),
    ))
}

/// Answers the client and lets the tunnel run on its own. The log line comes at its end.
pub(super) fn answer(
    switched: Switched,
    expiry: Option<std::time::Instant>,
    mut log: AccessLog,
) -> Response<Body> {
    let Switched {
        mut response,
        client,
        slot,
        place,
    } = switched;
    let upstream = hyper::upgrade::on(&mut response);
    log.status(response.status());
    tokio::spawn(async move {
        // Both count as connections for as long as the tunnel runs.
        let (_slot, _place) = (slot, place);
        // Gone before the slot is free: the last one that is free may end the process.
        let mut log = log;
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => match relay(client, upstream, expiry.map(Into::into)).await {
                Ok(Ended::ByOneSide) => log.complete(),
                Ok(Ended::ByExpiry) => log.expired(),
                Err(error) => {
                    tracing::debug!(%error, request_id = log.request_id(), "tunnel ended");
                    log.complete();
                }
            },
            Err(error) => log.broken(&Failure::Broken(error)),
        }
    });
    response.map(|_| Body::none())
}

/// How a tunnel came to its end.
enum Ended {
    ByExpiry,
    ByOneSide,
}

/// Passes bytes both ways. When one side has ended, the other gets to say its last words.
async fn relay(client: Upgraded, upstream: Upgraded, expiry: Option<Instant>) -> io::Result<Ended> {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_upstream, mut to_upstream) = tokio::io::split(TokioIo::new(upstream));
    let mut boundary = FrameBoundary::new();
    let both = async {
        let outward = async {
            pass(&mut from_client, &mut to_upstream, None).await?;
            to_upstream.shutdown().await
        };
        let inward = async {
            pass(&mut from_upstream, &mut to_client, Some(&mut boundary)).await?;
            to_client.shutdown().await
        };
        let (mut outward, mut inward) = (pin!(outward), pin!(inward));
        tokio::select! {
            ended = &mut outward => {
                ended?;
                tokio::time::timeout(LAST_WORDS, inward).await.unwrap_or(Ok(()))
            }
            ended = &mut inward => {
                ended?;
                tokio::time::timeout(LAST_WORDS, outward).await.unwrap_or(Ok(()))
            }
        }
    };
    let Some(at) = expiry else {
        return both.await.map(|()| Ended::ByOneSide);
    };
    if let Ok(ended) = tokio::time::timeout_at(at, both).await {
        return ended.map(|()| Ended::ByOneSide);
    }
    say_goodbye(&mut from_upstream, &mut to_client, boundary).await;
    Ok(Ended::ByExpiry)
}

async fn pass(
    from: &mut Reader,
    to: &mut Writer,
    mut boundary: Option<&mut FrameBoundary>,
) -> io::Result<()> {
    // On the heap: a tunnel's future lives long and should be small.
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        // Counted before it is written: a write that is cut short leaves no place for a frame.
        if let Some(boundary) = &mut boundary {
            boundary.feed(bytes);
            boundary.writing(true);
        }
        to.write_all(bytes).await?;
        if let Some(boundary) = &mut boundary {
            boundary.writing(false);
        }
    }
}

/// Ends the frame that is under way, if it ends soon, and tells the client why nothing follows.
async fn say_goodbye(
    from_upstream: &mut Reader,
    to_client: &mut Writer,
    mut boundary: FrameBoundary,
) {
    let goodbye = async {
        let mut byte = [0];
        while !boundary.is_between_frames() {
            if !boundary.can_go_on() || from_upstream.read(&mut byte).await? == 0 {
                return Ok(());
            }
            boundary.feed(&byte);
            to_client.write_all(&byte).await?;
        }
        to_client.write_all(&UNAUTHORIZED).await?;
        to_client.shutdown().await
    };
    let ended: Result<io::Result<()>, _> = tokio::time::timeout(FRAME_PATIENCE, goodbye).await;
    if !matches!(ended, Ok(Ok(()))) {
        tracing::debug!("a tunnel was cut without a close frame");
    }
}
