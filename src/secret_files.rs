//! Who else may read the key files that a configuration names.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use crate::config::{Config, Problem};
use crate::nonce_key;

/// The permission bits of the group, and of all others.
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;

/// A warning for each secret key file that somebody else may read or write. A file that is missing is no concern
/// here: reading it fails.
#[must_use]
pub fn exposed(config: &Config) -> Vec<Problem> {
    let tls = config.tls.as_ref().map(|tls| tls.key_file.clone());
    let nonce = nonce_key::file(config).map(Path::to_owned);
    let files = [
        ("tls.key_file", tls),
        ("dpop.nonce_key_file", nonce),
        ("mcp.session_key_file", config.mcp.sessions.file()),
    ];
    let named = files.into_iter().filter_map(|(key, file)| {
        let message = exposure(&file?, geteuid().as_raw())?;
        let path = key.to_owned();
        Some(Problem { path, message })
    });
    named.collect()
}

/// What is wrong with the file's permissions for a process of this user. A group is let in where the file is
/// another user's: so a process that is not root reads a file that root owns, as the files of a Kubernetes Secret.
fn exposure(path: &Path, user: u32) -> Option<String> {
    let file = fs::metadata(path).ok()?;
    let mode = file.mode() & 0o7777;
    let (who, mend) = if mode & OTHERS != 0 {
        (
            "every user",
            "chmod o= (in Kubernetes: defaultMode 0440 and fsGroup)",
        )
    } else if mode & GROUP != 0 && file.uid() == user {
        ("its group", "chmod g=")
    } else {
        return None;
    };
    let path = path.display();
    Some(format!(
        "{path} is a secret, and {who} of this machine has access to it (mode {mode:04o}): {mend}"
    ))
}

#[cfg(test)]
mod tests {
    use super::exposure;
    use rustix::process::geteuid;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_others_may_read_is_told() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let file = directory.path().join("key");
        fs::write(&file, "secret").expect("a file");
        let own = geteuid().as_raw();
        let another = own + 1;
        for (mode, user, expected) in [
            (0o600, own, None),
            (0o400, own, None),
            (0o700, own, None),
            (0o640, own, Some("its group")),
            (0o460, own, Some("its group")),
            (0o604, own, Some("every user")),
            (0o602, own, Some("every user")),
            (0o644, own, Some("every user")),
            (0o440, another, None),
            (0o640, another, None),
            (0o444, another, Some("every user")),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its owner");
            let told = exposure(&file, user);
            match expected {
                None => assert_eq!(told, None, "{mode:o}"),
                Some(who) => {
                    let told = told.unwrap_or_default();
                    let mode = format!("(mode {mode:04o})");
                    assert!(told.contains(who) && told.contains(&mode), "{told}");
                    assert!(!told.contains("secret\n"), "nothing of what is in it");
                }
            }
        }
        assert_eq!(exposure(&directory.path().join("missing"), own), None);
    }
}
