//! `egret steering`: prints the steering script; says whether it is in place.

use super::findings::{Finding, report};
use super::output;
use crate::steering::{self, Difference, Format, Observed, Params, Plan, Ports};
use std::process::{Command, ExitCode};

/// `egret steering print`: the script that puts steering in place. Yields 2 if there is nothing to steer.
pub fn print(params: &Params, format: Format) -> ExitCode {
    if let Some(missing) = nothing_to_steer(params) {
        eprintln!("egret: {missing}, so there is nothing to steer");
        return ExitCode::from(2);
    }
    output::print(&plan(params, format).to_string(), 0)
}

/// `egret steering print --down`: the script that takes it away again, of either format. Needs no configuration.
pub fn print_down() -> ExitCode {
    output::print(&steering::down(), 0)
}

/// `egret steering status`: yields 0 if everything is in place, 1 if something is not, 2 if there is nothing to steer.
pub fn status(params: &Params, format: Option<Format>, json: bool) -> ExitCode {
    if let Some(missing) = nothing_to_steer(params) {
        eprintln!("egret: {missing}, so there is nothing to steer");
        return ExitCode::from(2);
    }
    report(&findings(params, format), json)
}

/// One finding for each part of the plan. Without a format, the one in use counts.
pub(super) fn findings(params: &Params, format: Option<Format>) -> Vec<Finding> {
    let observed = observe();
    let in_use = if observed.nftables.is_some() { Format::Nftables } else { Format::Iptables };
    let format = format.unwrap_or(in_use);
    let differences = steering::compare(&plan(params, format), &observed);
    differences.into_iter().map(finding).collect()
}

fn finding(difference: Difference) -> Finding {
    let why = match difference.what {
        "reserved ports" => "other programs may be given ports that the pools need",
        "IPv4 local routes" | "IPv6 local routes" => "packets for the gateway would not be received",
        _ => "traffic is refused instead of intercepted, or may pass by uninspected",
    };
    match difference.wrong {
        None => Finding::ok(difference.what, "in place"),
        Some(wrong) => Finding::fail(difference.what, wrong, why, steering::REMEDY),
    }
}

fn plan(params: &Params, format: Format) -> Plan {
    match format {
        Format::Iptables => steering::iptables(params),
        Format::Nftables => steering::nftables(params),
    }
}

pub(super) fn nothing_to_steer(params: &Params) -> Option<&'static str> {
    if params.interfaces.is_empty() {
        return Some("[steering] names no interfaces");
    }
    matches!(&params.ports, Ports::List(ranges) if ranges.is_empty()).then_some("[steering] names no ports")
}

/// Asks the kernel by the read-only commands.
fn observe() -> Observed {
    let ip = |family, what: &[&str]| printed_by("ip", &[&["-N", family], what].concat());
    let rules = |family| ip(family, &["rule", "show"]);
    let routes = |family| ip(family, &["route", "show", "table", "all", "type", "local"]);
    Observed {
        iptables: printed_by("iptables-save", &[]),
        ip6tables: printed_by("ip6tables-save", &[]),
        nftables: printed_by("nft", &["list", "table", "inet", "egret"]),
        rules: [rules("-4"), rules("-6")],
        routes: [routes("-4"), routes("-6")],
        reserved_ports: std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").ok(),
    }
}

/// What a command printed, if it succeeded. An unprivileged shell's PATH often has no sbin.
fn printed_by(program: &str, arguments: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new("env").arg(program).args(arguments).env("PATH", path).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
