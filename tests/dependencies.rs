//! Licences and origins of everything that is built into Egret, as `cargo metadata` reports them.
//!
//! Known vulnerabilities are not looked up: the advisory database is on the network and changes from day to day.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use serde_json::Value;
use spdx::{Expression, LicenseItem, ParseMode};
use std::process::Command;

/// Licences that code built into Egret may have.
const ALLOWED: [&str; 9] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// The only place that crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The packages of Cargo.lock, without this one.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Value::Array(mut packages) = metadata["packages"].take() else { panic!("no packages") };
    packages.retain(|package| package["name"] != "egret");
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// Reason why the package may not be built in; `None` if it may.
fn objection(package: &Value) -> Option<String> {
    if package["source"] != REGISTRY {
        return Some(format!("comes from {}", package["source"]));
    }
    let Some(license) = package["license"].as_str() else { return Some("names no licence".to_owned()) };
    let Ok(expression) = Expression::parse_mode(license, ParseMode::LAX) else {
        return Some(format!("has a licence that cannot be read: {license}"));
    };
    let allowed = |licence: &LicenseItem| match licence {
        LicenseItem::Spdx { id, .. } => ALLOWED.contains(&id.name),
        LicenseItem::Other { .. } => false,
    };
    // An addition such as `WITH LLVM-exception` only permits more.
    (!expression.evaluate(|requirement| allowed(&requirement.license)))
        .then(|| format!("has a licence that is not on the list: {license}"))
}

#[test]
fn dependencies_have_allowed_licences_and_origins() {
    let named = |package: &Value| objection(package).map(|why| format!("{} {why}", package["name"]));
    let objections: Vec<_> = packages().iter().filter_map(named).collect();
    assert!(objections.is_empty(), "{objections:#?}");
}

#[test]
fn unknown_licences_and_origins_are_refused() {
    let package = |source: &str, license: &str| serde_json::json!({ "source": source, "license": license });
    let allowed = ["MIT", "MIT/Apache-2.0", "GPL-3.0-only OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"];
    for license in allowed {
        assert_eq!(objection(&package(REGISTRY, license)), None, "{license}");
    }
    for license in ["GPL-3.0-only", "MIT AND MPL-2.0", "", "proprietary words"] {
        assert!(objection(&package(REGISTRY, license)).is_some(), "{license}");
    }
    assert!(objection(&package("git+https://git.example.org/x", "MIT")).is_some());
}
