//! The runner of test targets that share one costly thing, a browser or installed packages, and so are no
//! ordinary test harness.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use tokio::runtime::Runtime;

/// A case, given what all of them share.
pub type Case<T> = for<'t> fn(&'t T) -> Pin<Box<dyn Future<Output = ()> + 't>>;

/// Cases with their names, `module::case`.
macro_rules! cases {
    ($($module:ident::$case:ident,)*) => {
        [$((
            concat!(stringify!($module), "::", stringify!($case)),
            (|shared| Box::pin($module::$case(shared))) as $crate::cases::Case<_>,
        )),*]
    };
}
pub(crate) use cases;

/// Runs all cases, or those whose names contain one of the words on the command line. To run none is a failure.
pub fn run<T>(
    cases: impl IntoIterator<Item = (&'static str, Case<T>)>,
    share: impl FnOnce(&Runtime) -> T,
) -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen = cases
        .into_iter()
        .filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let shared = share(&runtime);
    let (mut run, mut failed) = (0, Vec::new());
    for (name, case) in chosen {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(case(&shared))));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name} ... {word} ({:.1} s)", start.elapsed().as_secs_f64());
        run += 1;
        failed.extend(outcome.is_err().then_some(name));
    }
    println!("\n{run} cases, {} failed {failed:?}", failed.len());
    if run == 0 || !failed.is_empty() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
