//! Ports that the kernel must not choose by itself.

use std::fs::File;
use std::io::{self, Read};

/// More than the longest list, of every other port.
const LARGEST: usize = 256 * 1024;

/// Reads `net.ipv4.ip_local_reserved_ports`. The kernel gives the first read alone an answer, as much of it as there is room for
/// (`proc_do_large_bitmap()`).
pub fn reserved_ports() -> io::Result<String> {
    let mut list = vec![0; LARGEST];
    let length = File::open("/proc/sys/net/ipv4/ip_local_reserved_ports")?.read(&mut list)?;
    list.truncate(length);
    String::from_utf8(list).map_err(io::Error::other)
}
