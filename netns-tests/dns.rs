//! A real DNS server: dnsmasq on an address of the server namespace.

use crate::lab::{Family, Host, Lab};
use crate::namespace::Namespace;
use crate::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;

/// Answers with its test's records of `example.org`, and that no other name exists. Stops when dropped.
pub struct Dns<'lab> {
    network: &'lab Namespace,
    child: Child,
    dir: TempDir,
    address: SocketAddr,
}

/// Names with their addresses; a name may occur several times.
pub type Records<'a> = &'a [(&'a str, IpAddr)];

impl<'lab> Dns<'lab> {
    /// Starts it on port 53 of a host, by IPv4.
    pub fn start(lab: &'lab Lab, host: Host, records: Records) -> Self {
        Self::start_with(lab, host, records, &[])
    }

    pub fn start_with(lab: &'lab Lab, host: Host, records: Records, options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("egret-dns-").unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, lines(records)).unwrap();
        let mut command = Command::new("dnsmasq");
        command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]);
        command.args(["--bind-interfaces", "--local=/org/", "--local-ttl=1"]);
        command.arg(format!("--log-facility={}", dir.path().join("log").display()));
        command.arg(format!("--listen-address={}", host.ip(Family::V4)));
        command.arg(format!("--addn-hosts={}", hosts.display())).args(options);
        let child = lab.server.spawn(&mut command);
        let mut dns = Self { network: &lab.server, child, dir, address: host.at(Family::V4, 53) };
        dns.wait_for_answers();
        dns
    }

    /// Replaces the records.
    pub fn say(&mut self, records: Records) {
        fs::write(self.dir.path().join("hosts"), lines(records)).unwrap();
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGHUP).unwrap();
        // It reads the file before it answers again.
        self.wait_for_answers();
    }

    /// Stops it as in a crash: its host refuses queries.
    pub fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn wait_for_answers(&mut self) {
        let address = self.address;
        wait_until("dnsmasq to answer", || {
            assert!(self.child.try_wait().unwrap().is_none(), "dnsmasq ended");
            self.network.run(|| answers(address))
        });
    }
}

fn lines(records: Records) -> String {
    let mut lines = String::new();
    for (name, address) in records {
        let _ = writeln!(lines, "{address} {name}");
    }
    lines
}

/// True if any answer arrives to a query for the addresses of `x`.
fn answers(server: SocketAddr) -> bool {
    const QUERY: &[u8] = &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.connect(server).unwrap();
    socket.send(QUERY).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}

impl Drop for Dns<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
