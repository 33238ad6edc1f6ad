//! The few requirements of a gateway; one that cannot work reports why once, and does not start.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules, unprivileged, without_ipv6};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_until};
use nix::sys::stat::Mode;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use tempfile::TempDir;

crate::trials! {
    both families: ;
    once:
        wrong_config_is_refused_with_position,
        all_config_errors_are_reported,
        missing_config_is_reported,
        host_without_ipv6_runs_on_ipv4,
        taken_port_is_reported,
        taken_metrics_port_is_tried_again,
        gateway_keeps_one_capability,
        missing_capability_is_reported,
        unopenable_log_stops_no_flow,
        too_few_descriptors_are_reported,
        bad_command_line_is_reported
}

/// Runs `egret run`, which must end by itself.
fn run(lab: &Lab, config: &str) -> (Output, Files) {
    let files = Files::with_text(config);
    (bounded(lab, &mut unprivileged(",+net_admin", &["run"], &files.config())), files)
}

/// Runs a command in the gateway's namespace; if it does not end, it is killed and fails the test by exit code 124.
fn bounded(lab: &Lab, command: &mut Command) -> Output {
    let mut timeout = Command::new("timeout");
    timeout.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args());
    lab.gateway.output(&mut timeout)
}

/// Asserts exit code 2, empty stdout, and a message that contains these words.
fn assert_refused(output: &Output, words: &[&str], what: &str) {
    assert_eq!(output.status.code(), Some(2), "{what}: {}\n{}", output.status, text(output));
    let message = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(message.contains(word), "{what}: the message does not say {word:?}:\n{message}");
    }
    assert!(!message.contains("panicked"), "{what}: {message}");
    assert!(output.stdout.is_empty(), "{what}: {}", text(output));
}

fn valid() -> String {
    Config::default().render("/dev/null".as_ref())
}

/// Returns the valid configuration with one text replaced, which must occur in it.
fn with(change: &str, into: &str) -> String {
    let valid = valid();
    assert!(valid.contains(change), "{change:?} is not in the config");
    valid.replacen(change, into, 1)
}

fn wrong_config_is_refused_with_position() {
    let lab = Lab::new();
    let table = [
        ("an unknown key", with("drain =", "drian = \"1s\"\ndrain ="), &["drian", "drain"][..]),
        ("an unknown table", with("[inspect]", "[inpsect]"), &["inpsect"]),
        ("not TOML", with("[steering]", "[steering"), &[]),
        ("a bad CIDR", with("10.0.1.0/24", "10.0.1.0/33"), &["10.0.1.0/33"]),
        (
            "a CIDR with host bits",
            with("203.0.113.32/30", "203.0.113.33/30"),
            &["203.0.113.33/30", "203.0.113.32/30"],
        ),
        ("overlapping tenants", with("10.0.2.0/24", "10.0.1.0/24"), &["10.0.1.0/24", "beta"]),
        ("overlapping pools", with("203.0.113.32/30", "203.0.113.16/30"), &["203.0.113.16/30", "alpha"]),
        ("an empty pool", with("[\"203.0.113.32/30\", \"2001:db8:200::/120\"]", "[]"), &["addresses"]),
        ("a pool that is not there", with("pool = \"beta\"", "pool = \"gamma\""), &["gamma"]),
        ("ports backwards", with("ports = \"1024-65535\"", "ports = \"65535-1024\""), &["65535-1024"]),
        ("a wildcard over a public suffix", with("*.wild.example.org", "*.co.uk"), &["*.co.uk"]),
        ("a wildcard in the middle", with("*.wild.example.org", "a.*.example.org"), &["a.*.example.org"]),
        ("a name that is an address", with("*.wild.example.org", "198.51.100.1"), &["198.51.100.1"]),
        ("an unknown unit", with("drain = \"1s\"", "drain = \"1 fortnight\""), &["fortnight"]),
        (
            "what a later version will do",
            with("pool = \"beta\"", "pool = \"beta\"\nlimits = { bytes = \"5TB/month\" }"),
            &["bytes", "not supported"],
        ),
    ];
    for (what, config, words) in table {
        let (output, files) = run(&lab, &config);
        assert_refused(&output, words, what);
        let message = text(&output);
        let place = format!("{}:", files.config().display());
        let rest = message.split_once(&place).map(|(_, rest)| rest.to_owned());
        let rest = rest.unwrap_or_else(|| panic!("{what}: no file:line:column in\n{message}"));
        let numbers: Vec<_> = rest.splitn(3, ':').take(2).map(|n| n.parse::<u32>().is_ok()).collect();
        assert_eq!(numbers, [true, true], "{what}: no line and column in\n{message}");

        let check = lab.gateway.output(&mut unprivileged("", &["check"], &files.config()));
        assert_eq!(check.status.code(), Some(1), "{what}: egret check: {}", text(&check));
        for word in words {
            assert!(
                text(&check).contains(word),
                "{what}: egret check does not say {word:?}: {}",
                text(&check)
            );
        }
    }
    let files = Files::with_text(&valid());
    let check = lab.gateway.output(&mut unprivileged("", &["check"], &files.config()));
    assert_eq!(check.status.code(), Some(0), "egret check: {}", text(&check));
}

fn all_config_errors_are_reported() {
    let lab = Lab::new();
    let config = with("drain =", "drian =").replacen("10.0.1.0/24", "10.0.1.0/33", 1).replacen(
        "pool = \"beta\"",
        "pool = \"gamma\"",
        1,
    );
    let (output, _files) = run(&lab, &config);
    assert_refused(&output, &["drian", "10.0.1.0/33", "gamma"], "three errors");
}

fn missing_config_is_reported() {
    let lab = Lab::new();
    let mut command = unprivileged(",+net_admin", &["run"], "/nonexistent/egret.toml".as_ref());
    assert_refused(&bounded(&lab, &mut command), &["/nonexistent/egret.toml"], "a missing file");
    let files = Files::with_text("");
    assert_refused(
        &bounded(&lab, &mut unprivileged(",+net_admin", &["run"], &files.config())),
        &["steering"],
        "an empty file",
    );
}

fn taken_port_is_reported() {
    let lab = Lab::new();
    let _listener = lab.gateway.run(|| Server::bind((Ipv6Addr::UNSPECIFIED, 15001).into()));
    assert_refused(&run(&lab, &valid()).0, &["15001"], "the listener's port is taken");
    // A second gateway would share the first one's connections by SO_REUSEPORT; it must not.
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let second = valid().replacen("9915", "9916", 1);
    assert_refused(&run(&lab, &second).0, &["15001"], "another gateway runs");
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    pass(&client, &server.accept(), b"the first goes on");
    drop(gateway);
}

fn taken_metrics_port_is_tried_again() {
    let lab = Lab::new();
    let taken = lab.gateway.run(|| Server::bind((Ipv4Addr::LOCALHOST, 9915).into()));
    let files = Files::with_text(&valid());
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start_unasked(&lab, files);
    let said = gateway.stderr();
    assert!(said.contains("cannot listen on 127.0.0.1:9915: the port is in use"), "{said}");
    Flow::open(&lab, Tenant::Alpha, &Server::raw(&lab, Family::V4, 7000)).assert_alive();
    drop(taken);
    wait_until("the gateway to answer", || gateway.get("/readyz").is_ok_and(|(status, _)| status == 200));
    gateway.expect_logged("the metrics listener 127.0.0.1:9915 is open now");
}

fn gateway_keeps_one_capability() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(gateway.status(set), "0000000000001000", "{set}: CAP_NET_ADMIN and nothing else");
    }
}

fn missing_capability_is_reported() {
    let lab = Lab::new();
    let files = Files::with_text(&valid());
    let output = bounded(&lab, &mut unprivileged("", &["run"], &files.config()));
    assert_refused(&output, &["CAP_NET_ADMIN"], "no capability");
}

fn unopenable_log_stops_no_flow() {
    let lab = Lab::new();
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let folder = TempDir::with_prefix("egret-logs-").unwrap();
    let at = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (name, words) in [
        ("fifo", "it is a FIFO that nobody reads"),
        ("folder", "it is a directory"),
        ("socket", "it is a socket"),
        ("missing/flows.jsonl", "create its directory"),
    ] {
        let path = at(name);
        let audit = path.with_file_name("audit.jsonl").display().to_string();
        let both = Config::default().render(&path).replace(&audit, &path.display().to_string());
        let files = Files::with_text(&both);
        lab.must_steer("up", &files.config(), Rules::Iptables);
        let gateway = Gateway::start(&lab, files);
        let said = gateway.stderr();
        for which in ["flow log", "audit log"] {
            let named = format!("cannot open the {which} {}", path.display());
            assert!(said.contains(&named) && said.contains(words), "{name}: {said}");
        }
        let pass = || pass(&lab.connect(Tenant::Alpha, server.address()), &server.accept(), b"on");
        pass();
        for counter in ["egret_flow_log_errors_total", "egret_audit_log_errors_total"] {
            gateway.wait_for_metric(counter, &[], |lost| lost >= 1);
        }
        let notes = || gateway.get("/readyz").unwrap().1;
        for which in ["flow log", "audit log"] {
            let told = notes();
            assert!(
                told.starts_with("ready\n") && told.contains(&format!("note: {which} lines are lost")),
                "{told}"
            );
        }
        if name.starts_with("missing") {
            fs::create_dir(at("missing")).unwrap();
            pass();
            wait_until("the flow to be logged", || {
                fs::read_to_string(&path).is_ok_and(|lines| lines.contains("\"closed\""))
            });
            wait_until("the note to go", || !notes().contains("flow log"));
        }
    }
}

fn too_few_descriptors_are_reported() {
    let lab = Lab::new();
    let files = Files::with_text(&valid());
    let gateway = unprivileged(",+net_admin", &["run"], &files.config());
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=24:24").arg(gateway.get_program()).args(gateway.get_args());
    let output = bounded(&lab, &mut limited);
    assert_refused(&output, &["file descriptors"], "24 descriptors");
}

fn bad_command_line_is_reported() {
    let lab = Lab::new();
    for arguments in [&["run", "--no-such-flag"][..], &["no-such-command"]] {
        let files = Files::with_text(&valid());
        let output = bounded(&lab, &mut unprivileged("", arguments, &files.config()));
        assert_refused(&output, &["Usage"], "a bad command line");
    }
}

fn host_without_ipv6_runs_on_ipv4() {
    let lab = Lab::new();
    let files = Files::new(&Config::default());
    let config = files.config();
    lab.must_steer("up", &config, Rules::Iptables);
    let gateway = Gateway::start_without_ipv6(&lab, files);
    let said = gateway.stderr();
    assert!(said.contains("no IPv6") && said.contains("0.0.0.0:15001"), "{said}");
    Flow::open(&lab, Tenant::Alpha, &Server::raw(&lab, Family::V4, 7000)).assert_alive();
    // Clients with both families must not have to wait before they use the other one.
    let refused = lab.try_connect(Tenant::Alpha, Host::Raw.at(Family::V6, 7000), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut doctor = without_ipv6(&unprivileged(",+net_admin", &["doctor"], &config));
    let doctor = lab.gateway.output(&mut doctor);
    let said = text(&doctor);
    assert!(doctor.status.success() && said.contains("IPv4 alone"), "{said}");
}
