//! A pool that will run out of ports says so before, to whoever scrapes, reads the log, or asks.

use crate::config::Config;
use crate::flows::{End, Flow};
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::wait::wait_for;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families: ;
    once:
        a_leak_is_foreseen_and_each_level_is_told_once
}

const CAPACITY: usize = 200;
const SOURCE: &str = "203.0.113.17";

fn a_leak_is_foreseen_and_each_level_is_told_once() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        alpha_addresses: format!("[\"{SOURCE}\", \"2001:db8:100::1\"]"),
        alpha_pool: "ports = \"40000-40199\"".into(),
        ..Config::default()
    });
    let server = Server::raw(&lab, Family::V4, 7000);
    let to = server.address().to_string();
    let hot =
        || gateway.gauges("egret_pool_hot_destination_ports", &[("source", SOURCE), ("destination", &to)]);
    let exhausted_in = || gateway.gauges("egret_pool_exhaustion_seconds", &[("source", SOURCE)]);
    let utilization = || gateway.gauges("egret_pool_port_utilization_ratio", &[("source", SOURCE)]);
    assert_eq!((hot(), exhausted_in(), utilization()), (vec![], vec![f64::INFINITY], vec![0.0]));

    // Some flows a second come, and none goes. That is known before three quarters of the ports are gone, also if the
    // machine stops for a moment, after which it takes sixteen seconds again.
    let mut flows = Vec::new();
    let start = Instant::now();
    while told(&gateway, "exhausted in less than 10 minutes").is_empty() {
        assert!(flows.len() < 3 * CAPACITY / 4, "nothing was foreseen: {:?}", exhausted_in());
        flows.push(Flow::open(&lab, Tenant::Alpha, &server));
        thread::sleep(Duration::from_millis(250));
    }
    let [left] = exhausted_in()[..] else { panic!("{:?}", exhausted_in()) };
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let [used, free] = [flows.len(), CAPACITY - flows.len()].map(|ports| ports as f64);
    let growth = used / start.elapsed().as_secs_f64();
    let is_about = |found: f64, wanted: f64| (wanted / 2.0..wanted * 2.0).contains(&found);
    assert!(is_about(left, free / growth), "{left} s for {free} ports, {growth} of which go each second");
    let report = ports(&gateway);
    let row = report["hot"].as_array().unwrap().iter().find(|row| row["destination"] == *to);
    let row = row.unwrap_or_else(|| panic!("{report:#}"));
    assert!(row["source"] == SOURCE && row["capacity"] == CAPACITY, "{row:#}");
    assert!(row["live"] == flows.len() && row["held"] == 0, "{row:#}");
    assert!(is_about(row["growth_per_second"].as_f64().unwrap(), growth), "{growth}: {row:#}");
    assert!(is_about(row["exhausted_in_seconds"].as_f64().unwrap(), free / growth), "{growth}: {row:#}");
    assert_eq!(row["tenants"], json!([{"tenant": "alpha", "ports": flows.len()}]));
    assert_eq!(row["clients"], json!([{"client": "10.0.1.2", "tenant": "alpha", "ports": flows.len()}]));
    let table = text(&gateway.egret(&["ports"]));
    for word in ["alpha", SOURCE, &to, "10.0.1.2"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }

    // Each level is told when it is reached, and not again as long as the count trembles about it.
    let mut fill = |ports: usize| {
        while flows.len() > ports {
            flows.remove(0).end(End::ServerReset);
        }
        while flows.len() < ports {
            flows.push(Flow::open_soon(&lab, Tenant::Alpha, &server));
        }
        gateway.wait_for_metric("egret_pool_ports", &[("source", SOURCE)], |busy| busy == ports as u64);
    };
    for (ports, ratio, level) in [(160, 0.8, "70 %"), (172, 0.86, "85 %"), (192, 0.96, "95 %")] {
        fill(ports);
        assert_eq!(utilization(), [ratio]);
        wait_for(&format!("{level} to be told"), || match told(&gateway, level).len() {
            1 => Ok(()),
            other => Err(format!("{other} times")),
        });
        let labels = [("source", SOURCE), ("destination", &*to)];
        gateway.wait_for_metric("egret_pool_hot_destination_ports", &labels, |hot| hot == ports as u64);
        for _ in 0..3 {
            fill(ports - 24);
            fill(ports);
        }
    }
    fill(CAPACITY);
    wait_for("no time to be left", || match exhausted_in()[..] {
        [0.0] => Ok(()),
        ref other => Err(format!("{other:?}")),
    });
    for level in ["70 %", "85 %", "95 %", "exhausted in less than 10 minutes"] {
        let lines = told(&gateway, level);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        for word in
            ["WARN", "pool=alpha", &format!("source={SOURCE}"), &format!("destination={to}"), "alpha "]
        {
            assert!(lines[0].contains(word), "{word} is not in {}", lines[0]);
        }
    }
    let suffices = gateway.stderr().lines().filter(|line| line.contains("suffice again")).count();
    assert_eq!(suffices, 0);
}

/// The warnings in the log that a level was reached.
fn told(gateway: &Gateway<'_>, level: &str) -> Vec<String> {
    let log = gateway.stderr();
    let warnings = log.lines().filter(|line| line.contains("run out") && line.contains(level));
    warnings.map(str::to_owned).collect()
}

fn ports(gateway: &Gateway<'_>) -> Value {
    let output = gateway.egret(&["ports", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}
