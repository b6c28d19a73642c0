//! A request's way through: checks, token, rules, upstream. One straight path, one exit for refusals.

mod access_log;
mod authenticate;
mod body;
mod challenge;
mod first_sight;
mod frames;
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
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, InvalidHeaderValue, ORIGIN,
};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;

pub use body::{Body, BodyError};
use challenge::Asked;
pub(crate) use challenge::Realm;
pub(crate) use message::of_head as message_of_head;
pub(crate) use possession::{Worth, worth};
pub use refusal::Refusal;
pub(crate) use resource::{check_source, metadata};
pub(crate) use respond::{Reader, options_answer, refusal_text};
pub(crate) use schemes::{Credentials, Schemes};
pub use settings::{Settings, Shared};

use crate::authorized::AuthorizedRequest;
use crate::config::{Config, UpstreamProtocol};
use crate::cors::{CorsSettings, Origin};
use crate::headers::{self, Host, Outbound};
use crate::listener::{Answering, Client, Handler, Places, Unreadable};
use crate::mcp::{self, Message, RequestId};
use crate::metrics::StreamKind;
use crate::policy::{Caller, Permit};
use crate::random::Random;
use access_log::AccessLog;
use first_sight::FirstSight;
use message::{ClientBody, Room};
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
    room: Arc<Room>,
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
    /// For a request that is answered in JSON-RPC, what its id is.
    rpc: Option<RequestId>,
    /// The MCP messages that were read, where they decide.
    messages: Vec<Message>,
    /// Whether the answer may list tools, of which the caller sees its own.
    lists_tools: bool,
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
            room: Arc::default(),
            places: Arc::default(),
            random: Mutex::new(Random::new()),
        }
    }

    /// The envelope: a request gets its id and its one log line, and every refusal its answer.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
    ) -> Response<Body> {
        let request_id = self.request_id(&request);
        let metrics = &self.shared.metrics;
        let mut exchange = Exchange {
            settings: self.shared.current(),
            origin: Origin::None,
            possession: Possession::default(),
            log: AccessLog::begin(Some(&request), &request_id, client.address(), metrics),
            request_id,
            rpc: None,
            messages: Vec::new(),
            lists_tools: false,
            expiry: None,
        };
        let is_http2 = request.version() == Version::HTTP_2;
        let is_grpc = headers::is_grpc(request.headers());
        let credentials = Credentials::under(&exchange.settings.config, request.headers());
        let mut is_last = client.is_draining();
        let asked = Asked::of(&request, &exchange.settings.config);
        let answer = self.handle(request, &client, &mut exchange).await;
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
                let realm = asked.realm(&settings.config, &messages, &refusal);
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

    /// The straight path.
    async fn handle(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        let mut body = ClientBody::new(body);
        let (host, permit) = match self.decide(&head, &mut body, client, exchange).await? {
            Decision::Own(answer) => return Ok(Answer::Own(answer)),
            Decision::Pass(host, permit) => (host, permit),
        };
        let Exchange {
            settings,
            origin,
            request_id,
            log,
            lists_tools,
            expiry,
            ..
        } = exchange;
        for denial in permit.shadowed() {
            log.shadowed(denial.code());
            tracing::warn!(request_id = log.request_id(), code = denial.code(), detail = %denial, "shadow rule would have refused");
        }
        let (version, is_upgrade) = (head.version, headers::is_websocket_upgrade(&head));
        if !headers::spend_forward(&mut head) {
            return Ok(Answer::Own(options_answer(origin, request_id)));
        }
        let config = &settings.config;
        config.token_sources.remove(&mut head, is_upgrade);
        if let Some(keys) = &settings.sessions {
            mcp::bind_request(keys, &mut head.headers, message::principal(&permit))
                .map_err(|mcp::UnknownSession| Refusal::UnknownSession)?;
        }
        // Boxed, as are the futures of its work, so that they take no room in those of ordinary requests.
        let filter = lists_tools.then(|| {
            ToolFilter::prepare(&mut head.headers);
            let path = head.uri.path();
            Box::new(ToolFilter::new(&self.shared, &head.method, path, &permit))
        });
        let traceparent = self.fresh_traceparent();
        let outbound = self.outbound(config, &head, &host, client, request_id, &traceparent);
        let authorize =
            |body| AuthorizedRequest::new(&permit, &head, body, &config.managed, &outbound);
        let body = body.into_request_body(version, config.limits.body_bytes, client);
        let upstream = self.upstream.under(settings);
        let now = log.sending();
        *expiry = log.expiry(settings.expiry_grace(), now);
        if is_upgrade {
            let authorized = authorize(body).upgrading_to_websocket();
            // Boxed, so that it takes no room in the futures of ordinary requests.
            let mut answer = Box::pin(upstream.send_upgrade(authorized)).await?;
            log.answered();
            bind_answer(settings, answer.headers_mut(), &permit)?;
            return Ok(tunnel::open(answer, on_upgrade, request_id, client));
        }
        let interim = Self::interim_to(client, version);
        let mut response = upstream.send(body, authorize, *expiry, interim).await?;
        log.answered();
        headers::rewrite_response(response.headers_mut(), request_id);
        bind_answer(settings, response.headers_mut(), &permit)?;
        Ok(Answer::Forwarded(match filter {
            None => response.map(body::Upstream::Pooled),
            Some(filter) => Box::pin(filter.apply(response, expiry.map(Into::into))).await?,
        }))
    }

    /// Every check, under one configuration. When another one comes in the meantime, which is possible
    /// while a token's key is waited for, the decision is made anew: a rule that was taken away
    /// decides on nothing any more.
    async fn decide(
        &self,
        head: &request::Parts,
        body: &mut ClientBody,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Decision, Refusal> {
        loop {
            let settings = self.shared.current();
            exchange.origin = Origin::of(&head.headers, settings.config.cors.as_ref());
            exchange.settings = Arc::clone(&settings);
            let host = self.check(&settings.config, head, &body.incoming, client)?;
            if let Some(answer) = metadata(&settings.config, head, &exchange.request_id)? {
                return Ok(Decision::Own(answer));
            }
            let cors = settings.config.cors.as_ref();
            let (origin, request_id) = (&exchange.origin, &exchange.request_id);
            if let Some(answer) = own_answer(cors, head, &body.incoming, origin, request_id)? {
                return Ok(Decision::Own(answer));
            }
            check_source(&settings.config, head, &host, origin)?;
            let permit = self.permit(&settings, head, body, client, exchange).await;
            match permit {
                Ok(Some(permit)) => return Ok(Decision::Pass(host, permit)),
                Ok(None) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// What must be sound before anything is decided.
    fn check(
        &self,
        config: &Config,
        head: &request::Parts,
        body: &Incoming,
        client: &Client,
    ) -> Result<Host, Refusal> {
        let declared = body.size_hint().exact();
        let host = check_head(config, head, client.saw_fragment(), declared)?;
        if self.shared.pseudonym.has_forwarded(&head.headers) {
            return Err(Refusal::Loop);
        }
        Ok(host)
    }

    /// Both checks: who is asking, and may they. `None` when the configuration has changed meanwhile.
    async fn permit(
        &self,
        settings: &Settings,
        head: &request::Parts,
        body: &mut ClientBody,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<Option<Permit>, Refusal> {
        exchange.messages.clear();
        let policy = &settings.config.policy;
        let path = head.uri.path();
        if let Some(method) = preflight_method(&head.method, &head.headers, &body.incoming) {
            let matched = policy.matched(method, path).map_err(Refusal::Path)?;
            exchange.log.matched(matched.route());
            // The asking itself may be denied too, by a route that names OPTIONS.
            let asking = policy.matched("OPTIONS", path).map_err(Refusal::Path)?;
            let decide = || {
                let permit = matched.authorize_preflight()?;
                asking.authorize_preflight().map(|_| permit)
            };
            let decided = self.shared.while_current(settings, decide).transpose();
            return decided.map_err(Refusal::Denied);
        }
        let matched = policy
            .matched(head.method.as_str(), path)
            .map_err(Refusal::Path)?;
        exchange.log.matched(matched.route());
        exchange.rpc = message::is_rpc(&matched, head).then(RequestId::default);
        let asked = async {
            let caller = self.authenticate(settings, head, client, exchange).await?;
            let caller = caller.map_or(Caller::Anonymous, Caller::Verified);
            message::check_body(&matched, head, body)?;
            let messages = match &mut exchange.rpc {
                Some(id) if message::is_needed(&matched, &caller) => {
                    // Boxed, so that it takes no room in the futures of those whose body is not read.
                    let config = &settings.config;
                    Box::pin(message::read(config, head, body, client, &self.room, id)).await?
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
            policy
                .matched_with(head.method.as_str(), path, messages)
                .map_err(Refusal::Path)?
        };
        exchange.lists_tools = settings.config.mcp.filter_tools
            && tools::may_be_listed(&matched, &head.method, messages);
        let decide = || matched.authorize(caller);
        let decided = self.shared.while_current(settings, decide).transpose();
        decided.map_err(Refusal::Denied)
    }

    fn outbound<'r>(
        &'r self,
        config: &Config,
        head: &request::Parts,
        host: &'r Host,
        client: &'r Client,
        request_id: &'r HeaderValue,
        traceparent: &'r HeaderValue,
    ) -> Outbound<'r> {
        let peer_is_trusted = client.address().is_some_and(|peer| {
            config
                .trusted_proxies
                .iter()
                .any(|network| network.contains(&peer.ip().to_canonical()))
        });
        Outbound {
            identity: None,
            forward_authorization: config.identity.forward_authorization,
            host,
            version: head.version,
            scheme: if client.is_tls() { "https" } else { "http" },
            upstream_is_http2: config.upstream_protocol == UpstreamProtocol::Http2,
            pseudonym: &self.shared.pseudonym,
            peer: client.forwarded_for(),
            peer_is_trusted,
            request_id,
            traceparent,
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
                headers::remove_hop_by_hop(&mut headers);
                client.send_interim(&respond::http1_head(status, &headers));
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
        self.fresh(|random| {
            let mut id = Text([0; 32]);
            let mut rest = id.0.as_mut_slice();
            rest.put_slice(&random.digits());
            rest.put_slice(&random.digits());
            HeaderValue::from_maybe_shared(Bytes::from_owner(id))
        })
    }

    fn fresh_traceparent(&self) -> HeaderValue {
        // An id of zeros only is invalid.
        self.fresh(|random| {
            let mut traceparent = Text([0; 55]);
            let mut rest = traceparent.0.as_mut_slice();
            rest.put_slice(b"00-");
            rest.put_slice(&random.digits());
            rest.put_slice(&random.nonzero_digits());
            rest.put_slice(b"-");
            rest.put_slice(&random.nonzero_digits());
            rest.put_slice(b"-01");
            HeaderValue::from_maybe_shared(Bytes::from_owner(traceparent))
        })
    }

    fn fresh(
        &self,
        make: impl FnOnce(&mut Random) -> Result<HeaderValue, InvalidHeaderValue>,
    ) -> HeaderValue {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        // Hexadecimal digits and hyphens are always a header value.
        make(&mut random).unwrap_or(HeaderValue::from_static("none"))
    }
}

impl Handler for Arc<Proxy> {
    type Body = Body;

    fn answer(&self, request: Request<Incoming>, client: Client) -> Answering<Body> {
        self.places.make(Self::clone(self).serve(request, client))
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
struct Text<const LENGTH: usize>([u8; LENGTH]);

impl<const LENGTH: usize> AsRef<[u8]> for Text<LENGTH> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What the checks come to, if they do not refuse.
enum Decision {
    /// An answer that is made here.
    Own(Response<Bytes>),
    /// The request may be forwarded, for this host.
    Pass(Host, Permit),
}

/// What is answered here before anybody is asked who they are.
fn own_answer(
    cors: Option<&CorsSettings>,
    head: &request::Parts,
    body: &Incoming,
    origin: &Origin,
    request_id: &HeaderValue,
) -> Result<Option<Response<Bytes>>, Refusal> {
    if is_about_server(head) {
        return Ok(Some(options_answer(origin, request_id)));
    }
    let Some(settings) = cors else {
        return Ok(None);
    };
    if preflight_method(&head.method, &head.headers, body).is_some() {
        let answer = respond::preflight(origin, &head.headers, settings, request_id);
        return Ok(Some(answer));
    }
    // To a WebSocket browsers apply no CORS: nobody but the server looks at its origin.
    let must_be_welcome = settings.enforce_origin || headers::is_websocket_upgrade(head);
    if *origin == Origin::Foreign && must_be_welcome {
        return Err(Refusal::OriginDenied);
    }
    Ok(None)
}

/// Seals the MCP session of an answer, where sessions belong to somebody.
fn bind_answer(
    settings: &Settings,
    headers: &mut HeaderMap,
    permit: &Permit,
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

/// What must be sound in a head before anything is decided. A body is known by its length only.
pub(crate) fn check_head(
    config: &Config,
    head: &request::Parts,
    has_fragment: bool,
    declared_body: Option<u64>,
) -> Result<Host, Refusal> {
    let limits = &config.limits;
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if target > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    // hyper counts the fields of HTTP/1; those of HTTP/2 are counted here.
    if head.headers.len() > limits.headers {
        return Err(Refusal::TooManyHeaders);
    }
    if has_fragment {
        return Err(Refusal::Path(crate::policy::PathError::ForbiddenByte(b'#')));
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
    let host = headers::check_head(head).map_err(Refusal::Head)?;
    let allowed = &config.allowed_hosts;
    let is_allowed = allowed.iter().any(|allowed| allowed.covers(&host));
    if !allowed.is_empty() && !is_allowed && !config.resources.serve(&host) {
        return Err(Refusal::HostNotServed);
    }
    Ok(host)
}

/// RFC 9110 §9.3.7: about the server as a whole, so there is nothing to be decided.
pub(crate) fn is_about_server(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS && head.uri.path() == "*"
}

fn stream_kind(headers: &HeaderMap) -> StreamKind {
    StreamKind::of(
        headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok()),
    )
}

/// The method that a genuine CORS preflight asks about: OPTIONS with `Origin` and
/// `Access-Control-Request-Method`, without credentials and without a body, as browsers send it.
fn preflight_method<'h>(
    method: &Method,
    headers: &'h HeaderMap,
    body: &Incoming,
) -> Option<&'h str> {
    let genuine = method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && !headers.contains_key(AUTHORIZATION)
        && body.is_end_stream();
    if !genuine {
        return None;
    }
    let mut asked = headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    let asked = asked.next().filter(|_| asked.next().is_none())?;
    asked.to_str().ok()
}
