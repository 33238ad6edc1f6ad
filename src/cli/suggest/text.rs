//! A suggestion as TOML: rules that are safe to paste, everything else as comments.

use super::proposal::{Proposal, SuggestedRule, Wildcard};
use super::seen::LogEvidence;
use super::unsuggested::UnsuggestedTarget;
use jiff::Timestamp;
use std::fmt::{Display, Write as _};

/// Most denied names listed; `--json` lists all.
const DENIED: usize = 50;

pub(super) fn render(proposal: &Proposal) -> String {
    let mut text = head(proposal);
    for rule in &proposal.rules {
        text.push('\n');
        write_rule(&mut text, rule);
    }
    let rows = |text: &mut String, rows: &[UnsuggestedTarget], heading: &str| {
        if !rows.is_empty() {
            let _ = writeln!(text, "\n# {heading}");
            for row in rows {
                write_row(text, row);
            }
        }
    };
    rows(
        &mut text,
        &proposal.private,
        "Not suggested: private addresses, which a rule by name does not reach. If they are meant, add `cidrs`:",
    );
    rows(&mut text, &proposal.denied_now, "Not suggested: a deny rule of today denies them.");
    rows(
        &mut text,
        &proposal.beyond_rules,
        "Not suggested: no rule by address lets them out. What they sent is malformed, or no hostname where a deny rule by name\n\
         # covers address and port: give that rule `ports`, or have the clients send a hostname.",
    );
    rows(&mut text, &proposal.unanswered, "Not suggested: no server ever answered.");
    write_by_address(&mut text, proposal);
    let denied = &proposal.denied;
    let heading = format!(
        "Not suggested: denied, {}. Whether they should be is for you to say.",
        plural(denied.len() as u64, "target")
    );
    rows(&mut text, &denied[..denied.len().min(DENIED)], &heading);
    if denied.len() > DENIED {
        let _ = writeln!(text, "#   … and {} more: --json has all", denied.len() - DENIED);
    }
    text
}

fn head(proposal: &Proposal) -> String {
    let Proposal { tenant, evidence, rules, allowed_already, .. } = proposal;
    let mut text = format!(
        "# Suggested by `egret suggest` for tenant {tenant}, from {}",
        plural(evidence.files, "file")
    );
    if let (Some(first), Some(last)) = (evidence.first, evidence.last) {
        let _ = write!(text, ", {} to {}", time(first), time(last));
    }
    let _ = writeln!(
        text,
        ".\n# Evidence: {} allowed, {} that monitor mode let pass; {} denied are no evidence.",
        plural(evidence.allowed, "flow"),
        evidence.would_deny,
        evidence.denied
    );
    for (count, what) in [
        (evidence.unjudged, "without a verdict, because the client left"),
        (evidence.too_old, "before --since"),
        (evidence.of_doctor, "of probes of `egret doctor`"),
        (evidence.unreadable, "torn or not of a flow log"),
        (evidence.beyond_bound, "to names beyond the bound of 200,000"),
    ] {
        if count > 0 {
            let _ = writeln!(text, "# Left out: {count} {what}.");
        }
    }
    if evidence.damaged_files > 0 {
        let files = plural(evidence.damaged_files, "compressed file");
        let _ = writeln!(text, "# Left out: the rest of {files}, damaged.");
    }
    if *allowed_already > 0 {
        let targets = plural(*allowed_already as u64, "target");
        let _ = writeln!(text, "# Left out: {targets} that the policy allows already; --all shows them.");
    }
    let LogEvidence { allowed, would_deny, .. } = evidence;
    text.push_str(match (rules.is_empty(), allowed + would_deny) {
        (true, 0) => "# There is no evidence of this tenant: is it the right log, and the right time?\n",
        (true, _) => "# There is nothing to add.\n",
        (false, _) => "# Paste the rules below the tenant's [[tenant]], and run `egret check`.\n",
    });
    text
}

fn write_rule(text: &mut String, rule: &SuggestedRule) {
    let SuggestedRule { domain, ports, flows, last, hosts, wildcards } = rule;
    let names = plural(hosts.len() as u64, "name");
    let _ = writeln!(text, "# {domain}: {names}, {}, last {}", plural(*flows, "flow"), time(*last));
    text.push_str("[[tenant.allow]]\nhosts = [\n");
    let width = hosts.iter().map(|host| host.name.as_str().len()).max().unwrap_or(0) + 3;
    for host in hosts {
        let name = format!("\"{}\",", host.name);
        let monitored = if host.would_deny > 0 {
            format!(" ({} by monitor mode)", host.would_deny)
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "  {name:<width$}  # {}{monitored}, last {}",
            plural(host.flows, "flow"),
            time(host.last)
        );
    }
    for Wildcard { pattern, covers, opens_denied, opens_for_example } in wildcards {
        let _ = write!(text, "  # instead of {covers} of these; opens every other name there, too");
        if *opens_denied > 0 {
            let names: Vec<_> = opens_for_example.iter().map(ToString::to_string).collect();
            let more = if *opens_denied > names.len() { ", …" } else { "" };
            let _ = write!(text, ", {opens_denied} of which were denied: {}{more}", names.join(", "));
        }
        let _ = writeln!(text, "\n  # \"{pattern}\",");
    }
    let _ = writeln!(text, "]\nports = [{}]", join(ports));
}

fn write_row(text: &mut String, row: &UnsuggestedTarget) {
    let UnsuggestedTarget { name, address, port, flows, last, outcome } = row;
    let what = match name {
        Some(name) => format!("{name}:{port} ({address})"),
        None => std::net::SocketAddr::new(*address, *port).to_string(),
    };
    let outcome = outcome.map_or("", |outcome| outcome.as_str());
    let _ = writeln!(text, "#   {what}  {}, last {} {outcome}", plural(*flows, "flow"), time(*last));
}

fn write_by_address(text: &mut String, proposal: &Proposal) {
    if proposal.by_address.is_empty() {
        return;
    }
    text.push_str("\n# Not suggested: flows without a name. A rule by address allows every name there; for servers that speak first,\n# add `inspect = \"none\"`.\n");
    for rule in &proposal.by_address {
        let _ =
            writeln!(text, "# port {}: {}, last {}", rule.port, plural(rule.flows, "flow"), time(rule.last));
        let addresses: Vec<_> = rule.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let _ = writeln!(
            text,
            "# [[tenant.allow]]\n# cidrs = [{}]\n# ports = [{}]{}",
            addresses.join(", "),
            rule.port,
            match (rule.uninspected, rule.other_protocols) {
                (true, _) =>
                    "\n# inspect = \"none\"  # because the clients sent nothing until `[inspect] deadline`",
                (false, true) =>
                    "\n# other_protocols = \"allow\"  # because a deny rule goes by name, or `ech` is \"deny\"",
                (false, false) => "",
            }
        );
    }
}

fn join(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Time in whole seconds.
fn time(time: Timestamp) -> impl Display {
    format!("{time:.0}")
}
