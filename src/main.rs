//! The `egret` binary: parse, act, exit. Everything else is in the library.

fn main() -> std::process::ExitCode {
    egret::cli::main()
}
