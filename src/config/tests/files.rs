//! Several files: the order of their findings, and hosts files.

use super::{GOOD, findings, load};

#[test]
fn all_errors_are_reported_in_order() {
    let found = findings(&[
        (
            "egret.toml",
            "[gateway]\ndrain = 1\nlisten = 2\n[steering]\nudp = \"nat\"\n[inspect]\ndeadlin = 3\n",
        ),
        ("policy.d/b.toml", "[[tenant]]\nname = \"B\"\n[gateway]\n"),
        (
            "policy.d/a.toml",
            "[[pool]]\nname = \"a\"\naddresses = [\"x\"]\n[[tenant]]\nname = \"a\"\nsources = [\"10.0.0.0/8\"]\npool = \"b\"\n[[tenant.allow]]\nhosts_file = \"a.txt\"\n",
        ),
        ("policy.d/.hidden.toml", "="),
        ("policy.d/notes.txt", "="),
        ("a.txt", "good.example\n\n  bad_.ex~ample # no\n*.com\n\u{fffd}\n"),
    ]);
    let places: Vec<_> =
        found.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "egret.toml:2:9 error",
            "egret.toml:3:10 error",
            "egret.toml:4:1 error", // no interfaces
            "egret.toml:5:7 error",
            "egret.toml:7:1 error",
            "policy.d/a.toml:3:14 error",
            "policy.d/a.toml:7:8 error", // no such pool
            "a.txt:3:3 error",
            "a.txt:4:1 error",
            "a.txt:5:1 error",
            "policy.d/b.toml:1:1 error", // no sources
            "policy.d/b.toml:1:1 error", // no pool
            "policy.d/b.toml:2:8 error",
            "policy.d/b.toml:3:2 error",
            "policy.d/notes.txt warning",
        ],
        "{found:#?}"
    );
    assert!(found.iter().any(|line| line.contains("it belongs in the main file")), "{found:#?}");
}

#[test]
fn ignored_policy_files_are_warned() {
    let main = format!(
        "{GOOD}hosts_file = \"policy.d/names.txt\"\n[[tenant.allow]]\nhosts_file = \"./policy.d/more.txt\"\n"
    );
    let found = findings(&[
        ("egret.toml", &main),
        ("policy.d/names.txt", "a.example.com\n"),
        ("policy.d/more.txt", "b.example.com\n"),
        ("policy.d/b.tml", ""),
        ("policy.d/b.TOML", ""),
        ("policy.d/b.toml.disabled", ""),
        ("policy.d/sub/b.toml", ""),
        ("policy.d/.b.toml.swp", ""),
        ("policy.d/b.toml~", ""),
        ("policy.d/b.toml.bak", ""),
        ("policy.d/b.toml.dpkg-dist", ""),
        ("policy.d/b.toml.rpmnew", ""),
        ("other/b.toml", ""),
    ]);
    let ignored: Vec<_> =
        found.iter().filter_map(|line| line.split_once(": warning: it is not read")).collect();
    let files: Vec<_> = ignored.iter().map(|(file, _)| *file).collect();
    let expected = ["policy.d/b.TOML", "policy.d/b.tml", "policy.d/b.toml.disabled", "policy.d/sub"];
    assert_eq!((files, found.len()), (expected.to_vec(), expected.len()), "{found:#?}");
}

#[test]
fn broken_file_causes_no_other_errors() {
    let found = findings(&[
        ("egret.toml", GOOD),
        ("policy.d/q.toml", "[[pool]\n"),
        ("policy.d/t.toml", "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/16\"]\npool = \"q\"\n"),
    ]);
    assert!(found.iter().all(|line| line.starts_with("policy.d/q.toml:1:")), "{found:#?}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    assert_eq!(findings(&[]), ["egret.toml: error: cannot be read: No such file or directory (os error 2)"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("egret.toml"), b"# ok\nx = \"\xff\"").unwrap();
    let report = load(&folder.path().join("egret.toml")).unwrap_err();
    assert!(report.to_string().contains("egret.toml:2:6: error: the file is not UTF-8"), "{report}");
}

#[test]
fn missing_hosts_file_is_reported_once() {
    let text = format!("{GOOD}hosts_file = \"none.txt\"\n");
    assert_eq!(
        findings(&[("egret.toml", &text)]),
        [
            "egret.toml:12:14: error: `hosts_file`: none.txt cannot be read: No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn mistyped_key_is_reported_once() {
    for (text, key) in [
        (GOOD.replace("hosts =", "host ="), "host"),
        (GOOD.replace("[[tenant.allow]]\nhosts =", "[[tenant.deny]]\nhots ="), "hots"),
        (GOOD.replace("[[tenant.allow]]\nhosts =", "[[tenant.allow]]\ncidr ="), "cidr"),
        (GOOD.replace("sources =", "source ="), "source"),
        (GOOD.replace("addresses =", "adresses ="), "adresses"),
        (GOOD.replace("interfaces =", "interface ="), "interface"),
        (GOOD.replace("steering =", "stering ="), "stering"),
        (GOOD.replace("[[pool]]", "[[pol]]"), "pol"),
        (GOOD.replace("[[tenant]]", "[[tenants]]"), "tenants"),
        (GOOD.replace("[[tenant.allow]]", "[[tenant.alow]]"), "alow"),
    ] {
        let found = findings(&[("egret.toml", &text)]);
        assert!(found.len() == 1 && found[0].contains(&format!("unknown key {key:?}")), "{found:#?}");
    }
}

#[test]
fn wrong_brackets_are_reported_once() {
    let found = findings(&[("egret.toml", &GOOD.replace("[[pool]]", "[pool]"))]);
    assert_eq!(
        found,
        ["egret.toml:3:1: error: `pool`: a table is not a list of tables; write it as [[pool]]"]
    );
}

#[test]
fn empty_hosts_file_is_refused() {
    let text = format!("{GOOD}hosts_file = \"none.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("none.txt", "# later\n\n")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("none.txt: error: there is no name in it"), "{found:?}");
}

#[test]
fn binary_file_error_is_short() {
    let text = format!("{GOOD}hosts_file = \"big.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("big.txt", &"<html>\n".repeat(500))]);
    assert_eq!(found.len(), 21, "{found:?}");
    assert_eq!(found[20], "big.txt:21:1: error: 480 more such errors in this file");
}

#[test]
fn shared_hosts_file_is_read_once() {
    let text =
        format!("{GOOD}[[tenant.allow]]\nhosts_file = \"x.txt\"\n[[tenant.allow]]\nhosts_file = \"x.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("x.txt", "a b\n")]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn special_files_are_refused_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fifo = |name: &str| nix::unistd::mkfifo(&at(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(at("policy.d")).unwrap();
    fifo("policy.d/x.toml");
    fifo("names.txt");
    fifo("root.pem");
    fifo("zone.key");
    let certificates = format!("[certificates]\nroots = [\"{}\"]\n", at("root.pem").display());
    let resolver = format!("[resolver]\ntrust_anchors = [\"{}\"]\n", at("zone.key").display());
    let text = format!(
        "{certificates}{resolver}{GOOD}hosts_file = \"names.txt\"\n[[tenant.allow]]\nhosts_file = \"/dev/zero\"\n"
    );
    std::fs::write(at("egret.toml"), text).unwrap();
    let report = load(&at("egret.toml")).unwrap_err().to_string();
    assert_eq!(report.matches("a FIFO").count(), 4, "{report}");
    assert_eq!(report.matches("a device").count(), 1, "{report}");
    fifo("main.toml");
    assert!(load(&at("main.toml")).unwrap_err().to_string().contains("a FIFO"));
}

#[test]
fn total_file_size_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy.d")).unwrap();
    std::fs::write(folder.path().join("egret.toml"), GOOD).unwrap();
    let write = |name: &str, size: usize| {
        let comment = format!("#{}\n", "x".repeat(size));
        std::fs::write(folder.path().join(format!("policy.d/{name}.toml")), comment).unwrap();
    };
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        write(name, (2 << 20) - 2);
    }
    let report = load(&folder.path().join("egret.toml")).unwrap_err().to_string();
    assert!(report.contains("h.toml: error: cannot be read: it is too large: at most 16 MiB"), "{report}");
    assert_eq!(report.lines().count(), 1, "{report}");
    write("a", (2 << 20) - 1);
    let report = load(&folder.path().join("egret.toml")).unwrap_err().to_string();
    assert!(report.contains("a.toml: error: cannot be read: it is too large: at most 2 MiB"), "{report}");
}

#[test]
fn number_of_findings_is_bounded() {
    for (text, last) in [
        (
            format!("tenant = [{}]\n", "{},".repeat(5000)),
            "error: there are more errors: the first 1000 are shown",
        ),
        (
            (0..1500).fold(GOOD.to_owned(), |text, n| {
                text + &format!("[[tenant.allow]]\nhosts = [\"a{n}.example\"]\ncertificate = \"require\"\n")
            }),
            "warning: there are more warnings: the first 1000 are shown",
        ),
    ] {
        let found = findings(&[("egret.toml", &text)]);
        assert_eq!(found.len(), 1001, "{:?}", found.last());
        assert!(found[1000].ends_with(last), "{:?}", found[1000]);
    }
}

#[test]
fn syntax_errors_have_no_follow_ups() {
    for (text, place) in [
        ("=\n".repeat(1 << 20), "1:1"),
        (format!("[gateway\n{GOOD}"), "1:9"),
        (GOOD.replace("hosts = [", "hosts = [[").replace("[[tenant.allow", "[tenant.allow"), "10:15"),
        (format!("name = \"x\"\n[[pool]\nname = \"y\"\nname = \"z\"\n{GOOD}"), "2:8"),
    ] {
        let found = findings(&[("egret.toml", &text)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("egret.toml:{place}: error: not valid TOML")), "{}", found[0]);
    }
}

#[test]
fn columns_of_long_lines_count_characters() {
    let names = (0..3000).fold(String::new(), |names, n| names + &format!("\"bücher{n:04}.example\", "));
    let found = findings(&[("egret.toml", &format!("{GOOD}[[tenant.allow]]\nhosts = [{names}1]\n"))]);
    let column = "hosts = [".len() + 3000 * "\"bucher0000.example\", ".len() + 1;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&format!("egret.toml:13:{column}: error")), "{}", found[0]);
}
