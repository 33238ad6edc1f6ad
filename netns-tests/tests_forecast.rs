//! A pool that will run out of ports is reported in advance: in metrics, in the log, and on request.

use crate::config::Config;
use crate::flows::Flow;
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
        leak_is_forecast,
        each_forecast_level_is_logged_once
}

const CAPACITY: usize = 200;
const SOURCE: &str = "203.0.113.17";
const SOON: &str = "exhausted in less than 10 minutes";

fn leak_is_forecast() {
    let lab = Lab::new();
    let pool = SmallPool::start(&lab);
    let to = pool.server.address().to_string();
    assert_eq!((pool.exhausted_in(), pool.utilization()), (vec![f64::INFINITY], vec![0.0]));

    // Some flows per second start, and none ends: the forecast follows from their rate. It exists before three
    // quarters of the ports are used, even if the machine stops for a moment, after which it takes sixteen seconds again.
    let mut flows = Vec::new();
    let start = Instant::now();
    while pool.told(SOON).is_empty() {
        assert!(flows.len() < 3 * CAPACITY / 4, "nothing was foreseen: {:?}", pool.exhausted_in());
        flows.push(Flow::open(&lab, Tenant::Alpha, &pool.server));
        thread::sleep(Duration::from_millis(250));
    }
    let [left] = pool.exhausted_in()[..] else { panic!("{:?}", pool.exhausted_in()) };
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let [used, free] = [flows.len(), CAPACITY - flows.len()].map(|ports| ports as f64);
    let growth = used / start.elapsed().as_secs_f64();
    let is_about = |found: f64, wanted: f64| (wanted / 2.0..wanted * 2.0).contains(&found);
    assert!(is_about(left, free / growth), "{left} s for {free} ports, {growth} of which go each second");

    let output = pool.gateway.egret(&["ports", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = report["hot"].as_array().unwrap().iter().find(|row| row["destination"] == *to);
    let row = row.unwrap_or_else(|| panic!("{report:#}"));
    assert!(row["source"] == SOURCE && row["capacity"] == CAPACITY, "{row:#}");
    assert!(row["live"] == flows.len() && row["held"] == 0, "{row:#}");
    assert!(is_about(row["growth_per_second"].as_f64().unwrap(), growth), "{growth}: {row:#}");
    assert!(is_about(row["exhausted_in_seconds"].as_f64().unwrap(), free / growth), "{growth}: {row:#}");
    assert_eq!(row["tenants"], json!([{"tenant": "alpha", "ports": flows.len()}]));
    assert_eq!(row["clients"], json!([{"client": "10.0.1.2", "tenant": "alpha", "ports": flows.len()}]));
    let table = text(&pool.gateway.egret(&["ports"]));
    for word in ["alpha", SOURCE, &to, "10.0.1.2"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    pool.assert_told_once(SOON);
}

/// The gateway observes once a second, so it has observed each level before it reports the next. Counts that fluctuate
/// around a level are left to the unit tests, which have a simulated clock.
fn each_forecast_level_is_logged_once() {
    let lab = Lab::new();
    let pool = SmallPool::start(&lab);
    assert_eq!(pool.hot().len(), 0);
    let mut flows: Vec<Flow> = Vec::new();
    let mut fill = |ports: usize| {
        while flows.len() < ports {
            flows.push(Flow::open(&lab, Tenant::Alpha, &pool.server));
        }
        let busy = [("source", SOURCE)];
        pool.gateway.wait_for_metric("egret_pool_ports", &busy, |busy| busy == ports as u64);
    };
    for (ports, ratio, level) in [(160_u16, 0.8, "70 %"), (172, 0.86, "85 %"), (192, 0.96, "95 %")] {
        fill(ports.into());
        assert_eq!(pool.utilization(), [ratio]);
        pool.wait_until_told(level);
        wait_for("the destination to be hot", || match pool.hot() {
            hot if hot == [f64::from(ports)] => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    fill(CAPACITY);
    wait_for("exhaustion to be forecast at 0 seconds", || match pool.exhausted_in()[..] {
        [0.0] => Ok(()),
        ref other => Err(format!("{other:?}")),
    });
    pool.wait_until_told(SOON);
    for level in ["70 %", "85 %", "95 %", SOON] {
        pool.assert_told_once(level);
    }
    let suffices = pool.gateway.stderr().lines().filter(|line| line.contains("suffice again")).count();
    assert_eq!(suffices, 0);
}

/// A gateway with [`CAPACITY`] ports towards each destination, and one destination.
struct SmallPool<'lab> {
    gateway: Gateway<'lab>,
    server: Server,
}

impl<'lab> SmallPool<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let gateway = lab.start_gateway(&Config {
            gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
            alpha_addresses: format!("[\"{SOURCE}\", \"2001:db8:100::1\"]"),
            alpha_pool: "ports = \"40000-40199\"".into(),
            ..Config::default()
        });
        Self { gateway, server: Server::raw(lab, Family::V4, 7000) }
    }

    fn hot(&self) -> Vec<f64> {
        let to = self.server.address().to_string();
        let labels = [("source", SOURCE), ("destination", &*to)];
        self.gateway.gauges("egret_pool_hot_destination_ports", &labels)
    }

    fn exhausted_in(&self) -> Vec<f64> {
        self.gateway.gauges("egret_pool_exhaustion_seconds", &[("source", SOURCE)])
    }

    fn utilization(&self) -> Vec<f64> {
        self.gateway.gauges("egret_pool_port_utilization_ratio", &[("source", SOURCE)])
    }

    /// The log's warnings about a level that was reached.
    fn told(&self, level: &str) -> Vec<String> {
        let log = self.gateway.stderr();
        let warnings = log.lines().filter(|line| line.contains("run out") && line.contains(level));
        warnings.map(str::to_owned).collect()
    }

    fn wait_until_told(&self, level: &str) {
        wait_for(&format!("{level} to be told"), || match self.told(level).len() {
            1 => Ok(()),
            other => Err(format!("{other} times")),
        });
    }

    /// With everything needed to look for the cause.
    fn assert_told_once(&self, level: &str) {
        let lines = self.told(level);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let destination = format!("destination={}", self.server.address());
        for word in ["WARN", "pool=alpha", &format!("source={SOURCE}"), &destination, "alpha "] {
            assert!(lines[0].contains(word), "{word} is not in {}", lines[0]);
        }
    }
}
