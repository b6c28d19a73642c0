//! Where protected resources lie among the paths, and whom a token must be for there.

use super::path::{PathError, Readings};
use super::table::fold_case;

/// The paths of one protected resource (RFC 9728): one path and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Without a slash at the end, so the root is empty.
    path: String,
    audiences: Vec<String>,
}

/// All such areas. A path belongs to the one with the longest path.
#[derive(Debug, Clone, Default)]
pub struct Areas {
    list: Vec<Area>,
    /// Whom tokens are for outside of all of them.
    elsewhere: Vec<String>,
    has_upper_case: bool,
}

impl Area {
    /// The area at `path`, where tokens are for one of `audiences`.
    #[must_use]
    pub fn new(path: &str, audiences: Vec<String>) -> Self {
        Self {
            path: path.trim_end_matches('/').to_owned(),
            audiences,
        }
    }

    /// Whether this is the area of the same paths, for a backend that ignores case too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.path.eq_ignore_ascii_case(&other.path)
    }

    /// Whether any reading of a path lies here. A path that cannot be read lies nowhere.
    #[must_use]
    pub fn holds_a_reading_of(&self, path: &str) -> bool {
        Readings::of(path, false).is_ok_and(|readings| {
            readings
                .iter()
                .any(|reading| self.covers(reading) || self.folded().covers(&fold_case(reading)))
        })
    }

    /// The segments of its path.
    pub(super) fn segments(&self) -> Vec<&str> {
        self.path.split('/').skip(1).collect()
    }

    fn covers(&self, reading: &str) -> bool {
        let rest = reading.strip_prefix(self.path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn folded(&self) -> Self {
        Self {
            path: fold_case(&self.path),
            audiences: Vec::new(),
        }
    }
}

impl Areas {
    /// These areas, in their order; outside of them tokens are for one of `elsewhere`.
    #[must_use]
    pub fn new(areas: Vec<Area>, elsewhere: Vec<String>) -> Self {
        let has_upper_case = areas
            .iter()
            .any(|area| area.path.bytes().any(|byte| byte.is_ascii_uppercase()));
        Self {
            list: areas,
            elsewhere,
            has_upper_case,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The place of the area that a path belongs to as it stands.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<usize> {
        self.longest(|area| area.covers(path))
    }

    /// The places of the areas that a path belongs to under any reading.
    ///
    /// # Errors
    ///
    /// [`PathError`] for a path that cannot be decided on.
    pub fn under_every_reading(&self, path: &str) -> Result<Vec<usize>, PathError> {
        let mut found = Vec::new();
        if !self.is_empty() {
            for reading in Readings::of(path, false)?.iter() {
                self.add(reading, &mut found);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Adds where one reading belongs, also for a backend that ignores case; `None` is outside.
    pub(super) fn add(&self, reading: &str, found: &mut Vec<Option<usize>>) {
        let mut add = |place| {
            if !found.contains(&place) {
                found.push(place);
            }
        };
        add(self.at(reading));
        let folds = |byte: u8| byte.is_ascii_uppercase() || !byte.is_ascii();
        if self.has_upper_case || reading.bytes().any(folds) {
            let reading = fold_case(reading);
            add(self.longest(|area| area.folded().covers(&reading)));
        }
    }

    /// Whom tokens are for at a place; `None` is outside of all areas.
    pub(super) fn audiences(&self, place: Option<usize>) -> &[String] {
        place
            .and_then(|place| self.list.get(place))
            .map_or(&self.elsewhere, |area| &area.audiences)
    }

    /// The area at a place, and those within it.
    pub(super) fn with_inner(&self, place: usize) -> Option<(&Area, Vec<&Area>)> {
        let area = self.list.get(place)?;
        let is_inner =
            |other: &&Area| !other.is_same(area) && area.folded().covers(&fold_case(&other.path));
        Some((area, self.list.iter().filter(is_inner).collect()))
    }

    fn longest(&self, covers: impl Fn(&Area) -> bool) -> Option<usize> {
        let covering = self
            .list
            .iter()
            .enumerate()
            .filter(|(_, area)| covers(area));
        covering
            .max_by_key(|(_, area)| area.path.len())
            .map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, Areas};

    fn areas(paths: &[&str]) -> Areas {
        let areas = paths.iter().map(|path| Area::new(path, vec![]));
        Areas::new(areas.collect(), vec![])
    }

    #[test]
    fn a_path_belongs_to_the_longest_area_by_whole_segments() {
        let three = areas(&["/mcp", "/", "/mcp/admin/"]);
        for (path, place) in [
            ("/", Some(1)),
            ("/mcp", Some(0)),
            ("/mcp/", Some(0)),
            ("/mcp/tools", Some(0)),
            ("/mcp/admin", Some(2)),
            ("/mcp/admin/x", Some(2)),
            ("/mcp/administrator", Some(0)),
            ("/mcpx", Some(1)),
            ("/MCP", Some(1)),
        ] {
            assert_eq!(three.at(path), place, "{path}");
        }
        let one = areas(&["/mcp"]);
        for path in ["/", "/mc", "/mcpx", "/x/mcp", "//mcp", "/%6dcp"] {
            assert_eq!(one.at(path), None, "{path}");
        }
    }

    #[test]
    fn every_reading_counts() {
        let two = areas(&["/a", "/b"]);
        for (path, places) in [
            ("/a/x", &[0][..]),
            ("/c", &[]),
            ("/c/../b", &[1]),
            ("/a/..%2fb", &[0, 1]),
            ("/a/%2e%2e/b", &[0, 1]),
            ("//a/b", &[0, 1]),
            ("/a;/../b", &[0, 1]),
            ("/%62", &[1]),
            ("/B/x", &[1]),
            ("/a%3f/../../b", &[0, 1]),
        ] {
            let mut found = two.under_every_reading(path).expect(path);
            found.sort_unstable();
            assert_eq!(found, places, "{path}");
        }
        let upper = areas(&["/Mcp"]);
        for path in ["/mcp", "/MCP/x", "/Mcp", "/m%43p"] {
            assert_eq!(upper.under_every_reading(path), Ok(vec![0]), "{path}");
        }
        assert!(two.under_every_reading("/a%zz").is_err());
    }

    #[test]
    fn what_is_below_a_well_known_path_is_found_in_every_spelling() {
        let area = Area::new("/.well-known/oauth-protected-resource", vec![]);
        for path in [
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/",
            "/.well-known/oauth-protected-resource/mcp",
            "//.well-known/oauth-protected-resource/mcp",
            "/.well-known//oauth-protected-resource",
            "/x/../.well-known/oauth-protected-resource",
            "/x/..%2f.well-known/oauth-protected-resource/a",
            "/%2ewell-known/oauth%2Dprotected-resource",
            "/.Well-Known/OAuth-Protected-Resource",
            "/.well-known/oauth-protected-resource;x/y",
            "/.well-known/oauth-protected-resource%3fx",
            "/%252ewell-known/oauth-protected-resource",
            "//evil/.well-known/oauth-protected-resource",
        ] {
            assert!(area.holds_a_reading_of(path), "{path}");
        }
        for path in [
            "/.well-known",
            "/.well-known/oauth-protected-resources",
            "/.well-known/oauth-authorization-server",
            "/x/.well-known/oauth-protected-resource",
            "/mcp",
            "*",
        ] {
            assert!(!area.holds_a_reading_of(path), "{path}");
        }
    }
}
