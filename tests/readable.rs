//! Habits of writing that the sources keep.

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
