//! Status of a candidate as text.

use crate::admin::{
    CanaryStatus, CandidateReport, CandidateStatus, ChangedFlows, ExampleFlows, NO_CANDIDATE, RequestChanges,
    RollbackReport, TenantChanges,
};
use crate::units::format_duration;
use std::fmt::Write as _;
use std::time::Duration;

/// The text of `egret candidate status`.
pub(super) fn render(report: &CandidateReport) -> String {
    let Some(candidate) = &report.candidate else {
        return format!("{NO_CANDIDATE}\n");
    };
    let CandidateStatus { file, version, loaded, canary, tenants, changes, beyond, .. } = candidate;
    let mut text =
        format!("{version}  {}, loaded {loaded:.0}\n{}\n", file.display(), effect(canary.as_ref()));
    write_tenants(&mut text, tenants);
    for (change, heading) in
        [("would_deny", "WOULD DENY what leaves now"), ("would_allow", "WOULD ALLOW what is denied now")]
    {
        let mut of_kind = changes.iter().filter(|flows| flows.change == change).peekable();
        if of_kind.peek().is_some() {
            // writing to a String cannot fail, here and below
            let _ = writeln!(text, "\n{heading}");
        }
        for flows in of_kind {
            write_change(&mut text, flows);
        }
    }
    if *beyond > 0 {
        let _ = writeln!(text, "\nand {beyond} more, of kinds too many to keep apart");
    }
    text
}

fn effect(canary: Option<&CanaryStatus>) -> String {
    match canary {
        None => "judged on every flow, enforced for nobody".to_owned(),
        Some(CanaryStatus { percent, max_denials, fell_back: None }) => format!(
            "enforced for {percent} % of the clients, as long as it alone denies at most {max_denials} % of their flows"
        ),
        Some(CanaryStatus { percent, max_denials, fell_back: Some(fell_back) }) => {
            let RollbackReport { time, denied, flows, within_seconds } = fell_back;
            let within = format_duration(Duration::from_secs(*within_seconds));
            format!(
                "FELL BACK at {time:.0}: was enforced for {percent} % of the clients, and alone denied {denied} of their {flows} \
                 flows within {within}, which is more than {max_denials} %; judged on every flow, enforced for nobody"
            )
        }
    }
}

fn write_tenants(text: &mut String, tenants: &[TenantChanges]) {
    if tenants.is_empty() {
        text.push_str("\nno flow since\n");
        return;
    }
    let width = tenants.iter().map(|row| row.tenant.len()).max().unwrap_or(0).max(REQUESTS.len());
    let _ = writeln!(text, "\n{:width$}  {:>10}  WOULD DENY  WOULD ALLOW  UNJUDGED", "TENANT", "SAME");
    for TenantChanges { tenant, same, would_deny, would_allow, unjudged, requests } in tenants {
        let _ =
            writeln!(text, "{tenant:width$}  {same:>10}  {would_deny:>10}  {would_allow:>11}  {unjudged:>8}");
        let RequestChanges { same, would_deny, would_allow } = *requests;
        if same + would_deny + would_allow > 0 {
            let _ = writeln!(text, "{REQUESTS:width$}  {same:>10}  {would_deny:>10}  {would_allow:>11}");
        }
    }
}

/// Label of the row of later requests, below the tenant's row.
const REQUESTS: &str = "  later requests";

fn write_change(text: &mut String, change: &ChangedFlows) {
    let ChangedFlows {
        tenant,
        change: what,
        reason,
        rule,
        candidate_rule,
        waived,
        flows,
        requests,
        examples,
    } = change;
    let denied = |reason: &str, rule: Option<&str>| match rule {
        Some(rule) => format!("{reason}, rule {rule}"),
        None => reason.to_owned(),
    };
    let let_out = |rule: Option<&str>| match (waived, rule) {
        (Some(waived), _) => format!("let out by monitor mode in spite of {}", denied(waived, rule)),
        (None, Some(rule)) => format!("let out by rule {rule}"),
        (None, None) => "let out".to_owned(),
    };
    let (rule, candidate_rule) = (rule.as_deref(), candidate_rule.as_deref());
    let (now, then) = if what == "would_deny" {
        (let_out(rule), denied(reason, candidate_rule))
    } else {
        (denied(reason, rule), let_out(candidate_rule))
    };
    let _ = writeln!(text, "  {tenant}: {} now {now}; then {then}", counted(*flows, *requests));
    for ExampleFlows { hostname, destination, client, flows, requests, last } in examples {
        let target = match hostname {
            Some(name) => format!("{name}:{}", destination.port()),
            None => destination.to_string(),
        };
        let _ = writeln!(text, "    {target}  {}, last {last:.0} from {client}", counted(*flows, *requests));
    }
}

fn counted(flows: u64, requests: u64) -> String {
    let of = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (flows, requests) {
        (_, 0) => of(flows, "flow"),
        (0, _) => of(requests, "later request"),
        _ => format!("{} and {}", of(flows, "flow"), of(requests, "later request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> CandidateStatus {
        let time = |second| jiff::Timestamp::from_second(second).unwrap();
        CandidateStatus {
            file: "/etc/egret/candidate.toml".into(),
            version: "00c0ffee00c0ffee".into(),
            loaded: time(1_764_500_000),
            state: "canary".into(),
            canary: Some(CanaryStatus { percent: 10, max_denials: 1.0, fell_back: None }),
            tenants: vec![TenantChanges {
                tenant: "acme".into(),
                same: 1234,
                would_deny: 3,
                would_allow: 1,
                unjudged: 0,
                requests: RequestChanges { same: 900, would_deny: 12, would_allow: 0 },
            }],
            changes: vec![
                ChangedFlows {
                    tenant: "acme".into(),
                    change: "would_deny".into(),
                    reason: "not_allowed".into(),
                    rule: Some("egret.toml:12".into()),
                    candidate_rule: None,
                    waived: None,
                    flows: 3,
                    requests: 12,
                    examples: vec![ExampleFlows {
                        hostname: Some("api.example.com".into()),
                        destination: "192.0.2.1:443".parse().unwrap(),
                        client: "10.0.1.7".parse().unwrap(),
                        flows: 2,
                        requests: 0,
                        last: time(1_764_500_060),
                    }],
                },
                ChangedFlows {
                    tenant: "acme".into(),
                    change: "would_allow".into(),
                    reason: "denied_by_rule".into(),
                    rule: Some("no-mail".into()),
                    candidate_rule: Some("mail".into()),
                    waived: None,
                    flows: 1,
                    requests: 0,
                    examples: Vec::new(),
                },
            ],
            beyond: 0,
        }
    }

    #[test]
    fn table_shows_changes_and_rules() {
        assert_eq!(
            render(&CandidateReport { candidate: Some(status()) }),
            "\
00c0ffee00c0ffee  /etc/egret/candidate.toml, loaded 2025-11-30T10:53:20Z
enforced for 10 % of the clients, as long as it alone denies at most 1 % of their flows

TENANT                  SAME  WOULD DENY  WOULD ALLOW  UNJUDGED
acme                    1234           3            1         0
  later requests         900          12            0

WOULD DENY what leaves now
  acme: 3 flows and 12 later requests now let out by rule egret.toml:12; then not_allowed
    api.example.com:443  2 flows, last 2025-11-30T10:54:20Z from 10.0.1.7

WOULD ALLOW what is denied now
  acme: 1 flow now denied_by_rule, rule no-mail; then let out by rule mail
"
        );
    }

    #[test]
    fn waived_denials_are_no_permits() {
        let mut monitored = status();
        monitored.changes[0].waived = Some("denied_by_rule".into());
        monitored.changes[0].rule = Some("no-mail".into());
        monitored.changes[1].waived = Some("not_allowed".into());
        monitored.changes[1].candidate_rule = None;
        let text = render(&CandidateReport { candidate: Some(monitored) });
        for told in [
            "now let out by monitor mode in spite of denied_by_rule, rule no-mail; then not_allowed\n",
            "now denied_by_rule, rule no-mail; then let out by monitor mode in spite of not_allowed\n",
        ] {
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn rollback_and_absence_are_shown() {
        let mut fallen = status();
        let time = jiff::Timestamp::from_second(1_764_500_120).unwrap();
        let fell_back = Some(RollbackReport { time, denied: 12, flows: 230, within_seconds: 300 });
        fallen.canary = Some(CanaryStatus { percent: 10, max_denials: 1.0, fell_back });
        let text = render(&CandidateReport { candidate: Some(fallen) });
        assert!(
            text.contains("FELL BACK at 2025-11-30T10:55:20Z: was enforced for 10 % of the clients"),
            "{text}"
        );
        assert!(text.contains("denied 12 of their 230 flows within 5m, which is more than 1 %"), "{text}");
        assert!(render(&CandidateReport { candidate: None }).contains("no candidate is loaded"));
    }
}
