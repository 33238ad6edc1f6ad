//! Loading terminates on arbitrary input.

use super::{GOOD, load_files};
use proptest::prelude::*;

/// TOML fragments, which reach deeper than random characters do.
fn toml_soup() -> impl Strategy<Value = String> {
    let pieces = [
        "[gateway]",
        "[steering]",
        "[[pool]]",
        "[[tenant]]",
        "[[tenant.allow]]",
        "[tenant.limits]",
        "[inspect]",
        "\n",
        "\n",
        "\n",
        "name",
        "hosts",
        "hosts_file",
        "cidrs",
        "ports",
        "addresses",
        "sources",
        "listen",
        "drain",
        "keepalive",
        " = ",
        " = ",
        "\"",
        "\"x\"",
        "[",
        "]",
        "{",
        "}",
        ",",
        "443",
        "-1",
        "\"*.\"",
        "\"9-8\"",
        "\"10.0.0.0/8\"",
        "\"::/0\"",
        "é",
        "0x1f",
        "1e9",
        "true",
        "1979-05-27",
        "\"5s\"",
        "\"99999999999999999999d\"",
        "\0",
        "\r",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn loading_never_panics(text in prop_oneof![toml_soup(), ".{0,200}"], names in ".{0,60}") {
        let with_names = format!("{GOOD}hosts_file = \"n.txt\"\n");
        let _ = load_files(&[("egret.toml", &text)]);
        let _ = load_files(&[("egret.toml", &with_names), ("n.txt", &names), ("policy.d/x.toml", &text)]);
    }
}
