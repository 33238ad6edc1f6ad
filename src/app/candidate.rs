//! Loads, promotes and drops the candidate, on the thread that reloads: so nothing else is put in force meanwhile.

mod status;

use super::audit::Enforced;
use super::in_force::InForce;
use super::reload::{Reloader, Reloads};
use super::{StartError, verification};
use crate::admin::{
    CandidateControl, CandidateReport, DropAnswer, FileRead, FileSet, LoadAnswer, LoadOrder, Promotion,
    Refusal, ReloadAnswer, ShareAnswer, ShareOrder,
};
use crate::audit::{By, Difference, Peer, What};
use crate::clock;
use crate::config::{self, Diagnostic, Outline, ReadFile};
use crate::gateway::{self, Candidate, Gateway, Judged, Snapshot, Terms};
use crate::policy::Policy;
use crate::telemetry::CandidateInfo;
use crate::verify::Key;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use std::collections::HashSet;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// The candidate that is loaded, if one is. Shared with whoever tells of it.
#[derive(Clone, Default)]
pub(super) struct Candidates(Arc<ArcSwapOption<Loaded>>);

/// A loaded candidate, and where it came from.
struct Loaded {
    candidate: Arc<Candidate>,
    files: FileSet,
    /// Names to look up in advance while it is enforced.
    names: HashSet<Key>,
    version: Arc<str>,
    time: Timestamp,
    told_of_its_fall: AtomicBool,
    /// Its `[policy] on_reload`.
    revokes: bool,
}

/// Why a candidate was not loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// Something is wrong with the files.
    #[error(transparent)]
    Config(#[from] config::Report),
    /// It could not be compiled.
    #[error(transparent)]
    Compile(#[from] crate::policy::CompileError),
    /// What its rules ask about names cannot be looked up.
    #[error(transparent)]
    Verify(#[from] StartError),
}

/// Why a promotion took no effect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum NotTheCandidate {
    /// It was dropped.
    #[error("no candidate is loaded")]
    NoneLoaded,
    /// Another one was loaded, or the files were changed.
    #[error("what the files of the running configuration say is not the candidate that is loaded")]
    Other,
}

/// What the control API may ask for.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) candidates: Candidates,
    pub(super) reloads: Reloads,
    pub(super) in_force: Arc<InForce>,
    pub(super) gateway: Arc<Gateway>,
    /// The main file in force.
    pub(super) main: PathBuf,
}

impl Desk {
    pub(super) fn control(self) -> CandidateControl {
        let [report, files, load, share, promote, drop] = std::array::from_fn(|_| self.clone());
        CandidateControl {
            report: Arc::new(move |()| Ok(report.report())),
            files: Arc::new(move |()| files.promotion()),
            load: Arc::new(move |peer, order| load.load(peer, order)),
            share: Arc::new(move |peer, order| share.share(peer, order)),
            promote: Arc::new(move |peer, ()| promote.promote(peer)),
            drop: Arc::new(move |peer, ()| drop.drop(peer)),
        }
    }

    fn report(&self) -> CandidateReport {
        CandidateReport { candidate: self.candidates.0.load().as_deref().map(Loaded::status) }
    }

    fn promotion(&self) -> Result<Promotion, Refusal> {
        let loaded = self.candidates.0.load_full().ok_or_else(none_loaded)?;
        let running = file_set(&self.main, &self.in_force.current().files);
        let judged = if loaded.revokes {
            self.gateway.would_judge(&loaded.candidate, clock::timestamp())
        } else {
            Judged::default()
        };
        let candidate = loaded.files.clone();
        Ok(Promotion { candidate, running, revokes: judged.revoked, asks: judged.unproved })
    }

    fn load(&self, peer: Peer, order: LoadOrder) -> Result<oneshot::Receiver<LoadAnswer>, Refusal> {
        self.reloads.run(move |reloader| reloader.load_candidate(By::Control(peer), &order))
    }

    fn share(
        &self,
        peer: Peer,
        order: ShareOrder,
    ) -> Result<oneshot::Receiver<Result<ShareAnswer, Refusal>>, Refusal> {
        self.reloads.run(move |reloader| reloader.share_candidate(By::Control(peer), &order))
    }

    fn promote(&self, peer: Peer) -> Result<oneshot::Receiver<ReloadAnswer>, Refusal> {
        self.reloads.run(move |reloader| reloader.promote_candidate(By::Control(peer)))
    }

    fn drop(&self, peer: Peer) -> Result<oneshot::Receiver<Result<DropAnswer, Refusal>>, Refusal> {
        self.reloads.run(move |reloader| reloader.drop_candidate(By::Control(peer)))
    }
}

fn none_loaded() -> Refusal {
    Refusal("no candidate is loaded".to_owned())
}

/// A gateway that was started with a relative path stays where it was.
fn file_set(main: &Path, files: &[ReadFile]) -> FileSet {
    let whole = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned());
    let files = files.iter().map(|file| FileRead { path: whole(&file.path), digest: file.digest });
    FileSet { main: whole(main), files: files.collect() }
}

impl Reloader {
    fn load_candidate(&mut self, by: By, order: &LoadOrder) -> LoadAnswer {
        let result = self.try_load(order);
        let subject = order.file.display().to_string();
        let lines = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect();
        match result {
            Ok((version, difference, findings, revoked)) => {
                tracing::info!(file = %subject, %version, revoked, "a candidate is loaded: {difference}");
                let (percent, told) = (order.percent.unwrap_or(0), difference.clone());
                let enforced = Enforced { version: Arc::clone(&version), percent, revoked };
                self.auditor.candidate(What::CandidateLoad, by, subject, enforced, Some(told));
                let (version, findings) = (version.to_string(), lines(&findings));
                LoadAnswer { loaded: true, version, difference: Some(difference), revoked, findings }
            }
            Err(error) => {
                let findings = match &error {
                    LoadError::Config(report) => lines(&report.diagnostics),
                    LoadError::Compile(_) | LoadError::Verify(_) => vec![error.to_string()],
                };
                let why = findings.first().cloned().unwrap_or_default();
                self.auditor.noted(What::CandidateLoad, by, subject, Err(why));
                LoadAnswer { loaded: false, version: String::new(), difference: None, revoked: 0, findings }
            }
        }
    }

    /// With how many live flows that a candidate before it had let out were reset.
    fn try_load(
        &mut self,
        order: &LoadOrder,
    ) -> Result<(Arc<str>, Difference, Vec<Diagnostic>, u64), LoadError> {
        // It is called as it will be: rules without a name go by the file's.
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy();
        let config::Loaded { mut config, warnings, files, .. } = config::load_as(&order.file, &name)?;
        let difference = self.outline.difference(&Outline::of(&config));
        config.keep_fixed(&self.running);
        let snapshot = self.gateway.snapshot.load();
        let policy = Policy::compile(&config.tenants, config.private(Arc::clone(&snapshot.connected)))?;
        let verifier = verification::verifier(&config, &self.metrics, Some(&snapshot))?;
        let of_tenant =
            |tenant| verification::of_tenant(tenant, verifier.as_ref(), &self.metrics, Some(&snapshot));
        let candidate = Candidate::new(policy, config.tenants.iter().map(of_tenant).collect());
        let terms = order.percent.map(|percent| Terms { percent, max_denials: order.max_denials });
        candidate.enforce(terms);
        let loaded = Loaded {
            candidate: candidate.into(),
            files: file_set(&order.file, &files),
            names: verification::names(&config, &self.in_force.current().pools),
            version: config.version().into(),
            time: clock::timestamp(),
            told_of_its_fall: false.into(),
            revokes: config.revoke,
        };
        let version = Arc::clone(&loaded.version);
        drop(snapshot);
        let revoked = self.exchange_candidate(Some(loaded));
        Ok((version, difference, warnings, revoked))
    }

    fn share_candidate(&mut self, by: By, order: &ShareOrder) -> Result<ShareAnswer, Refusal> {
        let loaded = self.candidates.0.load_full().ok_or_else(none_loaded)?;
        let before = loaded.candidate.terms();
        let max_denials = order.max_denials.or(before.map(|terms| terms.max_denials));
        let max_denials = max_denials.unwrap_or(ShareOrder::MAX_DENIALS);
        let terms = (order.percent > 0).then_some(Terms { percent: order.percent, max_denials });
        loaded.candidate.enforce(terms);
        loaded.told_of_its_fall.store(false, Ordering::Relaxed);
        let revoked = self.candidate_changed();
        let (version, percent) = (Arc::clone(&loaded.version), order.percent);
        tracing::info!(%version, percent, max_denials, revoked, "the candidate's share of the clients is another one");
        let enforced = Enforced { version: Arc::clone(&version), percent, revoked };
        self.auditor.candidate(What::CandidateShare, by, loaded.subject(), enforced, None);
        Ok(ShareAnswer { version, percent, max_denials, revoked })
    }

    fn drop_candidate(&mut self, by: By) -> Result<DropAnswer, Refusal> {
        let loaded = self.candidates.0.load_full().ok_or_else(none_loaded)?;
        let revoked = self.exchange_candidate(None);
        let version = Arc::clone(&loaded.version);
        tracing::info!(%version, revoked, "the candidate is dropped");
        let enforced = Enforced { version: Arc::clone(&version), percent: 0, revoked };
        self.auditor.candidate(What::CandidateDrop, by, loaded.subject(), enforced, None);
        Ok(DropAnswer { version, revoked })
    }

    /// Puts in force what the files say, if that is the candidate.
    fn promote_candidate(&mut self, by: By) -> ReloadAnswer {
        let answer = self.promote(by);
        if answer.reloaded {
            self.note_candidate(None);
            self.pin_names();
        }
        answer
    }

    /// Why a configuration of this version is not the candidate's.
    pub(super) fn check_candidate(&self, version: &str) -> Result<(), NotTheCandidate> {
        match self.candidates.0.load().as_deref() {
            None => Err(NotTheCandidate::NoneLoaded),
            Some(loaded) if *loaded.version != *version => Err(NotTheCandidate::Other),
            Some(_) => Ok(()),
        }
    }

    /// Yields how many live flows were reset for it.
    fn exchange_candidate(&mut self, loaded: Option<Loaded>) -> u64 {
        let candidate = loaded.as_ref().map(|loaded| Arc::clone(&loaded.candidate));
        // Tenants and policy are shared with the snapshot before, so whoever drops that drops little.
        let snapshot = Snapshot { candidate, ..Snapshot::clone(&self.gateway.snapshot.load()) };
        self.gateway.snapshot.store(Arc::new(snapshot));
        self.note_candidate(loaded);
        self.candidate_changed()
    }

    /// Other names are to be looked up in advance, and what a candidate let out is judged again. Yields how many live flows
    /// were reset.
    fn candidate_changed(&self) -> u64 {
        self.pin_names();
        let judged = self.gateway.judge_canaries_again(clock::timestamp());
        self.rechecks.order(judged);
        judged.revoked
    }

    /// Has the names of rules looked up in advance.
    pub(super) fn pin_names(&self) {
        let (current, snapshot) = (self.in_force.current(), self.gateway.snapshot.load());
        let loaded = self.candidates.0.load();
        let canary = loaded.as_deref().and_then(|loaded| {
            let enforced = loaded.candidate.leads().then_some(&loaded.names);
            Some((&**loaded.candidate.verifier()?, enforced))
        });
        verification::pin(snapshot.verifier.as_deref(), &current.names, canary);
    }

    /// Says once that a candidate has fallen back, and judges again what it let out.
    pub(super) fn watch_candidate(&self) {
        let loaded = self.candidates.0.load();
        let Some(loaded) = loaded.as_deref().filter(|loaded| loaded.has_just_fallen()) else { return };
        let Some(gateway::FellBack { denied, flows, .. }) = loaded.candidate.fell_back() else { return };
        let revoked = self.candidate_changed();
        let why =
            format!("it alone denied {denied} of {flows} flows of the clients that it was enforced for");
        tracing::error!(version = %loaded.version, revoked, "the candidate is enforced for nobody any more: {why}");
        let enforced = Enforced { version: Arc::clone(&loaded.version), percent: 0, revoked };
        let subject = loaded.subject();
        self.auditor.candidate(What::CandidateFallBack, By::Gateway, subject, enforced, None);
    }

    /// What is told from now on. The snapshot in force has it already.
    fn note_candidate(&mut self, loaded: Option<Loaded>) {
        if let Some(before) = self.candidates.0.swap(loaded.map(Arc::new)) {
            self.retired.add_candidate(Arc::clone(&before.candidate));
        }
    }
}

impl Candidates {
    /// For the metrics.
    pub(super) fn info(&self) -> Option<CandidateInfo> {
        let loaded = self.0.load();
        let loaded = loaded.as_deref()?;
        Some(CandidateInfo { version: Arc::clone(&loaded.version), state: loaded.state() })
    }
}

impl Loaded {
    fn subject(&self) -> String {
        self.files.main.display().to_string()
    }

    fn has_just_fallen(&self) -> bool {
        self.candidate.fell_back().is_some() && !self.told_of_its_fall.swap(true, Ordering::Relaxed)
    }
}
