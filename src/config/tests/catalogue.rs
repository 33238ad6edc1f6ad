//! The reader accepts exactly the keys of the catalogue.

use super::load_files;
use crate::config::catalogue;
use crate::config::schema::{AnyKey, ConfigSection};

/// Returns a configuration with `key = value` in the section.
fn with_key(section: &ConfigSection, key: &dyn AnyKey, value: &str) -> String {
    let line = format!("{} = {value}\n", key.name());
    let steering = "[steering]\ninterfaces = [\"ens6\"]\n";
    let pool = "[[pool]]\nname = \"acme\"\naddresses = [\"203.0.113.0/27\", \"2001:db8::/64\"]\n";
    let tenant = "[[tenant]]\nname = \"acme\"\nsources = [\"10.0.0.0/24\"]\npool = \"acme\"\n";
    let mut text = match section.header {
        "[steering]" => format!("{pool}{tenant}{steering}"),
        "[[pool]]" => format!("{steering}{tenant}{pool}"),
        "[[tenant]]" => format!("{steering}{pool}{tenant}"),
        "[[tenant.allow]]" if matches!(key.name(), "inspect" | "other_protocols") => {
            format!("{steering}{pool}{tenant}{}\ncidrs = [\"192.0.2.1\"]\n", section.header)
        }
        "[[tenant.allow]]" | "[[tenant.deny]]" => {
            format!("{steering}{pool}{tenant}{}\nhosts = [\"a.example\"]\n", section.header)
        }
        header => format!("{steering}{pool}{tenant}{header}\n"),
    };
    // The key may already be present: the last table is the one under test.
    let table = text.rfind("\n[").map_or(0, |at| at + 1);
    let kept: String = text[table..]
        .split_inclusive('\n')
        .filter(|l| !l.starts_with(&format!("{} = ", key.name())))
        .collect();
    text.truncate(table);
    text + &kept + &line
}

#[test]
fn every_key_accepts_its_example() {
    for section in catalogue::ALL {
        for key in section.keys.iter().filter(|key| key.unsupported().is_none()) {
            let text = with_key(section, *key, key.example());
            let names = "a.example\n";
            let (_folder, result) =
                load_files(&[("egret.toml", &text), ("allow/acme.txt", names), ("deny/acme.txt", names)]);
            assert!(result.is_ok(), "{text}\n{result:?}");
        }
    }
}

/// Proves that every key is read: one that is only listed would accept this.
#[test]
fn every_key_refuses_invalid_values() {
    for section in catalogue::ALL {
        for key in section.keys {
            let text = with_key(section, *key, "07:32:00");
            let report = load_files(&[("egret.toml", &text)]).1.expect_err(&text);
            let about_it = format!("`{}`", key.name());
            assert!(report.to_string().contains(&about_it), "{text}\n{report}");
            assert_eq!(report.errors(), 1, "{text}\n{report}");
        }
    }
}
