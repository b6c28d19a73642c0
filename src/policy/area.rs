//! Where protected resources lie among the paths, and whom a token must be for there.

use super::table::fold_case;
use crate::canonical::{PathError, Readings, without_format_suffix};

/// The paths of one protected resource (RFC 9728): one path and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Without a slash at the end, so the root is empty.
    path: String,
    /// The path as a backend that ignores case sees it.
    folded: String,
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
        let path = path.trim_end_matches('/');
        Self {
            path: path.to_owned(),
            folded: fold_case(path),
            audiences,
        }
    }

    /// Whether this is the area of the same paths, for a backend that ignores case too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.path.eq_ignore_ascii_case(&other.path)
    }

    /// Whether any reading of a path lies here, in this case or another.
    #[must_use]
    pub fn holds_a_reading_of(&self, readings: &Readings<'_>) -> bool {
        readings.iter().any(|reading| {
            self.may_hold(reading)
                && (self.covers(reading) || self.covers_folded(&fold_case(reading)))
        })
    }

    /// Whether any reading of a path lies here. A path that cannot be read lies nowhere.
    #[must_use]
    pub fn holds_path(&self, path: &str) -> bool {
        Readings::of(path).is_ok_and(|readings| self.holds_a_reading_of(&readings))
    }

    /// The segments of its path.
    pub(super) fn segments(&self) -> Vec<&str> {
        self.path.split('/').skip(1).collect()
    }

    /// Whether a reading may lie here in some case, or be its path with a suffix. Most paths lie elsewhere, and that is
    /// seen at their beginning: only letters outside ASCII can change their number when their case is folded.
    fn may_hold(&self, reading: &str) -> bool {
        if !self.path.is_ascii() {
            return true;
        }
        match reading.as_bytes().split_at_checked(self.path.len()) {
            Some((start, _)) => {
                start.eq_ignore_ascii_case(self.path.as_bytes()) || !start.is_ascii()
            }
            None => !reading.is_ascii(),
        }
    }

    fn covers(&self, reading: &str) -> bool {
        is_at_or_below(&self.path, reading)
    }

    /// As [`Area::covers`], of a reading whose case is folded.
    fn covers_folded(&self, reading: &str) -> bool {
        is_at_or_below(&self.folded, reading)
    }
}

fn is_at_or_below(path: &str, reading: &str) -> bool {
    let rest = reading.strip_prefix(path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
    #[must_use]
    pub fn under_every_reading(&self, readings: &Readings<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        if !self.is_empty() {
            for reading in readings.iter() {
                self.add(reading, &mut found);
            }
        }
        found.into_iter().flatten().collect()
    }

    /// As [`Areas::under_every_reading`], of a path that is read here.
    ///
    /// # Errors
    ///
    /// [`PathError`] for a path that cannot be decided on.
    pub fn of_path(&self, path: &str) -> Result<Vec<usize>, PathError> {
        Readings::of(path).map(|readings| self.under_every_reading(&readings))
    }

    /// Adds where one reading belongs, also for a backend that ignores case; `None` is outside. Without
    /// its format suffix a reading counts where it is the very path of an area.
    pub(super) fn add(&self, reading: &str, found: &mut Vec<Option<usize>>) {
        let mut add = |place| {
            if !found.contains(&place) {
                found.push(place);
            }
        };
        if !self.list.iter().any(|area| area.may_hold(reading)) {
            add(None);
            return;
        }
        add(self.at(reading));
        for stem in without_format_suffix(reading) {
            if let Some(place) = self.place_of(|area| area.path == stem) {
                add(Some(place));
            }
        }
        let folds = |byte: u8| byte.is_ascii_uppercase() || !byte.is_ascii();
        if self.has_upper_case || reading.bytes().any(folds) {
            let reading = fold_case(reading);
            add(self.longest(|area| area.covers_folded(&reading)));
            for stem in without_format_suffix(&reading) {
                if let Some(place) = self.place_of(|area| area.folded == stem) {
                    add(Some(place));
                }
            }
        }
    }

    fn place_of(&self, is_it: impl Fn(&Area) -> bool) -> Option<usize> {
        self.list.iter().position(is_it)
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
        let is_inner = |other: &&Area| !other.is_same(area) && area.covers_folded(&other.folded);
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
    use super::{Area, Areas, fold_case, without_format_suffix};

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

    proptest::proptest! {
        /// What is seen at the beginning of a path is true of all of it.
        #[test]
        fn no_path_lies_where_it_may_not(area in "/[mskiM\u{17f}]{0,3}(/[sS])?", reading in "/[mMskKi\u{17f}\u{212a}\u{130}/.]{0,6}") {
            let area = Area::new(&area, Vec::new());
            if !area.may_hold(&reading) {
                let folded = fold_case(&reading);
                assert!(!area.covers(&reading) && !area.covers_folded(&folded));
                assert!(without_format_suffix(&reading).all(|stem| stem != area.path));
                assert!(without_format_suffix(&folded).all(|stem| stem != area.folded));
            }
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
            let mut found = two.of_path(path).expect(path);
            found.sort_unstable();
            assert_eq!(found, places, "{path}");
        }
        let upper = areas(&["/Mcp"]);
        for path in ["/mcp", "/MCP/x", "/Mcp", "/m%43p"] {
            assert_eq!(upper.of_path(path), Ok(vec![0]), "{path}");
        }
        assert!(two.of_path("/a%zz").is_err());
        for (path, places) in [
            ("/a.json", &[0][..]),
            ("/a.json/", &[0]),
            ("/a%2Ejson", &[0]),
            ("/A.json", &[0]),
            ("/a..json", &[0]),
            ("/a./x", &[0]),
            ("/a%20/x", &[0]),
            ("/a.json/x", &[]),
            ("/ab.json", &[]),
            ("/a.j-son", &[]),
        ] {
            assert_eq!(two.of_path(path).as_deref(), Ok(places), "{path}");
        }
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
            assert!(area.holds_path(path), "{path}");
        }
        for path in [
            "/.well-known",
            "/.well-known/oauth-protected-resources",
            "/.well-known/oauth-authorization-server",
            "/x/.well-known/oauth-protected-resource",
            "/mcp",
            "*",
        ] {
            assert!(!area.holds_path(path), "{path}");
        }
    }
}
