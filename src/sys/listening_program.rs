//! The program that listens on a port, as far as the kernel tells.

use super::sock_diag::{KernelSocket, States, sockets};
use std::fmt;
use std::fs::{self, DirEntry};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Timeout of the list of listeners.
const PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors of one process that are looked at: programs open their listeners early.
const EARLY: usize = 1024;

/// A program that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListeningProgram {
    /// A process that we may look into.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A process of this user.
    User(u32),
}

impl fmt::Display for ListeningProgram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(out, "process {pid} ({name})"),
            Self::User(user) => write!(out, "a process of user {user}"),
        }
    }
}

impl ListeningProgram {
    /// Another process than this one that listens where it keeps others from listening on an address; `None` if none is found.
    pub fn of(address: SocketAddr) -> Option<Self> {
        let in_the_way = |socket: &KernelSocket| {
            let (own, other) = (address.ip(), socket.source.ip());
            let meets = own == other || own.is_unspecified() || other.is_unspecified();
            socket.source.port() == address.port() && meets
        };
        let listeners = sockets(States::LISTENING, PATIENCE, in_the_way).ok()?;
        let has_one = |pid: &u32| {
            let mut open = sockets_of(*pid).into_iter().flatten().take(EARLY);
            open.any(|number| listeners.iter().any(|listener| u64::from(listener.inode) == number))
        };
        let processes = fs::read_dir("/proc").into_iter().flatten();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let holder = pids.filter(|pid| *pid != std::process::id()).find(has_one);
        holder.map_or_else(
            || listeners.first().map(|listener| Self::User(listener.uid)),
            |pid| Some(Self::Process { pid, name: name(pid) }),
        )
    }
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A program chooses its name itself.
    name.trim_end().escape_debug().to_string()
}

/// The numbers of a process's sockets; `None` where we may not know.
pub fn sockets_of(pid: u32) -> Option<impl Iterator<Item = u64>> {
    let number = |entry: io::Result<DirEntry>| {
        let link = fs::read_link(entry.ok()?.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    #[test]
    fn holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut other =
            Command::new("cat").stdin(Stdio::piped()).stdout(OwnedFd::from(listener)).spawn().unwrap();
        let named = Some(ListeningProgram::Process { pid: other.id(), name: "cat".to_owned() });
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        let found = [address, everywhere].map(ListeningProgram::of);
        let elsewhere = ListeningProgram::of(SocketAddr::from(([127, 0, 0, 2], address.port())));
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!((found, elsewhere), ([named.clone(), named], None));
    }
}
