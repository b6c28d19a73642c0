//! The running program: threads, tasks, and how they end.
//!
//! One control thread keeps keys, answers probes and listens for signals, and one writes the log. Each worker thread has a
//! runtime of its own, accepts from the shared socket, and keeps its own upstream connections.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, Health};
use crate::budget::container::Container;
use crate::budget::{Budgets, Sizes};
use crate::certificate::CertificateError;
use crate::config::{Config, SessionKeyError};
use crate::container;
use crate::listener::{self, ConnectionSettings, Phase, Slots};
use crate::logging;
use crate::metrics::Metrics;
use crate::nonce_key::{self, NonceKeyError};
use crate::proxy::{Proxy, Settings, Shared};
use crate::reload::{self, KeptKeys, Reloader, WatchedSource};
use crate::secret_files;
use crate::tls::{Roots, RootsError};
use crate::upstream::{Connector, ConnectorError};

/// How long connections that are cut may take to say so in the log.
const CUT_PATIENCE: Duration = Duration::from_millis(500);

/// Fewer connections than this are less than a busy agent's clients may need.
const FEW_CONNECTIONS: usize = 1000;

/// Connections that the kernel holds until they are accepted. One more would be dropped without a
/// word, and try again after a second: a whole fleet of clients may come back at the same moment.
/// Linux allows so many unless told otherwise.
const BACKLOG: i32 = 4096;

/// Why the program could not start, or stopped.
#[derive(Debug)]
pub enum AppError {
    /// An address cannot be listened on.
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The listener's certificate cannot be used.
    Certificate(CertificateError),
    /// There is no key for nonces.
    NonceKey(NonceKeyError),
    /// The operating system refused a thread, a runtime or a signal handler.
    Os(io::Error),
    /// No trusted roots.
    Roots(RootsError),
    /// Keys are in a file, and it is none of keys.
    KeyFile(reload::Reason),
    /// Keys cannot be fetched in any way.
    Keys(reload::Reason),
    /// There are no keys for MCP sessions where there should be.
    Sessions(SessionKeyError),
    /// The upstream cannot be connected to over TLS.
    Upstream(ConnectorError),
    /// A thread or task that must run for ever ended.
    Ended(&'static str),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind {
                key,
                address,
                error,
            } => write!(f, "{key}: cannot listen on {address}: {error}"),
            Self::Certificate(error) => error.fmt(f),
            Self::NonceKey(error) => error.fmt(f),
            Self::Os(error) => error.fmt(f),
            Self::Roots(error) => write!(f, "trusted roots: {error}"),
            Self::KeyFile(error) => error.fmt(f),
            Self::Keys(error) => write!(f, "keys: {error}"),
            Self::Sessions(error) => error.fmt(f),
            Self::Upstream(error) => write!(f, "upstream: {error}"),
            Self::Ended(what) => write!(f, "{what} ended unexpectedly"),
        }
    }
}

impl std::error::Error for AppError {}

impl AppError {
    /// Whether the configuration is to blame, and not the machine.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Certificate(_)
                | Self::KeyFile(_)
                | Self::NonceKey(_)
                | Self::Roots(_)
                | Self::Sessions(_)
                | Self::Upstream(_)
        )
    }
}

impl From<io::Error> for AppError {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// Everything that a worker thread needs.
#[derive(Clone)]
struct Worker {
    shared: Arc<Shared>,
    settings: watch::Receiver<Arc<ConnectionSettings>>,
    slots: Slots,
    phase: watch::Receiver<Phase>,
    runtimes: Arc<Mutex<Vec<runtime::Handle>>>,
    /// Dropped when nothing is accepted any more.
    accepting: mpsc::Sender<Infallible>,
}

/// Runs until a signal has been obeyed. `source` is where the configuration came from.
///
/// # Errors
///
/// [`AppError`] when the program cannot start or a part of it has died.
pub fn run(config: Config, source: WatchedSource) -> Result<(), AppError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(supervise(config, source));
    // A name look-up or a file read that hangs must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

async fn supervise(config: Config, mut source: WatchedSource) -> Result<(), AppError> {
    let mut signals = Signals::install()?;
    let hangup = signal(SignalKind::hangup())?;
    let roots = Roots::load(config.auth0.keys.ca_file.as_deref()).map_err(AppError::Roots)?;
    reload::check_key_files(&config).map_err(AppError::KeyFile)?;
    let container = container::limits();
    let budgets = Budgets::new(sizes(&container, &config));
    let connector = Connector::new(
        &config.upstream,
        config.upstream_protocol,
        config.timeouts.connect,
    )
    .map_err(AppError::Upstream)?
    .within(&budgets.buffers);
    let data = bind("listen", config.listen)?;
    let admin = config
        .admin
        .map(|address| bind("admin", address))
        .transpose()?;

    let metrics = Arc::new(Metrics::new().with_budgets(&budgets));
    let runtimes = Arc::new(Mutex::new(Vec::new()));
    let (phase, watched_phase) = watch::channel(Phase::Serving);
    let slots = Slots::new(&budgets);
    announce(&config, &roots, &data, admin.as_ref())?;
    announce_budgets(&container, &budgets.sizes);
    logging::tell(&[], &secret_files::exposed(&config));
    let keys = KeptKeys::start(&config, &roots, &metrics).map_err(AppError::Keys)?;
    let workers = config.workers.get();
    let served_by = reload::connection_settings(&config).map_err(AppError::Certificate)?;
    let connections = watch::Sender::new(served_by);
    source.watch(&config);
    let nonces = nonce_key::load(&config, None).map_err(AppError::NonceKey)?;
    let sessions = config.mcp.sessions.load().map_err(AppError::Sessions)?;
    let settings = Settings::new(config, Arc::clone(&keys.store), connector, nonces)
        .with_sessions(sessions)
        .within(&budgets.sizes);
    let shared = Arc::new(Shared::new(settings, Arc::clone(&metrics)).with_budgets(budgets));
    let mut tasks = JoinSet::new();
    if let Some(admin) = admin {
        let health = Health {
            shared: Arc::clone(&shared),
            phase: phase.clone(),
            metrics: Arc::clone(&metrics),
            slots: slots.clone(),
            runtimes: Arc::clone(&runtimes),
        };
        tasks.spawn(admin::serve(
            tokio::net::TcpListener::from_std(admin)?,
            health,
        ));
    }
    let (accepting, mut accepted) = mpsc::channel(1);
    let worker = Worker {
        settings: connections.subscribe(),
        shared: Arc::clone(&shared),
        slots: slots.clone(),
        phase: watched_phase,
        runtimes,
        accepting,
    };
    reload::announce(shared.current().generation, source.file(), None);
    let reloader = Reloader::new(source, Arc::clone(&shared), keys, connections, metrics);
    tasks.spawn(reloader.run(hangup));
    let (dying, mut died) = mpsc::channel::<()>(1);
    for number in 0..workers {
        let (worker, listener, notice) = (
            worker.clone(),
            data.try_clone()?,
            DeathNotice(dying.clone()),
        );
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || run_worker(worker, listener, notice))?;
    }
    drop((data, worker));

    let stop = tokio::select! {
        stop = signals.next() => stop,
        _ = died.recv() => return Err(AppError::Ended("a worker thread")),
        _ = tasks.join_next() => return Err(AppError::Ended("a task that keeps keys, reloads or answers probes")),
    };
    let timeouts = shared.current().config.timeouts.clone();
    let ended = async {
        // A connection that is being accepted has no slot yet.
        _ = accepted.recv().await;
        slots.all_free().await;
    };
    tokio::select! {
        () = drain(stop, &timeouts, &phase, &slots, ended) => {}
        _ = signals.next() => tracing::warn!("second signal: ending at once"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Not ready at once; for SIGTERM the listener stays open for a while, since a balancer learns late;
/// then what runs may finish until the deadline. Whoever was silent for as long could not be told, and
/// has as long again to ask once more: a request that crosses the end of its connection is lost.
async fn drain(
    stop: Stop,
    timeouts: &crate::config::Timeouts,
    phase: &watch::Sender<Phase>,
    slots: &Slots,
    ended: impl Future<Output = ()>,
) {
    let linger = if stop == Stop::Terminate {
        timeouts.linger
    } else {
        Duration::ZERO
    };
    tracing::info!(
        signal = stop.name(),
        linger_s = linger.as_secs_f64(),
        drain_s = timeouts.drain.as_secs_f64(),
        "draining"
    );
    let deadline = tokio::time::sleep(timeouts.drain);
    tokio::pin!(deadline);
    phase.send_replace(Phase::Lingering);
    tokio::select! {
        () = tokio::time::sleep(linger) => {}
        () = &mut deadline => {}
    }
    phase.send_replace(Phase::Draining);
    tokio::pin!(ended);
    tokio::select! {
        () = &mut ended => return,
        () = tokio::time::sleep(linger) => {}
        () = &mut deadline => {}
    }
    phase.send_replace(Phase::Leaving);
    tokio::select! {
        biased;
        () = &mut ended => {}
        () = &mut deadline => {
            tracing::warn!(connections = slots.taken(), "timeouts.drain is over; the remaining connections are cut");
            phase.send_replace(Phase::Cut);
            // Each leaves its log line.
            _ = tokio::time::timeout(CUT_PATIENCE, slots.all_free()).await;
        }
    }
}

/// Tells the supervisor when its thread ends, by whatever way: a worker ends only with the process.
struct DeathNotice(mpsc::Sender<()>);

impl Drop for DeathNotice {
    fn drop(&mut self) {
        // A full channel holds somebody else's notice, which is enough.
        _ = self.0.try_send(());
    }
}

fn run_worker(worker: Worker, listener: TcpListener, notice: DeathNotice) {
    let _notice = notice;
    let served: io::Result<()> = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| {
            worker
                .runtimes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(runtime.handle().clone());
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let proxy = Arc::new(Proxy::new(worker.shared));
                listener::serve(listener, worker.settings, worker.slots, worker.phase, proxy).await;
                drop(worker.accepting);
                // The connections' tasks live on this runtime; the process ends when they have.
                std::future::pending().await
            })
        });
    if let Err(error) = served {
        tracing::error!(%error, "a worker thread cannot run");
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // The standard library has said 128; the last word counts.
        SockRef::from(&listener).listen(BACKLOG)?;
        Ok(listener)
    };
    bind().map_err(|error| AppError::Bind {
        key,
        address,
        error,
    })
}

/// How large the budgets are that the container allows. Without a bound on connections, accepted clients
/// would leave no descriptor for the upstream that answers them, and no memory for their requests.
fn sizes(container: &Container, config: &Config) -> Sizes {
    let wanted = config.limits.connections;
    let within = |container: &Container| Sizes::within(container, config.workers.get(), wanted);
    let sizes = within(container);
    let connections = sizes.client_connections;
    if connections < wanted {
        let open_files = container.descriptors;
        let memory = container.memory.map(|limit| limit.bytes);
        let message = "limits.connections is more than the limits of open files (ulimit -n, LimitNOFILE=) and of memory allow; fewer connections are accepted at a time";
        // A container with little memory is meant to be small.
        let by_files = within(&Container {
            memory: None,
            ..*container
        });
        if by_files.client_connections < wanted.min(FEW_CONNECTIONS) {
            tracing::warn!(wanted, connections, open_files, memory, message);
        } else {
            tracing::info!(wanted, connections, open_files, memory, message);
        }
    }
    sizes
}

fn announce_budgets(container: &Container, sizes: &Sizes) {
    tracing::info!(
        memory = container.memory.map(|limit| limit.bytes),
        memory_limit_by = container
            .memory
            .map(|limit| tracing::field::display(limit.source)),
        open_files = container.descriptors,
        connections = sizes.client_connections,
        upstream_connections = sizes.upstream_connections,
        head_bytes = sizes.head_bytes,
        message_bytes = sizes.message_bytes,
        answer_bytes = sizes.answer_bytes,
        buffer_bytes = sizes.buffer_bytes,
        token_cache_bytes = sizes.token_cache_bytes,
        replay_entries = sizes.replay_entries,
        "budgets"
    );
}

fn announce(
    config: &Config,
    roots: &Roots,
    data: &TcpListener,
    admin: Option<&TcpListener>,
) -> Result<(), AppError> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        upstream = %config.upstream,
        upstream_protocol = %config.upstream_protocol,
        workers = config.workers,
        roots = roots.count,
        roots_origin = roots.origin,
        "starting"
    );
    for tenant in &config.auth0.tenants {
        let audiences = logging::List(config.auth0.verifier.audiences.clone());
        let audience = audiences.value();
        tracing::info!(issuer = tenant.issuer, audience, "accepting tokens");
    }
    tracing::info!(listener = "data", address = %data.local_addr()?, "listening");
    if let Some(admin) = admin {
        tracing::info!(listener = "admin", address = %admin.local_addr()?, "listening");
    }
    Ok(())
}

/// How the process was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupt,
    Terminate,
}

impl Stop {
    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal that stops the process.
    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
        }
    }
}
