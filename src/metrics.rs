//! What the process counts, for Prometheus.
//!
//! Every label has few values, all of them from the configuration or from this program: no path, no
//! subject, no key id.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::budget::{Budget, Budgets};
use crate::clock::UnixTime;

/// From a refusal without I/O to an agent that thinks for minutes, in seconds.
const DURATION_BUCKETS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0,
];

const SUCCESS: &str = "success";
const FAILURE: &str = "failure";
const RESULTS: [&str; 2] = [SUCCESS, FAILURE];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    first_byte: Histogram,
    in_flight: Gauge,
    streams: Family<StreamLabels, Gauge>,
    streams_expired: Family<StreamLabels, Counter>,
    shadow_refusals: Family<ShadowLabels, Counter>,
    token_cache: Family<CacheLabels, Counter>,
    /// Of the same family, at hand: every request counts there.
    token_cache_hits: Counter,
    token_cache_misses: Counter,
    key_fetches: Family<FetchLabels, Counter>,
    keys_fetched: Family<IssuerLabels, Gauge>,
    generation: Gauge,
    reloads: Family<ReloadLabels, Counter>,
    connections: Gauge,
    connection_limit: Gauge,
    tasks: Gauge,
    log_lines_dropped: Counter,
}

/// What is counted about one request when it is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    outcome: &'static str,
    code: &'static str,
    route: RouteLabel,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    kind: StreamKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    route: RouteLabel,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

impl FetchLabels {
    fn new(issuer: &str, result: &'static str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            result,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

/// A route by its pattern as configured; empty where none matched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RouteLabel(Option<Arc<str>>);

impl EncodeLabelValue for RouteLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.as_deref().unwrap_or_default().encode(encoder)
    }
}

/// What kind of answer goes on for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// `text/event-stream`.
    EventStream,
    /// `application/grpc` and its subtypes.
    Grpc,
    /// An upgraded connection.
    WebSocket,
    /// Any other body.
    Other,
}

impl StreamKind {
    /// The kind that a response's media type tells.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let starts_with = |prefix: &str| {
            content_type
                .and_then(|text| text.get(..prefix.len()))
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if starts_with("text/event-stream") {
            Self::EventStream
        } else if starts_with("application/grpc") {
            Self::Grpc
        } else {
            Self::Other
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::EventStream => "sse",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Other => "other",
        }
    }
}

impl EncodeLabelValue for StreamKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.name().encode(encoder)
    }
}

/// A request that is over.
#[derive(Debug)]
pub struct Finished<'r> {
    /// How it ended.
    pub outcome: &'static str,
    /// Its refusal's code.
    pub code: Option<&'static str>,
    /// The route that decided.
    pub route: Option<&'r Arc<str>>,
    /// Its method, if it could be read.
    pub method: Option<&'r Method>,
    /// How long it took, body included.
    pub duration: Duration,
}

/// What is looked up when somebody asks for the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Vitals {
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// Client connections that are open.
    pub connections: usize,
    /// The most that may be.
    pub connection_limit: usize,
    /// Tasks that run or wait.
    pub tasks: usize,
    /// Lines of the log that were dropped.
    pub dropped_log_lines: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("authgate"),
            requests: Family::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            first_byte: Histogram::new(DURATION_BUCKETS),
            in_flight: Gauge::default(),
            streams: Family::default(),
            streams_expired: Family::default(),
            shadow_refusals: Family::default(),
            token_cache: Family::default(),
            token_cache_hits: Counter::default(),
            token_cache_misses: Counter::default(),
            key_fetches: Family::default(),
            keys_fetched: Family::default(),
            generation: Gauge::default(),
            reloads: Family::default(),
            connections: Gauge::default(),
            connection_limit: Gauge::default(),
            tasks: Gauge::default(),
            log_lines_dropped: Counter::default(),
        };
        let looked_up = |result| {
            let labels = CacheLabels { result };
            metrics.token_cache.get_or_create_owned(&labels)
        };
        metrics.token_cache_hits = looked_up("hit");
        metrics.token_cache_misses = looked_up("miss");
        metrics.register();
        metrics.begin_at_zero();
        metrics
    }

    /// The same with what is held and refused of these budgets.
    #[must_use]
    pub fn with_budgets(mut self, budgets: &Budgets) -> Self {
        let collector = BudgetMetrics(budgets.clone());
        self.registry.register_collector(Box::new(collector));
        self
    }

    /// What is there from the start can be seen to increase for the first time. The labels of requests
    /// are too many for that.
    fn begin_at_zero(&self) {
        for result in RESULTS {
            _ = self.reloads.get_or_create(&ReloadLabels { result });
        }
        for kind in [
            StreamKind::EventStream,
            StreamKind::Grpc,
            StreamKind::WebSocket,
        ] {
            _ = self.streams.get_or_create(&StreamLabels { kind });
            _ = self.streams_expired.get_or_create(&StreamLabels { kind });
        }
        let kind = StreamKind::Other;
        _ = self.streams_expired.get_or_create(&StreamLabels { kind });
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests that are over", self.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the end of its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "time_to_first_byte",
            "From a request's head to the head of its answer",
            Unit::Seconds,
            self.first_byte.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests that are not over",
            self.in_flight.clone(),
        );
        registry.register(
            "streams",
            "Event streams, gRPC calls and WebSockets that are open",
            self.streams.clone(),
        );
        registry.register(
            "streams_expired",
            "Answers and WebSockets that were ended because their token had expired",
            self.streams_expired.clone(),
        );
        registry.register(
            "shadow_refusals",
            "Requests that a rule in shadow would have refused",
            self.shadow_refusals.clone(),
        );
        registry.register(
            "token_cache",
            "Look-ups of verified tokens",
            self.token_cache.clone(),
        );
        registry.register(
            "key_fetches",
            "Fetches of key sets",
            self.key_fetches.clone(),
        );
        registry.register_with_unit(
            "keys_fetched_timestamp",
            "When an issuer's keys were last fetched, since 1970",
            Unit::Seconds,
            self.keys_fetched.clone(),
        );
        registry.register(
            "config_generation",
            "How many configurations have been in force",
            self.generation.clone(),
        );
        registry.register(
            "config_reloads",
            "Attempts to load a changed configuration",
            self.reloads.clone(),
        );
        registry.register(
            "connections",
            "Client connections that are open",
            self.connections.clone(),
        );
        registry.register(
            "connection_limit",
            "The most client connections at a time",
            self.connection_limit.clone(),
        );
        registry.register("tasks", "Tasks of the worker threads", self.tasks.clone());
        registry.register(
            "log_lines_dropped",
            "Lines of the log that standard output did not take",
            self.log_lines_dropped.clone(),
        );
    }

    /// A request has begun.
    pub fn on_begin(&self) {
        self.in_flight.inc();
    }

    /// How many requests are not over.
    #[must_use]
    pub fn requests_in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// The head of its answer goes out.
    pub fn on_first_byte(&self, after: Duration) {
        self.first_byte.observe(after.as_secs_f64());
    }

    /// A request is over.
    pub fn on_finished(&self, finished: &Finished<'_>) {
        self.in_flight.dec();
        self.duration.observe(finished.duration.as_secs_f64());
        let labels = RequestLabels {
            outcome: finished.outcome,
            code: finished.code.unwrap_or_default(),
            route: RouteLabel(finished.route.cloned()),
            method: method_class(finished.method),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// A stream has begun.
    pub fn on_stream_begin(&self, kind: StreamKind) {
        self.streams.get_or_create(&StreamLabels { kind }).inc();
    }

    /// A stream is over.
    pub fn on_stream_end(&self, kind: StreamKind) {
        self.streams.get_or_create(&StreamLabels { kind }).dec();
    }

    /// An answer was ended because its token had expired.
    pub fn on_stream_expired(&self, kind: StreamKind) {
        self.streams_expired
            .get_or_create(&StreamLabels { kind })
            .inc();
    }

    /// A rule in shadow would have refused.
    pub fn on_shadow_refusal(&self, route: Option<&Arc<str>>, code: &'static str) {
        let route = RouteLabel(route.cloned());
        self.shadow_refusals
            .get_or_create(&ShadowLabels { route, code })
            .inc();
    }

    /// A verified token was looked up.
    pub fn on_token_cache(&self, hit: bool) {
        if hit {
            self.token_cache_hits.inc();
        } else {
            self.token_cache_misses.inc();
        }
    }

    /// An issuer's keys will be fetched.
    pub fn on_issuer(&self, issuer: &str) {
        for result in RESULTS {
            _ = self
                .key_fetches
                .get_or_create(&FetchLabels::new(issuer, result));
        }
    }

    /// An issuer has left the configuration. Its keys would seem to grow old for ever.
    pub fn on_issuer_gone(&self, issuer: &str) {
        for result in RESULTS {
            self.key_fetches.remove(&FetchLabels::new(issuer, result));
        }
        self.keys_fetched.remove(&IssuerLabels {
            issuer: issuer.to_owned(),
        });
    }

    /// A key set was fetched.
    pub fn on_keys_fetched(&self, issuer: &str, at: UnixTime) {
        let labels = IssuerLabels {
            issuer: issuer.to_owned(),
        };
        self.keys_fetched
            .get_or_create(&labels)
            .set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        self.on_key_fetch(issuer, SUCCESS);
    }

    /// A key set could not be fetched.
    pub fn on_key_fetch_failed(&self, issuer: &str) {
        self.on_key_fetch(issuer, FAILURE);
    }

    fn on_key_fetch(&self, issuer: &str, result: &'static str) {
        self.key_fetches
            .get_or_create(&FetchLabels::new(issuer, result))
            .inc();
    }

    /// Another configuration was loaded, or could not be.
    pub fn on_reload(&self, loaded: bool) {
        let result = if loaded { SUCCESS } else { FAILURE };
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }

    /// The metrics as text, in the format of `OpenMetrics` 1.0, which Prometheus reads.
    #[must_use]
    pub fn render(&self, vitals: Vitals) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.generation
            .set(i64::try_from(vitals.generation).unwrap_or(i64::MAX));
        self.connections.set(number(vitals.connections));
        self.connection_limit.set(number(vitals.connection_limit));
        self.tasks.set(number(vitals.tasks));
        self.log_lines_dropped
            .inner()
            .store(vitals.dropped_log_lines, Ordering::Relaxed);
        let mut rendered = String::new();
        // Writing to a string cannot fail.
        _ = text::encode(&mut rendered, &self.registry);
        rendered
    }
}

/// Looks at the budgets when somebody asks for the metrics.
#[derive(Debug)]
struct BudgetMetrics(Budgets);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    budget: &'static str,
}

impl BudgetMetrics {
    fn encode_each<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&Budget) -> M,
    ) -> fmt::Result {
        let budgets = self.0.all();
        let Some(kind) = budgets.first().map(|budget| of(budget).metric_type()) else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for budget in budgets {
            let labels = BudgetLabels {
                budget: budget.name(),
            };
            of(budget).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for BudgetMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let amount = |amount| ConstGauge::new(i64::try_from(amount).unwrap_or(i64::MAX));
        let used = ("budget_used", "What is held of a budget of the process");
        self.encode_each(&mut encoder, used, |budget| amount(budget.used()))?;
        let capacity = ("budget_capacity", "The most that is held of it");
        self.encode_each(&mut encoder, capacity, |budget| amount(budget.capacity()))?;
        let refused = ("budget_refused", "How often more of it was refused");
        self.encode_each(&mut encoder, refused, |budget| {
            ConstCounter::new(budget.refused())
        })?;
        let evicted = (
            "budget_evicted",
            "Connections that were ended to make room in it",
        );
        self.encode_each(&mut encoder, evicted, |budget| {
            ConstCounter::new(budget.evicted())
        })
    }
}

/// Strangers choose methods; the label has these only.
fn method_class(method: Option<&Method>) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::HEAD, "HEAD"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    let Some(method) = method else {
        return "";
    };
    KNOWN
        .iter()
        .find(|(known, _)| known == method)
        .map_or("other", |(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::{Finished, Metrics, StreamKind, UnixTime, Vitals, method_class};
    use crate::budget::Budgets;
    use http::Method;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::new();
        let route: Arc<str> = "/api/\"**".into();
        metrics.on_begin();
        metrics.on_begin();
        metrics.on_finished(&Finished {
            outcome: "refused",
            code: Some("token_expired"),
            route: Some(&route),
            method: Some(&Method::POST),
            duration: Duration::from_millis(3),
        });
        metrics.on_stream_begin(StreamKind::EventStream);
        metrics.on_stream_expired(StreamKind::WebSocket);
        let text = metrics.render(Vitals {
            generation: 3,
            connections: 7,
            connection_limit: 10,
            tasks: 9,
            dropped_log_lines: 11,
        });
        for line in [
            "authgate_requests_total{outcome=\"refused\",code=\"token_expired\",route=\"/api/\\\"**\",method=\"POST\"} 1",
            "authgate_requests_in_flight 1",
            "authgate_request_duration_seconds_bucket{le=\"0.0025\"} 0",
            "authgate_request_duration_seconds_bucket{le=\"0.005\"} 1",
            "authgate_request_duration_seconds_count 1",
            "authgate_streams{kind=\"sse\"} 1",
            "authgate_streams_expired_total{kind=\"websocket\"} 1",
            "authgate_config_generation 3",
            "authgate_connections 7",
            "authgate_connection_limit 10",
            "authgate_tasks 9",
            "authgate_log_lines_dropped_total 11",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn budgets_are_looked_at_when_they_are_asked_for() {
        let budgets = Budgets::default();
        let metrics = Metrics::new().with_budgets(&budgets);
        let mut lease = budgets.heads.lease([]);
        lease.grow(70_000).expect("it fits");
        _ = lease.grow(usize::MAX);
        budgets.heads.on_evicted(3);
        let text = metrics.render(Vitals::default());
        for line in [
            "# TYPE authgate_budget_used gauge",
            "authgate_budget_used{budget=\"head_bytes\"} 70000",
            "authgate_budget_used{budget=\"buffer_bytes\"} 0",
            "authgate_budget_capacity{budget=\"head_bytes\"} 67108864",
            "authgate_budget_refused_total{budget=\"head_bytes\"} 1",
            "authgate_budget_evicted_total{budget=\"head_bytes\"} 3",
            "authgate_budget_evicted_total{budget=\"connections\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn counters_begin_at_zero_and_issuers_go() {
        let metrics = Metrics::new();
        let issuer = "https://a.example/";
        metrics.on_issuer(issuer);
        let text = metrics.render(Vitals::default());
        for series in [
            "authgate_config_reloads_total{result=\"failure\"}",
            "authgate_token_cache_total{result=\"hit\"}",
            "authgate_streams{kind=\"grpc\"}",
            "authgate_streams_expired_total{kind=\"sse\"}",
            "authgate_key_fetches_total{issuer=\"https://a.example/\",result=\"failure\"}",
        ] {
            let line = format!("{series} 0");
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        // Not fetched in 1970 either.
        assert!(!text.contains("authgate_keys_fetched_timestamp_seconds{"));
        metrics.on_keys_fetched(issuer, UnixTime::from_secs(1));
        metrics.on_key_fetch_failed(issuer);
        metrics.on_keys_fetched("https://b.example/", UnixTime::from_secs(2));
        metrics.on_issuer_gone(issuer);
        let text = metrics.render(Vitals::default());
        assert!(!text.contains(issuer), "{text}");
        assert!(
            text.contains(
                "authgate_keys_fetched_timestamp_seconds{issuer=\"https://b.example/\"} 2"
            )
        );
    }

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../docs/operating.md");
        let metrics = Metrics::new().with_budgets(&Budgets::default());
        metrics.on_begin();
        metrics.on_first_byte(Duration::ZERO);
        metrics.on_stream_begin(StreamKind::Grpc);
        metrics.on_stream_end(StreamKind::Grpc);
        metrics.on_stream_expired(StreamKind::Grpc);
        metrics.on_shadow_refusal(None, "rule_denied");
        metrics.on_token_cache(true);
        metrics.on_keys_fetched("https://a.example/", UnixTime::from_secs(1));
        metrics.on_key_fetch_failed("https://a.example/");
        metrics.on_reload(true);
        metrics.on_finished(&Finished {
            outcome: "forwarded",
            code: None,
            route: None,
            method: None,
            duration: Duration::ZERO,
        });
        let text = metrics.render(Vitals::default());
        let types = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let mut count = 0;
        for (name, kind) in types {
            let suffix = if kind == "counter" { "_total" } else { "" };
            assert!(
                page.contains(&format!("`{name}{suffix}`")),
                "{name}{suffix}"
            );
            count += 1;
        }
        assert_eq!(count, 20);
    }

    #[test]
    fn no_stranger_makes_a_label() {
        let odd = Method::from_bytes(b"X-1").expect("a method");
        let lower = Method::from_bytes(b"get").expect("a method");
        assert_eq!(method_class(Some(&Method::GET)), "GET");
        assert_eq!(method_class(Some(&odd)), "other");
        assert_eq!(method_class(Some(&lower)), "other");
        assert_eq!(method_class(None), "");
    }

    #[test]
    fn streams_are_known_by_their_media_type() {
        for (text, kind) in [
            (Some("text/event-stream"), StreamKind::EventStream),
            (
                Some("Text/Event-Stream; charset=utf-8"),
                StreamKind::EventStream,
            ),
            (Some("application/grpc"), StreamKind::Grpc),
            (Some("application/grpc+proto"), StreamKind::Grpc),
            (Some("application/json"), StreamKind::Other),
            (Some(""), StreamKind::Other),
            (None, StreamKind::Other),
        ] {
            assert_eq!(StreamKind::of(text), kind, "{text:?}");
        }
    }
}
