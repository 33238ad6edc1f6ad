//! Explanations of single flows.

use super::*;
use crate::addr::SourceAddr;
use crate::control::snapshot;
use crate::egress::SourceState;
use crate::telemetry::Metrics;
use crate::verify::VerifierCapacity;

/// A configuration of one tenant with this rule.
fn config(rule: &str) -> Config {
    config_of("\"203.0.113.16\"]", rule)
}

/// The same, with a pool of these addresses and what follows them.
fn config_of(addresses: &str, rule: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.toml");
    let text = "[resolver]\nservers = [\"127.0.0.1\"]\n[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\n";
    let tenant = "[[tenant]]\nname = \"acme\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n[[tenant.allow]]\n";
    std::fs::write(&path, format!("{text}addresses = [{addresses}\n{tenant}{rule}\n")).unwrap();
    crate::config::load(&path).unwrap_or_else(|report| panic!("{report}")).config
}

fn query(to: &str) -> ExplainQuery {
    ExplainQuery {
        from: "10.0.1.7".parse().unwrap(),
        to: to.parse().unwrap(),
        address: None,
        ech: false,
        other_protocol: false,
    }
}

#[test]
fn plain_http_has_no_certificate() {
    let config = config("hosts = [\"example.org\"]\ncertificate = \"require\"");
    let explainer = Explainer::new(&config).unwrap();
    assert!(explainer.explain(&query("https://example.org")).unwrap().allowed);
    let denied = explainer.explain(&query("http://example.org")).unwrap();
    assert_eq!((denied.allowed, &*denied.outcome.unwrap().name), (false, "certificate_unavailable"));
}

#[test]
fn flow_leaves_by_any_address_of_its_name() {
    let config = config("cidrs = [\"0.0.0.0/0\", \"::/0\"]");
    let explainer = Explainer::new(&config).unwrap();
    let query = query("https://192.0.2.1");
    let asked = ExplainedFlow::of(&query).unwrap();
    let tenant = explainer.policy.tenant_of(asked.client).unwrap();
    let seen = ClientInspection::Asked { name: AskedName::Absent, ech: false, unframed: false };
    let permit = |to: &str| {
        let to = OriginalDestination::tcp(to.parse().unwrap());
        let facts = FlowFacts::new(to, Inspection::First(&seen), clock::policy_time());
        tenant.judge(&facts).allowed().unwrap()
    };
    // The pool has no IPv6 address to leave from.
    let (lost, good) = ("[2001:db8::1]:443", "192.0.2.1:443");
    for (tried, leaves) in
        [(&[lost, good][..], true), (&[good, lost], true), (&[lost, lost], false), (&[lost], false)]
    {
        let mut report = blank(&query, &asked);
        let permits = tried.iter().map(|to| permit(to));
        explainer.inputs(false).leave_by_any(&mut report, tenant, asked.client, permits);
        assert_eq!(report.allowed, leaves, "{tried:?}");
    }
}

#[test]
fn remedy_names_no_made_up_address() {
    let query = query("https://example.org");
    let told = |query: &ExplainQuery| {
        let report = blank(query, &ExplainedFlow::of(query).unwrap());
        explained_outcome(Outcome::CertificateInvalid, &report).remedy
    };
    assert!(told(&query).contains("-connect example.org:443 -servername example.org"), "{}", told(&query));
    let known = ExplainQuery { address: Some("192.0.2.7".parse().unwrap()), ..query };
    assert!(told(&known).contains("-connect 192.0.2.7:443 -servername example.org"), "{}", told(&known));
}

const BY_NAME: &str = "hosts = [\"example.org\"]\ndestination = \"resolve\"";
const BOTH_FAMILIES: &str = "\"203.0.113.16\", \"2001:db8:100::1\"]\n";

/// Its name would lead out by IPv6, but the client's connection is refused.
#[test]
fn drained_family_of_the_client_denies() {
    for (drained, leaves) in [("203.0.113.16", false), ("2001:db8:100::1", true)] {
        let config = config_of(&format!("{BOTH_FAMILIES}drain = [\"{drained}\"]"), BY_NAME);
        let told = Explainer::new(&config).unwrap().explain(&query("https://example.org")).unwrap();
        assert_eq!(told.allowed, leaves, "{drained}: {told:?}");
    }
}

#[tokio::test]
async fn live_answer_knows_drained_families() {
    let config = config_of(BOTH_FAMILIES, BY_NAME);
    for (drained, leaves) in [("203.0.113.16", false), ("2001:db8:100::1", true)] {
        let pools = Pools::new(&config.pools, &[], &Arc::new(Ledger::new()));
        let metrics = Arc::new(Metrics::new(clock::wall(), 1).0);
        let capacity = VerifierCapacity::new(64, 64);
        let snapshot = snapshot::build(&config, &pools, &metrics, &capacity, None).unwrap();
        pools.set_state(SourceAddr::new(drained.parse().unwrap()), SourceState::Draining).unwrap();
        let inputs = ExplainInputs {
            pools: &config.pools,
            policy: &snapshot.policy,
            unsteered: &snapshot.unsteered,
            steered: &config.steering.ports,
            help: None,
            state: UsageSource::Live(&snapshot, &RefusedFamilies::default()),
            lists_rules: false,
        };
        let told = inputs.explain(&query("https://example.org")).unwrap();
        assert_eq!(told.allowed, leaves, "{drained}: {told:?}");
    }
}
