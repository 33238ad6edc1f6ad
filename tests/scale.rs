//! Memory per name, from its line in a hosts file to the compiled policy: a million must fit 250 MB.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use nix::sys::resource::{UsageWho, getrusage};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const TENANTS: usize = 200;
const NAMES_PER_RULE: usize = 100;

/// Writes a configuration of [`TENANTS`] tenants with this many rules each, every rule with a hosts file.
fn write(folder: &Path, rules: usize) {
    let mut main =
        "steering = { interfaces = [\"ens6\"] }\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n"
            .to_owned();
    for tenant in 0..TENANTS {
        write!(main, "[[tenant]]\nname = \"t{tenant}\"\nsources = [\"10.0.0.{tenant}\"]\npool = \"p\"\n")
            .unwrap();
        for rule in 0..rules {
            let file = format!("{tenant}-{rule}.txt");
            write!(main, "[[tenant.allow]]\nhosts_file = {file:?}\nports = [443]\n").unwrap();
            let name = |n: usize| format!("api-{n:x}.rule-{rule}.tenant-{tenant}.example.com\n");
            std::fs::write(folder.join(file), (0..NAMES_PER_RULE).map(name).collect::<String>()).unwrap();
        }
    }
    std::fs::write(folder.join("egret.toml"), main).unwrap();
}

/// Peak memory of any child so far, in bytes, after running one that loads the configuration and answers a query.
fn peak_after_asking(folder: &Path) -> i64 {
    let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
    egret.args(["explain", "--from", "10.0.0.7", "--to", "api-0.rule-0.tenant-7.example.com", "--config"]);
    let output = egret.arg(folder.join("egret.toml")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() * 1024
}

#[test]
fn million_names_fit_250_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1);
    let few = peak_after_asking(folder.path());
    write(folder.path(), 11);
    let many = peak_after_asking(folder.path());
    let more_names = i64::try_from(TENANTS * 10 * NAMES_PER_RULE).unwrap();
    let per_name = (many - few) / more_names;
    assert!((50..230).contains(&per_name), "{per_name} bytes a name: {few} bytes before, {many} after");
}
