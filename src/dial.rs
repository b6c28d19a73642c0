//! TCP connections to names that have several addresses, of which some may be silent (RFC 8305): IPv6 without a
//! way out, or a dead pod of a headless Service.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::resolve;

/// How long an address has before the next one is tried beside it (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// How many addresses are tried at the same time. Beyond that, the one that has been tried for longest makes
/// way: a name with a hundred addresses must not take a hundred descriptors.
const MAX_AT_ONCE: usize = 4;

/// How long an address that came after another one is tried after all others. Then it has another chance, which
/// costs one connection [`HEAD_START`]. It is not for ever, since a pod that comes back is to have its part of
/// the connections.
const DEMOTED: Duration = Duration::from_mins(1);

/// How many addresses are remembered as late. They are addresses of the names of a configuration, so there are
/// few.
const MAX_LATE: usize = 1024;

/// The addresses that were tried first and came later than another one, or not at all; and until when that
/// counts. The ones that worked are not preferred as such: where all of them work, the order of the resolver
/// spreads the connections.
static LATE: Mutex<BTreeMap<SocketAddr, Instant>> = Mutex::new(BTreeMap::new());

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name leads to no address.
    Resolve(io::Error),
    /// No address could be connected to. This is the error of the last one.
    Connect(io::Error),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "cannot resolve the name: {error}"),
            Self::Connect(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}

/// Connects to a host, which may be an address without brackets. There is no limit of time: whoever asks has one
/// for more than this.
///
/// # Errors
///
/// [`DialError`] says which step failed.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let addresses = resolve::addresses(host, port)
        .await
        .map_err(DialError::Resolve)?;
    let connected = match addresses.as_slice() {
        [only] => TcpStream::connect(only).await,
        _ => first_of(addresses).await,
    };
    connected.map_err(DialError::Connect)
}

async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let addresses = {
        let late = late();
        let now = Instant::now();
        in_order(addresses, |address| {
            late.get(address).is_some_and(|until| *until > now)
        })
    };
    // Boxed, so that it takes no room in the futures of names with one address.
    let (place, stream) = Box::pin(race(&addresses, TcpStream::connect)).await?;
    remember(&addresses, place);
    Ok(stream)
}

/// In the order of the resolver, but with the families in turn (RFC 8305 §4), and with the late ones at the end.
fn in_order(addresses: Vec<SocketAddr>, is_late: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let (late, mut ordered): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_late);
    ordered = interleaved(ordered);
    ordered.extend(interleaved(late));
    ordered
}

fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first_kind = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ones, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == is_first_kind);
    let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(ones.next());
        mixed.extend(others.next());
        if mixed.len() == before {
            return mixed;
        }
    }
}

/// Tries one address after the other, each [`HEAD_START`] after the one before it, or as soon as that one has
/// failed. The first that succeeds counts, with its place; all others are dropped.
async fn race<C, F, T>(addresses: &[SocketAddr], mut connect: C) -> io::Result<(usize, T)>
where
    C: FnMut(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.iter().copied().enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut error = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    let mut head_start = pin!(tokio::time::sleep(Duration::ZERO));
    let mut has_failed = true;
    std::future::poll_fn(move |cx| {
        loop {
            let mut connected = None;
            running.retain_mut(|(place, attempt)| match attempt.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(stream)) => {
                    connected.get_or_insert((*place, stream));
                    false
                }
                Poll::Ready(Err(why)) => {
                    error = why;
                    has_failed = true;
                    false
                }
            });
            if let Some(connected) = connected {
                return Poll::Ready(Ok(connected));
            }
            let is_next = has_failed || head_start.as_mut().poll(cx).is_ready();
            let Some((place, address)) = is_next.then(|| waiting.next()).flatten() else {
                if running.is_empty() {
                    let none = io::Error::from(error.kind());
                    return Poll::Ready(Err(std::mem::replace(&mut error, none)));
                }
                return Poll::Pending;
            };
            if running.len() >= MAX_AT_ONCE {
                running.remove(0);
            }
            running.push((place, Box::pin(connect(address))));
            has_failed = false;
            let next = Instant::now().checked_add(HEAD_START);
            head_start.as_mut().reset(next.unwrap_or_else(Instant::now));
        }
    })
    .await
}

/// Remembers who came late: those that were tried before the one that worked.
fn remember(addresses: &[SocketAddr], worked: usize) {
    let now = Instant::now();
    let mut late = late();
    late.retain(|_, until| *until > now);
    for (place, address) in addresses.iter().enumerate().take(worked.saturating_add(1)) {
        if place == worked {
            late.remove(address);
        } else if late.len() < MAX_LATE
            && let Some(until) = now.checked_add(DEMOTED)
        {
            late.insert(*address, until);
        }
    }
}

fn late() -> MutexGuard<'static, BTreeMap<SocketAddr, Instant>> {
    LATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{DEMOTED, HEAD_START, LATE, first_of, in_order, race};
    use socket2::{Domain, Socket, Type};
    use std::cell::RefCell;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::PoisonError;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    fn address(text: &str) -> SocketAddr {
        let with_port = if text.contains(':') {
            format!("[{text}]:80")
        } else {
            format!("{text}:80")
        };
        with_port.parse().expect("an address")
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| address(text)).collect()
    }

    #[test]
    fn families_take_turns_and_late_ones_come_last() {
        for (given, late, expected) in [
            (&[][..], &[][..], &[][..]),
            (&["::1"], &[], &["::1"]),
            (
                &["::1", "::2", "10.0.0.1"],
                &[],
                &["::1", "10.0.0.1", "::2"],
            ),
            (
                &["10.0.0.1", "10.0.0.2", "::1", "::2", "::3"],
                &[],
                &["10.0.0.1", "::1", "10.0.0.2", "::2", "::3"],
            ),
            (
                &["10.0.0.2", "10.0.0.1", "10.0.0.3"],
                &[],
                &["10.0.0.2", "10.0.0.1", "10.0.0.3"],
            ),
            (&["::1", "10.0.0.1"], &["::1"], &["10.0.0.1", "::1"]),
            (
                &["::1", "10.0.0.1"],
                &["10.0.0.1", "::1"],
                &["::1", "10.0.0.1"],
            ),
            (
                &["::1", "::2", "10.0.0.1", "10.0.0.2"],
                &["::1", "10.0.0.1"],
                &["::2", "10.0.0.2", "::1", "10.0.0.1"],
            ),
        ] {
            let late = addresses(late);
            let ordered = in_order(addresses(given), |address| late.contains(address));
            assert_eq!(ordered, addresses(expected), "{given:?}");
        }
    }

    /// How an address answers, and after how many milliseconds.
    type Script = [(Option<io::ErrorKind>, u64)];

    const SILENT: u64 = 3_600_000;

    /// What comes of it, after how many milliseconds, and when each attempt began.
    async fn play(script: &Script) -> (Result<usize, io::ErrorKind>, u64, Vec<u64>) {
        let addresses: Vec<SocketAddr> = (0..script.len())
            .map(|place| SocketAddr::from(([10, 0, 0, 1], u16::try_from(place).expect("few"))))
            .collect();
        let began = Instant::now();
        let elapsed = || u64::try_from(began.elapsed().as_millis()).expect("little");
        let starts = RefCell::new(Vec::new());
        let raced = race(&addresses, |address| {
            starts.borrow_mut().push(elapsed());
            let (error, after) = script[usize::from(address.port())];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                error.map_or(Ok(()), |kind| Err(kind.into()))
            }
        });
        let raced = tokio::time::timeout(Duration::from_mins(1), raced).await;
        let raced = raced.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        let raced = raced.map(|(place, ())| place).map_err(|error| error.kind());
        (raced, elapsed(), starts.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_a_head_start() {
        let refused = Some(io::ErrorKind::ConnectionRefused);
        let reset = Some(io::ErrorKind::ConnectionReset);
        for (script, expected, after, starts) in [
            (&[(None, 10), (None, 10)][..], Ok(0), 10, &[0][..]),
            (&[(None, SILENT), (None, 10)], Ok(1), 260, &[0, 250]),
            // The first one is slow and not silent; the second one slower.
            (&[(None, 300), (None, 100)], Ok(0), 300, &[0, 250]),
            // What fails is not waited for.
            (&[(refused, 5), (None, 10)], Ok(1), 15, &[0, 5]),
            (
                &[(None, SILENT), (refused, 10), (None, 10)],
                Ok(2),
                270,
                &[0, 250, 260],
            ),
            (
                &[(reset, 5), (refused, 5)],
                Err(io::ErrorKind::ConnectionRefused),
                10,
                &[0, 5],
            ),
            (
                &[(None, SILENT), (refused, 5)],
                Err(io::ErrorKind::TimedOut),
                60_000,
                &[0, 250],
            ),
            (&[], Err(io::ErrorKind::AddrNotAvailable), 0, &[]),
            // No more than four at a time: the first one has made way, and would have connected.
            (
                &[
                    (None, 1100),
                    (None, SILENT),
                    (None, SILENT),
                    (None, SILENT),
                    (None, 200),
                ],
                Ok(4),
                1200,
                &[0, 250, 500, 750, 1000],
            ),
        ] {
            let (found, elapsed, attempts) = play(script).await;
            assert_eq!(found, expected, "{script:?}");
            assert_eq!(attempts, starts, "{script:?}");
            // The timer of tokio is good to a millisecond.
            assert!(elapsed.abs_diff(after) <= 2, "{script:?}: {elapsed} ms");
        }
    }

    /// A listener that no further connection gets to: its queue is full, and further SYNs are dropped.
    struct Silent {
        _listener: Socket,
        _queued: Vec<TcpStream>,
        address: SocketAddr,
    }

    impl Silent {
        async fn at(ip: [u8; 4]) -> Self {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let free = SocketAddr::from((ip, 0));
            listener.bind(&free.into()).expect("a free port");
            listener.listen(0).expect("a listener");
            let address = listener.local_addr().expect("a bound socket");
            let address = address.as_socket().expect("an address");
            let mut queued = Vec::new();
            // The system may take one or two more than it is told to.
            while let Ok(stream) =
                tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
            {
                queued.push(stream.expect("a connection"));
                assert!(queued.len() < 100, "the queue has no end");
            }
            Self {
                _listener: listener,
                _queued: queued,
                address,
            }
        }
    }

    #[tokio::test]
    async fn a_silent_address_costs_little_and_once() {
        let silent = Silent::at([127, 0, 0, 2]).await;
        let good = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let good_address = good.local_addr().expect("a bound socket");
        let addresses = || vec![silent.address, good_address];
        let began = Instant::now();
        let connected = tokio::time::timeout(Duration::from_secs(10), first_of(addresses()))
            .await
            .expect("no waiting for the silent one")
            .expect("a connection");
        assert_eq!(connected.peer_addr().expect("connected"), good_address);
        assert!(began.elapsed() >= HEAD_START, "the silent one was tried");
        let is_late = |address: &SocketAddr| {
            let late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
            let until = late.get(address).copied();
            until.is_some_and(|until| until <= Instant::now() + DEMOTED)
        };
        assert!(is_late(&silent.address) && !is_late(&good_address));
        // Next time the good one comes first, however they are given.
        for given in [addresses(), addresses().into_iter().rev().collect()] {
            let ordered = in_order(given, |address| is_late(address));
            assert_eq!(ordered, [good_address, silent.address]);
        }
        // One that works again is not late any more.
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let other_address = other.local_addr().expect("a bound socket");
        super::remember(&[other_address, good_address], 1);
        assert!(is_late(&other_address));
        first_of(vec![other_address, other_address])
            .await
            .expect("a connection");
        assert!(!is_late(&other_address));
    }
}
