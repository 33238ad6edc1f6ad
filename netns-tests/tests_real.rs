//! Real clients and servers: the metrics' share of good flows equals that of the clients.

use crate::config::Config;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab};
use crate::namespace::text;
use crate::nginx::Nginx;
use crate::prometheus::Prometheus;
use crate::wait::{wait_for, wait_until, wait_within};
use jiff::Timestamp;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

crate::trials! {
    both families:
        completed_real_requests_are_closed,
        failed_real_requests_are_resets;
    once:
}

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-tests/programs");

/// Requests of each client to each server, over HTTP and over HTTPS, in each of its ways.
const REQUESTS: usize = 3;

/// nginx, http.server, cheroot and Apache, over HTTP and HTTPS.
const PORTS: [(u16, u16); 4] = [(80, 443), (8001, 8401), (8002, 8402), (8004, 8404)];

/// A process that is stopped when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World<'lab> {
    lab: &'lab Lab,
    name: &'static str,
    hosts: PathBuf,
    certificate: PathBuf,
    _servers: [Running; 2],
    _nginx: Nginx,
}

impl<'lab> World<'lab> {
    fn new(lab: &'lab Lab, family: Family) -> Self {
        let nginx = Nginx::start(lab);
        let certificate = nginx.certificate();
        let folder = certificate.parent().unwrap();
        let name = match family {
            Family::V4 => "v4.wild.example.org",
            Family::V6 => "v6.wild.example.org",
        };
        let hosts = folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{} {name}\n", Host::Web.ip(family))).unwrap();
        fs::create_dir(folder.join("www")).unwrap();
        fs::write(folder.join("www/small"), "an answer\n").unwrap();
        fs::write(folder.join("www/large"), vec![b'x'; 100_000]).unwrap();
        let servers = [apache(lab, folder), python(lab, folder)];
        Self { lab, name, hosts, certificate, _servers: servers, _nginx: nginx }
    }

    fn urls(&self, path: &str) -> Vec<String> {
        let all = PORTS.iter().flat_map(|(plain, tls)| [("http", plain), ("https", tls)]);
        all.map(|(scheme, port)| format!("{scheme}://{}:{port}/{path}", self.name)).collect()
    }

    /// A program in the client's namespace that resolves the servers' name.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(&self.hosts).arg(program);
        command.env("HOME", "/nonexistent").env("GIT_SSL_CAINFO", &self.certificate).env("no_proxy", "*");
        command
    }

    /// Runs a program of ours, which prints how many requests were answered and failed.
    fn ask(&self, program: &[&str], urls: &[String]) -> Told {
        let mut command = self.command(program[0]);
        command.args(&program[1..]).arg(REQUESTS.to_string()).arg(&self.certificate).args(urls);
        let output = self.lab.client.output(&mut command);
        let said = String::from_utf8_lossy(&output.stdout);
        let counts: Vec<usize> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [answered, failed] = counts[..] else { panic!("{program:?}: {}", text(&output)) };
        Told { answered, failed, why: text(&output) }
    }

    /// Runs a program once per request; a failure is its exit code.
    fn run(&self, requests: usize, program: &[&str], url: &str, then: &[&str]) -> Told {
        let mut told = Told::default();
        for _ in 0..requests {
            let output =
                self.lab.client.output(self.command(program[0]).args(&program[1..]).arg(url).args(then));
            told = told.and(if output.status.success() {
                Told { answered: 1, ..Told::default() }
            } else {
                Told { failed: 1, why: text(&output), ..Told::default() }
            });
        }
        told
    }

    /// Runs curl with several requests on one connection, or with `Connection: close` on one each.
    fn curl(&self, url: &str, more: &[&str]) -> Told {
        let ca = self.certificate.to_str().unwrap();
        let range = format!("{url}?[1-{REQUESTS}]");
        let arguments = ["curl", "-sS", "--cacert", ca, "--write-out", "%{stderr}code=%{exitcode} "];
        let output = self.lab.client.output(
            self.command(arguments[0]).args(&arguments[1..]).args(more).arg(&range).stdout(Stdio::null()),
        );
        let said = text(&output);
        let answered = said.matches("code=0 ").count();
        Told { answered, failed: REQUESTS - answered, why: said }
    }
}

/// A client's count of its requests.
#[derive(Default)]
struct Told {
    answered: usize,
    failed: usize,
    why: String,
}

impl Told {
    fn and(self, other: Self) -> Self {
        let (answered, failed) = (self.answered + other.answered, self.failed + other.failed);
        Self { answered, failed, why: self.why + &other.why }
    }
}

fn apache(lab: &Lab, folder: &Path) -> Running {
    // In a user namespace of its own it is not root, which it would refuse to stay. It is one process, so that ending it ends
    // all of it.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "apache2", "-X", "-f"]);
    command.arg(format!("{PROGRAMS}/apache.conf")).env("DIR", folder);
    let apache = Running(lab.server.spawn(&mut command));
    wait_for("Apache to listen", || {
        let connects = lab.server.run(|| TcpStream::connect((Ipv6Addr::LOCALHOST, 8404)).is_ok());
        if connects { Ok(()) } else { Err(fs::read_to_string(folder.join("apache.log")).unwrap_or_default()) }
    });
    apache
}

fn python(lab: &Lab, folder: &Path) -> Running {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{PROGRAMS}/servers.py")).arg(folder.join("cert.pem")).arg(folder.join("key.pem"));
    let mut python = Running(lab.server.spawn(command.stdout(Stdio::piped())));
    let mut ready = String::new();
    BufReader::new(python.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n", "python3-cheroot is missing, or it cannot listen");
    python
}

/// Permits every name and port of the servers; outcomes are recorded as soon as flows end.
fn config() -> Config {
    let rule = "[[tenant.allow]]\nname = \"real\"\nhosts = [\"*.wild.example.org\"]\nports = [80, 443, \"8000-8999\"]\n";
    Config { alpha_rules: rule.into(), ..Config::default() }
}

/// The documented query for the share of successful flows.
fn success_query() -> String {
    let page = include_str!("../docs/outcomes.md");
    let (_, query) = page.split_once("```promql\n").unwrap();
    query.split_once("\n```").unwrap().0.replace('\n', " ")
}

/// Prometheus's share of successful flows, once it has scraped all of them, equals the clients' own within 0.1 %.
fn expect_share(gateway: &Gateway, prometheus: &Prometheus<'_>, clients: &[&Told]) {
    ended(gateway);
    let all = gateway.metric("egret_flows_total", &[]);
    wait_for("Prometheus to have seen every flow", || {
        let seen = prometheus.value("sum(egret_flows_total)")?;
        let recorded = prometheus.value("sum(egret_flows_total offset 2s)")?;
        if seen.to_string() == all.to_string() && seen.to_bits() == recorded.to_bits() {
            Ok(())
        } else {
            Err(format!("{seen} and {recorded} of {all}"))
        }
    });
    let sum = |of: fn(&Told) -> usize| {
        f64::from(u32::try_from(clients.iter().map(|told| of(told)).sum::<usize>()).unwrap())
    };
    let (answered, failed) = (sum(|told| told.answered), sum(|told| told.failed));
    let share = answered / (answered + failed);
    for query in [&success_query(), "tenant:egret_flows_closed:ratio_rate5m{tenant=\"alpha\"}"] {
        let computed = prometheus.value(query).unwrap();
        assert!((computed - share).abs() <= 0.001, "{query}: {computed}, and clients say {share}");
    }
}

/// A Prometheus that has seen the tenant's counters at 0: they begin with its first flow, which is denied.
fn prometheus<'lab>(world: &World<'lab>, gateway: &Gateway) -> Prometheus<'lab> {
    let url = format!("http://{}:8001/", world.name);
    let told = world.run(1, &["curl", "-sS", "-H", "Host: not-allowed.example.org"], &url, &[]);
    assert_eq!((told.answered, ended(gateway)), (1, (0, 0)), "{}", told.why);
    Prometheus::start(world.lab)
}

/// Numbers of permitted and of successful flows, once all have ended.
fn ended(gateway: &Gateway) -> (usize, usize) {
    let count =
        |labels: &[(&str, &str)]| usize::try_from(gateway.metric("egret_flows_total", labels)).unwrap();
    wait_until("the last flow to end", || gateway.metric("egret_flows_active", &[]) == 0);
    let denied = usize::try_from(gateway.metric("egret_denials_total", &[])).unwrap();
    (count(&[]) - denied, count(&[("outcome", "closed")]))
}

fn completed_real_requests_are_closed(family: Family) {
    let lab = Lab::new();
    let world = World::new(&lab, family);
    let gateway = lab.start_gateway(&config());
    let urls = [world.urls("small"), world.urls("large")].concat();
    let ca = world.certificate.to_str().unwrap();
    let [python, node, java] =
        ["clients.py", "client.js", "Client.java"].map(|file| format!("{PROGRAMS}/{file}"));
    let mut programs = vec![vec!["node", &node]];
    for kind in ["urllib", "http.client", "requests", "aiohttp"] {
        programs.push(vec!["/usr/bin/python3", &python, kind]);
    }
    // A runtime alone cannot compile.
    if Command::new("javac").arg("-version").output().is_ok() {
        programs.push(vec!["java", &java]);
    }
    let prometheus = prometheus(&world, &gateway);
    // One after the other: the time at which each has ended tells whose a flow was.
    let mut clients: Vec<(String, Told, Timestamp)> = Vec::new();
    let mut seen = |client: &str, told: Told| clients.push((client.into(), told, Timestamp::now()));
    for program in &programs {
        seen(&program.join(" "), world.ask(program, &urls));
    }
    // What curl offers by ALPN with HTTP/1.0, cheroot refuses without a gateway, too.
    for more in [&[][..], &["-H", "Connection: close"], &["--http1.0", "--no-alpn"]] {
        for url in &urls {
            seen(&format!("curl {more:?} {url}"), world.curl(url, more));
        }
    }
    let wget_ca = format!("--ca-certificate={ca}");
    let apt_ca = format!("Acquire::https::CaInfo={ca}");
    let target = world.hosts.with_file_name("downloaded");
    for url in world.urls("large") {
        let wget = ["wget", "-q", "-O", "/dev/null", "--tries=1", &wget_ca];
        seen(&format!("wget {url}"), world.run(3, &wget, &url, &[]));
        // Root is the only user of the namespace, and no DNS server is there to be asked for SRV records.
        let mut apt = vec!["/usr/lib/apt/apt-helper"];
        let no_srv = "Acquire::EnableSrvRecords=false";
        for option in [&apt_ca, "Acquire::Retries=0", "APT::Sandbox::User=root", no_srv] {
            apt.extend(["-o", option]);
        }
        apt.push("download-file");
        seen(&format!("apt {url}"), world.run(3, &apt, &url, &[target.to_str().unwrap()]));
    }
    for (scheme, port) in [("http", 80), ("https", 443)] {
        let url = format!("{scheme}://{}:{port}/", world.name);
        seen(
            &format!("git {url}"),
            world.run(10, &["git", "ls-remote"], &format!("{url}repository.git"), &[]),
        );
    }
    let go = ["promtool", "query", "instant", &format!("http://{}", world.name)];
    seen("promtool", world.run(10, &go, "up", &[]));
    let (all, closed) = ended(&gateway);
    let mut report = String::new();
    for (client, Told { answered, failed, why }, _) in clients.iter().filter(|(_, told, _)| told.failed > 0) {
        let _ = writeln!(report, "{client}: {answered} answered, {failed} failed: {why:.300}");
    }
    for flow in gateway.wait_for_flows(1 + all).iter().skip(1).filter(|flow| flow["outcome"] != "closed") {
        let began: Timestamp = flow["time"].as_str().unwrap().parse().unwrap();
        let client = clients.iter().find(|(.., ended)| began <= *ended).map(|(client, ..)| client);
        let _ = writeln!(report, "{client:?}: {flow}");
    }
    let told: Vec<_> = clients.iter().map(|(_, told, _)| told).collect();
    let failed: usize = told.iter().map(|told| told.failed).sum();
    assert_eq!(failed, 0, "{report}");
    assert!((all - closed) * 1000 <= all, "{closed} of {all} flows are closed\n{report}");
    let answered: usize = told.iter().map(|told| told.answered).sum();
    assert!(answered > 800 && all > 600, "{answered} requests in {all} flows");
    expect_share(&gateway, &prometheus, &told);
}

fn failed_real_requests_are_resets(family: Family) {
    const EACH: usize = 10;
    let lab = Lab::new();
    let world = World::new(&lab, family);
    let gateway = lab.start_gateway(&config());
    let ca = world.certificate.to_str().unwrap();
    let curl = ["curl", "-sS", "--cacert", ca, "-o", "/dev/null"];
    let base = |scheme: &str, port: u16| format!("{scheme}://{}:{port}", world.name);
    let prometheus = prometheus(&world, &gateway);
    let well = world.run(4 * EACH, &curl, &format!("{}/small", base("http", 8001)), &[]);
    assert_eq!(well.failed, 0, "{}", well.why);
    let mut clients = vec![well];
    let mut are = |outcome: &str, what: &str, told: Told| {
        assert_eq!((told.answered, told.failed), (0, EACH), "{what}: {}", told.why);
        let before: usize = clients.iter().map(|told| told.answered + told.failed).sum();
        let (all, closed) = ended(&gateway);
        // The first is the one that was denied.
        let flows = &gateway.wait_for_flows(1 + all)[1 + before..];
        assert_eq!((all, closed), (before + EACH, 4 * EACH), "{what}: {flows:#?}");
        for flow in flows {
            assert_eq!(flow["outcome"], outcome, "{what}: {flow:#}");
        }
        clients.push(told);
    };
    // The server's process is killed during its response; in TLS that shows only if it leaves something unread.
    for path in ["length", "chunked"] {
        let told = world.run(EACH, &curl, &format!("{}/{path}", base("http", 8003)), &[]);
        are("upstream_reset", path, told);
    }
    let upload = world.hosts.with_file_name("upload");
    fs::write(&upload, vec![b'x'; 8 << 20]).unwrap();
    let upload = format!("@{}", upload.display());
    for (scheme, port) in [("http", 8003), ("https", 8403)] {
        let post = ["-X", "POST", "-H", "Expect:", "--data-binary", &upload];
        let told = world.run(EACH, &curl, &base(scheme, port), &post);
        are("upstream_reset", "an upload", told);
    }
    // The client's timeout expires.
    let slow = format!("{}/slow", base("http", 8003));
    let told = thread::scope(|scope| {
        let impatient = || world.run(1, &curl, &slow, &["--max-time", "1"]);
        let running: Vec<_> = (0..EACH).map(|_| scope.spawn(impatient)).collect();
        running.into_iter().map(|client| client.join().unwrap()).fold(Told::default(), Told::and)
    });
    are("client_reset", "a time-out", told);
    // The client's process is killed in its download.
    for (scheme, port) in [("http", 8001), ("https", 8401)] {
        for _ in 0..EACH {
            let before = gateway.metric("egret_flow_bytes_total", &[("direction", "down")]);
            let url = format!("{}/huge", base(scheme, port));
            let slowly = ["--limit-rate", "100k"];
            let mut client = lab.client.spawn(world.command(curl[0]).args(&curl[1..]).args(slowly).arg(url));
            wait_within(Duration::from_secs(30), "the download to begin", || {
                let now = gateway.metric("egret_flow_bytes_total", &[("direction", "down")]);
                if now > before + 100_000 { Ok(()) } else { Err(now) }
            });
            client.kill().unwrap();
            assert_eq!(client.wait().unwrap().signal(), Some(9));
        }
        are("client_reset", scheme, Told { failed: EACH, ..Told::default() });
    }
    expect_share(&gateway, &prometheus, &clients.iter().collect::<Vec<_>>());
}
