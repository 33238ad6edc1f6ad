//! `egret why`: explains the end of a flow from the flow log, and judges the same flow by the configuration as it is now.

use super::explain::show;
use super::flow_log::Recorded;
use super::last_good::{self, UsableConfig};
use super::output::{json_page, print};
use super::past_flow::{FlowOptions, PastFlow};
use crate::admin::{ExplainReport, canary_remedy};
use crate::config;
use crate::flow::UNKNOWN_TENANT;
use crate::outcome::Outcome;
use crate::units::format_size;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `egret why`.
#[derive(Debug, Clone, clap::Args)]
pub struct WhyOptions {
    #[command(flatten)]
    flow: FlowOptions,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// A past flow, and the current decision on it.
#[derive(Serialize)]
struct PastFlowReport {
    /// Line of the flow log.
    flow: Value,
    /// Explanation by the configuration; `null` if that has errors.
    now: Option<ExplainReport>,
}

/// Prints the explanation.
pub fn run(main: &Path, options: &WhyOptions) -> ExitCode {
    let usable = last_good::load(main);
    let configured = match &usable {
        Ok(usable) => Some(usable.config.flow_log.target.clone()),
        Err(_) => config::flow_log_target(main).ok(),
    };
    if let Err(report) = &usable {
        if configured.is_none() && !options.flow.log.is_given() {
            return last_good::refused(report);
        }
        last_good::warn(main, "what it makes of the flow is not known");
    }
    let told = PastFlow::find(configured.as_ref(), &options.flow, "why").and_then(|flow| {
        let now = usable.as_ref().ok().map(|usable| flow.explain(&usable.config)).transpose()?;
        Ok((flow, now))
    });
    match told {
        Ok((PastFlow { line, .. }, now)) if options.json => {
            print(&json_page(&PastFlowReport { flow: line, now }), 0)
        }
        Ok((PastFlow { record, .. }, now)) => {
            let by = match &usable {
                Ok(UsableConfig { refusal: Some(_), .. }) => JudgedBy::LastGood,
                Ok(_) | Err(_) => JudgedBy::Files,
            };
            let judged = usable.as_ref().ok().zip(now.as_ref()).map(|(usable, now)| JudgedNow {
                report: now,
                by,
                can_be_allowed: super::allow::has_rule_for(&usable.config, &record, now),
            });
            print(&text(&record, judged.as_ref()), 0)
        }
        Err(error) => error.report("why"),
    }
}

/// The configuration that the current decision goes by.
#[derive(Debug, Clone, Copy)]
enum JudgedBy {
    Files,
    /// The files have errors.
    LastGood,
}

impl JudgedBy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Files => "the current configuration files",
            Self::LastGood => "the last good configuration",
        }
    }

    /// The steps that put it in force.
    fn remedy(self) -> &'static str {
        match self {
            Self::Files => "run `egret reload`",
            Self::LastGood => "correct the files first (`egret check`), then run `egret reload`",
        }
    }
}

/// The current decision.
struct JudgedNow<'a> {
    report: &'a ExplainReport,
    by: JudgedBy,
    /// `egret allow` has a rule that lets it out.
    can_be_allowed: bool,
}

fn text(record: &Recorded, now: Option<&JudgedNow<'_>>) -> String {
    let mut text = String::new();
    let Recorded { time, flow, client, destination, duration_ms, .. } = record;
    let tenant = record.tenant.as_deref().unwrap_or(UNKNOWN_TENANT);
    let _ = writeln!(text, "flow     {flow}, {time:.0}, lasted {duration_ms} ms");
    let _ = writeln!(text, "from     {client}, tenant {tenant}");
    let protocol = record.protocol.as_deref().map(|protocol| format!(" ({protocol})")).unwrap_or_default();
    let _ = match record.name() {
        Some(name) => writeln!(text, "to       {name} at {destination}{protocol}"),
        None if record.has_invalid_name() => {
            writeln!(text, "to       {destination}, by a name that is no hostname{protocol}")
        }
        None => writeln!(text, "to       {destination}, without a name{protocol}"),
    };
    if let Some(source) = record.source {
        let public = record.public.map(|public| format!(", outside {public}")).unwrap_or_default();
        let heading = if record.connect_ms.is_some() { "left     from" } else { "tried    from" };
        let _ = writeln!(text, "{heading} {source}{public}");
    }
    let (up, down) = (format_size(record.bytes_up), format_size(record.bytes_down));
    let _ = writeln!(text, "bytes    {up} up, {down} down");
    let by = record.rule.as_deref().map(|rule| format!(" ({rule})")).unwrap_or_default();
    let verdict = record.verdict.as_deref().unwrap_or("none: the flow ended before a verdict");
    let _ = writeln!(text, "verdict  {verdict}{by}");
    if record.canary {
        text.push_str("canary   a candidate decided, which was enforced for this client\n");
    }
    write_outcome(&mut text, record, now);
    if let Some(JudgedNow { report, by, .. }) = now {
        let _ = writeln!(text, "\nThe same flow, judged by {}:", by.as_str());
        text += &show(report);
    }
    text
}

fn write_outcome(text: &mut String, record: &Recorded, now: Option<&JudgedNow<'_>>) {
    let detail = record.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let meaning = |outcome: Option<Outcome>| outcome.map_or("", Outcome::meaning);
    let word = record.outcome_word();
    let _ = writeln!(text, "outcome  {word}{detail}: {}", meaning(record.outcome()));
    let Some(denied) = record.denied_as() else { return };
    if record.was_waived() {
        let _ = writeln!(
            text,
            "         monitor mode waived the denial that enforce mode would make, {denied}: {}",
            denied.meaning()
        );
    }
    // Its remedy is the line after it.
    if denied != Outcome::NotAllowed {
        let _ = writeln!(text, "         {}", denied.remedy());
    }
    let Some(JudgedNow { report, by, can_be_allowed }) = now else { return };
    if record.canary {
        if let Some(remedy) = canary_remedy(report.is_let_out(), Some(denied)) {
            let _ = writeln!(text, "         {remedy}");
        }
    } else if *can_be_allowed {
        let id = &record.flow;
        let _ = writeln!(text, "         `egret allow {id}` writes the rule that would allow it");
    } else if report.is_let_out() && super::allow::is_by_files(record, denied) {
        let still = if record.was_waived() { "would still deny it" } else { "still denies it" };
        let _ = writeln!(
            text,
            "         {} would allow it now; if the gateway {still}, {}",
            by.as_str(),
            by.remedy()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_dial_has_not_left() {
        let told = |connect: &str, outcome: &str| told(connect, outcome, "not_allowed");
        assert!(told("null", "connect_timeout").contains("tried    from 203.0.113.16:5000\n"));
        assert!(told("1.5", "closed").contains("left     from 203.0.113.16:5000\n"));
        let denied = told("null", "ports_exhausted");
        assert!(
            denied.contains("monitor mode waived the denial that enforce mode would make, not_allowed: "),
            "{denied}"
        );
    }

    #[test]
    fn waived_denial_has_its_remedy() {
        let waived = told("1.5", "closed", "inspect_timeout");
        assert!(waived.contains(Outcome::InspectTimeout.remedy()), "{waived}");
    }

    fn told(connect: &str, outcome: &str, would_deny: &str) -> String {
        let line = format!(
            r#"{{"time":"2026-01-01T00:00:00Z","flow":"00c0ffee-1f","tenant":"acme","client":"10.0.1.5:40000",
                "destination":"198.51.100.7:443","hostname":null,"denied_hostname":null,"protocol":"tls","rule":"api","verdict":"allow",
                "would_deny":"{would_deny}","outcome":"{outcome}","detail":null,"source":"203.0.113.16:5000","bytes_up":0,"bytes_down":0,
                "duration_ms":1.5,"connect_ms":{connect}}}"#
        );
        text(&serde_json::from_str(&line).unwrap(), None)
    }
}
