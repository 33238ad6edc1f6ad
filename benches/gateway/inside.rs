//! Namespaces of the benchmark; all processes in them end with them.

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Environment variable set inside.
const INSIDE: &str = "EGRET_BENCH_INSIDE";

/// Descriptors for 9,000 connections in a gateway, with a reserve.
const DESCRIPTORS: u64 = 19_500;

pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again inside the namespaces.
///
/// The first process there ends when the pipe to it is closed, so also when this one is killed; and all others there
/// end with it.
pub fn enter() -> ExitCode {
    let unshare = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command
    };
    match unshare().arg("true").output() {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            eprint!("{}", String::from_utf8_lossy(&tried.stderr));
            eprintln!(
                "This benchmark needs namespaces, and they are refused here. Run it as root, outside of a container."
            );
            return ExitCode::FAILURE;
        }
        Err(e) => {
            eprintln!("unshare: {e}; if it is missing: apt-get install util-linux");
            return ExitCode::FAILURE;
        }
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().expect("this program")).args(std::env::args_os().skip(1));
    let mut child = command.env(INSIDE, "1").stdin(Stdio::piped()).spawn().expect("unshare, as before");
    let _open_until_it_ends = child.stdin.take();
    match child.wait() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Creates a folder in memory, so that no disk is measured, and raises the descriptor limit.
pub fn prepare() -> Result<PathBuf, String> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("mount /: {e}"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
        .map_err(|e| format!("mount /run: {e}"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("getrlimit: {e}"))?;
    if hard < DESCRIPTORS {
        return Err(format!(
            "it needs {DESCRIPTORS} file descriptors, the hard limit is {hard}: `ulimit -Hn`"
        ));
    }
    let limit = hard.min(20_000); // the same on every machine: haproxy sizes its tables by it
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(|e| format!("setrlimit: {e}"))?;
    Ok("/run".into())
}
