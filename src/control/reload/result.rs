//! Result of a reload: for the log, the audit log, and those who ordered it.

use crate::admin::ReloadAnswer;
use crate::audit::ConfigDifference;
use crate::config::{ConfigReport, Diagnostic, Severity};
use crate::control::build_error::BuildError;
use crate::control::loaded_candidate::PromotionError;
use crate::control::network::SteeringRenewal;
use crate::gateway::ReevaluationCounts;
use crate::steering::{REMEDY, RefusedSteering, Remedy};

/// A configuration that came into force.
pub(super) struct ReloadSummary {
    pub(super) difference: ConfigDifference,
    pub(super) steering: SteeringRenewal,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) judged: ReevaluationCounts,
    /// The gateway still runs on what it started with in place of the files, since only a restart can change it.
    pub(super) unproved_start: bool,
    /// The reason why it could not be kept as a fallback, which the log has already.
    pub(super) unkept: Option<String>,
}

impl ReloadSummary {
    /// Describes a start that may fail again.
    fn note(&self) -> Option<String> {
        self.unproved_start.then(|| {
            format!(
                "the gateway could not start with {} of these files, and keeps those of the last good configuration: run \
                 `systemctl restart egret` to try again",
                self.difference.restart.join(", ")
            )
        })
    }
}

/// Reason why a reload took no effect; the previous configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The files have errors.
    #[error(transparent)]
    Config(#[from] ConfigReport),
    /// The configuration could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Steering would cut off clients, or hosts that the machine needs.
    #[error(transparent)]
    Steering(#[from] RefusedSteering),
    /// A promotion, and the files do not match the candidate.
    #[error(transparent)]
    NotTheCandidate(#[from] PromotionError),
    /// The reload panicked.
    #[error("the reload failed in a way that is a bug; please report it")]
    Bug,
}

impl ReloadError {
    /// The report on the files, if they have the errors.
    fn report(&self) -> Option<&ConfigReport> {
        match self {
            Self::Config(report) => Some(report),
            Self::Build(_) | Self::Steering(_) | Self::NotTheCandidate(_) | Self::Bug => None,
        }
    }
}

/// Logs the result.
pub(super) fn say(result: &Result<ReloadSummary, ReloadError>, config: &str) {
    match result {
        Ok(reloaded) => {
            let ReloadSummary { difference, steering, warnings, judged, .. } = reloaded;
            let ReevaluationCounts { revoked, unproved } = judged;
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            if let Some(note) = reloaded.note() {
                tracing::warn!("{note}");
            }
            tracing::info!(%config, revoked, unproved, "reloaded: {difference}");
            match (steering, steering_message(*steering)) {
                (SteeringRenewal::Unneeded, _) | (_, None) => {}
                (SteeringRenewal::Renewed, Some(said)) => tracing::info!("{said}"),
                (
                    SteeringRenewal::Pending | SteeringRenewal::ByHand | SteeringRenewal::AtRestart,
                    Some(said),
                ) => {
                    tracing::warn!("{said}");
                }
            }
        }
        Err(error) => {
            tracing::error!("the configuration was not reloaded, the one before stays in force:\n{error}");
        }
    }
}

/// Result for the audit log: the differences and resets, or the reason for the failure.
pub(super) fn audit_result(
    result: &Result<ReloadSummary, ReloadError>,
) -> Result<(ConfigDifference, u64), String> {
    let error = match result {
        Ok(ReloadSummary { difference, judged, .. }) => return Ok((difference.clone(), judged.revoked)),
        Err(error) => error,
    };
    let Some(report) = error.report() else { return Err(error.to_string()) };
    let first = report.diagnostics.iter().find(|found| found.severity == Severity::Error);
    let first = first.map(ToString::to_string).unwrap_or_default();
    Err(match report.errors() {
        0 | 1 => first,
        2 => format!("{first} (and one more error)"),
        errors => format!("{first} (and {} more errors)", errors - 1),
    })
}

/// Describes the change of packet rules and routes, and any step left to the operator.
fn steering_message(renewal: SteeringRenewal) -> Option<String> {
    match renewal {
        SteeringRenewal::Unneeded => None,
        SteeringRenewal::Renewed => Some("steering was renewed for it".to_owned()),
        SteeringRenewal::Pending => Some(format!(
            "steering has to be renewed for it and is not yet; see `egret steering status`, or run {REMEDY}"
        )),
        SteeringRenewal::ByHand => Some(format!("steering has to be renewed for it: run {REMEDY}")),
        SteeringRenewal::AtRestart => Some(format!(
            "the port of `[gateway] listen` has changed, so steering stays as it is until the gateway restarts: run {}",
            Remedy::RestartBoth.as_str()
        )),
    }
}

/// Answer to those who ordered the reload.
pub(super) fn answer(result: &Result<ReloadSummary, ReloadError>, config: &str) -> ReloadAnswer {
    let lines = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let steering = result.as_ref().ok().and_then(|reloaded| steering_message(reloaded.steering));
    let (difference, ReevaluationCounts { revoked, unproved }, findings) = match result {
        Ok(reloaded @ ReloadSummary { difference, warnings, judged, .. }) => {
            let mut findings = lines(warnings);
            findings.extend(reloaded.note());
            findings.extend(reloaded.unkept.clone());
            (Some(difference.clone()), *judged, findings)
        }
        Err(error) => {
            let findings = match error.report() {
                Some(report) => lines(&report.diagnostics),
                None => vec![error.to_string()],
            };
            (None, ReevaluationCounts::default(), findings)
        }
    };
    ReloadAnswer {
        reloaded: result.is_ok(),
        config: config.to_owned(),
        difference,
        revoked,
        unproved,
        steering,
        findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_tells_that_nothing_was_kept() {
        let summary = |unkept: Option<&str>| ReloadSummary {
            difference: ConfigDifference::default(),
            steering: SteeringRenewal::Unneeded,
            warnings: Vec::new(),
            judged: ReevaluationCounts::default(),
            unproved_start: false,
            unkept: unkept.map(str::to_owned),
        };
        let told = answer(&Ok(summary(Some("no space left"))), "00c0ffee");
        assert!(told.reloaded && told.findings == ["no space left"], "{told:?}");
        assert!(answer(&Ok(summary(None)), "00c0ffee").findings.is_empty());
    }
}
