//! `egret names`: asks the running gateway for the known addresses of names, and for flows that went to others.

use super::ask::{self, AskError, GatewayArgs, ask};
use super::output::{json_line, print};
use crate::admin::{MismatchRow, NamesReport};
use crate::hostname::Hostname;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `egret names`.
#[derive(Debug, Clone, clap::Args)]
pub struct NamesOptions {
    /// Only this name
    #[arg(value_parser = hostname)]
    name: Option<String>,
    /// Print the gateway's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

fn hostname(text: &str) -> Result<String, String> {
    let name: Hostname = text.parse().map_err(|why| format!("{why}"))?;
    Ok(name.as_str().to_owned())
}

/// Asks the gateway and prints the answer.
pub fn run(options: &NamesOptions) -> ExitCode {
    options.gateway.asked(|socket| tell(socket, options))
}

fn tell(socket: &Path, options: &NamesOptions) -> Result<ExitCode, AskError> {
    let name = options.name.iter().map(|name| ("name", name.as_str()));
    let report: NamesReport = ask(socket, "GET", &ask::with_query("/v1/names", name), "")?;
    let text = if options.json { json_line(&report) } else { render(&report, options.name.as_deref()) };
    let unknown = report.addresses.is_some_and(|addresses| addresses.is_empty());
    Ok(print(&text, u8::from(unknown)))
}

fn render(report: &NamesReport, name: Option<&str>) -> String {
    let mut text = String::new();
    if report.servers.is_empty() {
        return "No rule asks for the addresses of names: see `destination` in docs/config.md.\n".to_owned();
    }
    let servers: Vec<_> = report.servers.iter().map(ToString::to_string).collect();
    // writing to a String cannot fail, here and below
    let _ = writeln!(text, "DNS servers: {}", servers.join(", "));
    match (name, &report.addresses) {
        (Some(name), Some(addresses)) if addresses.is_empty() => {
            let _ = writeln!(text, "{name}: no address is known; it may not have been asked for lately");
        }
        (Some(name), Some(addresses)) => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "{name}: {}", addresses.join(", "));
        }
        _ => {
            let _ = writeln!(text, "Names known, once for each family: {}", report.known);
        }
    }
    if report.mismatches.is_empty() {
        text.push_str("\nNo flow has gone to an address that was none of its name's.\n");
        return text;
    }
    text.push_str("\nFLOWS TO ADDRESSES THAT WERE NONE OF THEIR NAME'S\n");
    report.mismatches.iter().for_each(|row| mismatch(&mut text, row));
    text
}

fn mismatch(text: &mut String, row: &MismatchRow) {
    let MismatchRow { tenant, rule, name, address, flows, last } = row;
    let rule = rule.as_deref().unwrap_or("no rule");
    let _ = writeln!(text, "{last}  {flows:>7} × {name} at {address}  ({tenant}, {rule})");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_mismatches_are_described() {
        let mut report = NamesReport {
            servers: vec!["10.0.0.2:53".parse().unwrap()],
            known: 7,
            addresses: None,
            mismatches: Vec::new(),
        };
        let text = render(&report, None);
        assert!(text.contains("10.0.0.2:53") && text.contains(": 7\n") && text.contains("No flow"), "{text}");
        report.addresses = Some(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        report.mismatches.push(MismatchRow {
            tenant: "acme".into(),
            rule: Some("names".into()),
            name: "api.example.com".into(),
            address: "198.51.100.9:443".parse().unwrap(),
            flows: 3,
            last: "2026-11-22T08:00:00Z".into(),
        });
        let text = render(&report, Some("api.example.com"));
        assert!(text.contains("api.example.com: 192.0.2.1, 2001:db8::1\n"), "{text}");
        assert!(text.contains("3 × api.example.com at 198.51.100.9:443  (acme, names)"), "{text}");
        report.addresses = Some(Vec::new());
        assert!(render(&report, Some("x.example")).contains("no address is known"));
        report.servers.clear();
        assert!(render(&report, None).contains("No rule asks"));
    }
}
