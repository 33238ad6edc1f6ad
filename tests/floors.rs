//! Imports agree with ARCHITECTURE.md's table of floors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Room to floor, from the table of ARCHITECTURE.md.
fn floors() -> BTreeMap<String, u32> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let house = page.split("## ").find(|section| section.starts_with("The house")).unwrap();
    house
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let floor = cells.next()?.parse().ok()?;
            Some((cells.next()?.trim_matches('`').to_owned(), floor))
        })
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The room that a file belongs to: the first part of its path, without `.rs`.
fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names by `crate::…`, in imports and in paths.
fn rooms_named_in(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let lines: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    for rest in lines.join("\n").split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            // use crate::{a, b::c};
            Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            rooms.push(name[..end].to_owned());
        }
    }
    rooms
}

/// Files that have a shared map, and its field.
const SHARED_MAPS: [(&str, &str); 2] = [("src/egress/ledger.rs", "books"), ("src/flow/table.rs", "flows")];

/// A guard of such a map locks a shard: a second access to the map under a guard could deadlock. So every lookup
/// returns a clone of an `Arc`, and no file returns or stores a guard.
#[test]
fn guards_of_shared_maps_stay_in_one_expression() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    for path in files {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let field = SHARED_MAPS.iter().find(|(file, _)| *file == name).map(|(_, field)| field);
        assert_eq!(text.contains("dashmap"), field.is_some(), "{name}: see SHARED_MAPS");
        let Some(field) = field else { continue };
        assert!(!text.contains("mapref"), "{name} passes a guard on");
        for statement in text.split(';') {
            let looks = ["get", "get_mut", "entry", "iter", "iter_mut"]
                .iter()
                .any(|look| statement.contains(&format!(".{field}.{look}(")));
            assert!(!looks || statement.contains("Arc::clone(&"), "{name} keeps a guard:{statement}");
        }
    }
}

#[test]
fn imports_go_only_to_lower_floors() {
    let floors = floors();
    assert!(floors.len() > 10, "the table of ARCHITECTURE.md was not found: {floors:?}");
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let room = room_of(file);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some(floor) = floors.get(&room) else {
            wrong.push(format!("{}: the room `{room}` is not in ARCHITECTURE.md", file.display()));
            continue;
        };
        for named in rooms_named_in(&fs::read_to_string(file).unwrap()) {
            match floors.get(&named) {
                _ if named == room => {}
                Some(below) if below < floor => {}
                Some(_) => wrong.push(format!("{}: `{room}` imports from `{named}`", file.display())),
                None => wrong.push(format!("{}: `{named}` is not in ARCHITECTURE.md", file.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Circles that stay, each with its reason: folder, and the files that may be in it. `mod` is the folder's own file.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "egress",
        &["lease", "pool"],
        "a pool makes leases, and a lease asks its pool to be exchanged when its port turns out to be taken",
    ),
    (
        "sys/event_loop",
        &["deferred_keepalive", "mod", "sockets", "tasks", "timers"],
        "one event loop: each file holds a part of its state, and the methods of EventLoop on that part",
    ),
];

/// Circles of sibling files in the tree at `root`: folder and files of each, as `scripts/house.py` finds them.
fn circles(root: &Path) -> Vec<(String, Vec<String>)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/house.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg("--circles").arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| {
            let (folder, files) = line.split_once(": ").unwrap();
            (folder.to_owned(), files.split(' ').map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn sibling_files_form_no_unlisted_circle() {
    let found = circles(root());
    let is_listed = |folder: &str, files: &[String]| {
        CIRCLES
            .iter()
            .any(|(of, listed, _)| *of == folder && files.iter().all(|file| listed.contains(&file.as_str())))
    };
    for (folder, files) in &found {
        let files_in_circle = files.join(" ");
        assert!(
            is_listed(folder, files),
            "{folder}: {files_in_circle} name each other in a circle; see scripts/house.py --circles"
        );
    }
    for (folder, listed, _) in CIRCLES {
        let is_there = found.iter().any(|(of, files)| of == folder && files == listed);
        assert!(is_there, "{folder}: {listed:?} is no circle any more, or another one");
    }
}

#[test]
fn circles_are_found_by_every_path() {
    let tree = tempfile::tempdir().unwrap();
    let files = [
        ("lib.rs", "mod room; mod other;"),
        // By the parent's re-export, and with a folder as one file.
        ("room/mod.rs", "mod a; mod b; mod c; mod d; mod e; mod f; pub use a::{Public, self}; use f::F;"),
        ("room/a.rs", "pub struct Public; mod deep;"),
        ("room/a/deep.rs", "use crate::room::b::{self, B};"),
        ("room/b.rs", "pub struct B(super::Public);"),
        // A comment, a string, a test and a method are no paths.
        (
            "room/c.rs",
            "// super::d::D\nconst C: &str = \"super::d\"; #[cfg(test)] mod tests { use super::d::D; }",
        ),
        ("room/d.rs", "use super::{c::{C as Other}}; #[cfg(test)] mod tests;"),
        ("room/d/tests.rs", "use crate::room::e::E;"),
        ("room/e.rs", "use super::d;"),
        ("room/f.rs", "pub struct F;"),
        // The parent's own things.
        ("other/mod.rs", "mod x; mod y; pub struct Own(x::X);"),
        ("other/x.rs", "pub struct X(super::Own);"),
        ("other/y.rs", "use super::x::X;"),
    ];
    for (name, code) in files {
        let path = tree.path().join("src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, code).unwrap();
    }
    let expected = [("other", ["mod", "x"]), ("room", ["a", "b"])]
        .map(|(folder, files)| (folder.to_owned(), files.map(str::to_owned).to_vec()));
    assert_eq!(circles(tree.path()), expected);
}

#[test]
fn every_room_of_the_table_exists() {
    for room in floors().keys() {
        let src = root().join("src");
        assert!(src.join(room).is_dir() || src.join(format!("{room}.rs")).is_file(), "{room}");
    }
}

#[test]
fn unsafe_code_lives_in_sys_alone() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    for file in files {
        let code = fs::read_to_string(&file).unwrap();
        let outside = room_of(&file) != "sys";
        assert!(!(outside && code.contains("unsafe_code")), "{} allows unsafe code", file.display());
    }
}

#[test]
fn imports_are_read_in_every_form() {
    let code = "use crate::a::B;\nuse crate::{b, c::D};\n// crate::comment\nlet x = crate::d::e();\n";
    assert_eq!(rooms_named_in(code), ["a", "b", "c", "d"]);
}
