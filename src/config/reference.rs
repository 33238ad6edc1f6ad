//! Generates docs/config.md from the catalogue.

use super::catalogue;
use super::schema::{AnyKey, ConfigSection, KeyPresence};
use std::fmt::Write as _;

const INTRO: &str = r#"# Configuration

<!-- Generated from src/config/catalogue.rs. Do not edit: run `EGRET_BLESS=1 cargo test --test integration generated_docs`. -->

One TOML file, usually `/etc/egret/egret.toml`. `egret check` says what is wrong with it, with file, line and
column, and exits with 1 if it cannot be used. A key that is not listed here is an error. A key that is listed as *not
supported yet* is an error too: Egret never ignores what it is told.

- **Durations** are a whole number and a unit: `"500ms"`, `"5s"`, `"2m"`, `"1h"`, `"1d"`.
- **Sizes** are a number of bytes, or a number and a unit: `4096`, `"64KiB"`, `"1MB"`. `KiB` is 1,024 bytes, `KB` 1,000.
- **Networks** are written with a prefix length, and with no bits set behind it; an address alone is a network of one.
- **Ports** are numbers, or ranges as text: `443`, `"8000-8100"`.

## Files

`policy.d/*.toml` beside the main file is read too, in the order of the names: for example one file for each tenant (`egret check` warns of other files there). Such a file holds
`[[pool]]` and `[[tenant]]` and nothing else. Hidden files are skipped. It makes no difference which file a pool stands in.

A `hosts_file` has one name a line, with the same wildcards as `hosts`. Blank lines, and what follows a `#`, are skipped. A
relative path starts at the folder of the *main* file, also where a file of `policy.d` names it. Many rules can name one file.

## How rules decide

- What no rule allows is **denied**.
- A **deny** rule that covers a flow wins over every allow rule, wherever it stands.
- Of the allow rules that cover a flow, the **first** names it in the flow log.
- Within a rule, lists are alternatives and different keys are conditions: one of the names *and* one of the networks
  *and* one of the ports.
- `*.example.com` is **every subdomain** at any depth, and not `example.com` itself. There are no other patterns. A
  wildcard over a public suffix such as `*.com` or `*.co.uk` is an error; one over a service that hands out names to
  anybody, such as `*.github.io`, is a warning.
- An allow rule with `inspect = "none"` lets flows through before the client has said anything: deny rules that go by
  **name** cannot stop them, deny rules that go by address and port do.
- Where a deny rule goes by **name**, or `ech` is `"deny"`, other allow rules by address let out TLS and HTTP alone, unless they have
  `other_protocols = "allow"`.
- Names are compared in one form: lower case, without a trailing dot. International names may be written in their own script or in ASCII (`bücher.example` is `xn--bcher-kva.example`); logs show the latter.
- A rule without `cidrs` does not reach private addresses, unless `[policy] private_destinations` says so.

`egret check` warns of rules that never match: those that another rule leaves nothing for, whose ports are not steered, or
whose pool has no address of the family.
"#;

/// Returns the configuration reference, in Markdown.
pub fn reference() -> String {
    let mut text = INTRO.to_owned();
    for section in catalogue::ALL {
        write_section(section, &mut text);
    }
    text
}

fn write_section(section: &ConfigSection, text: &mut String) {
    let _ = write!(text, "\n## `{}`\n\n{}\n\n```toml\n{}\n", section.header, section.about, section.header);
    // Nested tables have sections of their own.
    let shown = || section.keys.iter().filter(|key| key.unsupported().is_none() && !key.is_table());
    let width = shown().map(|key| key.name().len()).max().unwrap_or(0);
    for key in shown() {
        let _ = writeln!(text, "{:width$} = {}", key.name(), key.example());
    }
    text.push_str("```\n\n| key | takes | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        let (takes, about) = (cell(&key.describe()), cell(key.about()));
        let _ = writeln!(text, "| `{}` | {takes} | {} | {about} |", key.name(), default(*key));
    }
}

fn default(key: &dyn AnyKey) -> String {
    match key.presence() {
        KeyPresence::Required => "required".to_owned(),
        KeyPresence::Optional => String::new(),
        KeyPresence::Default(value) => format!("`{value}`"),
    }
}

/// Escapes vertical bars, which would end the table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_lists_keys_with_defaults() {
        let text = reference();
        for section in catalogue::ALL {
            assert!(text.contains(&format!("## `{}`", section.header)), "{}", section.header);
            for key in section.keys {
                assert!(text.contains(&format!("| `{}` | {}", key.name(), cell(&key.describe()))));
                assert!(!key.about().is_empty() && !key.example().is_empty(), "{}", key.name());
            }
        }
    }
}
