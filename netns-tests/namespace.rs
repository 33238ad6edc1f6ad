//! A network namespace, and functions to run things in it.

use crate::wait::wait_until;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// An unnamed network namespace: it ends with this handle and the last socket and process in it.
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// Creates one with loopback up, and IPv6 addresses usable at once instead of after duplicate address detection.
    pub fn new() -> Self {
        let handle = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace");
            File::open("/proc/thread-self/ns/net").expect("open the new network namespace")
        })
        .join()
        .unwrap_or_else(|panic| resume_unwind(panic));
        let namespace = Self { handle };
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/dad_transmits"), "0");
        }
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a new thread inside; a panic there is propagated. Sockets created there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a program inside.
    pub fn spawn(&self, command: &mut Command) -> Child {
        self.run(|| command.spawn()).unwrap_or_else(|e| panic!("{}", cannot_start(command, &e)))
    }

    /// Runs a program inside to its end.
    pub fn output(&self, command: &mut Command) -> Output {
        command.stdin(Stdio::null());
        self.run(|| command.output()).unwrap_or_else(|e| panic!("{}", cannot_start(command, &e)))
    }

    /// Runs a program inside that must succeed, and returns its output.
    pub fn check(&self, command: &mut Command) -> String {
        let output = self.output(command);
        assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell line inside that must succeed, and returns its output.
    pub fn shell(&self, line: &str) -> String {
        self.check(Command::new("sh").args(["-ec", line]))
    }

    /// Runs `ip` commands, one per line.
    pub fn ip(&self, commands: &str) {
        self.feed(Command::new("ip").args(["-batch", "-"]), commands);
    }

    /// Runs a program inside with this input; it must succeed.
    pub fn feed(&self, command: &mut Command, input: &str) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command);
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?} < {input}\n{}\n{}", output.status, text(&output));
    }

    /// Sets `/proc/sys/KEY`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/{key}"), value))
            .unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
    }

    /// Enables or disables forwarding of both families.
    pub fn set_forwarding(&self, on: bool) {
        let value = if on { "1" } else { "0" };
        self.sysctl("net/ipv4/ip_forward", value);
        self.sysctl("net/ipv6/conf/all/forwarding", value);
    }

    /// Path of the namespace for `ip`.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }

    /// Connects it to `other` by a veth, whose two ends have this name.
    ///
    /// The kernel treats two ends with equal index as one device, and then needs a second until packets pass.
    pub fn join(&self, name: &str, other: &Self) {
        static NEXT_INDEX: AtomicU32 = AtomicU32::new(10);
        let (here, there) = (NEXT_INDEX.fetch_add(2, Ordering::Relaxed), other.path());
        let peer = here + 1;
        self.ip(&format!(
            "link add {name} index {here} type veth peer name {name} index {peer} netns {there}"
        ));
    }

    /// Waits until packets pass: a link that is set up still drops them for a moment.
    pub fn wait_for_links(&self) {
        wait_until("the links to carry packets", || {
            let links = self.check(Command::new("ip").args(["-br", "link", "show", "type", "veth"]));
            links.lines().all(|link| link.split_whitespace().nth(1) == Some("UP"))
        });
        wait_until("neighbours to find the addresses", || self.run(addresses_are_found));
    }
}

/// True if every IPv6 address in the calling thread's namespace answers neighbour solicitation. The kernel joins the
/// solicited-node group (RFC 4861 §7.2.1) some time after it adds the address (`addrconf_dad_work`, which waits for the
/// lock that all namespaces' links share); a neighbour that asks earlier waits a second before it asks again.
fn addresses_are_found() -> bool {
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let (addresses, groups) = (read("if_inet6"), read("igmp6"));
    // Each line starts with a hex address; link-local ones are skipped: they are tentative for a second or two.
    addresses.lines().filter(|line| !line.starts_with("fe80")).all(|line| {
        let group = format!("ff0200000000000000000001ff{}", &line[26..32]);
        line.ends_with(" lo") || groups.contains(&group)
    })
}

/// Output of a program, for a failure message.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    let program = command.get_program().to_string_lossy();
    let package = match &*program {
        "ip" => "iproute2",
        "nft" => "nftables",
        "nginx" => "nginx-light",
        "dnsmasq" => "dnsmasq-base",
        "knotd" => "knot",
        "ldns-keygen" | "ldns-signzone" => "ldnsutils",
        "gnutls-serv" => "gnutls-bin",
        "setpriv" | "prlimit" => "util-linux",
        other => other,
    };
    format!("cannot start {program}: {error}; if it is missing: apt-get install {package}")
}
