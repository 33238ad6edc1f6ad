//! Diagnostics: findings in a configuration, each with its place and a remedy.

use super::file_stamp::FileStamps;
use super::policy_folder::{POLICY_FOLDER, ignored_files, policy_files, policy_texts};
use super::read_budget::{FileKind, ReadBudget};
use super::texts::Texts;
use super::version::digest_of;
use crate::files::access_remedy;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::mem::take;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One finding: place, message and remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Severity: an error makes the configuration unusable.
    pub severity: Severity,
    /// File, as named on the command line, or relative to that one.
    pub file: Arc<str>,
    /// Line, from 1; 0 if the finding is about the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 if the finding is about the whole file.
    pub column: usize,
    /// Description of the problem.
    pub message: String,
    /// Remedy; empty where the message contains it.
    pub help: String,
}

impl Diagnostic {
    /// A finding about a whole file.
    pub fn of_file(severity: Severity, file: &Path, message: String, help: String) -> Self {
        Self { severity, file: file.to_string_lossy().into(), line: 0, column: 0, message, help }
    }
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is used, and probably not as intended.
    Warning,
}

impl Severity {
    /// Text in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line != 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", self.severity.as_str(), self.message)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

/// Reason why a configuration is refused: all errors and warnings of all files, in the order of the files. Displays as
/// one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigReport {
    /// Findings; at least one is an error.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that were read.
    pub read: FileStamps,
}

impl ConfigReport {
    /// Number of errors.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Number of warnings.
    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigReport {}

/// A position in one of the files being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(test, derive(Default))]
pub(super) struct SourcePosition {
    file: usize,
    /// From 1; 0 for the whole file.
    pub(super) line: usize,
    column: usize,
}

/// A file that was read for a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFile {
    /// Path that was read.
    pub path: PathBuf,
    /// FNV-1a of its bytes, 64 bits; detects accidental changes only.
    pub digest: u64,
}

/// Collects the findings of one load, and the files that it reads.
pub(super) struct Diagnostics {
    footprint: FileStamps,
    files: Vec<Arc<str>>,
    read: Vec<ReadFile>,
    texts: Texts,
    /// Files read instead of the disk's.
    kept: Option<Texts>,
    budget: ReadBudget,
    found: Vec<(SourcePosition, Severity, String, String)>,
    /// By severity, whether kept or not.
    counts: [usize; 2],
}

/// Findings of each severity that are kept: a file may have one for every few bytes.
const MAX_FINDINGS: usize = 1000;

/// Reason why a file could not be read, and the remedy.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    why: String,
    pub(super) help: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Identifies one of the files of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileId(usize);

impl FileId {
    /// Returns a position in the file, both counted from 1.
    pub(super) fn at(self, line: usize, column: usize) -> SourcePosition {
        SourcePosition { file: self.0, line, column }
    }

    /// Returns the position of the whole file.
    pub(super) fn whole(self) -> SourcePosition {
        self.at(0, 0)
    }
}

impl Diagnostics {
    /// Starts a load of this main file.
    pub(super) fn new(main: &Path) -> Self {
        Self::with(FileStamps::new(main), None)
    }

    /// Starts a load of these files, without the disk.
    pub(super) fn of_texts(kept: Texts) -> Self {
        Self::with(FileStamps::default(), Some(kept))
    }

    fn with(footprint: FileStamps, kept: Option<Texts>) -> Self {
        Self {
            footprint,
            files: Vec::new(),
            read: Vec::new(),
            texts: Texts::default(),
            kept,
            budget: ReadBudget::default(),
            found: Vec::new(),
            counts: [0; 2],
        }
    }

    /// Returns the files of `policy.d` in the main file's folder.
    pub(super) fn policy_files(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.kept.as_ref().map_or_else(|| policy_files(folder), |kept| Ok(policy_texts(folder, kept)))
    }

    /// Warns of what lies in `policy.d` and was not read; after every other file was.
    pub(super) fn warn_of_ignored_files(&mut self, folder: &Path) {
        if self.kept.is_some() {
            return;
        }
        // Hosts files may lie there.
        let known: HashSet<_> = self.files.iter().map(|file| PathBuf::from(&**file)).collect();
        for path in ignored_files(folder).into_iter().filter(|path| !known.contains(path)) {
            let file = self.add_file(&path);
            let message = format!("it is not read: policy files are {POLICY_FOLDER}/*.toml");
            let help =
                "rename it if it belongs to the policy, else move it elsewhere or begin its name with a dot";
            self.warning(file.whole(), message, help);
        }
    }

    /// Reads a file; `None` if that fails, which is reported. Findings are listed in the order of these calls.
    pub(super) fn read(&mut self, path: &Path, kind: FileKind) -> (FileId, Option<Vec<u8>>) {
        let (file, bytes) = self.open(path, kind);
        let bytes = bytes.map_err(|error| {
            self.error(file.whole(), format!("cannot be read: {error}"), error.help);
        });
        (file, bytes.ok())
    }

    /// Reads a file whose failures the caller reports.
    pub(super) fn open(&mut self, path: &Path, kind: FileKind) -> (FileId, Result<Vec<u8>, Unreadable>) {
        if self.kept.is_none() {
            self.footprint.note(path);
        }
        let file = self.add_file(path);
        let bytes = match &self.kept {
            Some(kept) => kept.read(path),
            None => self.budget.read(path, kind),
        };
        match bytes.and_then(|bytes| self.texts.insert(path.to_owned(), &bytes).map(|()| bytes)) {
            Ok(bytes) => {
                self.read.push(ReadFile { path: path.to_owned(), digest: digest_of(&bytes) });
                (file, Ok(bytes))
            }
            Err(error) => {
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                let help = if is_denied { access_remedy(path) } else { String::new() };
                (file, Err(Unreadable { why: error.to_string(), help }))
            }
        }
    }

    fn add_file(&mut self, path: &Path) -> FileId {
        self.files.push(path.to_string_lossy().into());
        FileId(self.files.len() - 1)
    }

    /// Takes every file read so far, each once, and their texts.
    pub(super) fn files_read(&mut self) -> (Vec<ReadFile>, Texts) {
        // A file of certificates may be named twice.
        let mut seen = HashSet::new();
        self.read.retain(|file| seen.insert(file.path.clone()));
        (take(&mut self.read), take(&mut self.texts))
    }

    pub(super) fn error(&mut self, at: SourcePosition, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Error, at, message.into(), help.into());
    }

    pub(super) fn warning(
        &mut self,
        at: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.note(Severity::Warning, at, message.into(), help.into());
    }

    fn note(&mut self, severity: Severity, at: SourcePosition, message: String, help: String) {
        let count = &mut self.counts[severity as usize];
        *count += 1;
        if *count <= MAX_FINDINGS {
            self.found.push((at, severity, message, help));
        }
    }

    /// Number of errors so far, whether kept or not.
    pub(super) fn errors(&self) -> usize {
        self.counts[Severity::Error as usize]
    }

    /// False once there are more errors than are kept: reading on tells nothing more.
    pub(super) fn has_room(&self) -> bool {
        self.errors() <= MAX_FINDINGS
    }

    /// Formats `file:line`, for a message that refers to a second place.
    pub(super) fn show(&self, at: SourcePosition) -> String {
        format!("{}:{}", self.files[at.file], at.line)
    }

    /// Returns all findings in the order of files and lines, and the files that were read.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, FileStamps) {
        self.found.sort_by_key(|(place, ..)| *place);
        let files = self.files;
        let diagnostic = |(place, severity, message, help): (SourcePosition, _, _, _)| Diagnostic {
            severity,
            file: Arc::clone(&files[place.file]),
            line: place.line,
            column: place.column,
            message,
            help,
        };
        let mut diagnostics: Vec<_> = self.found.into_iter().map(diagnostic).collect();
        let severities = [Severity::Error, Severity::Warning].into_iter().zip(self.counts);
        for (severity, _) in severities.filter(|(_, count)| *count > MAX_FINDINGS) {
            let message =
                format!("there are more {}s: the first {MAX_FINDINGS} are shown", severity.as_str());
            let file = Arc::clone(&files[0]);
            diagnostics.push(Diagnostic { severity, file, line: 0, column: 0, message, help: String::new() });
        }
        (diagnostics, self.footprint)
    }
}
