//! Acceptance of answers under `dnssec = "require"`: zones with real signatures, and with forgeries.

use crate::config::Config;
use crate::dns::Dns;
use crate::knot::{Keys, Knot, unsigned_zone};
use crate::lab::{Family, Host, Lab};
use crate::verified::{denied, reach};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

crate::trials! {
    both families: ;
    once:
        only_authentic_dnssec_answers_count,
        trust_anchor_requires_signed_answers,
        server_stripping_signatures_is_ignored
}

/// Alpha's rule and the DNS server; `anchors` is the value of the key, `None` for `dnssec = "off"`.
fn config(anchors: Option<&str>) -> Config {
    let dnssec = anchors.map(|anchors| format!("dnssec = \"require\"\ntrust_anchors = {anchors}"));
    Config {
        alpha_rules: "  [[tenant.allow]]\n  hosts = [\"*.example.org\"]\n  destination = \"verify\"\n".into(),
        more: format!("[resolver]\nservers = [\"198.51.100.10\"]\n{}\n", dnssec.unwrap_or_default()),
        ..Config::default()
    }
}

/// Writes a file of keys; returns its path as a TOML string.
fn anchor(dir: &TempDir, keys: &Keys) -> String {
    let path = dir.path().join("anchor");
    fs::write(&path, keys.records()).unwrap();
    quoted(&path)
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// Replaces text of a signed zone, as an attacker on the path would.
fn forged(zone: &str, truth: &str, lie: &str) -> String {
    assert_eq!(zone.matches(truth).count(), 1, "{truth} in\n{zone}");
    zone.replace(truth, lie)
}

/// Removes the signatures of one name.
fn stripped(zone: &str, name: &str) -> String {
    let signature = |line: &&str| line.starts_with(&format!("{name}.\t")) && line.contains("\tRRSIG\tA ");
    let signatures: Vec<_> = zone.split_inclusive('\n').filter(signature).collect();
    assert_eq!(signatures.len(), 1, "{name} in\n{zone}");
    zone.replace(signatures[0], "")
}

fn only_authentic_dnssec_answers_count() {
    let lab = Lab::new();
    let [root, org, late, other] =
        [".", "example.org.", "late.example.org.", "other.example.org."].map(|zone| Keys::new(&lab, zone));
    let [named, elsewhere] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let (here, there) = (named.address().ip(), elsewhere.address().ip());
    let anothers = Keys::new(&lab, "other.example.org.");
    let delegations =
        "plain.example.org. 60 IN NS ns.\nlate.example.org. 60 IN NS ns.\nother.example.org. 60 IN NS ns.\n";
    let truth = org.sign(
        &lab,
        &format!(
            "good.example.org. 60 IN A {here}\nalias.example.org. 60 IN CNAME good.example.org.\n\
             forged.example.org. 60 IN A 192.0.2.77\nstripped.example.org. 60 IN A {there}\n\
             {delegations}{}{}",
            late.ds(),
            other.ds()
        ),
        None,
    );
    let told = stripped(&forged(&truth, "192.0.2.77", &there.to_string()), "stripped.example.org");
    let _knot = Knot::start(
        &lab,
        Host::Web,
        &[
            (
                ".",
                root.sign(
                    &lab,
                    &format!("ns. 60 IN A {here}\nexample.org. 60 IN NS ns.\n{}", org.ds()),
                    None,
                ),
            ),
            ("example.org.", told),
            (
                "plain.example.org.",
                unsigned_zone("plain.example.org.", &format!("a.plain.example.org. 60 IN A {here}\n")),
            ),
            (
                "late.example.org.",
                late.sign(
                    &lab,
                    &format!("a.late.example.org. 60 IN A {there}\n"),
                    Some(["20250101", "20250201"]),
                ),
            ),
            // signed, but with a key that the parent does not vouch for
            (
                "other.example.org.",
                anothers.sign(&lab, &format!("a.other.example.org. 60 IN A {there}\n"), None),
            ),
        ],
    );
    let dir = TempDir::with_prefix("egret-anchors-").unwrap();
    let lies = ["forged", "stripped", "a.late", "a.other"].map(|name| format!("{name}.example.org"));
    let gateway = lab.start_gateway(&config(Some(&format!("[{}]", anchor(&dir, &root)))));
    for name in ["good.example.org", "alias.example.org", "a.plain.example.org"] {
        let flow = reach(&lab, &gateway, named.address(), name, &named);
        assert_eq!(flow["address_check"], "match", "{flow:#}");
        denied(&lab, &gateway, elsewhere.address(), name, "destination_mismatch");
    }
    for name in &lies {
        let flow = denied(&lab, &gateway, elsewhere.address(), name, "resolver_unavailable");
        assert_eq!(flow["address_check"], "unknown", "{flow:#}");
    }
    // the name provably does not exist
    let flow = denied(&lab, &gateway, named.address(), "none.example.org", "destination_mismatch");
    assert_eq!(flow["address_check"], "absent", "{flow:#}");
    drop(gateway);
    // Under the real root's keys, this one is forged.
    let gateway = lab.start_gateway(&config(Some("[\"root\"]")));
    denied(&lab, &gateway, named.address(), "good.example.org", "resolver_unavailable");
    drop(gateway);
    elsewhere.assert_untouched();
    // Without DNSSEC, every answer is accepted.
    let gateway = lab.start_gateway(&config(None));
    for name in &lies {
        reach(&lab, &gateway, elsewhere.address(), name, &elsewhere);
    }
}

fn trust_anchor_requires_signed_answers() {
    let lab = Lab::new();
    let [root, org] = [".", "example.org."].map(|zone| Keys::new(&lab, zone));
    let [named, elsewhere] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let (here, there) = (named.address().ip(), elsewhere.address().ip());
    let records = format!("good.example.org. 60 IN A {here}\nstripped.example.org. 60 IN A {there}\n");
    // The root proves that the zone is not signed.
    let _knot = Knot::start(
        &lab,
        Host::Web,
        &[
            (".", root.sign(&lab, &format!("ns. 60 IN A {here}\nexample.org. 60 IN NS ns.\n"), None)),
            ("example.org.", stripped(&org.sign(&lab, &records, None), "stripped.example.org")),
        ],
    );
    let [of_root, of_org] = [&root, &org].map(|keys| {
        let dir = TempDir::with_prefix("egret-anchors-").unwrap();
        (anchor(&dir, keys), dir)
    });
    let both = format!("[{}, {}]", of_root.0, of_org.0);
    for anchors in [both, format!("[{}]", of_org.0)] {
        let gateway = lab.start_gateway(&config(Some(&anchors)));
        reach(&lab, &gateway, named.address(), "good.example.org", &named);
        denied(&lab, &gateway, elsewhere.address(), "stripped.example.org", "resolver_unavailable");
    }
    elsewhere.assert_untouched();
    // Without the zone's key, the root's proof is enough.
    let gateway = lab.start_gateway(&config(Some(&format!("[{}]", of_root.0))));
    reach(&lab, &gateway, elsewhere.address(), "stripped.example.org", &elsewhere);
}

fn server_stripping_signatures_is_ignored() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let _dns = Dns::start(&lab, Host::Web, &[("good.example.org", server.address().ip())]);
    let gateway = lab.start_gateway(&config(Some("[\"root\"]")));
    denied(&lab, &gateway, server.address(), "good.example.org", "resolver_unavailable");
    server.assert_untouched();
}
