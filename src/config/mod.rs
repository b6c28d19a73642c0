//! The configuration: flags, environment and file become one [`Config`] of the core's own types.
//!
//! Everything is parsed once, every problem is collected, and nothing is checked again later.

mod auth0;
mod cors;
mod dpop;
mod environment;
mod mcp;
mod network;
mod reader;
mod resources;
mod rules;
mod schema;
mod sources;
mod units;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use ipnet::IpNet;

pub use auth0::{Auth0, KeySettings, KeySource, Tenant};
pub use dpop::{Dpop, NonceSource};
pub use environment::{Environment, VARIABLES};
pub use mcp::{McpSettings, SessionKeyError, SessionKeySource};
pub use network::{Limits, Timeouts, UpstreamAddress, UpstreamProtocol};
pub use reader::Problem;
pub use rules::ClaimNames;
pub use schema::schema;
pub use sources::Overrides;

use crate::certificate::CertificateFiles;
use crate::claims::ClaimPath;
use crate::cors::CorsSettings;
use crate::headers::{AllowedHost, ManagedNames, may_carry_identity};
use crate::identity::IdentitySettings;
use crate::policy::{Area, Areas, DuplicateRoute, Policy, Requirement, Route};
use crate::resource::{PathPrefix, ProofSupport, ResourceSettings, Resources};
use crate::token::{PublicOrigin, TokenSources};
use environment::CONFIG_VARIABLE;
use reader::{Problems, Section};
use schema::Form;
use sources::Sources;

/// The most that is read of a configuration file: far more than the largest rule set.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A complete, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where probes connect; `None` for `"off"`.
    pub admin: Option<SocketAddr>,
    /// Further hosts that requests to that listener may be for.
    pub admin_hosts: Vec<AllowedHost>,
    /// Whether other machines may drain the process.
    pub anyone_may_drain: bool,
    /// Where requests go.
    pub upstream: UpstreamAddress,
    /// What is spoken there.
    pub upstream_protocol: UpstreamProtocol,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// How to log.
    pub logging: Logging,
    /// Whose tokens are accepted.
    pub auth0: Auth0,
    /// Where else than in `Authorization` a token may stand.
    pub token_sources: TokenSources,
    /// What an ingress strips from the beginning of every path, as `/team-a`.
    pub path_prefix: Option<PathPrefix>,
    /// Scheme and authority that clients use, where they are known.
    pub public_url: Option<PublicOrigin>,
    /// Proofs of possession; `None` for `"off"`: tokens that are bound to a key are refused.
    pub dpop: Option<Dpop>,
    /// What the upstream is told of the caller.
    pub identity: IdentitySettings,
    /// Further request headers that never reach the upstream.
    pub strip: Vec<HeaderName>,
    /// Request headers that a client can never send to the upstream, these among them.
    pub managed: ManagedNames,
    /// The rules.
    pub policy: Policy,
    /// The routes as configured, for people to read.
    pub routes: Vec<Route>,
    /// `[require]` as configured.
    pub require: Requirement,
    /// Protected resources.
    pub resources: Resources,
    /// Whether requests that no route matches are denied.
    pub deny_unmatched: bool,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether their connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Hosts that requests may be for; all of them when empty.
    pub allowed_hosts: Vec<AllowedHost>,
    /// TLS for clients; `None` for clear text.
    pub tls: Option<CertificateFiles>,
    /// Bounds.
    pub limits: Limits,
    /// Patience.
    pub timeouts: Timeouts,
    /// Which pages on other origins may ask; `None` leaves it to the upstream.
    pub cors: Option<CorsSettings>,
    /// How far MCP messages are read.
    pub mcp: McpSettings,
    /// How long a stream may outlive its token; `None` for `"never"`, which ends no stream.
    pub expiry_grace: Option<Duration>,
}

impl Config {
    /// What the upstream is told was stripped from the beginning of every path.
    #[must_use]
    pub fn forwarded_prefix(&self) -> Option<&HeaderValue> {
        self.path_prefix.as_ref().map(PathPrefix::value)
    }
}

/// Log filter and format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A `tracing` filter.
    pub filter: String,
    /// The format.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What loading found.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, or every error.
    pub config: Result<Config, Vec<Problem>>,
    /// What is doubtful.
    pub warnings: Vec<Problem>,
    /// Where two sources disagreed and which won.
    pub notes: Vec<String>,
    /// By which the text of the file can be told from another one; `None` when it was not read.
    pub text_hash: Option<u64>,
}

/// Loads the configuration. `file` is `--config` or `AUTHGATE_CONFIG`, if set.
#[must_use]
pub fn load(file: Option<&Path>, overrides: &Overrides, environment: &Environment) -> Loaded {
    let text = file.map_or_else(|| Ok(String::new()), read_file);
    match text {
        Ok(text) => {
            let name = file.map(|path| path.display().to_string());
            load_text(&name.unwrap_or_default(), &text, overrides, environment)
        }
        Err(problem) => unreadable(problem),
    }
}

/// Loads the configuration from the text of a file that has this name.
#[must_use]
pub fn load_text(
    name: &str,
    text: &str,
    overrides: &Overrides,
    environment: &Environment,
) -> Loaded {
    let table = match parse(name, text) {
        Ok(table) => table,
        Err(problem) => return unreadable(problem),
    };
    let mut problems = Problems::default();
    problems.warnings.extend(environment.warnings());
    let mut sources = Sources::new(environment);
    let paths = rules::paths(&table);
    let config = read(Section::root(table), overrides, &mut sources, &mut problems);
    problems.name_routes(&paths);
    let config = match config {
        Some(config) if problems.errors.is_empty() => Ok(config),
        _ => Err(problems.errors),
    };
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Loaded {
        config,
        warnings: problems.warnings,
        notes: sources.notes,
        text_hash: Some(hasher.finish()),
    }
}

/// What a command needs to know that speaks to the running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Where the process answers probes; `None` for `"off"`.
    pub admin: Option<SocketAddr>,
    /// Its patience; the two that a drain is measured by.
    pub timeouts: Timeouts,
}

/// Loads as much of the configuration as an [`Operation`] takes. The rest need not be there: a
/// container that only asks how the process is has no use for `AUTH0_DOMAIN`.
///
/// # Errors
///
/// Every problem of these parts.
pub fn load_operation(
    file: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<Operation, Vec<Problem>> {
    let table = match file {
        None => Ok(toml::Table::new()),
        Some(path) => read_file(path).and_then(|text| parse(&path.display().to_string(), &text)),
    };
    let mut root = Section::root(table.map_err(|problem| vec![problem])?);
    let mut problems = Problems::default();
    let mut sources = Sources::new(environment);
    let admin = admin(&mut root, overrides, &mut sources, &mut problems);
    let timeouts = network::timeouts(root.section("timeouts", &mut problems), &mut problems);
    match admin {
        Ok(admin) if problems.errors.is_empty() => Ok(Operation { admin, timeouts }),
        _ => Err(problems.errors),
    }
}

/// Where a configuration comes from, so that it can be loaded again.
#[derive(Debug, Clone)]
pub struct Source {
    file: Option<PathBuf>,
    overrides: Overrides,
    environment: Environment,
    notes: Vec<String>,
}

impl Source {
    /// The file is the one of `--config`, or else that of `AUTHGATE_CONFIG`. `variables` are those of the
    /// process.
    ///
    /// # Errors
    ///
    /// When it is not certain which file is meant, or what a variable sets.
    pub fn new(
        flag: Option<PathBuf>,
        overrides: Overrides,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<Problem>> {
        let environment = Environment::new(variables)?;
        let variable = environment.get(CONFIG_VARIABLE).map(str::trim);
        // A file was meant, and its rules with it.
        if flag.is_none() && variable == Some("") {
            return Err(vec![Problem {
                path: CONFIG_VARIABLE.to_owned(),
                message:
                    "is empty: name the configuration file, or unset the variable to run without one"
                        .to_owned(),
            }]);
        }
        let variable = variable.filter(|path| !path.is_empty()).map(Path::new);
        let mut notes = Vec::new();
        if let (Some(flag), Some(variable)) = (&flag, variable)
            && flag != variable
        {
            notes.push(format!(
                "config: {} from --config wins over {} from {CONFIG_VARIABLE}",
                flag.display(),
                variable.display()
            ));
        }
        let file = flag.or_else(|| variable.map(Path::to_owned));
        Ok(Self {
            file,
            overrides,
            environment,
            notes,
        })
    }

    /// The file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Loads the configuration as it stands now.
    #[must_use]
    pub fn load(&self) -> Loaded {
        let mut loaded = load(self.file(), &self.overrides, &self.environment);
        loaded.notes.extend(self.notes.iter().cloned());
        loaded
    }

    /// Loads what an [`Operation`] takes.
    ///
    /// # Errors
    ///
    /// Every problem of these parts.
    pub fn load_operation(&self) -> Result<Operation, Vec<Problem>> {
        load_operation(self.file(), &self.overrides, &self.environment)
    }
}

/// A file that cannot be read must not be followed by complaints about what it would have held.
fn unreadable(problem: Problem) -> Loaded {
    Loaded {
        config: Err(vec![problem]),
        warnings: Vec::new(),
        notes: Vec::new(),
        text_hash: None,
    }
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem {
        path: path.display().to_string(),
        message,
    };
    let metadata =
        std::fs::metadata(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(problem("is larger than 4 MiB".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))
}

fn parse(name: &str, text: &str) -> Result<toml::Table, Problem> {
    text.parse().map_err(|error: toml::de::Error| Problem {
        path: name.to_owned(),
        message: format!("is not TOML: {error}"),
    })
}

fn read(
    mut root: Section,
    overrides: &Overrides,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    let addresses = addresses(&mut root, overrides, sources, problems);
    let upstream_protocol = network::upstream_protocol(&mut root, problems);
    let workers = workers(&mut root, overrides, sources, problems);
    let logging = logging(&mut root, overrides, sources, problems);
    let deny_unmatched = root
        .choice(
            "unmatched",
            problems,
            &[("authenticated", false), ("deny", true)],
        )
        .unwrap_or(false);
    let trusted_proxies = network::trusted_proxies(&mut root, problems);
    let proxy_protocol = network::proxy_protocol(&mut root, &trusted_proxies, problems);
    let allowed_hosts = network::hosts(&mut root, "allowed_hosts", problems);
    let admin_hosts = network::hosts(&mut root, "admin_hosts", problems);
    let anyone_may_drain = anyone_may_drain(&mut root, problems);
    let tls = network::tls(root.section("tls", problems), problems);
    let limits = network::limits(root.section("limits", problems), problems);
    let timeouts = network::timeouts(root.section("timeouts", problems), problems);
    let auth0::Read { auth0, claim_names } =
        auth0::read(root.section("auth0", problems), sources, problems);
    let (identity, strip) = identity(root.section("identity", problems), problems);
    let require = rules::requirement(root.section("require", problems), &claim_names, problems);
    let (places, routes): (Vec<usize>, Vec<Route>) = root
        .sections("route", problems)
        .into_iter()
        .enumerate()
        .filter_map(|(place, section)| {
            Some((place, rules::route(section, &claim_names, problems)?))
        })
        .unzip();
    let accepted = auth0.as_ref().map(|auth0| auth0.audiences.as_slice());
    let path_prefix = resources::path_prefix(&mut root, problems);
    let resources = resources::read(
        root.sections("resource", problems),
        path_prefix.as_ref(),
        accepted.unwrap_or_default(),
        problems,
    );
    if !resources.is_empty() {
        resources::warn_of_hidden_routes(&routes, problems);
    }
    let policy = policy(&require, &routes, &places, deny_unmatched, problems);
    let has_public_url = root.is_set("public_url");
    let public_url = dpop::public_url(&mut root, path_prefix.as_ref(), problems);
    let dpop = dpop::read(
        root.section("dpop", problems),
        public_url.as_ref(),
        has_public_url,
        problems,
    );
    let token_sources = TokenSources {
        dpop: dpop.is_some(),
        ..token_sources(root.section("token_sources", problems), problems)
    };
    let cors = cors::read(root.section("cors", problems), problems);
    let is_gated = routes.iter().any(|route| route.mcp.is_some());
    let mcp = mcp::read(root.section("mcp", problems), is_gated, sources, problems);
    let expiry_grace = expiry_grace(root.section("streams", problems), problems);
    root.finish(problems);
    let mut auth0 = auth0?;
    let identity = identity?;
    auth0.verifier.max_token_bytes = limits.token_bytes;
    auth0.verifier.bound_tokens = dpop.is_some();
    let (resources, policy) = protect(resources, &mut auth0, policy?, dpop.as_ref());
    Some(Config {
        listen: addresses.listen?,
        admin: addresses.admin.ok()?,
        admin_hosts,
        anyone_may_drain,
        upstream: addresses.upstream?,
        upstream_protocol,
        workers,
        logging,
        auth0,
        token_sources,
        path_prefix,
        public_url,
        dpop,
        managed: ManagedNames::new(identity.names().chain(&strip)),
        identity,
        strip,
        policy,
        routes,
        require,
        resources,
        deny_unmatched,
        trusted_proxies,
        proxy_protocol,
        tls,
        allowed_hosts,
        limits,
        timeouts,
        cors,
        mcp,
        expiry_grace,
    })
}

/// Reads `admin_drain`.
fn anyone_may_drain(root: &mut Section, problems: &mut Problems) -> bool {
    let choices = [("local", false), ("anyone", true)];
    root.choice("admin_drain", problems, &choices)
        .unwrap_or(false)
}

/// Puts the rules together. `places` says where in the file each route is.
fn policy(
    require: &Requirement,
    routes: &[Route],
    places: &[usize],
    deny_unmatched: bool,
    problems: &mut Problems,
) -> Option<Policy> {
    Policy::new(require.clone(), routes.to_vec(), deny_unmatched)
        .map_err(|errors| {
            // A route without a usable path is not in the list, and people count it all the same.
            let place = |index: usize| places.get(index).copied().unwrap_or(index);
            for error in errors {
                let (first, second) = (place(error.first), place(error.second));
                let error = DuplicateRoute {
                    first,
                    second,
                    ..error
                };
                problems.error(format!("route[{second}]"), error.to_string());
            }
        })
        .ok()
}

/// Gives each resource its part of the paths, with the tokens that are good there. A token is verified for
/// any of them, and permitted where it belongs.
fn protect(
    resources: Vec<ResourceSettings>,
    auth0: &mut Auth0,
    policy: Policy,
    dpop: Option<&Dpop>,
) -> (Resources, Policy) {
    let area = |resource: &ResourceSettings| {
        let audiences = auth0.audiences.iter().chain(&resource.audiences);
        Area::new(&resource.url.local_path, audiences.cloned().collect())
    };
    let areas = Areas::new(
        resources.iter().map(area).collect(),
        auth0.audiences.clone(),
    );
    for audience in resources.iter().flat_map(|resource| &resource.audiences) {
        if !auth0.verifier.audiences.contains(audience) {
            auth0.verifier.audiences.push(audience.clone());
        }
    }
    let issuers: Vec<&str> = auth0
        .tenants
        .iter()
        .map(|tenant| tenant.issuer.as_str())
        .collect();
    let policy = policy.with_areas(areas);
    let proofs = dpop.map(|dpop| ProofSupport {
        algorithms: dpop.signing_alg_values_supported(),
        required: dpop.bound_access_tokens_required(),
    });
    let resources = Resources::new(resources, &issuers, proofs.as_ref(), &policy);
    (resources, policy)
}

/// Where to listen and where to forward to, as far as each could be read.
struct Addresses {
    listen: Option<SocketAddr>,
    admin: Result<Option<SocketAddr>, ()>,
    upstream: Option<UpstreamAddress>,
}

fn addresses(
    root: &mut Section,
    overrides: &Overrides,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Addresses {
    let listen = sources
        .top_level(
            "listen",
            overrides.listen.as_ref(),
            "AUTHGATE_LISTEN",
            Form::Pattern(r"^\s*$|:[0-9]{1,5}\s*$"),
            root,
            problems,
        )
        .map_or(
            Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))),
            |value| network::listen_address(&value, problems),
        );
    let admin = admin(root, overrides, sources, problems);
    let upstream = sources
        .top_level(
            "upstream",
            overrides.upstream.as_ref(),
            "AUTHGATE_UPSTREAM",
            Form::Pattern(r"^\s*$|^\s*(https?://[^/?#@\s]+/?|unix:/.*)$"),
            root,
            problems,
        )
        .map_or(Some(default_upstream()), |value| {
            network::upstream(&value, problems)
        });
    if let (Some(listen), Some(upstream)) = (listen, &upstream) {
        network::check_loop(listen, upstream, problems);
        if admin == Ok(Some(listen)) && listen.port() != 0 {
            problems.error("admin", format!("is the same address as listen ({listen})"));
        }
    }
    Addresses {
        listen,
        admin,
        upstream,
    }
}

/// Where probes connect; `None` for `"off"`. Fails when a problem was reported.
fn admin(
    root: &mut Section,
    overrides: &Overrides,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Result<Option<SocketAddr>, ()> {
    sources
        .top_level(
            "admin",
            overrides.admin.as_ref(),
            "AUTHGATE_ADMIN",
            Form::Pattern(r"^\s*(off\s*)?$|:[0-9]{1,5}\s*$"),
            root,
            problems,
        )
        .map_or(
            Ok(Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9090)))),
            |value| network::admin_address(&value, problems),
        )
}

/// Where Mastra listens.
fn default_upstream() -> UpstreamAddress {
    UpstreamAddress::Http {
        host: "127.0.0.1".to_owned(),
        port: 4111,
    }
}

/// `"auto"` follows the CPU limit of the container: the standard library reads cgroup quotas.
fn workers(
    root: &mut Section,
    overrides: &Overrides,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> NonZeroUsize {
    // The file may hold a bare number.
    let file_number = match root.take("workers", Form::Threads(network::MOST_WORKERS)) {
        Some(toml::Value::Integer(number)) => Some(toml::Value::String(number.to_string())),
        other => other,
    };
    let mut file = Section::root(
        file_number
            .map(|value| ("workers".to_owned(), value))
            .into_iter()
            .collect(),
    );
    sources
        .top_level(
            "workers",
            overrides.workers.as_ref(),
            "AUTHGATE_WORKERS",
            Form::Unknown,
            &mut file,
            problems,
        )
        .and_then(|value| network::workers(&value, problems))
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

fn logging(
    root: &mut Section,
    overrides: &Overrides,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Logging {
    let filter = sources
        .top_level(
            "log",
            overrides.log.as_ref(),
            "AUTHGATE_LOG",
            Form::Text,
            root,
            problems,
        )
        .map(|setting| {
            if let Err(error) = setting.value.parse::<tracing_subscriber::filter::Targets>() {
                problems.error(
                    &setting.source,
                    format!("{:?} is not a log filter: {error}", setting.value),
                );
            }
            setting.value
        });
    let format = sources
        .top_level(
            "log_format",
            overrides.log_format.as_ref(),
            "AUTHGATE_LOG_FORMAT",
            Form::Word(vec!["auto", "text", "json", ""]),
            root,
            problems,
        )
        .and_then(|setting| match setting.value.as_str() {
            "auto" => Some(LogFormat::Auto),
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            other => {
                problems.error(
                    &setting.source,
                    format!("is {other:?}; write \"auto\", \"text\" or \"json\""),
                );
                None
            }
        });
    Logging {
        filter: filter.unwrap_or_else(|| "info".to_owned()),
        format: format.unwrap_or(LogFormat::Auto),
    }
}

/// Reads `[identity]`.
fn identity(
    mut section: Section,
    problems: &mut Problems,
) -> (Option<IdentitySettings>, Vec<HeaderName>) {
    let subject_header = match header(&mut section, "subject_header", problems) {
        Ok(name) => Some(name.unwrap_or(HeaderName::from_static("x-forwarded-user"))),
        Err(()) => None,
    };
    let claims_header = header(&mut section, "claims_header", problems)
        .ok()
        .flatten();
    let forward_authorization = section
        .boolean("forward_authorization", problems)
        .unwrap_or(false);
    let strip_path = section.path_of("strip");
    let strip = section.strings("strip", problems).unwrap_or_else(|| {
        [
            "x-mastra-dev-playground",
            "x-mastra-client-type",
            "x-mastra-public-host",
        ]
        .map(str::to_owned)
        .to_vec()
    });
    let strip: Vec<HeaderName> = strip
        .iter()
        .filter_map(|name| parse_header(&strip_path, name, problems))
        .collect();
    for name in &strip {
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            problems.error(
                &strip_path,
                format!("{name} cannot be stripped: the request would mean another one"),
            );
        }
    }
    let headers_path = section.path_of("headers");
    let mut headers = Vec::new();
    match section.take("headers", Form::Claims) {
        None => {}
        Some(toml::Value::Table(table)) => {
            for (name, claim) in table {
                let path = format!("{headers_path}.{name:?}");
                let claim: Option<ClaimPath> = rules::claim_path(&path, claim, problems);
                if let (Some(name), Some(claim)) =
                    (parse_identity_header(&path, &name, problems), claim)
                {
                    headers.push((name, claim));
                }
            }
        }
        Some(other) => problems.error(
            &headers_path,
            format!(
                "is {}; write header = \"claim\" lines",
                reader::type_name(&other)
            ),
        ),
    }
    section.finish(problems);
    let settings = subject_header.map(|subject_header| IdentitySettings {
        subject_header,
        claims_header,
        headers,
        forward_authorization,
    });
    let names: Vec<HeaderName> = settings
        .iter()
        .flat_map(IdentitySettings::names)
        .cloned()
        .collect();
    for (place, name) in names.iter().enumerate() {
        if names
            .iter()
            .take(place)
            .any(|other| ManagedNames::alike(other, name))
        {
            problems.error("identity", format!("{name} is used for two headers"));
        }
    }
    (settings, strip)
}

fn header(
    section: &mut Section,
    key: &'static str,
    problems: &mut Problems,
) -> Result<Option<HeaderName>, ()> {
    let path = section.path_of(key);
    match section.string(key, problems) {
        None => Ok(None),
        Some(name) => parse_identity_header(&path, &name, problems)
            .map(Some)
            .ok_or(()),
    }
}

fn parse_identity_header(path: &str, name: &str, problems: &mut Problems) -> Option<HeaderName> {
    let name = parse_header(path, name, problems)?;
    if may_carry_identity(&name) {
        Some(name)
    } else {
        problems.error(path, format!("{name} has a meaning in HTTP and cannot carry identity; choose one such as \"x-forwarded-user\""));
        None
    }
}

fn parse_header(path: &str, name: &str, problems: &mut Problems) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        problems.error(path, format!("{name:?} is not a header name"));
    }
    parsed
}

/// Reads `[token_sources]`.
fn token_sources(mut section: Section, problems: &mut Problems) -> TokenSources {
    let path = section.path_of("query_parameter");
    let query_parameter = section.string("query_parameter", problems);
    let plain = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    if query_parameter.as_ref().is_some_and(|name| !plain(name)) {
        problems.error(
            path,
            "is a parameter's name, of letters, digits, \"-\", \".\", \"_\" and \"~\"",
        );
    }
    let websocket_protocol = section
        .boolean("websocket_protocol", problems)
        .unwrap_or(false);
    section.finish(problems);
    TokenSources {
        query_parameter,
        websocket_protocol,
        dpop: false,
    }
}

/// Reads `[streams]`.
fn expiry_grace(mut section: Section, problems: &mut Problems) -> Option<Duration> {
    const DEFAULT: Duration = Duration::from_mins(5);
    let never = section.is_word("expiry_grace", "never");
    let grace = section.duration_or("never", "expiry_grace", problems);
    section.finish(problems);
    if never {
        None
    } else {
        Some(grace.unwrap_or(DEFAULT))
    }
}
