//! The route table: the most specific pattern for a path, in time bounded by the table's size.
//!
//! Patterns form a tree of segments. Segment by segment from the left, a literal beats `*`, and `*`
//! beats `**`; so the first match of a depth-first search in that order is the most specific one.

use std::collections::HashMap;
use std::fmt;

use super::condition::Condition;
use super::message::Spelling;
use super::pattern::{Pattern, Segment};
use super::route::{Access, Methods, Route};
use crate::canonical::without_format_suffix;
use crate::mcp::{Call, Message};

/// The method by which MCP messages come.
const POST: &str = "POST";

/// Methods that carry no message. On a path with conditions on messages, a route without `methods` takes
/// these and POST only: what a backend reads into another one, nobody has decided on.
const WITHOUT_MESSAGE: [&str; 4] = ["GET", "HEAD", "DELETE", "OPTIONS"];

/// Finds the routes for a path.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Every distinct pattern, with its routes.
    patterns: Vec<PatternRoutes>,
    exact: Node,
    /// The same patterns in lower case, when any has an upper-case letter.
    folded: Option<Node>,
    slash_matters: bool,
}

/// The routes that share one pattern.
#[derive(Debug, Clone)]
pub(super) struct PatternRoutes {
    pattern: Pattern,
    routes: Vec<Route>,
    /// Whether one of them has a condition on messages.
    is_gated: bool,
}

/// A place in the tree. Numbers are places in [`Table::patterns`]; folding case can put several
/// patterns in one place.
#[derive(Debug, Clone, Default)]
struct Node {
    literals: HashMap<Box<str>, Self>,
    any: Option<Box<Self>>,
    here: Vec<usize>,
    rest: Vec<usize>,
}

/// Two routes claim the same path and method, so neither decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateRoute {
    /// The place of the first route in the list that was given.
    pub first: usize,
    /// The place of the second.
    pub second: usize,
    /// The method, or MCP message, both name; `None` when both take the remaining ones.
    pub method: Option<String>,
}

impl fmt::Display for DuplicateRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) => write!(
                f,
                "route[{}] has the same path and takes {method} already",
                self.first
            ),
            None => write!(
                f,
                "route[{}] has the same path and takes the remaining methods already",
                self.first
            ),
        }
    }
}

impl std::error::Error for DuplicateRoute {}

impl Table {
    pub(super) fn new(routes: Vec<Route>) -> Result<Self, Vec<DuplicateRoute>> {
        let duplicates = find_duplicates(&routes);
        if !duplicates.is_empty() {
            return Err(duplicates);
        }
        let mut table = Self::default();
        for route in routes {
            match table
                .patterns
                .iter_mut()
                .find(|known| known.pattern == route.pattern)
            {
                Some(known) => {
                    known.is_gated |= route.mcp.is_some();
                    known.routes.push(route);
                }
                None => table.patterns.push(PatternRoutes {
                    pattern: route.pattern.clone(),
                    is_gated: route.mcp.is_some(),
                    routes: vec![route],
                }),
            }
        }
        let mut exact = Node::default();
        let mut folded = Node::default();
        for (place, known) in table.patterns.iter().enumerate() {
            exact.insert(&known.pattern, place, str::to_owned);
            folded.insert(&known.pattern, place, str::to_ascii_lowercase);
        }
        let case_matters = table
            .patterns
            .iter()
            .any(|known| known.pattern.has_upper_case());
        table.exact = exact;
        table.folded = case_matters.then_some(folded);
        table.slash_matters = table
            .patterns
            .iter()
            .any(|known| known.pattern.has_trailing_slash());
        Ok(table)
    }

    /// Every distinct pattern, with its routes, in the order of configuration.
    pub(super) fn patterns(&self) -> &[PatternRoutes] {
        &self.patterns
    }

    /// Looks one reading of a path up: as it stands, and for a backend that ignores case; with a final
    /// slash, where some route has one; and without a format suffix, which counts where that leads to a
    /// route by a literal last segment, unless a route names the path with its suffix.
    pub(super) fn look_up<'t>(&'t self, reading: &str, mut found: impl FnMut(Lookup<'t, '_>)) {
        self.look_up_in(&self.exact, reading, &mut |indices, path, slash| {
            found(self.lookup(indices, path, slash));
        });
        let folds = |byte: u8| byte.is_ascii_uppercase() || !byte.is_ascii();
        if self.folded.is_some() || reading.bytes().any(folds) {
            let root = self.folded.as_ref().unwrap_or(&self.exact);
            self.look_up_in(root, &fold_case(reading), &mut |indices, path, slash| {
                found(self.lookup(indices, path, slash));
            });
        }
    }

    fn look_up_in<'t>(
        &self,
        root: &'t Node,
        reading: &str,
        found: &mut impl FnMut(&'t [usize], &str, bool),
    ) {
        let whole = root.find(reading, false);
        found(whole.indices, reading, false);
        let adds_slash = |path: &str| self.slash_matters && !path.ends_with('/');
        if adds_slash(reading) {
            found(root.find(reading, true).indices, reading, true);
        }
        if whole.is_by_literal {
            return;
        }
        for stem in without_format_suffix(reading) {
            let slashes: &[bool] = if adds_slash(stem) {
                &[false, true]
            } else {
                &[false]
            };
            for slash in slashes {
                let without = root.find(stem, *slash);
                if without.is_by_literal {
                    found(without.indices, stem, *slash);
                }
            }
        }
    }

    const fn lookup<'t, 'r>(
        &'t self,
        indices: &'t [usize],
        path: &'r str,
        has_added_slash: bool,
    ) -> Lookup<'t, 'r> {
        Lookup {
            table: self,
            indices,
            path,
            has_added_slash,
        }
    }
}

/// What one reading of a path leads to, in one way of looking it up.
pub(super) struct Lookup<'t, 'r> {
    table: &'t Table,
    indices: &'t [usize],
    path: &'r str,
    has_added_slash: bool,
}

impl<'t> Lookup<'t, '_> {
    /// The most specific patterns: one, or several that differ only in case. Empty: no route matches.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &'t PatternRoutes> + use<'t> {
        let table = self.table;
        self.indices
            .iter()
            .filter_map(|index| table.patterns.get(*index))
    }

    /// Whether no pattern matches.
    pub(super) const fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The path that was looked up.
    pub(super) fn path(&self) -> String {
        let slash = if self.has_added_slash { "/" } else { "" };
        format!("{}{slash}", self.path)
    }
}

/// The path as backends that ignore case see it. Some fold by way of upper case, where the Kelvin
/// sign is a K and the long s an S.
pub(super) fn fold_case(path: &str) -> String {
    if path.is_ascii() {
        path.to_ascii_lowercase()
    } else {
        path.to_uppercase().to_lowercase()
    }
}

/// Exactly one route decides, so no two may claim the same path and method.
fn find_duplicates(routes: &[Route]) -> Vec<DuplicateRoute> {
    let mut taken: HashMap<(&str, Option<String>), usize> = HashMap::new();
    let mut duplicates = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let methods: Vec<Option<String>> = match (&route.mcp, &route.methods) {
            (Some(mcp), _) => mcp.claims().map(Some).collect(),
            (None, Methods::Remaining) => vec![None],
            (None, Methods::Only(methods)) => methods.iter().cloned().map(Some).collect(),
        };
        for method in methods {
            let first = *taken
                .entry((route.pattern.source(), method.clone()))
                .or_insert(second);
            if first != second {
                duplicates.push(DuplicateRoute {
                    first,
                    second,
                    method,
                });
            }
        }
    }
    duplicates
}

impl PatternRoutes {
    /// The route for a method, whatever the message: one that names it, or else the one for the
    /// remaining methods.
    pub(super) fn for_method(&self, method: &str) -> Option<&Route> {
        let names = |route: &&Route| matches!(&route.methods, Methods::Only(named) if named.iter().any(|one| one == method));
        self.without_mcp().find(names).or_else(|| {
            let remains = !self.is_gated() || method == POST || WITHOUT_MESSAGE.contains(&method);
            self.without_mcp()
                .find(|route| remains && route.methods == Methods::Remaining)
        })
    }

    /// Whether the message decides which route it is.
    pub(super) fn asks_for_message(&self, method: &str) -> bool {
        method == POST && self.is_gated()
    }

    /// The routes for a message, under every way in which a backend may spell its names: those that fit
    /// most closely, or else the one for POST. None where nothing takes it.
    pub(super) fn for_message(&self, message: &Message) -> Vec<Option<&Route>> {
        let Message::Call(call) = message else {
            return vec![self.for_method(POST)];
        };
        let mut found: Vec<Option<&Route>> = Vec::new();
        for spelling in [Spelling::Exact, Spelling::Folded] {
            let closest = self.closest(call, spelling);
            if closest.is_empty() {
                found.push(self.for_method(POST));
            }
            found.extend(closest.into_iter().map(Some));
        }
        found
    }

    /// Letter for letter there is one at most; ignoring case, several can fit alike.
    fn closest(&self, call: &Call, spelling: Spelling) -> Vec<&Route> {
        let fits = self.routes.iter().filter_map(|route| {
            let fit = route.mcp.as_ref()?.fit(call, spelling)?;
            Some((fit, route))
        });
        let fits: Vec<_> = fits.collect();
        let best = fits.iter().map(|(fit, _)| *fit).max();
        fits.into_iter()
            .filter(|(fit, _)| Some(*fit) == best)
            .map(|(_, route)| route)
            .collect()
    }

    /// Whether a route here has a condition on messages.
    pub(super) const fn is_gated(&self) -> bool {
        self.is_gated
    }

    fn without_mcp(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| route.mcp.is_none())
    }

    /// The route for a message that no condition fits.
    pub(super) fn for_unnamed_messages(&self) -> Option<&Route> {
        self.for_method(POST)
    }

    /// The routes that some message falls under.
    pub(super) fn for_messages(&self) -> impl Iterator<Item = &Route> {
        let with = self.routes.iter().filter(|route| route.mcp.is_some());
        with.chain(self.for_unnamed_messages())
    }

    /// The methods that routes of this pattern name, for the `Allow` header (RFC 9110 §10.2.1).
    pub(super) fn named_methods(&self) -> Vec<&str> {
        let mut methods = Vec::new();
        for route in &self.routes {
            let named = match &route.methods {
                Methods::Only(named) => named.iter().map(String::as_str).collect(),
                Methods::Remaining if self.is_gated() => [&[POST], &WITHOUT_MESSAGE[..]].concat(),
                Methods::Remaining => Vec::new(),
            };
            for method in named {
                if !methods.contains(&method) {
                    methods.push(method);
                }
            }
        }
        methods
    }

    /// Whether some method has no route here.
    pub(super) fn leaves_methods_uncovered(&self) -> bool {
        self.routes
            .iter()
            .all(|route| route.methods != Methods::Remaining)
            || self.is_gated()
    }

    /// Whether nothing here needs a token.
    pub(super) fn is_public(&self) -> bool {
        self.routes
            .iter()
            .all(|route| route.access == Access::Public)
    }

    /// Whether nothing here is meant to refuse yet.
    pub(super) fn is_shadow(&self) -> bool {
        self.routes.iter().all(|route| route.shadow)
    }

    /// What is asked here, whatever the method and the message.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.routes.iter().filter_map(|route| match &route.access {
            Access::Authenticated(condition) => Some(condition),
            Access::Deny | Access::Public => None,
        })
    }

    pub(super) const fn pattern(&self) -> &Pattern {
        &self.pattern
    }
}

impl Node {
    fn insert(&mut self, pattern: &Pattern, place: usize, spelling: fn(&str) -> String) {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(spelling(text).into()).or_default(),
                Segment::Any => node.any.get_or_insert_default(),
            };
        }
        if pattern.takes_rest() {
            node.rest.push(place);
        } else {
            node.here.push(place);
        }
    }

    /// Finds the most specific patterns for a path, to which a final slash is added first if
    /// `adds_slash`.
    fn find(&self, path: &str, adds_slash: bool) -> Found<'_> {
        self.find_below(path.strip_prefix('/'), adds_slash, false)
            .unwrap_or_default()
    }

    /// `rest` is what follows the slash after this node's segment; `None` at the end of the path.
    /// `is_literal` says whether that segment was met by a literal. Each node stands at one depth, so each
    /// is visited at most once.
    fn find_below(
        &self,
        rest: Option<&str>,
        adds_slash: bool,
        is_literal: bool,
    ) -> Option<Found<'_>> {
        let deeper = match rest {
            None if adds_slash => self.find_below(Some(""), false, is_literal),
            None => {
                Found::new(&self.here, is_literal).or_else(|| Found::new(&self.rest, is_literal))
            }
            Some(rest) => {
                let (segment, after) = match rest.split_once('/') {
                    Some((segment, after)) => (segment, Some(after)),
                    None => (rest, None),
                };
                // The empty literal stands for a final slash, and names nothing by itself.
                let is_named = if segment.is_empty() { is_literal } else { true };
                let literal = self
                    .literals
                    .get(segment)
                    .and_then(|node| node.find_below(after, adds_slash, is_named));
                literal.or_else(|| {
                    let any = self.any.as_deref().filter(|_| !segment.is_empty());
                    any.and_then(|node| node.find_below(after, adds_slash, false))
                })
            }
        };
        deeper.or_else(|| Found::new(&self.rest, false))
    }
}

/// The patterns at the end of a search: indices in [`Table::patterns`].
#[derive(Debug, Clone, Copy, Default)]
struct Found<'n> {
    indices: &'n [usize],
    /// Whether a literal met the last segment of the path.
    is_by_literal: bool,
}

impl<'n> Found<'n> {
    fn new(indices: &'n [usize], is_by_literal: bool) -> Option<Self> {
        (!indices.is_empty()).then_some(Self {
            indices,
            is_by_literal,
        })
    }
}
