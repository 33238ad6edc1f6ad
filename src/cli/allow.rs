//! `egret allow`: the rule that would allow a denied flow, and the policy test that keeps it.
//!
//! Exit codes, stable: 0 told or written, 1 no rule can help or the flow is not in the log, 2 something could not be read or
//! written.

mod edit;

use super::flow_log::LogFiles;
use super::output::print;
use super::why::{FAILED, Flow};
use crate::app::Explainer;
use crate::config::{self, Config};
use crate::gateway::FlowId;
use crate::hostname::{HostPattern, Hostname};
use crate::outcome::Outcome;
use crate::policy::{Effect, RuleSpec};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Beside the configuration, unless --tests says otherwise.
const TESTS: &str = "policy-tests.toml";

/// Which flow, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The flow's ID: `flow` in a refusal and in the flow log, for example 00c0ffee-1f
    #[arg(value_name = "ID")]
    flow: FlowId,
    #[command(flatten)]
    log: LogFiles,
    /// Write the rule into the file that has the tenant, and the test into the file of tests; else both are printed
    #[arg(long)]
    write: bool,
    /// The file of policy tests; policy-tests.toml beside the configuration unless given
    #[arg(long, value_name = "FILE", requires = "write")]
    tests: Option<PathBuf>,
}

/// A denial that a further allow rule lifts.
pub(super) fn can_help(denied: Outcome) -> bool {
    matches!(denied, Outcome::NotAllowed | Outcome::NoHostname | Outcome::DestinationPrivate)
}

/// What is to be added.
struct Addition {
    tenant: String,
    rule: String,
    test: String,
}

/// Prints the addition, or writes it.
pub fn run(main: &Path, config: &Config, options: &Options) -> ExitCode {
    let flow = match Flow::find(config, options.flow, &options.log, "allow") {
        Ok(flow) => flow,
        Err(error) => return error.tell("allow"),
    };
    if flow.now.allowed && flow.now.would_deny.is_none() {
        return print(
            "The configuration allows this flow already; if it is still denied, reload the gateway.\n",
            0,
        );
    }
    let addition = match addition(config, &flow) {
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

/// The narrowest rule that lets the flow out; or why no rule can.
fn addition(config: &Config, flow: &Flow) -> Result<Addition, String> {
    let Flow { record, now, .. } = flow;
    let Some(tenant) = now.tenant.clone() else {
        return Err(format!(
            "{} belongs to no tenant: add its address to a tenant's `sources` first",
            record.client.ip()
        ));
    };
    let denied = now.would_deny.as_ref().or(now.outcome.as_ref());
    let denied = Outcome::ALL
        .iter()
        .copied()
        .find(|outcome| denied.is_some_and(|denied| denied.name == outcome.as_str()));
    match denied {
        Some(denied) if can_help(denied) => {}
        Some(denied) => {
            let by = now.rule.as_deref().map(|rule| format!(" (rule {rule})")).unwrap_or_default();
            return Err(format!("an allow rule does not help against {denied}{by}: {}", denied.remedy()));
        }
        None => {
            return Err(format!(
                "port {} is not steered to Egret, so no rule decides",
                record.destination.port()
            ));
        }
    }
    let (address, port) = (record.destination.ip(), record.destination.port());
    let only = match address {
        IpAddr::V4(_) => format!("{address}/32"),
        IpAddr::V6(_) => format!("{address}/128"),
    };
    let name = record.name();
    let hosts = name.as_ref().map(|name| format!("hosts = [\"{name}\"]\n")).unwrap_or_default();
    let by_address = match &name {
        Some(name) => !reaches_by_name(config, flow, &tenant, name)?,
        None => true,
    };
    let cidrs = if by_address { format!("cidrs = [\"{only}\"]\n") } else { String::new() };
    let rule = format!(
        "# For flow {}, denied on {:.0} as {}.\n[[tenant.allow]]\n{hosts}{cidrs}ports = [{port}]\n",
        record.flow,
        record.time,
        denied.map_or("", Outcome::as_str)
    );
    let to = match &name {
        Some(name) => format!("to = \"{name}:{port}\"\naddress = \"{address}\"\n"),
        None => format!("to = \"{}\"\n", record.destination),
    };
    let what = name.as_ref().map_or_else(|| address.to_string(), ToString::to_string);
    let test = format!(
        "[[test]]\nname = \"{tenant} reaches {what} on port {port}\"\nfrom = \"{}\"\n{to}verdict = \"allow\"\ntenant = \"{tenant}\"\n",
        record.client.ip()
    );
    Ok(Addition { tenant, rule, test })
}

/// Whether a rule by name alone would let the flow out: private addresses take a rule that names them.
fn reaches_by_name(config: &Config, flow: &Flow, tenant: &str, name: &Hostname) -> Result<bool, String> {
    let mut config = config.clone();
    for spec in config.tenants.iter_mut().filter(|spec| *spec.name == *tenant) {
        let mut rule = RuleSpec::new("added", Effect::Allow);
        rule.hosts.push(HostPattern::Exact(name.clone()));
        spec.rules.push(rule);
    }
    let explainer = Explainer::new(&config).map_err(|error| error.to_string())?;
    let told = explainer.explain(&flow.record.question()).map_err(|error| error.to_string())?;
    let denied = told.would_deny.or(told.outcome);
    Ok(denied.is_none_or(|denied| denied.name != Outcome::DestinationPrivate.as_str()))
}

/// Writes rule and test, and yields the file that has the rule. What then does not allow the flow is taken back.
fn write(main: &Path, flow: &Flow, addition: &Addition, tests: &Path) -> Result<PathBuf, String> {
    let mut files = vec![main.to_owned()];
    files.extend(config::policy_files(super::replace::folder_of(main)).map_err(|error| error.to_string())?);
    let edited = files.iter().find_map(|file| {
        let text = crate::files::read_text(file, crate::files::TEXT).ok()?;
        Some((file, edit::below_tenant(&text, &addition.tenant, &addition.rule)?, text))
    });
    let Some((file, after, before)) = edited else {
        return Err(format!(
            "no file has tenant {} as a [[tenant]] table; add the rule by hand:\n{}",
            addition.tenant, addition.rule
        ));
    };
    edit::replace(file, &after)?;
    if let Err(why) = allows_now(main, flow) {
        edit::replace(file, &before)?;
        return Err(format!(
            "{}: with the rule added, {why}; nothing was changed. Add by hand:\n{}",
            file.display(),
            addition.rule
        ));
    }
    let known = std::fs::read_to_string(tests).unwrap_or_default();
    if let Err(why) = edit::replace(tests, &edit::appended(&known, &addition.test)) {
        return Err(format!("the rule is in {}, but not its test: {why}", file.display()));
    }
    Ok(file.clone())
}

fn allows_now(main: &Path, flow: &Flow) -> Result<(), String> {
    let loaded = config::load(main).map_err(|report| format!("it is refused:\n{report}"))?;
    let explainer = Explainer::new(&loaded.config).map_err(|error| error.to_string())?;
    let now = explainer.explain(&flow.record.question()).map_err(|error| error.to_string())?;
    if now.allowed && now.would_deny.is_none() { Ok(()) } else { Err("the flow is still denied".to_owned()) }
}

#[cfg(test)]
mod tests;
