//! Every reading that a backend could make of a request path.
//!
//! A backend may decode percent-encoding, merge slashes, resolve dot segments, drop `;` parameters
//! or a trailing slash, take a backslash for a slash, or do several of these, in an order nobody
//! here knows. So a path's readings are its closure under all such steps, in any order, and a
//! request passes only if every reading does. Ordinary paths have one reading. Case is folded where
//! the routes are looked up, not here.

use std::borrow::Cow;
use std::fmt;

/// How many readings a path may have. Honest odd paths have two or three; a whole URL, encoded in
/// one segment, has two or three dozen.
const MAX_READINGS: usize = 64;

/// How many bytes all steps may look at, for one path. It bounds the time that a stranger can ask for
/// before any token is looked at: some 100 µs for the dearest path that is decided on (`cargo bench
/// --bench core -- readings`). The longest path that `limits.uri_bytes` permits by default needs two
/// thirds of it, with one encoded character.
const MAX_WORK_BYTES: usize = 192 * 1024;

/// What one `%XX` takes to be looked at or decoded, in bytes looked at.
const SEQUENCE_WORK: usize = 64;

/// What one segment takes where a step goes through them, in bytes looked at.
const SEGMENT_WORK: usize = 32;

/// The longest format suffix. The longest registered file extensions in use have about a dozen characters.
const MAX_SUFFIX: usize = 16;

/// How many bytes all readings of a path may have together: enough for the longest path that
/// `limits.uri_bytes` permits by default, with one encoded character and with and without a final
/// slash. It bounds the memory that a stranger can ask for.
const MAX_READING_BYTES: usize = 68 * 1024;

/// The readings of one path. The first is the path as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings<'p> {
    literal: &'p str,
    others: Cow<'p, [String]>,
}

/// Why a path cannot be decided on. All of these are the client's mistake (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// A `%` is not followed by two hexadecimal digits.
    BrokenPercentEncoding,
    /// A control character or NUL, plain or encoded.
    ControlCharacter,
    /// A byte that must not stand plainly in a path: a backslash, `#`, `?`, or outside ASCII.
    ForbiddenByte(u8),
    /// It decodes to bytes that are not UTF-8.
    NotUtf8,
    /// It does not begin with a slash.
    NoLeadingSlash,
    /// It can be read in more ways than are looked at.
    TooManyReadings,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokenPercentEncoding => f.write_str("broken percent-encoding"),
            Self::ControlCharacter => f.write_str("a control character"),
            Self::ForbiddenByte(byte) => write!(f, "byte 0x{byte:02x} stands plainly in the path"),
            Self::NotUtf8 => f.write_str("percent-encoding of something that is not UTF-8"),
            Self::NoLeadingSlash => f.write_str("no leading slash"),
            Self::TooManyReadings => write!(
                f,
                "more than {MAX_READINGS} readings, {MAX_READING_BYTES} bytes of them, or {MAX_WORK_BYTES} bytes to look at"
            ),
        }
    }
}

impl std::error::Error for PathError {}

impl<'p> Readings<'p> {
    /// Reads a path in every way.
    ///
    /// # Errors
    ///
    /// [`PathError`] for a path that is malformed or has too many readings.
    pub fn of(path: &'p str) -> Result<Self, PathError> {
        Ok(Self {
            literal: path,
            others: Cow::Owned(other_readings(path)?),
        })
    }

    /// A path with the other readings that [`other_readings`] found for it.
    pub(super) const fn new(literal: &'p str, others: &'p [String]) -> Self {
        Self {
            literal,
            others: Cow::Borrowed(others),
        }
    }

    /// The path as it was sent.
    #[must_use]
    pub const fn literal(&self) -> &'p str {
        self.literal
    }

    /// All readings, the literal one first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.literal).chain(self.others.iter().map(String::as_str))
    }
}

/// The readings of a path beside the path as it was sent.
///
/// # Errors
///
/// [`PathError`] for a path that is malformed or has too many readings.
pub(super) fn other_readings(path: &str) -> Result<Vec<String>, PathError> {
    check_bytes(path)?;
    if is_plain(path) {
        return Ok(Vec::new());
    }
    let mut closure = Closure::new(path);
    closure.complete()?;
    Ok(closure.others)
}

/// The paths that a format suffix may stand for: `/x` for `/x.json` and `/x.json/`, as routers with a
/// format suffix read it (Django REST framework, Rails, older Spring). The suffix is one dot and 1 to
/// 16 letters or digits at the end of the last segment. A second path follows where dots or
/// spaces stand before the suffix, which a backend may drop.
pub fn without_format_suffix(path: &str) -> impl Iterator<Item = &str> {
    let stem = format_stem(path);
    let trimmed = stem
        .map(trim_last_segment)
        .filter(|trimmed| stem != Some(*trimmed));
    stem.into_iter().chain(trimmed)
}

fn format_stem(path: &str) -> Option<&str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (stem, suffix) = path.rsplit_once('.')?;
    let is_suffix = (1..=MAX_SUFFIX).contains(&suffix.len())
        && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_suffix && !stem.ends_with('/')).then_some(stem)
}

/// The set of readings while it grows.
struct Closure<'p> {
    literal: &'p str,
    others: Vec<String>,
    /// How many bytes all readings have together.
    bytes: usize,
    /// How many bytes have been looked at.
    work: usize,
}

impl<'p> Closure<'p> {
    const fn new(literal: &'p str) -> Self {
        Self {
            literal,
            others: Vec::new(),
            bytes: literal.len(),
            work: 0,
        }
    }

    /// Adds readings until every step leads to one that is there.
    fn complete(&mut self) -> Result<(), PathError> {
        let mut next = 0;
        let mut current = self.literal.to_owned();
        loop {
            // Four passes at most over a reading on which no step does anything.
            self.spend(current.len().saturating_mul(4))?;
            self.add_decoded(&current)?;
            for (trigger, step) in STEPS {
                if !trigger(&current) {
                    continue;
                }
                let segments = current.bytes().filter(|byte| *byte == b'/').count();
                self.spend(
                    current
                        .len()
                        .saturating_add(segments.saturating_mul(SEGMENT_WORK)),
                )?;
                if let Cow::Owned(reading) = step(&current) {
                    self.add(reading)?;
                }
            }
            let Some(reading) = self.others.get(next) else {
                return Ok(());
            };
            current.clone_from(reading);
            next = next.saturating_add(1);
        }
    }

    /// Adds what percent-decoding makes of a reading, by each [`DECODERS`]: one that decodes every
    /// sequence makes what the first one makes, and one that decodes none makes nothing.
    fn add_decoded(&mut self, reading: &str) -> Result<(), PathError> {
        let mut sequences: usize = 0;
        let mut decodes_any = [false; DECODERS.len()];
        let mut decodes_all = [true; DECODERS.len()];
        for byte in encoded_bytes(reading) {
            sequences = sequences.saturating_add(1);
            for ((picks, any), all) in DECODERS.iter().zip(&mut decodes_any).zip(&mut decodes_all) {
                let picked = picks(byte);
                *any |= picked;
                *all &= picked;
            }
        }
        self.spend(sequences.saturating_mul(SEQUENCE_WORK))?;
        let mut is_first = true;
        for ((picks, any), all) in DECODERS.iter().zip(decodes_any).zip(decodes_all) {
            if any && (is_first || !all) {
                self.spend(
                    reading
                        .len()
                        .saturating_add(sequences.saturating_mul(SEQUENCE_WORK)),
                )?;
                self.add(decode(reading, *picks))?;
            }
            is_first = false;
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), PathError> {
        self.work = self.work.saturating_add(bytes);
        if self.work > MAX_WORK_BYTES {
            return Err(PathError::TooManyReadings);
        }
        Ok(())
    }

    fn add(&mut self, reading: String) -> Result<(), PathError> {
        // Readings of one length are the ones that are compared byte by byte.
        let alike = |other: &&String| other.len() == reading.len();
        let compared = self.others.iter().filter(alike).count();
        self.spend(
            reading
                .len()
                .saturating_mul(compared)
                .saturating_add(self.others.len()),
        )?;
        if reading == self.literal || self.others.contains(&reading) {
            return Ok(());
        }
        if has_control(&reading) {
            return Err(PathError::ControlCharacter);
        }
        self.bytes = self.bytes.saturating_add(reading.len());
        if self.others.len().saturating_add(2) > MAX_READINGS || self.bytes > MAX_READING_BYTES {
            return Err(PathError::TooManyReadings);
        }
        self.others.push(reading);
        Ok(())
    }
}

fn has_control(reading: &str) -> bool {
    if reading.is_ascii() {
        any_byte(reading, |byte| byte.is_ascii_control())
    } else {
        reading.chars().any(char::is_control)
    }
}

fn check_bytes(path: &str) -> Result<(), PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NoLeadingSlash);
    }
    let is_forbidden = |byte| matches!(byte, 0..=0x20 | 0x7f.. | b'\\' | b'#' | b'?');
    if any_byte(path, is_forbidden) {
        let byte = path.bytes().find(|byte| is_forbidden(*byte));
        return Err(match byte.unwrap_or_default() {
            0..=0x1f | 0x7f => PathError::ControlCharacter,
            byte => PathError::ForbiddenByte(byte),
        });
    }
    let mut encoded = path.match_indices('%').peekable();
    if encoded.peek().is_none() {
        return Ok(());
    }
    let is_whole = |(place, _)| {
        path.as_bytes()
            .get(place..)
            .and_then(encoded_byte)
            .is_some()
    };
    if !encoded.all(is_whole) {
        return Err(PathError::BrokenPercentEncoding);
    }
    if std::str::from_utf8(&decoded_bytes(path, |_| true)).is_err() {
        return Err(PathError::NotUtf8);
    }
    Ok(())
}

/// Whether some byte is so. It looks at all of them, which is many at a time; to stop at the first would be one by one.
fn any_byte(path: &str, is: impl Fn(u8) -> bool) -> bool {
    path.bytes().fold(false, |any, byte| any | is(byte))
}

/// Whether two bytes that follow each other are so, as [`any_byte`] finds it.
fn any_pair(path: &str, is: impl Fn(u8, u8) -> bool) -> bool {
    let bytes = path.as_bytes();
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    pairs.fold(false, |any, (first, second)| any | is(*first, *second))
}

/// Whether no step can change the path: the common case, found at once. A segment that only begins with
/// a dot is left to the steps.
fn is_plain(path: &str) -> bool {
    let may_change = |first, second| {
        matches!(
            (first, second),
            (b'%' | b';', _) | (b'/', b'/' | b'.') | (b'.', b'/')
        )
    };
    !any_pair(path, may_change) && (path == "/" || !path.ends_with(['/', '%', ';', '.']))
}

/// Which bytes a backend decodes where they stand percent-encoded. The first one decodes all.
const DECODERS: [fn(u8) -> bool; 5] = [
    |_| true,
    |byte| byte != b'/',
    // RFC 3986 §6.2.2.2: what a normaliser may decode.
    |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
    // What JavaScript's decodeURI leaves alone; Hono routes on its result, and keeps %25 as well.
    |byte| !b";/?:@&=+$,#".contains(&byte),
    |byte| !b";/?:@&=+$,#%".contains(&byte),
];

/// One thing a backend may do to a path. A borrowed answer means: nothing to do.
type Step = fn(&str) -> Cow<'_, str>;

/// What a path must hold for a step to do anything.
type Trigger = fn(&str) -> bool;

/// The other steps.
const STEPS: [(Trigger, Step); 12] = [
    (|path| path.contains('\\'), backslashes_to_slashes),
    (has_empty_segment, merge_slashes),
    (|path| path.starts_with("//"), drop_authority),
    (begins_with_dot, resolve_dots),
    (|path| path.contains('%'), resolve_encoded_dots),
    (|path| path.contains(';'), drop_parameters),
    (|path| path.contains(';'), drop_last_parameters),
    (|path| path.contains(';'), |path| cut_at(path, ';')),
    // A decoded '?' or '#' ends the path for a program that parses the decoded text again; some look
    // for one of them only.
    (|path| path.contains('?'), |path| cut_at(path, '?')),
    (|path| path.contains('#'), |path| cut_at(path, '#')),
    (|path| path.ends_with('/'), drop_trailing_slash),
    (has_dot_or_space, trim_segments),
];

fn has_empty_segment(path: &str) -> bool {
    any_pair(path, |first, second| first == b'/' && second == b'/')
}

/// Whether some segment begins with a dot.
fn begins_with_dot(path: &str) -> bool {
    any_pair(path, |first, second| first == b'/' && second == b'.')
}

fn has_dot_or_space(path: &str) -> bool {
    any_byte(path, |byte| byte == b'.' || byte == b' ')
}

/// Decodes percent-encoding once, of the bytes that `picks` says. Sequences that an earlier step
/// has broken stay as they are. What is not UTF-8 is replaced, as backends do.
fn decode(path: &str, picks: fn(u8) -> bool) -> String {
    let decoded = decoded_bytes(path, picks);
    String::from_utf8(decoded)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The bytes that stand percent-encoded in a path.
fn encoded_bytes(path: &str) -> impl Iterator<Item = u8> {
    path.match_indices('%')
        .filter_map(|(index, _)| path.as_bytes().get(index..))
        .filter_map(|rest| encoded_byte(rest).map(|(byte, _)| byte))
}

fn decoded_bytes(path: &str, picks: fn(u8) -> bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((plain, _)) = rest.split_once('%') {
        decoded.extend_from_slice(plain.as_bytes());
        let encoded = rest.get(plain.len()..).unwrap_or_default();
        let length = match encoded_byte(encoded.as_bytes()) {
            Some((byte, _)) if picks(byte) => {
                decoded.push(byte);
                "%XX".len()
            }
            _ => {
                decoded.push(b'%');
                "%".len()
            }
        };
        rest = encoded.get(length..).unwrap_or_default();
    }
    decoded.extend_from_slice(rest.as_bytes());
    decoded
}

/// The byte that `%XX` at the start stands for, and what follows it.
fn encoded_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else {
        return None;
    };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    let byte = u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?;
    Some((byte, after))
}

fn backslashes_to_slashes(path: &str) -> Cow<'_, str> {
    if path.contains('\\') {
        Cow::Owned(path.replace('\\', "/"))
    } else {
        Cow::Borrowed(path)
    }
}

fn merge_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if !(character == '/' && merged.ends_with('/')) {
            merged.push(character);
        }
    }
    Cow::Owned(merged)
}

/// RFC 3986 §4.2: a target that begins with two slashes is a network-path reference to a program
/// that resolves it against a base, such as Node's `new URL(target, base)`.
fn drop_authority(path: &str) -> Cow<'_, str> {
    if !path.starts_with("//") {
        return Cow::Borrowed(path);
    }
    let authority = path.trim_start_matches('/');
    let rest = authority.find('/').and_then(|end| authority.get(end..));
    Cow::Owned(rest.unwrap_or("/").to_owned())
}

/// RFC 3986 §5.2.4.
fn resolve_dots(path: &str) -> Cow<'_, str> {
    if !path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Cow::Borrowed(path);
    }
    let relative = path.strip_prefix('/').unwrap_or(path);
    let mut resolved: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in relative.split('/') {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                resolved.pop();
            }
            _ => resolved.push(segment),
        }
    }
    if ends_in_directory {
        resolved.push("");
    }
    Cow::Owned(format!("/{}", resolved.join("/")))
}

/// WHATWG URL parsers, such as Node's `URL`, take `%2e` for a dot where dots make a whole segment,
/// and decode nothing else.
fn resolve_encoded_dots(path: &str) -> Cow<'_, str> {
    let dots = |segment: &str| {
        let is = |spelling: &str| segment.eq_ignore_ascii_case(spelling);
        match segment.len() {
            3 if is("%2e") => Some("."),
            4 if is(".%2e") || is("%2e.") => Some(".."),
            6 if is("%2e%2e") => Some(".."),
            _ => None,
        }
    };
    if !path.split('/').any(|segment| dots(segment).is_some()) {
        return Cow::Borrowed(path);
    }
    let decoded: Vec<&str> = path
        .split('/')
        .map(|segment| dots(segment).unwrap_or(segment))
        .collect();
    Cow::Owned(resolve_dots(&decoded.join("/")).into_owned())
}

fn drop_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let bare: Vec<&str> = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default())
        .collect();
    Cow::Owned(bare.join("/"))
}

fn drop_last_parameters(path: &str) -> Cow<'_, str> {
    match path.rsplit_once('/') {
        Some((before, last)) if last.contains(';') => {
            let bare = last.split(';').next().unwrap_or_default();
            Cow::Owned(format!("{before}/{bare}"))
        }
        _ => Cow::Borrowed(path),
    }
}

fn cut_at(path: &str, end: char) -> Cow<'_, str> {
    match path.find(end).and_then(|place| path.get(..place)) {
        Some("") => Cow::Owned("/".to_owned()),
        Some(before) => Cow::Owned(before.to_owned()),
        None => Cow::Borrowed(path),
    }
}

fn drop_trailing_slash(path: &str) -> Cow<'_, str> {
    match path.strip_suffix('/') {
        None | Some("") => Cow::Borrowed(path),
        Some(bare) => Cow::Owned(bare.to_owned()),
    }
}

/// Windows ignores dots and spaces at the end of a name. What remains of a segment of dots and spaces
/// alone is its dots, which [`resolve_dots`] may take for `.` or `..`.
fn trim_segments(path: &str) -> Cow<'_, str> {
    if !path
        .split('/')
        .any(|segment| trim_segment(segment) != segment)
    {
        return Cow::Borrowed(path);
    }
    let trimmed: Vec<&str> = path.split('/').map(trim_segment).collect();
    Cow::Owned(trimmed.join("/"))
}

fn trim_segment(segment: &str) -> &str {
    match segment.trim_end_matches(['.', ' ']) {
        "" => segment.trim_end_matches(' '),
        trimmed => trimmed,
    }
}

fn trim_last_segment(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path);
    let dropped = last.len().saturating_sub(trim_segment(last).len());
    let end = path.len().saturating_sub(dropped);
    path.get(..end).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::{Closure, MAX_READINGS, PathError, Readings, is_plain, without_format_suffix};

    fn readings(path: &str) -> Vec<String> {
        Readings::of(path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .iter()
            .map(str::to_owned)
            .collect()
    }

    /// Every path of up to six of these characters: what is taken for plain has no other reading.
    #[test]
    fn no_step_changes_a_plain_path() {
        let mut paths = vec!["/".to_owned()];
        let mut plain = 0;
        for _ in 1..6 {
            paths = paths
                .iter()
                .flat_map(|path| {
                    ["/", ".", ";", "a", "b", "%2e", "%2F"].map(|next| format!("{path}{next}"))
                })
                .collect();
            for path in paths.iter().filter(|path| is_plain(path)) {
                let mut closure = Closure::new(path);
                assert_eq!(closure.complete(), Ok(()));
                assert!(closure.others.is_empty(), "{path}: {:?}", closure.others);
                plain += 1;
            }
        }
        assert!(plain > 40, "{plain}");
    }

    #[test]
    fn an_ordinary_path_has_one_reading() {
        for path in [
            "/",
            "/api/agents",
            "/api/agents/WeatherAgent/stream",
            "/a2a/message:send",
            "/.well-known/agent-card.json",
            "/a.b/..c/d..e",
            "/v1.2/robots.txt",
            "/~user/x_y-z!$&'()*+,=@",
        ] {
            assert_eq!(readings(path), [path]);
        }
    }

    #[test]
    fn an_odd_path_has_the_readings_that_matter() {
        for (path, needed) in [
            ("/%61dmin", &["/admin"][..]),
            ("/%2561dmin", &["/%61dmin", "/admin"]),
            ("/a%2Fb", &["/a/b"]),
            ("/a%5cb", &["/a\\b", "/a/b"]),
            ("//admin", &["/admin"]),
            ("//evil/admin", &["/evil/admin", "/admin"]),
            ("///user@evil:80/admin", &["/admin"]),
            ("/%2fevil/admin", &["/admin"]),
            ("/a/../admin", &["/admin"]),
            ("/public/%2e%2e/admin", &["/public/../admin", "/admin"]),
            ("/public/..%2fadmin", &["/admin"]),
            ("/public/%252e%252e/admin", &["/admin"]),
            ("/public/..;/admin", &["/admin"]),
            ("/public/..;x=y/admin", &["/admin"]),
            ("/public;/../admin", &["/admin"]),
            ("/admin;x=y/a", &["/admin/a", "/admin"]),
            ("/admin%3Bx/a", &["/admin/a"]),
            ("/admin/", &["/admin"]),
            ("/admin//", &["/admin"]),
            ("/admin/.", &["/admin/", "/admin"]),
            ("/admin%3F/../public", &["/admin"]),
            ("/admin%23/../public", &["/admin"]),
            ("/a%3F/admin%23x", &["/a?/admin", "/a"]),
            ("/.%252e/%3a", &["/%3a", "/:"]),
            ("/a/%2E%2e/%61", &["/%61", "/a"]),
            ("/a//../b", &["/a/b", "/b"]),
            ("/x/../%2e%2e/y", &["/y"]),
            ("/api%2e./x", &["/api../x"]),
            ("/\u{2f}/\u{2f}", &["/"]),
            ("/admin./x", &["/admin/x"]),
            ("/admin.", &["/admin"]),
            ("/admin.../", &["/admin/", "/admin"]),
            ("/admin%20/x", &["/admin/x"]),
            ("/admin%2E%20.", &["/admin"]),
            ("/admin%252e/x", &["/admin/x"]),
            ("/public/..%20/admin", &["/admin"]),
            ("/public/..%20%20%2fadmin", &["/admin"]),
            ("/x%2Ejson", &["/x.json"]),
        ] {
            let found = readings(path);
            assert_eq!(found.first().map(String::as_str), Some(path));
            for reading in needed {
                assert!(
                    found.iter().any(|one| one == reading),
                    "{path} as {reading}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn a_format_suffix_stands_at_the_end_of_the_last_segment() {
        for (path, expected) in [
            ("/x.json", &["/x"][..]),
            ("/x.json/", &["/x"]),
            ("/a/b.c.json", &["/a/b.c"]),
            ("/x.mp4", &["/x"]),
            ("/robots.txt", &["/robots"]),
            ("/x.0123456789abcdef", &["/x"]),
            ("/x..json", &["/x.", "/x"]),
            ("/x .json", &["/x ", "/x"]),
            ("/x.0123456789abcdefg", &[]),
            ("/v1.2/x", &[]),
            ("/x", &[]),
            ("/x.", &[]),
            ("/.json", &[]),
            ("/a/.json", &[]),
            ("/x.js-on", &[]),
            ("/x.json//", &[]),
            ("/", &[]),
            ("", &[]),
        ] {
            let found: Vec<&str> = without_format_suffix(path).collect();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn malformed_paths_are_refused() {
        use PathError::{
            BrokenPercentEncoding, ControlCharacter, ForbiddenByte, NoLeadingSlash, NotUtf8,
        };
        for (path, expected) in [
            ("", NoLeadingSlash),
            ("*", NoLeadingSlash),
            ("api", NoLeadingSlash),
            ("/a\\b", ForbiddenByte(b'\\')),
            ("/a#b", ForbiddenByte(b'#')),
            ("/a?b", ForbiddenByte(b'?')),
            ("/a b", ForbiddenByte(b' ')),
            ("/caf\u{e9}", ForbiddenByte(0xc3)),
            ("/a\0", ControlCharacter),
            ("/a\x7f", ControlCharacter),
            ("/a%00", ControlCharacter),
            ("/a%0d%0a", ControlCharacter),
            ("/a%250a", ControlCharacter),
            ("/a%c2%85", ControlCharacter),
            ("/%", BrokenPercentEncoding),
            ("/%4", BrokenPercentEncoding),
            ("/%zz", BrokenPercentEncoding),
            ("/%4/", BrokenPercentEncoding),
            ("/%ff", NotUtf8),
            ("/%c0%af", NotUtf8),
        ] {
            assert_eq!(Readings::of(path), Err(expected), "{path:?}");
        }
    }

    #[test]
    fn the_number_of_readings_is_bounded() {
        let many = "/a;x/..;y/%252e%252e%252f/b%253b//c;z/./d%5ce;".repeat(20);
        assert_eq!(Readings::of(&many), Err(PathError::TooManyReadings));
        let encoded_many_times = format!("/%{}41", "25".repeat(MAX_READINGS));
        assert_eq!(
            Readings::of(&encoded_many_times),
            Err(PathError::TooManyReadings)
        );
        let long = format!("/%41{}", "a".repeat(16 * 1024));
        assert_eq!(readings(&long).len(), 2);
    }
}
