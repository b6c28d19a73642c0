//! Scripts of this folder, run by Node.js beside the packages that they import.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A whole script; RSA keys take it some seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A folder with the scripts and everything that they import.
pub struct Node {
    folder: PathBuf,
    root: Option<PathBuf>,
}

impl Node {
    /// Installs the packages by the lock file, below `target`.
    pub fn install() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        std::fs::create_dir_all(&folder).expect("a folder");
        for entry in std::fs::read_dir(source).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            if path.is_file() && path.extension().is_none_or(|extension| extension != "rs") {
                std::fs::copy(&path, folder.join(name)).expect("a copy");
            }
        }
        let installed = Command::new("npm")
            .args(["ci", "--prefer-offline"])
            .current_dir(&folder)
            .output()
            .expect("npm");
        assert!(installed.status.success(), "{installed:?}");
        Self { folder, root: None }
    }

    /// The same for scripts that trust this root too.
    pub fn trusting(&self, root: &Path) -> Self {
        Self {
            folder: self.folder.clone(),
            root: Some(root.to_owned()),
        }
    }

    /// Runs a script to its end. `answer` makes what it asks for. Returns the cases that held; that one did
    /// not is a panic.
    pub async fn run(
        &self,
        script: &str,
        input: &Value,
        answer: impl FnMut(&Value) -> Value + Send + 'static,
    ) -> Vec<String> {
        let mut command = Command::new("node");
        command
            .args([script, &input.to_string()])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for variable in ["http_proxy", "https_proxy", "NODE_OPTIONS"] {
            command.env_remove(variable);
            command.env_remove(variable.to_ascii_uppercase());
        }
        command.env_remove("NODE_EXTRA_CA_CERTS");
        command.envs(self.root.iter().map(|root| ("NODE_EXTRA_CA_CERTS", root)));
        let mut child = command.spawn().expect("node");
        let stdin = child.stdin.take().expect("its stdin");
        let stdout = child.stdout.take().expect("its stdout");
        let mut stderr = child.stderr.take().expect("its stderr");
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("text");
            text
        });
        let conversation = tokio::task::spawn_blocking(move || converse(stdin, stdout, answer));
        let passed = tokio::time::timeout(PATIENCE, conversation).await;
        if passed.is_err() {
            child.kill().expect("its end");
        }
        let status = child.wait().expect("its end");
        let complaints = complaints.join().expect("a thread");
        let passed = match passed {
            Ok(passed) => passed.expect("a thread"),
            Err(_) => panic!("{script} has not ended in time:\n{complaints}"),
        };
        assert!(
            status.success(),
            "{script}, after {passed:?}:\n{complaints}"
        );
        passed
    }
}

fn converse(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    mut answer: impl FnMut(&Value) -> Value,
) -> Vec<String> {
    let mut passed = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("text");
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|_| json!({}));
        if let Some(question) = message.get("ask") {
            // A script that has ended needs no answer.
            let _ended = writeln!(stdin, "{}", answer(question));
        } else if let Some(name) = message["passed"].as_str() {
            println!("    {name}");
            passed.push(name.to_owned());
        } else {
            println!("    {line}");
        }
    }
    passed
}
