//! The address that readiness is asked at: the files' one, and the one that the gateway has.

use super::listeners::ListeningSocket;
use super::process::{self, Service};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use std::net::SocketAddr;

/// The address at which the running gateway answers, with the finding about files that name another one. `None` if it has the
/// files' one, or none that is known.
pub(super) fn other_address(listen_port: u16, of_files: SocketAddr) -> Option<(SocketAddr, CheckFinding)> {
    waits_for_restart(&process::service(listen_port)?, listen_port, of_files)
}

fn waits_for_restart(
    service: &Service,
    listen_port: u16,
    of_files: SocketAddr,
) -> Option<(SocketAddr, CheckFinding)> {
    let address = other(&service.listeners(), listen_port, of_files)?;
    let finding = CheckFinding::warn(
        "metrics listener",
        format!("the gateway answers at {address}, and the files say {of_files}"),
        "`[gateway] metrics` takes a restart; until then load balancers and monitoring have to ask there",
        Mend::run("systemctl restart egret"),
    );
    Some((address, finding))
}

/// The gateway has no listener beside that for metrics and the one that connections are handed to.
fn other(own: &[ListeningSocket], listen_port: u16, of_files: SocketAddr) -> Option<SocketAddr> {
    let takes = |listener: &ListeningSocket| {
        listener.port == of_files.port() && (listener.is_wildcard() || listener.address == of_files.ip())
    };
    if own.iter().any(takes) || !own.iter().any(|listener| listener.port == listen_port) {
        return None;
    }
    let mut others = own.iter().filter(|listener| listener.port != listen_port);
    let address = others.next().map(|listener| SocketAddr::new(listener.address, listener.port))?;
    others.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn changed_metrics_listener_waits_for_a_restart() {
        let listener = |at: &str| {
            let at: SocketAddr = at.parse().unwrap();
            ListeningSocket { address: at.ip(), port: at.port(), user: 0, inode: 0 }
        };
        let found = |own: &[&str], of_files: &str| {
            let own: Vec<_> = own.iter().map(|at| listener(at)).collect();
            other(&own, 15001, of_files.parse().unwrap())
        };
        let (client, old, new) = ("0.0.0.0:15001", "127.0.0.1:9090", "127.0.0.1:9191");
        assert_eq!(found(&[client, old], new), old.parse().ok());
        assert_eq!(found(&[client, "127.0.0.1:9090"], "192.0.2.1:9090"), old.parse().ok());
        for (own, of_files) in [
            (&[client, new][..], new),
            (&[client, "0.0.0.0:9191"], new),
            (&[client], new),
            // Another program's, or more than can be told apart.
            (&[old], new),
            (&[client, old, "127.0.0.1:22"], new),
        ] {
            assert_eq!(found(own, of_files), None, "{own:?}");
        }
    }

    #[test]
    fn addresses_of_listeners_are_read() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listeners = super::super::listeners::listeners();
        let own = listeners.iter().find(|listener| listener.port == port).unwrap();
        assert_eq!(own.address, IpAddr::from([127, 0, 0, 1]));
    }
}
