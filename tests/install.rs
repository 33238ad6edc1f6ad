//! scripts/install.sh, run in a directory: installation, upgrade, removal.

#![allow(missing_docs, clippy::unwrap_used)] // helpers outside #[test] are tests too

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
fn all_files_are_installed() {
    let root = tempfile::tempdir().unwrap();
    let said = install(root.path());
    assert!(said.contains("no user created, no owners set"), "{said}");
    let expected = [
        ("etc/egret/egret.toml", 0o640),
        ("etc/logrotate.d/egret", 0o644),
        ("etc/systemd/networkd.conf.d/50-egret.conf", 0o644),
        ("usr/bin/egret", 0o755),
        ("usr/lib/debug/usr/bin/egret.debug", 0o644),
        ("usr/lib/egret/down.sh", 0o644),
        ("usr/lib/egret/steer.sh", 0o755),
        ("usr/share/bash-completion/completions/egret", 0o644),
        ("usr/share/fish/vendor_completions.d/egret.fish", 0o644),
        ("usr/share/zsh/vendor-completions/_egret", 0o644),
    ];
    let mut found = files(root.path());
    // Manual pages, one for each subcommand: it is enough that some exist.
    let pages: BTreeSet<_> =
        found.iter().filter(|(name, _)| name.starts_with("usr/share/man/man1/")).cloned().collect();
    assert!(pages.contains(&("usr/share/man/man1/egret-reload.1".to_owned(), 0o644)), "{pages:?}");
    // So it is for the documents, whose paths are those of the repository.
    let is_document = |name: &str| name.starts_with("usr/share/doc/egret/");
    assert!(found.contains(&("usr/share/doc/egret/docs/config.md".to_owned(), 0o644)), "{found:?}");
    found.retain(|file| !pages.contains(file) && !is_document(&file.0));
    let deployed = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy")).unwrap();
    let deployed = deployed.map(|file| file.unwrap().file_name().into_string().unwrap());
    let units = deployed
        .filter(|name| name.rsplit_once('.').is_some_and(|(_, kind)| matches!(kind, "service" | "path")));
    let mut expected: BTreeSet<_> = expected.map(|(name, mode)| (name.to_owned(), mode)).into();
    expected.extend(units.map(|name| (format!("etc/systemd/system/{name}"), 0o644)));
    assert_eq!(found, expected);
}

/// Paths that documents name and that something else than the installation makes.
const MADE_LATER: [(&str, &str); 12] = [
    ("/run/egret/", "RuntimeDirectory=egret"),
    ("/run/egret-steering/", "/run/egret-steering/state"),
    ("/var/lib/egret/", "-g egret /var/lib/egret "),
    ("/var/lib/egret-steering/", "--keep /var/lib/egret-steering"),
    ("/var/log/egret/", " /var/log/egret\n"),
    ("/etc/default/egret-steering", "EnvironmentFile=-/etc/default/egret-steering"),
    // Operators make these as the page says.
    ("/etc/egret/candidate.toml", ""),
    ("/etc/egret/policy-tests.toml", ""),
    ("/etc/egret/corp.example.key", ""),
    ("/etc/egret-next", ""),
    ("/etc/prometheus/egret-rules.yml", ""),
    ("/var/tmp/egret", ""),
];

/// The text's paths, absolute ones that belong to Egret and those of the repository's documents.
fn named_paths(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let words = text.split(|c| !is_part(c)).map(|word| word.trim_end_matches('.'));
    let is_egrets = |word: &str| {
        let roots = ["/etc/", "/usr/", "/var/", "/run/", "/opt/egret/"];
        roots.iter().any(|root| word.starts_with(root)) && word.contains("egret")
    };
    let is_document = |word: &str| {
        ["docs/", "examples/", "deploy/"].iter().any(|folder| word.starts_with(folder))
            && !word.ends_with('/')
    };
    words.filter(|word| is_egrets(word) || is_document(word)).map(str::to_owned).collect()
}

fn texts_below(folder: &str, ending: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let names = files(&root).into_iter().map(|(name, _)| name).filter(|name| name.ends_with(ending));
    names.map(|name| (name.clone(), fs::read_to_string(root.join(&name)).unwrap())).collect()
}

#[test]
fn paths_in_documents_and_messages_exist() {
    let root = tempfile::tempdir().unwrap();
    install(root.path());
    let makers = texts_below("deploy", "").into_iter().chain(texts_below("scripts", "steer.sh"));
    let units: String = makers.map(|(_, text)| text).collect();
    for (path, maker) in MADE_LATER {
        assert!(units.contains(maker), "{path}: nothing has {maker}");
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let mut texts = vec![("README.md".to_owned(), readme)];
    texts.extend(texts_below("docs", ".md"));
    let sources = texts_below("src", ".rs").into_iter();
    texts.extend(sources.map(|(name, text)| (name, text.split("#[cfg(test)]").next().unwrap().to_owned())));
    texts.extend(texts_below("deploy", ""));
    let (mut checked, mut missing) = (0, Vec::new());
    for (file, text) in texts {
        for path in named_paths(&text) {
            let is_later = MADE_LATER.iter().any(|(made, _)| format!("{path}/").starts_with(made));
            let there = match path.strip_prefix('/') {
                Some(path) => root.path().join(path),
                None => root.path().join("usr/share/doc/egret").join(&path),
            };
            checked += 1;
            if !is_later && !there.exists() {
                missing.push(format!("{file}: {path}"));
            }
        }
    }
    assert!(missing.is_empty() && checked > 200, "{checked} checked, missing: {missing:#?}");
}

#[test]
fn edited_configuration_survives_upgrade_and_uninstall() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("etc/egret/egret.toml");
    install(root.path());
    let mine = format!("# mine\n{}", fs::read_to_string(&config).unwrap());
    fs::write(&config, &mine).unwrap();
    let said = install(root.path());
    assert!(said.contains("kept"), "{said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), mine);
    assert!(run(root.path(), &["--uninstall"]).status.success());
    assert_eq!(files(root.path()), [("etc/egret/egret.toml".to_owned(), 0o640)].into());
    assert!(run(root.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(files(root.path()), BTreeSet::new());
}

/// As an older version left folders that it made with an open umask.
#[test]
fn upgrade_uses_nothing_that_others_left() {
    let root = tempfile::tempdir().unwrap();
    install(root.path());
    let theirs = root.path().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    let installed: Vec<_> = files(root.path()).into_iter().map(|(name, _)| name).collect();
    let kept = |name: &str| name == "theirs" || name == "etc/egret/egret.toml";
    let installed: Vec<_> =
        installed.into_iter().filter(|name| !kept(name)).map(|name| root.path().join(name)).collect();
    for file in &installed {
        fs::hard_link(&theirs, format!("{}.new", file.display())).unwrap();
        fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    }
    install(root.path());
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    for file in &installed {
        let (mode, folder) = (fs::metadata(file).unwrap(), fs::metadata(file.parent().unwrap()).unwrap());
        assert_ne!(mode.ino(), fs::metadata(&theirs).unwrap().ino(), "{file:?}");
        assert_eq!(folder.permissions().mode() & 0o002, 0, "{file:?}");
    }
    let library = fs::metadata(root.path().join("usr/lib/egret")).unwrap();
    assert_eq!(library.permissions().mode() & 0o777, 0o755);
}

#[test]
fn installer_defaults_to_the_cargo_build() {
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
fn binary_is_checked_before_replacement() {
    let root = tempfile::tempdir().unwrap();
    install(root.path());
    let before = files(root.path());
    let stand_in = root.path().join("stand-in");
    for (what, script, said) in [
        ("one that fails", "exit 1", "does not run on this machine"),
        ("another program", "echo other 1.0", "is not egret"),
        ("one that does not start", "", "does not run on this machine"),
    ] {
        let text = if script.is_empty() { "\x7fELF".to_owned() } else { format!("#!/bin/sh\n{script}\n") };
        executable(&stand_in, &text);
        let refused = run(root.path(), &["--binary", stand_in.to_str().unwrap()]);
        assert!(!refused.status.success(), "{what}");
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(message.contains(said), "{what}: {message}");
        fs::remove_file(&stand_in).unwrap();
        assert_eq!(files(root.path()), before, "{what}");
    }
    // The installed configuration is checked too.
    fs::write(root.path().join("etc/egret/egret.toml"), "[steering]\nintrefaces = []\n").unwrap();
    let refused = run(root.path(), &["--binary", env!("CARGO_BIN_EXE_egret")]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("intrefaces"), "{refused:?}");
    assert!(run(root.path(), &["--binary", env!("CARGO_BIN_EXE_egret"), "--force"]).status.success());
}

#[test]
fn umask_does_not_change_permissions() {
    for umask in ["000", "002", "077"] {
        let root = tempfile::tempdir().unwrap();
        let script = format!("umask {umask}; exec {INSTALL} --root \"$0\" --binary \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(root.path()).arg(env!("CARGO_BIN_EXE_egret"));
        assert!(command.output().unwrap().status.success(), "umask {umask}");
        for folder in
            ["usr/lib/egret", "usr/bin", "etc/systemd/system", "etc/systemd/networkd.conf.d", "etc/egret"]
        {
            let mode = fs::metadata(root.path().join(folder)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o755, "umask {umask}: {folder} is {mode:o}");
        }
    }
}

#[test]
fn another_prefix_is_written_into_the_units() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), &["--binary", env!("CARGO_BIN_EXE_egret"), "--prefix", "/opt/egret"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let unit = |name| fs::read_to_string(root.path().join("etc/systemd/system").join(name)).unwrap();
    let gateway = unit("egret.service");
    assert!(
        gateway.contains("ExecStart=/opt/egret/bin/egret run --config /etc/egret/egret.toml "),
        "{gateway}"
    );
    let steering = unit("egret-steering.service");
    assert!(steering.contains("ExecStart=/opt/egret/lib/egret/steer.sh up"), "{steering}");
    assert!(steering.contains("--egret /opt/egret/bin/egret "), "{steering}");
    assert!(!steering.contains("/usr/"), "{steering}");
    // Another one is not passed over in silence; without one, that of the installation counts.
    let refused = run(root.path(), &["--uninstall", "--prefix", "/usr"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("installed as /opt/egret/bin/egret"));
    assert!(run(root.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(files(root.path()), BTreeSet::new());
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn older_binary_is_installed_whole() {
    let (root, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = programs.path().join("egret");
    let real = env!("CARGO_BIN_EXE_egret");
    executable(
        &old,
        &format!("#!/bin/sh\ncase $1 in man | completions) exit 2 ;; esac\nexec {real} \"$@\"\n"),
    );
    // It takes apart programs alone.
    executable(
        &programs.path().join("objcopy"),
        "#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\ncp \"$1\" \"$2\"\n",
    );
    install(root.path());
    let mut command = Command::new(INSTALL);
    command.arg("--root").arg(root.path()).arg("--binary").arg(&old);
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("this binary has no `egret man`") && said.contains("`egret completions zsh`"));
    assert!(said.contains("installed into"), "{said}");
    let left = files(root.path()).into_iter().map(|(name, _)| name);
    let left: Vec<_> = left
        .filter(|name| name.contains(".new") || name.contains("/man1/") || name.contains("completions/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn unmounted_configuration_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    for link in ["etc/egret", "etc/egret/egret.toml"] {
        let link = root.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/mnt/not-mounted", &link).unwrap();
        let refused = run(root.path(), &["--binary", env!("CARGO_BIN_EXE_egret"), "--force"]);
        assert!(!refused.status.success(), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("a link to /mnt/not-mounted, which is not there"), "{said}");
        fs::remove_file(&link).unwrap();
        assert_eq!(files(root.path()), BTreeSet::new());
    }
}

#[test]
fn one_installer_runs_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new("flock");
    command.arg(root.path()).arg(INSTALL).arg("--root").arg(root.path());
    let refused = command.args(["--binary", env!("CARGO_BIN_EXE_egret")]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another install.sh"), "{refused:?}");
    assert_eq!(files(root.path()), BTreeSet::new());
}

#[test]
fn purge_leaves_no_setting_in_force() {
    let root = tempfile::tempdir().unwrap();
    install(root.path());
    for file in ["etc/default/egret-steering", "etc/systemd/system/egret.service.d/override.conf"] {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    assert!(run(root.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(files(root.path()), BTreeSet::new());
}

#[test]
fn invalid_options_install_nothing() {
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
