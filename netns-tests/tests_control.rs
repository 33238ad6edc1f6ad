//! `egret ports` and other commands on a running gateway.

use crate::clients::connect_from;
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::process;
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

crate::trials! {
    both families:
        ports_command_names_holders_per_destination,
        explain_command_matches_running_gateway,
        drained_address_keeps_only_old_flows;
    once:
        suspended_command_resumes_its_wait,
        control_socket_is_removed_at_exit,
        unopenable_control_socket_is_tried_again
}

/// A folder for the control socket.
struct Control {
    folder: TempDir,
}

impl Control {
    fn new() -> Self {
        Self { folder: TempDir::with_prefix("egret-netns-").unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Value of `[gateway] admin`.
    fn key(&self) -> String {
        format!("admin = \"unix:{}\"", self.socket().display())
    }

    fn ports(&self, arguments: &[&str]) -> Output {
        ports(arguments, &self.socket())
    }

    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.ports(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Row of a source address.
    fn source(&self, address: &str) -> Value {
        let report = self.report(&[]);
        let rows = report["sources"].as_array().unwrap();
        rows.iter().find(|row| row["source"] == address).unwrap_or_else(|| panic!("{report:#}")).clone()
    }
}

fn ports(arguments: &[&str], socket: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.arg("ports").args(arguments).arg("--socket").arg(socket).output().unwrap()
}

fn address(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn ports_command_names_holders_per_destination(family: Family) {
    let control = Control::new();
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config {
        gateway: control.key(),
        alpha_pool: "ports = \"40000-40015\"".into(),
        alpha_addresses: "[\"203.0.113.17\", \"2001:db8:100::1\"]".into(),
        ..Config::default()
    });
    let server = lab.listen(Host::Raw, family, 7000);
    let to = server.address().to_string();
    let flows: Vec<_> = (0..10)
        .map(|_| {
            let client = lab.connect(Tenant::Alpha, server.address());
            (client, server.accept())
        })
        .collect();
    let source = address(family, "203.0.113.17", "2001:db8:100::1");
    let row = control.source(source);
    assert_eq!(
        row,
        json!({"pool": "alpha", "source": source, "public": null, "state": "available",
               "capacity": 16, "live": 10, "held": 0, "busiest": 10})
    );
    let report = control.report(&["--tenant", "alpha", "--destination", &to]);
    let hot = &report["hot"][0];
    assert!(hot["source"] == source && hot["destination"] == *to, "{report:#}");
    assert!(hot["live"] == 10 && hot["held"] == 0 && hot["capacity"] == 16, "{report:#}");
    assert_eq!(hot["tenants"], json!([{"tenant": "alpha", "ports": 10}]));
    let client = Tenant::Alpha.client(family).to_string();
    assert_eq!(hot["clients"], json!([{"client": client, "tenant": "alpha", "ports": 10}]));
    // Within a second it is detected as hot without a query, and its trend is tracked.
    wait_for("the destination to be watched", || {
        let report = control.report(&[]);
        let found = report["hot"].as_array().unwrap().iter().any(|row| {
            row["destination"] == *to && row["live"] == 10 && row["growth_per_second"].is_number()
        });
        if found { Ok(()) } else { Err(report) }
    });
    assert_eq!(control.report(&["--tenant", "beta", "--destination", &to])["hot"], json!([]));

    let table = control.ports(&["--pool", "alpha", "--destination", &to]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("62.5 %") && table.contains(&format!("{client} (alpha) 10")), "{table}");

    for arguments in [["--pool", "nobody"], ["--tenant", "nobody"]] {
        let output = control.ports(&arguments);
        assert!(output.status.code() == Some(2) && text(&output).contains("is called \"nobody\""));
    }

    drop(flows);
    wait_for("the flows to be gone", || {
        let report = control.report(&["--pool", "alpha", "--destination", &to]);
        let left = ["source", "live", "held", "capacity"].map(|key| report["hot"][0][key].clone());
        if json!(left) == json!([source, 0, 0, 16]) { Ok(()) } else { Err(report) }
    });
}

fn explain_command_matches_running_gateway(family: Family) {
    let control = Control::new();
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config {
        gateway: control.key(),
        alpha_pool: "ports = \"40000-40001\"".into(),
        alpha_addresses: "[\"203.0.113.16/31\", \"2001:db8:100::/127\"]".into(),
        alpha_tenant: "limits = { flows = 3 }".into(),
        ..Config::default()
    });
    let server = lab.listen(Host::Raw, family, 7000);
    let client = Tenant::Alpha.client(family);
    let explain = || {
        let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
        egret.args(["explain", "--live", "--json", "--from", &client.to_string(), "--to"]);
        let output =
            egret.arg(server.address().to_string()).arg("--socket").arg(control.socket()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let open = || {
        let told = explain();
        assert_eq!((&told["allowed"], &told["rule"]), (&true.into(), &"alpha-raw".into()), "{told:#}");
        let client = lab.client.run(|| connect_from(client, server.address(), PATIENCE).unwrap());
        let upstream = server.accept();
        let source = upstream.peer_addr().unwrap().ip();
        assert_eq!(
            told["pool"]["source"],
            source.to_string(),
            "the flow leaves from the address that explain named"
        );
        (client, upstream, told)
    };
    let flows = [open(), open(), open()];
    for (at, (_, _, told)) in flows.iter().enumerate() {
        assert_eq!((&told["flows"], &told["max_flows"]), (&at.into(), &3.into()), "{told:#}");
        // two ports per address: the third flow leaves from the other
        let live = if at == 2 { 0 } else { at };
        assert_eq!(told["pool"]["in_use"], json!({"capacity": 2, "live": live, "held": 0}), "{told:#}");
    }
    let told = explain();
    assert_eq!(told["outcome"]["name"], "tenant_flow_limit", "{told:#}");
    assert_eq!((&told["allowed"], &told["flows"]), (&false.into(), &3.into()));
}

fn drained_address_keeps_only_old_flows(family: Family) {
    let control = Control::new();
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config {
        gateway: control.key(),
        alpha_addresses: "[\"203.0.113.16/31\", \"2001:db8:100::/127\"]".into(),
        ..Config::default()
    });
    let server = lab.listen(Host::Raw, family, 7000);
    let open = || {
        let client = lab
            .client
            .run(|| connect_from(Tenant::Alpha.client(family), server.address(), PATIENCE).unwrap());
        let upstream = server.accept();
        let source = upstream.peer_addr().unwrap().ip();
        (client, upstream, source)
    };
    let order = |order: &str, source: IpAddr| {
        let output = control.ports(&[order, &source.to_string()]);
        assert!(output.status.success(), "{}", text(&output));
        control.source(&source.to_string())["state"].as_str().unwrap().to_owned()
    };
    // Paired: a client keeps its address as long as possible.
    let (client, upstream, first) = open();
    assert_eq!(order("drain", first), "draining");
    let (_client, _upstream, second) = open();
    assert_ne!(first, second);
    pass(&client, &upstream, b"still here");
    assert_eq!(control.source(&first.to_string())["live"], 1);
    assert_eq!(order("undrain", first), "available");
    assert_eq!(open().2, first);

    let output = control.ports(&["drain", "192.0.2.1"]);
    assert!(output.status.code() == Some(2) && text(&output).contains("not listed by any pool"));
}

/// As by a debugger, a freezer or Ctrl-Z: Linux interrupts such a wait, and does not restart it.
fn suspended_command_resumes_its_wait() {
    let control = Control::new();
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: control.key(), ..Config::default() });
    let flow = Flow::open(&lab, Tenant::Alpha, &Server::raw(&lab, Family::V4, 7000));
    for (call, is_full) in [(libc::SYS_connect, true), (libc::SYS_recvfrom, false)] {
        let waiting = gateway.while_stopped(|| {
            let _queue = is_full.then(|| fill(&control.socket()));
            let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
            command.args(["ports", "--socket"]).arg(control.socket());
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_until("the command to wait", || is_in_call(child.id(), call));
            let pid = Pid::from_raw(child.id().try_into().unwrap());
            kill(pid, Signal::SIGSTOP).unwrap();
            wait_until("the command to stop", || process::field(child.id(), "status", "State") == "T");
            kill(pid, Signal::SIGCONT).unwrap();
            child
        });
        let output = waiting.wait_with_output().unwrap();
        assert!(output.status.success() && text(&output).contains("203.0.113."), "{}", text(&output));
        flow.assert_alive();
    }
}

/// True if a single-threaded process sleeps in this system call.
fn is_in_call(pid: u32, number: libc::c_long) -> bool {
    let path = format!("/proc/{pid}/syscall");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.split(' ').next() == Some(&number.to_string())
}

/// Fills the backlog with waiting connections.
fn fill(path: &Path) -> Vec<Socket> {
    let address = SockAddr::unix(path).unwrap();
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        match socket.connect(&address) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            connected => Some(connected.map(|()| socket).unwrap()),
        }
    };
    std::iter::from_fn(connect).collect()
}

fn control_socket_is_removed_at_exit() {
    let control = Control::new();
    let lab = Lab::new();
    // A stale socket, as after a crash.
    drop(std::os::unix::net::UnixListener::bind(control.socket()).unwrap());
    let mut gateway = lab.start_gateway(&Config { gateway: control.key(), ..Config::default() });
    assert!(control.ports(&[]).status.success());
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_for_end().success());
    assert!(!control.socket().exists());
    let output = control.ports(&[]);
    assert!(output.status.code() == Some(2) && text(&output).contains("there is no control socket"));
}

fn unopenable_control_socket_is_tried_again() {
    let control = Control::new();
    let lab = Lab::new();
    let folder = control.folder.path().join("missing");
    let socket = folder.join("admin.sock");
    let admin = format!("admin = \"unix:{}\"", socket.display());
    let gateway = lab.start_gateway(&Config { gateway: admin, ..Config::default() });
    let said = format!("cannot open the control socket {}", socket.display());
    gateway.expect_logged(&said);
    let ready = || gateway.get("/readyz").unwrap();
    assert!(ready().0 == 200 && ready().1.contains(&format!("note: {said}")), "{:?}", ready());
    fs::create_dir(&folder).unwrap();
    wait_until("the gateway to answer", || ports(&[], &socket).status.success());
    assert_eq!(ready(), (200, "ready\n".to_owned()));
}
