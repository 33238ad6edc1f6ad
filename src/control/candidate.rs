//! Loads, promotes and drops the candidate on the reload thread, so that no other change is made meanwhile.

use super::audit::{AuditedCandidate, AuditedOrder};
use super::build_error::BuildError;
use super::loaded_candidate::{LoadedCandidate, PromotionError, SharedCandidate};
use super::reload::{ReloadHandle, Reloader};
use super::verification;
use crate::admin::{
    CandidateHandlers, CandidateReport, ControlError, DropAnswer, FileRead, FileSet, LoadAnswer, LoadOrder,
    NO_CANDIDATE, PendingOrder, PromoteOrder, PromotionFiles, ReloadAnswer, RollbackReport, ShareAnswer,
    ShareOrder,
};
use crate::audit::{ConfigDifference, Originator, SocketPeer, What};
use crate::clock;
use crate::config::{ConfigDigest, ConfigReport, Diagnostic, LoadedConfig, ReadFile};
use crate::gateway::{self, CanaryTerms, Candidate, GatewayState, ReevaluationCounts, Snapshot};
use crate::policy::{Policy, TenantSpec};
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Error of loading a candidate.
#[derive(Debug, thiserror::Error)]
enum CandidateLoadError {
    /// The files have errors.
    #[error(transparent)]
    Config(#[from] ConfigReport),
    /// The policy could not be compiled.
    #[error(transparent)]
    Compile(#[from] crate::policy::CompileError),
    /// The verifier that its rules need could not be started.
    #[error(transparent)]
    Verify(#[from] BuildError),
}

/// State behind the candidate handlers of the control API.
#[derive(Clone)]
pub(crate) struct CandidateApi {
    pub(crate) candidates: SharedCandidate,
    pub(crate) reloads: ReloadHandle,
    pub(crate) gateway: Arc<GatewayState>,
    /// The main file in force.
    pub(crate) main: PathBuf,
}

impl CandidateApi {
    pub(crate) fn control(self) -> CandidateHandlers {
        let [report, files, load, share, promote, drop] = std::array::from_fn(|_| self.clone());
        CandidateHandlers {
            report: Arc::new(move |()| Ok(report.report())),
            files: Arc::new(move |()| files.promotion()),
            load: Arc::new(move |peer, order| load.load(peer, order)),
            share: Arc::new(move |peer, order| share.share(peer, order)),
            promote: Arc::new(move |peer, order| promote.promote(peer, order)),
            drop: Arc::new(move |peer, ()| drop.drop(peer)),
        }
    }

    fn report(&self) -> CandidateReport {
        CandidateReport { candidate: self.candidates.0.load().as_deref().map(LoadedCandidate::status) }
    }

    fn promotion(&self) -> Result<PromotionFiles, ControlError> {
        let loaded = self.candidates.0.load_full().ok_or_else(none_loaded)?;
        let judged = if loaded.revokes {
            self.gateway.preview_reevaluation(&loaded.candidate, clock::policy_time())
        } else {
            ReevaluationCounts::default()
        };
        let (candidate, running) = (loaded.files.clone(), file_set(&self.main, &loaded.replaces));
        let (revokes, asks, fell_back) = (judged.revoked, judged.unproved, loaded.rollback());
        Ok(PromotionFiles { candidate, running, revokes, asks, fell_back })
    }

    fn load(&self, peer: SocketPeer, order: LoadOrder) -> Result<PendingOrder<LoadAnswer>, ControlError> {
        let by = Originator::Control(peer);
        let subject = Some(order.file.display().to_string());
        let audited = AuditedOrder { what: What::CandidateLoad, by, subject };
        self.reloads.run(audited, move |reloader| reloader.load_candidate(by, &order))
    }

    fn share(
        &self,
        peer: SocketPeer,
        order: ShareOrder,
    ) -> Result<PendingOrder<Result<ShareAnswer, ControlError>>, ControlError> {
        let by = Originator::Control(peer);
        let audited = AuditedOrder { what: What::CandidateShare, by, subject: None };
        self.reloads.run(audited, move |reloader| reloader.share_candidate(by, &order))
    }

    fn promote(
        &self,
        peer: SocketPeer,
        order: PromoteOrder,
    ) -> Result<PendingOrder<ReloadAnswer>, ControlError> {
        let by = Originator::Control(peer);
        let audited = AuditedOrder { what: What::CandidatePromote, by, subject: None };
        self.reloads.run(audited, move |reloader| reloader.promote_candidate(by, order))
    }

    fn drop(&self, peer: SocketPeer) -> Result<PendingOrder<Result<DropAnswer, ControlError>>, ControlError> {
        let by = Originator::Control(peer);
        let audited = AuditedOrder { what: What::CandidateDrop, by, subject: None };
        self.reloads.run(audited, move |reloader| reloader.drop_candidate(by))
    }
}

fn none_loaded() -> ControlError {
    ControlError::Unknown(NO_CANDIDATE.to_owned())
}

/// Paths are made absolute; the gateway's working directory never changes.
fn file_set(main: &Path, files: &[ReadFile]) -> FileSet {
    let whole = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned());
    let files = files.iter().map(|file| FileRead { path: whole(&file.path), digest: file.digest });
    FileSet { main: whole(main), files: files.collect() }
}

impl Reloader {
    fn load_candidate(&mut self, by: Originator, order: &LoadOrder) -> LoadAnswer {
        let result = self.try_load(order);
        let subject = order.file.display().to_string();
        let lines = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect();
        match result {
            Ok((version, difference, findings, revoked)) => {
                tracing::info!(file = %subject, %version, revoked, "a candidate is loaded: {difference}");
                let (percent, told) = (order.percent.unwrap_or(0), difference.clone());
                let enforced = AuditedCandidate { version: Arc::clone(&version), percent, revoked };
                self.auditor.candidate(What::CandidateLoad, by, subject, enforced, Some(told));
                let (version, findings) = (version.to_string(), lines(&findings));
                LoadAnswer { loaded: true, version, difference: Some(difference), revoked, findings }
            }
            Err(error) => {
                let findings = match &error {
                    CandidateLoadError::Config(report) => lines(&report.diagnostics),
                    CandidateLoadError::Compile(_) | CandidateLoadError::Verify(_) => vec![error.to_string()],
                };
                let why = findings.first().cloned().unwrap_or_default();
                self.auditor.noted(What::CandidateLoad, by, subject, Err(why));
                LoadAnswer { loaded: false, version: String::new(), difference: None, revoked: 0, findings }
            }
        }
    }

    /// Also returns the number of live flows reset, which a previous candidate had allowed.
    fn try_load(
        &mut self,
        order: &LoadOrder,
    ) -> Result<(Arc<str>, ConfigDifference, Vec<Diagnostic>, u64), CandidateLoadError> {
        let LoadedConfig { mut config, warnings, files, .. } = self.source.read_candidate(&order.file)?;
        let difference = self.outline.difference(&ConfigDigest::of(&config));
        config.keep_fixed(&self.running);
        let snapshot = self.gateway.snapshot.load();
        let policy = Policy::compile(&config.tenants, config.private(Arc::clone(&snapshot.connected)))?;
        let verifier = verification::verifier(&config, &self.metrics, &self.capacity, Some(&snapshot))?;
        let known = snapshot.tenants_by_name();
        let of_tenant = |tenant: &TenantSpec| {
            let known = known.get(&*tenant.name).copied();
            verification::of_tenant(tenant, verifier.as_ref(), &self.metrics, known)
        };
        let candidate = Candidate::new(policy, config.tenants.iter().map(of_tenant).collect());
        let terms = order.percent.map(|percent| CanaryTerms { percent, max_denials: order.max_denials });
        candidate.enforce(terms);
        let loaded = LoadedCandidate {
            candidate: candidate.into(),
            files: file_set(&order.file, &files),
            replaces: Arc::clone(&self.in_force.current().files),
            names: verification::names(&config, &self.in_force.current().pools),
            version: config.version().into(),
            time: clock::timestamp(),
            reported_rollback: false.into(),
            revokes: config.revoke,
        };
        let version = Arc::clone(&loaded.version);
        drop(snapshot);
        let revoked = self.exchange_candidate(Some(loaded));
        Ok((version, difference, warnings, revoked))
    }

    /// The loaded candidate; if there is none, the order is recorded as refused.
    fn loaded_for(&self, what: What, by: Originator) -> Result<Arc<LoadedCandidate>, ControlError> {
        self.candidates.0.load_full().ok_or_else(|| {
            self.auditor.noted(what, by, None, Err(NO_CANDIDATE.to_owned()));
            none_loaded()
        })
    }

    fn share_candidate(&mut self, by: Originator, order: &ShareOrder) -> Result<ShareAnswer, ControlError> {
        let loaded = self.loaded_for(What::CandidateShare, by)?;
        let before = loaded.candidate.terms();
        let max_denials = order.max_denials.or(before.map(|terms| terms.max_denials));
        let max_denials = max_denials.unwrap_or(ShareOrder::MAX_DENIALS);
        let terms = (order.percent > 0).then_some(CanaryTerms { percent: order.percent, max_denials });
        loaded.candidate.enforce(terms);
        loaded.reported_rollback.store(false, Ordering::Relaxed);
        let revoked = self.candidate_changed();
        let (version, percent) = (Arc::clone(&loaded.version), order.percent);
        tracing::info!(%version, percent, max_denials, revoked, "the candidate's share of the clients is another one");
        let enforced = AuditedCandidate { version: Arc::clone(&version), percent, revoked };
        self.auditor.candidate(What::CandidateShare, by, loaded.subject(), enforced, None);
        Ok(ShareAnswer { version, percent, max_denials, revoked })
    }

    fn drop_candidate(&mut self, by: Originator) -> Result<DropAnswer, ControlError> {
        let loaded = self.loaded_for(What::CandidateDrop, by)?;
        let revoked = self.exchange_candidate(None);
        let version = Arc::clone(&loaded.version);
        tracing::info!(%version, revoked, "the candidate is dropped");
        let enforced = AuditedCandidate { version: Arc::clone(&version), percent: 0, revoked };
        self.auditor.candidate(What::CandidateDrop, by, loaded.subject(), enforced, None);
        Ok(DropAnswer { version, revoked })
    }

    /// Reloads if the files now match the candidate.
    fn promote_candidate(&mut self, by: Originator, order: PromoteOrder) -> ReloadAnswer {
        let answer = self.promote(by, order);
        if answer.reloaded {
            self.note_candidate(None);
            self.resolve_in_advance();
        }
        answer
    }

    /// Fails if the candidate is not loaded, has another version, or was rolled back and the order does not force it.
    pub(crate) fn check_candidate(&self, version: &str, order: PromoteOrder) -> Result<(), PromotionError> {
        let loaded = self.candidates.0.load();
        let loaded = loaded.as_deref().ok_or(PromotionError::NoneLoaded)?;
        if *loaded.version != *version {
            return Err(PromotionError::OtherVersion);
        }
        match loaded.rollback().filter(|_| !order.force) {
            None => Ok(()),
            Some(RollbackReport { denied, flows, .. }) => Err(PromotionError::RolledBack { denied, flows }),
        }
    }

    /// Replaces the candidate. Returns the number of live flows reset.
    fn exchange_candidate(&mut self, loaded: Option<LoadedCandidate>) -> u64 {
        let candidate = loaded.as_ref().map(|loaded| Arc::clone(&loaded.candidate));
        // Tenants and policy are shared with the previous snapshot, so dropping that one is cheap.
        let snapshot = Snapshot { candidate, ..Snapshot::clone(&self.gateway.snapshot.load()) };
        self.gateway.snapshot.store(Arc::new(snapshot));
        self.note_candidate(loaded);
        self.candidate_changed()
    }

    /// Updates the names to resolve in advance, and re-evaluates flows that a candidate allowed. Returns the number of
    /// live flows reset.
    fn candidate_changed(&self) -> u64 {
        self.resolve_in_advance();
        let judged = self.gateway.reevaluate_canaries(clock::policy_time());
        self.rechecks.order(judged);
        judged.revoked
    }

    /// Has the names of rules resolved in advance.
    pub(crate) fn resolve_in_advance(&self) {
        let (current, snapshot) = (self.in_force.current(), self.gateway.snapshot.load());
        let loaded = self.candidates.0.load();
        let canary = loaded.as_deref().and_then(|loaded| {
            let enforced = loaded.candidate.is_enforced().then_some(&loaded.names);
            Some((&**loaded.candidate.verifier()?, enforced))
        });
        verification::pin(snapshot.verifier.as_deref(), &current.names, canary);
    }

    /// Reports a rollback once, and re-evaluates the flows that the candidate allowed.
    pub(crate) fn watch_candidate(&self) {
        let loaded = self.candidates.0.load();
        let Some(loaded) = loaded.as_deref().filter(|loaded| loaded.has_just_rolled_back()) else { return };
        let Some(gateway::Rollback { denied, flows, .. }) = loaded.candidate.rollback() else { return };
        let revoked = self.candidate_changed();
        let why =
            format!("it alone denied {denied} of {flows} flows of the clients that it was enforced for");
        tracing::error!(version = %loaded.version, revoked, "canary rolled back: {why}");
        let enforced = AuditedCandidate { version: Arc::clone(&loaded.version), percent: 0, revoked };
        let subject = loaded.subject();
        self.auditor.candidate(What::CandidateRollback, Originator::Gateway, subject, enforced, None);
    }

    /// Replaces the reported candidate. The snapshot in force has been replaced already.
    fn note_candidate(&mut self, loaded: Option<LoadedCandidate>) {
        if let Some(before) = self.candidates.0.swap(loaded.map(Arc::new)) {
            self.retired.add_candidate(Arc::clone(&before.candidate));
        }
    }
}
