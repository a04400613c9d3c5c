//! The folder of a run: what lies where, and who may write into it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::setup::Training;
use super::{EpochReport, TrainError, TrainOutcome, TrainReport, transformers};
use crate::checkpoint;
use crate::config::{StudentConfig, TrainConfig};
use crate::durable;
use crate::loader::Ranks;
use crate::student::{Initialised, Student};

/// The config with every default filled in.
const CONFIG: &str = "config.toml";
/// The caches that the run was begun with, which the config does not name.
const CACHES: &str = "caches.json";
/// The samples that the run was begun with, whatever the config calls them.
const DATA: &str = "data.json";
/// One line an epoch.
const METRICS: &str = "metrics.jsonl";
/// One line every few steps, where they are asked for.
const STEPS: &str = "steps.jsonl";
/// Event files.
const TENSORBOARD: &str = "tensorboard";
/// Which run on an MLflow server it is, and what the server has got of it.
const MLFLOW: &str = "mlflow.json";
/// The run's report.
const SUMMARY: &str = "summary.json";
/// `best`, `last` and others that `[checkpoint]` asks for.
const CHECKPOINTS: &str = "checkpoints";
/// The student that was kept: its variables.
const VARIABLES: &str = "student.safetensors";
/// The student that was kept: TorchScript for inference.
const MODULE: &str = "student.pt";
/// The same for Hugging Face's transformers, of language models.
const TRANSFORMERS: &str = "transformers";
/// What a run's first weights were, beside its checkpoints.
const INIT: &str = "init.json";
/// The tokenizer: there, and beside students that transformers do not know.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What ends a text, beside it.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundRun {
    /// There is none.
    Nothing,
    /// It has kept nothing to go on from.
    Begun,
    /// It can go on.
    Interrupted,
    /// It is done.
    Trained(Box<TrainReport>),
}

/// That nobody else writes in a run's folder.
#[derive(Debug)]
pub(super) struct RunLock(Option<File>);

impl Drop for RunLock {
    /// Closing would do, but for a program that is just being started: until it runs, it has a copy of the file.
    fn drop(&mut self) {
        self.0.iter().for_each(|folder| drop(folder.unlock()));
    }
}

/// A run on disk.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    ranks: Ranks,
}

impl RunFolder {
    /// The run in `path`.
    pub fn new(path: &Path) -> Self {
        Self::of_rank(path, Ranks::default())
    }

    /// The same as one of several ranks has it: all of them read, the first one writes. Whatever writes in here asks
    /// [`Self::writes`], so that callers need not.
    pub(super) fn of_rank(path: &Path, ranks: Ranks) -> Self {
        Self { path: path.to_owned(), ranks }
    }

    /// Whether what is written is this process's to write.
    pub(super) fn writes(&self) -> bool {
        self.ranks.is_first()
    }

    /// Keeps other processes from writing in the folder, which is there, as long as what is returned lives. (It is the folder
    /// that is locked, so that no file is left behind; where a file system cannot, nobody is kept out.)
    ///
    /// # Errors
    /// [`TrainError::Locked`].
    pub(super) fn lock(&self) -> Result<RunLock, TrainError> {
        let folder = File::open(&self.path).ok().filter(|_| self.writes());
        match folder.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => Err(TrainError::Locked { path: self.path.clone() }),
            _ => Ok(RunLock(folder)),
        }
    }

    /// Takes the folder for a new run. With `overwrite` the files of an earlier one are removed; with `resume` those of one that kept
    /// nothing ([`Self::may_begin`]).
    ///
    /// # Errors
    /// [`TrainError::Locked`], [`TrainError::Occupied`], [`TrainError::NotARun`] (something else lies there, and nothing
    /// is removed), [`TrainError::Write`].
    pub(super) fn claim(&self, overwrite: bool, resume: bool) -> Result<RunLock, TrainError> {
        if !self.writes() {
            return Ok(RunLock(None));
        }
        let lock = self.lock()?;
        // What keeps it from being looked at keeps it from being written to, which tells why.
        let found = names(&self.path).unwrap_or_default();
        // Looked at again: before there was a lock, somebody else may have been at work.
        if !(found.is_empty() || overwrite || resume && self.may_begin()) {
            return Err(TrainError::Occupied { path: self.path.clone() });
        }
        let ours = [
            CONFIG,
            CACHES,
            DATA,
            METRICS,
            STEPS,
            TENSORBOARD,
            MLFLOW,
            SUMMARY,
            CHECKPOINTS,
            VARIABLES,
            MODULE,
            TRANSFORMERS,
            TOKENIZER,
            TOKENIZER_CONFIG,
        ];
        let is_ours = |name: &str| ours.contains(&name.trim_end_matches(durable::TEMPORARY));
        if let Some(stranger) = found.iter().find(|name| !is_ours(name)) {
            return Err(TrainError::NotARun { path: self.path.clone(), found: stranger.clone() });
        }
        for name in found {
            let path = self.path.join(&name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| TrainError::Write { path, source })?;
        }
        let folder = self.path.join(CHECKPOINTS);
        durable::create_folder(&folder).map_err(|source| TrainError::Write { path: folder, source })?;
        // Only now is there something to lock, if there was no folder.
        if lock.0.is_some() { Ok(lock) } else { self.lock() }
    }

    /// Whether a run may begin in it without anything being lost: there is no folder, it is empty, or it has what a run writes before its
    /// first step and nothing else, no checkpoint above all.
    pub(super) fn may_begin(&self) -> bool {
        // What cannot be looked at may be anything.
        let (Ok(found), Ok(kept)) = (names(&self.path), names(&self.path.join(CHECKPOINTS))) else {
            return false;
        };
        let first = [CONFIG, CACHES, DATA, CHECKPOINTS];
        let is_first = |name: &String| first.contains(&name.trim_end_matches(durable::TEMPORARY));
        // Runs make the folder of checkpoints before anything else: without it these are somebody's own files.
        let is_of_a_run = found.iter().any(|name| name == CHECKPOINTS);
        let is_unkept = kept.iter().all(|name| name == INIT || name.ends_with(durable::TEMPORARY));
        found.is_empty() || is_of_a_run && is_unkept && found.iter().all(is_first)
    }

    /// The run's config.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// What the run's caches were when it was begun.
    pub(super) fn caches(&self) -> PathBuf {
        self.path.join(CACHES)
    }

    /// What the run's samples were when it was begun.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Variables of the student that was kept.
    pub fn variables(&self) -> PathBuf {
        self.path.join(VARIABLES)
    }

    /// TorchScript of the student that was kept.
    pub fn module(&self) -> PathBuf {
        self.path.join(MODULE)
    }

    /// How far the run in the folder is.
    ///
    /// # Errors
    /// [`TrainError::Read`]: what is there cannot be read.
    pub fn found(&self) -> Result<FoundRun, TrainError> {
        let path = self.summary();
        let read = |source| TrainError::Read { path: path.clone(), source };
        if let Some(text) = durable::if_there(fs::read(&path)).map_err(read)? {
            let report: TrainReport = serde_json::from_slice(&text).map_err(|error| read(error.into()))?;
            if report.outcome == TrainOutcome::Trained {
                return Ok(FoundRun::Trained(Box::new(report)));
            }
        }
        if self.state().exists() {
            return Ok(FoundRun::Interrupted);
        }
        let is_empty = names(&self.path).map_or(true, |found| found.is_empty());
        Ok(if is_empty { FoundRun::Nothing } else { FoundRun::Begun })
    }

    /// The folder that Hugging Face's transformers load the student from, where they know it.
    pub fn transformers(&self) -> PathBuf {
        self.path.join(TRANSFORMERS)
    }

    /// The tokenizer that the run's config named, where it did.
    pub(super) fn tokenizer(&self) -> Option<PathBuf> {
        let of_transformers = self.transformers().join(TOKENIZER);
        [of_transformers, self.path.join(TOKENIZER)].into_iter().find(|path| path.exists())
    }

    /// Writes [`Self::transformers`], of students that they know, and of others the tokenizer alone.
    pub(super) fn for_transformers(
        &self,
        config: &TrainConfig,
        training: &Training,
    ) -> Result<(), TrainError> {
        if !self.writes() {
            return Ok(());
        }
        let tokenizer = config.tokenizer.as_deref();
        let StudentConfig::Llama(llama) = &config.student else {
            return tokenizer
                .map_or(Ok(()), |tokenizer| transformers::write_tokenizer(&self.path, tokenizer))
                .map_err(|source| TrainError::Write { path: self.path.join(TOKENIZER), source });
        };
        let longest = training.samples.cache().map_or(0, |cache| cache.manifest().longest_row());
        let folder = self.transformers();
        transformers::write(&folder, llama, training.classes, longest, &self.variables(), tokenizer)
            .map_err(|source| TrainError::Write { path: folder, source })
    }

    /// The run's report.
    pub fn summary(&self) -> PathBuf {
        self.path.join(SUMMARY)
    }

    /// Where the run is, while it is not done.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join(CHECKPOINTS).join("state.safetensors")
    }

    /// One line an epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// One line every `tracking.every` steps.
    pub fn steps(&self) -> PathBuf {
        self.path.join(STEPS)
    }

    /// The folder of event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join(TENSORBOARD)
    }

    /// What an MLflow server has got.
    pub(super) fn mlflow(&self) -> PathBuf {
        self.path.join(MLFLOW)
    }

    /// The run's folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where checkpoints lie.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The checkpoint `name`, without suffix.
    pub(super) fn checkpoint(&self, name: &str) -> PathBuf {
        self.path.join(CHECKPOINTS).join(name)
    }

    /// Writes the student as the checkpoint `name`.
    pub(super) fn save(&self, student: &mut dyn Student, name: &str) -> Result<(), TrainError> {
        match self.writes() {
            true => Ok(checkpoint::save(student, &self.checkpoint(name))?),
            false => Ok(()),
        }
    }

    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        if !self.writes() {
            return Ok(());
        }
        let path = self.config();
        let text = toml::to_string(config).map_err(std::io::Error::other);
        text.and_then(|text| durable::write_file(&path, text.as_bytes()))
            .map_err(|source| TrainError::Write { path, source })
    }

    /// What the student began with, for the report of a run that goes on: the checkpoint may be gone by then.
    fn init(&self) -> PathBuf {
        self.checkpoints().join(INIT)
    }

    /// Keeps what the student began with, if that is a checkpoint.
    pub(super) fn keep_init(&self, init: Option<&Initialised>) -> Result<(), TrainError> {
        let Some(init) = init else { return Ok(()) };
        self.write_json(self.init(), init)
    }

    /// What [`Self::keep_init`] kept; `None` of a run of a program that kept nothing.
    pub(super) fn kept_init(&self) -> Result<Option<Initialised>, TrainError> {
        self.read_json(self.init())
    }

    pub(super) fn add_epoch(&self, epoch: &EpochReport) -> Result<(), TrainError> {
        if !self.writes() {
            return Ok(());
        }
        let path = self.metrics();
        let line = json(epoch, false).and_then(|line| durable::append(&path, &line));
        line.map_err(|source| TrainError::Write { path, source })
    }

    pub(super) fn write_summary(&self, report: &TrainReport) -> Result<(), TrainError> {
        self.write_json(self.summary(), report)
    }

    /// Writes JSON to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub(super) fn write_json(&self, path: PathBuf, value: &impl Serialize) -> Result<(), TrainError> {
        if !self.writes() {
            return Ok(());
        }
        let text = json(value, true).and_then(|text| durable::write_file(&path, &text));
        text.map_err(|source| TrainError::Write { path, source })
    }

    /// What [`Self::write_json`] wrote to `path`; `None` of a run of a program that did not.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::State`].
    pub(super) fn read_json<T: DeserializeOwned>(&self, path: PathBuf) -> Result<Option<T>, TrainError> {
        let text = durable::if_there(fs::read(&path));
        let text = text.map_err(|source| TrainError::Read { path: path.clone(), source })?;
        let read = text.map(|text| serde_json::from_slice(&text)).transpose();
        read.map_err(|error| TrainError::State { path, problem: error.to_string() })
    }
}

/// What is in a folder; nothing where there is none.
fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let Some(entries) = durable::if_there(fs::read_dir(folder))? else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// JSON and a line's end.
pub(super) fn json(value: &impl Serialize, pretty: bool) -> std::io::Result<Vec<u8>> {
    let mut text = if pretty { serde_json::to_vec_pretty(value)? } else { serde_json::to_vec(value)? };
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_alone_writes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let of = |rank| RunFolder::of_rank(&out, Ranks::new(rank, 2).unwrap());
        let init = Initialised { taken: 3, ..Initialised::default() };
        let second = of(1);
        second.claim(false, false).unwrap();
        second.keep_init(Some(&init)).unwrap();
        assert!(!second.writes() && !out.exists());
        of(0).claim(false, false).unwrap();
        of(0).keep_init(Some(&init)).unwrap();
        // What is there, all of them read, and none but the first takes it for occupied.
        assert_eq!(second.kept_init().unwrap(), Some(init));
        second.claim(false, false).unwrap();
        assert!(matches!(of(0).claim(false, false), Err(TrainError::Occupied { .. })));
    }
}
