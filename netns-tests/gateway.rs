//! The gateway under test: the built binary, the real packet rules, and its logs and metrics.

mod metrics;
mod steer;

pub use steer::{Rules, check};

use crate::config::Config;
use crate::lab::Lab;
use crate::process;
use crate::wait::{wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

pub const EGRET: &str = env!("CARGO_BIN_EXE_egret");

/// Runs until dropped; prints the gateway's messages if the test failed.
pub struct Gateway<'lab> {
    lab: &'lab Lab,
    child: Child,
    files: Files,
}

/// Files of one run of the gateway.
pub struct Files {
    dir: TempDir,
}

impl Files {
    pub fn new(config: &Config) -> Self {
        let files = Self { dir: TempDir::with_prefix("egret-netns-").unwrap() };
        fs::write(files.config(), config.render(&files.flow_log())).unwrap();
        files
    }

    /// With a configuration other than [`Config`]'s.
    pub fn with_text(config: &str) -> Self {
        let files = Self { dir: TempDir::with_prefix("egret-netns-").unwrap() };
        fs::write(files.config(), config).unwrap();
        files
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("egret.toml")
    }

    pub fn flow_log(&self) -> PathBuf {
        self.dir.path().join("flows.jsonl")
    }

    /// The command of the service.
    pub fn run(&self) -> Command {
        unprivileged(",+net_admin", &["run"], &self.config())
    }

    fn stderr(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }
}

/// Runs `egret` with no capability but `CAP_NET_ADMIN`, the only one that it may need.
pub fn unprivileged(capabilities: &str, arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--bounding-set=-all{capabilities}"))
        .arg(format!("--inh-caps=-all{capabilities}"))
        .arg(format!("--ambient-caps=-all{capabilities}"))
        .args(["--no-new-privs", EGRET])
        .args(arguments)
        .arg("--config")
        .arg(config);
    command
}

impl Lab {
    /// Steers with iptables, and starts the gateway until it is ready.
    pub fn start_gateway(&self, config: &Config) -> Gateway<'_> {
        self.start_steered_gateway(config, Rules::Iptables)
    }

    pub fn start_steered_gateway(&self, config: &Config, rules: Rules) -> Gateway<'_> {
        let files = Files::new(config);
        self.must_steer("up", &files.config(), rules);
        Gateway::start(self, files)
    }
}

impl<'lab> Gateway<'lab> {
    /// Starts the gateway until it is ready; the caller steers.
    pub fn start(lab: &'lab Lab, files: Files) -> Self {
        let mut gateway = Self { lab, child: spawn(lab, &files), files };
        gateway.wait_until_ready();
        gateway
    }

    /// Starts the gateway until it says that it is ready.
    pub fn start_unasked(lab: &'lab Lab, files: Files) -> Self {
        let gateway = Self { lab, child: spawn(lab, &files), files };
        gateway.expect_logged("max_flows");
        gateway
    }

    /// Starts the gateway until it answers, ready or not.
    pub fn start_unready(lab: &'lab Lab, files: Files) -> Self {
        let gateway = Self { lab, child: spawn(lab, &files), files };
        wait_until("the gateway to answer", || gateway.get("/healthz").is_ok());
        gateway
    }

    /// Starts it without IPv6 sockets, as after a boot with `ipv6.disable=1`.
    pub fn start_without_ipv6(lab: &'lab Lab, files: Files) -> Self {
        let run = without_ipv6(&files.run());
        Self::start_as(lab, files, run)
    }

    /// Starts it by this command, made of [`Files::run`].
    pub fn start_as(lab: &'lab Lab, files: Files, run: Command) -> Self {
        let mut gateway = Self { lab, child: spawn_as(lab, &files, run), files };
        gateway.wait_until_ready();
        gateway
    }

    /// Starts it with this limit on open files.
    pub fn start_with_descriptors(lab: &'lab Lab, files: Files, most: u32) -> Self {
        let run = files.run();
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={most}:{most}")).arg(run.get_program()).args(run.get_args());
        Self::start_as(lab, files, limited)
    }

    /// Starts it again after its end, with the same files.
    pub fn start_again(&mut self) {
        self.child = spawn(self.lab, &self.files);
        self.wait_until_ready();
    }

    /// Starts it again until it answers, ready or not.
    pub fn start_again_unready(&mut self) {
        self.child = spawn(self.lab, &self.files);
        wait_until("the gateway to answer", || self.get("/healthz").is_ok());
    }

    /// Starts it again as [`start_again`](Self::start_again), while the nth thread of its main thread cannot be made.
    pub fn start_again_without_thread(&mut self, nth: usize) {
        let run = self.files.run();
        let mut traced = Command::new("strace");
        traced.args(["-D", "-qq", "-o", "/dev/null", "-e", "trace=clone3", "-e"]);
        traced
            .arg(format!("inject=clone3:error=EAGAIN:when={nth}"))
            .arg(run.get_program())
            .args(run.get_args());
        self.child = spawn_as(self.lab, &self.files, traced);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait_until("the gateway to be ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended before it was ready: {status}");
            }
            self.get("/readyz").is_ok_and(|(status, _)| status == 200)
        });
    }

    pub fn config(&self) -> PathBuf {
        self.files.config()
    }

    /// True if it has saved this text for a start with a broken configuration.
    pub fn keeps(&self, text: &str) -> bool {
        ["started.json", "in-force.json"].iter().any(|name| {
            let kept = fs::read(self.files.config().with_file_name(name)).unwrap_or_default();
            let kept: Value = serde_json::from_slice(&kept).unwrap_or_default();
            kept["files"].as_array().is_some_and(|files| files.iter().any(|file| file["text"] == text))
        })
    }

    /// Its stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.files.stderr()).unwrap()
    }

    /// Waits for these words in its messages: what it does can be seen a moment before it tells.
    pub fn expect_logged(&self, words: &str) {
        wait_for(&format!("{words:?} in the gateway's messages"), || {
            let told = self.stderr();
            if told.contains(words) { Ok(()) } else { Err(told) }
        });
    }

    /// Runs `egret` with the configuration, in the gateway's namespace.
    pub fn egret(&self, arguments: &[&str]) -> Output {
        self.lab.gateway.output(&mut unprivileged("", arguments, &self.files.config()))
    }

    pub fn flow_log(&self) -> PathBuf {
        self.files.flow_log()
    }

    /// A value of its `/proc/PID/status`, by key.
    pub fn status(&self, key: &str) -> String {
        process::field(self.child.id(), "status", key)
    }

    /// A file or folder of its `/proc/PID`.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Resident memory.
    pub fn resident_kib(&self) -> u64 {
        process::resident_kib(self.child.id())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Runs `work` while the process is stopped: connections and bytes of clients are there together when it continues,
    /// however slow this machine is.
    pub fn while_stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        self.signal(Signal::SIGSTOP);
        // Each thread stops by itself, the last a moment after the first.
        wait_until("every thread of the gateway to stop", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
            tasks
                .map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default())
                .all(|stat| stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T')))
        });
        let done = work();
        self.signal(Signal::SIGCONT);
        done
    }

    /// Runs `work` while the process is stopped and continued again and again, as a freezer, a debugger or a suspended
    /// machine do it: what the kernel interrupts then must not be lost.
    pub fn while_interrupted<T>(&self, work: impl FnOnce() -> T) -> T {
        let (running, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while ended.recv_timeout(Duration::from_micros(200)) == Err(RecvTimeoutError::Timeout) {
                    self.signal(Signal::SIGSTOP);
                    // A SIGCONT that comes at once would cancel the stop.
                    thread::sleep(Duration::from_micros(100));
                    self.signal(Signal::SIGCONT);
                }
            });
            let _running = running;
            work()
        })
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_for("the gateway to end", || self.child.try_wait().unwrap().ok_or("it still runs"))
    }

    /// Records of the flow log so far.
    pub fn flows(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.files.flow_log()).unwrap_or_default();
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// Lines of the audit log so far.
    pub fn changes(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.files.flow_log().with_file_name("audit.jsonl")).unwrap();
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the audit log has this many lines, and returns the last.
    pub fn change(&self, count: usize) -> Value {
        wait_for(&format!("{count} lines of the audit log"), || {
            let changes = self.changes();
            if changes.len() == count { Ok(changes[count - 1].clone()) } else { Err(format!("{changes:?}")) }
        })
    }

    /// Waits until the flow log has this many records; one more is a failure.
    pub fn wait_for_flows(&self, count: usize) -> Vec<Value> {
        let flows = wait_for(&format!("{count} flow records"), || {
            let flows = self.flows();
            if flows.len() >= count { Ok(flows) } else { Err(format!("there are {}", flows.len())) }
        });
        assert_eq!(flows.len(), count, "too many records: {:?}", flows.last());
        flows
    }

    /// Waits for the record of the flow from this client's socket.
    pub fn flow_from(&self, client: SocketAddr) -> Value {
        let client = client.to_string();
        wait_for(&format!("the flow record of {client}"), || {
            let flows = self.flows();
            let found = flows.iter().find(|flow| flow["client"] == client);
            found.cloned().ok_or_else(|| format!("not among the {} records", flows.len()))
        })
    }

    /// Waits for this client's record, which must have this outcome.
    pub fn expect_outcome(&self, client: SocketAddr, outcome: &str) -> Value {
        let flow = self.flow_from(client);
        assert_eq!(flow["outcome"], outcome, "{flow:#}");
        flow
    }

    /// Writes another configuration and triggers a reload. Returns at once.
    pub fn reload(&self, config: &str) {
        self.write(config);
        self.signal(Signal::SIGHUP);
    }

    /// Writes another configuration atomically, as editors do.
    pub fn write(&self, config: &str) {
        let new = self.files.config().with_extension("new");
        fs::write(&new, config).unwrap();
        fs::rename(new, self.files.config()).unwrap();
    }
}

/// Wraps the command so that it has this file as `/etc/resolv.conf`.
pub fn with_resolv_conf(command: &Command, file: &Path) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "sh", "-ec", r#"mount --bind "$0" /etc/resolv.conf; exec "$@""#]).arg(file);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// Wraps the command so that `socket(AF_INET6, …)` fails with `EAFNOSUPPORT`, by an inherited seccomp filter.
pub fn without_ipv6(command: &Command) -> Command {
    const REFUSE: &str = r"
import ctypes, os, platform, struct, sys
number = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, 10),
         (0x06, 0, 0, 0x50000 | 97), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('steps', ctypes.c_void_p)]
program = Program(len(steps), ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
os.execvp(sys.argv[1], sys.argv[1:])
";
    let mut wrapped = Command::new("python3");
    wrapped.args(["-c", REFUSE]).arg(command.get_program()).args(command.get_args());
    wrapped
}

fn spawn(lab: &Lab, files: &Files) -> Child {
    spawn_as(lab, files, files.run())
}

fn spawn_as(lab: &Lab, files: &Files, mut command: Command) -> Child {
    command.env("STATE_DIRECTORY", files.dir.path());
    command.stderr(OpenOptions::new().create(true).append(true).open(files.stderr()).unwrap());
    lab.gateway.spawn(&mut command)
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let failed = thread::panicking();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if failed {
            let stderr = fs::read_to_string(self.files.stderr()).unwrap_or_default();
            let log = fs::read_to_string(self.files.flow_log()).unwrap_or_default();
            let last = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
            eprintln!("--- the gateway's stderr\n{stderr}--- its last flows\n{last}\n---");
        }
    }
}
