//! What must never be printed: every token minted and every query sent, by the whole process.

use std::sync::{Mutex, PoisonError};

/// Shorter texts would be found in innocent output by chance.
const SHORTEST: usize = 8;

static NOTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers a text that no log may contain.
pub fn note(secret: &str) {
    if secret.len() < SHORTEST {
        return;
    }
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !noted.iter().any(|known| known == secret) {
        noted.push(secret.to_owned());
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
    let noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    noted
        .iter()
        .filter(|secret| output.contains(secret.as_str()))
        .cloned()
        .collect()
}
