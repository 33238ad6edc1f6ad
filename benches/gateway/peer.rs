//! The peers compared: plain routing, kernel NAT, a bare relay, haproxy, and Egret in any size.

use crate::bare::Setup;
use crate::net::{Net, POOL};
use crate::wire::{ALLOWED, client, source};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Source ports of every pool. Ports of listeners and [`KERNELS_PORTS`] are below.
const PORTS: (u16, u16) = (40_000, 65_535);

/// Ports that the kernel assigns to haproxy. It skips a port that is bound on any address, until the last TIME_WAIT
/// there has ended: among Egret's ports, haproxy would search long and sometimes find none.
pub const KERNELS_PORTS: &str = "20000 39999";

/// Maximum connections of a proxy, of two descriptors each.
const FLOWS: usize = 9200;

/// Names in every allowlist, by default.
pub const NAMES: usize = 10_000;

/// A gateway that runs as a process.
#[derive(Clone, Debug)]
pub enum Kind {
    Bare { threads: usize },
    Haproxy { threads: usize },
    Egret(Size),
}

/// Size of Egret's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub workers: usize,
    pub names: usize,
    pub tenants: u16,
    /// Source addresses per family.
    pub addresses: u16,
    pub ports: (u16, u16),
}

impl Default for Size {
    fn default() -> Self {
        Self { workers: 2, names: NAMES, tenants: 1, addresses: POOL, ports: PORTS }
    }
}

/// True if failed connections, at most one in a hundred, are only reported: haproxy has some now and then.
pub fn may_fail(name: &str) -> bool {
    name == "haproxy"
}

/// Client addresses that belong to tenants, if there are several tenants.
pub const TENANTS_CLIENTS: u16 = 1000;

/// One path for packets through the gateway. Its process is stopped except while [`Peer::measured`].
pub struct Peer {
    pub name: String,
    rules: String,
    process: Option<Process>,
    /// True if it checks names.
    pub judges: bool,
}

struct Process {
    child: Child,
    folder: PathBuf,
}

/// Starts peers, and numbers them: each has its own listener and source addresses.
pub struct Peers<'net> {
    net: &'net Net,
    egret: PathBuf,
    folder: PathBuf,
    next: u8,
}

impl<'net> Peers<'net> {
    pub fn new(net: &'net Net, egret: PathBuf, folder: PathBuf) -> Self {
        Self { net, egret, folder, next: 1 }
    }

    pub fn start(&mut self, name: &str, kind: &Kind) -> Result<Peer, String> {
        let number = self.next;
        self.next += 1;
        let folder = self.folder.join(number.to_string());
        fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let size = if let Kind::Egret(size) = kind { *size } else { Size::default() };
        let names = names(size.names);
        write(&folder.join("names"), &names.join("\n"))?;
        // also written for the others, whose packet rules come from Egret
        let config = folder.join("egret.toml");
        write(&config, &egret_toml(number, &size, &folder))?;
        let rules = self.steering(&config)?;
        let mut command = match kind {
            Kind::Bare { threads } => {
                let sources = |v6| (0..POOL).map(|n| source(number, n, v6)).collect();
                let setup = Setup {
                    port: listen_port(number),
                    threads: *threads,
                    sources_v4: sources(false),
                    sources_v6: sources(true),
                    source_ports: PORTS,
                };
                let setup = serde_json::to_string(&setup).expect("a setup as JSON");
                let mut command = Command::new(std::env::current_exe().expect("this program"));
                command.args(["relay", &setup]);
                command
            }
            Kind::Haproxy { threads } => {
                let path = folder.join("haproxy.cfg");
                write(&path, &haproxy_cfg(number, *threads, &folder))?;
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(path);
                command
            }
            Kind::Egret(_) => {
                let mut command = Command::new(&self.egret);
                command.arg("run").arg("--config").arg(&config);
                command
            }
        };
        let messages = folder.join("messages");
        let to = || File::options().create(true).append(true).open(&messages).map_err(|e| e.to_string());
        command.stdin(Stdio::null()).stdout(to()?).stderr(to()?);
        let child = self.net.gateway.spawn(&mut command);
        let mut process = Process { child, folder };
        process.wait_until_it_listens(self.net, number).map_err(|e| {
            format!("{name} {e}; it said:\n{}", fs::read_to_string(&messages).unwrap_or_default())
        })?;
        process.signal(Signal::SIGSTOP);
        let judges = !matches!(kind, Kind::Bare { .. });
        Ok(Peer { name: name.to_owned(), rules, process: Some(process), judges })
    }

    /// Packet rules from Egret's own steering.
    fn steering(&self, config: &Path) -> Result<String, String> {
        let mut command = Command::new(&self.egret);
        command.args(["steering", "print", "--format", "nftables", "--config"]).arg(config);
        let script = self.net.gateway.check(&mut command);
        let rules = script.split_once("<<'RULES'\n").and_then(|(_, rest)| rest.split_once("\nRULES\n"));
        rules.map(|(rules, _)| rules.to_owned()).ok_or_else(|| {
            "`egret steering print --format nftables` no longer has its rules between <<'RULES' and RULES"
                .into()
        })
    }
}

impl Peer {
    /// Creates a peer of the kernel alone, with these packet rules.
    pub fn kernel(name: &str, rules: String) -> Self {
        Self { name: name.to_owned(), rules, process: None, judges: false }
    }

    /// Routes clients' packets this way only, while `work` runs.
    pub fn measured<T>(&self, net: &Net, work: impl FnOnce() -> T) -> T {
        net.set_rules(&self.rules);
        self.signal(Signal::SIGCONT);
        let result = work();
        self.signal(Signal::SIGSTOP);
        result
    }

    /// Process ID; kernel routing and NAT have none.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a peer with a process").child.id()
    }

    /// Fails if its process has ended.
    pub fn still_runs(&mut self) -> Result<(), String> {
        let ended = match &mut self.process {
            Some(process) => !matches!(process.child.try_wait(), Ok(None)),
            None => false,
        };
        if ended { Err(self.complaint("ended")) } else { Ok(()) }
    }

    /// Describes a failure, with the process's own messages.
    pub fn complaint(&self, what: &str) -> String {
        let mut text = format!("{}: {what}", self.name);
        let Some(process) = &self.process else { return text };
        for (file, about) in [("messages", "it said"), ("flows.jsonl", "its last flows that were not closed")]
        {
            let lines = fs::read_to_string(process.folder.join(file)).unwrap_or_default();
            let lines: Vec<&str> = lines
                .lines()
                .rev()
                .filter(|line| !line.contains("\"outcome\":\"closed\""))
                .take(10)
                .collect();
            if !lines.is_empty() {
                let _ = write!(text, "\n{about}:\n{}", lines.join("\n"));
            }
        }
        text
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

impl Process {
    fn wait_until_it_listens(&mut self, net: &Net, number: u8) -> Result<(), String> {
        let address = (Ipv4Addr::LOCALHOST, listen_port(number));
        crate::wait::wait_within(std::time::Duration::from_secs(60), "a gateway to listen", || {
            match self.child.try_wait() {
                Ok(None) => net.gateway.run(|| TcpStream::connect(address)).map(|_| Ok(())),
                ended => Ok(Err(format!("ended before it listened: {ended:?}"))),
            }
        })
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn listen_port(number: u8) -> u16 {
    15_000 + u16::from(number)
}

fn names(count: usize) -> Vec<String> {
    let others = (1..count).map(|n| format!("host-{n}.service-{}.example.com", n % 97));
    std::iter::once(ALLOWED.to_owned()).chain(others).collect()
}

fn egret_toml(number: u8, size: &Size, folder: &Path) -> String {
    let folder = folder.display();
    let list = |addresses: Vec<String>| format!("[\"{}\"]", addresses.join("\", \""));
    let both = |address: &dyn Fn(bool) -> String| [address(false), address(true)];
    let pool = (0..size.addresses).flat_map(|n| both(&|v6| source(number, n, v6).to_string())).collect();
    let mut text = format!(
        "[gateway]\nlisten = \"[::]:{}\"\nworkers = {}\nmetrics = \"127.0.0.1:{}\"\nadmin = \"off\"\ndrain = \"0s\"\nmax_flows = {FLOWS}\n\
         [steering]\ninterfaces = [\"c0\"]\nports = \"all\"\n\
         [flow_log]\npath = \"{folder}/flows.jsonl\"\n\
         [[pool]]\nname = \"pool\"\naddresses = {}\nports = \"{}-{}\"\n",
        listen_port(number),
        size.workers,
        9_900 + u16::from(number),
        list(pool),
        size.ports.0,
        size.ports.1,
    );
    for tenant in 0..size.tenants {
        let sources = if size.tenants == 1 {
            vec!["10.1.0.0/16".to_owned(), "fd00:1::/64".to_owned()]
        } else {
            let theirs = (tenant..TENANTS_CLIENTS).step_by(size.tenants.into());
            theirs.flat_map(|n| both(&|v6| client(n, v6).to_string())).collect()
        };
        let _ = write!(
            text,
            "[[tenant]]\nname = \"tenant-{tenant}\"\nsources = {}\npool = \"pool\"\n\
             [[tenant.allow]]\nhosts_file = \"{folder}/names\"\n",
            list(sources),
        );
    }
    text
}

/// haproxy's fastest fair configuration: the same listener, names and source addresses, splicing always, large pipes,
/// no log.
fn haproxy_cfg(number: u8, threads: usize, folder: &Path) -> String {
    let port = listen_port(number);
    let names = folder.join("names").display().to_string();
    // the rest of 20,000 descriptors is for pipes
    let mut text = format!(
        "global\n nbthread {threads}\n maxconn {FLOWS}\n maxpipes 500\n tune.pipesize 1048576\n\
         defaults\n mode tcp\n option splice-request\n option splice-response\n\
         \x20timeout connect 10s\n timeout client 4h\n timeout server 4h\n"
    );
    for (label, bind, v6) in [("v4", "0.0.0.0", false), ("v6", "[::]", true)] {
        let only = if v6 { " v6only" } else { "" };
        let _ = write!(
            text,
            "frontend in-{label}\n bind {bind}:{port} transparent{only}\n\
             \x20tcp-request inspect-delay 5s\n\
             \x20tcp-request content accept if {{ req.ssl_sni,lower -m str -f {names} }}\n\
             \x20tcp-request content reject\n default_backend out-{label}\n\
             backend out-{label}\n balance roundrobin\n"
        );
        for n in 0..POOL {
            let address = source(number, n, v6);
            let address = if v6 { format!("[{address}]") } else { address.to_string() };
            let _ = writeln!(text, " server from-{n} * source {address}");
        }
    }
    text
}
