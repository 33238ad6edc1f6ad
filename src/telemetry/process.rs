//! Kernel figures on this process, read at each scrape. A value that cannot be read is left out.

use super::catalogue;
use super::exposition::Exposition;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn write(text: &mut Exposition, started: SystemTime) {
    text.single(&catalogue::PROCESS_CPU, cpu_seconds());
    text.single(&catalogue::PROCESS_MEMORY, resident_bytes());
    text.single(&catalogue::PROCESS_OPEN_FDS, open_fds());
    text.single(&catalogue::PROCESS_MAX_FDS, getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft));
    let since_1970 = started.duration_since(UNIX_EPOCH).ok();
    text.single(&catalogue::PROCESS_START_TIME, since_1970.map(|since| since.as_secs_f64()));
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 s; microseconds are below 10^6")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// `proc_pid_statm(5)`: the second field counts pages.
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// `proc_pid_fd(5)`: since Linux 6.2 the size of the directory is the count; before, it is 0 and they are counted.
fn open_fds() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    let counted = fs::metadata(DIRECTORY).ok()?.len();
    if counted > 0 {
        return Some(counted);
    }
    let entries = fs::read_dir(DIRECTORY).ok()?.count();
    u64::try_from(entries.saturating_sub(1)).ok() // one is the directory itself, open for the reading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opened_file_is_counted() {
        let before = open_fds().unwrap();
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // other tests of this binary open and close files meanwhile, hence the margin
        assert!(open_fds().unwrap() + 25 >= before + held.len() as u64);
    }

    #[test]
    fn memory_and_time_are_plausible() {
        let resident = resident_bytes().unwrap();
        assert!((100_000..100_000_000_000).contains(&resident), "{resident}");
        assert!((0.0..1e6).contains(&cpu_seconds().unwrap()));
    }
}
