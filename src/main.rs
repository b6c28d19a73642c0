//! The `authgate` program. Everything it does is in the library, so that tests can reach it.

fn main() -> std::process::ExitCode {
    authgate::run(std::env::args_os())
}
