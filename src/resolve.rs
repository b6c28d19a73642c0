//! Name look-ups: the system's resolver, which blocks the thread that asks it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// How many threads look names up, for the whole process. One would do for the few names that a configuration
/// has, were it not that a look-up can hang for as long as the resolver is patient (by default 10 s and more):
/// the keys' hosts and the upstream must not all wait for one that does.
const THREADS: usize = 4;

/// Nothing but threads: no task runs here.
static POOL: OnceLock<Runtime> = OnceLock::new();

/// The look-ups that are under way, one for each name: whoever needs the same name meanwhile shares the answer.
static UNDER_WAY: Mutex<BTreeMap<String, Answer>> = Mutex::new(BTreeMap::new());

type Answer = watch::Receiver<Option<Result<Arc<[IpAddr]>, Arc<io::Error>>>>;

/// The addresses of a host, which may be an address itself and then needs no look-up. Safe to cancel.
///
/// # Errors
///
/// When the resolver knows no such name, or the system has no thread to ask it on.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let with_port = |address: &IpAddr| SocketAddr::new(*address, port);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![with_port(&address)]);
    }
    let mut answer = look_up(host)?;
    let answered = answer.wait_for(Option::is_some).await;
    match answered.map_err(io::Error::other)?.as_ref() {
        Some(Ok(addresses)) => Ok(addresses.iter().map(with_port).collect()),
        Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        None => Err(io::Error::other("no answer")),
    }
}

/// Joins the look-up of this name, or begins it. It goes on when nobody waits for it any more, since its thread
/// cannot be called back; there are never more of them than names.
fn look_up(host: &str) -> io::Result<Answer> {
    let mut under_way = under_way();
    if let Some(answer) = under_way.get(host) {
        return Ok(answer.clone());
    }
    let pool = pool()?;
    let (sender, answer) = watch::channel(None);
    let host = host.to_owned();
    under_way.insert(host.clone(), answer.clone());
    drop(under_way);
    pool.spawn_blocking(move || {
        let found = (host.as_str(), 0).to_socket_addrs();
        let found = found.map(|addresses| addresses.map(|address| address.ip()).collect());
        self::under_way().remove(&host);
        sender.send_replace(Some(found.map_err(Arc::new)));
    });
    Ok(answer)
}

fn under_way() -> MutexGuard<'static, BTreeMap<String, Answer>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool() -> io::Result<&'static Runtime> {
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = Builder::new_current_thread()
        .max_blocking_threads(THREADS)
        .thread_name("resolver")
        .build()?;
    Ok(POOL.get_or_init(|| pool))
}

#[cfg(test)]
mod tests {
    use super::{THREADS, addresses, look_up, pool, under_way};
    use std::net::SocketAddr;
    use std::sync::{Arc, Barrier};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn names_are_looked_up_and_addresses_are_not() {
        runtime().block_on(async {
            for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
                let expected: SocketAddr = expected.parse().expect("an address");
                assert_eq!(addresses(host, 80).await.expect("no look-up"), [expected]);
            }
            let found = addresses("localhost", 80).await.expect("localhost");
            assert!(!found.is_empty());
            for address in found {
                assert!(address.ip().is_loopback() && address.port() == 80);
            }
            // Longer than a label may be, so that no name server is asked.
            let nobody = "x".repeat(64);
            addresses(&nobody, 80).await.expect_err("no such name");
            assert!(!under_way().contains_key(&nobody));
        });
    }

    #[test]
    fn one_look_up_answers_everybody_who_waits() {
        let barriers = Arc::new([(); 2].map(|()| Barrier::new(THREADS + 1)));
        let occupy = || {
            let barriers = Arc::clone(&barriers);
            move || {
                for barrier in barriers.iter() {
                    barrier.wait();
                }
            }
        };
        let pool = pool().expect("threads");
        runtime().block_on(async {
            // Until then no look-up can begin.
            let busy = (0..THREADS)
                .map(|_| pool.spawn_blocking(occupy()))
                .collect::<Vec<_>>();
            barriers[0].wait();
            let answers = [(); 500].map(|()| look_up("127.1").expect("a thread"));
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.same_channel(&answers[0]))
            );
            barriers[1].wait();
            for one in busy {
                one.await.expect("no panic");
            }
            addresses("127.1", 80).await.expect("loopback");
            assert!(answers.iter().all(|answer| answer.borrow().is_some()));
            assert!(!under_way().contains_key("127.1"));
        });
    }
}
