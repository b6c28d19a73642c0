//! One line about what is wrong, with the mend: what a person with an Auth0 dashboard needs.
//!
//! Nothing here decides. Claims of a token whose signature did not hold are looked at only to guess
//! what its owner has mixed up.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::ink::Ink;
use crate::canonical::PathError;
use crate::claims::{ClaimPath, Claims};
use crate::config::Config;
use crate::headers::HeadError;
use crate::jose::{self, Algorithm, JwsError};
use crate::policy::{AppliedRule, Condition, Denial, Matched};
use crate::proxy::Refusal;
use crate::secret::Secret;
use crate::token::{
    AuthorizationError, BearerToken, ClaimCheck, Rejection, SignedToken, SubjectKind, TypPolicy,
    VerifierSettings,
};

/// Two domains that differ by no more edits than this are one domain and a slip of the finger.
const MAX_SLIPS: usize = 2;

/// A token that ended no longer ago than this may have met a clock that is wrong.
const FRESHLY_EXPIRED_SECONDS: f64 = 120.0;

/// How long Auth0's client ids are.
const CLIENT_ID_LENGTH: usize = 32;

/// Claims that Auth0 puts into ID tokens and into no access token.
const ID_TOKEN_CLAIMS: [&str; 7] = [
    "nonce",
    "at_hash",
    "c_hash",
    "s_hash",
    "nickname",
    "email_verified",
    "updated_at",
];

/// What became known on the way.
#[derive(Debug, Default)]
pub(super) struct Facts<'c> {
    claims: Option<Claims>,
    standing: Standing,
    failing: Vec<ClaimCheck>,
    rules: Vec<AppliedRule<'c>>,
    /// Whom a token must be for there; empty where the verifier knows.
    audiences: Vec<String>,
    /// The first word of the credential, which is the token itself where the scheme was left out.
    scheme: Option<Secret<String>>,
    parts: usize,
    needs_proof: bool,
}

/// How much the claims are worth.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Anybody may have written them.
    #[default]
    Claimed,
    /// The signature holds.
    Signed,
    /// Everything holds.
    Verified,
}

impl<'c> Facts<'c> {
    pub(super) fn matched(&mut self, matched: &Matched<'c>) {
        self.rules = matched.rules();
        for audience in matched.audiences().iter().copied().flatten() {
            if !self.audiences.contains(audience) {
                self.audiences.push(audience.clone());
            }
        }
    }

    /// Whom a token must be for.
    fn audiences(&self, settings: &VerifierSettings) -> Vec<String> {
        if self.audiences.is_empty() {
            settings.audiences.clone()
        } else {
            self.audiences.clone()
        }
    }

    pub(super) fn credential(&mut self, credential: Option<&str>) {
        let scheme = credential.and_then(|credential| credential.split(' ').next());
        self.scheme = scheme
            .filter(|scheme| !scheme.eq_ignore_ascii_case("bearer"))
            .map(|scheme| Secret::new(scheme.to_owned()));
    }

    /// Reads what a token says of itself, leniently: it decides nothing.
    pub(super) fn claimed(&mut self, bearer: BearerToken<'_>) {
        let token = bearer.secret();
        self.parts = token.split('.').count();
        self.claims = token
            .split('.')
            .nth(1)
            .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
            .and_then(|payload| jose::parse_object(&payload).ok())
            .map(Claims::new);
    }

    pub(super) fn signed(&mut self, token: &SignedToken) {
        self.claims = Some(token.claims().clone());
        self.standing = Standing::Signed;
    }

    pub(super) fn claim(&mut self, check: ClaimCheck, verdict: &Result<(), Rejection>) {
        if verdict.is_err() {
            self.failing.push(check);
        }
    }

    pub(super) const fn verified(&mut self) {
        self.standing = Standing::Verified;
    }

    pub(super) const fn needs_proof(&mut self) {
        self.needs_proof = true;
    }

    pub(super) const fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    fn string(&self, name: &str) -> Option<&str> {
        self.claims.as_ref()?.get(name)?.as_str()
    }
}

/// The line.
pub(super) fn diagnose(
    config: &Config,
    facts: &Facts<'_>,
    refusal: Option<&Refusal>,
    ink: &Ink,
) -> String {
    let line = Line { config, facts, ink };
    let Some(refusal) = refusal else {
        return match facts.standing {
            Standing::Verified if facts.needs_proof => format!(
                "The request would pass with a good DPoP proof, which is not judged here, as {}.",
                ink.text(facts.string("sub").unwrap_or_default())
            ),
            Standing::Verified => format!(
                "The request would pass, as {}.",
                ink.text(facts.string("sub").unwrap_or_default())
            ),
            Standing::Claimed | Standing::Signed => {
                "The request would pass, without a user.".to_owned()
            }
        };
    };
    let text = line.refusal(refusal);
    let further: Vec<&str> = facts
        .failing
        .iter()
        .skip(1)
        .map(|check| check_name(*check))
        .collect();
    if further.is_empty() {
        text
    } else {
        format!("{text} Not good either: {}.", further.join(", "))
    }
}

const fn check_name(check: ClaimCheck) -> &'static str {
    match check {
        ClaimCheck::Issuer => "iss",
        ClaimCheck::Audience => "aud",
        ClaimCheck::Expiry => "exp",
        ClaimCheck::NotBefore => "nbf",
        ClaimCheck::IssuedAt => "iat",
        ClaimCheck::Age => "max_token_age",
        ClaimCheck::Confirmation => "cnf",
        ClaimCheck::Profile => "token_type",
        ClaimCheck::Subject => "sub",
        ClaimCheck::Anonymous => "anonymous session",
    }
}

struct Line<'l> {
    config: &'l Config,
    facts: &'l Facts<'l>,
    ink: &'l Ink,
}

impl Line<'_> {
    fn refusal(&self, refusal: &Refusal) -> String {
        match refusal {
            Refusal::Token(rejection) => self.token(rejection),
            Refusal::Denied(denial) => self.denied(denial),
            Refusal::KeysUnavailable => self.keys_unavailable(),
            Refusal::Authorization(error) => match error {
                AuthorizationError::NotOneToken => "What was pasted is not one token: send \"Authorization: Bearer\", one space, and the token as Auth0 gave it, without spaces or quotes.".to_owned(),
                AuthorizationError::Repeated => "There is more than one token: send one, in one place.".to_owned(),
                AuthorizationError::NotVisibleAscii => "The token holds characters that no token has: copy it again.".to_owned(),
            },
            Refusal::HostNotServed => self.host_not_served(),
            Refusal::MetadataMethod => "The metadata of a resource is there for GET, HEAD and OPTIONS.".to_owned(),
            Refusal::ResourceUnknown => format!(
                "No resource has its metadata at this path; there are {}.",
                self.ink.list(&self.config.resources.iter().map(|resource| resource.metadata_url.clone()).collect::<Vec<_>>())
            ),
            Refusal::Path(PathError::TooManyReadings) => "The path can be read in too many ways: encode it once only, and leave out \"..\", \"//\" and \";\".".to_owned(),
            Refusal::Path(error) => format!("The path is malformed ({error}): encode it properly."),
            Refusal::Head(HeadError::Method) => "CONNECT and TRACE are not served.".to_owned(),
            Refusal::Head(HeadError::MethodCase { upper }) => format!("Methods are case-sensitive: send {}.", self.ink.text(upper)),
            Refusal::Message(_) => "The MCP method, or the tool, decides here: ask with --mcp-method or --mcp-tool. A client that says neither is refused.".to_owned(),
            Refusal::UriTooLong => "The path is longer than limits.uri_bytes: send less, or raise it.".to_owned(),
            other => format!("The request is refused before any token is looked at: {}.", self.ink.text(&other.to_string())),
        }
    }

    fn token(&self, rejection: &Rejection) -> String {
        match rejection {
            Rejection::WrongAudience { found, .. } => self.wrong_audience(found),
            Rejection::WrongIssuer { expected, found } => self.wrong_issuer(expected, found),
            Rejection::UnknownKey { kid } => self.unknown_key(kid.as_deref()),
            Rejection::AlgorithmNotAllowed { found, .. } => self.algorithm(found),
            Rejection::Jws(error) => self.shape(error),
            Rejection::TypeNotAllowed { found, .. } => self.typ(found.as_deref()),
            Rejection::Expired { exp, now } if now - exp <= FRESHLY_EXPIRED_SECONDS => format!(
                "The token expired {:.0} s ago: get a new one; if that comes too early, the clock of this machine is ahead of the issuer's: synchronise it (NTP).",
                now - exp
            ),
            Rejection::Expired { exp, now } => format!(
                "The token expired {:.0} s ago: get a new one; clients must refresh it before its exp.",
                now - exp
            ),
            Rejection::NotYetValid { claim, value, now } => format!(
                "{claim} lies {:.0} s in the future: the clock of this machine is behind the issuer's; synchronise it (NTP). auth0.clock_tolerance bridges at most 60 s.",
                value - now
            ),
            Rejection::TooOld { iat, now, .. } => format!(
                "The token was issued {:.0} s ago, longer than auth0.max_token_age allows: get a new one.",
                now - iat
            ),
            Rejection::TooLarge { length } => format!(
                "The token has {length} bytes, and limits.token_bytes is {}: put fewer claims into it, or raise the limit.",
                self.config.auth0.verifier.max_token_bytes
            ),
            Rejection::MissingClaim { claim } => self.missing_claim(claim),
            Rejection::MalformedClaim { claim, expected } => format!(
                "{claim} is not {expected}: look at the Action or the connection that sets it."
            ),
            Rejection::PayloadNotJson(_) => {
                "The payload is not JSON that can be read in one way: this is no token of Auth0's.".to_owned()
            }
            Rejection::SenderConstrained if self.config.dpop.is_some() => {
                "The token is bound to a client certificate, or in a way that is not known here (cnf): only a key for DPoP (cnf.jkt) can be asked for a proof. Choose DPoP for this API, or request an unbound token.".to_owned()
            }
            Rejection::SenderConstrained => {
                "The token is bound to a key of its client (cnf), and dpop.mode is off: set dpop.mode = \"accepted\" and public_url for DPoP, switch off sender constraining for this API, or request an unbound token.".to_owned()
            }
            Rejection::NoProof => {
                "The token is bound to a key of its client (cnf.jkt): send it as \"Authorization: DPoP\" with a proof in the DPoP header of each request, from the Authorization header only.".to_owned()
            }
            Rejection::NotBound if self.config.dpop.as_ref().is_some_and(|dpop| dpop.required) => {
                "The token is bound to no key, and dpop.mode is \"required\": switch on DPoP sender constraining for this API and its client, or set dpop.mode = \"accepted\".".to_owned()
            }
            Rejection::NotBound => {
                "The token is bound to no key: send it with the scheme Bearer, or request a bound one with a DPoP proof.".to_owned()
            }
            Rejection::Anonymous => {
                "This is the token of an anonymous session: log in, or set auth0.allow_anonymous = true.".to_owned()
            }
        }
    }

    fn accepted(&self) -> Vec<String> {
        self.facts.audiences(&self.config.auth0.verifier)
    }

    fn audiences(&self) -> String {
        self.ink.text(&self.accepted().join(" or "))
    }

    fn wrong_audience(&self, found: &[String]) -> String {
        let accepted = self.audiences();
        let near = |one: &String| {
            let same = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
            let accepted = self.accepted();
            accepted.iter().any(|audience| same(audience) == same(one))
        };
        if let Some(near) = found.iter().find(|one| near(one)) {
            return format!(
                "aud is {} and {accepted} is accepted: they differ in a slash or in case, and are compared exactly; set AUTH0_AUDIENCE to the API's identifier, letter for letter.",
                self.ink.text(near)
            );
        }
        if self.is_id_token(found) {
            return format!(
                "This is an ID token, made for the application: send the access token instead, requested with audience={accepted}."
            );
        }
        if found.iter().any(|one| one.ends_with("/api/v2/")) {
            return format!(
                "The token is for Auth0's Management API: request one with audience={accepted}."
            );
        }
        if found.iter().all(|one| one.ends_with("/userinfo")) {
            return format!(
                "The token is for /userinfo only, as it was requested without an API: request it with audience={accepted}."
            );
        }
        let others: Vec<String> = found
            .iter()
            .filter(|one| !one.ends_with("/userinfo"))
            .cloned()
            .collect();
        let others = self.ink.list(&others);
        format!(
            "The token is for {others}, and {accepted} is accepted: request it with audience={accepted}, or set AUTH0_AUDIENCE to the identifier of the API that it is for."
        )
    }

    fn is_id_token(&self, audiences: &[String]) -> bool {
        let has = |name: &str| {
            self.facts
                .claims()
                .is_some_and(|claims| claims.get(name).is_some())
        };
        let is_client_id = |one: &String| {
            one.len() == CLIENT_ID_LENGTH && one.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let for_an_application = matches!(audiences, [one] if is_client_id(one));
        !has("scope") && (for_an_application || ID_TOKEN_CLAIMS.iter().any(|name| has(name)))
    }

    fn wrong_issuer(&self, expected: &str, found: &str) -> String {
        let (ours, theirs) = (domain(expected), domain(found));
        let shown = self.ink.text(theirs);
        if expected.trim_end_matches('/') == found.trim_end_matches('/') {
            return self.slash(found, expected);
        }
        if ours.eq_ignore_ascii_case(theirs) {
            return format!(
                "iss is {} and {expected} is expected, letter for letter: an Action or a custom setting has changed it.",
                self.ink.text(found)
            );
        }
        if !ours.contains('.') && !ours.contains(':') {
            return format!(
                "auth0.domain {ours} is a bare tenant name: set AUTH0_DOMAIN={shown}, the whole domain."
            );
        }
        if slips(ours, theirs) <= MAX_SLIPS {
            return format!(
                "auth0.domain {ours} is misspelt: the token's issuer is {shown}; set AUTH0_DOMAIN={shown}."
            );
        }
        format!(
            "The key is that of {ours}, and the token was issued under another domain of the same tenant (a custom domain): set AUTH0_DOMAIN={shown}, or list both."
        )
    }

    /// An issuer that differs from ours by the slash at its end.
    fn slash(&self, found: &str, expected: &str) -> String {
        format!(
            "iss is {} and {expected} is expected: they differ in the slash at the end, and are compared exactly. Auth0's issuers end in one slash: whatever mints this token must write it so.",
            self.ink.text(found)
        )
    }

    /// The issuer that the token names, when it is none of ours.
    fn foreign_issuer(&self) -> Option<&str> {
        let issuer = self.facts.string("iss")?;
        let tenants = &self.config.auth0.tenants;
        (!tenants.iter().any(|tenant| tenant.issuer == issuer)).then_some(issuer)
    }

    fn domains(&self) -> String {
        let domains: Vec<&str> = self
            .config
            .auth0
            .tenants
            .iter()
            .map(|tenant| domain(&tenant.issuer))
            .collect();
        domains.join(", ")
    }

    /// What to do about an issuer that is not configured.
    fn domain_hint(&self, issuer: &str) -> String {
        let theirs = domain(issuer);
        let shown = self.ink.text(theirs);
        let tenants = &self.config.auth0.tenants;
        let bare = |issuer: &str| issuer.trim_end_matches('/').to_owned();
        if let Some(near) = tenants.iter().find(|one| bare(&one.issuer) == bare(issuer)) {
            return self.slash(issuer, &near.issuer);
        }
        let ours = || tenants.iter().map(|tenant| domain(&tenant.issuer));
        if let Some(bare) = ours().find(|ours| !ours.contains('.') && !ours.contains(':')) {
            return format!(
                "auth0.domain {bare} is a bare tenant name, and the token says that it is from {shown}: set AUTH0_DOMAIN={shown}."
            );
        }
        if let Some(near) = ours().find(|ours| slips(ours, theirs) <= MAX_SLIPS) {
            return format!(
                "auth0.domain {near} looks misspelt: the token says that it is from {shown}; set AUTH0_DOMAIN={shown}."
            );
        }
        format!(
            "The token says that it is from {shown}, and auth0.domain is {}: get one from there, or, if {shown} is your tenant or its custom domain, set AUTH0_DOMAIN={shown}.",
            self.domains()
        )
    }

    fn unknown_key(&self, kid: Option<&str>) -> String {
        if let Some(issuer) = self.foreign_issuer() {
            return self.domain_hint(issuer);
        }
        let kid = kid.map_or_else(
            || "a key that it does not name".to_owned(),
            |kid| format!("key {}", self.ink.text(kid)),
        );
        format!(
            "The token is signed with {kid}, which {} does not publish (any more): the key was rotated or revoked; get a new token. With auth0.keys.file, bring the file up to date.",
            self.domains()
        )
    }

    fn keys_unavailable(&self) -> String {
        match self.foreign_issuer() {
            Some(issuer) => format!(
                "The keys of {} cannot be had, so nothing can be said about the token. {}",
                self.domains(),
                self.domain_hint(issuer)
            ),
            None => format!(
                "The keys of {} cannot be had, so nothing can be said about the token: check AUTH0_DOMAIN and the network (authgate check --online).",
                self.domains()
            ),
        }
    }

    fn algorithm(&self, found: &str) -> String {
        let shown = self.ink.text(found);
        if found.starts_with("HS") {
            return format!(
                "The token is signed with {shown}, a shared secret: in the dashboard, Applications → APIs → your API → Settings, set the signing algorithm to RS256, and get a new token."
            );
        }
        match Algorithm::from_name(found) {
            Some(known) if self.config.auth0.verifier.algorithms.contains(&known) => format!(
                "The token names {shown}, and its key is for another algorithm: add that of the key to auth0.algorithms, or set the API's signing algorithm to it."
            ),
            Some(_) => format!(
                "The token is signed with {shown}, which auth0.algorithms does not list: add it, or set the API's signing algorithm to RS256."
            ),
            None => format!(
                "The token names the algorithm {shown}, which nobody should accept: this is no token of Auth0's."
            ),
        }
    }

    fn shape(&self, error: &JwsError) -> String {
        let accepted = self.audiences();
        match error {
            JwsError::NoValue(word) => format!(
                "The client sent a word in the place of a token, {word}: its log-in has not finished, or its variable is empty."
            ),
            JwsError::EncodedTwice => {
                "This is base64 of a token, and not the token: something between Auth0 and the request has encoded it once more, such as btoa(). Send it as Auth0 gave it.".to_owned()
            }
            JwsError::EncryptedOrOpaque { parts: 1 } => format!(
                "This is an opaque token: the client asked Auth0 for one without an audience; request it with audience={accepted}."
            ),
            JwsError::EncryptedOrOpaque { .. } => {
                "This is an encrypted token (five parts): in the dashboard, Applications → APIs → your API → Settings, switch token encryption off, and get a new token.".to_owned()
            }
            JwsError::Signature => match self.foreign_issuer() {
                Some(issuer) => self.domain_hint(issuer),
                None => "The signature does not match: the token was changed, or cut when it was copied. Get a new one.".to_owned(),
            },
            JwsError::CriticalHeader | JwsError::EmbeddedKey(_) => format!(
                "The {error}, which Auth0 never sends: this is no token of Auth0's."
            ),
            JwsError::HeaderMember(_)
            | JwsError::HeaderNotJson(_)
            | JwsError::NotBase64Url(_)
            | JwsError::Parts(_) => format!(
                "This is no whole token ({} of 3 parts): it was cut or changed when it was copied. Copy it as Auth0 gave it.",
                self.facts.parts
            ),
        }
    }

    fn typ(&self, found: Option<&str>) -> String {
        let strict = self.config.auth0.verifier.typ == TypPolicy::AtJwt;
        let is_plain = found.is_none_or(|typ| typ.eq_ignore_ascii_case("jwt"));
        let shown = found.map_or_else(|| "absent".to_owned(), |typ| self.ink.text(typ));
        if strict && is_plain {
            format!(
                "typ is {shown} and auth0.token_type asks for at+jwt: choose the RFC 9068 token profile in the API's settings, or set auth0.token_type = \"any\"."
            )
        } else {
            format!("typ is {shown}, which is no access token: send the access token.")
        }
    }

    fn missing_claim(&self, claim: &str) -> String {
        let is_profile = matches!(claim, "client_id" | "jti");
        if is_profile && self.config.auth0.verifier.typ == TypPolicy::AtJwt {
            return format!(
                "The token has no {claim}, which auth0.token_type = \"at+jwt\" needs: choose the RFC 9068 token profile in the API's settings."
            );
        }
        if self.is_id_token(&[]) {
            return format!(
                "The token has no {claim}: this looks like an ID token; send the access token, requested with audience={}.",
                self.audiences()
            );
        }
        format!("The token has no {claim}, which every access token of Auth0's has: this is none.")
    }

    fn host_not_served(&self) -> String {
        let allowed = self.config.allowed_hosts.iter().map(ToString::to_string);
        let resources = self.config.resources.iter();
        let hosts: Vec<String> = allowed
            .chain(resources.map(|resource| resource.settings.url.host.to_string()))
            .collect();
        format!(
            "The host is neither in allowed_hosts nor that of the [[resource]] ({}): ask with --host for one that is, or add it to allowed_hosts.",
            self.ink.list(&hosts)
        )
    }

    fn denied(&self, denial: &Denial) -> String {
        match denial {
            Denial::Audience(rejection) => self.token(rejection),
            Denial::TokenRequired => match self.facts.scheme.as_ref().map(Secret::expose) {
                Some(scheme) => format!(
                    "The scheme {} counts as no token: send \"Authorization: Bearer\" and the token.",
                    self.ink.text(scheme)
                ),
                None => "There is no token, and this path needs one: send \"Authorization: Bearer\" and the token.".to_owned(),
            },
            Denial::Denied { route } => {
                format!("The route {route} is denied to everybody (access = \"deny\").")
            }
            Denial::Unmatched => "No route matches the path, and unmatched = \"deny\": add a [[route]] for it.".to_owned(),
            Denial::MessageNotCovered { route } => format!(
                "The route {route} has rules for other MCP methods and tools only, and names are compared letter for letter: add the name, or a route with the same path and no mcp."
            ),
            Denial::MessageUnread { route } => format!(
                "The route {route} asks for the MCP method or tool: ask with --mcp-method or --mcp-tool."
            ),
            Denial::MethodNotCovered { route, allow } => format!(
                "The route {route} takes {} only, and methods are compared letter for letter: add the method, or a route with the same path and no methods.",
                allow.join(", ")
            ),
            Denial::WrongClaimType { rule, error } => format!(
                "{rule}: {}, so the operator cannot be applied: mend the rule, or the Action that sets the claim.",
                self.ink.text(&error.to_string())
            ),
            Denial::ScopeMissing { rule, needed, .. } => self.scopes(rule, needed),
            Denial::RuleFailed { rule, .. } => self.rule(rule),
        }
    }

    fn scopes(&self, rule: &str, needed: &BTreeSet<String>) -> String {
        let held: Vec<&str> = self
            .facts
            .string("scope")
            .unwrap_or_default()
            .split(' ')
            .collect();
        let missing: Vec<String> = needed
            .iter()
            .filter(|scope| !held.contains(&scope.as_str()))
            .cloned()
            .collect();
        let shown = self.ink.list(&missing);
        let permissions = &self.config.auth0.claim_names.permissions;
        if self.holds_all(&ClaimPath::name(permissions.as_str()), &missing) {
            return format!(
                "{rule}: the token has {shown} as a permission, not as a scope: ask for permissions instead of scopes in the rule, or request the token with scope={shown}."
            );
        }
        format!(
            "{rule}: the token lacks the scope {shown}: request it with scope={}, which the API must define and the user be allowed.",
            self.ink.text(&missing.join(" "))
        )
    }

    /// Whether an array claim has all of these.
    fn holds_all(&self, path: &ClaimPath, needed: &[String]) -> bool {
        let found = self
            .facts
            .claims()
            .and_then(|claims| claims.lookup(path).ok().flatten())
            .and_then(Value::as_array);
        found.is_some_and(|items| {
            needed
                .iter()
                .all(|one| items.iter().any(|item| item == one))
        })
    }

    fn rule(&self, rule: &str) -> String {
        let Some(claims) = self.facts.claims() else {
            return format!("{rule}: a condition fails.");
        };
        let failing = self
            .facts
            .rules
            .iter()
            .filter(|applied| !applied.shadow && *applied.rule == *rule)
            .find_map(|applied| applied.condition.first_failing(claims));
        match failing {
            Some(Condition::List(path, _, needed)) => self.permissions(rule, path, needed),
            Some(Condition::Roles(path, _, needed)) => self.roles(rule, path, needed),
            Some(Condition::Organizations(accepted)) => self.organizations(rule, accepted),
            Some(Condition::SubjectKind(kind)) => self.subject_kind(rule, *kind),
            Some(Condition::Clients(accepted)) => format!(
                "{rule}: the token was issued to the application {}, and the rule takes {}: add its client id, or use the other application.",
                self.ink.claim(
                    claims,
                    if claims.get("azp").is_some() {
                        "azp"
                    } else {
                        "client_id"
                    }
                ),
                self.ink.list(accepted)
            ),
            Some(Condition::Claim(path, test)) => {
                let found = claims.lookup(path).ok().flatten();
                if found.is_none()
                    && let Some(hint) = self.without_namespace(claims, &path.to_string())
                {
                    return format!("{rule}: {hint}");
                }
                let found =
                    found.map_or_else(|| "absent".to_owned(), |value| self.ink.value(value));
                format!(
                    "{rule}: claim {path} is {found}, and the rule needs {}: an Action must set it so, under a name that is a URL.",
                    self.ink.text(&test.to_string())
                )
            }
            Some(other) => format!(
                "{rule}: {} does not hold for this token; the steps show each part.",
                self.ink.text(&other.to_string())
            ),
            None => format!("{rule}: a condition fails; the steps show each part."),
        }
    }

    fn permissions(&self, rule: &str, path: &ClaimPath, needed: &[String]) -> String {
        let shown = self.ink.list(needed);
        let scopes = self.facts.string("scope").unwrap_or_default();
        if needed
            .iter()
            .all(|one| scopes.split(' ').any(|scope| scope == one))
        {
            return format!(
                "{rule}: the token has {shown} as a scope, not as a permission: ask for scopes instead of permissions in the rule, or switch on RBAC for the API."
            );
        }
        let found = self
            .facts
            .claims()
            .and_then(|claims| claims.lookup(path).ok().flatten());
        match found {
            None => format!(
                "{rule}: the token has no {path} claim: in the dashboard, Applications → APIs → your API → Settings, switch on Enable RBAC and Add Permissions in the Access Token, and get a new token."
            ),
            Some(found) => format!(
                "{rule}: the permissions are {}, and {shown} is needed: give the user a role that has it (User Management → Roles), or the application a grant, and get a new token.",
                self.ink.value(found)
            ),
        }
    }

    fn roles(&self, rule: &str, path: &ClaimPath, needed: &[String]) -> String {
        let claims = self.facts.claims();
        let found = claims.and_then(|claims| claims.lookup(path).ok().flatten());
        if let Some(found) = found {
            return format!(
                "{rule}: the roles are {}, and {} is needed: give the user the role (User Management → Roles), and get a new token.",
                self.ink.value(found),
                self.ink.list(needed)
            );
        }
        let name = path.to_string();
        let asked_of = claims.filter(|_| name.contains("://"));
        if let Some(hint) = asked_of.and_then(|claims| self.without_namespace(claims, &name)) {
            return format!("{rule}: {hint}");
        }
        let elsewhere = claims.and_then(|claims| {
            claims
                .names()
                .find(|other| other.rsplit('/').next() == Some("roles"))
        });
        if let Some(elsewhere) = elsewhere {
            let shown = self.ink.text(elsewhere);
            return format!(
                "{rule}: the token has its roles in the claim {shown}, and auth0.roles_claim is {name}: set auth0.roles_claim = \"{shown}\"."
            );
        }
        if !name.contains("://") {
            return format!(
                "{rule}: the token has no {name} claim, as Auth0 drops custom claims without a namespace: set \"https://your-app.com/roles\" in an Action, and auth0.roles_claim to the same."
            );
        }
        format!(
            "{rule}: the token has no {name} claim: add an Action to the login flow with api.accessToken.setCustomClaim(\"{name}\", event.authorization.roles), and get a new token."
        )
    }

    /// A claim of roles or groups that is there, or asked for, by a name that is no URL.
    fn without_namespace(&self, claims: &Claims, asked: &str) -> Option<String> {
        const NAMES: [&str; 4] = ["roles", "groups", "role", "group"];
        let last = asked.rsplit('/').next().unwrap_or(asked);
        if !NAMES.contains(&last) {
            return None;
        }
        let has_namespace = asked.contains("://");
        if has_namespace && claims.get(last).is_some() {
            return Some(format!(
                "the token has a claim {last} without a namespace, and {} is asked for. Auth0 drops such names from its tokens, so another program has made this one: let it, or an Action, set {} instead.",
                self.ink.text(asked),
                self.ink.text(asked)
            ));
        }
        if has_namespace {
            return None;
        }
        let mut names = claims.names();
        let with = names.find(|name| name.contains("://") && name.rsplit('/').next() == Some(last));
        let shown = self.ink.text(asked);
        Some(match with {
            Some(with) => format!(
                "{shown} has no namespace, and the token has it as {}: write that name in the configuration.",
                self.ink.text(with)
            ),
            None => format!(
                "the token has no {shown} claim, as Auth0 drops custom claims without a namespace: set \"https://your-app.com/{last}\" in an Action, and name it so in the configuration."
            ),
        })
    }

    fn organizations(&self, rule: &str, accepted: &[String]) -> String {
        let id = self.facts.string("org_id");
        let name = self.facts.string("org_name");
        let by_name = name.is_some_and(|name| accepted.iter().any(|one| one == name))
            || accepted.iter().all(|one| !one.starts_with("org_"));
        match id {
            Some(id) if by_name => format!(
                "{rule}: organizations takes ids, not names: write \"{}\" instead of {}.",
                self.ink.text(id),
                self.ink.list(accepted)
            ),
            Some(id) => format!(
                "{rule}: the token is for the organization {}, and {} is needed: log in to the other one, or add the id.",
                self.ink.text(id),
                self.ink.list(accepted)
            ),
            None => format!(
                "{rule}: the token is for no organization: log in with organization={}.",
                self.ink.text(accepted.first().map_or("", String::as_str))
            ),
        }
    }

    fn subject_kind(&self, rule: &str, needed: SubjectKind) -> String {
        let found = self.facts.claims().map(SubjectKind::with_reason);
        let Some(Ok((found, reason))) = found else {
            return format!("{rule}: subject_kind {} is needed.", needed.name());
        };
        let mend = match needed {
            SubjectKind::User => "send the token of somebody who has logged in",
            SubjectKind::Agent => {
                "request a token as an agent (agent_subject_claims of the API, which puts ai_agent into sub_profile)"
            }
            SubjectKind::Machine => "use the client credentials grant of an application",
            SubjectKind::Anonymous => "send the token of an anonymous session",
        };
        format!(
            "{rule}: subject_kind {} is needed, and this token is of the kind {} ({reason}): {mend}.",
            needed.name(),
            found.name()
        )
    }
}

/// The domain in an issuer.
fn domain(issuer: &str) -> &str {
    let bare = issuer.strip_prefix("https://").unwrap_or(issuer);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// How many characters must be put in, left out or changed to make one text of another, as far as
/// that matters: long or very different texts count as different.
fn slips(one: &str, other: &str) -> usize {
    const LONGEST: usize = 253;
    if one.len() > LONGEST || other.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line.saturating_add(1);
        let mut next = vec![left];
        for (b, above) in other.chars().zip(row.iter().skip(1)) {
            let change = diagonal.saturating_add(usize::from(a != b));
            left = change
                .min(left.saturating_add(1))
                .min(above.saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::slips;

    #[test]
    fn slips_of_the_finger_are_counted() {
        for (one, other, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("tenant.us.auth0.com", "tenant.us.auth0.com", 0),
            ("tenant.us.auth0.com", "tennant.us.auth0.com", 1),
            ("tenant.us.auth0.com", "tenant.eu.auth0.com", 2),
            ("tenant.us.auth0.com", "tenantus.auht0.com", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(slips(one, other), expected, "{one} {other}");
            assert_eq!(slips(other, one), expected, "{other} {one}");
        }
    }
}
