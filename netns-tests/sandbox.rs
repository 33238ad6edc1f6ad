//! The process's own user, network and mount namespaces, entered before a second thread exists.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid};
use std::fs;

const ADVICE: &str = "\
These tests need a user namespace, and this host refuses one. To allow it, as root, whichever applies:
  sysctl -w user.max_user_namespaces=10000
  sysctl -w kernel.unprivileged_userns_clone=1              # Debian kernels that have it
  sysctl -w kernel.apparmor_restrict_unprivileged_userns=0  # Ubuntu 24.04 and later
In a container: run it with --security-opt seccomp=unconfined, or with CAP_SYS_ADMIN.
Or run the tests as root.";

/// Becomes uid 0 of a new user namespace that owns a new network and a new mount namespace.
///
/// `/run` becomes a tmpfs, so that lock files and sockets of iptables, nginx and the gateway stay inside. The error is
/// a complete explanation for the user.
pub fn enter() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("unshare(user, net, mount): {errno}\n{ADVICE}"))?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("mount / private: {errno}\n{ADVICE}"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(|errno| format!("mount a tmpfs on /run: {errno}\n{ADVICE}"))?;
    raise_descriptor_limit()
}

/// Raises the limit: two thousand flows need two descriptors each in this process, and two in the gateway.
fn raise_descriptor_limit() -> Result<(), String> {
    const NEEDED: u64 = 8192;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| format!("getrlimit: {errno}"))?;
    if hard < NEEDED {
        return Err(format!(
            "these tests need {NEEDED} file descriptors, the hard limit is {hard}: `ulimit -Hn`"
        ));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(NEEDED), hard).map_err(|errno| format!("setrlimit: {errno}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("write {text:?} to {path}: {e}\n{ADVICE}"))
}
