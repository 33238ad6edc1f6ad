//! A scrape of the metrics listener, as Prometheus does it, compared with the catalogue.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use egret::admin::{self, AdminState, Lifecycle, Readiness};
use egret::flow::MessageCounter;
use egret::flow::UNKNOWN_TENANT;
use egret::gateway::{FlowCounter, FlowDuration};
use egret::outcome::Outcome;
use egret::telemetry::catalogue::{self, Metric, MetricKind};
use egret::telemetry::{
    CandidateInfo, HotDestination, Metrics, MonitoredTenant, Scrape, SourcePortMetrics, SteeringMetrics,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// The listener on its own thread; stops when dropped.
struct Admin {
    address: SocketAddr,
    readiness: Readiness,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    fn start(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::new();
        let notes = Arc::new(|| vec!["note: all is well".to_owned()]);
        let state = AdminState { readiness: readiness.clone(), notes, render: Arc::new(render) };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                admin::serve(listener, state, async move { stopped.await.unwrap() }).await.unwrap();
            });
        });
        Self { address, readiness, stop: Some(stop), thread: Some(thread) }
    }

    /// Head and body of the answer; reads to the end, so it would hang if the connection were kept.
    fn request(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> (String, String) {
        self.request("GET", path)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn scrape() -> Scrape {
    let source = |address: &str, busiest| SourcePortMetrics {
        pool: "acme".into(),
        source: IpNet::from(address.parse::<std::net::IpAddr>().unwrap()),
        capacity: 64_000,
        live: 70_000,
        held: 12,
        busiest,
        exhausted_in: (busiest == 16_000).then_some(Duration::from_millis(1500)),
        kernel_difference: 3,
        state: "draining",
    };
    let hot = HotDestination {
        pool: "acme".into(),
        source: IpNet::from(std::net::IpAddr::from([203, 0, 113, 16])),
        destination: "192.0.2.1:443".parse().unwrap(),
        ports: 16_000,
    };
    Scrape {
        sources: vec![source("203.0.113.16", 16_000), source("2001:db8:100::1", 64_000)],
        hot: vec![hot],
        port_collisions: 2,
        candidate: Some(CandidateInfo { version: "a1b2c3".into(), state: "canary" }),
        monitored: vec![
            MonitoredTenant { tenant: "acme".into(), until: Some(1_798_675_200) },
            MonitoredTenant { tenant: "beta".into(), until: None },
        ],
        config_version: "1f2e3d".into(),
        config_reload_success: true,
        config_fallback: false,
        steering_packets: vec![("unsteered_dns", 5)],
        names: Some(7),
        steering: SteeringMetrics {
            parts: vec![("packet_rules", true), ("mark_rule", false)],
            failing: Some(false),
            repairs: 4,
            refused: [0, 5],
        },
    }
}

/// Every sample of a text, by series.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed: Vec<_> = lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series, value.parse::<f64>().unwrap())
        })
        .collect();
    let map: BTreeMap<_, _> = parsed.iter().copied().collect();
    assert_eq!(map.len(), parsed.len(), "a series is there twice");
    map
}

/// The family of a series: of a histogram's `_bucket`, `_sum` and `_count`, the histogram.
fn family(series: &str) -> Option<&'static Metric> {
    let name = series.split('{').next().unwrap();
    catalogue::ALL.iter().copied().find(|metric| match metric.kind {
        MetricKind::Histogram(_) => {
            ["_bucket", "_sum", "_count"].iter().any(|suffix| name.strip_suffix(suffix) == Some(metric.name))
        }
        MetricKind::Counter | MetricKind::Gauge => name == metric.name,
    })
}

/// The label names of a series, `le` aside.
fn label_names(series: &str) -> BTreeSet<&str> {
    let Some((_, labels)) = series.split_once('{') else { return BTreeSet::new() };
    let names = labels.split(',').map(|label| label.split('=').next().unwrap());
    names.filter(|name| *name != "le").collect()
}

#[test]
fn scrape_holds_the_catalogue_and_nothing_else() {
    let (metrics, mut claims) = Metrics::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1000), 2);
    let metrics = Arc::new(metrics);
    let workers = [claims.remove(0).take(), claims.remove(0).take()];
    let acme = workers.each_ref().map(|worker| metrics.tenant("acme", Some("acme"), true).of(worker));
    acme[0].enter();
    acme[0].add(MessageCounter::Up, 500);
    acme[1].add(MessageCounter::Up, 17);
    acme[1].record(FlowDuration::Connect, Duration::from_millis(4));
    acme[1].count(FlowCounter::Ended(Outcome::PortsExhausted));
    metrics.tenant(UNKNOWN_TENANT, None, false);
    metrics.address_checks("acme");
    metrics.certificate_checks("acme");
    metrics.probes();
    metrics.lookups().duration.record(Duration::from_millis(2));

    let rendered = Arc::clone(&metrics);
    let admin = Admin::start(move || rendered.render(&scrape()));
    let (head, text) = admin.get("/metrics");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");

    let samples = samples(&text);
    let mut seen = BTreeSet::new();
    for series in samples.keys() {
        let metric = family(series).unwrap_or_else(|| panic!("{series} is not in the catalogue"));
        assert_eq!(label_names(series), metric.labels.iter().copied().collect(), "labels of {series}");
        seen.insert(metric.name);
    }
    for metric in catalogue::ALL {
        assert!(seen.contains(metric.name), "{} is in the catalogue and never emitted", metric.name);
        let kind = format!("# TYPE {} {}\n", metric.name, metric.kind.as_str());
        assert_eq!(text.matches(&kind).count(), 1, "{kind}");
        assert_eq!(text.matches(&format!("# HELP {} ", metric.name)).count(), 1, "HELP of {}", metric.name);
    }
    for (series, value) in [
        ("egret_flows_active{tenant=\"acme\"}", 1.0),
        ("egret_flow_bytes_total{tenant=\"acme\",direction=\"up\"}", 517.0),
        ("egret_flow_bytes_total{tenant=\"acme\",direction=\"down\"}", 0.0),
        ("egret_flows_total{tenant=\"acme\",outcome=\"ports_exhausted\"}", 1.0),
        ("egret_denials_total{tenant=\"acme\",reason=\"ports_exhausted\"}", 1.0),
        ("egret_flows_total{tenant=\"unknown\",outcome=\"unknown_tenant\"}", 0.0),
        ("egret_connect_duration_seconds_bucket{tenant=\"acme\",le=\"0.0025\"}", 0.0),
        ("egret_connect_duration_seconds_bucket{tenant=\"acme\",le=\"0.005\"}", 1.0),
        ("egret_connect_duration_seconds_bucket{tenant=\"acme\",le=\"+Inf\"}", 1.0),
        ("egret_connect_duration_seconds_sum{tenant=\"acme\"}", 0.004),
        ("egret_inspect_duration_seconds_count{tenant=\"unknown\"}", 0.0),
        ("egret_port_allocation_failures_total{pool=\"acme\",tenant=\"acme\"}", 0.0),
        ("egret_pool_ports_capacity{pool=\"acme\",source=\"203.0.113.16\"}", 64_000.0),
        ("egret_pool_ports{pool=\"acme\",source=\"203.0.113.16\",state=\"live\"}", 70_000.0),
        ("egret_pool_ports{pool=\"acme\",source=\"203.0.113.16\",state=\"held\"}", 12.0),
        ("egret_pool_port_utilization_ratio{pool=\"acme\",source=\"203.0.113.16\"}", 0.25),
        ("egret_pool_port_utilization_ratio{pool=\"acme\",source=\"2001:db8:100::1\"}", 1.0),
        ("egret_pool_exhaustion_seconds{pool=\"acme\",source=\"203.0.113.16\"}", 1.5),
        ("egret_pool_exhaustion_seconds{pool=\"acme\",source=\"2001:db8:100::1\"}", f64::INFINITY),
        (
            "egret_pool_hot_destination_ports{pool=\"acme\",source=\"203.0.113.16\",destination=\"192.0.2.1:443\"}",
            16_000.0,
        ),
        ("egret_ledger_kernel_difference{pool=\"acme\",source=\"203.0.113.16\"}", 3.0),
        ("egret_pool_source_state{pool=\"acme\",source=\"203.0.113.16\",state=\"available\"}", 0.0),
        ("egret_pool_source_state{pool=\"acme\",source=\"203.0.113.16\",state=\"draining\"}", 1.0),
        ("egret_would_deny_total{tenant=\"acme\",reason=\"not_allowed\"}", 0.0),
        ("egret_monitor_until_timestamp_seconds{tenant=\"acme\"}", 1_798_675_200.0),
        ("egret_monitor_until_timestamp_seconds{tenant=\"beta\"}", f64::INFINITY),
        ("egret_candidate_decisions_total{tenant=\"acme\",change=\"would_deny\"}", 0.0),
        ("egret_candidate_info{version=\"a1b2c3\",state=\"canary\"}", 1.0),
        ("egret_port_collisions_total", 2.0),
        ("egret_config_info{version=\"1f2e3d\"}", 1.0),
        ("process_start_time_seconds", 1000.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    // Denials are labels of both metrics, other outcomes of one only.
    let denials =
        samples.keys().filter(|series| series.starts_with("egret_denials_total{tenant=\"acme\"")).count();
    assert_eq!(denials, Outcome::ALL.iter().filter(|outcome| outcome.is_denial()).count());
    let documented = catalogue::reference();
    let per_tenant = samples.keys().filter(|series| series.contains("tenant=\"unknown\"")).count();
    assert!(documented.contains(&format!("makes {per_tenant} series")), "{per_tenant} series of a tenant");
    let waived =
        samples.keys().filter(|series| series.starts_with("egret_would_deny_total{tenant=\"acme\"")).count();
    let said = format!("monitor mode makes {} more", waived + 1);
    assert!(documented.contains(&said), "{waived} reasons that monitor mode waives");
}

#[test]
fn moved_tenant_keeps_its_counts() {
    let (metrics, mut claims) = Metrics::new(SystemTime::UNIX_EPOCH, 1);
    let metrics = Arc::new(metrics);
    let worker = claims.remove(0).take();
    for pool in ["old", "new", "new"] {
        let acme = metrics.tenant("acme", Some(pool), pool == "old");
        acme.of(&worker).add(MessageCounter::Up, 1);
        acme.port_allocation_failures.increment(1);
    }
    let now = Arc::new(Mutex::new(scrape()));
    let (rendered, read) = (Arc::clone(&metrics), Arc::clone(&now));
    let admin = Admin::start(move || rendered.render(&read.lock().unwrap()));
    assert!(admin.get("/metrics").1.contains("source=\"203.0.113.16\""));
    {
        let mut now = now.lock().unwrap();
        now.sources.remove(0);
        now.hot.clear();
        now.config_version = "fedcba".into();
        now.config_reload_success = false;
        now.config_fallback = true;
    }
    let (_, text) = admin.get("/metrics");
    assert!(!text.contains("203.0.113.16") && text.contains("2001:db8:100::1"));
    let samples = samples(&text);
    assert_eq!(samples.get("egret_flow_bytes_total{tenant=\"acme\",direction=\"up\"}"), Some(&3.0));
    for (pool, failures) in [("old", 1.0), ("new", 2.0)] {
        let series = format!("egret_port_allocation_failures_total{{pool=\"{pool}\",tenant=\"acme\"}}");
        assert_eq!(samples.get(&*series), Some(&failures), "{series}");
    }
    assert!(samples.contains_key("egret_would_deny_total{tenant=\"acme\",reason=\"not_allowed\"}"));
    assert_eq!(samples.get("egret_config_reload_success"), Some(&0.0));
    assert_eq!(samples.get("egret_config_fallback"), Some(&1.0));
    assert_eq!(text.matches("egret_config_info{").count(), 1);
    assert!(text.contains("egret_config_info{version=\"fedcba\"} 1\n"));
}

#[test]
fn health_and_readiness_follow_the_lifecycle() {
    let admin = Admin::start(String::new);
    for (stage, status, body) in [
        (Lifecycle::Starting, "503", "starting"),
        (Lifecycle::Ready, "200", "ready"),
        (Lifecycle::Draining, "503", "draining"),
    ] {
        admin.readiness.advance(stage);
        let (head, text) = admin.get("/readyz");
        assert!(head.starts_with(&format!("http/1.1 {status}")) && text.starts_with(body), "{head}\n{text}");
        assert!(admin.get("/healthz").0.starts_with("http/1.1 200"));
    }
}

#[test]
fn other_requests_are_answered_and_closed() {
    let admin = Admin::start(String::new);
    assert!(admin.get("/").1.contains("/metrics"));
    assert!(admin.get("/nothing").0.starts_with("http/1.1 404"));
    assert!(admin.request("POST", "/metrics").0.starts_with("http/1.1 405"));
    assert_eq!(admin.request("HEAD", "/healthz").1, "");
}

#[test]
fn shutdown_ignores_silent_connections() {
    let admin = Admin::start(String::new);
    let silent = TcpStream::connect(admin.address).unwrap();
    assert!(admin.get("/healthz").0.starts_with("http/1.1 200"));
    drop(admin);
    drop(silent); // open until the listener's thread was joined
}
