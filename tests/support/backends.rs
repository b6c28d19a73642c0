//! How backends read paths and route them, simulated: the program's decisions are held to it.
//!
//! A backend is a sequence of transformations, written here from their definitions and sharing nothing
//! with the program, followed by a naive router over the same routes.

use std::collections::HashSet;

use authgate::policy::{Access, Condition, ListMode, Methods, Pattern, Policy, Requirement, Route};

/// A route as the simulation understands it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub path: String,
    /// Empty: the methods that no other rule of the same path names.
    pub methods: Vec<&'static str>,
    pub access: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Anything,
    AnyToken,
    TheScope,
    AnotherScope,
    Impossible,
}

impl Rule {
    fn route(&self) -> Route {
        let scope = |name: &str| Condition::Scopes(ListMode::All, vec![name.to_owned()]);
        Route {
            pattern: Pattern::parse(&self.path).expect("a pattern"),
            methods: if self.methods.is_empty() {
                Methods::Remaining
            } else {
                Methods::Only(self.methods.iter().map(|&one| one.to_owned()).collect())
            },
            mcp: None,
            access: match self.access {
                Asked::Anything => Access::Public,
                Asked::AnyToken => Access::Authenticated(Condition::All(vec![])),
                Asked::TheScope => Access::Authenticated(scope("held")),
                Asked::AnotherScope => Access::Authenticated(scope("other")),
                Asked::Impossible => Access::Deny,
            },
            shadow: false,
        }
    }
}

/// Routes, and what becomes of a path that none of them matches.
#[derive(Debug, Clone)]
pub struct Rules {
    pub rules: Vec<Rule>,
    pub deny_unmatched: bool,
}

impl Rules {
    /// Leaves out what claims the same path and method again: configuration refuses it.
    pub fn new(all: Vec<Rule>, deny_unmatched: bool) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        for rule in all {
            let clash = rules.iter().any(|other| {
                other.path == rule.path
                    && (other.methods == rule.methods
                        || other.methods.iter().any(|one| rule.methods.contains(one)))
            });
            if !clash {
                rules.push(rule);
            }
        }
        Self {
            rules,
            deny_unmatched,
        }
    }

    pub fn policy(&self) -> Policy {
        let require = Requirement {
            condition: Condition::All(vec![]),
            shadow: false,
        };
        let routes = self.rules.iter().map(Rule::route).collect();
        Policy::new(require, routes, self.deny_unmatched).expect("no duplicates")
    }

    /// Whether the backend's own router lets the request through, if it asks for what these rules ask.
    pub fn lets_pass(&self, router: Router, path: &str, method: &str, has_token: bool) -> bool {
        let (passes, by_literal) = self.routes(router, path, method, has_token);
        if !router.takes_format_suffix || by_literal {
            return passes;
        }
        // A route that ends in a literal is there a second time, with any format behind it.
        let Some(stem) = without_format(path) else {
            return passes;
        };
        let (stem_passes, stem_by_literal) = self.routes(router, stem, method, has_token);
        passes && (stem_passes || !stem_by_literal)
    }

    /// Whether the route that is found lets the request through, and whether it is found by a literal at
    /// the end of the path.
    fn routes(&self, router: Router, path: &str, method: &str, has_token: bool) -> (bool, bool) {
        let path = router.fold(path);
        let mut best: Vec<(&Rule, Vec<Fit>)> = Vec::new();
        for rule in &self.rules {
            if let Some(fit) = fit(&router.fold(&rule.path), &path) {
                best.push((rule, fit));
            }
        }
        let Some(highest) = best.iter().map(|(_, fit)| fit.clone()).max() else {
            return (has_token && !self.deny_unmatched, false);
        };
        let depth = path.trim_end_matches('/').split('/').count() - 1;
        let by_literal = depth > 0 && highest.get(depth - 1) == Some(&Fit::Literal);
        // Patterns that this router cannot tell apart: nobody knows which of them it would take.
        let mut patterns: Vec<&str> = best
            .iter()
            .filter(|(_, fit)| *fit == highest)
            .map(|(rule, _)| rule.path.as_str())
            .collect();
        patterns.dedup();
        let passes = patterns.iter().all(|pattern| {
            let of_pattern = || self.rules.iter().filter(|rule| rule.path == **pattern);
            of_pattern()
                .find(|rule| rule.methods.contains(&method))
                .or_else(|| of_pattern().find(|rule| rule.methods.is_empty()))
                .is_some_and(|rule| match rule.access {
                    Asked::Anything => true,
                    Asked::AnyToken | Asked::TheScope => has_token,
                    Asked::AnotherScope | Asked::Impossible => false,
                })
        });
        (passes, by_literal)
    }
}

/// `/x` for `/x.json` and `/x.json/`.
fn without_format(path: &str) -> Option<&str> {
    let bare = path.strip_suffix('/').unwrap_or(path);
    let dot = bare.rfind('.')?;
    let (stem, format) = (&bare[..dot], &bare[dot + 1..]);
    let is_format = !format.is_empty()
        && format.len() <= 16
        && format.chars().all(|one| one.is_ascii_alphanumeric());
    (is_format && !stem.is_empty() && !stem.ends_with('/')).then_some(stem)
}

/// How well one place of a pattern fits, from worst to best. Fits compare from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Rest,
    Wildcard,
    Literal,
    End,
}

/// How a pattern fits a path, if it does: the definition, without a tree.
fn fit(pattern: &str, path: &str) -> Option<Vec<Fit>> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let mut fits = Vec::new();
    if pattern == "/**" {
        return Some(vec![Fit::Rest]);
    }
    for wanted in pattern.strip_prefix('/')?.split('/') {
        if wanted == "**" {
            fits.push(Fit::Rest);
            return Some(fits);
        }
        let segment = segments.next()?;
        match wanted {
            "*" if !segment.is_empty() => fits.push(Fit::Wildcard),
            _ if wanted == segment => fits.push(Fit::Literal),
            _ => return None,
        }
    }
    fits.push(Fit::End);
    segments.next().is_none().then_some(fits)
}

/// What a backend's router cannot tell apart.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    pub ignores_case: bool,
    pub ignores_trailing_slash: bool,
    /// Such as Django REST framework's `DefaultRouter`, and Rails with `(.:format)`.
    pub takes_format_suffix: bool,
}

impl Router {
    fn fold(self, path: &str) -> String {
        let mut path = path.to_owned();
        if self.ignores_case {
            path = path.to_ascii_lowercase();
        }
        if self.ignores_trailing_slash && path.len() > 1 && path.ends_with('/') {
            path.pop();
        }
        path
    }
}

/// One thing that a backend may do to a path before it routes.
#[derive(Debug, Clone, Copy)]
pub enum Transformation {
    BackslashIsSlash,
    CutAtFragment,
    CutAtParameter,
    CutAtQuery,
    Decode,
    DecodeButSlash,
    DecodeTwice,
    DecodeUnreserved,
    DropAuthority,
    DecodeUri,
    DecodeUriKeepingPercent,
    DropAllParameters,
    DropLastParameters,
    DropTrailingSlash,
    DropTrailingSlashes,
    MergeSlashes,
    RemoveDotSegments,
    RemoveEncodedDotSegments,
    TrimSegments,
}

pub const TRANSFORMATIONS: [Transformation; 19] = [
    Transformation::BackslashIsSlash,
    Transformation::CutAtFragment,
    Transformation::CutAtParameter,
    Transformation::CutAtQuery,
    Transformation::Decode,
    Transformation::DecodeButSlash,
    Transformation::DecodeTwice,
    Transformation::DecodeUnreserved,
    Transformation::DropAuthority,
    Transformation::DecodeUri,
    Transformation::DecodeUriKeepingPercent,
    Transformation::DropAllParameters,
    Transformation::DropLastParameters,
    Transformation::DropTrailingSlash,
    Transformation::DropTrailingSlashes,
    Transformation::MergeSlashes,
    Transformation::RemoveDotSegments,
    Transformation::RemoveEncodedDotSegments,
    Transformation::TrimSegments,
];

/// ECMA-262 §19.2.6.3: what `decodeURI` leaves encoded.
const URI_RESERVED: &[u8] = b";/?:@&=+$,#";

impl Transformation {
    /// The path that comes out; `None` when such a backend would answer 400.
    pub fn apply(self, path: &str) -> Option<String> {
        match self {
            Self::BackslashIsSlash => Some(path.replace('\\', "/")),
            Self::CutAtFragment => Some(before(path, '#')),
            Self::CutAtParameter => Some(before(path, ';')),
            Self::CutAtQuery => Some(before(path, '?')),
            Self::Decode => percent_decode(path, |_| true),
            Self::DecodeButSlash => percent_decode(path, |byte| byte != b'/'),
            Self::DecodeTwice => percent_decode(&percent_decode(path, |_| true)?, |_| true),
            // A URL parser that is given a base takes what follows two slashes for a host.
            Self::DropAuthority => Some(if path.starts_with("//") {
                let host = path.trim_start_matches('/');
                host.split_once('/')
                    .map_or("/".to_owned(), |(_, rest)| format!("/{rest}"))
            } else {
                path.to_owned()
            }),
            // RFC 3986 §2.3, for a normaliser that decodes nothing else.
            Self::DecodeUnreserved => percent_decode(path, |byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
            }),
            Self::DecodeUri => percent_decode(path, |byte| !URI_RESERVED.contains(&byte)),
            Self::DecodeUriKeepingPercent => {
                percent_decode(path, |byte| byte != b'%' && !URI_RESERVED.contains(&byte))
            }
            Self::DropAllParameters => {
                let segments: Vec<String> = path.split('/').map(|one| cut(one, ';')).collect();
                Some(segments.join("/"))
            }
            Self::DropLastParameters => {
                let last = path.rfind('/')?;
                Some(format!("{}{}", &path[..=last], cut(&path[last + 1..], ';')))
            }
            Self::DropTrailingSlash => Some(match path.len() {
                0 | 1 => path.to_owned(),
                _ => path.strip_suffix('/').unwrap_or(path).to_owned(),
            }),
            Self::DropTrailingSlashes => {
                let bare = path.trim_end_matches('/');
                Some(if bare.is_empty() { "/" } else { bare }.to_owned())
            }
            Self::MergeSlashes => {
                let mut merged = path.to_owned();
                while merged.contains("//") {
                    merged = merged.replace("//", "/");
                }
                Some(merged)
            }
            Self::RemoveDotSegments => Some(remove_dot_segments(path)),
            Self::RemoveEncodedDotSegments => Some(remove_encoded_dot_segments(path)),
            // Windows: the name of a file does not end in a dot or a space.
            Self::TrimSegments => {
                let trim = |segment: &str| {
                    let mut name = segment.to_owned();
                    while name.ends_with(['.', ' ']) {
                        name.pop();
                    }
                    if name.is_empty() {
                        segment.trim_end_matches(' ').to_owned()
                    } else {
                        name
                    }
                };
                Some(path.split('/').map(trim).collect::<Vec<_>>().join("/"))
            }
        }
    }
}

fn cut(text: &str, end: char) -> String {
    text.chars().take_while(|one| *one != end).collect()
}

/// A path cut short is still a path.
fn before(path: &str, end: char) -> String {
    let kept = cut(path, end);
    if kept.is_empty() {
        "/".to_owned()
    } else {
        kept
    }
}

/// One pass from left to right. A broken sequence stays, as lenient decoders have it.
fn percent_decode(path: &str, decodes: impl Fn(u8) -> bool) -> Option<String> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::new();
    let mut place = 0;
    while place < bytes.len() {
        let value = bytes
            .get(place + 1..place + 3)
            .filter(|digits| bytes[place] == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|value| decodes(*value));
        decoded.push(value.unwrap_or(bytes[place]));
        place += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

/// RFC 3986 §5.2.4, letter by letter.
fn remove_dot_segments(path: &str) -> String {
    let mut input = path.to_owned();
    let mut output = String::new();
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.replace_range(..2, "");
        } else if input == "/." {
            "/".clone_into(&mut input);
        } else if input.starts_with("/../") || input == "/.." {
            let rest = input.split_off(3);
            input = if rest.is_empty() {
                "/".to_owned()
            } else {
                rest
            };
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let next = input[1..].find('/').map_or(input.len(), |place| place + 1);
            let rest = input.split_off(next);
            output.push_str(&input);
            input = rest;
        }
    }
    output
}

/// WHATWG URL, path state: an encoded dot is a dot, where dots make the whole segment.
fn remove_encoded_dot_segments(path: &str) -> String {
    let plain: Vec<String> = path
        .split('/')
        .map(|segment| {
            let dots = segment.to_ascii_lowercase().replace("%2e", ".");
            if dots == "." || dots == ".." {
                dots
            } else {
                segment.to_owned()
            }
        })
        .collect();
    remove_dot_segments(&plain.join("/"))
}

/// Everything that any sequence of transformations makes of a path. Stops at the first reading that
/// `known` has not.
pub fn closure(path: &str, known: &HashSet<&str>) -> Result<HashSet<String>, String> {
    let mut found = HashSet::from([path.to_owned()]);
    let mut next = vec![path.to_owned()];
    while let Some(current) = next.pop() {
        for transformation in TRANSFORMATIONS {
            let Some(reading) = transformation.apply(&current) else {
                continue;
            };
            if !known.contains(reading.as_str()) {
                return Err(format!("{transformation:?} makes {reading} of {current}"));
            }
            if found.insert(reading.clone()) {
                next.push(reading);
            }
        }
    }
    Ok(found)
}
