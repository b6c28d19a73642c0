//! What must never be printed: every token minted and every query sent, by the whole process.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

/// Shorter texts would be found in innocent output by chance.
const SHORTEST: usize = 8;

/// The end of a secret. Tokens begin alike, and end in signatures.
type Tail = [u8; SHORTEST];

/// By their tails, so that output is read once, however many thousands of tokens other tests have minted: they
/// run beside this one, and some of them cannot wait.
static NOTED: LazyLock<RwLock<HashMap<Tail, Vec<String>>>> = LazyLock::new(RwLock::default);

/// Remembers a text that no log may contain.
pub fn note(secret: &str) {
    let Some(tail) = secret.as_bytes().last_chunk() else {
        return;
    };
    let mut noted = NOTED.write().unwrap_or_else(PoisonError::into_inner);
    let alike = noted.entry(*tail).or_default();
    if !alike.iter().any(|known| known == secret) {
        alike.push(secret.to_owned());
    }
}

/// Remembers a token, whole and by its signature, which is enough to complete a token whose claims
/// can be guessed.
pub fn note_token(token: &str) {
    note(token);
    if let Some((_, signature)) = token.rsplit_once('.') {
        note(signature);
    }
}

/// The noted texts that occur in `output`.
pub fn found_in(output: &str) -> Vec<String> {
    let noted = NOTED.read().unwrap_or_else(PoisonError::into_inner);
    let output = output.as_bytes();
    let mut found = Vec::new();
    for start in 0..output.len() {
        let Some(tail) = output[start..].first_chunk::<SHORTEST>() else {
            break;
        };
        let Some(alike) = noted.get(tail) else {
            continue;
        };
        let before = &output[..start + SHORTEST];
        found.extend(
            alike
                .iter()
                .filter(|secret| before.ends_with(secret.as_bytes()))
                .cloned(),
        );
    }
    found
}
