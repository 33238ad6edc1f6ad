//! What this shell, and the gateway if it runs, may do.

use super::read;
use crate::cli::findings::Finding;
use nix::sys::resource::{Resource, getrlimit};

/// Bit of `CAP_NET_ADMIN`, see capability.h.
const NET_ADMIN: u32 = 12;

/// A running `egret run`.
#[derive(Debug)]
pub(super) struct Service {
    pid: u32,
    status: String,
    limits: String,
}

/// Finds the gateway among the processes; `None` if it does not run or is hidden from us.
pub(super) fn service() -> Option<Service> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| read(&format!("/proc/{pid}/cmdline")).is_some_and(|line| is_gateway(&line))).find_map(
        |pid| {
            let status = read(&format!("/proc/{pid}/status"))?;
            Some(Service { pid, status, limits: read(&format!("/proc/{pid}/limits")).unwrap_or_default() })
        },
    )
}

/// Arguments are separated by NUL in /proc/PID/cmdline.
fn is_gateway(cmdline: &str) -> bool {
    let mut arguments = cmdline.split('\0');
    let program = arguments.next().unwrap_or_default();
    program.rsplit('/').next() == Some("egret") && arguments.any(|argument| argument == "run")
}

pub(super) fn capability(service: Option<&Service>) -> Vec<Finding> {
    let why = "intercepted connections and pool addresses need it";
    let own = read("/proc/self/status").unwrap_or_default();
    let mut found = vec![if has_net_admin(&own) {
        Finding::ok("CAP_NET_ADMIN here", "effective in this shell")
    } else {
        let mend = "sudo egret doctor, to see all there is to see";
        Finding::warn("CAP_NET_ADMIN here", "not in this shell; the service gets it from its unit", why, mend)
    }];
    if let Some(Service { pid, status, .. }) = service {
        let check = "CAP_NET_ADMIN there";
        found.push(if has_net_admin(status) {
            Finding::ok(check, format!("effective in process {pid}"))
        } else {
            let mend =
                "keep AmbientCapabilities=CAP_NET_ADMIN in egret.service, then: systemctl restart egret";
            Finding::fail(check, format!("process {pid} does not have it"), why, mend)
        });
    }
    found
}

fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << NET_ADMIN) != 0)
}

pub(super) fn descriptors(service: Option<&Service>, wanted_flows: u64) -> Finding {
    const CHECK: &str = "file descriptors";
    let wanted = descriptors_for(wanted_flows);
    let (limit, whose) = match service.and_then(|service| Some((open_files(&service.limits)?, service.pid))) {
        Some((limit, pid)) => (limit, format!("process {pid}")),
        None => (getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard), "this shell".to_owned()),
    };
    let found = format!("{limit} in {whose}, {wanted} wanted for {wanted_flows} flows");
    if limit >= wanted {
        return Finding::ok(CHECK, found);
    }
    let why = "connections beyond the limit are refused as gateway_full";
    let mend = format!(
        "set LimitNOFILE={wanted} in egret.service, then: systemctl daemon-reload; systemctl restart egret"
    );
    // The gateway goes on with what fits.
    Finding::warn(CHECK, found, why, mend)
}

/// Two sockets a flow, a pipe's two ends while one in two is busy, and some for the gateway itself.
pub(super) fn descriptors_for(flows: u64) -> u64 {
    flows.saturating_mul(3).saturating_add(256)
}

/// The soft limit in the format of /proc/PID/limits.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_told_from_other_processes() {
        assert!(is_gateway("/usr/bin/egret\0run\0--config\0/etc/egret/egret.toml\0"));
        assert!(is_gateway("egret\0--config\0x\0run"));
        assert!(!is_gateway("/usr/bin/egret\0doctor\0"));
        assert!(!is_gateway("/usr/bin/vim\0egret\0run\0"));
        assert!(!is_gateway(""));
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        assert!(has_net_admin("Name:\tegret\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n"));
        assert!(has_net_admin("CapEff:\t000001ffffffffff\n"));
        assert!(!has_net_admin("CapPrm:\t0000000000001000\nCapEff:\t0000000000000400\n"));
        assert!(!has_net_admin(""));
    }

    #[test]
    fn the_soft_limit_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files            unlimited  unlimited  files"), Some(u64::MAX));
        assert_eq!(open_files(""), None);
    }
}
