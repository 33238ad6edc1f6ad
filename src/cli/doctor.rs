//! `egret doctor`: everything on this machine that Egret needs, one finding each, with its cure; and whether real packets
//! come through.

mod date;
mod families;
mod forwarding;
mod gateway;
mod inputs;
mod kernel;
mod links;
mod listen_port;
mod listeners;
mod metrics_port;
mod network;
mod packets;
mod proc;
mod process;
mod refusing;
mod resolver;
mod sources;

pub use inputs::{AskedResolver, Doctor, TenantClients};
pub(super) use listen_port::{go_by_gateway, port_in_force};
pub(super) use packets::PROBE_NAME;

use super::findings::{CheckFinding, report};
use super::last_good::state_folder;
use crate::admin::parse_address;
use crate::clock;
use packets::ProbeQuestion;
use std::net::IpAddr;
use std::process::ExitCode;

/// The options of `egret doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorOptions {
    /// Try one client's packets to one destination, and nothing else
    #[arg(long, requires_all = ["from", "to"])]
    packet: bool,
    /// The client, with --packet
    #[arg(long, value_name = "CLIENT", requires = "packet")]
    from: Option<IpAddr>,
    /// The destination, with --packet: a name or an address; port 443 unless given
    #[arg(long, value_name = "DEST[:PORT]", requires = "packet")]
    to: Option<String>,
    /// The address that the client dials for the name of --to; one that this machine finds unless given
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address, requires = "packet")]
    address: Option<IpAddr>,
    /// Look at settings only and send no packets
    #[arg(long, conflicts_with = "packet")]
    no_packets: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything, sends packets of its own, and leaves the machine as it was. Yields 1 if something is broken, else 0.
pub fn doctor(doctor: &Doctor, options: &DoctorOptions) -> ExitCode {
    let mut doctor = doctor.clone();
    let (port, waits) = go_by_gateway(&mut doctor.steering, doctor.metrics);
    doctor.port = port;
    let metrics = doctor
        .metrics
        .and_then(|of_files| metrics_port::other_address(doctor.steering.listen_port, of_files));
    let metrics = metrics.map(|(address, finding)| {
        doctor.metrics = Some(address);
        finding
    });
    let doctor = &doctor;
    let silence = gateway::silence(doctor);
    let mut found: Vec<_> = doctor.broken.iter().cloned().chain(waits).chain(metrics).collect();
    if let (Some(from), Some(to)) = (options.from, &options.to) {
        let question = ProbeQuestion { from: from.to_canonical(), to: to.clone(), address: options.address };
        found.extend(silence.map_or_else(|| packets::ask(doctor, &question), |silence| vec![silence]));
    } else {
        let sends = !options.no_packets && silence.is_none();
        found.extend(findings(doctor, silence));
        if sends {
            found.extend(packets::findings(doctor));
        }
    }
    report(&found, options.json)
}

/// `silence`: the gateway does not answer, and is not asked.
fn findings(doctor: &Doctor, silence: Option<CheckFinding>) -> Vec<CheckFinding> {
    let service = process::service(doctor.steering.listen_port);
    let mut found =
        vec![kernel::version(), kernel::transparent_sockets(), kernel::modules(), kernel::migration()];
    found.extend(process::capability(service.as_ref()));
    found.push(process::descriptors(service.as_ref(), doctor));
    found.extend(process::stop_timeout(service.as_ref(), doctor));
    found.extend([
        kernel::timestamps(),
        kernel::socket_list(),
        kernel::accept_queue(),
        kernel::pipes(),
        kernel::files(doctor.wanted_descriptors),
    ]);
    found.extend([forwarding::forwarding(), network::conntrack()]);
    found.extend(date::set_back(&state_folder(), clock::timestamp()));
    found.extend(families::families(&doctor.pools));
    found.extend(refusing::refusing_routes(&doctor.tenants));
    let asked = doctor.socket.as_ref().filter(|_| silence.is_none());
    found.extend(asked.into_iter().flat_map(|socket| sources::unusable(socket, &doctor.pools)));
    found.extend(doctor.resolver.as_ref().map(resolver::answers));
    found.extend(links::dead(&doctor.steering.interfaces));
    let steered = super::steering::nothing_to_steer(&doctor.steering);
    match steered {
        None => found.extend(super::steering::findings(&doctor.steering, doctor.port, None)),
        Some(missing) => found.push(CheckFinding::warn(
            "steering",
            missing,
            "nothing brings traffic here",
            "name [steering] interfaces and ports",
        )),
    }
    found.push(network::foreign_listeners(&doctor.leased, doctor.steering.listen_port));
    found.extend(silence.or_else(|| Some(gateway::ready(doctor.metrics?, service.as_ref()))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::cli::steering::ListenPort;
    use crate::egress::{Ledger, Pools};
    use crate::interface::Interface;
    use crate::steering::{InterceptedPorts, SteeredPool, SteeringParams, UdpTreatment, default_ephemeral};
    use crate::transport::Transport;
    use std::sync::Arc;

    #[test]
    fn failed_findings_name_cause_and_remedy() {
        let pool = SteeredPool {
            network: "192.0.2.1/32".parse().unwrap(),
            ports: PortRange::new(1024, 65535).unwrap(),
        };
        let doctor = Doctor {
            port: ListenPort::OfFiles,
            steering: SteeringParams {
                transport: Transport::Tcp,
                interfaces: vec![Interface::parse("no-such-if").unwrap()],
                sources: Vec::new(),
                ports: InterceptedPorts::All,
                udp: UdpTreatment::Reject,
                listen_port: 15001,
                mark: 0x4000,
                table: 4321,
                pools: vec![pool],
                resolvers: Vec::new(),
                ephemeral: default_ephemeral(),
            },
            metrics: "127.0.0.1:1".parse().ok(),
            socket: None,
            resolver: None,
            pools: Vec::new(),
            drain: std::time::Duration::ZERO,
            leased: Arc::new(Pools::new(&[], &[], &Arc::new(Ledger::new()))),
            wanted_flows: u32::MAX,
            wanted_descriptors: u64::MAX / 8,
            tenants: Vec::new(),
            broken: None,
        };
        let found = findings(&doctor, None);
        for finding in &found {
            let complete = !finding.why.is_empty()
                && finding.mend.as_ref().is_some_and(|mend| !mend.to_string().is_empty());
            assert!(finding.level == super::super::findings::FindingLevel::Ok || complete, "{finding:?}");
        }
        for failing in ["interface", "file descriptors", "IPv4 mark rule", "gateway"] {
            let it = found.iter().find(|finding| finding.check == failing);
            assert!(
                it.is_some_and(|finding| finding.level != super::super::findings::FindingLevel::Ok),
                "{failing}: {it:?}"
            );
        }
    }
}
