//! The last good configuration, kept in the state directory as a fallback for a start with a broken one.
//!
//! Two are kept, each whole in one file: the last one that the gateway started with, and the last one that a reload put in force
//! since. A reload does not apply `[gateway]` and its like, so a reloaded configuration may still fail at a start.

use crate::config::{self, ConfigReport, LoadedConfig, Texts};
use crate::files;
use crate::telemetry::StandingProblem;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The store of the last good configurations of one main file.
#[derive(Debug, Clone)]
pub struct LastGoodStore {
    /// `None` if nothing is kept.
    folder: Option<PathBuf>,
    main: PathBuf,
    problem: StandingProblem,
}

/// The reason for which a configuration is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeepReason {
    /// It was the last that a reload put in force since the start.
    InForce,
    /// It was the last that the gateway started with.
    Started,
}

impl KeepReason {
    const NEWEST_FIRST: [Self; 2] = [Self::InForce, Self::Started];

    fn file_name(self) -> &'static str {
        match self {
            Self::InForce => "in-force.json",
            Self::Started => "started.json",
        }
    }
}

/// The reason for a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FallbackCause {
    /// The files have errors, or cannot be read.
    Files,
    /// The gateway could not start with the files.
    Start,
}

/// Present while the gateway runs on a kept configuration because it did not start with its files.
#[derive(Debug, Clone)]
pub(crate) struct FallbackReason {
    /// The reason for it.
    pub(crate) cause: FallbackCause,
    /// The reason in one line: of a report, its first error.
    pub(crate) why: Arc<str>,
}

impl FallbackReason {
    /// Text that readiness mentions.
    pub(crate) fn note(&self) -> String {
        let (happened, fix) = match self.cause {
            FallbackCause::Files => {
                ("the files were refused at the start", "correct the files, then `egret reload`")
            }
            FallbackCause::Start => (
                "the gateway could not start with the files",
                "remove that cause, or correct the files, then `egret reload`; where that leaves this note, `systemctl restart egret`",
            ),
        };
        format!("runs on the last good configuration, because {happened}: {}; fix: {fix}", self.why)
    }

    /// True if a reload of the files ends it, which differs from the running configuration in these tables that only a restart
    /// can change. Where the start has failed because of such a table, the next one may fail again.
    pub(crate) fn is_ended_by_reload(&self, restart: &[String]) -> bool {
        match self.cause {
            FallbackCause::Files => true,
            FallbackCause::Start => restart.is_empty(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredConfig<'a> {
    main: Cow<'a, Path>,
    files: Vec<StoredFile<'a>>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile<'a> {
    path: Cow<'a, Path>,
    text: Cow<'a, str>,
}

impl LastGoodStore {
    /// A store in `folder` for the configuration whose main file is `main`.
    pub fn new(folder: Option<PathBuf>, main: &Path) -> Self {
        Self { folder, main: main.to_owned(), problem: StandingProblem::default() }
    }

    /// The state directory, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The kept configurations, the newest first, without the one that was just refused, which its digest identifies.
    pub(crate) fn others_than(&self, refused: Option<u64>) -> Vec<Texts> {
        let mut others: Vec<Texts> = Vec::new();
        for texts in self.kept() {
            if Some(texts.digest()) != refused && !others.contains(&texts) {
                others.push(texts);
            }
        }
        others
    }

    /// The newest kept configuration that can be loaded.
    pub fn newest(&self) -> Option<config::Config> {
        self.kept().find_map(|texts| Some(self.load(texts).ok()?.config))
    }

    /// Reads the kept configurations, the newest first.
    fn kept(&self) -> impl Iterator<Item = Texts> {
        KeepReason::NEWEST_FIRST.into_iter().filter_map(|kept| match self.read(kept) {
            Ok(texts) => texts,
            Err(error) => {
                tracing::warn!(%error, "cannot read the kept configuration {}; it is not available as a fallback", kept.file_name());
                None
            }
        })
    }

    /// Parses and checks a kept configuration.
    pub(crate) fn load(&self, texts: Texts) -> Result<LoadedConfig, ConfigReport> {
        config::load_texts(&self.main, texts)
    }

    /// The reason why the configuration in force could not be kept.
    pub(crate) fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    /// Stores the configuration that the gateway started with; none is newer. A failure is logged, and mentioned by readiness.
    pub(crate) fn keep_started(&self, texts: &Texts) {
        self.keep(KeepReason::Started, texts, |folder| {
            let older = fs::remove_file(folder.join(KeepReason::InForce.file_name()));
            older.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        });
    }

    /// Stores a configuration that a reload has put in force. A failure is logged, mentioned by readiness, and returned.
    pub(crate) fn keep_in_force(&self, texts: &Texts) -> Option<String> {
        self.keep(KeepReason::InForce, texts, |_| Ok(()))
    }

    fn keep(
        &self,
        kept: KeepReason,
        texts: &Texts,
        then: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Option<String> {
        let folder = self.folder.as_ref()?;
        let files: io::Result<_> = texts
            .iter()
            .map(|file| {
                file.map(|(path, text)| StoredFile { path: path.into(), text: into_text(text).into() })
            })
            .collect();
        let main = self.main.as_path().into();
        let kept = files.and_then(|files| {
            let stored = serde_json::to_vec(&StoredConfig { main, files })?;
            write(&folder.join(kept.file_name()), &stored)?;
            then(folder)
        });
        let problem = kept.err().map(|error| {
            format!(
                "cannot keep the configuration in {} as a fallback: {error}; a start with broken files would go by an older one, or \
                 fail; see that there is room and that the gateway's user may write there, then `egret reload`",
                folder.display()
            )
        });
        if let Some(problem) = &problem {
            tracing::error!("{problem}");
        }
        self.problem.set(problem.clone());
        problem
    }

    /// `None` if nothing is kept, or for another main file.
    fn read(&self, kept: KeepReason) -> io::Result<Option<Texts>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        // Escapes may double a text.
        let largest = 2 * (files::ALL_TEXT + files::NAMES + files::KEYS);
        let bytes = match files::read(&folder.join(kept.file_name()), largest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let stored: StoredConfig<'_> = serde_json::from_slice(&bytes)?;
        if stored.main != self.main {
            return Ok(None);
        }
        let mut texts = Texts::default();
        for file in stored.files {
            texts.insert(file.path.into_owned(), file.text.as_bytes())?;
        }
        Ok(Some(texts))
    }
}

/// Replaces bytes that are not UTF-8. They can only be in comments, since a configuration with others is refused.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Replaces the file atomically, and durably over a power failure.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        // A part of it would only take room.
        let _ = fs::remove_file(&new);
    })?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n\
        [[tenant]]\nname = \"acme\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n\
        [[tenant.allow]]\nhosts_file = \"lists/names.txt\"\n";
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "example.org. 3600 IN DNSKEY 257 3 13 \
        1PhVryJMqlVKkOMbRvkmpOteUEDtIzJkjNw5s+1u4BjUhZKqjbHPGoVBLpdam3XMTGC9hpTwlT1YUTmrW41A8A==\n";
    const BETA: &str = "[[tenant]]\nname = \"beta\"\nsources = [\"10.0.2.0/24\"]\npool = \"p\"\n";

    #[test]
    fn reload_ends_fallback_unless_restart_may_fail() {
        let of = |cause| FallbackReason { cause, why: "".into() };
        assert!(of(FallbackCause::Files).note().contains("files were refused"));
        assert!(of(FallbackCause::Start).note().contains("could not start"));
        let differs = ["[gateway]".to_owned()];
        assert!(of(FallbackCause::Files).is_ended_by_reload(&differs));
        assert!(of(FallbackCause::Start).is_ended_by_reload(&[]));
        assert!(!of(FallbackCause::Start).is_ended_by_reload(&differs));
    }

    #[test]
    fn kept_configuration_needs_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let main = at("egret.toml");
        for sub in ["lists", "policy.d", "state"] {
            fs::create_dir(at(sub)).unwrap();
        }
        let tables = format!(
            "[certificates]\nroots = [{:?}]\n[resolver]\ndnssec = \"require\"\ntrust_anchors = [{:?}]\n",
            at("ca.pem"),
            at("zone.key")
        );
        fs::write(&main, tables + MAIN).unwrap();
        fs::write(at("ca.pem"), PEM).unwrap();
        fs::write(at("zone.key"), KEY).unwrap();
        fs::write(at("lists/names.txt"), "a.example.org # \u{fc}\n").unwrap();
        fs::write(at("policy.d/beta.toml"), BETA).unwrap();
        let last_good = LastGoodStore::new(Some(at("state")), &main);
        assert_eq!(last_good.others_than(None), []);
        let loaded = config::load(&main).unwrap();
        fs::write(at("state/in-force.json"), "of a run before").unwrap();
        last_good.keep_started(&loaded.texts);
        assert!(!at("state/in-force.json").exists(), "none is newer than that of the start");
        last_good.keep_in_force(&loaded.texts);
        for gone in ["egret.toml", "lists/names.txt", "policy.d/beta.toml", "ca.pem", "zone.key"] {
            fs::remove_file(at(gone)).unwrap();
        }
        // Both are the same and are tried once.
        let [kept] = &last_good.others_than(None)[..] else { panic!("not one") };
        let again = last_good.load(kept.clone()).unwrap();
        assert_eq!(again.config.version(), loaded.config.version());
        assert_eq!(again.texts, loaded.texts);
        // Neither the configuration just refused nor that of another main file is tried.
        assert_eq!(last_good.others_than(Some(loaded.texts.digest())), []);
        assert_eq!(LastGoodStore::new(Some(at("state")), &at("other.toml")).others_than(None), []);
        // A truncated file is not a configuration.
        fs::write(at("state/in-force.json"), "{\"main\": \"").unwrap();
        fs::remove_file(at("state/started.json")).unwrap();
        assert_eq!(last_good.others_than(None), []);
        // A failure to keep it does not interrupt service.
        let nowhere = LastGoodStore::new(Some(at("nowhere")), &main);
        nowhere.keep_started(&loaded.texts);
        assert!(nowhere.problem().reason().is_some_and(|why| why.contains("as a fallback")));
        fs::create_dir(at("nowhere")).unwrap();
        nowhere.keep_in_force(&loaded.texts);
        assert_eq!(nowhere.problem().reason(), None);
        LastGoodStore::new(None, &main).keep_started(&loaded.texts);
    }
}
