//! Reloads with many tenants, and of rules for many live flows.

use crate::clients::expect_reset;
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families: ;
    once:
        large_reloads_name_what_changed,
        large_reload_resets_only_denied_flows
}

/// The measurement in docs/reload.md. It asserts nothing, and runs only on request.
pub fn measurement() -> Trial {
    let measure = || {
        live_flow_latency_under_large_reloads();
        live_flow_latency_under_resets();
        Ok(())
    };
    Trial::test("live_flow_latency_under_reloads", measure).with_ignored_flag(true)
}

const TENANTS: usize = 1000;
const RELOADS: usize = 5;

fn large_reloads_name_what_changed() {
    let lab = Lab::new();
    let large = Large::start(&lab, 20);
    for n in 0..2 {
        large.reload_with_one_more_name_of(n);
    }
}

fn large_reload_resets_only_denied_flows() {
    let lab = Lab::new();
    let crowd = Crowd::gather(&lab, 500);
    assert_eq!(crowd.reload(HARMLESS), 0);
    crowd.others.iter().for_each(Flow::assert_alive);
    assert_eq!(crowd.reload(DENIES_THE_OTHERS), 500);
    crowd.others.iter().for_each(|other| assert_eq!(expect_reset(&other.client), b""));
    crowd.stays.assert_alive();
}

/// A gateway that reads a file of names for each of many tenants.
struct Large<'lab> {
    gateway: Gateway<'lab>,
    folder: PathBuf,
    names_each: usize,
}

impl<'lab> Large<'lab> {
    fn start(lab: &'lab Lab, names_each: usize) -> Self {
        let admin = format!("admin = \"unix:{}\"", lab.control_socket());
        let files = Files::new(&Config { gateway: admin, ..Config::default() });
        let folder = files.config().parent().unwrap().to_owned();
        write_policy(&folder, names_each);
        lab.must_steer("up", &files.config(), Rules::Iptables);
        Self { gateway: Gateway::start(lab, files), folder, names_each }
    }

    /// Reloads; the answer must report just that. Returns the duration.
    fn reload_with_one_more_name_of(&self, tenant: usize) -> Duration {
        write_names(&self.folder, tenant, self.names_each + 1);
        let start = Instant::now();
        let answer = reload(&self.gateway);
        let took = start.elapsed();
        let difference = &answer["difference"];
        assert_eq!(difference["names"], json!({"added": 1, "removed": 0}), "{answer:#}");
        assert_eq!(difference["tenants"]["first"], json!([format!("~t{tenant}")]), "{answer:#}");
        took
    }
}

/// Writes a file of names for each of many tenants.
fn write_policy(folder: &Path, names_each: usize) {
    fs::create_dir(folder.join("policy.d")).unwrap();
    for n in 0..TENANTS {
        let source = format!("10.{}.{}.0/24", 100 + n / 200, n % 200);
        let tenant = format!(
            "[[tenant]]\nname = \"t{n}\"\nsources = [\"{source}\"]\npool = \"alpha\"\n\
             [[tenant.allow]]\nhosts_file = \"{}\"\n",
            list(folder, n).display()
        );
        fs::write(folder.join(format!("policy.d/t{n:04}.toml")), tenant).unwrap();
        write_names(folder, n, names_each);
    }
}

fn list(folder: &Path, tenant: usize) -> PathBuf {
    folder.join(format!("names-{tenant:04}.txt"))
}

fn write_names(folder: &Path, tenant: usize, count: usize) {
    let name = |n| format!("host-{n:04}.service-{tenant:04}.example.com\n");
    fs::write(list(folder, tenant), (0..count).map(name).collect::<String>()).unwrap();
}

/// Many flows to a server that the rules may deny, and one to another.
struct Crowd<'lab> {
    gateway: Gateway<'lab>,
    config: Config,
    stays: Flow,
    others: Vec<Flow>,
}

const HARMLESS: &str = "[[tenant.deny]]\nhosts = [\"example.com\"]\n";
const DENIES_THE_OTHERS: &str = "[[tenant.deny]]\nports = [7000]\ncidrs = [\"0.0.0.0/0\"]\n";

impl<'lab> Crowd<'lab> {
    fn gather(lab: &'lab Lab, others: usize) -> Self {
        // One tenant may have seven eighths.
        let gateway = format!("max_flows = {}\nadmin = \"unix:{}\"", others * 2, lab.control_socket());
        let config = Config { gateway, ..Config::default() };
        let gateway = lab.start_gateway(&config);
        let [stays, goes] = [7001, 7000].map(|port| Server::raw(lab, Family::V4, port));
        let stays = Flow::open(lab, Tenant::Alpha, &stays);
        let others = Flow::open_many(lab, Tenant::Alpha, &goes, others);
        Self { gateway, config, stays, others }
    }

    /// Returns the number of flows reset.
    fn reload(&self, rules: &str) -> u64 {
        let config = Config { alpha_rules: rules.into(), ..self.config.clone() };
        self.gateway.write(&config.render(&self.gateway.flow_log()));
        reload(&self.gateway)["revoked"].as_u64().unwrap()
    }
}

/// Runs `egret reload`, which must succeed.
fn reload(gateway: &Gateway<'_>) -> Value {
    let output = gateway.egret(&["reload", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn live_flow_latency_under_large_reloads() {
    let lab = Lab::new();
    let large = Large::start(&lab, 1000);
    let memory = |what| format!("{} MB", large.gateway.status(what).parse::<u64>().unwrap() / 1000);
    let started = memory("VmRSS");
    let server = Server::raw(&lab, Family::V4, 7000);
    let flow = Flow::open(&lab, Tenant::Alpha, &server);
    let ((), quiet) = pings(&flow, || thread::sleep(Duration::from_secs(2)));
    let (took, busy) =
        pings(&flow, || (0..RELOADS).map(|n| large.reload_with_one_more_name_of(n)).collect::<Vec<_>>());
    println!("a thousand names of each of {TENANTS} tenants; {RELOADS} reloads of {took:?}");
    println!("  without a reload: {quiet}");
    println!("  during reloads:   {busy}");
    let (now, most) = (memory("VmRSS"), memory("VmHWM"));
    println!("  memory: {started} at the start, {now} now, {most} at most");
}

fn live_flow_latency_under_resets() {
    let lab = Lab::new();
    let crowd = Crowd::gather(&lab, 9000);
    for rules in [HARMLESS, DENIES_THE_OTHERS] {
        let start = Instant::now();
        let ((revoked, took), felt) = pings(&crowd.stays, || (crowd.reload(rules), start.elapsed()));
        println!("{revoked} of 9001 flows reset in a reload of {took:?}: {felt}");
    }
}

/// Runs `work`; returns its result, and the round-trip times of a flow's messages meanwhile.
fn pings<T: Send>(flow: &Flow, work: impl FnOnce() -> T + Send) -> (T, String) {
    thread::scope(|scope| {
        scope.spawn(|| pong(flow));
        let work = scope.spawn(work);
        let (mut client, mut times) = (&flow.client, Vec::new());
        while !work.is_finished() {
            let start = Instant::now();
            client.write_all(&PING).unwrap();
            client.read_exact(&mut [0; PING.len()]).unwrap();
            times.push(start.elapsed());
            thread::sleep(Duration::from_micros(500));
        }
        client.write_all(&ENOUGH).unwrap();
        (work.join().unwrap(), summary(times))
    })
}

const PING: [u8; 64] = [7; 64];
const ENOUGH: [u8; 64] = [0; 64];

fn pong(flow: &Flow) {
    let (mut upstream, mut message) = (&flow.upstream, PING);
    while upstream.read_exact(&mut message).is_ok() && message != ENOUGH {
        upstream.write_all(&message).unwrap();
    }
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let count = times.len();
    let [p50, p99, longest] = [count / 2, count * 99 / 100, count - 1].map(|index| times[index]);
    format!("{count} pings: p50 {p50:?}, p99 {p99:?}, longest {longest:?}")
}
