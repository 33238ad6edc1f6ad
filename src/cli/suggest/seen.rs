//! Targets of a tenant in a flow log: counted by name (or address) and port, with a bound on memory.

use crate::addr::OriginalDestination;
use crate::cli::doctor::PROBE_NAME;
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Most targets of each kind, passed and denied; some 200 bytes each. Needed because clients choose names; only reached
/// by clients that make names up.
const MOST: usize = 200_000;

/// Keys read from a line of the flow log. Others are skipped.
#[derive(Deserialize)]
pub(super) struct LogLine<'l> {
    time: Timestamp,
    #[serde(borrow)]
    tenant: Option<Cow<'l, str>>,
    destination: SocketAddr,
    #[serde(borrow)]
    hostname: Option<Cow<'l, str>>,
    #[serde(default, borrow)]
    protocol: Option<Cow<'l, str>>,
    #[serde(borrow)]
    verdict: Option<Cow<'l, str>>,
    /// Denial that monitor mode waived.
    #[serde(default, borrow)]
    would_deny: Option<Cow<'l, str>>,
    #[serde(borrow)]
    outcome: Cow<'l, str>,
    #[serde(default, borrow)]
    address_check: Option<Cow<'l, str>>,
    connect_ms: Option<f64>,
}

impl LogLine<'_> {
    /// The denial that monitor mode waived, or that was made.
    fn denied_as(&self) -> Option<Outcome> {
        let word = self.would_deny.as_deref().unwrap_or(&self.outcome);
        Outcome::named(word).filter(|outcome| outcome.is_denial())
    }

    /// True if the address dialled was private.
    fn is_private(&self) -> bool {
        let was_resolved = self.address_check.as_deref() == Some("resolved");
        self.denied_as() == Some(Outcome::DestinationPrivate) && !was_resolved
    }
}

/// A client's target: a name, or an address without a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SeenTarget {
    Name(Hostname),
    Address(IpAddr),
}

impl SeenTarget {
    pub(super) fn name(&self) -> Option<&Hostname> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// Statistics of one target on one port.
#[derive(Debug, Clone)]
pub(super) struct TargetTally {
    pub(super) flows: u64,
    /// Flows that a server answered.
    pub(super) answered: u64,
    /// Flows that passed only in monitor mode.
    pub(super) would_deny: u64,
    /// Start of the last flow.
    pub(super) last: Timestamp,
    /// Address dialled by the last flow.
    pub(super) to: OriginalDestination,
    /// Outcome of the last flow.
    pub(super) outcome: Option<Outcome>,
    /// Bytes that clients sent in place of a name; each kind once, none for a name.
    pub(super) sent: Vec<SentInstead>,
}

/// Bytes in which a client asks for no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SentInstead {
    /// TLS or HTTP that names nothing.
    Nothing,
    /// Neither TLS nor HTTP.
    OtherProtocol,
    /// TLS or HTTP with a name that is no hostname.
    NoHostname,
    /// Nothing that can be judged: the denial that monitor mode waived, or that was made.
    Unclear(Outcome),
}

impl SentInstead {
    fn of(line: &LogLine<'_>) -> Self {
        match line.denied_as() {
            Some(Outcome::InvalidHostname) => Self::NoHostname,
            Some(
                denied @ (Outcome::InspectTimeout
                | Outcome::HelloTooLarge
                | Outcome::MalformedTls
                | Outcome::MalformedHttp
                | Outcome::HelloChanged),
            ) => Self::Unclear(denied),
            _ if line.protocol.as_deref() == Some("other") => Self::OtherProtocol,
            _ => Self::Nothing,
        }
    }
}

/// Amount and use of the data read.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct LogEvidence {
    pub(super) files: u64,
    /// Truncated compressed files; read up to the damage.
    pub(super) damaged_files: u64,
    pub(super) lines: u64,
    /// Lines that are not flow records.
    pub(super) unreadable: u64,
    pub(super) of_other_tenants: u64,
    /// Flows before `--since`.
    pub(super) too_old: u64,
    /// Probes of `egret doctor`.
    pub(super) of_doctor: u64,
    /// Flows without a verdict, because the client left before.
    pub(super) unjudged: u64,
    pub(super) allowed: u64,
    pub(super) would_deny: u64,
    pub(super) denied: u64,
    /// Flows to targets beyond the bound.
    pub(super) beyond_bound: u64,
    /// Start of the first flow that counts.
    pub(super) first: Option<Timestamp>,
    /// Start of the last flow that counts.
    pub(super) last: Option<Timestamp>,
}

/// Statistics by target and port.
pub(super) type Tallies = HashMap<(SeenTarget, u16), TargetTally>;

/// Contents of the log for one tenant.
pub(super) struct TenantLog {
    tenant: String,
    since: Option<Timestamp>,
    pub(super) evidence: LogEvidence,
    pub(super) passed: Tallies,
    pub(super) denied: Tallies,
    /// Addresses to which names did not lead because they were private, as some are of the gateway's own links, which no file tells.
    pub(super) private: HashSet<IpAddr>,
}

impl TenantLog {
    pub(super) fn new(tenant: &str, since: Option<Timestamp>) -> Self {
        Self {
            tenant: tenant.to_owned(),
            since,
            evidence: LogEvidence::default(),
            passed: HashMap::new(),
            denied: HashMap::new(),
            private: HashSet::new(),
        }
    }

    pub(super) fn note(&mut self, line: &LogLine<'_>) {
        let evidence = &mut self.evidence;
        if line.tenant.as_deref() != Some(&*self.tenant) {
            evidence.of_other_tenants += 1;
            return;
        }
        if self.since.is_some_and(|since| line.time < since) {
            evidence.too_old += 1;
            return;
        }
        if line.hostname.as_deref() == Some(PROBE_NAME) {
            evidence.of_doctor += 1;
            return;
        }
        let (count, tallies) = match line.verdict.as_deref() {
            Some("allow") if line.would_deny.is_some() => (&mut evidence.would_deny, &mut self.passed),
            Some("allow") => (&mut evidence.allowed, &mut self.passed),
            Some("deny") => (&mut evidence.denied, &mut self.denied),
            Some(_) => {
                evidence.unreadable += 1;
                return;
            }
            None => {
                evidence.unjudged += 1;
                return;
            }
        };
        let to = OriginalDestination::tcp(line.destination);
        let what = match line.hostname.as_deref().map(|name| Hostname::canonicalize(name.as_bytes())) {
            Some(Ok(name)) => SeenTarget::Name(name),
            Some(Err(_)) => {
                evidence.unreadable += 1;
                return;
            }
            None => SeenTarget::Address(to.ip()),
        };
        *count += 1;
        evidence.first = Some(evidence.first.map_or(line.time, |first| first.min(line.time)));
        evidence.last = Some(evidence.last.map_or(line.time, |last| last.max(line.time)));
        let full = tallies.len() >= MOST;
        let sent = what.name().is_none().then(|| SentInstead::of(line));
        let key = (what, to.port());
        if full && !tallies.contains_key(&key) {
            evidence.beyond_bound += 1;
            return;
        }
        if line.is_private() && self.private.len() < MOST {
            self.private.insert(to.ip());
        }
        let new = TargetTally {
            flows: 0,
            answered: 0,
            would_deny: 0,
            last: line.time,
            to,
            outcome: None,
            sent: Vec::new(),
        };
        let tally = tallies.entry(key).or_insert(new);
        tally.flows += 1;
        tally.answered += u64::from(line.connect_ms.is_some());
        tally.sent.extend(sent.filter(|sent| !tally.sent.contains(sent)));
        tally.would_deny += u64::from(line.would_deny.is_some());
        if line.time >= tally.last {
            tally.last = line.time;
            tally.to = to;
            tally.outcome = Outcome::named(&line.outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, tenant: &str, name: &str, verdict: &str) -> String {
        let (verdict, would_deny) = match verdict {
            "would_deny" => (r#""allow""#, r#""not_allowed""#),
            verdict => (verdict, "null"),
        };
        format!(
            r#"{{"time":"2026-01-01T00:00:{:02}.000000Z","tenant":"{tenant}","destination":"192.0.2.1:443",
            "hostname":{name},"verdict":{verdict},"would_deny":{would_deny},"outcome":"closed","connect_ms":1.5,"colour":"red"}}"#,
            number % 60
        )
    }

    fn note(seen: &mut TenantLog, text: &str) {
        seen.note(&serde_json::from_str(text).unwrap());
    }

    #[test]
    fn log_lines_are_classified() {
        let mut seen = TenantLog::new("acme", Some("2026-01-01T00:00:10Z".parse().unwrap()));
        for (number, tenant, name, verdict) in [
            (9, "acme", r#""old.example""#, r#""allow""#),
            (10, "acme", r#""a.example""#, r#""allow""#),
            (12, "acme", r#""A.example.""#, "would_deny"),
            (11, "acme", r#""evil.example""#, r#""deny""#),
            (11, "acme", "null", r#""allow""#),
            (11, "acme", "null", "null"),
            (11, "acme", r#""not a name""#, r#""allow""#),
            (11, "other", r#""a.example""#, r#""allow""#),
            (11, "acme", r#""egret-doctor.invalid""#, r#""deny""#),
            (11, "acme", r#""egret-doctor.invalid""#, "would_deny"),
        ] {
            note(&mut seen, &line(number, tenant, name, verdict));
        }
        let LogEvidence {
            unreadable,
            of_other_tenants,
            too_old,
            of_doctor,
            unjudged,
            allowed,
            would_deny,
            denied,
            ..
        } = seen.evidence;
        assert_eq!(of_doctor, 2);
        assert_eq!((unreadable, of_other_tenants, too_old, unjudged), (1, 1, 1, 1));
        assert_eq!((allowed, would_deny, denied), (2, 1, 1));
        let tally = &seen.passed[&(SeenTarget::Name("a.example".parse().unwrap()), 443)];
        assert_eq!((tally.flows, tally.answered, tally.would_deny), (2, 2, 1));
        assert_eq!(
            (tally.last.to_string().as_str(), tally.outcome),
            ("2026-01-01T00:00:12Z", Some(Outcome::Closed))
        );
        assert!(seen.passed.contains_key(&(SeenTarget::Address("192.0.2.1".parse().unwrap()), 443)));
        assert_eq!(seen.denied.len(), 1);
    }

    #[test]
    fn seen_names_are_bounded() {
        let mut seen = TenantLog::new("acme", None);
        for number in 0..MOST + 10 {
            let number = u32::try_from(number).unwrap();
            note(&mut seen, &line(0, "acme", &format!(r#""n{number}.example""#), r#""deny""#));
        }
        note(&mut seen, &line(0, "acme", r#""n1.example""#, r#""deny""#));
        assert_eq!((seen.denied.len(), seen.evidence.beyond_bound), (MOST, 10));
        assert_eq!(seen.denied[&(SeenTarget::Name("n1.example".parse().unwrap()), 443)].flows, 2);
    }
}
