//! JSON of any length from strangers, checked without being built.
//!
//! A tree of values takes up to a hundred times the bytes that it is read from. Here every value is
//! dropped as soon as it was read; what stays are the names of the objects that are open, among which
//! duplicates are looked for.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::cursor::Cursor;
use super::json::JsonError;

/// How many names are remembered at a time: 4 bytes each beside the name itself, and 8 more while the
/// largest object is compared. A text of 4 MiB holds at most 600,000 members with different names.
const MAX_OPEN_NAMES: usize = 1_000_000;

/// Up to this many names each is compared with each other; more are hashed first. 28 comparisons of short
/// names cost less than 8 hashes and a sort.
const FEW_NAMES: usize = 8;

/// Checks that bytes are one JSON value in UTF-8, without duplicate member names at any depth, whose
/// arrays and objects nest at most `max_depth` deep. The memory for it is in proportion to the names of the
/// objects that are open at a time, never to the number of values.
///
/// # Errors
///
/// [`JsonError`] says what is wrong: syntax, a duplicate, too deep, or more names than are remembered.
pub fn check(bytes: &[u8], max_depth: u8) -> Result<Cursor<'_>, JsonError> {
    check_with(&mut Open::new(max_depth), bytes)
}

fn check_with<'t>(open: &mut Open, bytes: &'t [u8]) -> Result<Cursor<'t>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::new(error.to_string()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Dropped(open).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Cursor::new(text))
}

/// What is remembered of the part that was read.
struct Open {
    max_depth: u8,
    depth: u8,
    names: Names,
}

impl Open {
    fn new(max_depth: u8) -> Self {
        Self {
            max_depth,
            depth: 0,
            names: Names::default(),
        }
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        if self.depth >= self.max_depth {
            return Err(E::custom(format_args!(
                "nested deeper than {}",
                self.max_depth
            )));
        }
        self.depth = self.depth.saturating_add(1);
        Ok(())
    }

    const fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}

/// Reads any value, and keeps nothing of it.
struct Dropped<'o>(&'o mut Open);

impl<'de> DeserializeSeed<'de> for Dropped<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Dropped<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.enter()?;
        while items.next_element_seed(Dropped(self.0))?.is_some() {}
        self.0.leave();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.0.enter()?;
        let first = self.0.names.count();
        while members.next_key_seed(Name(&mut self.0.names))?.is_some() {
            members.next_value_seed(Dropped(self.0))?;
        }
        self.0.names.close(first)?;
        self.0.leave();
        Ok(())
    }
}

/// Reads the name of a member.
struct Name<'n>(&'n mut Names);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        self.0.open(name)
    }
}

/// The names of the members of all objects that are open, unescaped, those of the innermost object last.
#[derive(Default)]
struct Names {
    /// One after the other.
    text: String,
    /// Where each begins.
    starts: Vec<u32>,
    /// Room for the hashes of one object's names.
    hashes: Vec<u64>,
    /// Its keys are random, so that nobody can choose names whose hashes meet.
    hasher: RandomState,
}

impl Names {
    const fn count(&self) -> usize {
        self.starts.len()
    }

    fn open<E: Error>(&mut self, name: &str) -> Result<(), E> {
        let start = u32::try_from(self.text.len()).ok();
        let start = start.filter(|_| self.starts.len() < MAX_OPEN_NAMES);
        let start = start.ok_or_else(|| {
            E::custom(format_args!(
                "more than {MAX_OPEN_NAMES} names of members, or 4 GiB of them, in objects that are open"
            ))
        })?;
        self.starts.push(start);
        self.text.push_str(name);
        Ok(())
    }

    /// Forgets the names from this one on, which are those of one object, if they are different.
    fn close<E: Error>(&mut self, first: usize) -> Result<(), E> {
        let count = self.count().saturating_sub(first);
        let may_repeat = match count {
            0 | 1 => false,
            2..=FEW_NAMES => true,
            _ => self.hashes_meet(first),
        };
        if may_repeat && let Some(name) = self.repeated(first, count) {
            return Err(E::custom(format_args!("duplicate member {name:?}")));
        }
        let start = self.starts.get(first);
        let start = start.and_then(|start| usize::try_from(*start).ok());
        self.text.truncate(start.unwrap_or(self.text.len()));
        self.starts.truncate(first);
        Ok(())
    }

    /// The names from this one on.
    fn from(&self, first: usize) -> impl Iterator<Item = &str> {
        let starts = self.starts.get(first..).unwrap_or_default();
        let ends = starts.get(1..).unwrap_or_default().iter().map(Some);
        starts.iter().zip(ends.chain([None])).map(|(start, end)| {
            let place = |place: u32| usize::try_from(place).ok();
            let end = end.map_or(Some(self.text.len()), |end| place(*end));
            let range = place(*start).zip(end).map(|(start, end)| start..end);
            range
                .and_then(|range| self.text.get(range))
                .unwrap_or_default()
        })
    }

    /// Whether two names may be equal. Equal names have equal hashes; different ones have not, but for one
    /// chance in 2⁶⁴.
    fn hashes_meet(&mut self, first: usize) -> bool {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(self.from(first).map(|name| self.hasher.hash_one(name)));
        hashes.sort_unstable();
        let meet = hashes.windows(2).any(|two| two.first() == two.last());
        self.hashes = hashes;
        meet
    }

    /// A name that is there twice.
    fn repeated(&self, first: usize, count: usize) -> Option<&str> {
        if count <= FEW_NAMES {
            let mut names = self.from(first);
            return std::iter::from_fn(|| names.next())
                .enumerate()
                .find(|(place, name)| self.from(first).take(*place).any(|other| other == *name))
                .map(|(_, name)| name);
        }
        let mut names: Vec<&str> = self.from(first).collect();
        names.sort_unstable();
        let mut twice = names.windows(2).filter(|two| two.first() == two.last());
        twice.next().and_then(|two| two.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_object;
    use super::{FEW_NAMES, MAX_OPEN_NAMES, Open, check, check_with};
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    /// `open`, then the items until there is one MiB of them, then `close`.
    fn filled(open: &str, item: &str, close: &str) -> String {
        let count = (MIB - open.len() - close.len()) / (item.len() + 1);
        format!("{open}{}{close}", vec![item; count].join(","))
    }

    /// An object of this many members with different names.
    fn wide(count: usize) -> String {
        let members: Vec<String> = (0..count).map(|one| format!("\"{one:x}\":0")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn values_of_any_kind_pass() {
        for text in [
            "null",
            "true",
            "false",
            " 1 ",
            "-0",
            "1.50e-3",
            "123456789012345678901234567890",
            r#""""#,
            r#""\ud83d\ude00\u0000""#,
            "[]",
            "{}",
            " [ 1 , [ ] , { } ] ",
            r#"{"":{"":{"":0}},"a":{"":0}}"#,
            r#"{"a":{"a":[{"a":1},{"a":1}]},"b":{"a":1}}"#,
            r#"{"a":1,"A":1,"a ":1,"\u00e4":1,"a\u0308":1}"#,
        ] {
            assert!(check(text.as_bytes(), 5).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_two_parsers_read_differently_is_refused() {
        let far_too_deep = "[".repeat(100_000);
        let objects = "{\"\":".repeat(100_000);
        for (text, why) in [
            (&br#"{"a":1,"a":1}"#[..], "duplicate member"),
            (br#"{"a":{"b":1,"b":1}}"#, "duplicate member inside"),
            (
                br#"[[{"a":[{"b":1,"c":{},"b":1}]}]]"#,
                "duplicate member within lists",
            ),
            (
                br#"{"a":1,"b":{"a":2},"a":3}"#,
                "duplicate around another object",
            ),
            (br#"{"a":1,"\u0061":2}"#, "duplicate after unescaping"),
            (br#"{"":1,"":2}"#, "duplicate of nothing"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (b"{} {}", "two documents"),
            (b"{}\0", "trailing NUL"),
            (b"", "nothing"),
            (b" ", "white space"),
            (b"1e400", "number out of range"),
            (b"[NaN]", "NaN"),
            (b"[01]", "leading zero"),
            (b"[1.]", "half a number"),
            (b"[+1]", "plus"),
            (br#"["\ud800"]"#, "lone surrogate"),
            (br#"{"\ud800":1}"#, "lone surrogate in a name"),
            (br#"["\x"]"#, "unknown escape"),
            (b"[\"\n\"]", "line break in a text"),
            (b"[\"\xff\"]", "not UTF-8"),
            (b"{\"\xff\":1}", "not UTF-8 in a name"),
            (b"[\"\xed\xa0\x80\"]", "surrogate in UTF-8"),
            (b"[\x001\0]\0", "UTF-16"),
            (b"[1,]", "trailing comma"),
            (br#"{"a":1,}"#, "trailing comma in an object"),
            (b"[1 2]", "no comma"),
            (b"{1:2}", "a name that is no text"),
            (b"{a:2}", "a name without quotes"),
            (b"['a']", "single quotes"),
            (b"[1]//", "comment"),
            (b"[}", "wrong end"),
            (b"[[[[[[]]]]]]", "one level too deep"),
            (
                br#"{"":{"":{"":{"":{"":{}}}}}}"#,
                "one level too deep in objects",
            ),
            (far_too_deep.as_bytes(), "far too deep"),
            (objects.as_bytes(), "far too deep in objects"),
        ] {
            assert!(check(text, 5).is_err(), "{why}");
            // And at the end of something large.
            let mut behind = b"[0,".to_vec();
            behind.extend_from_slice(text);
            behind.push(b']');
            assert!(
                check(&behind, 100).is_err() || why.contains("one level"),
                "{why} in a list"
            );
        }
        assert!(check(b"[[[[[]]]]]", 5).is_ok());
    }

    #[test]
    fn duplicates_are_found_however_many_members_there_are() {
        for count in [2, 3, FEW_NAMES - 1, FEW_NAMES, FEW_NAMES + 1, 100, 2_000] {
            let text = wide(count);
            assert!(check(text.as_bytes(), 2).is_ok(), "{count}");
            let last = format!("{:x}", count - 1);
            for name in ["0", "1", last.as_str()] {
                for twice in [
                    text.replacen('{', &format!("{{\"{name}\":0,"), 1),
                    text.replace('}', &format!(",\"{name}\":0}}")),
                    text.replace('}', &format!(",\"\\u{:04x}\":0}}", u32::from('0'))),
                ] {
                    let error = check(twice.as_bytes(), 2).expect_err("twice");
                    assert!(error.to_string().contains("duplicate member"), "{error}");
                    let inside = format!("[{text},{{\"x\":{twice}}}]");
                    assert!(check(inside.as_bytes(), 4).is_err(), "{count} {name}");
                }
            }
            // The same names in other objects are others.
            let beside = format!("{{\"0\":{text},\"1\":{text},\"x\":[{text},{text}]}}");
            assert!(check(beside.as_bytes(), 4).is_ok(), "{count}");
        }
        assert!(check(wide(200_000).as_bytes(), 1).is_ok());
    }

    #[test]
    fn the_names_that_are_open_are_bounded() {
        let error = check(wide(MAX_OPEN_NAMES + 1).as_bytes(), 1).expect_err("too many");
        assert!(
            error.to_string().contains("more than 1000000 names"),
            "{error}"
        );
        // Those of objects that have ended count no more.
        let text = filled("[", r#"{"a":0,"b":0}"#, "]");
        let mut open = Open::new(2);
        assert!(check_with(&mut open, text.as_bytes()).is_ok());
        assert_eq!(open.names.count(), 0);
    }

    /// How much memory is left of a check, at which nothing is given back.
    fn memory_of(text: &str, max_depth: u8) -> usize {
        let mut open = Open::new(max_depth);
        assert!(text.len() <= MIB);
        check_with(&mut open, text.as_bytes()).expect("sound");
        assert_eq!(
            (open.depth, open.names.count(), open.names.text.len()),
            (0, 0, 0)
        );
        let names = &open.names;
        names.text.capacity() + 4 * names.starts.capacity() + 8 * names.hashes.capacity()
    }

    #[test]
    fn memory_is_in_proportion_to_what_is_open() {
        for item in [
            "0",
            "[0]",
            r#"{"":0}"#,
            r#"{"":{"":{"":{"":0}}}}"#,
            "[[[[]]]]",
        ] {
            let text = filled(r#"{"a":["#, item, "]}");
            assert!(memory_of(&text, 100) <= 256, "{item}");
        }
        let text = filled("\"", "x", "\"");
        assert_eq!(memory_of(&text, 100), 0);
        // One name of that length, and as many names as there can be.
        let text = format!("{{\"{}\":0}}", "x".repeat(MIB - 10));
        assert!(memory_of(&text, 100) <= MIB + 64);
        let text = wide(100_000);
        assert!(memory_of(&text, 100) <= 4 * text.len());
    }

    proptest! {
        /// What builds nothing refuses what the one that builds refuses, and nothing else.
        #[test]
        fn both_readers_agree(text in r#"\{("(a|b|\\u0061)":([0-9.e-]{0,3}|[\[\]{},:" ab]{0,8}),?){0,4}\}?"#) {
            let built = parse_object(text.as_bytes()).is_ok();
            prop_assert_eq!(check(text.as_bytes(), 32).is_ok(), built, "{}", text);
        }
    }
}
