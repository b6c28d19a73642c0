//! Another configuration in the running process: when it is loaded, and how it comes into force.
//!
//! Everything that a new configuration needs is made ready first. Then one assignment puts it in
//! force, and one log line says so: no request is decided by the old one after that line. A
//! configuration with errors changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::certificate::{CertificateError, CertificateFiles};
use crate::config::{Config, Loaded, Source};
use crate::keys::{self, Fetcher, KeyStore};
use crate::listener::ConnectionSettings;
use crate::logging;
use crate::metrics::Metrics;
use crate::nonce_key;
use crate::proxy::Shared;
use crate::rotation::RotationSettings;
use crate::secret_files;
use crate::tls::{HTTP_1_1, Roots};
use crate::upstream::Connector;

/// How often the file is looked at. A change counts once two looks agree on it, so that a file that
/// is still being written is not taken for a whole one.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer than one fetch the keys of a new issuer are waited for before they are done without.
const KEYS_SLACK: Duration = Duration::from_secs(1);

/// Why a configuration cannot come into force.
pub type Reason = Box<dyn std::error::Error + Send + Sync>;

/// The keys of one configuration's issuers, and the tasks that keep them fresh. They end with it.
#[derive(Debug)]
pub struct KeptKeys {
    /// The keys.
    pub store: Arc<KeyStore>,
    tasks: JoinSet<()>,
}

impl KeptKeys {
    /// Starts to keep the keys of these issuers.
    ///
    /// # Errors
    ///
    /// When there are no trusted roots, or rustls refuses them.
    pub fn start(config: &Config, roots: &Roots, metrics: &Arc<Metrics>) -> Result<Self, Reason> {
        let keys = &config.auth0.keys;
        let rotation = RotationSettings {
            refresh: keys.refresh,
            cooldown: keys.cooldown,
            serve_stale: keys.serve_stale,
        };
        let store = KeyStore::new(&config.auth0.tenants, rotation, Arc::clone(metrics));
        let store = Arc::new(store);
        let fetcher = Fetcher::new(roots.client_config(HTTP_1_1)?, keys.timeout);
        let mut tasks = JoinSet::new();
        for place in 0..config.auth0.tenants.len() {
            let algorithms = config.auth0.verifier.algorithms.clone();
            let fetcher = fetcher.clone();
            tasks.spawn(Arc::clone(&store).refresh_forever(place, fetcher, algorithms));
        }
        tasks.spawn(announce_readiness(store.complete()));
        Ok(Self { store, tasks })
    }
}

/// Whether the keys that are in files, and not fetched, are there.
///
/// # Errors
///
/// When such a file is missing, or is no key set.
pub fn check_key_files(config: &Config) -> Result<(), Reason> {
    for tenant in &config.auth0.tenants {
        keys::check_file(&tenant.source, &config.auth0.verifier.algorithms)?;
    }
    Ok(())
}

async fn announce_readiness(mut complete: watch::Receiver<bool>) {
    while complete.wait_for(|complete| *complete).await.is_ok() {
        tracing::info!("ready");
        if complete.wait_for(|complete| !*complete).await.is_err() {
            return;
        }
        tracing::error!("not ready: keys are missing");
    }
}

/// What a connection is served by under this configuration.
///
/// # Errors
///
/// When the certificate of `[tls]` cannot be used.
pub fn connection_settings(config: &Config) -> Result<Arc<ConnectionSettings>, CertificateError> {
    let tls = config
        .tls
        .as_ref()
        .map(CertificateFiles::load)
        .transpose()?;
    Ok(Arc::new(ConnectionSettings {
        tls,
        header_timeout: config.timeouts.header,
        idle_timeout: config.timeouts.idle,
        max_header_bytes: config.limits.header_bytes,
        max_headers: config.limits.headers,
        trusted_proxies: config.trusted_proxies.clone(),
        proxy_protocol: config.proxy_protocol,
    }))
}

/// Loads the configuration again on SIGHUP and when its file has changed.
#[derive(Debug)]
pub struct Reloader {
    source: WatchedSource,
    shared: Arc<Shared>,
    keys: KeptKeys,
    connections: watch::Sender<Arc<ConnectionSettings>>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    /// Takes over a process in which these settings are in force.
    #[must_use]
    pub const fn new(
        source: WatchedSource,
        shared: Arc<Shared>,
        keys: KeptKeys,
        connections: watch::Sender<Arc<ConnectionSettings>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            source,
            shared,
            keys,
            connections,
            metrics,
        }
    }

    /// Reloads for ever; ends only when a task that keeps keys has died.
    pub async fn run(mut self, mut hangup: Signal) {
        loop {
            let change = tokio::select! {
                _ = hangup.recv() => Change::Whole,
                change = self.source.changed() => change,
                _ = self.keys.tasks.join_next() => return,
            };
            match change {
                Change::Whole => self.reload().await,
                Change::Gone(file) => self.tell_of_missing(&file),
            }
        }
    }

    /// Nothing is loaded then; but what is in force is no longer what stands there.
    fn tell_of_missing(&self, file: &Path) {
        self.metrics.on_reload(false);
        let generation = self.shared.current().generation;
        tracing::error!(file = %file.display(), generation, "a file of the configuration is gone; what was loaded stays in force");
    }

    async fn reload(&mut self) {
        let loaded = self.source.load();
        let text_hash = loaded.text_hash;
        let reloaded = match loaded.config {
            Err(problems) => {
                for problem in problems {
                    tracing::error!(
                        path = problem.path,
                        problem = problem.message,
                        "configuration"
                    );
                }
                Err("it has errors".into())
            }
            Ok(config) => {
                logging::tell(&loaded.notes, &loaded.warnings);
                self.put_in_force(config, text_hash).await
            }
        };
        self.metrics.on_reload(reloaded.is_ok());
        if let Err(error) = reloaded {
            let generation = self.shared.current().generation;
            tracing::error!(%error, generation, "configuration not loaded; the one before stays in force");
        }
    }

    async fn put_in_force(
        &mut self,
        mut config: Config,
        text_hash: Option<u64>,
    ) -> Result<(), Reason> {
        let current = self.shared.current();
        keep_what_needs_a_restart(&mut config, &current.config);
        let connector = Connector::new(
            &config.upstream,
            config.upstream_protocol,
            config.timeouts.connect,
        )?
        .within(&self.shared.budgets.buffers);
        let connections = connection_settings(&config)?;
        let sessions = config.mcp.sessions.load()?;
        let previous = current.nonces.as_ref();
        let previous = previous.map(|nonces| (&current.config, nonces));
        let nonces = nonce_key::load(&config, previous)?;
        // Last of what can fail: it makes series for new issuers.
        let keys = if same_keys(&config, &current.config) {
            None
        } else {
            check_key_files(&config)?;
            Some(self.fresh_keys(&config).await?)
        };
        let store = keys.as_ref().map_or(&self.keys.store, |keys| &keys.store);
        let settings = current
            .succeeded_by(config, Arc::clone(store), connector, nonces)
            .with_sessions(sessions);
        let generation = settings.generation;
        self.shared.replace(settings);
        self.connections.send_replace(connections);
        if let Some(keys) = keys {
            self.keys = keys;
        }
        let tenants = &self.shared.current().config.auth0.tenants;
        for old in &current.config.auth0.tenants {
            if tenants.iter().all(|tenant| tenant.issuer != old.issuer) {
                self.metrics.on_issuer_gone(&old.issuer);
            }
        }
        logging::tell(&[], &secret_files::exposed(&self.shared.current().config));
        self.source.watch(&self.shared.current().config);
        let is_same = self.source.text_hash == text_hash;
        self.source.text_hash = text_hash;
        let same_text = self.source.file().map(|_| is_same);
        announce(generation, self.source.file(), same_text);
        Ok(())
    }

    /// The keys of new issuers, fetched before a request asks for them. An issuer that is out of reach
    /// does not hold the rest of the configuration up for long.
    async fn fresh_keys(&self, config: &Config) -> Result<KeptKeys, Reason> {
        let roots = Roots::load(config.auth0.keys.ca_file.as_deref())?;
        let keys = KeptKeys::start(config, &roots, &self.metrics)?;
        let mut complete = keys.store.complete();
        let patience = config.auth0.keys.timeout.saturating_add(KEYS_SLACK);
        let complete = tokio::time::timeout(patience, complete.wait_for(|complete| *complete));
        if !matches!(complete.await, Ok(Ok(_))) {
            tracing::warn!("the new configuration comes into force without all its keys");
        }
        Ok(keys)
    }
}

/// Says that a configuration is in force, and when it was loaded again, whether the file still has the same text:
/// who has changed it learns that the change has not come here.
pub fn announce(generation: u64, file: Option<&Path>, same_text: Option<bool>) {
    let file = file.map(|file| tracing::field::display(file.display()));
    tracing::info!(generation, file, same_text, "configuration loaded");
}

/// Where keys come from, and what is made of them.
fn same_keys(one: &Config, other: &Config) -> bool {
    one.auth0.tenants == other.auth0.tenants
        && one.auth0.keys == other.auth0.keys
        && one.auth0.verifier.algorithms == other.auth0.verifier.algorithms
}

/// Settings that are built into the running process keep their old values, and the log says so.
fn keep_what_needs_a_restart(config: &mut Config, current: &Config) {
    fn keep<T: Clone + PartialEq>(key: &str, new: &mut T, old: &T) {
        if new != old {
            tracing::warn!(
                setting = key,
                "this change needs a restart; the old value stays in force"
            );
            new.clone_from(old);
        }
    }
    keep("listen", &mut config.listen, &current.listen);
    keep("admin", &mut config.admin, &current.admin);
    keep("workers", &mut config.workers, &current.workers);
    keep("log", &mut config.logging.filter, &current.logging.filter);
    keep(
        "log_format",
        &mut config.logging.format,
        &current.logging.format,
    );
    keep(
        "limits.connections",
        &mut config.limits.connections,
        &current.limits.connections,
    );
}

/// Where a configuration comes from, and what its files looked like when they were loaded.
#[derive(Debug)]
pub struct WatchedSource {
    source: Source,
    /// The configuration's own file first.
    files: Vec<PathBuf>,
    known: Vec<Option<Stamp>>,
    /// Those that are missing, and of which it was told.
    gone: Vec<PathBuf>,
    /// Of the text that is in force.
    text_hash: Option<u64>,
}

/// What has become of the files.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// They are all there, and one has changed.
    Whole,
    /// This one is no longer there.
    Gone(PathBuf),
}

/// What a file's change shows in, links followed: Kubernetes swaps a link to a whole directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

impl WatchedSource {
    /// A source of which nothing has been loaded yet.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            files: source.file().map(Path::to_owned).into_iter().collect(),
            source,
            known: Vec::new(),
            gone: Vec::new(),
            text_hash: None,
        }
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.source.file()
    }

    /// Loads the configuration as it stands now. A change that comes while it is read is seen later.
    pub fn load(&mut self) -> Loaded {
        self.known = self.stamps();
        let loaded = self.source.load();
        self.text_hash = self.text_hash.or(loaded.text_hash);
        loaded
    }

    /// Watches the files that this configuration names, too: certificates and keys are renewed in place.
    pub fn watch(&mut self, config: &Config) {
        let certificate = config.tls.iter().flat_map(CertificateFiles::paths);
        let files = self
            .file()
            .into_iter()
            .chain(certificate)
            .chain(nonce_key::file(config))
            .map(Path::to_owned)
            .chain(config.mcp.sessions.file());
        let files: Vec<PathBuf> = files.collect();
        if files != self.files {
            self.files = files;
            self.known = self.stamps();
        }
    }

    /// Waits until a file has changed, or has gone, and stayed so from one look to the next. While one is
    /// missing nothing else is a change: what replaces it is. Safe to cancel.
    async fn changed(&mut self) -> Change {
        let mut last = Vec::new();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let stamps = self.stamps();
            if let Some(file) = self.newly_gone(&stamps, &last) {
                return Change::Gone(file);
            }
            let is_whole = stamps.iter().all(Option::is_some);
            if is_whole && stamps != self.known && stamps == last {
                return Change::Whole;
            }
            last = stamps;
        }
    }

    /// The first file that was missing at both looks and has not been told of.
    fn newly_gone(&mut self, now: &[Option<Stamp>], before: &[Option<Stamp>]) -> Option<PathBuf> {
        let looks = self.files.iter().zip(now).zip(before);
        for ((file, now), before) in looks {
            let is_known = self.gone.contains(file);
            if now.is_some() {
                self.gone.retain(|gone| gone != file);
            } else if before.is_none() && !is_known {
                self.gone.push(file.clone());
                return Some(file.clone());
            }
        }
        None
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files.iter().map(|file| Stamp::of(file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_swapped_link_is_a_change() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("v1", "a = 1"), ("v2", "a = 1")] {
            std::fs::create_dir(at(version)).expect("a directory");
            std::fs::write(at(version).join("authgate.toml"), text).expect("a file");
        }
        symlink(at("v1"), at("..data")).expect("a link");
        symlink(at("..data").join("authgate.toml"), at("authgate.toml")).expect("a link");
        let first = Stamp::of(&at("authgate.toml")).expect("a stamp");
        assert_eq!(Stamp::of(&at("authgate.toml")), Some(first.clone()));
        symlink(at("v2"), at("..data_tmp")).expect("a link");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("a swap");
        assert_ne!(Stamp::of(&at("authgate.toml")), Some(first));
        assert_eq!(Stamp::of(&at("nothing")), None);
    }
}
