//! An explanation as text: one fact per line, rules in a table.

use crate::admin::{
    ExplainReport, ExplainedCanary, ExplainedOutcome, ExplainedPool, ExplainedRule, PortsInUse,
};
use crate::family::Family;
use crate::flow::UNKNOWN_TENANT;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Renders the report as lines of text.
pub(in crate::cli) fn show(report: &ExplainReport) -> String {
    let mut text = String::new();
    write_question(&mut text, report);
    write_canary(&mut text, report);
    write_rules(&mut text, report);
    write_checks(&mut text, report);
    write_verdict(&mut text, report);
    if let Some(pool) = report.pool.as_ref().filter(|_| report.refused_family.is_none()) {
        write_pool(&mut text, report, pool);
    }
    if let Some(most) = report.max_flows {
        let now = report.flows.map(|flows| format!(", now {flows}")).unwrap_or_default();
        let _ = writeln!(text, "limit    {most} flows of the tenant at once{now}");
    } else if let Some(flows) = report.flows {
        let _ = writeln!(text, "flows    {flows} of the tenant now");
    }
    text
}

fn write_question(text: &mut String, report: &ExplainReport) {
    let tenant = report.tenant.as_deref().unwrap_or(UNKNOWN_TENANT);
    let _ = writeln!(text, "from     {}, tenant {tenant}", report.from);
    let ech = if report.ech { ", with an encrypted ClientHello" } else { "" };
    let to = match &report.hostname {
        Some(name) => format!("{name}, port {}", report.port),
        None if report.other_protocol => {
            format!("{}, in neither TLS nor HTTP", SocketAddr::new(report.address, report.port))
        }
        None if report.not_hostname => {
            format!("{}, by a name that is no hostname", SocketAddr::new(report.address, report.port))
        }
        None => format!("{}, without a name", SocketAddr::new(report.address, report.port)),
    };
    let _ = writeln!(text, "to       {to}{ech}");
    if report.address_assumed {
        let (address, family) = (report.address, Family::of(report.address));
        let _ = writeln!(
            text,
            "address  assuming a public {family} address ({address}), for the client's is {family}; pass --address to judge a particular one"
        );
    } else if report.hostname.is_some() {
        let _ = writeln!(text, "address  {}", report.address);
    }
}

fn write_canary(text: &mut String, report: &ExplainReport) {
    let Some(ExplainedCanary { percent, tenant, .. }) = &report.canary else { return };
    let _ = writeln!(
        text,
        "canary   the client is of the {percent} % for which the candidate is enforced: rules and verdict are the candidate's"
    );
    match tenant {
        None => text.push_str("         which knows no tenant for the client\n"),
        Some(tenant) if report.tenant.as_ref() != Some(tenant) => {
            let _ = writeln!(text, "         by which the client is of tenant {tenant}");
        }
        Some(_) => {}
    }
}

fn write_rules(text: &mut String, report: &ExplainReport) {
    let width = report.rules.iter().map(|rule| rule.rule.len()).max().unwrap_or(0);
    for (at, ExplainedRule { rule, effect, text: why, .. }) in report.rules.iter().enumerate() {
        let heading = if at == 0 { "rules" } else { "" };
        let _ = writeln!(text, "{heading:<8} {effect:<5}  {rule:<width$}  {why}");
    }
    if let Some(owner) = &report.private {
        let _ = writeln!(text, "private  {} counts as private: it is {owner}", report.address);
    }
    if report.mode.is_some() && report.rules.is_empty() {
        text.push_str("rules    none: the tenant may reach nothing\n");
    }
}

/// Writes the checks that the rule requires, and their results so far.
fn write_checks(text: &mut String, report: &ExplainReport) {
    let asks = |what: &'static str, rule: &'static str, asked: &Option<String>, known: String| {
        let asked = asked.as_deref().filter(|asked| !matches!(*asked, "original" | "off"))?;
        let known =
            if report.live { known } else { format!("the running gateway knows {what}: ask with --live") };
        Some(format!("{rule} = {asked:?}; {known}"))
    };
    let checks = [
        asks("the name's addresses", "destination", &report.destination, of_address(report)),
        asks("what servers proved", "certificate", &report.certificate, of_certificate(report)),
    ];
    for (at, check) in checks.into_iter().flatten().enumerate() {
        let heading = if at == 0 { "checks" } else { "" };
        let _ = writeln!(text, "{heading:<8} {check}");
    }
}

fn of_address(report: &ExplainReport) -> String {
    let addresses: Vec<_> = report.known_addresses.iter().flatten().map(IpAddr::to_string).collect();
    let known = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
    match report.address_check.as_deref() {
        Some("match") => format!("the address is one of the name's (known are {known})"),
        Some("mismatch") => format!("the name has other addresses (known are {known})"),
        Some("absent") => "the name has no address of this family".to_owned(),
        Some("unknown") => "no DNS server answered, or only with an error".to_owned(),
        Some(_) => format!("the name is resolved to {known}"),
        None if addresses.is_empty() => {
            "the name's addresses are not known yet: a flow looks them up".to_owned()
        }
        None => format!("the name is known to have {known}"),
    }
}

fn of_certificate(report: &ExplainReport) -> String {
    let known = match report.certificate_check.as_deref() {
        Some("valid") => "the server has proved the name",
        Some("invalid") => "the server has no valid certificate for the name",
        Some(_) => "the server could not be asked",
        None => "not known of this server: a flow asks it",
    };
    known.to_owned()
}

fn write_verdict(text: &mut String, report: &ExplainReport) {
    let by = if report.live { ", by the gateway that runs" } else { "" };
    let _ = writeln!(text, "verdict  {}{by}", verdict_of(report));
    if let Some(refused) = report.refused_family {
        let family = Family::of(report.from);
        let _ = writeln!(text, "         {}", refused.text(&family.to_string()));
    } else if let Some(never) = report.never_steered {
        let _ = writeln!(text, "         {}", never.text());
    } else if !report.steered {
        let port = report.port;
        let _ = writeln!(
            text,
            "         [steering] ports does not list TCP port {port}: the machine drops the packets, or forwards them unjudged\n         \
             if Egret should judge them, add {port} there, then run `egret reload`"
        );
    }
    if let Some(ExplainedOutcome { name, meaning, remedy }) = &report.outcome {
        let _ = writeln!(text, "outcome  {name}: {meaning}\n         {remedy}");
    }
    if let Some(help) = &report.help {
        let _ = writeln!(text, "help     {help}");
    }
    if let Some(ExplainedCanary { in_force, .. }) = &report.canary {
        let why = in_force.outcome.as_ref().map(|why| format!(": {}", why.name)).unwrap_or_default();
        let _ = writeln!(text, "in force {}{why}", verdict_of(in_force));
    }
}

/// The verdict in a few words.
pub(in crate::cli) fn verdict_of(report: &ExplainReport) -> String {
    if !report.steered {
        return "never reaches Egret".to_owned();
    }
    if report.refused_family.is_some() {
        return "refused before the handshake".to_owned();
    }
    if let Some(waived) = report.would_deny.as_ref().filter(|_| report.allowed) {
        return waived_verdict(waived, report);
    }
    let mut verdict = if report.allowed { "allowed" } else { "denied" }.to_owned();
    if let Some(rule) = &report.rule {
        // Policy lets out what has a pool.
        let _ = match (report.allowed || report.pool.is_none(), &report.would_deny) {
            (true, _) => write!(verdict, " ({rule})"),
            (false, None) => write!(verdict, ", though rule {rule} allows it"),
            (false, Some(_)) => Ok(()),
        };
    }
    if report.allowed && !report.inspected {
        verdict.push_str(", before the client says anything");
    }
    if !report.allowed && report.mode.as_deref() == Some("monitor") {
        verdict.push_str(", in monitor mode too");
    }
    verdict
}

/// The verdict on a flow that only monitor mode lets out.
fn waived_verdict(waived: &ExplainedOutcome, report: &ExplainReport) -> String {
    let name = &waived.name;
    let by = match &report.rule {
        Some(rule) if name == "denied_by_rule" => format!("deny rule {rule} would deny it ({name})"),
        Some(rule) => format!("it would be denied as {name}, though rule {rule} covers it"),
        None => format!("it would be denied as {name}"),
    };
    let early = if report.inspected { "" } else { ", before the client says anything" };
    format!("allowed{early}: monitor mode lets it pass; enforced, {by}")
}

fn write_pool(text: &mut String, report: &ExplainReport, pool: &ExplainedPool) {
    let ExplainedPool { name, addresses, ports, source, public, in_use, drain, .. } = pool;
    let (v4, family) = (report.from.is_ipv4(), Family::of(report.from));
    if !addresses.iter().any(|one| one.parse::<IpNet>().is_ok_and(|one| one.addr().is_ipv4() == v4)) {
        let other = if v4 { Family::V6 } else { Family::V4 };
        let _ = writeln!(
            text,
            "leaves   not by {family}: pool {name} has {other} addresses alone, so {family} connections are refused before the handshake,\n         \
             and clients that have {other} too fall back to it; ask again with --from the client's {other} address"
        );
        return;
    }
    let addresses = if addresses.is_empty() { "nothing".into() } else { addresses.join(", ") };
    let _ = if report.allowed {
        writeln!(text, "leaves   from {addresses}, ports {ports} (pool {name})")
    } else {
        writeln!(text, "pool     {name}: {addresses}, ports {ports}")
    };
    if let Some(source) = source {
        let public = public.map(|public| format!(", outside {public}")).unwrap_or_default();
        let _ = writeln!(text, "         {source} first{public}");
    }
    if let Some(PortsInUse { capacity, live, held }) = in_use {
        let _ = writeln!(
            text,
            "         {} of its {capacity} ports there in use, {held} of them held",
            u32::from(*live) + u32::from(*held)
        );
    }
    if !drain.is_empty() {
        let drain: Vec<_> = drain.iter().map(IpAddr::to_string).collect();
        let _ = writeln!(text, "         not from {}: out of use", drain.join(", "));
    }
    let now = pool.tenant_ports.map(|ports| format!(", now {ports}")).unwrap_or_default();
    if let Some(ceiling) = pool.ports_ceiling {
        let _ = writeln!(text, "limit    {ceiling} ports of the tenant towards a destination{now}");
    }
    if let Some(floor) = pool.ports_floor {
        let _ = writeln!(text, "assured  {floor} ports of the tenant towards a destination{now}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{CANARY_REMEDY, CANARY_REMEDY_IN_BOTH, ExplainQuery};
    use crate::cli::mend::tests::assert_commands;
    use crate::config;
    use crate::control::{Explainer, remedy};
    use crate::outcome::{FlowPhase, Outcome};

    fn explained(to: &str) -> ExplainReport {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let text = "steering = { interfaces = [\"ens6\"] }\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n\
                    [[tenant]]\nname = \"acme\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n\
                    [[tenant.allow]]\nname = \"api\"\nhosts = [\"api.example.org\"]\n";
        std::fs::write(&main, text).unwrap();
        let config = config::load(&main).unwrap().config;
        let query = ExplainQuery {
            from: "10.0.1.5".parse().unwrap(),
            to: to.parse().unwrap(),
            address: None,
            ech: false,
            other_protocol: false,
        };
        Explainer::new(&config).unwrap().explain(&query).unwrap()
    }

    #[test]
    fn hints_are_commands_that_run() {
        let to = "198.51.100.7:443";
        let told = |outcome: &&Outcome| matches!(outcome.phase(), FlowPhase::Denied | FlowPhase::Dial);
        let outcomes = Outcome::ALL.iter().filter(told);
        let mut texts: Vec<_> =
            outcomes.map(|outcome| remedy(*outcome, Some("api.example.org"), to)).collect();
        texts.extend([CANARY_REMEDY, CANARY_REMEDY_IN_BOTH].map(str::to_owned));
        texts.extend(["api.example.org:22", "other.example.org"].map(|to| show(&explained(to))));
        let mut found = Vec::new();
        for text in &texts {
            let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("egret "));
            found.extend(quoted.inspect(|command| assert_commands(command)));
        }
        assert!(
            found.contains(&"egret reload") && found.contains(&"egret names api.example.org"),
            "{found:?}"
        );
    }

    #[test]
    fn flow_without_port_has_one_verdict() {
        let mut report = explained("api.example.org");
        assert_eq!(verdict_of(&report), "allowed (api)");
        report.allowed = false;
        assert_eq!(verdict_of(&report), "denied, though rule api allows it");
        assert!(!show(&report).contains("leaves"), "{}", show(&report));
        report.mode = Some("monitor".to_owned());
        report.would_deny = explained("other.example.org").outcome;
        assert_eq!(verdict_of(&report), "denied, in monitor mode too");
    }
}
