//! The port that connections are handed to: the files' one, and the one that the gateway listens on.

use super::process::{self, Service};
use crate::cli::findings::CheckFinding;
use crate::cli::steering::ListenPort;
use crate::steering::{Remedy, SteeringParams};
use crate::sys::listening_program::ListeningProgram;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

const CHECK: &str = "listen port";

/// Has the parameters go by the port that the running gateway listens on. Yields the finding if the files name another one, or if
/// another program has that of a gateway that does not run.
pub(in crate::cli) fn go_by_gateway(
    params: &mut SteeringParams,
    metrics: Option<SocketAddr>,
) -> (ListenPort, Option<CheckFinding>) {
    let Some(service) = process::service(params.listen_port) else {
        return (ListenPort::OfFiles, taken(params.listen_port));
    };
    match waits_for_restart(params, &service, metrics) {
        None => (ListenPort::OfFiles, None),
        waits => (ListenPort::OfGateway, waits),
    }
}

/// The finding that the gateway which runs by these very files listens on another port than they say.
pub(in crate::cli) fn port_in_force(
    params: &SteeringParams,
    metrics: Option<SocketAddr>,
    config: &Path,
) -> Option<CheckFinding> {
    let service = process::service(params.listen_port).filter(|service| service.runs_by(config))?;
    waits_for_restart(&mut params.clone(), &service, metrics)
}

fn waits_for_restart(
    params: &mut SteeringParams,
    service: &Service,
    metrics: Option<SocketAddr>,
) -> Option<CheckFinding> {
    let of_files = params.listen_port;
    let port = service.other_listen_port(of_files, metrics.map(|metrics| metrics.port()))?;
    params.listen_port = port;
    Some(CheckFinding::warn(
        CHECK,
        format!("the gateway listens on port {port}, and the files say {of_files}"),
        "`[gateway] listen` takes a restart; until then port and packet rules stay as they were",
        Remedy::RestartBoth,
    ))
}

/// Told of a program that is known alone: one of a user may be the gateway, where we may not look.
fn taken(port: u16) -> Option<CheckFinding> {
    let holder = ListeningProgram::of(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let holder = holder.filter(|holder| matches!(holder, ListeningProgram::Process { .. }))?;
    Some(CheckFinding::fail(
        CHECK,
        format!("{holder} listens on port {port}, and is not the gateway"),
        "the gateway cannot start",
        "stop that program, or set another port in [gateway] listen; then systemctl restart egret-steering egret",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Interface;
    use crate::steering::{InterceptedPorts, UdpTreatment, default_ephemeral};
    use crate::transport::Transport;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command, Stdio};

    fn params(listen_port: u16) -> SteeringParams {
        SteeringParams {
            transport: Transport::Tcp,
            interfaces: vec![Interface::parse("ens6").unwrap()],
            sources: Vec::new(),
            ports: InterceptedPorts::All,
            udp: UdpTreatment::Reject,
            listen_port,
            mark: 1,
            table: 100,
            pools: Vec::new(),
            resolvers: Vec::new(),
            ephemeral: default_ephemeral(),
        }
    }

    /// A process that has a listener, and the listener's port.
    fn listening(at: &str) -> (Child, u16) {
        let listener = TcpListener::bind(at).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut cat = Command::new("cat");
        (cat.stdin(Stdio::piped()).stdout(OwnedFd::from(listener)).spawn().unwrap(), port)
    }

    fn end(mut process: Child) {
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[test]
    fn changed_listen_port_waits_for_a_restart() {
        let (gateway, port) = listening("0.0.0.0:0");
        let service = Service::of(gateway.id());
        let mut pending = params(1);
        let found = waits_for_restart(&mut pending, &service, None);
        let same = waits_for_restart(&mut params(port), &service, None);
        let metrics = SocketAddr::from(([0, 0, 0, 0], port));
        let only_metrics = waits_for_restart(&mut params(1), &service, Some(metrics));
        end(gateway);
        let said = format!("the gateway listens on port {port}, and the files say 1");
        assert_eq!((found.map(|finding| finding.found), pending.listen_port), (Some(said), port));
        assert!(same.is_none() && only_metrics.is_none(), "{same:?} {only_metrics:?}");
    }

    #[test]
    fn program_in_place_of_the_gateway_is_named() {
        let (program, port) = listening("127.0.0.1:0");
        let found = taken(port).unwrap();
        let named = format!("process {} (cat) listens on port {port}", program.id());
        end(program);
        assert!(found.found.starts_with(&named), "{found:?}");
    }
}
