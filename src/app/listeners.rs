//! Opens the listeners; errors name the remedy.

use crate::gateway::BACKLOG;
use crate::sys::failure::Failure;
use crate::sys::listener;
use crate::sys::listening_program::ListeningProgram;
use crate::sys::liveness::Liveness;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Error of opening a listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port is in use.
    #[error("cannot listen on {address}: the port is in use{}; stop that program, or set another port in [gateway] {key}", by(.holder.as_ref(), .address.port()))]
    InUse {
        /// Address of the listener.
        address: SocketAddr,
        /// Its key in the configuration.
        key: &'static str,
        /// Program that has the port, if it was found.
        holder: Option<ListeningProgram>,
    },
    /// A right is missing.
    #[error(
        "cannot listen on {0}: not permitted; a port below 1024 needs CAP_NET_BIND_SERVICE (or set another in [gateway] {1}), and a transparent listener CAP_NET_ADMIN: run by the service, or `setpriv --ambient-caps +net_admin --inh-caps +net_admin egret run`"
    )]
    NotPermitted(SocketAddr, &'static str),
    /// The address is not assigned to this machine.
    #[error(
        "cannot listen on {0}: the address is not assigned to this machine; set another in [gateway] {1}"
    )]
    NotOurs(SocketAddr, &'static str),
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// Address of the listener.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
}

/// Returns the address to listen on: without IPv6 on this machine, the dual-stack wildcard becomes that of IPv4.
pub(super) fn usable(address: SocketAddr) -> SocketAddr {
    if address.is_ipv4() || listener::has_ipv6() {
        return address;
    }
    let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    tracing::warn!("this machine has no IPv6: listening on {instead} in place of {address}, for IPv4 alone");
    instead
}

/// Opens one transparent listener for each worker, all on the same port.
pub(super) fn transparent(
    address: SocketAddr,
    workers: usize,
    liveness: &Liveness,
    keeps_class: bool,
) -> Result<Vec<TcpListener>, ListenError> {
    match listener::is_taken(address) {
        Ok(false) => {}
        Ok(true) => return Err(in_use(address, "listen")),
        Err(error) => return Err(explain(address, "listen", error)),
    }
    (0..workers)
        .map(|_| {
            listener::open(address, BACKLOG.into(), liveness, keeps_class)
                .map_err(|error| explain(address, "listen", error))
        })
        .collect()
}

/// Opens the metrics listener, within the runtime that is to serve it.
pub(super) fn metrics(address: SocketAddr) -> Result<tokio::net::TcpListener, ListenError> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    open().map_err(|error| explain(address, "metrics", error))
}

fn in_use(address: SocketAddr, key: &'static str) -> ListenError {
    ListenError::InUse { address, key, holder: ListeningProgram::of(address) }
}

/// Continues "the port is in use".
fn by(holder: Option<&ListeningProgram>, port: u16) -> String {
    let found = || format!("`ss -ltnp 'sport = :{port}'` as root tells by whom");
    match holder {
        Some(holder @ ListeningProgram::Process { .. }) => format!(" by {holder}"),
        Some(holder @ ListeningProgram::User(_)) => format!(" by {holder} ({})", found()),
        None => format!(" ({})", found()),
    }
}

fn explain(address: SocketAddr, key: &'static str, error: io::Error) -> ListenError {
    let failure = Failure::of(&error);
    if failure == Failure::PortTaken {
        in_use(address, key)
    } else if failure == Failure::NotPermitted {
        ListenError::NotPermitted(address, key)
    } else if failure == Failure::NotOurAddress {
        ListenError::NotOurs(address, key)
    } else {
        ListenError::Other { address, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_port_key_and_holder() {
        let told = |holder| {
            let address = SocketAddr::from(([127, 0, 0, 1], 9915));
            ListenError::InUse { address, key: "metrics", holder }.to_string()
        };
        let process = told(Some(ListeningProgram::Process { pid: 17, name: "nginx".to_owned() }));
        assert_eq!(
            process,
            "cannot listen on 127.0.0.1:9915: the port is in use by process 17 (nginx); stop that program, or set another port in [gateway] metrics"
        );
        assert!(
            told(Some(ListeningProgram::User(33)))
                .contains("in use by a process of user 33 (`ss -ltnp 'sport = :9915'`")
        );
        assert!(told(None).contains("in use (`ss -ltnp 'sport = :9915'`"));
    }
}
