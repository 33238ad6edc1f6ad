//! The documents are correct: the README's configuration loads, and links resolve.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use egret::outcome::Outcome;
use egret::policy::can_be_waived;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn readmes_configuration_loads_without_a_warning() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let toml = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.toml");
    fs::write(&path, toml).unwrap();
    let loaded = egret::config::load(&path).unwrap_or_else(|report| panic!("refused:\n{report}"));
    assert_eq!(loaded.warnings, []);
}

#[test]
fn demos_configuration_loads_without_a_warning() {
    let path = root().join("scripts/demo/egret.toml");
    let loaded = egret::config::load(&path).unwrap_or_else(|report| panic!("refused:\n{report}"));
    assert_eq!(loaded.warnings, []);
}

/// The documents, here and in docs/.
fn pages() -> Vec<PathBuf> {
    let pages = [root().to_owned(), root().join("docs")].into_iter().flat_map(|folder| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    });
    pages.collect()
}

#[test]
fn documents_name_existing_files() {
    let mut checked = 0;
    let mut missing = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        // Every other piece is between backticks; one with a space is a command, not a path.
        for named in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "netns-tests/", "scripts/", "fuzz/"]
                .iter()
                .any(|folder| named.starts_with(folder));
            if is_path && !named.contains(char::is_whitespace) {
                checked += 1;
                if !root().join(named).exists() {
                    missing.push(format!("{}: {named}", page.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(checked > 20, "only {checked} paths found");
}

#[test]
fn documents_have_no_conflict_markers() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let marks = ["<<<<<<<", "=======", ">>>>>>>"];
        let left = text.lines().position(|line| marks.iter().any(|mark| line.starts_with(mark)));
        assert_eq!(left, None, "{}, lines counted from 0", page.display());
    }
}

#[test]
fn document_links_resolve() {
    let mut checked = 0;
    let mut dead = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            checked += 1;
            if !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert!(checked > 10, "only {checked} links found");
}

/// docs/performance.md is generated on a quiet machine, so its numbers are not checked; its completeness is.
#[test]
fn performance_page_is_complete() {
    let page = fs::read_to_string(root().join("docs/performance.md")).unwrap();
    for section in
        ["This run", "Side by side", "On one worker", "Memory", "System calls", "What grows", "Method"]
    {
        assert!(page.contains(&format!("\n## {section}\n")), "no section {section}: run scripts/bench.sh");
    }
    for plot in ["throughput", "cost", "memory", "growth"] {
        let file = format!("performance/{plot}.svg");
        assert!(page.contains(&format!("]({file})")), "no picture {plot}");
        assert!(fs::read_to_string(root().join("docs").join(&file)).unwrap().starts_with("<svg"), "{file}");
    }
    assert!(!page.contains("NaN"), "a number is missing");
}

#[test]
fn modes_page_names_every_waived_denial() {
    let page = fs::read_to_string(root().join("docs/modes.md")).unwrap();
    let leaves: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | leaves"))
        .flat_map(|(names, _)| names.split('`').skip(1).step_by(2))
        .collect();
    let waived =
        Outcome::ALL.iter().filter(|outcome| can_be_waived(**outcome)).map(|outcome| outcome.as_str());
    assert_eq!(leaves, waived.collect());
}
