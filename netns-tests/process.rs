//! Kernel information on a process.

use std::fs;

/// Returns the first word after `KEY:` in `/proc/PID/FILE`.
pub fn field(pid: u32, file: &str, key: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let line = text.lines().find(|line| line.starts_with(&format!("{key}:")));
    line.and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or_else(|| panic!("no {key} in {path}"))
        .to_owned()
}

/// Resident memory in KiB, summed over its pages: the value in `status` lags behind.
pub fn resident_kib(pid: u32) -> u64 {
    field(pid, "smaps_rollup", "Rss").parse().expect("a number of KiB")
}
