//! Opens the listeners; errors name the remedy.

use crate::gateway::BACKLOG;
use crate::sys::failure::Failure;
use crate::sys::listener;
use crate::sys::liveness::Liveness;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Error of opening a listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port is in use.
    #[error("cannot listen on {0}: the port is in use; find by whom with `ss -ltnp 'sport = :{port}'`, or set another in [gateway] {1}", port = .0.port())]
    InUse(SocketAddr, &'static str),
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
        Ok(true) => return Err(ListenError::InUse(address, "listen")),
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

fn explain(address: SocketAddr, key: &'static str, error: io::Error) -> ListenError {
    let failure = Failure::of(&error);
    if failure == Failure::PortTaken {
        ListenError::InUse(address, key)
    } else if failure == Failure::NotPermitted {
        ListenError::NotPermitted(address, key)
    } else if failure == Failure::NotOurAddress {
        ListenError::NotOurs(address, key)
    } else {
        ListenError::Other { address, error }
    }
}
