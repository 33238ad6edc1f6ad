use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use tempfile::TempDir;

/// Content of a folder, by relative path.
type Content = BTreeMap<String, String>;

struct Folders {
    root: TempDir,
}

fn write_all(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn content(folder: &Path) -> Content {
    fn walk(folder: &Path, root: &Path, found: &mut Content) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = Content::new();
    walk(folder, folder, &mut found);
    found
}

fn expected(files: &[(&str, &str)]) -> Content {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

impl Folders {
    fn new(running: &[(&str, &str)], candidate: &[(&str, &str)]) -> Self {
        let folders = Self { root: tempfile::tempdir().unwrap() };
        write_all(&folders.running(), running);
        write_all(&folders.candidate(), candidate);
        folders
    }

    fn running(&self) -> PathBuf {
        self.root.path().join("etc")
    }

    fn candidate(&self) -> PathBuf {
        self.root.path().join("next")
    }

    fn set(main: &Path, files: &[&str]) -> FileSet {
        let folder = main.parent().unwrap();
        let read = |path: PathBuf| {
            let digest = digest_of(&fs::read(&path).unwrap());
            FileRead { path, digest }
        };
        let files = files.iter().map(|name| read(folder.join(name))).collect();
        FileSet { main: main.to_owned(), files }
    }
}

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;
const KEPT_NOW: &str = "replaced/19700101T000000.000Z";

#[test]
fn promotion_replaces_files_and_keeps_backups() {
    let folders = Folders::new(
        &[
            ("egret.toml", "old"),
            ("policy.d/gone.toml", "gone"),
            ("policy.d/same.toml", "same"),
            ("policy.d/.hidden.toml", "an editor's"),
            ("allow/names.txt", "a"),
        ],
        &[
            ("next.toml", "new"),
            ("policy.d/same.toml", "same"),
            ("policy.d/fresh.toml", "fresh"),
            ("allow/names.txt", "a b"),
        ],
    );
    let running = Folders::set(
        &folders.running().join("egret.toml"),
        &["egret.toml", "policy.d/gone.toml", "policy.d/same.toml", "allow/names.txt"],
    );
    let candidate = Folders::set(
        &folders.candidate().join("next.toml"),
        &["next.toml", "policy.d/same.toml", "policy.d/fresh.toml", "allow/names.txt"],
    );
    let mode = 0o640;
    fs::set_permissions(folders.running().join("egret.toml"), fs::Permissions::from_mode(mode)).unwrap();
    let before = content(&folders.running());
    let written = write(&running, &candidate, NOW).unwrap();
    let kept = |name: &str| format!("{KEPT_NOW}/{name}");
    assert_eq!(
        content(&folders.running()),
        expected(&[
            ("egret.toml", "new"),
            ("policy.d/same.toml", "same"),
            ("policy.d/fresh.toml", "fresh"),
            ("policy.d/.hidden.toml", "an editor's"),
            ("allow/names.txt", "a b"),
            (&kept("egret.toml"), "old"),
            (&kept("policy.d/gone.toml"), "gone"),
            (&kept("allow/names.txt"), "a"),
        ])
    );
    for name in ["egret.toml", "policy.d/fresh.toml", &kept("egret.toml")] {
        let found = fs::metadata(folders.running().join(name)).unwrap().mode() & 0o777;
        assert_eq!(found, mode, "the mode of {name}");
    }
    assert_eq!((written.replaced.len(), written.removed.len()), (3, 1));

    written.take_back().unwrap();
    let mut after = content(&folders.running());
    after.retain(|name, _| !name.starts_with(KEPT));
    assert_eq!(after, before);
}

#[test]
fn only_the_changed_file_is_replaced() {
    let folders = Folders::new(
        &[("egret.toml", "old"), ("next.toml", "new"), ("policy.d/a.toml", "a"), ("names.txt", "n")],
        &[],
    );
    let running =
        Folders::set(&folders.running().join("egret.toml"), &["egret.toml", "policy.d/a.toml", "names.txt"]);
    let candidate =
        Folders::set(&folders.running().join("next.toml"), &["next.toml", "policy.d/a.toml", "names.txt"]);
    let written = write(&running, &candidate, NOW).unwrap();
    assert_eq!(written.replaced, [folders.running().join("egret.toml")]);
    assert!(written.removed.is_empty());
    assert_eq!(content(&folders.running())["egret.toml"], "new");
    // The main file in place, edited and loaded as candidate: nothing is left to write.
    let edited = Folders::set(&running.main, &["egret.toml", "policy.d/a.toml", "names.txt"]);
    assert!(write(&running, &edited, NOW).unwrap().replaced.is_empty());
}

#[test]
fn changed_running_files_are_not_overwritten() {
    let folders = Folders::new(&[("egret.toml", "old")], &[("egret.toml", "new")]);
    let running = Folders::set(&folders.running().join("egret.toml"), &["egret.toml"]);
    let candidate = Folders::set(&folders.candidate().join("egret.toml"), &["egret.toml"]);
    let refused = |wanted: &str| {
        let before = content(folders.root.path());
        let error = write(&running, &candidate, NOW).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(content(folders.root.path()), before);
    };
    write_all(&folders.running(), &[("egret.toml", "edited")]);
    refused("is not what the gateway ran on");
    write_all(&folders.running(), &[("egret.toml", "old"), ("policy.d/new.toml", "new")]);
    refused("policy.d/new.toml is not what the gateway ran on");
    fs::remove_dir_all(folders.running().join("policy.d")).unwrap();
    write_all(&folders.candidate(), &[("egret.toml", "edited")]);
    refused("is not what was loaded as candidate");
    fs::remove_file(folders.candidate().join("egret.toml")).unwrap();
    refused("is not what was loaded as candidate");
}

#[test]
fn conflicting_file_path_is_refused() {
    let folders = Folders::new(&[("egret.toml", "old")], &[("egret.toml", "new")]);
    write_all(folders.root.path(), &[("next/x", ""), ("names.txt", "n")]);
    let running = Folders::set(&folders.running().join("egret.toml"), &["egret.toml"]);
    let main = folders.candidate().join("egret.toml");
    // The same file for both.
    let candidate = Folders::set(&main, &["egret.toml", "../names.txt"]);
    assert_eq!(write(&running, &candidate, NOW).unwrap().replaced.len(), 1);
    write_all(&folders.running(), &[("egret.toml", "old")]);
    let deeper = folders.candidate().join("deep/egret.toml");
    write_all(folders.root.path(), &[("next/deep/egret.toml", "new"), ("next/names.txt", "other")]);
    let candidate = Folders::set(&deeper, &["egret.toml", "../names.txt"]);
    let error = write(&running, &candidate, NOW).unwrap_err();
    assert!(matches!(error, Error::Outside(_)), "{error}");
    assert_eq!(content(&folders.running())["egret.toml"], "old");
}

#[test]
fn failed_write_changes_no_file() {
    // The name fits, but the longer one of its temporary file does not.
    let long = format!("{}.txt", "n".repeat(248));
    for (there, wanted) in [("allow", "allow/names.txt"), ("other", &long)] {
        let folders = Folders::new(
            &[("egret.toml", "old"), (there, "a file where a folder may have to be")],
            &[("egret.toml", "new"), (wanted, "n")],
        );
        let running = Folders::set(&folders.running().join("egret.toml"), &["egret.toml"]);
        let candidate = Folders::set(&folders.candidate().join("egret.toml"), &["egret.toml", wanted]);
        let before = content(folders.root.path());
        let error = write(&running, &candidate, NOW).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(content(folders.root.path()), before, "{error}");
    }
}

#[test]
fn links_are_kept_and_followed() {
    let folders = Folders::new(
        &[("egret.toml", "old"), ("lists/names.txt", "a")],
        &[("egret.toml", "new"), ("names.txt", "a b")],
    );
    let (link, target) = (folders.running().join("names.txt"), folders.running().join("lists/names.txt"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let running = Folders::set(&folders.running().join("egret.toml"), &["egret.toml", "names.txt"]);
    let candidate = Folders::set(&folders.candidate().join("egret.toml"), &["egret.toml", "names.txt"]);
    write(&running, &candidate, NOW).unwrap().take_back().unwrap();
    assert!(link.is_symlink() && fs::read_to_string(&target).unwrap() == "a");
    // A link that leads nowhere, which the running configuration does not read.
    fs::remove_file(&target).unwrap();
    let running = Folders::set(&folders.running().join("egret.toml"), &["egret.toml"]);
    let error = write(&running, &candidate, NOW).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == link), "{error}");
    assert!(link.is_symlink() && fs::read_to_string(&running.main).unwrap() == "old");
}

#[test]
fn failed_rename_restores_all_files() {
    let folders = Folders::new(
        &[("egret.toml", "old"), ("policy.d/gone.toml", "gone")],
        &[("egret.toml", "new"), ("policy.d/fresh.toml", "fresh"), ("policy.d/later.toml", "later")],
    );
    let (folder, main) = (folders.running(), folders.running().join("egret.toml"));
    let running = Folders::set(&main, &["egret.toml", "policy.d/gone.toml"]);
    let candidate = Folders::set(
        &folders.candidate().join("egret.toml"),
        &["egret.toml", "policy.d/fresh.toml", "policy.d/later.toml"],
    );
    let kept = folder.join(KEPT_NOW);
    let steps = prepare(plan(&running, &candidate, &folder).unwrap(), &folder, &main, &kept).unwrap();
    assert_eq!(
        content(&folder).keys().filter(|name| name.contains(".toml.new")).count(),
        3,
        "all is written beside"
    );
    // A folder takes the place of the second file.
    write_all(&folder, &[("policy.d/fresh.toml/x", "in the way")]);
    let error = carry_out(steps, kept).unwrap_err();
    let Error::Io { path, .. } = &error else { panic!("{error}") };
    assert_eq!(*path, folder.join("policy.d/fresh.toml"));
    let mut after = content(&folder);
    assert_eq!(
        after.remove(&format!("{KEPT_NOW}/egret.toml")).as_deref(),
        Some("old"),
        "it was replaced once"
    );
    assert_eq!(
        after,
        expected(&[
            ("egret.toml", "old"),
            ("policy.d/gone.toml", "gone"),
            ("policy.d/fresh.toml/x", "in the way"),
        ])
    );
}
