//! The decision: `[require]` and the one route of every reading, or the reason against it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::area::Areas;
use super::condition::Condition;
use super::route::{Access, Route};
use super::table::{DuplicateRoute, Lookup, PatternRoutes, Table};
use crate::canonical::{CanonicalRequest, PathError, Readings};
use crate::claims::{Claims, WrongType};
use crate::identity::Identity;
use crate::mcp::Message;
use crate::token::{self, Rejection};

/// All rules of a configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    require: Requirement,
    table: Table,
    deny_unmatched: bool,
    areas: Areas,
}

/// `[require]`: what every authenticated request must satisfy.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    /// The condition.
    pub condition: Condition,
    /// Refusals are logged and counted, and not made.
    pub shadow: bool,
}

/// Who is asking, as far as it is proven.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody: the request has no token.
    Anonymous,
    /// The subject of a verified token.
    Verified(Arc<Identity>),
}

/// The rules that a method and a path fall under, one for each reading of the path.
#[derive(Debug)]
pub struct Matched<'p> {
    policy: &'p Policy,
    first: Outcome<'p>,
    others: Vec<Outcome<'p>>,
    is_gated: bool,
    /// Whom a token must be for, once for each area that a reading belongs to. Without areas the token's
    /// verifier knows.
    audiences: Vec<&'p [String]>,
}

/// A request in its one form, with the rules that it falls under.
#[derive(Debug)]
pub struct MatchedRequest<'p, 'r> {
    request: &'r CanonicalRequest,
    matched: Matched<'p>,
}

/// A genuine CORS preflight, with the rules that it falls under itself, and those of the request that it
/// asks about.
#[derive(Debug)]
pub struct MatchedPreflight<'p, 'r> {
    request: &'r CanonicalRequest,
    own: Matched<'p>,
    asked: Matched<'p>,
}

/// What one reading of the path leads to.
#[derive(Debug, Clone, Copy)]
enum Outcome<'p> {
    MessageNotCovered(&'p PatternRoutes),
    /// The message decides, and nobody has read it.
    MessageUnread(&'p PatternRoutes),
    MethodNotCovered(&'p PatternRoutes),
    Route(&'p Route),
    Unmatched,
}

/// Why a path that has routes leads to none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// None takes the MCP message.
    Message,
    /// The MCP message decides, and is not known.
    MessageUnread,
    /// None takes the method.
    Method,
}

/// The proof that the rules let a caller's request pass, and that its token is for where the request
/// belongs. Only this module makes one, and it holds the very caller and the very request that were
/// judged: while it lives, the request cannot be changed, and no other can be paired with it.
#[derive(Debug)]
pub struct Permit<'r> {
    request: &'r CanonicalRequest,
    caller: Caller,
    shadowed: Vec<Denial>,
}

/// Why the rules do not let a request pass. `Display` is for the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Denial {
    /// The token is good, and for another resource than the one that is asked for.
    Audience(Rejection),
    /// The route says `access = "deny"`.
    Denied {
        /// Its path pattern.
        route: Arc<str>,
    },
    /// The path has routes for some MCP messages, and none of them takes this one.
    MessageNotCovered {
        /// The path pattern.
        route: Arc<str>,
    },
    /// The MCP message decides, and is not known.
    MessageUnread {
        /// The path pattern.
        route: Arc<str>,
    },
    /// The path has routes, and none of them takes this method.
    MethodNotCovered {
        /// The path pattern.
        route: Arc<str>,
        /// The methods that are taken.
        allow: Vec<String>,
    },
    /// A condition fails, and more scopes would not help.
    RuleFailed {
        /// The path pattern of the rule, or `[require]`.
        rule: Arc<str>,
        /// The first part that fails.
        condition: String,
        /// What the token has there, where that is one claim.
        found: Option<String>,
    },
    /// A condition fails only for want of scopes.
    ScopeMissing {
        /// The path pattern of the rule, or `[require]`.
        rule: Arc<str>,
        /// Every scope that the request needs.
        needed: BTreeSet<String>,
        /// The scopes of the token.
        found: String,
    },
    /// A token is needed and there is none.
    TokenRequired,
    /// No route matches, and `unmatched = "deny"`.
    Unmatched,
    /// A claim is not of the type that a condition needs.
    WrongClaimType {
        /// The path pattern of the rule, or `[require]`.
        rule: Arc<str>,
        /// Which claim, and how.
        error: WrongType,
    },
}

/// A condition on an authenticated caller, with the rule it comes from.
#[derive(Debug, Clone)]
pub struct AppliedRule<'p> {
    /// The path pattern of the rule, or `[require]`.
    pub rule: Arc<str>,
    /// What it asks.
    pub condition: &'p Condition,
    /// Whether its refusals are only logged and counted.
    pub shadow: bool,
}

/// One reading of a path, and what it leads to, for people to read.
#[derive(Debug, Clone)]
pub struct Ruling<'p> {
    /// The path as a backend may read it.
    pub reading: String,
    /// The path pattern; `None` when no route matches.
    pub pattern: Option<&'p Arc<str>>,
    /// The route of that pattern which takes the method and the message, if one does.
    pub route: Option<&'p Route>,
    /// Why none does.
    pub miss: Option<Miss>,
    /// Whether a refusal here is only logged and counted.
    pub shadow: bool,
}

impl Policy {
    /// Puts rules together.
    ///
    /// # Errors
    ///
    /// A [`DuplicateRoute`] for every pair that claims the same path and method.
    pub fn new(
        require: Requirement,
        routes: Vec<Route>,
        deny_unmatched: bool,
    ) -> Result<Self, Vec<DuplicateRoute>> {
        Ok(Self {
            require,
            table: Table::new(routes)?,
            deny_unmatched,
            areas: Areas::default(),
        })
    }

    /// Parts the paths into areas, each with tokens of its own.
    #[must_use]
    pub fn with_areas(self, areas: Areas) -> Self {
        Self { areas, ..self }
    }

    /// The areas.
    #[must_use]
    pub const fn areas(&self) -> &Areas {
        &self.areas
    }

    /// Every scope and permission that a rule for the area at this place names, in shadow or not, and
    /// whatever the message is that the rule is for. Routes that lie within another area inside it are
    /// not for it.
    #[must_use]
    pub fn scopes_in(&self, place: usize) -> BTreeSet<String> {
        let mut scopes = BTreeSet::new();
        self.require.condition.add_scopes(&mut scopes);
        let Some((area, inner)) = self.areas.with_inner(place) else {
            return scopes;
        };
        for known in self.table.patterns() {
            let pattern = known.pattern();
            let within = |inner: &&super::Area| pattern.stays_within(&inner.segments());
            if pattern.reaches(&area.segments()) && !inner.iter().any(within) {
                for condition in known.conditions() {
                    condition.add_scopes(&mut scopes);
                }
            }
        }
        scopes
    }

    /// Finds the rules for a request, under every reading of its path. All of its MCP messages must be
    /// permitted. They count only where rules ask for them; none at all is none that was read, and where a
    /// message decides, nothing passes before it is read.
    #[must_use]
    pub fn matched_request<'r>(
        &self,
        request: &'r CanonicalRequest,
        messages: &[Message],
    ) -> MatchedRequest<'_, 'r> {
        let method = request.method().as_str();
        MatchedRequest {
            request,
            matched: self.matched_with(method, &request.readings(), messages),
        }
    }

    /// Finds the rules for a preflight; `None` for a request that is none.
    #[must_use]
    pub fn matched_preflight<'r>(
        &self,
        request: &'r CanonicalRequest,
    ) -> Option<MatchedPreflight<'_, 'r>> {
        let asked = request.preflight_method()?;
        let readings = request.readings();
        Some(MatchedPreflight {
            request,
            own: self.matched_with(request.method().as_str(), &readings, &[]),
            asked: self.matched_with(asked, &readings, &[]),
        })
    }

    /// Finds the rules for a method and a path. What comes of it permits nothing.
    ///
    /// # Errors
    ///
    /// [`PathError`] for a path that cannot be decided on.
    pub fn matched(&self, method: &str, path: &str) -> Result<Matched<'_>, PathError> {
        Ok(self.matched_with(method, &Readings::of(path)?, &[]))
    }

    /// Finds the rules for a method, the readings of a path, and messages, as
    /// [`Policy::matched_request`] does. What comes of it permits nothing.
    #[must_use]
    pub fn matched_with(
        &self,
        method: &str,
        readings: &Readings<'_>,
        messages: &[Message],
    ) -> Matched<'_> {
        let mut first = None;
        let mut others = Vec::new();
        let mut is_gated = false;
        self.look_up(method, readings, messages, |_, outcome, gated| {
            is_gated |= gated;
            match &first {
                None => first = Some(outcome),
                Some(first) if outcome.is(first) => {}
                Some(_) => outcome.add_to(&mut others),
            }
        });
        let mut places = Vec::new();
        if !self.areas.is_empty() {
            for reading in readings.iter() {
                self.areas.add(reading, &mut places);
            }
        }
        Matched {
            policy: self,
            // Every lookup answers at least once; without an answer nothing may pass.
            first: first.unwrap_or(Outcome::Unmatched),
            others,
            is_gated,
            audiences: places
                .into_iter()
                .map(|place| self.areas.audiences(place))
                .collect(),
        }
    }

    /// What each reading of the path leads to, as [`Policy::matched_with`] sees it.
    #[must_use]
    pub fn rulings(
        &self,
        method: &str,
        readings: &Readings<'_>,
        messages: &[Message],
    ) -> Vec<Ruling<'_>> {
        let mut rulings = Vec::new();
        self.look_up(method, readings, messages, |lookup, outcome, _| {
            rulings.push(Ruling {
                reading: lookup.path(),
                pattern: outcome.pattern(),
                route: match outcome {
                    Outcome::Route(route) => Some(route),
                    _ => None,
                },
                miss: match outcome {
                    Outcome::MessageNotCovered(_) => Some(Miss::Message),
                    Outcome::MessageUnread(_) => Some(Miss::MessageUnread),
                    Outcome::MethodNotCovered(_) => Some(Miss::Method),
                    Outcome::Route(_) | Outcome::Unmatched => None,
                },
                shadow: match outcome {
                    Outcome::Route(route) => route.shadow,
                    Outcome::MethodNotCovered(known) | Outcome::MessageNotCovered(known) => {
                        known.is_shadow()
                    }
                    Outcome::MessageUnread(_) | Outcome::Unmatched => false,
                },
            });
        });
        rulings
    }

    /// Finds the outcomes of every reading, the path as it was sent first.
    fn look_up<'p>(
        &'p self,
        method: &str,
        readings: &Readings<'_>,
        messages: &[Message],
        mut found: impl FnMut(&Lookup<'p, '_>, Outcome<'p>, bool),
    ) {
        for reading in readings.iter() {
            self.table.look_up(reading, |lookup| {
                if lookup.is_empty() {
                    found(&lookup, Outcome::Unmatched, false);
                }
                for pattern in lookup.patterns() {
                    let gated = pattern.is_gated();
                    let mut found = |outcome| found(&lookup, outcome, gated);
                    if !pattern.asks_for_message(method) {
                        let route = pattern.for_method(method);
                        found(route.map_or(Outcome::MethodNotCovered(pattern), Outcome::Route));
                        continue;
                    }
                    if messages.is_empty() {
                        found(Outcome::MessageUnread(pattern));
                    }
                    for route in messages.iter().flat_map(|one| pattern.for_message(one)) {
                        found(route.map_or(Outcome::MessageNotCovered(pattern), Outcome::Route));
                    }
                }
            });
        }
    }

    /// The patterns that leave some method to no route, with the methods that they do take.
    pub fn uncovered_methods(&self) -> impl Iterator<Item = (&Arc<str>, Vec<&str>)> {
        self.table
            .patterns()
            .iter()
            .filter(|known| known.leaves_methods_uncovered())
            .map(|known| (known.pattern().source(), known.named_methods()))
    }

    /// The patterns where the MCP message decides, and whether some messages have no route there.
    pub fn gated(&self) -> impl Iterator<Item = (&Arc<str>, bool)> {
        self.table
            .patterns()
            .iter()
            .filter(|known| known.is_gated())
            .map(|known| (known.pattern().source(), known.for_method("POST").is_none()))
    }
}

impl<'p> Matched<'p> {
    /// The path pattern that the path as it was sent falls under; `None` when no route matches.
    #[must_use]
    pub fn route(&self) -> Option<&'p Arc<str>> {
        self.first.pattern()
    }

    /// Whether rules of this path ask for MCP messages.
    #[must_use]
    pub const fn is_gated(&self) -> bool {
        self.is_gated
    }

    /// Whether every reading leads to a public route, so that no token is needed.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.outcomes().all(
            |outcome| matches!(outcome, Outcome::Route(route) if route.access == Access::Public),
        )
    }

    /// Whether every reading leads to a public route, or to a pattern that has only such: there, a
    /// token would not help, and the answer is about the method.
    fn is_public_but_for_its_method(&self) -> bool {
        self.outcomes().all(|outcome| match outcome {
            Outcome::Route(route) => route.access == Access::Public,
            Outcome::MethodNotCovered(known) | Outcome::MessageNotCovered(known) => {
                known.is_public()
            }
            // The message may be one that needs no token.
            Outcome::MessageUnread(known) => known
                .for_messages()
                .any(|route| route.access == Access::Public),
            Outcome::Unmatched => false,
        })
    }

    /// Whom a token must be for: one of each of these lists. Without areas there are none.
    #[must_use]
    pub fn audiences(&self) -> &[&'p [String]] {
        &self.audiences
    }

    /// Whether a token is for every area that a reading of the path belongs to.
    ///
    /// # Errors
    ///
    /// [`Rejection::WrongAudience`] when it is not.
    pub fn check_audience(&self, claims: &Claims) -> Result<(), Rejection> {
        let mut lists = self.audiences.iter();
        lists.try_for_each(|accepted| token::check_audience(claims, accepted))
    }

    /// The scopes that a caller of whom nothing is known should ask for: with them, and no fewer, all
    /// that the rules ask of scopes holds. Of what could do instead of each other, the first is named; of an
    /// MCP message that is not known, it is taken that no route names it: a client first says hello.
    #[must_use]
    pub fn scopes_to_ask_for(&self) -> BTreeSet<String> {
        let rules = self.rules().into_iter().filter(|rule| !rule.shadow);
        let unnamed = self.outcomes().filter_map(|outcome| match outcome {
            Outcome::MessageUnread(known) => known.for_unnamed_messages(),
            _ => None,
        });
        let unnamed = unnamed.filter_map(|route| match &route.access {
            Access::Authenticated(condition) if !route.shadow => Some(condition),
            _ => None,
        });
        let parts: Vec<Condition> = rules
            .map(|rule| rule.condition)
            .chain(unnamed)
            .filter_map(Condition::scope_part)
            .collect();
        let nobody = Claims::new(serde_json::Map::new());
        scopes_to_pass(&parts.iter().collect::<Vec<_>>(), &nobody).unwrap_or_default()
    }

    /// What is decided for a caller with these claims, or without any, and what rules in shadow would have
    /// refused. It permits nothing.
    ///
    /// # Errors
    ///
    /// As for [`MatchedRequest::authorize`].
    pub fn judge(&self, claims: Option<&Claims>) -> Result<Vec<Denial>, Denial> {
        if let Some(claims) = claims {
            // Here and for each request, since a token that is remembered may be for another resource, and
            // no permit is made for a caller elsewhere.
            self.check_audience(claims).map_err(Denial::Audience)?;
        }
        self.decide(claims)
    }

    /// Refuses a preflight about what is denied to everybody.
    fn judge_preflight(&self) -> Result<Vec<Denial>, Denial> {
        match self.refuse_denied() {
            // The request itself will meet its refusal; asking about it harms nobody.
            Err(Denial::MethodNotCovered { .. }) => Ok(Vec::new()),
            judged => judged,
        }
    }

    /// Answers with what rules in shadow would have refused.
    fn decide(&self, claims: Option<&Claims>) -> Result<Vec<Denial>, Denial> {
        if claims.is_none() && !self.is_public_but_for_its_method() {
            return Err(Denial::TokenRequired);
        }
        let mut shadowed = self.refuse_denied()?;
        let unread = self.unread();
        // Nearly always every condition holds, and where one does not, it is worked out which.
        if let Some(claims) = claims
            && !self
                .conditions()
                .all(|condition| condition.holds(claims) == Ok(true))
        {
            let (shadow, enforced): (Vec<_>, Vec<_>) =
                self.rules().into_iter().partition(|rule| rule.shadow);
            match check(&enforced, claims) {
                // The message may need more scopes, and all are told at once.
                Err(Denial::ScopeMissing { .. }) if unread.is_some() => {}
                checked => checked?,
            }
            shadowed.extend(
                shadow
                    .iter()
                    .filter_map(|one| check(std::slice::from_ref(one), claims).err()),
            );
        }
        unread.map_or(Ok(shadowed), Err)
    }

    /// That a message decides which nobody has read, if it is so.
    fn unread(&self) -> Option<Denial> {
        self.outcomes().find_map(|outcome| match outcome {
            Outcome::MessageUnread(known) => Some(Denial::MessageUnread {
                route: Arc::clone(known.pattern().source()),
            }),
            _ => None,
        })
    }

    /// Refuses what no claim could open. Answers with what a shadow rule would have refused.
    fn refuse_denied(&self) -> Result<Vec<Denial>, Denial> {
        let mut shadowed = Vec::new();
        let mut not_covered = None;
        for outcome in self.outcomes() {
            let (denial, shadow) = match outcome {
                Outcome::Unmatched if self.policy.deny_unmatched => (Denial::Unmatched, false),
                Outcome::Route(route) if route.access == Access::Deny => {
                    let route_name = Arc::clone(route.pattern.source());
                    (Denial::Denied { route: route_name }, route.shadow)
                }
                Outcome::MethodNotCovered(known) => {
                    let denial = Denial::MethodNotCovered {
                        route: Arc::clone(known.pattern().source()),
                        allow: known
                            .named_methods()
                            .into_iter()
                            .map(str::to_owned)
                            .collect(),
                    };
                    (denial, known.is_shadow())
                }
                Outcome::MessageNotCovered(known) => {
                    let route = Arc::clone(known.pattern().source());
                    (Denial::MessageNotCovered { route }, known.is_shadow())
                }
                // Whatever the message says, nobody may pass.
                Outcome::MessageUnread(known)
                    if known
                        .for_messages()
                        .all(|route| route.access == Access::Deny && !route.shadow) =>
                {
                    let route = Arc::clone(known.pattern().source());
                    (Denial::Denied { route }, false)
                }
                Outcome::Route(_) | Outcome::MessageUnread(_) | Outcome::Unmatched => continue,
            };
            match denial {
                _ if shadow => shadowed.push(denial),
                Denial::MethodNotCovered { .. } => not_covered = not_covered.or(Some(denial)),
                denial => return Err(denial),
            }
        }
        not_covered.map_or(Ok(shadowed), Err)
    }

    /// The conditions for an authenticated caller, `[require]` first: those in shadow too.
    #[must_use]
    pub fn rules(&self) -> Vec<AppliedRule<'p>> {
        let require = &self.policy.require;
        let mut rules = vec![AppliedRule {
            rule: Arc::from("[require]"),
            condition: &require.condition,
            shadow: require.shadow,
        }];
        for outcome in self.outcomes() {
            if let Outcome::Route(route) = outcome
                && let Access::Authenticated(condition) = &route.access
            {
                rules.push(AppliedRule {
                    rule: Arc::clone(route.pattern.source()),
                    condition,
                    shadow: route.shadow,
                });
            }
        }
        rules
    }

    /// The conditions of [`Matched::rules`].
    fn conditions(&self) -> impl Iterator<Item = &'p Condition> {
        let of_routes = self.outcomes().filter_map(|outcome| match outcome {
            Outcome::Route(route) => match &route.access {
                Access::Authenticated(condition) => Some(condition),
                Access::Deny | Access::Public => None,
            },
            Outcome::MessageNotCovered(_)
            | Outcome::MessageUnread(_)
            | Outcome::MethodNotCovered(_)
            | Outcome::Unmatched => None,
        });
        std::iter::once(&self.policy.require.condition).chain(of_routes)
    }

    fn outcomes(&self) -> impl Iterator<Item = Outcome<'p>> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }
}

impl<'p, 'r> MatchedRequest<'p, 'r> {
    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &Matched<'p> {
        &self.matched
    }

    /// Decides for a caller.
    ///
    /// # Errors
    ///
    /// [`Denial`] says that the token is for something else, or names the first rule that refuses.
    /// [`Denial::MessageUnread`] comes last, when everything else is settled.
    pub fn authorize(&self, caller: Caller) -> Result<Permit<'r>, Denial> {
        let shadowed = self.matched.judge(caller.claims())?;
        Ok(Permit {
            request: self.request,
            caller,
            shadowed,
        })
    }
}

impl<'p, 'r> MatchedPreflight<'p, 'r> {
    /// The path pattern that the request falls under which is asked about.
    #[must_use]
    pub fn route(&self) -> Option<&'p Arc<str>> {
        self.asked.route()
    }

    /// Decides. A preflight carries no token by design (Fetch §4.8), and the request that it asks about
    /// will be judged by itself, so only what is denied to everybody is denied here: that request, or the
    /// asking itself by a route that names OPTIONS.
    ///
    /// # Errors
    ///
    /// [`Denial`] when a reading is denied to everybody.
    pub fn authorize(&self) -> Result<Permit<'r>, Denial> {
        let shadowed = self.asked.judge_preflight()?;
        self.own.judge_preflight()?;
        Ok(Permit {
            request: self.request,
            caller: Caller::Anonymous,
            shadowed,
        })
    }
}

impl Caller {
    /// The claims of the caller's token.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Anonymous => None,
            Self::Verified(identity) => Some(identity.token().claims()),
        }
    }
}

/// Every condition holds, or the reason: a type error before a failure, and missing scopes only
/// when they are all that is missing.
fn check(conditions: &[AppliedRule<'_>], claims: &Claims) -> Result<(), Denial> {
    let mut failing = None;
    for one in conditions {
        let holds = one
            .condition
            .holds(claims)
            .map_err(|error| Denial::WrongClaimType {
                rule: Arc::clone(&one.rule),
                error,
            })?;
        if !holds {
            failing = failing.or(Some(one));
        }
    }
    let Some(failing) = failing else {
        return Ok(());
    };
    let rule = Arc::clone(&failing.rule);
    let all: Vec<&Condition> = conditions.iter().map(|one| one.condition).collect();
    if let Some(needed) = scopes_to_pass(&all, claims) {
        let found = claims.string("scope").ok().flatten().unwrap_or_default();
        return Err(Denial::ScopeMissing {
            rule,
            needed,
            found: found.to_owned(),
        });
    }
    let condition = failing.condition.first_failing(claims);
    let condition = condition.unwrap_or(failing.condition);
    Err(Denial::RuleFailed {
        rule,
        condition: condition.to_string(),
        found: condition.found(claims),
    })
}

/// The scopes with which every condition would hold; `None` when no scopes would do. All that are needed
/// are named, those that the token has among them, and none that is not.
fn scopes_to_pass(conditions: &[&Condition], claims: &Claims) -> Option<BTreeSet<String>> {
    let mut needed = BTreeSet::new();
    for one in conditions {
        needed.extend(one.scopes_to_hold(claims)?);
    }
    let hold_with = |scopes: &[&str]| {
        let claims = claims.with("scope", Value::from(scopes.join(" ")));
        let mut conditions = conditions.iter();
        conditions.all(|one| one.holds(&claims) == Ok(true))
    };
    let held = claims.string("scope").ok().flatten().unwrap_or_default();
    let hold_beside = |scopes: &BTreeSet<String>| {
        let held = held.split(' ').filter(|scope| !scope.is_empty());
        let scopes: Vec<&str> = held.chain(scopes.iter().map(String::as_str)).collect();
        hold_with(&scopes)
    };
    if !hold_beside(&needed) {
        return None;
    }
    // Each condition has named what it needs; together they may do with less.
    let mut fewer = needed.clone();
    for scope in &needed {
        let others = fewer.iter().filter(|other| *other != scope);
        let others: Vec<&str> = others.map(String::as_str).collect();
        if hold_with(&others) {
            fewer.remove(scope);
        }
    }
    // Under a `not`, less may be more.
    Some(if hold_beside(&fewer) { fewer } else { needed })
}

impl<'p> Outcome<'p> {
    fn pattern(&self) -> Option<&'p Arc<str>> {
        match self {
            Self::Route(route) => Some(route.pattern.source()),
            Self::MessageNotCovered(known)
            | Self::MessageUnread(known)
            | Self::MethodNotCovered(known) => Some(known.pattern().source()),
            Self::Unmatched => None,
        }
    }

    /// Adds an outcome that is not there yet.
    fn add_to(self, outcomes: &mut Vec<Self>) {
        if !outcomes.iter().any(|other| self.is(other)) {
            outcomes.push(self);
        }
    }

    /// Whether both are the same route, or the same lack of one.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(two)) => std::ptr::eq(*one, *two),
            (Self::MethodNotCovered(one), Self::MethodNotCovered(two))
            | (Self::MessageNotCovered(one), Self::MessageNotCovered(two))
            | (Self::MessageUnread(one), Self::MessageUnread(two)) => std::ptr::eq(*one, *two),
            (Self::Unmatched, Self::Unmatched) => true,
            _ => false,
        }
    }
}

impl<'r> Permit<'r> {
    /// The request that may pass.
    #[must_use]
    pub const fn request(&self) -> &'r CanonicalRequest {
        self.request
    }

    /// The caller that was judged, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.caller {
            Caller::Anonymous => None,
            Caller::Verified(identity) => Some(identity),
        }
    }

    /// What rules in shadow would have refused.
    #[must_use]
    pub fn shadowed(&self) -> &[Denial] {
        &self.shadowed
    }
}

impl Denial {
    /// The stable code of this refusal, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Audience(rejection) => rejection.code(),
            Self::Denied { .. }
            | Self::RuleFailed { .. }
            | Self::Unmatched
            | Self::WrongClaimType { .. } => "rule_denied",
            Self::MessageNotCovered { .. } => "mcp_denied",
            Self::MessageUnread { .. } => "mcp_unreadable",
            Self::MethodNotCovered { .. } => "method_denied",
            Self::ScopeMissing { .. } => "scope_missing",
            Self::TokenRequired => "token_missing",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Audience(rejection) => rejection.fmt(f),
            Self::Denied { route } => write!(f, "{route}: access is deny"),
            Self::MessageNotCovered { route } => {
                write!(f, "{route}: no route of this path takes the MCP message")
            }
            Self::MessageUnread { route } => write!(f, "{route}: the MCP message is not known"),
            Self::MethodNotCovered { route, allow } => write!(f, "{route}: only {allow:?}"),
            Self::RuleFailed {
                rule,
                condition,
                found,
            } => {
                write!(f, "{rule}: {condition} does not hold")?;
                match found {
                    None => Ok(()),
                    Some(found) => write!(f, "; found {found}"),
                }
            }
            Self::ScopeMissing {
                rule,
                needed,
                found,
            } => write!(f, "{rule}: needs scopes {needed:?}; found {found:?}"),
            Self::TokenRequired => f.write_str("a token is needed"),
            Self::Unmatched => f.write_str("no route matches and unmatched is deny"),
            Self::WrongClaimType { rule, error } => write!(f, "{rule}: {error}"),
        }
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::{Condition, Denial, Policy, Readings, Requirement};
    use crate::claims::{ClaimPath, Claims};
    use crate::mcp::{Call, Message};
    use crate::policy::{Access, ListMode, McpCondition, Methods, NamePattern, Pattern, Route};
    use serde_json::{Value, json};

    fn scopes(needed: &[&str]) -> Condition {
        Condition::Scopes(
            ListMode::All,
            needed.iter().map(|s| (*s).to_owned()).collect(),
        )
    }

    fn role(name: &str) -> Condition {
        Condition::Roles(
            ClaimPath::name("roles"),
            ListMode::Any,
            vec![name.to_owned()],
        )
    }

    fn anyone() -> Access {
        Access::Authenticated(Condition::All(vec![]))
    }

    fn route(path: &str, methods: &[&str], access: Access) -> Route {
        Route {
            pattern: Pattern::parse(path).expect(path),
            methods: if methods.is_empty() {
                Methods::Remaining
            } else {
                Methods::Only(methods.iter().map(|m| (*m).to_owned()).collect())
            },
            mcp: None,
            access,
            shadow: false,
        }
    }

    fn policy(require: Condition, routes: Vec<Route>) -> Policy {
        let require = Requirement {
            condition: require,
            shadow: false,
        };
        Policy::new(require, routes, false).expect("no duplicates")
    }

    fn claims(value: &Value) -> Claims {
        Claims::new(value.as_object().expect("an object").clone())
    }

    /// `passes`, or the code of the refusal.
    fn decide(policy: &Policy, request: &str, who: Option<&Value>) -> &'static str {
        let (method, path) = request.split_once(' ').expect("METHOD PATH");
        let matched = policy.matched(method, path).expect(path);
        match matched.decide(who.map(claims).as_ref()) {
            Ok(_) => "passes",
            Err(denial) => denial.code(),
        }
    }

    fn mcp_route(path: &str, condition: &str, access: Access) -> Route {
        let (key, names) = condition.split_once(' ').expect("KEY NAMES");
        let names = names
            .split(' ')
            .map(|name| NamePattern::parse(name).expect(name))
            .collect();
        Route {
            mcp: Some(match key {
                "method" => McpCondition::Method(names),
                _ => McpCondition::Tool(names),
            }),
            ..route(path, &["POST"], access)
        }
    }

    fn needs(scope: &str) -> Access {
        Access::Authenticated(scopes(&[scope]))
    }

    fn tool(name: &str) -> Message {
        Message::Call(Call::tool_call(name).expect(name))
    }

    fn called(method: &str) -> Message {
        Message::Call(Call::new(method.to_owned(), None).expect(method))
    }

    /// `passes`, or the code of the refusal, with the scopes that are needed.
    fn decide_message(
        policy: &Policy,
        request: &str,
        messages: &[Message],
        who: Option<&Value>,
    ) -> String {
        let (method, path) = request.split_once(' ').expect("METHOD PATH");
        let readings = Readings::of(path).expect(path);
        let matched = policy.matched_with(method, &readings, messages);
        match matched.decide(who.map(claims).as_ref()) {
            Ok(_) => "passes".to_owned(),
            Err(Denial::ScopeMissing { needed, .. }) => {
                needed.into_iter().collect::<Vec<_>>().join(" ")
            }
            Err(denial) => denial.code().to_owned(),
        }
    }

    #[test]
    fn the_closest_condition_on_the_message_decides() {
        let policy = policy(
            Condition::All(vec![]),
            vec![
                route("/mcp", &[], needs("base")),
                mcp_route("/mcp", "method tools/*", needs("tools")),
                mcp_route("/mcp", "method tools/call ping", needs("call")),
                mcp_route("/mcp", "tool *", needs("any")),
                mcp_route("/mcp", "tool delete_*", needs("delete")),
                mcp_route("/mcp", "tool delete_all", Access::Deny),
                mcp_route("/mcp", "tool delete_user_* Wipe", needs("users")),
            ],
        );
        let nobody = json!({ "scope": "" });
        let caller = Some(&nobody);
        for (messages, expected) in [
            (vec![called("tools/list")], "tools"),
            (vec![called("ping")], "call"),
            (vec![called("prompts/list")], "base"),
            (vec![called("toolsX")], "base"),
            (vec![tool("read")], "any"),
            (vec![tool("")], "any"),
            (vec![tool("delete_x")], "delete"),
            (vec![tool("delete_all")], "rule_denied"),
            (vec![tool("delete_all2")], "delete"),
            (vec![tool("delete_user_7")], "users"),
            (vec![Message::Answer], "base"),
            // Another spelling may mean the same to a backend, and something else.
            (vec![tool("Delete_x")], "any delete"),
            (vec![tool(" delete_x ")], "any delete"),
            (vec![tool("DELETE_ALL")], "rule_denied"),
            (vec![tool("wipe")], "any users"),
            (vec![called("PING")], "base call"),
            // All of a batch must be permitted.
            (
                vec![called("tools/list"), tool("delete_x"), Message::Answer],
                "base delete tools",
            ),
            (
                vec![called("tools/list"), tool("delete_all")],
                "rule_denied",
            ),
            // Nothing is known, so nothing passes.
            (vec![], "mcp_unreadable"),
        ] {
            for path in ["/mcp", "/mcp/", "//mcp", "/%6dcp", "/x/../mcp"] {
                let found = decide_message(&policy, &format!("POST {path}"), &messages, caller);
                assert_eq!(found, expected, "{path} {messages:?}");
            }
        }
        let some = json!({ "scope": "any" });
        assert_eq!(
            decide_message(&policy, "POST /mcp", &[tool("read")], Some(&some)),
            "passes"
        );
        assert_eq!(
            decide_message(&policy, "POST /mcp", &[tool("Delete_x")], Some(&some)),
            "any delete"
        );
        assert_eq!(
            decide_message(&policy, "POST /mcp", &[tool("read")], None),
            "token_missing"
        );
    }

    #[test]
    fn other_methods_take_the_routes_without_a_condition() {
        let policy = policy(
            Condition::All(vec![]),
            vec![
                route("/mcp", &[], needs("base")),
                route("/mcp", &["PATCH"], needs("patch")),
                mcp_route("/mcp", "tool *", needs("tools")),
                mcp_route("/only", "tool a", needs("tools")),
                mcp_route("/only", "method tools/list", Access::Public),
                mcp_route("/shut", "tool *", Access::Deny),
                route("/shut", &[], Access::Deny),
            ],
        );
        let nobody = json!({ "scope": "" });
        for (request, messages, expected) in [
            ("GET /mcp", vec![], "base"),
            ("DELETE /mcp", vec![], "base"),
            ("GET /mcp", vec![tool("a")], "base"),
            ("PATCH /mcp", vec![], "patch"),
            ("PUT /mcp", vec![], "method_denied"),
            ("post /mcp", vec![tool("a")], "method_denied"),
            ("GET /only", vec![], "method_denied"),
            ("POST /only", vec![tool("a")], "tools"),
            ("POST /only", vec![tool("b")], "mcp_denied"),
            ("POST /only", vec![called("ping")], "mcp_denied"),
            ("POST /only", vec![Message::Answer], "mcp_denied"),
            ("POST /only", vec![called("tools/list")], "passes"),
            (
                "POST /only",
                vec![called("tools/list"), tool("b")],
                "mcp_denied",
            ),
            ("POST /shut", vec![], "rule_denied"),
            // Where no message decides, none is asked for.
            ("POST /elsewhere", vec![], "passes"),
        ] {
            let found = decide_message(&policy, request, &messages, Some(&nobody));
            assert_eq!(found, expected, "{request} {messages:?}");
        }
        // A stranger is asked what it wants only where something is public.
        for (request, messages, expected) in [
            ("POST /mcp", vec![], "token_missing"),
            ("POST /only", vec![], "mcp_unreadable"),
            ("POST /only", vec![called("tools/list")], "passes"),
            (
                "POST /only",
                vec![called("tools/list"), tool("a")],
                "token_missing",
            ),
            ("POST /only", vec![tool("b")], "token_missing"),
            ("POST /shut", vec![], "token_missing"),
        ] {
            let found = decide_message(&policy, request, &messages, None);
            assert_eq!(found, expected, "{request} {messages:?} without a token");
        }
    }

    #[test]
    fn the_message_is_asked_for_last() {
        let org = Condition::Organizations(vec!["org_1".to_owned()]);
        let require = Condition::All(vec![scopes(&["all"]), org]);
        let policy = policy(require, vec![mcp_route("/mcp", "tool *", needs("tools"))]);
        for (who, expected) in [
            // Nothing that the message says could help.
            (json!({ "scope": "all tools" }), "rule_denied"),
            // All scopes are told at once, so the message is asked for.
            (json!({ "org_id": "org_1" }), "mcp_unreadable"),
            (
                json!({ "scope": "all", "org_id": "org_1" }),
                "mcp_unreadable",
            ),
        ] {
            assert_eq!(
                decide_message(&policy, "POST /mcp", &[], Some(&who)),
                expected
            );
        }
        let who = json!({ "org_id": "org_1" });
        assert_eq!(
            decide_message(&policy, "POST /mcp", &[tool("a")], Some(&who)),
            "all tools"
        );
        let preflight = policy.matched("POST", "/mcp").expect("a path");
        assert!(preflight.judge_preflight().is_ok());
    }

    #[test]
    fn two_routes_for_one_message_are_an_error() {
        let require = || Requirement {
            condition: Condition::All(vec![]),
            shadow: false,
        };
        for (one, two, same) in [
            ("tool a", "tool a", true),
            ("tool a b*", "tool b*", true),
            ("tool a", "tool a*", false),
            ("tool a", "method a", false),
            ("tool a", "tool A", false),
        ] {
            let routes = vec![
                route("/mcp", &["POST"], anyone()),
                mcp_route("/mcp", one, anyone()),
                mcp_route("/mcp", two, anyone()),
            ];
            let made = Policy::new(require(), routes, false);
            assert_eq!(made.is_err(), same, "{one} and {two}");
        }
    }

    #[test]
    fn the_most_specific_pattern_decides_then_its_method() {
        let policy = policy(
            Condition::All(vec![]),
            vec![
                route("/**", &[], Access::Public),
                route("/api/**", &[], anyone()),
                route("/api/agents/*", &["GET"], anyone()),
                route(
                    "/api/agents/*",
                    &["DELETE"],
                    Access::Authenticated(role("admin")),
                ),
                route("/api/agents/public", &[], Access::Public),
                route("/api/*/secret", &[], Access::Deny),
                route(
                    "/api/agents/*/run",
                    &["POST"],
                    Access::Authenticated(role("runner")),
                ),
                route("/api/agents/*/run", &[], Access::Deny),
            ],
        );
        let user = json!({"sub":"u"});
        let admin = json!({"sub":"a","roles":["admin"]});
        for (request, who, expected) in [
            ("GET /", None, "passes"),
            ("GET /anything/else", None, "passes"),
            ("GET /api", None, "token_missing"),
            ("GET /api/other/thing", Some(&user), "passes"),
            ("GET /api/agents/public", None, "passes"),
            ("GET /api/agents/x", None, "token_missing"),
            ("GET /api/agents/x", Some(&user), "passes"),
            ("DELETE /api/agents/x", Some(&user), "rule_denied"),
            ("DELETE /api/agents/x", Some(&admin), "passes"),
            ("PUT /api/agents/x", Some(&admin), "method_denied"),
            ("get /api/agents/x", Some(&admin), "method_denied"),
            ("HEAD /api/agents/x", Some(&admin), "method_denied"),
            ("PUT /api/agents/x", None, "token_missing"),
            // Segment by segment from the left: "agents" beats "*" before "secret" is looked at.
            ("GET /api/agents/secret", Some(&admin), "passes"),
            ("GET /api/other/secret", Some(&admin), "rule_denied"),
            ("POST /api/agents/x/run", Some(&admin), "rule_denied"),
            ("GET /api/agents/x/run", Some(&admin), "rule_denied"),
            ("GET /api/agents/x/walk", Some(&user), "passes"),
        ] {
            assert_eq!(decide(&policy, request, who), expected, "{request} {who:?}");
        }
    }

    #[test]
    fn no_spelling_borrows_a_weaker_route() {
        let policy = policy(
            Condition::All(vec![]),
            vec![
                route("/public/**", &[], Access::Public),
                route("/Admin/**", &[], Access::Authenticated(role("admin"))),
                route("/exact/", &[], Access::Deny),
            ],
        );
        let user = json!({"sub":"u"});
        for path in [
            "/public/../Admin/x",
            "/public/%2e%2e/Admin/x",
            "/public/..%2fAdmin/x",
            "/public/%252e%252e/Admin",
            "/public/..;/Admin",
            "/public/..%5cAdmin",
            "//Admin/x",
            "/%41dmin/x",
            "/%2541dmin/x",
            "/admin/x",
            "/ADMIN/x",
            "/aDMIN%2fx",
            "/Admin;a=b/x",
            "/Admin/",
            "/exact",
            "/exact/",
            "/EXACT",
            "/exact%2f",
            "/public/../exact",
        ] {
            let request = format!("GET {path}");
            assert_ne!(
                decide(&policy, &request, None),
                "passes",
                "{path} without a token"
            );
            assert_eq!(
                decide(&policy, &request, Some(&user)),
                "rule_denied",
                "{path} as a user"
            );
        }
        for path in ["/public/a", "/public/a/", "/public//a", "/PUBLIC%2fa"] {
            let request = format!("GET {path}");
            assert_eq!(decide(&policy, &request, Some(&user)), "passes", "{path}");
        }
        assert_eq!(
            decide(&policy, "GET /public//a", None),
            "passes",
            "every reading is public"
        );
        assert_eq!(
            decide(&policy, "GET /PUBLIC/a", None),
            "token_missing",
            "one reading is not"
        );
    }

    #[test]
    fn require_holds_for_every_authenticated_request() {
        let policy = policy(
            role("member"),
            vec![
                route("/public", &[], Access::Public),
                route("/api/**", &[], Access::Authenticated(role("admin"))),
            ],
        );
        let member = json!({"roles":["member"]});
        let admin = json!({"roles":["admin"]});
        let both = json!({"roles":["admin","member"]});
        for (request, who, expected) in [
            ("GET /public", None, "passes"),
            ("GET /public", Some(&member), "passes"),
            ("GET /public", Some(&admin), "rule_denied"),
            ("GET /other", Some(&member), "passes"),
            ("GET /other", Some(&admin), "rule_denied"),
            ("GET /other", None, "token_missing"),
            ("GET /api/x", Some(&member), "rule_denied"),
            ("GET /api/x", Some(&admin), "rule_denied"),
            ("GET /api/x", Some(&both), "passes"),
        ] {
            assert_eq!(decide(&policy, request, who), expected, "{request} {who:?}");
        }
    }

    #[test]
    fn unmatched_can_be_denied() {
        let require = Requirement {
            condition: Condition::All(vec![]),
            shadow: false,
        };
        let policy = Policy::new(require, vec![route("/known", &[], anyone())], true)
            .expect("no duplicates");
        let user = json!({});
        assert_eq!(decide(&policy, "GET /known", Some(&user)), "passes");
        assert_eq!(decide(&policy, "GET /unknown", Some(&user)), "rule_denied");
        assert_eq!(decide(&policy, "GET /unknown", None), "token_missing");
    }

    #[test]
    fn all_scopes_come_in_one_challenge_and_only_when_they_would_help() {
        let policy = policy(
            scopes(&["base"]),
            vec![
                route("/r", &[], Access::Authenticated(scopes(&["read", "write"]))),
                route(
                    "/a",
                    &[],
                    Access::Authenticated(Condition::All(vec![scopes(&["read"]), role("admin")])),
                ),
            ],
        );
        let challenge = |path: &str, who: &Value| {
            policy
                .matched("GET", path)
                .expect(path)
                .decide(Some(&claims(who)))
                .expect_err("refused")
        };
        let Denial::ScopeMissing { needed, .. } = challenge("/r", &json!({"scope":"read"})) else {
            panic!("scopes would help");
        };
        assert_eq!(
            needed.into_iter().collect::<Vec<_>>(),
            ["base", "read", "write"]
        );
        assert_eq!(challenge("/a", &json!({"scope":""})).code(), "rule_denied");
        assert_eq!(
            challenge("/a", &json!({"roles":["admin"]})).code(),
            "scope_missing"
        );
        assert_eq!(challenge("/r", &json!({"scope":7})).code(), "rule_denied");
        let all = json!({"scope":"write read base"});
        assert_eq!(decide(&policy, "GET /r", Some(&all)), "passes");
    }

    #[test]
    fn shadow_reports_and_lets_pass_but_never_without_a_token() {
        let shadow = |mut route: Route| {
            route.shadow = true;
            route
        };
        let require = Requirement {
            condition: role("member"),
            shadow: true,
        };
        let routes = vec![
            shadow(route("/r", &[], Access::Authenticated(role("admin")))),
            shadow(route("/d", &[], Access::Deny)),
            shadow(route("/m", &["GET"], anyone())),
            route("/strict", &[], Access::Authenticated(role("admin"))),
        ];
        let policy = Policy::new(require, routes, false).expect("no duplicates");
        let user = json!({"sub":"u"});
        for (request, refusals) in [
            ("GET /r", 2),
            ("GET /d", 2),
            ("POST /m", 2),
            ("GET /m", 1),
            ("GET /else", 1),
        ] {
            let (method, path) = request.split_once(' ').expect("METHOD PATH");
            let shadowed = policy
                .matched(method, path)
                .expect(path)
                .decide(Some(&claims(&user)))
                .expect(request);
            assert_eq!(shadowed.len(), refusals, "{request}");
            assert_eq!(decide(&policy, request, None), "token_missing", "{request}");
        }
        assert_eq!(decide(&policy, "GET /strict", Some(&user)), "rule_denied");
    }

    #[test]
    fn duplicates_are_errors() {
        let require = || Requirement {
            condition: Condition::All(vec![]),
            shadow: false,
        };
        for (routes, expected) in [
            (
                vec![route("/a", &[], anyone()), route("/a", &[], Access::Deny)],
                Some((0, 1)),
            ),
            (
                vec![
                    route("/a", &["GET"], anyone()),
                    route("/b", &[], anyone()),
                    route("/a", &["PUT", "GET"], anyone()),
                ],
                Some((0, 2)),
            ),
            (
                vec![route("/a", &["GET"], anyone()), route("/a", &[], anyone())],
                None,
            ),
            (
                vec![
                    route("/a", &[], anyone()),
                    route("/A", &[], anyone()),
                    route("/a/", &[], anyone()),
                ],
                None,
            ),
        ] {
            let found = Policy::new(require(), routes, false)
                .err()
                .map(|errors| (errors[0].first, errors[0].second));
            assert_eq!(found, expected);
        }
    }
}
