//! Audit records of changes to the gateway, each with the configuration in force at the time.

use super::active_config::ActiveConfig;
use crate::audit::{AuditRecord, ConfigDifference, Originator, Verdict, What};
use crate::clock;
use crate::telemetry::AuditLog;
use std::sync::Arc;

/// New state of a candidate, for its audit record.
pub(crate) struct AuditedCandidate {
    /// Hash that its configuration will have.
    pub(crate) version: Arc<str>,
    /// Percentage of clients that it is enforced for.
    pub(crate) percent: u8,
    /// Live flows reset by the change.
    pub(crate) revoked: u64,
}

/// An order as the audit log names it, for one that another thread carries out.
pub(crate) struct AuditedOrder {
    pub(crate) what: What,
    pub(crate) by: Originator,
    pub(crate) subject: Option<String>,
}

/// Handle for writing audit records.
#[derive(Clone)]
pub(crate) struct Auditor {
    log: AuditLog,
    in_force: Arc<ActiveConfig>,
}

impl Auditor {
    pub(crate) fn new(log: AuditLog, in_force: Arc<ActiveConfig>) -> Self {
        Self { log, in_force }
    }

    /// Records the start of the gateway.
    pub(crate) fn started(&self) {
        let fallback = self.in_force.fallback();
        let what = if fallback.is_some() { What::StartFallback } else { What::Start };
        let subject = fallback.map(|fallback| fallback.why.to_string());
        self.log.record(AuditRecord {
            subject,
            config_before: None,
            ..self.change(what, Originator::Gateway)
        });
    }

    /// Records an action on `subject` that leaves the configuration unchanged, or the reason why it was refused.
    pub(crate) fn noted(
        &self,
        what: What,
        by: Originator,
        subject: impl Into<Option<String>>,
        result: Result<(), String>,
    ) {
        let change = AuditRecord { subject: subject.into(), ..self.change(what, by) };
        self.log.record(match result {
            Ok(()) => change,
            Err(why) => refused(change, why),
        });
    }

    /// Records that an order was not carried out.
    pub(crate) fn refused(&self, order: AuditedOrder, why: &str) {
        let AuditedOrder { what, by, subject } = order;
        self.noted(what, by, subject, Err(why.to_owned()));
    }

    /// Records a change of the candidate that was loaded from `subject`.
    pub(crate) fn candidate(
        &self,
        what: What,
        by: Originator,
        subject: String,
        enforced: AuditedCandidate,
        difference: Option<ConfigDifference>,
    ) {
        let AuditedCandidate { version, percent, revoked } = enforced;
        let (subject, candidate, percent) = (Some(subject), Some(version), Some(percent));
        let change = self.change(what, by);
        self.log.record(AuditRecord { subject, difference, candidate, percent, revoked, ..change });
    }

    /// Records the replacement of the configuration `before`, with the number of live flows reset by it, or the reason
    /// why it was refused.
    pub(crate) fn exchanged(
        &self,
        what: What,
        by: Originator,
        before: &Arc<str>,
        result: Result<(ConfigDifference, u64), String>,
    ) {
        let change = AuditRecord { config_before: Some(Arc::clone(before)), ..self.change(what, by) };
        self.log.record(match result {
            Ok((difference, revoked)) => AuditRecord { difference: Some(difference), revoked, ..change },
            Err(why) => refused(change, why),
        });
    }

    /// Reopens the log file.
    pub(crate) fn reopen(&self) {
        self.log.reopen();
    }

    /// Waits until all records are written. Returns false on failure.
    pub(crate) fn flush(&self) -> bool {
        self.log.flush()
    }

    /// Template of a record: made now, with nothing changed.
    fn change(&self, change: What, by: Originator) -> AuditRecord {
        let version = &self.in_force.current().version;
        AuditRecord {
            time: clock::timestamp(),
            change,
            by,
            subject: None,
            result: Verdict::Done,
            why: None,
            config_before: Some(Arc::clone(version)),
            config_after: Arc::clone(version),
            difference: None,
            candidate: None,
            percent: None,
            revoked: 0,
        }
    }
}

fn refused(change: AuditRecord, why: String) -> AuditRecord {
    AuditRecord { result: Verdict::Refused, why: Some(why), ..change }
}

#[cfg(test)]
impl Auditor {
    /// Writes to a file in this folder.
    pub(crate) fn in_test(folder: &std::path::Path) -> Self {
        use super::active_config::CompiledConfig;
        use crate::telemetry::{LogTarget, Metrics};
        let main = folder.join("egret.toml");
        let text = "[steering]\ninterfaces = [\"lan\"]\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16/30\"]\n\
                    [[tenant]]\nname = \"t\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n";
        std::fs::write(&main, text).unwrap();
        let loaded = crate::config::load(&main).unwrap();
        let (metrics, capacity) =
            (Metrics::new(clock::wall(), 1).0.into(), crate::verify::VerifierCapacity::new(1, 1));
        let built =
            CompiledConfig::new(&loaded.config, loaded.files, &Arc::default(), &metrics, &capacity, None);
        let log = LogTarget::File(Self::file_in_test(folder));
        let log = AuditLog::start(log, metrics.gateway().audit_log_errors.clone()).unwrap();
        Self::new(log, ActiveConfig::new(&built.unwrap(), None))
    }

    /// The records in that folder so far.
    pub(crate) fn records(&self, folder: &std::path::Path) -> Vec<serde_json::Value> {
        assert!(self.flush());
        let text = std::fs::read_to_string(Self::file_in_test(folder)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn file_in_test(folder: &std::path::Path) -> std::path::PathBuf {
        folder.join("audit.jsonl")
    }
}
