//! Privileges and limits of this shell, and of the gateway if it runs.

use super::inputs::Doctor;
use super::listeners::{ListeningSocket, listeners};
use super::proc::read;
use crate::cli::config_path::{DEFAULT_CONFIG, is_same_file};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::cli::tool::output;
use crate::sys::listening_program::sockets_of;
use crate::sys::privileges::Capability;
use crate::units::format_duration;
use jiff::SignedDuration;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running `egret run`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) pid: u32,
    status: String,
    limits: String,
}

impl Service {
    fn read(pid: u32) -> Option<Self> {
        let status = read(&format!("/proc/{pid}/status"))?;
        let limits = read(&format!("/proc/{pid}/limits")).unwrap_or_default();
        Some(Self { pid, status, limits })
    }

    /// A process of which nothing else is known.
    #[cfg(test)]
    pub(super) fn of(pid: u32) -> Self {
        Self { pid, status: String::new(), limits: String::new() }
    }

    /// True if its command names this configuration.
    pub(super) fn runs_by(&self, config: &Path) -> bool {
        let line = read(&format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let folder = PathBuf::from(format!("/proc/{}/cwd", self.pid));
        is_same_file(&folder.join(config_of(&line).unwrap_or(DEFAULT_CONFIG)), config)
    }

    /// User and group that its sockets belong to.
    pub(super) fn user(&self) -> Option<(u32, u32)> {
        let of = |key| {
            self.status
                .lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().nth(3)?.parse().ok())
        };
        Some((of("Uid:")?, of("Gid:")?))
    }

    /// False if all that listens on a port in this network namespace is another program's. Goes by the process's sockets, and where
    /// nobody may list these, by its user.
    pub(super) fn may_listen_on(&self, port: u16) -> bool {
        self.listeners().iter().any(|listener| listener.port == port)
    }

    /// The port that it takes connections on, if it is known and none of the files': one that it listens on at every address, as
    /// only the transparent listener always does.
    pub(super) fn other_listen_port(&self, of_files: u16, metrics: Option<u16>) -> Option<u16> {
        let own = self.listeners();
        if own.iter().any(|listener| listener.port == of_files) {
            return None;
        }
        let everywhere =
            own.iter().filter(|listener| listener.is_wildcard() && Some(listener.port) != metrics);
        let ports: BTreeSet<u16> = everywhere.map(|listener| listener.port).collect();
        ports.first().copied().filter(|_| ports.len() == 1)
    }

    /// Its listeners in this network namespace; where nobody may list its sockets, those of its user.
    pub(super) fn listeners(&self) -> Vec<ListeningSocket> {
        let user = self.user().map(|(user, _)| user);
        let own: Option<BTreeSet<u64>> = sockets_of(self.pid).map(Iterator::collect);
        let is_own = |listener: &ListeningSocket| match &own {
            Some(own) => own.contains(&listener.inode),
            None => user.is_none_or(|user| user == listener.user),
        };
        listeners().into_iter().filter(is_own).collect()
    }
}

/// Finds the gateway of this network namespace among the processes; `None` if it does not run or is hidden from us. One that is
/// known to be here comes before those whose namespace we may not read.
pub(super) fn service(listen_port: u16) -> Option<Service> {
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let gateways: Vec<_> =
        pids.filter(|pid| runs_gateway(*pid)).map(|pid| (pid, is_in_our_network(pid))).collect();
    let all = |here| gateways.iter().filter(move |(_, in_ours)| *in_ours == here).map(|(pid, _)| *pid);
    let known = all(Some(true)).find_map(Service::read);
    // The namespace of a gateway that has just ended cannot be read either.
    let is_here = |service: &Service| runs_gateway(service.pid) && listens_here(&service.status, listen_port);
    known.or_else(|| all(None).filter_map(Service::read).find(is_here))
}

/// True if a process runs the gateway. Of one that has ended no arguments are left.
fn runs_gateway(pid: u32) -> bool {
    read(&format!("/proc/{pid}/cmdline")).is_some_and(|line| is_gateway(&line))
}

/// True if a process shares our network namespace; `None` where we may not know.
fn is_in_our_network(pid: u32) -> Option<bool> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    Some(namespace(&pid.to_string())? == namespace("self")?)
}

/// True if the process's user has a listener on the port in our network namespace.
fn listens_here(status: &str, port: u16) -> bool {
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    let Some(user) = user.and_then(|user| user.parse::<u32>().ok()) else { return false };
    listeners().iter().any(|listener| (listener.port, listener.user) == (port, user))
}

/// Arguments are separated by NUL in /proc/PID/cmdline.
fn is_gateway(cmdline: &str) -> bool {
    let mut arguments = cmdline.split('\0');
    let program = arguments.next().unwrap_or_default();
    program.rsplit('/').next() == Some("egret") && arguments.any(|argument| argument == "run")
}

/// The value of `--config`.
fn config_of(cmdline: &str) -> Option<&str> {
    let mut arguments = cmdline.split('\0');
    arguments
        .find_map(|argument| match argument {
            "--config" | "-c" => Some(None),
            _ => argument.strip_prefix("--config=").map(Some),
        })?
        .or_else(|| arguments.next())
}

pub(super) fn capability(service: Option<&Service>) -> Vec<CheckFinding> {
    let why = "intercepted connections and pool addresses need it";
    let own = read("/proc/self/status").unwrap_or_default();
    let mut found = vec![if Capability::NetAdmin.is_effective(&own) {
        CheckFinding::ok("CAP_NET_ADMIN here", "effective in this shell")
    } else {
        let mend = Mend::run("sudo egret doctor").and("to see all there is to see");
        CheckFinding::warn(
            "CAP_NET_ADMIN here",
            "not in this shell; the service gets it from its unit",
            why,
            mend,
        )
    }];
    if let Some(Service { pid, status, .. }) = service {
        let check = "CAP_NET_ADMIN there";
        found.push(if Capability::NetAdmin.is_effective(status) {
            CheckFinding::ok(check, format!("effective in process {pid}"))
        } else {
            let mend =
                "keep AmbientCapabilities=CAP_NET_ADMIN in egret.service, then: systemctl restart egret";
            CheckFinding::fail(check, format!("process {pid} does not have it"), why, mend)
        });
    }
    found
}

pub(super) fn descriptors(service: Option<&Service>, doctor: &Doctor) -> CheckFinding {
    let running = service.and_then(|service| Some((open_files(&service.limits)?, service.pid)));
    let unit = unit_of(service).map(|unit| unit.open_files);
    enough_descriptors(running, unit, doctor.wanted_descriptors, doctor.wanted_flows)
}

/// `running`: the process's limit, and its number; `unit`: that of egret.service, if the process is or would be its.
fn enough_descriptors(
    running: Option<(u64, u32)>,
    unit: Option<u64>,
    wanted: u64,
    flows: u32,
) -> CheckFinding {
    const CHECK: &str = "file descriptors";
    let (limit, whose) = match (running, unit) {
        (Some((limit, pid)), _) => (limit, format!("process {pid}")),
        (None, Some(limit)) => (limit, "egret.service, which does not run".to_owned()),
        (None, None) => {
            (getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard), "this shell".to_owned())
        }
    };
    let found = format!("{limit} in {whose}, {wanted} wanted for {flows} flows");
    if limit >= wanted {
        return CheckFinding::ok(CHECK, found);
    }
    let why = "connections beyond the limit are refused as gateway_full";
    let mend = match unit {
        Some(unit) if unit >= wanted => Mend::run("systemctl restart egret").and("its unit allows enough"),
        Some(_) => format!(
            "systemctl edit egret: [Service] LimitNOFILE={}; systemctl restart egret",
            wanted.max(UNIT_OPEN_FILES)
        )
        .into(),
        None => format!("ulimit -n {} in the shell that starts egret", wanted.max(UNIT_OPEN_FILES)).into(),
    };
    // The gateway goes on with what fits.
    CheckFinding::warn(CHECK, found, why, mend)
}

/// Finds a unit by which systemd kills the gateway before its flows have had `[gateway] drain`.
pub(super) fn stop_timeout(service: Option<&Service>, doctor: &Doctor) -> Option<CheckFinding> {
    longer_than_drain(unit_of(service)?.stop?, doctor.drain)
}

fn longer_than_drain(stop: Duration, drain: Duration) -> Option<CheckFinding> {
    if stop > drain {
        return None;
    }
    let [shown, killed, wanted] = [drain, stop, drain + Duration::from_secs(60)].map(format_duration);
    Some(CheckFinding::warn(
        "stop timeout",
        format!("egret.service has TimeoutStopSec={killed}, and `[gateway] drain` is {shown}"),
        "a stop or restart kills the gateway before the drain period is over, with the last lines of its logs",
        format!("systemctl edit egret: [Service] TimeoutStopSec={wanted}"),
    ))
}

/// `LimitNOFILE=` of deploy/egret.service.
const UNIT_OPEN_FILES: u64 = 1_048_576;

/// egret.service, as systemd knows it.
#[derive(Debug, PartialEq, Eq)]
struct ServiceUnit {
    /// The limit that its process gets when it is started.
    open_files: u64,
    /// The time until a stop is enforced; `None` if it is not, or not known.
    stop: Option<Duration>,
    /// Its process; 0 if it does not run.
    process: u32,
}

/// egret.service, if the gateway is or would be its process. One that was started otherwise gets nothing by the unit.
fn unit_of(service: Option<&Service>) -> Option<ServiceUnit> {
    let shown =
        output("systemctl show egret.service -p LoadState -p LimitNOFILE -p TimeoutStopUSec -p MainPID");
    ServiceUnit::shown(&shown.ok()?).filter(|unit| service.is_none_or(|service| unit.process == service.pid))
}

/// Reads a time span as systemd prints it, such as `1min 30s`; `None` for `infinity`, and for days and more, which outlast any drain.
fn time_span(text: &str) -> Option<Duration> {
    let span = text.parse::<SignedDuration>().ok()?;
    Duration::try_from(span).ok().filter(|span| !span.is_zero())
}

impl ServiceUnit {
    fn shown(shown: &str) -> Option<Self> {
        let value = |key| shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let limit = value("LimitNOFILE").filter(|_| value("LoadState") == Some("loaded"))?;
        let open_files = if limit == "infinity" { u64::MAX } else { limit.parse().ok()? };
        let stop = value("TimeoutStopUSec").and_then(time_span);
        Some(Self { open_files, stop, process: value("MainPID")?.parse().ok()? })
    }
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
    use crate::app::descriptors_for;
    use std::net::TcpListener;

    #[test]
    fn gateway_process_is_recognised() {
        assert!(is_gateway("/usr/bin/egret\0run\0--config\0/etc/egret/egret.toml\0"));
        assert!(is_gateway("egret\0--config\0x\0run"));
        for (line, config) in [
            ("egret\0run\0--config\0x.toml\0--state\0y\0", Some("x.toml")),
            ("egret\0--config=x.toml\0run\0", Some("x.toml")),
            ("egret\0run\0-c\0x.toml\0", Some("x.toml")),
            ("egret\0run\0", None),
        ] {
            assert_eq!(config_of(line), config, "{line:?}");
        }
        assert!(!is_gateway("/usr/bin/egret\0doctor\0"));
        assert!(!is_gateway("/usr/bin/vim\0egret\0run\0"));
        assert!(!is_gateway(""));
    }

    #[test]
    fn soft_limit_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files            unlimited  unlimited  files"), Some(u64::MAX));
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn advice_about_descriptors_fits_the_unit() {
        let advice = |running, unit, flows| {
            let wanted = descriptors_for(flows, 2);
            enough_descriptors(running, unit, wanted, flows).mend.unwrap_or_default().to_string()
        };
        assert!(
            advice(Some((1024, 7)), Some(UNIT_OPEN_FILES), 10_000).starts_with("systemctl restart egret")
        );
        assert!(advice(Some((1024, 7)), Some(1024), 10_000).contains("LimitNOFILE=1048576"));
        assert!(
            advice(Some((1024, 7)), None, 1_000_000)
                .contains(&format!("ulimit -n {}", descriptors_for(1_000_000, 2)))
        );
        assert_eq!(advice(None, Some(UNIT_OPEN_FILES), 10_000), "");
        let shown = |shown: &str| ServiceUnit::shown(shown).map(|unit| (unit.open_files, unit.process));
        assert_eq!(shown("LimitNOFILE=524288\nMainPID=0\nLoadState=not-found\n"), None);
        assert_eq!(shown("LimitNOFILE=1048576\nMainPID=7\nLoadState=loaded\n"), Some((UNIT_OPEN_FILES, 7)));
        assert_eq!(shown("LimitNOFILE=infinity\nMainPID=0\nLoadState=loaded\n"), Some((u64::MAX, 0)));
    }

    #[test]
    fn unit_that_ends_a_drain_is_told() {
        let shown = "LimitNOFILE=8\nMainPID=0\nLoadState=loaded\nTimeoutStopUSec=";
        let stop = |span: &str| ServiceUnit::shown(&format!("{shown}{span}\n")).unwrap().stop;
        for (span, seconds) in
            [("1min 30s", Some(90)), ("1h", Some(3600)), ("infinity", None), ("1d 2h", None), ("", None)]
        {
            assert_eq!(stop(span), seconds.map(Duration::from_secs), "{span}");
        }
        let seconds = Duration::from_secs;
        assert!(longer_than_drain(seconds(90), seconds(30)).is_none());
        let found = longer_than_drain(seconds(90), seconds(300)).unwrap();
        assert!(
            found.found.contains("TimeoutStopSec=90s") && found.found.ends_with("`[gateway] drain` is 5m"),
            "{found:?}"
        );
        assert!(found.mend.unwrap().to_string().contains("TimeoutStopSec=6m"));
    }

    #[test]
    fn listener_of_another_program_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, others) = (Service::of(std::process::id()), Service::of(other.id()));
        assert!(own.may_listen_on(port) && !others.may_listen_on(port));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn listener_belongs_to_its_user() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = nix::unistd::geteuid().as_raw();
        let status = |user: u32| format!("Name:\tegret\nUid:\t0\t{user}\t0\t0\n");
        assert!(listens_here(&status(own), port));
        assert!(!listens_here(&status(own + 1), port) && !listens_here("Name:\tegret\n", port));
    }
}
