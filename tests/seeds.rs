//! The inputs that fuzzing starts from and those it has found, through the same functions: see `fuzz`.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Every input of one target; a panic is what failing means there.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 5, "only {count} inputs found");
}

#[test]
fn bearer_jws() {
    replay("bearer_jws", targets::bearer_jws::run);
}

#[test]
fn canonical() {
    replay("canonical", targets::canonical::run);
}

#[test]
fn config() {
    replay("config", targets::config::run);
}

#[test]
fn connection() {
    replay("connection", targets::connection::run);
}

#[test]
fn dpop() {
    replay("dpop", targets::dpop::run);
}

#[test]
fn headers() {
    replay("headers", targets::headers::run);
}

#[test]
fn jwk_set() {
    replay("jwk_set", targets::jwk_set::run);
}

#[test]
fn mcp() {
    replay("mcp", targets::mcp::run);
}

#[test]
fn paths() {
    replay("paths", targets::paths::run);
}
