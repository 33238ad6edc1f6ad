//! scripts/install.sh, tried out in a directory: what it installs, what it keeps, what it removes.

#![allow(missing_docs, clippy::unwrap_used)] // helpers outside #[test] are tests too

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const INSTALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh");

fn run(root: &Path, arguments: &[&str]) -> Output {
    Command::new(INSTALL).arg("--root").arg(root).args(arguments).output().unwrap()
}

fn install(root: &Path) -> String {
    let output = run(root, &["--binary", env!("CARGO_BIN_EXE_egret")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below a directory, with its permissions.
fn files(root: &Path) -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert((name, entry.metadata().unwrap().permissions().mode() & 0o777));
            }
        }
    }
    found
}

#[test]
fn everything_is_put_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let said = install(root.path());
    assert!(said.contains("no user made, no owners set"), "{said}");
    let expected = [
        ("etc/egret/egret.toml", 0o640),
        ("etc/logrotate.d/egret", 0o644),
        ("etc/systemd/networkd.conf.d/50-egret.conf", 0o644),
        ("etc/systemd/system/egret-steering.service", 0o644),
        ("etc/systemd/system/egret.service", 0o644),
        ("usr/bin/egret", 0o755),
        ("usr/lib/egret/steer.sh", 0o755),
    ];
    assert_eq!(files(root.path()), expected.map(|(name, mode)| (name.to_owned(), mode)).into());
}

#[test]
fn an_edited_configuration_survives_upgrade_and_uninstall() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("etc/egret/egret.toml");
    install(root.path());
    fs::write(&config, "# mine\n").unwrap();
    let said = install(root.path());
    assert!(said.contains("kept"), "{said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    assert!(run(root.path(), &["--uninstall"]).status.success());
    assert_eq!(files(root.path()), [("etc/egret/egret.toml".to_owned(), 0o640)].into());
    assert!(run(root.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(files(root.path()), BTreeSet::new());
}

#[test]
fn without_binary_it_takes_what_cargo_built_or_says_how_to() {
    let (root, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = || {
        let mut command = Command::new(INSTALL);
        command.arg("--root").arg(root.path()).env("CARGO_TARGET_DIR", target.path());
        command.output().unwrap()
    };
    let refused = run();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("cargo build --release"), "{said}");
    fs::create_dir(target.path().join("release")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_egret"), target.path().join("release/egret")).unwrap();
    assert!(run().status.success());
    assert!(root.path().join("usr/bin/egret").exists());
}

#[test]
fn another_prefix_is_written_into_the_units() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), &["--binary", env!("CARGO_BIN_EXE_egret"), "--prefix", "/opt/egret"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let unit = |name| fs::read_to_string(root.path().join("etc/systemd/system").join(name)).unwrap();
    assert!(
        unit("egret.service").contains("ExecStart=/opt/egret/bin/egret run --config /etc/egret/egret.toml\n")
    );
    let steering = unit("egret-steering.service");
    assert!(steering.contains("ExecStart=/opt/egret/lib/egret/steer.sh up"), "{steering}");
    assert!(steering.contains("--egret /opt/egret/bin/egret "), "{steering}");
    assert!(!steering.contains("/usr/"), "{steering}");
}

#[test]
fn what_makes_no_sense_is_refused_and_installs_nothing() {
    let root = tempfile::tempdir().unwrap();
    for arguments in [
        &["--binary", "/does/not/exist"][..],
        &["--purge"],
        &["--prefix", "relative"],
        &["--prefix", "/a|b"],
        &["--binary"],
        &["--frobnicate"],
    ] {
        assert!(!run(root.path(), arguments).status.success(), "{arguments:?}");
    }
    assert_eq!(files(root.path()), BTreeSet::new());
}
