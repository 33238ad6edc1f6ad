//! Loads, promotes and drops the candidate, on the thread that reloads: so nothing else is put in force meanwhile.

use super::audit::Auditor;
use super::in_force::InForce;
use super::reload::{Reloader, Reloads};
use crate::admin::{
    Canary, CandidateControl, CandidateReport, CandidateStatus, ChangedFlows, DropAnswer, Example, FellBack,
    FileRead, FileSet, LoadAnswer, LoadOrder, Promotion, Refusal, ReloadAnswer, TenantChanges,
};
use crate::audit::{By, Difference, Peer, What};
use crate::clock;
use crate::config::{self, Diagnostic, Outline, ReadFile};
use crate::gateway::{self, Candidate, Change, Snapshot, Terms, WINDOW};
use crate::policy::Policy;
use crate::telemetry::CandidateInfo;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
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
    version: Arc<str>,
    time: Timestamp,
    told_of_its_fall: AtomicBool,
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
    /// The main file in force.
    pub(super) main: PathBuf,
}

impl Desk {
    pub(super) fn control(self) -> CandidateControl {
        let [report, files, load, promote, drop] = std::array::from_fn(|_| self.clone());
        CandidateControl {
            report: Arc::new(move |()| Ok(report.report())),
            files: Arc::new(move |()| files.promotion()),
            load: Arc::new(move |peer, order| load.load(peer, order)),
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
        Ok(Promotion { candidate: loaded.files.clone(), running })
    }

    fn load(&self, peer: Peer, order: LoadOrder) -> Result<oneshot::Receiver<LoadAnswer>, Refusal> {
        self.reloads.run(move |reloader| reloader.load_candidate(By::Control(peer), &order))
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
            Ok((version, difference, findings)) => {
                tracing::info!(file = %subject, %version, "a candidate is loaded: {difference}");
                self.auditor.noted(What::CandidateLoad, by, subject, Ok(()));
                let (version, findings) = (version.to_string(), lines(&findings));
                LoadAnswer { loaded: true, version, difference: Some(difference), findings }
            }
            Err(error) => {
                let findings = match &error {
                    LoadError::Config(report) => lines(&report.diagnostics),
                    LoadError::Compile(error) => vec![error.to_string()],
                };
                let why = findings.first().cloned().unwrap_or_default();
                self.auditor.noted(What::CandidateLoad, by, subject, Err(why));
                LoadAnswer { loaded: false, version: String::new(), difference: None, findings }
            }
        }
    }

    fn try_load(&mut self, order: &LoadOrder) -> Result<(Arc<str>, Difference, Vec<Diagnostic>), LoadError> {
        // It is called as it will be: rules without a name go by the file's.
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy();
        let config::Loaded { mut config, warnings, files, .. } = config::load_as(&order.file, &name)?;
        let difference = self.outline.difference(&Outline::of(&config));
        self.keep_fixed(&mut config);
        let policy = Policy::compile(&config.tenants, config.private_destinations)?;
        let terms = order.percent.map(|percent| Terms { percent, max_denials: order.max_denials });
        let loaded = Loaded {
            candidate: Arc::new(Candidate::new(policy, terms)),
            files: file_set(&order.file, &files),
            version: config.version().into(),
            time: clock::timestamp(),
            told_of_its_fall: false.into(),
        };
        let version = Arc::clone(&loaded.version);
        self.exchange_candidate(Some(loaded));
        Ok((version, difference, warnings))
    }

    fn drop_candidate(&mut self, by: By) -> Result<DropAnswer, Refusal> {
        let loaded = self.candidates.0.load_full().ok_or_else(none_loaded)?;
        self.exchange_candidate(None);
        let version = Arc::clone(&loaded.version);
        tracing::info!(%version, "the candidate is dropped");
        self.auditor.noted(What::CandidateDrop, by, loaded.subject(), Ok(()));
        Ok(DropAnswer { version })
    }

    /// Puts in force what the files say, if that is the candidate.
    fn promote_candidate(&mut self, by: By) -> ReloadAnswer {
        let answer = self.promote(by);
        if answer.reloaded {
            self.note_candidate(None);
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

    fn exchange_candidate(&mut self, loaded: Option<Loaded>) {
        let candidate = loaded.as_ref().map(|loaded| Arc::clone(&loaded.candidate));
        // Tenants and policy are shared with the snapshot before, so whoever drops that drops little.
        let snapshot = Snapshot { candidate, ..Snapshot::clone(&self.gateway.snapshot.load()) };
        self.gateway.snapshot.store(Arc::new(snapshot));
        self.note_candidate(loaded);
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

    /// Says once that a candidate has fallen back.
    pub(super) fn watch(&self, auditor: &Auditor) {
        let loaded = self.0.load();
        let Some(loaded) = loaded.as_deref().filter(|loaded| loaded.has_just_fallen()) else { return };
        let Some(gateway::FellBack { denied, flows, .. }) = loaded.candidate.fell_back() else { return };
        let why =
            format!("it alone denied {denied} of {flows} flows of the clients that it was enforced for");
        tracing::error!(version = %loaded.version, "the candidate is enforced for nobody any more: {why}");
        auditor.noted(What::CandidateFallBack, By::Gateway, loaded.subject(), Ok(()));
    }
}

impl Loaded {
    fn subject(&self) -> String {
        self.files.main.display().to_string()
    }

    fn has_just_fallen(&self) -> bool {
        let fallen = self.candidate.terms().is_some() && !self.candidate.leads();
        fallen && !self.told_of_its_fall.swap(true, Ordering::Relaxed)
    }

    fn state(&self) -> &'static str {
        match self.candidate.terms() {
            None => "observing",
            Some(_) if self.candidate.leads() => "canary",
            Some(_) => "fell_back",
        }
    }

    fn status(&self) -> CandidateStatus {
        let (tally, fell_back) = (self.candidate.tally(), self.candidate.fell_back());
        let mut changes: Vec<_> = tally.kinds.into_iter().map(|(kind, kept)| changed(kind, kept)).collect();
        changes.sort_by(|a, b| (b.flows, &a.tenant, &a.rule).cmp(&(a.flows, &b.tenant, &b.rule)));
        let tenants = tally.tenants.into_iter().map(|(tenant, counts)| {
            let of = |change: Change| counts[change as usize];
            TenantChanges {
                tenant,
                same: of(Change::Same),
                would_deny: of(Change::WouldDeny),
                would_allow: of(Change::WouldAllow),
                unjudged: of(Change::Unjudged),
            }
        });
        CandidateStatus {
            file: self.files.main.clone(),
            version: Arc::clone(&self.version),
            loaded: self.time,
            state: self.state().to_owned(),
            canary: self.candidate.terms().map(|Terms { percent, max_denials }| Canary {
                percent,
                max_denials,
                fell_back: fell_back.map(|gateway::FellBack { time, denied, flows }| FellBack {
                    time,
                    denied,
                    flows,
                    within_seconds: WINDOW.as_secs(),
                }),
            }),
            tenants: tenants.collect(),
            changes,
            beyond: tally.beyond,
        }
    }
}

fn changed(kind: gateway::Kind, kept: gateway::Kept) -> ChangedFlows {
    let mut examples: Vec<_> = kept.examples.into_iter().map(example).collect();
    examples.sort_by_key(|example| std::cmp::Reverse(example.last));
    ChangedFlows {
        tenant: kind.tenant,
        change: kind.change.as_str().to_owned(),
        reason: kind.reason.as_str().to_owned(),
        rule: kind.rule,
        candidate_rule: kind.candidate_rule,
        flows: kept.flows,
        examples,
    }
}

fn example(example: gateway::Example) -> Example {
    Example {
        hostname: example.hostname.map(|name| name.to_string()),
        destination: example.destination.socket(),
        client: example.client,
        flows: example.flows,
        last: example.last,
    }
}
