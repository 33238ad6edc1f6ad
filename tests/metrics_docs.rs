//! docs/metrics.md is what the catalogue says. After a change of the catalogue: `EGRET_BLESS=1 cargo test --test
//! metrics_docs` writes it anew.

use std::path::Path;

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let wanted = egret::telemetry::catalogue::reference();
    if std::env::var_os("EGRET_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == wanted, "docs/metrics.md is out of date; run this test again with EGRET_BLESS=1");
}
