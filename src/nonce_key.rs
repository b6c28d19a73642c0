//! The key for `DPoP` nonces: of a file that replicas share, or made by the system's random numbers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::{Config, NonceSource};
use crate::token::Nonces;

/// The least key: 256 bits, if every one of them is random.
const LEAST_BYTES: usize = 32;

/// The most that is read of a key file.
const MAX_FILE_BYTES: u64 = 4096;

/// Why there is no key.
#[derive(Debug)]
pub enum NonceKeyError {
    /// The file cannot be read.
    File(PathBuf, io::Error),
    /// The file holds less than a key.
    TooShort(PathBuf),
    /// The system has no random numbers.
    Random,
}

impl fmt::Display for NonceKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => {
                write!(f, "dpop.nonce_key_file: {}: {error}", path.display())
            }
            Self::TooShort(path) => write!(
                f,
                "dpop.nonce_key_file: {}: less than {LEAST_BYTES} bytes; make one with \"openssl rand -base64 32\"",
                path.display()
            ),
            Self::Random => f.write_str("the system has no random numbers"),
        }
    }
}

impl std::error::Error for NonceKeyError {}

/// The nonces of this configuration; `None` where none is asked for. `previous` are those that were in force:
/// a key that this process made is kept, so that a new configuration makes no client ask twice.
///
/// # Errors
///
/// [`NonceKeyError`] when there is no key.
pub fn load(
    config: &Config,
    previous: Option<(&Config, &Nonces)>,
) -> Result<Option<Nonces>, NonceKeyError> {
    match source(config) {
        None => Ok(None),
        Some(NonceSource::File(path)) => from_file(path).map(Some),
        Some(NonceSource::Random) => match previous {
            Some((of, nonces)) if source(of) == Some(&NonceSource::Random) => {
                Ok(Some(nonces.clone()))
            }
            _ => random().map(Some),
        },
    }
}

/// The key file of this configuration, so that changes can be watched for.
#[must_use]
pub fn file(config: &Config) -> Option<&Path> {
    match source(config) {
        Some(NonceSource::File(path)) => Some(path),
        Some(NonceSource::Random) | None => None,
    }
}

fn source(config: &Config) -> Option<&NonceSource> {
    config.dpop.as_ref()?.nonces.as_ref()
}

fn from_file(path: &Path) -> Result<Nonces, NonceKeyError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| NonceKeyError::File(path.to_owned(), error))?;
    // Editors and `echo` end a file with a line break, on one machine and not on the other.
    let key = bytes.trim_ascii_end();
    if key.len() < LEAST_BYTES {
        return Err(NonceKeyError::TooShort(path.to_owned()));
    }
    Ok(Nonces::new(key))
}

fn random() -> Result<Nonces, NonceKeyError> {
    let mut key = [0; LEAST_BYTES];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| NonceKeyError::Random)?;
    Ok(Nonces::new(&key))
}

#[cfg(test)]
mod tests {
    use super::{NonceKeyError, from_file, random};
    use crate::clock::UnixTime;

    #[test]
    fn a_file_is_one_key_on_every_machine() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let at = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let text = "q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6";
        let now = UnixTime::from_secs(1_800_000_000);
        let plain = from_file(&at("plain", text)).expect("a key").current(now);
        let ended = from_file(&at("ended", &format!("{text}\r\n"))).expect("a key");
        assert_eq!(ended.current(now), plain);
        let other = from_file(&at("other", &text.to_uppercase())).expect("a key");
        assert_ne!(other.current(now), plain);
        let short = text.get(1..).expect("ASCII");
        for text in ["", "\n", short, &format!("{short}\n\n")] {
            let error = from_file(&at("short", text)).expect_err("too short");
            assert!(matches!(error, NonceKeyError::TooShort(_)), "{error}");
        }
        let missing = from_file(&directory.path().join("missing"));
        assert!(matches!(missing, Err(NonceKeyError::File(..))));
        let (one, two) = (random().expect("a key"), random().expect("a key"));
        assert_ne!(one.current(now), two.current(now));
    }
}
