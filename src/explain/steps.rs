//! The steps of a decision, each with what was expected and what was found.

use serde_json::Value;

use super::ink::Ink;
use crate::canonical::{PathError, Readings};
use crate::claims::Claims;
use crate::clock::UnixTime;
use crate::config::Dpop;
use crate::jose::{JwsError, KeySet};
use crate::mcp::Message;
use crate::policy::{Access, Condition, Denial, Matched, Methods, Miss, Policy, Ruling};
use crate::proxy::Refusal;
use crate::token::{
    AuthorizationError, BearerToken, ClaimCheck, Keyring, Rejection, SignedToken, SubjectKind,
    TypPolicy, Unverified, VerifierSettings, VerifyError,
};

/// How many readings of a path are written out: an odd path of an honest client has two or three.
const MAX_READINGS_SHOWN: usize = 8;

/// How many steps conditions may take: more than anybody reads.
const MAX_CONDITIONS_SHOWN: usize = 200;

/// How a step came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The check holds.
    Passed,
    /// The check does not hold. The first one of a kind decides.
    Failed,
    /// A part of a condition that holds, which alone decides nothing.
    Holds,
    /// A part of a condition that does not hold, which alone decides nothing.
    Fails,
    /// Nothing was checked; this is how it stands.
    Note,
    /// It was not come to.
    Skipped,
}

impl Outcome {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Note => "note",
            Self::Skipped => "skipped",
        }
    }

    const fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub check: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was needed.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
}

/// Collects the steps.
pub(super) struct Steps<'i> {
    ink: &'i Ink,
    steps: Vec<Step>,
}

/// What a token goes through before its claims are looked at, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Size,
    Shape,
    Header,
    Algorithm,
    Type,
    Key,
    Signature,
    Payload,
}

impl Stage {
    const READ: [Self; 5] = [
        Self::Size,
        Self::Shape,
        Self::Header,
        Self::Algorithm,
        Self::Type,
    ];
    const SIGNED: [Self; 3] = [Self::Key, Self::Signature, Self::Payload];

    const fn name(self) -> &'static str {
        match self {
            Self::Size => "token.size",
            Self::Shape => "token.shape",
            Self::Header => "token.header",
            Self::Algorithm => "token.alg",
            Self::Type => "token.typ",
            Self::Key => "token.key",
            Self::Signature => "token.signature",
            Self::Payload => "token.payload",
        }
    }

    /// Where a token that cannot be read has failed.
    const fn of_reading(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::TooLarge { .. } => Self::Size,
            Rejection::Jws(
                JwsError::EncodedTwice
                | JwsError::EncryptedOrOpaque { .. }
                | JwsError::NoValue(_)
                | JwsError::NotBase64Url(_)
                | JwsError::Parts(_),
            ) => Self::Shape,
            Rejection::AlgorithmNotAllowed { .. } => Self::Algorithm,
            Rejection::TypeNotAllowed { .. } => Self::Type,
            _ => Self::Header,
        }
    }

    /// Where a token whose signature cannot be verified has failed.
    const fn of_signature(error: &VerifyError) -> Self {
        match error {
            VerifyError::Rejected(Rejection::Jws(JwsError::Signature)) => Self::Signature,
            VerifyError::Rejected(
                Rejection::Jws(JwsError::NotBase64Url(_)) | Rejection::PayloadNotJson(_),
            ) => Self::Payload,
            _ => Self::Key,
        }
    }
}

impl<'i> Steps<'i> {
    pub(super) const fn new(ink: &'i Ink) -> Self {
        Self {
            ink,
            steps: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Vec<Step> {
        self.steps
    }

    fn add(
        &mut self,
        check: impl Into<String>,
        outcome: Outcome,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        let some = |text: String| (!text.is_empty()).then_some(text);
        self.steps.push(Step {
            check: check.into(),
            outcome,
            expected: some(expected.into()),
            found: some(found.into()),
        });
    }

    pub(super) fn head(&mut self, host: &[u8], refusal: Option<&Refusal>) {
        let found = match refusal {
            None => format!("host {}", self.ink.text(&String::from_utf8_lossy(host))),
            Some(refusal) => self.ink.text(&refusal.to_string()),
        };
        self.add(
            "request.head",
            Outcome::of(refusal.is_none()),
            "sound, within the limits, for a host that is served",
            found,
        );
    }

    /// What is published of resources; nothing is said of a request for something else.
    pub(super) fn metadata<T>(&mut self, metadata: &Result<Option<T>, Refusal>) {
        let (outcome, found) = match metadata {
            Ok(None) => return,
            Ok(Some(_)) => (
                Outcome::Note,
                "the metadata of a resource, which anybody may read, is answered here".to_owned(),
            ),
            Err(refusal) => (Outcome::Failed, refusal.to_string()),
        };
        self.add("request.metadata", outcome, "", found);
    }

    /// Whether the host is that of the resource.
    pub(super) fn source(&mut self, source: &Result<(), Refusal>) {
        if let Err(refusal @ Refusal::HostNotServed) = source {
            self.add(
                "request.host",
                Outcome::Failed,
                "that of the resource, an address, or in allowed_hosts",
                refusal.to_string(),
            );
        }
    }

    pub(super) fn about_server(&mut self) {
        self.add(
            "request.target",
            Outcome::Note,
            "",
            "OPTIONS * is about the server as a whole and is answered here",
        );
    }

    /// The path cannot be decided on.
    pub(super) fn path(&mut self, error: PathError) {
        self.add(
            "path.readings",
            Outcome::Failed,
            "one that can be decided on in every reading",
            error.to_string(),
        );
    }

    /// The readings of the path, and what each leads to.
    pub(super) fn rulings(
        &mut self,
        policy: &Policy,
        method: &str,
        readings: &Readings<'_>,
        messages: &[Message],
        deny_unmatched: bool,
    ) {
        let rulings = policy.rulings(method, readings, messages);
        let mut readings: Vec<&str> = rulings.iter().map(|one| one.reading.as_str()).collect();
        readings.dedup();
        let shown: Vec<String> = readings
            .iter()
            .take(MAX_READINGS_SHOWN)
            .map(|reading| self.ink.text(reading))
            .collect();
        let more = readings.len().saturating_sub(shown.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        self.add(
            "path.readings",
            Outcome::Passed,
            "one that can be decided on in every reading",
            format!("{}: {}{more}", readings.len(), shown.join(" ")),
        );
        let several = readings.len() > 1;
        let mut seen: Vec<(Outcome, String)> = Vec::new();
        for ruling in &rulings {
            let (passed, found) = self.route(ruling, method, deny_unmatched);
            let route = (Outcome::of(passed), found);
            if seen.contains(&route) {
                continue;
            }
            let (outcome, found) = route.clone();
            let found = if several {
                format!("{}: {found}", self.ink.text(&ruling.reading))
            } else {
                found
            };
            self.add(
                "path.route",
                outcome,
                "the most specific path, then its method",
                found,
            );
            seen.push(route);
        }
    }

    /// Whether a reading leads to a route that lets somebody pass, and to which.
    fn route(&self, ruling: &Ruling<'_>, method: &str, deny_unmatched: bool) -> (bool, String) {
        let (passed, found) = match (ruling.pattern, ruling.route) {
            (None, _) if deny_unmatched => (false, "no route matches; unmatched = deny".to_owned()),
            (None, _) => (
                true,
                "no route matches; unmatched = authenticated".to_owned(),
            ),
            (Some(pattern), None) => (
                ruling.shadow,
                match ruling.miss {
                    Some(Miss::Message) => {
                        format!("{pattern}: no route of this path takes the MCP message")
                    }
                    Some(Miss::MessageUnread) => {
                        format!("{pattern}: the MCP method or tool decides, and is not given")
                    }
                    Some(Miss::Method) | None => format!(
                        "{pattern}: no route of this path takes {}",
                        self.ink.text(method)
                    ),
                },
            ),
            (Some(pattern), Some(route)) => {
                let methods = match (&route.mcp, &route.methods) {
                    (Some(mcp), _) => mcp.to_string(),
                    (None, Methods::Remaining) => {
                        "every method that no other route names".to_owned()
                    }
                    (None, Methods::Only(methods)) => methods.join(" "),
                };
                let access = route.access.name();
                (
                    route.access != Access::Deny || ruling.shadow,
                    format!("{pattern} ({methods}): access = {access}"),
                )
            }
        };
        let shadow = if ruling.shadow { ", in shadow" } else { "" };
        (passed, format!("{found}{shadow}"))
    }

    /// Whether there is a token.
    pub(super) fn credential(
        &mut self,
        needed: bool,
        credential: Option<&str>,
        found: &Result<Option<BearerToken<'_>>, AuthorizationError>,
    ) {
        let expected = if needed {
            "one Bearer token"
        } else {
            "no token is needed; one that is sent must be good"
        };
        let (passed, text) = match found {
            Ok(Some(token)) => (true, format!("one token of {} bytes", token.secret().len())),
            Ok(None) => {
                let scheme = credential.and_then(|credential| credential.split(' ').next());
                let text = scheme.map_or_else(
                    || "none".to_owned(),
                    |scheme| format!("the scheme {}, which is none", self.ink.text(scheme)),
                );
                (!needed, text)
            }
            Err(error) => (false, error.to_string()),
        };
        self.add("token.present", Outcome::of(passed), expected, text);
    }

    /// Size, shape and header.
    pub(super) fn shape(
        &mut self,
        settings: &VerifierSettings,
        bearer: BearerToken<'_>,
        read: &Result<Unverified<'_>, Rejection>,
    ) {
        let failed = read.as_ref().err().map(Stage::of_reading);
        for stage in Stage::READ {
            let expected = match stage {
                Stage::Size => format!("at most {} bytes", settings.max_token_bytes),
                Stage::Shape => "three parts of base64url".to_owned(),
                Stage::Header => {
                    "a JSON object with alg, without crit and without a key".to_owned()
                }
                Stage::Algorithm => one_of(&settings.algorithms),
                Stage::Type => match settings.typ {
                    TypPolicy::Any => "absent, JWT or at+jwt".to_owned(),
                    TypPolicy::AtJwt => "at+jwt".to_owned(),
                },
                Stage::Key | Stage::Signature | Stage::Payload => continue,
            };
            let found = match (stage, read) {
                (_, Err(rejection)) if failed == Some(stage) => {
                    self.ink.text(&rejection.to_string())
                }
                (Stage::Size, _) => format!("{} bytes", bearer.secret().len()),
                (Stage::Shape, _) => "three parts".to_owned(),
                (Stage::Header, _) => "sound".to_owned(),
                (Stage::Algorithm, Ok(token)) => token.algorithm().to_string(),
                (Stage::Type, Ok(token)) => token
                    .typ()
                    .map_or_else(|| "absent".to_owned(), |typ| self.ink.text(typ)),
                _ => String::new(),
            };
            self.stage(stage, failed, expected, found);
        }
        if failed.is_some() {
            for stage in Stage::SIGNED {
                self.stage(stage, failed, "", "");
            }
            self.add("token.claims", Outcome::Skipped, "", "");
        }
    }

    /// Key, signature and payload.
    pub(super) fn signature(
        &mut self,
        token: &Unverified<'_>,
        keyring: &Keyring,
        signed: &Result<SignedToken, VerifyError>,
    ) {
        let failed = signed.as_ref().err().map(Stage::of_signature);
        let kid = token.kid().map(|kid| self.ink.text(kid));
        let kid = kid.map_or_else(|| "no kid".to_owned(), |kid| format!("kid {kid}"));
        for stage in Stage::SIGNED {
            let expected = match stage {
                Stage::Key => published(keyring, self.ink),
                Stage::Signature => format!("an {} signature of that key", token.algorithm()),
                _ => "a JSON object without duplicate members".to_owned(),
            };
            let found = match (stage, signed) {
                (Stage::Key, Err(VerifyError::UnknownKey)) => {
                    format!("{kid}, which is in no key set")
                }
                (Stage::Key, Err(VerifyError::KeysUnavailable)) => {
                    format!("{kid}, and an issuer's keys are missing")
                }
                (Stage::Key, Err(VerifyError::Rejected(Rejection::AlgorithmNotAllowed { .. }))) => {
                    format!("{kid}, which is a key for another algorithm")
                }
                (Stage::Key, Ok(signed)) => format!("{kid} of {}", signed.issuer()),
                (Stage::Key, _) => kid.clone(),
                (_, Err(VerifyError::Rejected(rejection))) if failed == Some(stage) => {
                    self.ink.text(&rejection.to_string())
                }
                (Stage::Signature, _) => "holds".to_owned(),
                _ => "sound".to_owned(),
            };
            self.stage(stage, failed, expected, found);
        }
    }

    fn stage(
        &mut self,
        stage: Stage,
        failed: Option<Stage>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        match failed {
            Some(at) if stage > at => self.add(stage.name(), Outcome::Skipped, "", ""),
            Some(at) if stage == at => self.add(stage.name(), Outcome::Failed, expected, found),
            _ => self.add(stage.name(), Outcome::Passed, expected, found),
        }
    }

    /// One check on claims whose signature holds.
    pub(super) fn claim(
        &mut self,
        settings: &VerifierSettings,
        token: &SignedToken,
        now: UnixTime,
        check: ClaimCheck,
        verdict: &Result<(), Rejection>,
    ) {
        let claims = token.claims();
        let ink = self.ink;
        let tolerance = settings.clock_tolerance.as_secs_f64();
        let clock = now.as_secs();
        let (name, expected, found) = match check {
            ClaimCheck::Issuer => (
                "token.iss",
                token.issuer().to_owned(),
                ink.claim(claims, "iss"),
            ),
            ClaimCheck::Audience => (
                "token.aud",
                one_of(&settings.audiences),
                ink.claim(claims, "aud"),
            ),
            ClaimCheck::Expiry => (
                "token.exp",
                format!("later than now, {clock}, within {tolerance} s"),
                date(ink, claims, "exp", now),
            ),
            ClaimCheck::NotBefore => (
                "token.nbf",
                format!("absent, or not later than now, {clock}, within {tolerance} s"),
                date(ink, claims, "nbf", now),
            ),
            ClaimCheck::IssuedAt => (
                "token.iat",
                format!("absent, or not later than now, {clock}, within a minute"),
                date(ink, claims, "iat", now),
            ),
            ClaimCheck::Age => (
                "token.max_token_age",
                settings.max_token_age.map_or_else(
                    || "off".to_owned(),
                    |age| format!("iat at most {} s ago", age.as_secs_f64()),
                ),
                settings
                    .max_token_age
                    .map_or_else(String::new, |_| date(ink, claims, "iat", now)),
            ),
            ClaimCheck::Confirmation => (
                "token.cnf",
                if settings.bound_tokens {
                    "absent, or the thumbprint of a key in jkt".to_owned()
                } else {
                    "absent".to_owned()
                },
                ink.claim(claims, "cnf"),
            ),
            ClaimCheck::Profile => match settings.typ {
                TypPolicy::Any => ("token.profile", "any".to_owned(), String::new()),
                TypPolicy::AtJwt => (
                    "token.profile",
                    "client_id, jti and iat".to_owned(),
                    verdict
                        .as_ref()
                        .map_or_else(|error| ink.text(&error.to_string()), |()| String::new()),
                ),
            },
            ClaimCheck::Subject => (
                "token.sub",
                "a text of 1 to 2048 bytes without control characters".to_owned(),
                ink.claim(claims, "sub"),
            ),
            ClaimCheck::Anonymous => (
                "token.subject_kind",
                if settings.allow_anonymous {
                    "any".to_owned()
                } else {
                    "user, agent or machine".to_owned()
                },
                subject_kind(ink, claims),
            ),
        };
        self.add(name, Outcome::of(verdict.is_ok()), expected, found);
    }

    /// What a token says whose signature could not be verified: worth a look, and worth nothing.
    pub(super) fn claimed(&mut self, claims: Option<&Claims>) {
        let Some(claims) = claims else {
            self.add("token.claims", Outcome::Skipped, "", "");
            return;
        };
        for name in ["iss", "aud"] {
            let found = format!("{} (unverified)", self.ink.claim(claims, name));
            self.add(format!("token.{name}"), Outcome::Skipped, "", found);
        }
    }

    /// What the request needs beside its token.
    pub(super) fn proof(&mut self, dpop: &Dpop, method: &str, path: &str) {
        let nonce = if dpop.nonces.is_some() {
            ", with a nonce of ours"
        } else {
            ""
        };
        let expected = self.ink.text(&format!(
            "a DPoP proof by the token's key for {method} {}{path}, signed with {}{nonce}",
            dpop.proofs.origin,
            one_of(&dpop.proofs.algorithms),
        ));
        let found = "not judged here: a proof is made for one request";
        self.add("token.proof", Outcome::Note, expected, found);
    }

    /// Whether the token is for the resource that the request belongs to. Without resources every audience
    /// is good everywhere, and there is nothing to tell.
    pub(super) fn audience(&mut self, matched: &Matched<'_>, claims: &Claims) -> bool {
        let verdict = matched.check_audience(claims);
        let lists = matched.audiences().iter().map(|list| one_of(list));
        let lists: Vec<String> = lists.collect();
        if !lists.is_empty() {
            self.add(
                "resource.aud",
                Outcome::of(verdict.is_ok()),
                lists.join("; and "),
                self.ink.claim(claims, "aud"),
            );
        }
        verdict.is_ok()
    }

    /// Every rule, part by part.
    pub(super) fn rules(&mut self, matched: &Matched<'_>, claims: &Claims) {
        let start = self.steps.len();
        for rule in matched.rules() {
            let name = if rule.shadow {
                format!("rule {} (shadow)", rule.rule)
            } else {
                format!("rule {}", rule.rule)
            };
            let decides = !rule.shadow;
            self.condition(&name, rule.condition, claims, decides);
        }
        let limit = start.saturating_add(MAX_CONDITIONS_SHOWN);
        let more = self.steps.len().saturating_sub(limit);
        if more > 0 {
            self.steps.truncate(limit);
            self.add("rules", Outcome::Note, "", format!("{more} more parts"));
        }
    }

    fn condition(&mut self, name: &str, condition: &Condition, claims: &Claims, decides: bool) {
        let verdict = condition.holds(claims);
        let outcome = match (verdict == Ok(true), decides) {
            (true, true) => Outcome::Passed,
            (false, true) => Outcome::Failed,
            (true, false) => Outcome::Holds,
            (false, false) => Outcome::Fails,
        };
        match condition {
            Condition::All(parts) if parts.is_empty() => {
                self.add(name, outcome, "any valid token", "");
            }
            Condition::All(parts) => {
                for part in parts {
                    self.condition(name, part, claims, decides);
                }
            }
            Condition::Any(parts) => {
                let expected = format!("any_of these {}", parts.len());
                self.add(name, outcome, expected, wrong_type(self.ink, &verdict));
                for part in parts {
                    self.condition(&format!("{name} any_of"), part, claims, false);
                }
            }
            Condition::Not(part) => {
                self.add(
                    name,
                    outcome,
                    "not the following",
                    wrong_type(self.ink, &verdict),
                );
                self.condition(&format!("{name} not"), part, claims, false);
            }
            leaf => {
                let found = match &verdict {
                    Ok(_) => found_by(self.ink, leaf, claims),
                    Err(error) => self.ink.text(&error.to_string()),
                };
                let expected = self.ink.text(&leaf.to_string());
                self.add(name, outcome, expected, found);
            }
        }
    }

    /// What rules in shadow would have done, and who may pass.
    pub(super) fn permitted(&mut self, shadowed: &[Denial], subject: Option<&str>) {
        for denial in shadowed {
            let found = self.ink.text(&format!("{}: {denial}", denial.code()));
            self.add(
                "shadow",
                Outcome::Note,
                "",
                format!("would have refused: {found}"),
            );
        }
        let caller = subject.map_or_else(
            || "without a user".to_owned(),
            |subject| format!("as {}", self.ink.text(subject)),
        );
        self.add("decision", Outcome::Passed, "", format!("passes, {caller}"));
    }

    /// The refusal, in the words of the log.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        if matches!(
            refusal,
            Refusal::Denied(Denial::Audience(_)) | Refusal::Token(_) | Refusal::KeysUnavailable
        ) {
            self.add("rules", Outcome::Skipped, "", "");
        }
        let found = self.ink.text(&refusal.to_string());
        let found = format!("{}: {found}", refusal.code());
        self.add("decision", Outcome::Failed, "", found);
    }
}

fn one_of<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    match items.as_slice() {
        [one] => one.clone(),
        _ => format!("one of {}", items.join(", ")),
    }
}

/// Which keys there are.
fn published(keyring: &Keyring, ink: &Ink) -> String {
    let sets = keyring.issuers().iter().map(|issuer| {
        let keys = issuer.keys.as_ref().map(KeySet::keys).unwrap_or_default();
        let kids: Vec<String> = keys
            .iter()
            .map(|key| key.kid().unwrap_or("(no kid)").to_owned())
            .collect();
        if kids.is_empty() {
            format!("{}: none", issuer.issuer)
        } else {
            format!("{}: {}", issuer.issuer, ink.list(&kids))
        }
    });
    let sets: Vec<String> = sets.collect();
    if sets.is_empty() {
        "a published key".to_owned()
    } else {
        format!("a key of {}", sets.join("; "))
    }
}

/// A date with its distance from now.
fn date(ink: &Ink, claims: &Claims, name: &str, now: UnixTime) -> String {
    let shown = ink.claim(claims, name);
    let Some(seconds) = claims.get(name).and_then(Value::as_f64) else {
        return shown;
    };
    let distance = seconds - now.as_secs_f64();
    if distance < 0.0 {
        format!("{shown}, {:.0} s ago", -distance)
    } else {
        format!("{shown}, in {distance:.0} s")
    }
}

fn wrong_type(ink: &Ink, verdict: &Result<bool, crate::claims::WrongType>) -> String {
    verdict
        .as_ref()
        .map_or_else(|error| ink.text(&error.to_string()), |_| String::new())
}

/// The kind of the subject with what decided on it, or why it has none.
fn subject_kind(ink: &Ink, claims: &Claims) -> String {
    match SubjectKind::with_reason(claims) {
        Ok((kind, reason)) => format!("{}: {reason}", kind.name()),
        Err(error) => ink.text(&error.to_string()),
    }
}

/// The claims that a condition looks at.
fn found_by(ink: &Ink, condition: &Condition, claims: &Claims) -> String {
    let named = |name: &str| format!("{name} = {}", ink.claim(claims, name));
    match condition {
        Condition::All(_) | Condition::Any(_) | Condition::Not(_) => String::new(),
        Condition::Scopes(..) => named("scope"),
        Condition::Organizations(_) => named("org_id"),
        Condition::Clients(_) if claims.get("azp").is_some() => named("azp"),
        Condition::Clients(_) => named("client_id"),
        Condition::Subjects(_) => named("sub"),
        Condition::SubjectKind(_) => subject_kind(ink, claims),
        Condition::List(path, ..) | Condition::Roles(path, ..) | Condition::Claim(path, _) => {
            let value = claims.lookup(path).ok().flatten();
            value.map_or_else(|| "absent".to_owned(), |value| ink.value(value))
        }
    }
}
