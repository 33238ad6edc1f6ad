//! Files of /proc and /sys.

/// The contents of a file of /proc or /sys, trimmed; `None` if it is not there or may not be read.
pub(super) fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A number in /proc/sys.
pub(super) fn number(name: &str) -> Option<u64> {
    read(&format!("/proc/sys/{name}"))?.parse().ok()
}
