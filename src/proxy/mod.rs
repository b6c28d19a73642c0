//! A request's way through: checks, token, rules, upstream. One straight path, one exit for refusals.

mod access_log;
mod authenticate;
mod body;
mod body_room;
mod challenge;
mod first_sight;
mod frames;
mod long_reads;
mod message;
mod possession;
mod refusal;
mod resource;
mod respond;
mod schemes;
mod settings;
mod tools;
mod tunnel;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{BufMut as _, Bytes};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;

pub use body::{Body, BodyError};
pub(crate) use challenge::Realm;
pub(crate) use message::of_head as message_of_head;
pub(crate) use possession::{Worth, worth};
pub use refusal::Refusal;
pub(crate) use resource::{check_source, metadata};
pub(crate) use respond::{Reader, options_answer, refusal_text};
pub(crate) use schemes::{Credentials, Schemes};
pub use settings::{Settings, Shared};

use crate::authorized::{AuthorizedRequest, Forwarding};
use crate::budget::{Exhausted, Shares};
use crate::canonical::{CanonicalRequest, PathError};
use crate::config::{Config, UpstreamProtocol};
use crate::cors::{CorsSettings, Origin};
use crate::headers::{self, Host, MaxForwards, Outbound, Peer, TooManyOptions};
use crate::listener::{Answering, Client, Handler, Places, Unreadable};
use crate::mcp::{self, Message, RequestId};
use crate::metrics::StreamKind;
use crate::policy::{Caller, Permit};
use crate::random::Random;
use crate::upstream::{Asker, Failure};
use access_log::AccessLog;
use first_sight::FirstSight;
use long_reads::LongReads;
use message::{ClientBody, Intake};
use possession::Possession;
use settings::CurrentUpstream;
use tools::ToolFilter;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One worker's proxy.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    upstream: CurrentUpstream,
    first_sight: FirstSight,
    proofs: FirstSight,
    long_reads: Arc<LongReads>,
    places: Arc<Places<Body>>,
    random: Mutex<Random>,
}

/// What is known of a request beside itself, under the configuration that decides on it.
struct Exchange {
    settings: Arc<Settings>,
    origin: Origin,
    request_id: HeaderValue,
    possession: Possession,
    log: AccessLog,
    /// What the caller holds of the budgets, over all its connections.
    caller: Arc<Shares>,
    /// For a request that is answered in JSON-RPC, what its id is.
    rpc: Option<RequestId>,
    /// The MCP messages that were read, where they decide.
    messages: Vec<Message>,
    /// Whether the answer is made for its caller: with its own tools, for it alone to keep.
    is_filtered: bool,
    /// When the answer must end, once the request is on its way.
    expiry: Option<Instant>,
}

impl Proxy {
    /// A proxy with connections of its own.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            upstream: CurrentUpstream::default(),
            first_sight: FirstSight::default(),
            proofs: FirstSight::default(),
            long_reads: Arc::default(),
            places: Arc::default(),
            random: Mutex::new(Random::new()),
        }
    }

    /// The envelope: a request gets its id and its one log line, and every refusal its answer. One that is
    /// refused for want of room comes here too.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
        refused: Option<Exhausted>,
    ) -> Response<Body> {
        let request_id = self.request_id(&request);
        let metrics = &self.shared.metrics;
        let settings = self.shared.current();
        let mut exchange = Exchange {
            origin: Origin::of(request.headers(), settings.config.cors.as_ref()),
            possession: Possession::default(),
            caller: Arc::clone(self.shared.callers.anonymous()),
            log: AccessLog::begin(Some(&request), &request_id, client.address(), metrics),
            request_id,
            rpc: None,
            messages: Vec::new(),
            is_filtered: false,
            expiry: None,
            settings,
        };
        let is_http2 = request.version() == Version::HTTP_2;
        let is_grpc = headers::is_grpc(request.headers());
        let credentials = Credentials::under(&exchange.settings.config, request.headers());
        let mut is_last = client.is_draining();
        let (head, body) = request.into_parts();
        let canonical = match refused {
            None => self.canonical(&exchange.settings.config, head, &body, &client),
            Some(why) => Err(Refusal::Exhausted(why)),
        };
        // Read in place from here on: it is large, and moving it costs.
        let (request, answer) = match canonical {
            Ok(ref request) => {
                let body = ClientBody::new(body);
                let answer = self.handle(request, body, &client, &mut exchange);
                (Some(request), answer.await)
            }
            Err(refusal) => (None, Err(refusal)),
        };
        let Exchange {
            settings,
            origin,
            request_id,
            possession,
            mut log,
            rpc,
            messages,
            expiry,
            ..
        } = exchange;
        let mut response = match answer {
            Ok(Answer::Own(response)) => {
                log.status(response.status());
                log.complete();
                response.map(|body| Body::own(body, log))
            }
            Ok(Answer::Forwarded(mut response)) => {
                origin.mark_forwarded(response.headers_mut(), settings.config.cors.as_ref());
                if response.status().is_success() {
                    possession.renew_nonce(response.headers_mut());
                }
                log.status(response.status());
                log.streams(stream_kind(response.headers()));
                response.map(|body| Body::forwarded(body, expiry, is_grpc && is_http2, log))
            }
            Ok(Answer::Switched(switched)) => {
                log.streams(StreamKind::WebSocket);
                tunnel::answer(switched, expiry, log)
            }
            Err(refusal) => {
                is_last |= refusal.leaves_framing_in_doubt();
                let realm = Realm::of(&settings.config, request, &messages, &refusal);
                let schemes = Schemes::new(&settings.config, credentials);
                let reader = match &rpc {
                    _ if is_grpc => Reader::Grpc,
                    Some(id) => Reader::JsonRpc(id),
                    None => Reader::Http,
                };
                respond::refuse(&refusal, reader, &realm, schemes, &request_id, &origin, log)
            }
        };
        if is_last && !is_http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Tells the client to use another connection next time (RFC 9112 §9.6).
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The one form of a request, which is all that is looked at from here on.
    fn canonical(
        &self,
        config: &Config,
        head: request::Parts,
        body: &Incoming,
        client: &Client,
    ) -> Result<CanonicalRequest, Refusal> {
        // A client that nominates `Via` does not hide a loop.
        let is_loop = self.shared.pseudonym.has_forwarded(&head.headers);
        let declared = body.size_hint().exact();
        let request = canonical(
            config,
            head,
            client.saw_fragment(),
            declared,
            !body.is_end_stream(),
        );
        if is_loop && request.is_ok() {
            return Err(Refusal::Loop);
        }
        request
    }

    /// The straight path.
    async fn handle(
        &self,
        request: &CanonicalRequest,
        mut body: ClientBody,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let permit = match self.decide(request, &mut body, client, exchange).await? {
            Decision::Own(answer) => return Ok(Answer::Own(answer)),
            Decision::Pass(permit) => permit,
        };
        let Exchange {
            settings,
            origin,
            request_id,
            log,
            caller,
            is_filtered,
            messages,
            expiry,
            ..
        } = exchange;
        for denial in permit.shadowed() {
            log.shadowed(denial.code());
            tracing::warn!(request_id = log.request_id(), code = denial.code(), detail = %denial, "shadow rule would have refused");
        }
        if request.max_forwards() == MaxForwards::Spent {
            return Ok(Answer::Own(options_answer(origin, request_id)));
        }
        let config = &settings.config;
        let bind = |keys| mcp::bind_request(keys, request.headers(), message::principal(&permit));
        let session = settings.sessions.as_ref().map(bind).transpose();
        let session = session.map_err(|mcp::UnknownSession| Refusal::UnknownSession)?;
        // Boxed, as are the futures of its work, so that they take no room in those of ordinary requests.
        let filter = is_filtered.then(|| {
            let connection = (!peer_is_trusted(config, client)).then_some(&client.shares().answers);
            let shares = connection.into_iter().chain([&caller.answers]).cloned();
            let lease = self.shared.budgets.answers.lease(shares);
            Box::new(ToolFilter::new(&self.shared, &permit, messages, lease))
        });
        let mut outbound = self.outbound(config, request, client, request_id);
        outbound.reads_answer = filter.is_some();
        let forwarding = Forwarding {
            managed: &config.managed,
            token_sources: &config.token_sources,
            session: session.as_ref(),
            outbound,
        };
        let authorize = |body| AuthorizedRequest::new(&permit, body, &forwarding);
        let version = request.version();
        let body = body.into_request_body(version, config.limits.body_bytes, client);
        let upstream = self.upstream.under(settings, &self.shared);
        let asker = Asker {
            connection: (!forwarding.outbound.peer.is_trusted)
                .then_some(&client.shares().upstream_connections),
            caller: Some(&caller.upstream_connections),
        };
        let now = log.sending();
        *expiry = log.expiry(settings.expiry_grace(), now);
        if request.is_websocket() {
            // Boxed, so that it takes no room in the futures of ordinary requests.
            let answer = Box::pin(upstream.send_upgrade(authorize(body), asker)).await?;
            let (mut answer, place) = answer;
            log.answered();
            bind_answer(settings, answer.headers_mut(), &permit)?;
            return tunnel::open(answer, place, request_id, client);
        }
        let interim = Self::interim_to(client, version);
        let answer = upstream.send(body, authorize, *expiry, interim, asker);
        let mut response = answer.await?;
        log.answered();
        headers::rewrite_response(response.headers_mut(), request_id)
            .map_err(|TooManyOptions| Refusal::Upstream(Failure::TOO_MANY_OPTIONS))?;
        bind_answer(settings, response.headers_mut(), &permit)?;
        Ok(Answer::Forwarded(match filter {
            None => response.map(body::Upstream::Pooled),
            Some(filter) => {
                let expiry = expiry.map(Into::into);
                Box::pin(filter.apply(response, expiry, &self.long_reads)).await?
            }
        }))
    }

    /// Every check, under one configuration. When another one comes in the meantime, which is possible
    /// while a token's key is waited for, the decision is made anew: a rule that was taken away
    /// decides on nothing any more.
    async fn decide<'r>(
        &self,
        request: &'r CanonicalRequest,
        body: &mut ClientBody,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Decision<'r>, Refusal> {
        loop {
            let settings = self.shared.current();
            let cors = settings.config.cors.as_ref();
            exchange.origin = Origin::of(request.headers(), cors);
            exchange.settings = Arc::clone(&settings);
            let forwarded_host = peer_is_trusted(&settings.config, client)
                .then(|| headers::forwarded_host(request.headers()))
                .flatten();
            let forwarded_host = forwarded_host.as_ref();
            let declared_body = body.incoming.size_hint().exact();
            check_served(&settings.config, request, forwarded_host, declared_body)?;
            if let Some(answer) = metadata(&settings.config, request, &exchange.request_id)? {
                return Ok(Decision::Own(answer));
            }
            let (origin, request_id) = (&exchange.origin, &exchange.request_id);
            if let Some(answer) = own_answer(cors, request, origin, request_id)? {
                return Ok(Decision::Own(answer));
            }
            check_source(&settings.config, request, forwarded_host, origin)?;
            let permit = self
                .permit(&settings, request, body, client, exchange)
                .await;
            match permit {
                Ok(Some(permit)) => return Ok(Decision::Pass(permit)),
                Ok(None) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Both checks: who is asking, and may they. `None` when the configuration has changed meanwhile.
    async fn permit<'r>(
        &self,
        settings: &Settings,
        request: &'r CanonicalRequest,
        body: &mut ClientBody,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Option<Permit<'r>>, Refusal> {
        exchange.messages.clear();
        let policy = &settings.config.policy;
        if let Some(preflight) = policy.matched_preflight(request) {
            exchange.log.matched(preflight.route());
            let decide = || preflight.authorize();
            let decided = self.shared.while_current(settings, decide).transpose();
            return decided.map_err(Refusal::Denied);
        }
        let matched = policy.matched_request(request, &[]);
        let rules = matched.rules();
        exchange.log.matched(rules.route());
        exchange.rpc = message::is_rpc(rules, request).then(RequestId::default);
        let asked = async {
            let caller = self
                .authenticate(settings, request, client, exchange)
                .await?;
            let caller = caller.map_or(Caller::Anonymous, Caller::Verified);
            message::check_body(rules, request)?;
            let messages = match &mut exchange.rpc {
                Some(id) if message::is_needed(rules, &caller) => {
                    // Boxed, so that it takes no room in the futures of those whose body is not read.
                    let config = &settings.config;
                    let intake = Intake {
                        room: &self.shared.messages,
                        connection: (!peer_is_trusted(config, client))
                            .then_some(&client.shares().messages),
                        caller: &exchange.caller.messages,
                        turns: &self.long_reads,
                    };
                    Box::pin(message::read(config, request, body, client, intake, id)).await?
                }
                _ => Vec::new(),
            };
            Ok((caller, messages))
        };
        let (caller, read) = match asked.await {
            Ok(asked) => asked,
            Err(refusal) => {
                return self
                    .shared
                    .while_current(settings, || Err(refusal))
                    .unwrap_or(Ok(None));
            }
        };
        exchange.messages = read;
        let messages = exchange.messages.as_slice();
        let matched = if messages.is_empty() {
            matched
        } else {
            policy.matched_request(request, messages)
        };
        exchange.is_filtered = settings.config.mcp.filter_tools
            && tools::is_looked_at(matched.rules(), request.method());
        let decide = || matched.authorize(caller);
        let decided = self.shared.while_current(settings, decide).transpose();
        decided.map_err(Refusal::Denied)
    }

    fn outbound<'r>(
        &'r self,
        config: &'r Config,
        request: &'r CanonicalRequest,
        client: &'r Client,
        request_id: &'r HeaderValue,
    ) -> Outbound<'r> {
        let upstream_is_http2 = config.upstream_protocol == UpstreamProtocol::Http2;
        Outbound {
            identity: None,
            forward_authorization: config.identity.forward_authorization,
            host: request.host(),
            version: request.version(),
            scheme: if client.is_tls() { "https" } else { "http" },
            te_trailers: upstream_is_http2 && request.takes_trailers(),
            max_forwards: request.max_forwards(),
            reads_answer: false,
            pseudonym: &self.shared.pseudonym,
            peer: Peer {
                address: client.forwarded_for(),
                is_trusted: peer_is_trusted(config, client),
            },
            path_prefix: config.forwarded_prefix(),
            request_id,
        }
    }

    /// Passes early hints (RFC 8297) on to an HTTP/1.1 client. hyper has no place for them in HTTP/2,
    /// and an HTTP/1.0 client would take them for the answer.
    fn interim_to(
        client: &Client,
        version: Version,
    ) -> Option<impl Fn(StatusCode, &HeaderMap) + Clone + Send + Sync + use<>> {
        let client = (version == Version::HTTP_11).then(|| client.clone())?;
        Some(move |status, headers: &HeaderMap| {
            if status == StatusCode::EARLY_HINTS {
                let mut headers = headers.clone();
                // A hint that cannot be read is dropped.
                if headers::remove_hop_by_hop(&mut headers).is_ok() {
                    client.send_interim(&respond::http1_head(status, &headers));
                }
            }
        })
    }

    /// A client's request id if it is well-formed and said once, else a new one.
    fn request_id(&self, request: &Request<Incoming>) -> HeaderValue {
        let mut values = request.headers().get_all(X_REQUEST_ID).iter();
        match (values.next(), values.next()) {
            (Some(id), None) if headers::is_request_id(id.as_bytes()) => id.clone(),
            _ => self.fresh_request_id(),
        }
    }

    fn fresh_request_id(&self) -> HeaderValue {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut id = Text([0; 32]);
        let mut rest = id.0.as_mut_slice();
        rest.put_slice(&random.digits());
        rest.put_slice(&random.digits());
        // Hexadecimal digits are always a header value.
        HeaderValue::from_maybe_shared(Bytes::from_owner(id))
            .unwrap_or(HeaderValue::from_static("none"))
    }
}

impl Handler for Arc<Proxy> {
    type Body = Body;

    fn answer(&self, request: Request<Incoming>, client: Client) -> Answering<Body> {
        self.places
            .make(Self::clone(self).serve(request, client, None))
    }

    fn refuse(
        &self,
        request: Request<Incoming>,
        client: Client,
        why: Exhausted,
    ) -> Answering<Body> {
        self.places
            .make(Self::clone(self).serve(request, client, Some(why)))
    }

    fn answer_unreadable(&self, why: Unreadable, client: &Client) -> Vec<u8> {
        let request_id = self.fresh_request_id();
        let log = AccessLog::begin(None, &request_id, client.address(), &self.shared.metrics);
        let settings = self.shared.current();
        let realm = Realm::unknown(&settings.config);
        let schemes = Schemes::new(&settings.config, Credentials::Nothing);
        respond::refuse_unreadable(why, &realm, schemes, &request_id, log)
    }
}

/// A fresh id. Its bytes are shared by the request, the answer and the log.
struct Text([u8; 32]);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What the checks come to, if they do not refuse.
enum Decision<'r> {
    /// An answer that is made here.
    Own(Response<Bytes>),
    /// The request may be forwarded.
    Pass(Permit<'r>),
}

/// What is answered here before anybody is asked who they are.
fn own_answer(
    cors: Option<&CorsSettings>,
    request: &CanonicalRequest,
    origin: &Origin,
    request_id: &HeaderValue,
) -> Result<Option<Response<Bytes>>, Refusal> {
    if request.is_about_server() {
        return Ok(Some(options_answer(origin, request_id)));
    }
    let Some(settings) = cors else {
        return Ok(None);
    };
    if request.preflight_method().is_some() {
        let answer = respond::preflight(origin, request.headers(), settings, request_id);
        return Ok(Some(answer));
    }
    // To a WebSocket browsers apply no CORS: nobody but the server looks at its origin.
    let must_be_welcome = settings.enforce_origin || request.is_websocket();
    if origin.is_foreign() && must_be_welcome {
        return Err(Refusal::OriginDenied);
    }
    Ok(None)
}

fn peer_is_trusted(config: &Config, client: &Client) -> bool {
    client.address().is_some_and(|peer| {
        let mut networks = config.trusted_proxies.iter();
        networks.any(|network| network.contains(&peer.ip()))
    })
}

/// Seals the MCP session of an answer, where sessions belong to somebody.
fn bind_answer(
    settings: &Settings,
    headers: &mut HeaderMap,
    permit: &Permit<'_>,
) -> Result<(), Refusal> {
    let bind = |keys| mcp::bind_answer(keys, headers, message::principal(permit));
    settings
        .sessions
        .as_ref()
        .map_or(Ok(()), bind)
        .map_err(Refusal::Answer)
}

/// What comes back to a request that is not refused.
enum Answer {
    /// Made here: for a preflight in the upstream's stead, for an OPTIONS that ends here, or a resource's
    /// metadata.
    Own(Response<Bytes>),
    /// An ordinary answer, streaming.
    Forwarded(Response<body::Upstream>),
    /// `101 Switching Protocols`, with the tunnel ready to run.
    Switched(tunnel::Switched),
}

/// Brings a head that is within the limits into its one form. A body is known by its length only.
pub(crate) fn canonical(
    config: &Config,
    head: request::Parts,
    has_fragment: bool,
    declared_body: Option<u64>,
    has_body: bool,
) -> Result<CanonicalRequest, Refusal> {
    check_limits(config, &head.uri, &head.headers, declared_body)?;
    if has_fragment {
        return Err(Refusal::Path(PathError::ForbiddenByte(b'#')));
    }
    CanonicalRequest::new(head, has_body).map_err(Refusal::from)
}

/// What a request must satisfy under the configuration that decides on it, before anything else is looked
/// at.
pub(crate) fn check_served(
    config: &Config,
    request: &CanonicalRequest,
    forwarded_host: Option<&Host>,
    declared_body: Option<u64>,
) -> Result<(), Refusal> {
    check_limits(config, request.target(), request.headers(), declared_body)?;
    let allowed = &config.allowed_hosts;
    let is_served = |host: &Host| {
        allowed.iter().any(|allowed| allowed.covers(host)) || config.resources.serve(host)
    };
    if allowed.is_empty() || is_served(request.host()) || forwarded_host.is_some_and(is_served) {
        return Ok(());
    }
    Err(Refusal::HostNotServed)
}

fn check_limits(
    config: &Config,
    target: &Uri,
    headers: &HeaderMap,
    declared_body: Option<u64>,
) -> Result<(), Refusal> {
    let limits = &config.limits;
    let target = target
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    // hyper counts the fields of HTTP/1; those of HTTP/2 are counted here.
    if headers.len() > limits.headers {
        return Err(Refusal::TooManyHeaders);
    }
    let limit = limits
        .body_bytes
        .and_then(|limit| u64::try_from(limit).ok());
    if declared_body
        .zip(limit)
        .is_some_and(|(declared, limit)| declared > limit)
    {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(())
}

fn stream_kind(headers: &HeaderMap) -> StreamKind {
    StreamKind::of(
        headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok()),
    )
}
