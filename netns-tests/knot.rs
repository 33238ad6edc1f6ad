//! A real name server with signed zones: ldns-signzone signs them, knotd serves them unchanged.

use crate::lab::{Family, Host, Lab};
use crate::wait::wait_until;
use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use tempfile::TempDir;

/// A zone's key-signing key and zone-signing key.
pub struct Keys {
    zone: &'static str,
    dir: TempDir,
    names: [String; 2],
}

impl Keys {
    pub fn new(lab: &Lab, zone: &'static str) -> Self {
        let dir = TempDir::with_prefix("egret-keys-").unwrap();
        let make = |kind: &[&str]| {
            let mut command = Command::new("ldns-keygen");
            command.current_dir(dir.path()).args(["-a", "ECDSAP256SHA256", "-r", "/dev/urandom"]);
            lab.server.check(command.args(kind).arg(zone)).trim().to_owned()
        };
        let names = [make(&["-k"]), make(&[])];
        Self { zone, dir, names }
    }

    fn read(&self, name: &str, kind: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("{name}.{kind}"))).unwrap()
    }

    /// The zone's DS record, for its parent.
    pub fn ds(&self) -> String {
        self.read(&self.names[0], "ds")
    }

    /// The DNSKEY records.
    pub fn records(&self) -> String {
        self.names.iter().map(|name| self.read(name, "key")).collect()
    }

    /// Signs the records, with the apex before them; one record a line. Signatures are valid from an hour ago, unless
    /// `dates` is given.
    pub fn sign(&self, lab: &Lab, records: &str, dates: Option<[&str; 2]>) -> String {
        let signed = self.dir.path().join("signed");
        let unsigned = self.dir.path().join("unsigned");
        fs::write(&unsigned, unsigned_zone(self.zone, records)).unwrap();
        let mut command = Command::new("ldns-signzone");
        command.current_dir(self.dir.path()).arg("-f").arg(&signed);
        if let Some([from, until]) = dates {
            command.args(["-i", from, "-e", until]);
        }
        lab.server.check(command.arg(unsigned).args(&self.names));
        fs::read_to_string(signed).unwrap()
    }
}

/// Like [`Keys::sign`], without signatures.
pub fn unsigned_zone(zone: &str, records: &str) -> String {
    format!("{zone} 60 IN SOA ns. h. 1 60 60 600 60\n{zone} 60 IN NS ns.\n{records}")
}

/// A running knotd; stops when dropped.
pub struct Knot {
    child: Child,
    dir: TempDir,
}

impl Knot {
    /// Starts it on port 53 of a host, by IPv4, with the zones by name.
    pub fn start(lab: &Lab, host: Host, zones: &[(&str, String)]) -> Self {
        let dir = TempDir::with_prefix("egret-knot-").unwrap();
        let path = dir.path().display();
        let mut config = format!(
            "server:\n    rundir: {path}\n    listen: {}@53\ndatabase:\n    storage: {path}/db\n\
             log:\n  - target: {path}/log\n    any: info\n\
             template:\n  - id: default\n    storage: {path}\n    zonefile-sync: -1\n    journal-content: none\nzone:\n",
            host.ip(Family::V4)
        );
        for (at, (zone, text)) in zones.iter().enumerate() {
            let _ = writeln!(config, "  - domain: {zone}\n    file: zone{at}");
            fs::write(dir.path().join(format!("zone{at}")), text).unwrap();
        }
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("knot.conf"), config).unwrap();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(dir.path().join("knot.conf"));
        let mut knot = Self { child: lab.server.spawn(&mut command), dir };
        let address: SocketAddr = host.at(Family::V4, 53);
        wait_until("knotd to listen", || {
            assert!(knot.child.try_wait().unwrap().is_none(), "knotd ended");
            // It has loaded its zones by then.
            lab.server.run(|| TcpStream::connect(address).is_ok())
        });
        knot
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- knotd\n{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
    }
}
