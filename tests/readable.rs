//! Habits of writing that the sources keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 5] = ["src", "tests", "netns-tests", "fuzz", "benches"];

/// The Rust files of the repository, built ones left out.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = FOLDERS.map(|folder| root.join(folder)).into();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

const LONGEST_TEST_NAME: usize = 8;

/// Names of the functions with a test attribute, and of the trials of `netns-tests/`.
fn test_names(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut lines = code.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let function = lines.find_map(|line| line.trim_start_matches("async ").strip_prefix("fn "));
            names.extend(function.and_then(|rest| rest.split('(').next()));
        }
    }
    for list in code.split("\ncrate::trials! {\n").skip(1) {
        let list = list.split("\n}").next().unwrap();
        let list = list.lines().filter(|line| !line.trim_start().starts_with("//"));
        names.extend(list.flat_map(|line| line.split([',', ';', ' '])).filter(|name| name.contains('_')));
    }
    let single = code.split("Trial::test(\"").skip(1);
    names.extend(single.filter_map(|rest| rest.split('"').next()).filter(|name| name.contains('_')));
    names
}

#[test]
fn test_names_are_short() {
    let mut long = Vec::new();
    for path in sources() {
        let code = fs::read_to_string(&path).unwrap();
        let names = test_names(&code);
        assert!(!names.is_empty() || !code.contains("\ncrate::trials! {"), "{}", path.display());
        let too_long = |name: &&str| name.split('_').count() > LONGEST_TEST_NAME;
        long.extend(names.into_iter().filter(too_long).map(|name| format!("{}: {name}", path.display())));
    }
    assert!(long.is_empty(), "more than {LONGEST_TEST_NAME} words:\n{}", long.join("\n"));
}

#[test]
fn test_names_are_found() {
    let code = "\n    #[test]\n    #[ignore = \"slow\"]\n    fn plain_name() {}\n#[tokio::test(start_paused = true)]\n\
                async fn async_name() {}\nfn no_test() {}\n\ncrate::trials! {\n    both families: ;\n    once:\n        \
                // why\n        first_trial,\n        last_trial\n}\nTrial::test(\"single_trial\", f);\n";
    let names = ["plain_name", "async_name", "first_trial", "last_trial", "single_trial"];
    assert_eq!(test_names(code), names);
}

/// Opening words of a doc comment that a noun phrase or a verb says better.
const OPENINGS: [&str; 4] = ["What", "Whose", "Whether", "Who"];

#[test]
fn docs_open_with_a_term() {
    let mut found = Vec::new();
    for path in sources() {
        let code = fs::read_to_string(&path).unwrap();
        let mut before = None;
        for (number, line) in code.lines().enumerate() {
            let line = line.trim();
            let doc = ["/// ", "//! "].into_iter().find(|mark| line.starts_with(mark));
            let is_first = doc.is_some() && doc != before;
            let word =
                line.split(' ').nth(1).unwrap_or_default().trim_end_matches(|c: char| !c.is_alphabetic());
            if is_first && OPENINGS.contains(&word) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
            before = if line == "///" || line == "//!" { before } else { doc };
        }
    }
    assert!(found.is_empty(), "doc comments that open with a question word:\n{}", found.join("\n"));
}

/// Type names that several files of `src/` may define, each with its reason.
const SHARED_TYPE_NAMES: [&str; 0] = [];

/// Name of the type, trait or alias that a line defines; an associated type is none.
fn type_defined(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let code = code.strip_prefix("pub").map_or(code, |rest| match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or(rest, |(_, rest)| rest).trim_start(),
        None => rest.trim_start(),
    });
    let (keyword, rest) = code.split_once(' ')?;
    let is_alias = keyword == "type" && !line.starts_with(' ');
    let is_type = is_alias || ["struct", "enum", "trait", "union"].contains(&keyword);
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (is_type && name.starts_with(char::is_uppercase)).then_some(name)
}

#[test]
fn type_names_have_one_meaning() {
    let mut files: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources().into_iter().filter(|path| path.starts_with(&root)) {
        let code = fs::read_to_string(&path).unwrap();
        for name in code.lines().filter_map(type_defined) {
            files.entry(name.to_owned()).or_default().insert(path.clone());
        }
    }
    assert!(files.len() > 500, "only {} types found", files.len());
    files.retain(|name, files| files.len() > 1 && !SHARED_TYPE_NAMES.contains(&name.as_str()));
    assert!(files.is_empty(), "type names defined in more than one file: {files:#?}");
}

#[test]
fn type_definitions_are_found() {
    assert_eq!(type_defined("pub(in crate::sys) struct Held<'a> {"), Some("Held"));
    assert_eq!(type_defined("    enum Inner {"), Some("Inner"));
    assert_eq!(type_defined("pub type Alias = u8;"), Some("Alias"));
    for other in ["    type Item = u8;", "/// struct Held", "use super::Held;", "let type_name = 1;"] {
        assert_eq!(type_defined(other), None, "{other}");
    }
}

/// True if a line prints a field of a log line as `{:?}` does, which is no text for people.
fn logs_debug_form(line: &str) -> bool {
    line.match_indices('?').any(|(at, _)| {
        let is_field =
            line[at + 1..].starts_with(|next: char| next.is_ascii_lowercase() || "&(_".contains(next));
        let before = line[..at].trim();
        is_field && (before.is_empty() || before.ends_with([',', '(', '=']))
    })
}

#[test]
fn log_lines_print_no_debug_form() {
    assert!(
        logs_debug_form("tracing::warn!(?peer, \"refused\");") && logs_debug_form("    ?peer, state = 1,")
    );
    assert!(logs_debug_form("f(state = ?socket.state)") && !logs_debug_form("let a = b?; (c, d?.e)"));
    let mut found = Vec::new();
    for path in sources()
        .into_iter()
        .filter(|path| path.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")))
    {
        let code = fs::read_to_string(&path).unwrap();
        let lines = code.lines().filter(|line| logs_debug_form(line));
        found.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(found.is_empty(), "log lines with a Debug form:\n{}", found.join("\n"));
}
