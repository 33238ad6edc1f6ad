//! `egret allow`: the rule that would allow a denied flow, and the policy test that keeps it.

mod edit;

use super::doctor::PROBE_NAME;
use super::flow_log::Recorded;
use super::output::print;
use super::past_flow::{self, FAILED, FlowOptions, PastFlow, PastFlowError};
use crate::admin::{CANARY_REMEDY, ExplainReport};
use crate::config::{self, Config};
use crate::hostname::HostPattern;
use crate::outcome::Outcome;
use crate::policy::{RuleEffect, RuleSpec};
use ipnet::IpNet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Default name of the file of policy tests, beside the configuration.
const TESTS: &str = "policy-tests.toml";

/// The key that lets other protocols pass beside a deny rule by name or `ech = "deny"`, with its reason.
const OTHER_PROTOCOLS: &str = "# A deny rule goes by name here, or `ech` is \"deny\": with this key, what is neither TLS nor HTTP passes all the same.\n\
                               other_protocols = \"allow\"\n";

/// The key without which a client that waits for its server to begin is inspected until the deadline.
const UNINSPECTED: &str = "# The client sent nothing that can be inspected; perhaps it waits for the server to begin. With this key, nothing is.\n\
                           inspect = \"none\"\n";

/// Arguments of `egret allow`.
#[derive(Debug, Clone, clap::Args)]
pub struct AllowOptions {
    #[command(flatten)]
    flow: FlowOptions,
    /// Write the rule into the tenant's file and the test into the file of policy tests, instead of printing both
    #[arg(long)]
    write: bool,
    /// The file of policy tests [default: policy-tests.toml beside the configuration]
    #[arg(long, value_name = "FILE", requires = "write")]
    tests: Option<PathBuf>,
}

/// True if there is a rule to write for a flow: the decision on it is `now`.
pub(super) fn has_rule_for(config: &Config, record: &Recorded, now: &ExplainReport) -> bool {
    !now.is_let_out() && addition(config, record, now).is_ok()
}

/// True if a further allow rule can lift the denial.
fn can_help(denied: Outcome) -> bool {
    matches!(
        denied,
        Outcome::NotAllowed
            | Outcome::NoHostname
            | Outcome::InvalidHostname
            | Outcome::DestinationPrivate
            | Outcome::UnknownProtocol
    )
}

/// True if the client's bytes are denied, whatever a rule says that has them inspected.
fn is_for_bytes(denied: Outcome) -> bool {
    matches!(
        denied,
        Outcome::HelloTooLarge | Outcome::MalformedTls | Outcome::MalformedHttp | Outcome::HelloChanged
    )
}

/// True if configuration files alone decide on the denial, so that files that allow the flow are not in force yet.
pub(super) fn is_by_files(record: &Recorded, denied: Outcome) -> bool {
    let is_of_rules = can_help(denied)
        || record.was_silent()
        || matches!(
            denied,
            Outcome::UnknownTenant | Outcome::DestinationLocal | Outcome::EchDenied | Outcome::DeniedByRule
        );
    is_of_rules && !record.was_resolved()
}

/// The reason why no rule helps a flow that the files allow; `None` if a reload may.
fn beyond_rules(record: &Recorded) -> Option<String> {
    let denied = record.denied_as()?;
    if record.canary {
        return Some(format!(
            "the configuration allows this flow; a candidate denied it, which was enforced for the client. {CANARY_REMEDY}"
        ));
    }
    let detail = record.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let why = if record.was_resolved() {
        "the configuration allows this flow where its client dialled it, but not where its name led:"
    } else {
        "the configuration allows this flow, and no rule helps against"
    };
    (!is_by_files(record, denied)).then(|| format!("{why} {denied}{detail}: {}", denied.remedy()))
}

/// A flow from the log, and the decision of the configuration on it.
struct DeniedFlow {
    record: Recorded,
    now: ExplainReport,
}

impl DeniedFlow {
    fn find(config: &Config, options: &FlowOptions) -> Result<Self, PastFlowError> {
        let flow = PastFlow::find(Some(&config.flow_log.target), options, "allow")?;
        Ok(Self { now: flow.explain(config)?, record: flow.record })
    }
}

/// The TOML to add.
struct Addition {
    tenant: String,
    rule: String,
    test: String,
}

/// Prints the addition, or writes it.
pub fn run(main: &Path, config: &Config, options: &AllowOptions) -> ExitCode {
    let flow = match DeniedFlow::find(config, &options.flow) {
        Ok(flow) => flow,
        Err(error) => return error.report("allow"),
    };
    if flow.now.is_let_out() {
        if let Some(why) = beyond_rules(&flow.record) {
            eprintln!("egret allow: {why}");
            return ExitCode::from(1);
        }
        let still = if flow.record.was_waived() { "would still deny it" } else { "still denies it" };
        let text = format!(
            "The configuration already allows this flow. If the gateway {still}, run `egret reload`.\n"
        );
        return print(&text, 0);
    }
    let addition = match addition(config, &flow.record, &flow.now) {
        Ok(addition) => addition,
        Err(why) => {
            eprintln!("egret allow: {why}");
            return ExitCode::from(1);
        }
    };
    if !options.write {
        let Addition { tenant, rule, test } = &addition;
        let text = format!(
            "# Below tenant {tenant}'s [[tenant]]:\n{rule}\n# Into a file of policy tests (`egret check --tests FILE`):\n{test}"
        );
        return print(&text, 0);
    }
    let tests = options.tests.clone().unwrap_or_else(|| main.with_file_name(TESTS));
    match write(main, &flow, &addition, &tests) {
        Ok(file) => print(
            &format!(
                "wrote the rule into {}\nwrote its test into {}\nNext: egret check --tests {}, then egret reload\n",
                file.display(),
                tests.display(),
                tests.display()
            ),
            0,
        ),
        Err(why) => {
            eprintln!("egret allow: {why}");
            ExitCode::from(FAILED)
        }
    }
}

/// The narrowest rule that lets the flow out. The error says why no rule can.
fn addition(config: &Config, record: &Recorded, now: &ExplainReport) -> Result<Addition, String> {
    let Some(tenant) = now.tenant.clone() else {
        return Err(format!(
            "{} belongs to no tenant: add its address to a tenant's `sources` first",
            record.client.ip()
        ));
    };
    if record.name().is_some_and(|name| name.as_str() == PROBE_NAME) {
        return Err("the flow is a probe of `egret doctor`, and nothing is to let it out".to_owned());
    }
    if let Some(unread) = record.denied_as().filter(|denied| is_for_bytes(*denied)) {
        return Err(format!("an allow rule does not help against {unread}: {}", unread.remedy()));
    }
    let denied = liftable_denial(record, now)?;
    let (address, port) = (record.destination.ip(), record.destination.port());
    let name = record.name();
    let by_address = match &name {
        Some(name) => {
            let hosts = vec![HostPattern::Exact(name.clone())];
            let rule = RuleSpec { hosts, ..RuleSpec::new("added", RuleEffect::Allow) };
            denied_with(config, record, &tenant, &rule)? == Some(Outcome::DestinationPrivate)
        }
        None => true,
    };
    let question = record.question();
    let is_other = question.other_protocol;
    let left = if name.is_some() {
        None
    } else {
        let rule = RuleSpec { cidrs: vec![address.into()], ..RuleSpec::new("added", RuleEffect::Allow) };
        denied_with(config, record, &tenant, &rule)?
    };
    if left == Some(Outcome::InvalidHostname) {
        return Err(format!(
            "an allow rule does not help against {denied}: a deny rule by name covers address and port, and might be \
             meant; give it `ports`, or have the client send a hostname"
        ));
    }
    let takes_key = is_other && left == Some(Outcome::UnknownProtocol);
    let key = if record.was_silent() {
        UNINSPECTED
    } else if takes_key {
        OTHER_PROTOCOLS
    } else {
        ""
    };
    let hosts = name.as_ref().map(|name| format!("hosts = [\"{name}\"]\n")).unwrap_or_default();
    let cidrs = if by_address { format!("cidrs = [\"{}\"]\n", IpNet::from(address)) } else { String::new() };
    let rule = format!(
        "# For flow {} of {:.0}: {denied} without this rule.\n[[tenant.allow]]\n{hosts}{cidrs}ports = [{port}]\n{key}",
        record.flow, record.time
    );
    let to = match &name {
        Some(name) => format!("to = \"{name}:{port}\"\naddress = \"{address}\"\n"),
        None => format!("to = \"{}\"\n", question.to),
    };
    let what = name.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
    let test = format!(
        "[[test]]\nname = \"{tenant} reaches {what} on port {port}\"\nfrom = \"{}\"\n{to}{}verdict = \"allow\"\ntenant = \"{tenant}\"\n",
        record.client.ip(),
        if is_other { "other_protocol = true\n" } else { "" }
    );
    Ok(Addition { tenant, rule, test })
}

/// The reason for which the flow is denied now, if an allow rule lifts it. The error says what to do instead.
fn liftable_denial(record: &Recorded, now: &ExplainReport) -> Result<Outcome, String> {
    let denied = now.would_deny.as_ref().or(now.outcome.as_ref());
    match denied.and_then(|denied| Outcome::named(&denied.name)) {
        Some(denied) if can_help(denied) || record.was_silent() && denied == Outcome::InspectTimeout => {
            Ok(denied)
        }
        Some(denied) => {
            let by = now.rule.as_deref().map(|rule| format!(" (rule {rule})")).unwrap_or_default();
            Err(format!("an allow rule does not help against {denied}{by}: {}", denied.remedy()))
        }
        None => Err(match now.never_steered {
            Some(never) => format!("no rule decides: {}", never.text()),
            None => format!("no rule decides: port {} is not steered to Egret", record.destination.port()),
        }),
    }
}

/// The reason for which the flow would be denied if its tenant had one more rule. Private addresses take a rule that lists
/// them, and other protocols a key where a deny rule goes by name.
fn denied_with(
    config: &Config,
    record: &Recorded,
    tenant: &str,
    rule: &RuleSpec,
) -> Result<Option<Outcome>, String> {
    let mut config = config.clone();
    for spec in &mut config.tenants {
        if *spec.name == *tenant {
            spec.rules.push(rule.clone());
        } else {
            // They decide nothing here, and may be many; the tenant's addresses stay private to it.
            spec.rules.clear();
        }
    }
    let told = past_flow::explain(&config, record).map_err(|error| error.to_string())?;
    let denied = told.would_deny.or(told.outcome);
    Ok(denied.and_then(|denied| Outcome::named(&denied.name)))
}

/// Writes rule and test, and returns the file with the rule. The rule is removed again if the flow is still denied with it.
/// Nothing is written if the file of tests cannot be read, for it is replaced as a whole, or if a file would then say anything
/// beside the addition.
fn write(main: &Path, flow: &DeniedFlow, addition: &Addition, tests: &Path) -> Result<PathBuf, String> {
    config::load(main).map_err(|report| {
        format!("the configuration files have errors already, so nothing was changed; correct them first:\n{report}")
    })?;
    let known = match crate::files::read_text(tests, crate::files::ALL_TEXT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        known => known.map_err(|error| format!("{}: {error}; nothing was changed", tests.display()))?,
    };
    let with_test = edit::with_test(&known, &addition.test).ok_or_else(|| {
        format!("{}: no [[test]] can be appended to it; nothing was changed", tests.display())
    })?;
    let mut files = vec![main.to_owned()];
    files.extend(config::policy_files(super::replace::folder_of(main)).map_err(|error| error.to_string())?);
    let edited = files.iter().find_map(|file| {
        let text = crate::files::read_text(file, crate::files::TEXT).ok()?;
        Some((file, edit::below_tenant(&text, &addition.tenant, &addition.rule)?, text))
    });
    let Some((file, after, before)) = edited else {
        return Err(format!(
            "no configuration file has a [[tenant]] table for {} that a [[tenant.allow]] can follow; add the rule by hand:\n{}",
            addition.tenant, addition.rule
        ));
    };
    edit::replace(file, &after)?;
    if let Err(why) = allows_now(main, flow) {
        edit::replace(file, &before)?;
        return Err(format!(
            "with the rule added to {}, {why}. Nothing was changed; add the rule by hand:\n{}",
            file.display(),
            addition.rule
        ));
    }
    if let Err(why) = edit::replace(tests, &with_test) {
        return Err(format!(
            "the rule was written into {}, but its test was not written: {why}",
            file.display()
        ));
    }
    Ok(file.clone())
}

fn allows_now(main: &Path, flow: &DeniedFlow) -> Result<(), String> {
    let loaded = config::load(main).map_err(|report| format!("the configuration is refused:\n{report}"))?;
    let now = past_flow::explain(&loaded.config, &flow.record).map_err(|error| error.to_string())?;
    if now.is_let_out() { Ok(()) } else { Err("the flow is still denied".to_owned()) }
}

#[cfg(test)]
mod tests;
