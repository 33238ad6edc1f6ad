//! Costs of telemetry: a flow's record as JSON, a worker's cells, the recorder's handles, and a scrape.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "nobody depends on a benchmark")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use egret::addr::{ClientAddr, DialAddr, LeasedSource, OriginalDestination};
use egret::flow::{FlowId, FlowRecord, MessageCounter, NameSource, PolicyVerdict};
use egret::gateway::{FlowCounter, FlowDuration};
use egret::inspect::Protocol;
use egret::outcome::Outcome;
use egret::telemetry::{FlowLog, FlowLogConfig, LogTarget, Metrics, Scrape, SteeringMetrics};
use std::hint::black_box;
use std::time::{Duration, SystemTime};

fn record() -> FlowRecord {
    let time = jiff::Timestamp::from_microsecond(1_764_500_000_250_000).unwrap();
    let client = ClientAddr::new("10.0.1.7:40000".parse().unwrap());
    let to = "[2001:db8::443]:443".parse().unwrap();
    let flow = FlowId { process: 0x00c0_ffee, number: 123_456 };
    FlowRecord {
        tenant: Some("acme".into()),
        hostname: Some("api.example.com".parse().unwrap()),
        hostname_from: Some(NameSource::Sni),
        protocol: Some(Protocol::Tls),
        alpn: Some("h2,http/1.1".into()),
        rule: Some("egret.toml:12".into()),
        verdict: Some(PolicyVerdict::Allow),
        outcome: Outcome::Closed,
        source: Some(LeasedSource::new("203.0.113.16:50000".parse().unwrap())),
        pool: Some("acme".into()),
        dialled: Some(DialAddr::tcp(to)),
        bytes_up: 517,
        bytes_down: 1 << 20,
        duration: Duration::from_micros(1_234_567),
        inspect: Some(Duration::from_micros(789).into()),
        connect: Some(Duration::from_micros(4_321).into()),
        ..FlowRecord::begin(time, flow, client, OriginalDestination::tcp(to))
    }
}

fn flow_log(c: &mut Criterion) {
    let record = record();
    let mut line = Vec::new();
    serde_json::to_writer(&mut line, &record).unwrap();
    let mut group = c.benchmark_group("flow_log");
    group.throughput(Throughput::Bytes(line.len() as u64));
    group.bench_function("record_to_json", |b| {
        b.iter(|| {
            line.clear();
            serde_json::to_writer(&mut line, black_box(&record)).unwrap();
        });
    });

    // a worker's cost; at this rate most records are dropped, which costs about the same
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH, 1).0;
    let target = LogTarget::File("/dev/null".into());
    let config = FlowLogConfig { target, queue: 16_384 };
    let (handle, thread) = FlowLog::start(config, metrics.gateway().flow_log.clone()).unwrap();
    group.throughput(Throughput::Elements(1));
    group.bench_function("submit", |b| {
        b.iter(|| handle.submit(black_box(&record)));
    });
    group.finish();
    assert!(thread.stop(Duration::from_secs(10)));
}

fn metrics(c: &mut Criterion) {
    let (metrics, mut claims) = Metrics::new(SystemTime::UNIX_EPOCH, 1);
    let worker = claims.remove(0).take();
    let tenant = metrics.tenant("acme", Some("acme"), false);
    let meters = tenant.of(&worker);
    let mut group = c.benchmark_group("metrics");
    group.bench_function("bytes", |b| b.iter(|| meters.add(MessageCounter::Up, black_box(1460))));
    group.bench_function("a_flow_start_to_end", |b| {
        b.iter(|| {
            let meters = black_box(&tenant).of(&worker);
            meters.enter();
            meters.record(FlowDuration::Inspect, black_box(Duration::from_micros(800)));
            meters.record(FlowDuration::Connect, black_box(Duration::from_millis(4)));
            meters.record(FlowDuration::Flow, black_box(Duration::from_millis(1200)));
            meters.leave();
            meters.count(FlowCounter::Ended(black_box(Outcome::Closed)));
        });
    });
    let scrape = Scrape {
        monitored: Vec::new(),
        candidate: None,
        port_collisions: 0,
        sources: Vec::new(),
        hot: Vec::new(),
        config_version: "1f2e3d".into(),
        config_reload_success: true,
        config_fallback: false,
        steering_packets: Vec::new(),
        names: None,
        steering: SteeringMetrics::default(),
    };
    for number in 0..100 {
        metrics.tenant(&format!("tenant-{number}"), Some("shared"), false).of(&worker);
    }
    group.bench_function("scrape_of_100_tenants", |b| b.iter(|| metrics.render(black_box(&scrape))));
    group.finish();
}

criterion_group!(benches, flow_log, metrics);
criterion_main!(benches);
