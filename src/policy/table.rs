//! The route table: the most specific pattern for a path, in time bounded by the table's size.
//!
//! Patterns form a tree of segments. Segment by segment from the left, a literal beats `*`, and `*`
//! beats `**`; so the first match of a depth-first search in that order is the most specific one.

use std::collections::HashMap;
use std::fmt;

use super::condition::Condition;
use super::pattern::{Pattern, Segment};
use super::route::{Access, Methods, Route};

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
    /// The method both name; `None` when both take the remaining ones.
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
                Some(known) => known.routes.push(route),
                None => table.patterns.push(PatternRoutes {
                    pattern: route.pattern.clone(),
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

    /// Whether `/a` and `/a/` can be different routes.
    pub(super) const fn slash_matters(&self) -> bool {
        self.slash_matters
    }

    /// Every distinct pattern, with its routes, in the order of configuration.
    pub(super) fn patterns(&self) -> &[PatternRoutes] {
        &self.patterns
    }

    /// The most specific pattern for a path as it stands, and for a backend that ignores case.
    /// An empty answer within means: no pattern matches that reading.
    pub(super) fn lookups<'t>(&'t self, path: &str) -> [Option<Vec<&'t PatternRoutes>>; 2] {
        let exact = self.resolve(self.exact.find(path));
        let folds = path
            .bytes()
            .any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii());
        let folded = match (&self.folded, folds) {
            (None, false) => None,
            (folded, _) => {
                let root = folded.as_ref().unwrap_or(&self.exact);
                Some(self.resolve(root.find(&fold_case(path))))
            }
        };
        [Some(exact), folded]
    }

    fn resolve(&self, places: &[usize]) -> Vec<&PatternRoutes> {
        places
            .iter()
            .filter_map(|place| self.patterns.get(*place))
            .collect()
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
    let mut taken: HashMap<(&str, Option<&str>), usize> = HashMap::new();
    let mut duplicates = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let methods: Vec<Option<&str>> = match &route.methods {
            Methods::Remaining => vec![None],
            Methods::Only(methods) => methods.iter().map(|method| Some(method.as_str())).collect(),
        };
        for method in methods {
            let first = *taken
                .entry((route.pattern.source(), method))
                .or_insert(second);
            if first != second {
                duplicates.push(DuplicateRoute {
                    first,
                    second,
                    method: method.map(str::to_owned),
                });
            }
        }
    }
    duplicates
}

impl PatternRoutes {
    /// The route for a method: one that names it, or else the one for the remaining methods.
    pub(super) fn for_method(&self, method: &str) -> Option<&Route> {
        let names = |route: &&Route| matches!(&route.methods, Methods::Only(named) if named.iter().any(|one| one == method));
        self.routes.iter().find(names).or_else(|| {
            self.routes
                .iter()
                .find(|route| route.methods == Methods::Remaining)
        })
    }

    /// The methods that routes of this pattern name, for the `Allow` header (RFC 9110 §10.2.1).
    pub(super) fn named_methods(&self) -> impl Iterator<Item = &str> {
        self.routes
            .iter()
            .flat_map(|route| match &route.methods {
                Methods::Remaining => [].iter(),
                Methods::Only(named) => named.iter(),
            })
            .map(String::as_str)
    }

    /// Whether some method has no route here.
    pub(super) fn leaves_methods_uncovered(&self) -> bool {
        self.routes
            .iter()
            .all(|route| route.methods != Methods::Remaining)
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

    /// What is asked here, whatever the method.
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

    fn find(&self, path: &str) -> &[usize] {
        self.find_below(path.strip_prefix('/')).unwrap_or_default()
    }

    /// `rest` is what follows the slash after this node's segment; `None` at the end of the path.
    /// Each node stands at one depth, so each is visited at most once.
    fn find_below(&self, rest: Option<&str>) -> Option<&[usize]> {
        let deeper = match rest {
            None => (!self.here.is_empty()).then_some(self.here.as_slice()),
            Some(rest) => {
                let (segment, after) = match rest.split_once('/') {
                    Some((segment, after)) => (segment, Some(after)),
                    None => (rest, None),
                };
                let literal = self
                    .literals
                    .get(segment)
                    .and_then(|node| node.find_below(after));
                literal.or_else(|| {
                    let any = self.any.as_deref().filter(|_| !segment.is_empty());
                    any.and_then(|node| node.find_below(after))
                })
            }
        };
        deeper.or_else(|| (!self.rest.is_empty()).then_some(self.rest.as_slice()))
    }
}
