//! Kernel statistics of the machine and of processes.

use egret::clock;
use std::fs;
use std::time::{Duration, Instant};

/// Busy time of all processors together.
pub struct Busy {
    at: Instant,
    processors: u32,
    /// Idle time, and time stolen by the hypervisor.
    off: Duration,
}

impl Busy {
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let all: Vec<u32> = stat
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))
            .expect("a line for all processors")
            .split_whitespace()
            .map(|ticks| ticks.parse().expect("ticks"))
            .collect();
        let processors = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        // user nice system idle iowait irq softirq steal
        let off = Duration::from_millis(10) * (all[3] + all[4] + all[7]);
        Self { at: clock::now(), processors: u32::try_from(processors).expect("few processors"), off }
    }

    /// Processor time spent between the two.
    pub fn until(&self, later: &Self) -> Duration {
        ((later.at - self.at) * self.processors).saturating_sub(later.off.saturating_sub(self.off))
    }
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Processor name, according to the kernel.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = field("model name").or_else(|| field("CPU part")).unwrap_or_default();
    let vendor = field("vendor_id").or_else(|| field("CPU implementer")).unwrap_or_default();
    format!("{vendor} {name}").trim().to_owned()
}
