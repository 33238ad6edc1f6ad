//! Cost of a decision by number of names: it should be constant.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use egret::addr::{OriginalDestination, PortRange};
use egret::hostname::{AskedName, HostPattern};
use egret::policy::{
    ClientInspection, FlowFacts, Inspection, Policy, PrivateDestinations, RuleEffect, RuleSpec, TenantSpec,
};
use jiff::Timestamp;
use std::fmt::Write as _;
use std::hint::black_box;

/// Total number of names, and of tenants that they are spread over.
const SIZES: [(usize, usize); 4] = [(10, 1), (10_000, 1), (1_000_000, 1), (1_000_000, 1000)];
/// Number of hosts per rule.
const NAMES_PER_RULE: usize = 100;

fn name(tenant: usize, number: usize) -> String {
    format!("api-{number:x}.region-{}.tenant-{tenant}.example.com", number % 17)
}

/// Name requested by a flow, by tenant and number.
type Ask = fn(usize, usize) -> String;

/// A tenant in which every tenth pattern is a wildcard.
fn tenant(index: usize, names: usize) -> TenantSpec {
    let pattern = |number: usize| -> HostPattern {
        let name = name(index, number);
        let text = if number.is_multiple_of(10) { format!("*.{name}") } else { name };
        text.parse().expect("it is a hostname")
    };
    let rule = |first: usize| RuleSpec {
        hosts: (first..names.min(first + NAMES_PER_RULE)).map(pattern).collect(),
        ports: PortRange::new(443, 443).into_iter().collect(),
        ..RuleSpec::new(format!("allow/{index}.txt:{first}"), RuleEffect::Allow)
    };
    let [_, high, middle, low] = u32::try_from(index).expect("few tenants").to_be_bytes();
    TenantSpec {
        sources: vec![format!("10.{high}.{middle}.{low}/32").parse().expect("it is a network")],
        rules: (0..names).step_by(NAMES_PER_RULE).map(rule).collect(),
        ..TenantSpec::new(format!("tenant-{index}"), "pool")
    }
}

fn specs(names: usize, tenants: usize) -> Vec<TenantSpec> {
    (0..tenants).map(|index| tenant(index, names / tenants)).collect()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/decide");
    let to = OriginalDestination::tcp(([203, 0, 113, 5], 443).into());
    for (names, tenants) in SIZES {
        let policy =
            Policy::compile(&specs(names, tenants), PrivateDestinations::ByCidr).expect("it compiles");
        let each = names / tenants;
        // spread over tenants and names, so that the caches are as cold as in production
        let place = |n: usize| (n * 7919 % tenants, n * 104_729 % each);
        let kinds: [(&str, Ask); 3] = [
            ("exact", |tenant, number| name(tenant, number | 1)),
            ("wildcard", |tenant, number| format!("a.b.{}", name(tenant, number - number % 10))),
            ("denied", |tenant, number| format!("no-{}", name(tenant, number))),
        ];
        for (kind, ask) in kinds {
            let flows: Vec<(usize, ClientInspection)> = (0..4096)
                .map(|n| {
                    let (tenant, number) = place(n);
                    let name = AskedName::from_bytes(ask(tenant, number).as_bytes());
                    (tenant, ClientInspection::Asked { name, ech: false, unframed: false })
                })
                .collect();
            let mut flows = flows.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, format!("{names}x{tenants}")), |b| {
                b.iter(|| {
                    let (tenant, seen) = flows.next().expect("it goes round");
                    let seen = Inspection::First(black_box(seen));
                    let facts = FlowFacts::new(black_box(to), seen, Timestamp::UNIX_EPOCH);
                    black_box(policy.tenants()[*tenant].judge(&facts))
                });
            });
        }
    }
    group.finish();
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/compile");
    group.sample_size(10);
    for (names, tenants) in [(10_000, 10), (1_000_000, 1000)] {
        let specs = specs(names, tenants);
        group.throughput(Throughput::Elements(names as u64));
        group.bench_function(format!("{names}x{tenants}"), |b| {
            b.iter(|| Policy::compile(black_box(&specs), PrivateDestinations::ByCidr));
        });
    }
    group.finish();
}

/// Loads files into a compiled policy, as a start or a reload does.
fn load(c: &mut Criterion) {
    let (names, tenants) = (1_000_000, 1000);
    let folder = tempfile::tempdir().expect("a folder");
    let mut main = "steering = { interfaces = [\"ens6\"] }\n".to_owned();
    main.push_str("[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n");
    for spec in specs(names, tenants) {
        let (name, source) = (&spec.name, &spec.sources[0]);
        let _ = write!(main, "[[tenant]]\nname = {name:?}\nsources = [\"{source}\"]\npool = \"p\"\n");
        let _ = write!(main, "[[tenant.allow]]\nhosts_file = \"{name}.txt\"\n");
        let mut hosts = String::new();
        for host in spec.rules.iter().flat_map(|rule| &rule.hosts) {
            let _ = writeln!(hosts, "{host}");
        }
        std::fs::write(folder.path().join(format!("{name}.txt")), hosts).expect("it is written");
    }
    let path = folder.path().join("egret.toml");
    std::fs::write(&path, main).expect("it is written");
    let mut group = c.benchmark_group("policy/load");
    group.sample_size(10).throughput(Throughput::Elements(names as u64));
    group.bench_function(format!("{names}x{tenants}"), |b| {
        b.iter(|| {
            let config = egret::config::load(&path).expect("it loads").config;
            Policy::compile(&config.tenants, config.private_destinations)
        });
    });
    group.finish();
}

criterion_group!(benches, decide, compile, load);
criterion_main!(benches);
