//! `egret steering`: prints the steering script; checks that it is in place.

use super::findings::{CheckFinding, report};
use super::mend::Mend;
use super::{journal, output, tool};
use crate::config::Severity;
use crate::steering::{
    self, Conflict, ConflictSeverity, FilterFormat, InterceptedPorts, Ipv6Routing, MachineNetwork,
    MachineOutput, PartDifference, PlanPart, RefusedInterfaces, Remedy, SteeringMonitor, SteeringOutput,
    SteeringParams, SteeringPlan,
};
use crate::sys::privileges::first_unprivileged_port;
use crate::sys::{reserved_ports, routing};
use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

/// `egret steering print`: prints the script that puts steering in place. Returns 2 if there is nothing to steer.
/// `waits`: the finding that the running gateway listens on another port.
pub(super) fn print(params: &SteeringParams, waits: Option<CheckFinding>, format: FilterFormat) -> ExitCode {
    if let Some(missing) = nothing_to_steer(params) {
        journal::error(&format!("egret: {missing}, so there is nothing to steer"));
        return ExitCode::from(2);
    }
    if let Some(refused) = refused_interfaces(params) {
        journal::error(&format!("egret: refused: {refused}"));
        return ExitCode::from(2);
    }
    if let Some(CheckFinding { found, .. }) = waits {
        let fix = Remedy::RestartBoth.as_str();
        journal::error(&format!(
            "egret: refused: {found}: these rules would cut off all traffic; fix: {fix}"
        ));
        return ExitCode::from(2);
    }
    // A pool that contains the next hop would cut the machine off. At boot neither routes nor neighbours are known yet.
    let conflicts = steering::conflicts(params, &machine(params));
    for Conflict { gravity, found, why, fix } in &conflicts {
        let level = match gravity {
            ConflictSeverity::Refused => "refused",
            ConflictSeverity::Broken | ConflictSeverity::Doubtful => "warning",
        };
        journal::error(&format!("egret: {level}: {found}; {why}; {fix}"));
    }
    if conflicts.iter().any(|conflict| conflict.gravity == ConflictSeverity::Refused) {
        return ExitCode::from(2);
    }
    output::print(&plan(params, format).to_string(), 0)
}

/// The script that `egret steering print` prints instead of one that it refuses, so that `egret steering print | sh` fails too.
const NO_SCRIPT: &str = "# `egret steering print` has no script to print; its messages say why.\n\
    echo 'egret: steering was not changed: `egret steering print` has no script to run' >&2\nexit 1\n";

/// Ends `egret steering print` with this exit code. What was refused is refused on a pipe, too.
pub(super) fn end_print(code: ExitCode) -> ExitCode {
    if code != ExitCode::SUCCESS && !io::stdout().is_terminal() {
        output::print(NO_SCRIPT, 2);
    }
    code
}

/// Findings of `egret check`, each with its remedy: conflicts between this machine and the configuration. Those that
/// `up` refuses are errors.
pub(super) fn conflicts(params: &SteeringParams) -> Vec<(Severity, String, String)> {
    let machine = machine(params);
    let refused = refused_interfaces(params);
    // Told once.
    let missing = if refused.is_none() { steering::missing_interfaces(params, &machine) } else { Vec::new() };
    let conflicts = missing.into_iter().chain(steering::conflicts(params, &machine));
    let refused = refused.map(|refused| {
        let found = format!("{}: `egret reload` refuses it", refused.found());
        (Severity::Error, found, refused.fix())
    });
    let found = conflicts.map(|Conflict { gravity, found, why, fix }| {
        let severity = match gravity {
            ConflictSeverity::Refused => Severity::Error,
            ConflictSeverity::Broken | ConflictSeverity::Doubtful => Severity::Warning,
        };
        (severity, format!("{found}: {why}"), fix)
    });
    refused.into_iter().chain(found).collect()
}

/// Interfaces that a reload refuses, because this machine is steered and has none of that name, or clients by others.
pub(super) fn refused_interfaces(params: &SteeringParams) -> Option<RefusedInterfaces> {
    steering::replace_interfaces(&steering::steered_interfaces(), &params.interfaces, &params.sources).err()
}

/// `egret steering print --down`: prints the script that removes steering of either format. Needs no configuration.
pub fn print_down() -> ExitCode {
    output::print(&steering::down(), 0)
}

/// `egret steering status`: returns 0 if everything is in place, 1 if something is not, 2 if there is nothing to steer.
/// `first`: findings about `params` themselves, as that they are the last good ones.
pub(super) fn status(
    params: &SteeringParams,
    listens: ListenPort,
    first: Vec<CheckFinding>,
    format: Option<FilterFormat>,
    json: bool,
) -> ExitCode {
    if let Some(missing) = nothing_to_steer(params) {
        journal::error(&format!("egret: {missing}, so there is nothing to steer"));
        return ExitCode::from(2);
    }
    let found: Vec<_> = first.into_iter().chain(findings(params, listens, format)).collect();
    report(&found, json)
}

/// The port of `SteeringParams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenPort {
    /// The files'.
    OfFiles,
    /// Another one, which the running gateway listens on.
    OfGateway,
}

/// Returns one finding for each part of the plan. Without a format, the one in use is compared.
pub(super) fn findings(
    params: &SteeringParams,
    listens: ListenPort,
    format: Option<FilterFormat>,
) -> Vec<CheckFinding> {
    let observed = observe(params.table);
    let in_use = if observed.nftables.is_some() { FilterFormat::Nftables } else { FilterFormat::Iptables };
    let format = format.unwrap_or(in_use);
    let mut differences = steering::compare(&plan(params, format), &observed);
    if listens == ListenPort::OfGateway {
        // What the files ask for would hand connections to their port.
        let renewed = differences.iter_mut().filter(|part| part.remedy == Remedy::Renew);
        renewed.for_each(|part| part.remedy = Remedy::RestartBoth);
    }
    let absent = steering::are_absent(&params.interfaces, &observed.interfaces);
    if absent && refused_interfaces(params).is_some() {
        // Rules made from these files would intercept nothing.
        let renewed = differences.iter_mut().filter(|part| part.remedy == Remedy::Renew);
        renewed.for_each(|part| part.remedy = Remedy::Interfaces);
    }
    let mut found = of_machine(params);
    found.extend(source_validation(params));
    let may_list = !observed.is_denied;
    let ipv6 = steering::ipv6_routing(&params.interfaces, &observed.interfaces);
    found.extend(differences.into_iter().map(|difference| {
        let part = difference.part;
        if part.needs_root() && !may_list { unknown(part) } else { with_ipv6(difference, ipv6) }
    }));
    found.extend(fallback().map(|why| {
        CheckFinding::fail(
            "steering's configuration",
            format!("the last good rules are in force, because the configuration was refused: {why}"),
            "the current configuration file is not in effect for steering",
            "fix it, then `systemctl restart egret-steering`",
        )
    }));
    let of_guard = format!("proto {}", steering::origin::GUARD);
    if observed.rules.iter().flatten().any(|rules| rules.contains(&of_guard)) {
        found.push(CheckFinding::fail(
            "guard at boot",
            "nothing is forwarded until steering has been put in place",
            "steering has not been started since the boot, or could not be",
            Mend::renew(),
        ));
    }
    if may_list {
        let part = PlanPart::PacketRules;
        let dormant = SteeringMonitor::new(params).dormant_tables().into_iter();
        found.extend(
            dormant.map(|what| CheckFinding::fail(part.as_str(), what, part.consequence(), Mend::renew())),
        );
        found.push(counts(&observed, format));
    }
    found
}

/// Warning of a part that an operator without root cannot see: unknown is not broken.
fn unknown(part: PlanPart) -> CheckFinding {
    CheckFinding::warn(
        part.as_str(),
        "not known: only root may list packet rules",
        "the gateway watches them itself: see /readyz and egret_steering_intact",
        Mend::run("sudo egret steering status"),
    )
}

/// Returns the reason why steering runs on its last good rules, if it does. Only root can read it.
pub(super) fn fallback() -> Option<String> {
    let said = std::fs::read_to_string("/run/egret-steering/fallback").ok()?;
    said.lines().next().map(str::to_owned)
}

/// Findings on missing interfaces and on conflicts of pool addresses.
fn of_machine(params: &SteeringParams) -> Vec<CheckFinding> {
    let machine = machine(params);
    let finding = |check, Conflict { gravity, found, why, fix }| {
        let level = match gravity {
            ConflictSeverity::Refused | ConflictSeverity::Broken => CheckFinding::fail,
            ConflictSeverity::Doubtful => CheckFinding::warn,
        };
        level(check, found, why, fix)
    };
    let missing = steering::missing_interfaces(params, &machine).into_iter();
    let mut found: Vec<_> = missing.map(|conflict| finding("interface", conflict)).collect();
    if found.is_empty() {
        found.push(CheckFinding::ok("interface", "every interface of [steering] exists"));
    }
    let conflicts = steering::conflicts(params, &machine).into_iter();
    found.extend(conflicts.map(|conflict| finding("conflict", conflict)));
    found
}

/// Findings on settings of the kernel that drop intercepted packets.
fn source_validation(params: &SteeringParams) -> Vec<CheckFinding> {
    const CHECK: &str = "rp_filter";
    let covered = |name: &String| params.interfaces.iter().any(|one| one.covers(name));
    let trapped = all_interfaces().filter(covered).filter(|name| steering::drops_marked(name));
    let found: Vec<_> = trapped
        .map(|name| {
            CheckFinding::fail(
                CHECK,
                format!("src_valid_mark=1 with rp_filter on {name}"),
                "the kernel drops every intercepted IPv4 packet, without a trace",
                Mend::run(format!(
                    "sysctl -w net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.{name}.src_valid_mark=0"
                )),
            )
        })
        .collect();
    if found.is_empty() { vec![CheckFinding::ok(CHECK, "does not drop intercepted packets")] } else { found }
}

/// The interfaces of this network namespace, whichever one /sys was mounted in, and `all` and `default`.
fn all_interfaces() -> impl Iterator<Item = String> {
    let there = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    there.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Counts of packets dropped and not intercepted since the rules were put in place.
fn counts(observed: &SteeringOutput, format: FilterFormat) -> CheckFinding {
    let listed = match format {
        FilterFormat::Iptables => [&observed.iptables, &observed.ip6tables]
            .map(|saved| saved.as_deref().unwrap_or_default())
            .concat(),
        FilterFormat::Nftables => observed.nftables.clone().unwrap_or_default(),
    };
    let counts = steering::counts(&listed);
    let shown: Vec<_> = counts.iter().map(|(kind, packets)| format!("{packets} {}", kind.fate())).collect();
    let shown = if shown.is_empty() {
        "no packets dropped, and none left unintercepted".to_owned()
    } else {
        shown.join("; ")
    };
    CheckFinding::ok("packets", shown)
}

/// Reads the machine's network with read-only commands.
fn machine(params: &SteeringParams) -> MachineNetwork {
    let ip = |arguments: &str| tool::output(&format!("ip -j {arguments}")).unwrap_or_default();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let told = MachineOutput {
        addresses: ip("-d addr show"),
        routes: ["-4", "-6"].map(|family| ip(&format!("{family} route show table all"))),
        neighbours: ip("neigh show"),
        resolv_conf: read("/etc/resolv.conf"),
        resolved_conf: read("/run/systemd/resolve/resolv.conf"),
        first_port: first_unprivileged_port(),
        bridges: ["iptables", "ip6tables"]
            .map(|tool| read(&format!("/proc/sys/net/bridge/bridge-nf-call-{tool}"))),
        strict_interfaces: all_interfaces().filter(|name| steering::is_strict(name)).collect(),
    };
    MachineNetwork::read(&told, params.resolvers.iter().copied())
}

/// Steering leaves out what IPv6 the machine does not have.
fn with_ipv6(difference: PartDifference, ipv6: Ipv6Routing) -> CheckFinding {
    let part = difference.part;
    match ipv6 {
        Ipv6Routing::Absent if part.is_of_ipv6() => {
            CheckFinding::ok(part.as_str(), "not needed: this machine has no IPv6")
        }
        Ipv6Routing::Unneeded if part.needs_loopback_ipv6() => {
            CheckFinding::ok(part.as_str(), "not needed: no steered interface has IPv6")
        }
        Ipv6Routing::OffOnLoopback if part.needs_loopback_ipv6() => CheckFinding::fail(
            part.as_str(),
            "IPv6 is off on the loopback interface",
            part.consequence(),
            Remedy::Loopback,
        ),
        Ipv6Routing::Possible | Ipv6Routing::OffOnLoopback | Ipv6Routing::Unneeded | Ipv6Routing::Absent => {
            finding(difference)
        }
    }
}

fn finding(PartDifference { part, wrong, note, remedy }: PartDifference) -> CheckFinding {
    match wrong {
        None => CheckFinding::ok(part.as_str(), note.unwrap_or_else(|| "in place".to_owned())),
        Some(wrong) => CheckFinding::fail(part.as_str(), wrong, part.consequence(), remedy),
    }
}

fn plan(params: &SteeringParams, format: FilterFormat) -> SteeringPlan {
    match format {
        FilterFormat::Iptables => steering::iptables(params),
        FilterFormat::Nftables => steering::nftables(params),
    }
}

pub(super) fn nothing_to_steer(params: &SteeringParams) -> Option<&'static str> {
    if params.interfaces.is_empty() {
        return Some("[steering] names no interfaces");
    }
    matches!(&params.ports, InterceptedPorts::List(ranges) if ranges.is_empty())
        .then_some("[steering] names no ports")
}

/// Reads rules and routes from the kernel with read-only commands.
fn observe(table: u32) -> SteeringOutput {
    let is_denied = Cell::new(false);
    let listed = |line: &str| {
        let denied =
            |why: &String| ["ermission denied", "not permitted"].iter().any(|word| why.contains(word));
        let told = tool::output(line);
        is_denied.set(is_denied.get() || told.as_ref().is_err_and(denied));
        told.ok()
    };
    let rules = |family| listed(&format!("ip -N {family} rule show"));
    let routes = |family| listed(&format!("ip -N {family} route show table all type local"));
    let steering_table = |family| listed(&format!("ip {family} route show table {table}"));
    let observed = SteeringOutput {
        is_denied: false,
        iptables: listed("iptables-save -c"),
        ip6tables: listed("ip6tables-save -c"),
        other_backend: other_backend(),
        nftables: listed("nft list table inet egret"),
        rules: [rules("-4"), rules("-6")],
        routes: [routes("-4"), routes("-6")],
        steering_tables: [steering_table("-4"), steering_table("-6")],
        interfaces: routing::interfaces().unwrap_or_default(),
        reserved_ports: reserved_ports::reserved_ports().ok(),
    };
    SteeringOutput { is_denied: is_denied.get(), ..observed }
}

/// Output of the iptables tools of the backends that `iptables` and `ip6tables` do not use. Each has its own.
fn other_backend() -> Vec<(&'static str, String)> {
    let tools = other_tools(|tool| tool::output(&format!("{tool} -V")).unwrap_or_default());
    tools.into_iter().filter_map(|name| Some((name, tool::output(name).ok()?))).collect()
}

fn other_tools(version: impl Fn(&str) -> String) -> [&'static str; 2] {
    let tools = [
        ("iptables", "iptables-legacy-save", "iptables-nft-save"),
        ("ip6tables", "ip6tables-legacy-save", "ip6tables-nft-save"),
    ];
    tools.map(|(tool, legacy, nft)| if version(tool).contains("nf_tables") { legacy } else { nft })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_iptables_tool_has_its_backend() {
        let (nft, legacy) = ("v1.8.9 (nf_tables)".to_owned(), "v1.8.9 (legacy)".to_owned());
        let of = |four: &str, six: &str| {
            other_tools(|tool| if tool == "iptables" { four.to_owned() } else { six.to_owned() })
        };
        assert_eq!(of(&nft, &nft), ["iptables-legacy-save", "ip6tables-legacy-save"]);
        assert_eq!(of(&legacy, &nft), ["iptables-nft-save", "ip6tables-legacy-save"]);
        assert_eq!(of(&nft, &legacy), ["iptables-legacy-save", "ip6tables-nft-save"]);
    }
}
