//! What live flows feel of a large reload. Prints numbers; asserts what does not depend on the machine's load.
//!
//! `EGRET_RELOAD_NAMES=1000000 EGRET_RELOAD_FLOWS=9000 cargo test --release --test netns -- --nocapture feels` measures
//! what docs/reload.md states.

use crate::clients::expect_reset;
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families: ;
    once:
        a_live_flow_feels_nothing_of_a_large_reload,
        a_live_flow_feels_little_of_many_that_are_reset
}

const TENANTS: usize = 1000;
const RELOADS: usize = 5;

fn names() -> usize {
    std::env::var("EGRET_RELOAD_NAMES").map_or(20_000, |names| names.parse().unwrap())
}

fn flows() -> usize {
    std::env::var("EGRET_RELOAD_FLOWS").map_or(500, |flows| flows.parse().unwrap())
}

/// A file of names for each of many tenants.
fn write_policy(folder: &Path, names: usize) {
    fs::create_dir(folder.join("policy.d")).unwrap();
    for n in 0..TENANTS {
        let source = format!("10.{}.{}.0/24", 100 + n / 200, n % 200);
        let tenant = format!(
            "[[tenant]]\nname = \"t{n}\"\nsources = [\"{source}\"]\npool = \"alpha\"\n\
             [[tenant.allow]]\nhosts_file = \"{}\"\n",
            list(folder, n).display()
        );
        fs::write(folder.join(format!("policy.d/t{n:04}.toml")), tenant).unwrap();
        write_names(folder, n, 0..names / TENANTS);
    }
}

fn list(folder: &Path, tenant: usize) -> std::path::PathBuf {
    folder.join(format!("names-{tenant:04}.txt"))
}

fn write_names(folder: &Path, tenant: usize, numbers: std::ops::Range<usize>) {
    let name = |n| format!("host-{n:04}.service-{tenant:04}.example.com\n");
    fs::write(list(folder, tenant), numbers.map(name).collect::<Vec<_>>().concat()).unwrap();
}

/// The times that a message takes there and back, again and again, until told to stop.
fn ping(flow: &Flow, stop: &AtomicBool) -> Vec<Duration> {
    let (mut client, mut message) = (&flow.client, [7; 64]);
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        client.write_all(&message).unwrap();
        client.read_exact(&mut message).unwrap();
        times.push(start.elapsed());
        thread::sleep(Duration::from_micros(500));
    }
    times
}

fn pong(flow: &Flow) {
    let (mut upstream, mut message) = (&flow.upstream, [0; 64]);
    while upstream.read_exact(&mut message).is_ok() {
        upstream.write_all(&message).unwrap();
    }
}

/// The times of a flow's pings during something.
fn pings(flow: &Flow, during: &mut dyn FnMut()) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let pinging = scope.spawn(|| ping(flow, &stop));
        during();
        stop.store(true, Ordering::Relaxed);
        pinging.join().unwrap()
    })
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let index = (times.len() as f64 * part) as usize;
        times[index.min(times.len() - 1)]
    };
    format!(
        "{} pings: p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

fn memory(gateway: &Gateway<'_>, what: &str) -> String {
    format!("{} MB", gateway.status(what).parse::<u64>().unwrap() / 1000)
}

fn a_live_flow_feels_nothing_of_a_large_reload() {
    let lab = Lab::new();
    let admin = format!("admin = \"unix:{}\"", lab.control_socket());
    let files = Files::new(&Config { gateway: admin, ..Config::default() });
    let folder = files.config().parent().unwrap().to_owned();
    write_policy(&folder, names());
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    let started = memory(&gateway, "VmRSS");
    let server = Server::raw(&lab, Family::V4, 7000);
    let flow = Flow::open(&lab, Tenant::Alpha, &server);
    thread::scope(|scope| {
        scope.spawn(|| pong(&flow));
        let quiet = pings(&flow, &mut || thread::sleep(Duration::from_secs(2)));
        let mut took = Vec::new();
        let busy = pings(&flow, &mut || {
            for n in 0..RELOADS {
                write_names(&folder, n, 0..names() / TENANTS + 1);
                let start = Instant::now();
                let output = gateway.egret(&["reload", "--json"]);
                took.push(start.elapsed());
                assert!(output.status.success(), "{}", text(&output));
                let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(answer["difference"]["names"], serde_json::json!({"added": 1, "removed": 0}));
                assert_eq!(answer["difference"]["tenants"]["first"], serde_json::json!([format!("~t{n}")]));
            }
        });
        println!("{} names over {TENANTS} tenants; {RELOADS} reloads of {took:?}", names());
        println!("  without a reload: {}", summary(quiet));
        println!("  during reloads:   {}", summary(busy));
        println!(
            "  memory: {started} at the start, {} now, {} at most",
            memory(&gateway, "VmRSS"),
            memory(&gateway, "VmHWM")
        );
        flow.client.shutdown(Shutdown::Write).unwrap();
    });
}

fn a_live_flow_feels_little_of_many_that_are_reset() {
    let lab = Lab::new();
    let gateway = format!("max_flows = {}\nadmin = \"unix:{}\"", flows() + 1, lab.control_socket());
    let config = Config { gateway, ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let [stays, goes] = [7001, 7000].map(|port| Server::raw(&lab, Family::V4, port));
    let flow = Flow::open(&lab, Tenant::Alpha, &stays);
    let others = Flow::open_many(&lab, Tenant::Alpha, &goes, flows());
    let reload = |rules: &str| {
        gateway.write(&Config { alpha_rules: rules.into(), ..config.clone() }.render(&gateway.flow_log()));
        let mut answer = Value::Null;
        let start = Instant::now();
        let times = pings(&flow, &mut || {
            let output = gateway.egret(&["reload", "--json"]);
            assert!(output.status.success(), "{}", text(&output));
            answer = serde_json::from_slice(&output.stdout).unwrap();
        });
        (answer["revoked"].as_u64().unwrap(), start.elapsed(), summary(times))
    };
    thread::scope(|scope| {
        scope.spawn(|| pong(&flow));
        let (revoked, took, felt) = reload("[[tenant.deny]]\nhosts = [\"example.com\"]\n");
        assert_eq!(revoked, 0);
        println!("{} flows judged again in a reload of {took:?}: {felt}", flows() + 1);
        let (revoked, took, felt) = reload("[[tenant.deny]]\nports = [7000]\ncidrs = [\"0.0.0.0/0\"]\n");
        assert_eq!(revoked, flows() as u64);
        println!("{revoked} of them reset in a reload of {took:?}: {felt}");
        for other in &others {
            assert_eq!(expect_reset(&other.client), b"");
        }
        flow.client.shutdown(Shutdown::Write).unwrap();
    });
}
