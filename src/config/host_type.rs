//! Hostnames and wildcards, in rules and hosts files.

use super::diagnostic::Diagnostics;
use super::public_suffix::{self, Breadth};
use super::repeats::Repeat;
use super::schema::Describe;
use super::value::Value;
use super::value_types::{ListItem, ValueType};
use crate::hostname::{HostPattern, Hostname, NotAHostname};
use std::net::IpAddr;

/// A hostname, or every subdomain of one.
pub(super) struct HostType;

impl Describe for HostType {
    fn describe(&self) -> String {
        "hostname: `\"example.com\"`, `\"*.example.com\"`".to_owned()
    }
}

impl ValueType for HostType {
    type Value = HostPattern;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<HostPattern> {
        let Some(text) = value.text() else {
            return value.wrong(out, "not a hostname", "write it as in \"example.com\"");
        };
        match judge(text) {
            Ok((pattern, doubt)) => {
                if let Some(Doubt { message, help }) = doubt {
                    out.warning(value.place(), format!("`hosts`: {message}"), help);
                }
                Some(pattern)
            }
            Err(Wrong { why, help }) => value.wrong(out, &why, help),
        }
    }
}

/// The names of a rule are compared together with those of its hosts file.
impl ListItem for HostType {
    fn repeats(_: &[&HostPattern]) -> Vec<Repeat> {
        Vec::new()
    }
}

/// Reason why a pattern is refused: `… is {why}`.
pub(super) struct Wrong {
    pub(super) why: String,
    pub(super) help: String,
}

/// Warning about a valid pattern that is probably a mistake.
pub(super) struct Doubt {
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Parses a host pattern.
pub(super) fn judge(text: &str) -> Result<(HostPattern, Option<Doubt>), Wrong> {
    let pattern: HostPattern = text
        .parse()
        .map_err(|error| Wrong { why: format!("not a hostname: {error}"), help: help(text, error) })?;
    let doubt = match public_suffix::breadth(&pattern) {
        Breadth::Registry => {
            let why = "a wildcard over a public suffix".to_owned();
            return Err(Wrong { why, help: public_suffix::HELP.to_owned() });
        }
        Breadth::Shared => Some(Doubt {
            message: format!("{pattern} covers names of many owners"),
            help: public_suffix::SHARED_HELP,
        }),
        Breadth::Owned if !name_of(&pattern).has_valid_a_labels() => Some(Doubt {
            message: format!("{pattern} has an xn-- label that stands for nothing"),
            help: "no browser or resolver makes such a name; write it in its own script, or copy it whole",
        }),
        Breadth::Owned => None,
    };
    Ok((pattern, doubt))
}

fn name_of(pattern: &HostPattern) -> &Hostname {
    let (HostPattern::Exact(name) | HostPattern::Subdomains(name)) = pattern;
    name
}

/// Suggests what something that is not a hostname was probably meant to be.
fn help(text: &str, why: NotAHostname) -> String {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    if why == NotAHostname::IpLiteral || text.parse::<IpAddr>().is_ok() {
        return "allow addresses by `cidrs`".to_owned();
    }
    if rest.contains("://") || rest.contains('/') {
        return "write the name alone, without scheme and path".to_owned();
    }
    if let Some((name, _)) = rest.split_once(':') {
        return format!("write {name:?} here and the port in `ports`");
    }
    if let Some(name) = text.strip_prefix('.') {
        return format!("for every subdomain write \"*.{name}\"");
    }
    if text == "*" {
        return "no pattern covers every name; a rule with `cidrs` and without `hosts` goes by address, whatever the name: \
                `cidrs = [\"0.0.0.0/0\", \"::/0\"]`, which covers private addresses too"
            .to_owned();
    }
    if rest.contains('*') {
        return "a wildcard is \"*.\" before a whole name, as in \"*.example.com\", and covers any depth"
            .to_owned();
    }
    "a hostname is labels of letters (of any script), digits, \"-\" and \"_\" with dots between them"
        .to_owned()
}
