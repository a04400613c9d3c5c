//! The folder of a run: what lies where, and who may write into it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::setup::Training;
use super::{EpochReport, TrainError, TrainOutcome, TrainReport, transformers};
use crate::config::{StudentConfig, TrainConfig};
use crate::durable;
use crate::student::Initialised;

/// The config with every default filled in.
const CONFIG: &str = "config.toml";
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

/// A run on disk.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The run in `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Takes the folder for a new run. With `overwrite` the files of an earlier one are removed.
    ///
    /// # Errors
    /// [`TrainError::Occupied`], [`TrainError::NotARun`] (something else lies there, and nothing is
    /// removed), [`TrainError::Write`].
    pub(super) fn claim(&self, overwrite: bool) -> Result<(), TrainError> {
        let mut found = Vec::new();
        if let Ok(entries) = fs::read_dir(&self.0) {
            found.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        if !found.is_empty() && !overwrite {
            return Err(TrainError::Occupied { path: self.0.clone() });
        }
        let ours = [
            CONFIG,
            METRICS,
            STEPS,
            TENSORBOARD,
            MLFLOW,
            SUMMARY,
            CHECKPOINTS,
            VARIABLES,
            MODULE,
            TRANSFORMERS,
        ];
        let is_ours = |name: &str| ours.contains(&name.trim_end_matches(durable::TEMPORARY));
        if let Some(stranger) = found.iter().find(|name| !is_ours(name)) {
            return Err(TrainError::NotARun { path: self.0.clone(), found: stranger.clone() });
        }
        for name in found {
            let path = self.0.join(&name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| TrainError::Write { path, source })?;
        }
        let folder = self.0.join(CHECKPOINTS);
        durable::create_folder(&folder).map_err(|source| TrainError::Write { path: folder, source })
    }

    /// The run's config.
    pub fn config(&self) -> PathBuf {
        self.0.join(CONFIG)
    }

    /// Variables of the student that was kept.
    pub fn variables(&self) -> PathBuf {
        self.0.join(VARIABLES)
    }

    /// TorchScript of the student that was kept.
    pub fn module(&self) -> PathBuf {
        self.0.join(MODULE)
    }

    /// How far the run in the folder is.
    ///
    /// # Errors
    /// [`TrainError::Read`]: what is there cannot be read.
    pub fn found(&self) -> Result<FoundRun, TrainError> {
        let path = self.summary();
        let read = |source| TrainError::Read { path: path.clone(), source };
        match fs::read(&path) {
            Ok(text) => {
                let report: TrainReport =
                    serde_json::from_slice(&text).map_err(|error| read(error.into()))?;
                if report.outcome == TrainOutcome::Trained {
                    return Ok(FoundRun::Trained(Box::new(report)));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(read(error)),
        }
        if self.state().exists() {
            return Ok(FoundRun::Interrupted);
        }
        let is_empty = fs::read_dir(&self.0).map_or(true, |mut entries| entries.next().is_none());
        Ok(if is_empty { FoundRun::Nothing } else { FoundRun::Begun })
    }

    /// The folder that Hugging Face's transformers load the student from, where they know it.
    pub fn transformers(&self) -> PathBuf {
        self.0.join(TRANSFORMERS)
    }

    /// Writes [`Self::transformers`], of students that they know.
    pub(super) fn for_transformers(
        &self,
        config: &TrainConfig,
        training: &Training,
    ) -> Result<(), TrainError> {
        let StudentConfig::Llama(llama) = &config.student else { return Ok(()) };
        let longest = training.samples.cache().map_or(0, |cache| cache.manifest().longest_row());
        let folder = self.transformers();
        transformers::write(
            &folder,
            llama,
            training.classes,
            longest,
            &self.variables(),
            config.tokenizer.as_deref(),
        )
        .map_err(|source| TrainError::Write { path: folder, source })
    }

    /// The run's report.
    pub fn summary(&self) -> PathBuf {
        self.0.join(SUMMARY)
    }

    /// Where the run is, while it is not done.
    pub(super) fn state(&self) -> PathBuf {
        self.0.join(CHECKPOINTS).join("state.safetensors")
    }

    /// One line an epoch.
    pub fn metrics(&self) -> PathBuf {
        self.0.join(METRICS)
    }

    /// One line every `tracking.every` steps.
    pub fn steps(&self) -> PathBuf {
        self.0.join(STEPS)
    }

    /// The folder of event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.0.join(TENSORBOARD)
    }

    /// What an MLflow server has got.
    pub(super) fn mlflow(&self) -> PathBuf {
        self.0.join(MLFLOW)
    }

    /// The run's folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where checkpoints lie.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.0.join(CHECKPOINTS)
    }

    /// The checkpoint `name`, without suffix.
    pub(super) fn checkpoint(&self, name: &str) -> PathBuf {
        self.0.join(CHECKPOINTS).join(name)
    }

    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        let path = self.config();
        let text = toml::to_string(config).map_err(std::io::Error::other);
        text.and_then(|text| durable::write_file(&path, text.as_bytes()))
            .map_err(|source| TrainError::Write { path, source })
    }

    /// What the student began with, for the report of a run that goes on: the checkpoint may be gone by then.
    fn init(&self) -> PathBuf {
        self.checkpoints().join("init.json")
    }

    /// Keeps what the student began with, if that is a checkpoint.
    pub(super) fn keep_init(&self, init: Option<&Initialised>) -> Result<(), TrainError> {
        let Some(init) = init else { return Ok(()) };
        self.write_json(self.init(), init)
    }

    /// What [`Self::keep_init`] kept; `None` of a run of a program that kept nothing.
    pub(super) fn kept_init(&self) -> Result<Option<Initialised>, TrainError> {
        let path = self.init();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| TrainError::State { path, problem: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TrainError::Read { path, source }),
        }
    }

    pub(super) fn add_epoch(&self, epoch: &EpochReport) -> Result<(), TrainError> {
        let path = self.metrics();
        let line = json(epoch, false).and_then(|line| durable::append(&path, &line));
        line.map_err(|source| TrainError::Write { path, source })
    }

    pub(super) fn write_summary(&self, report: &TrainReport) -> Result<(), TrainError> {
        self.write_json(self.summary(), report)
    }

    fn write_json(&self, path: PathBuf, value: &impl Serialize) -> Result<(), TrainError> {
        let text = json(value, true).and_then(|text| durable::write_file(&path, &text));
        text.map_err(|source| TrainError::Write { path, source })
    }
}

/// JSON and a line's end.
pub(super) fn json(value: &impl Serialize, pretty: bool) -> std::io::Result<Vec<u8>> {
    let mut text = if pretty { serde_json::to_vec_pretty(value)? } else { serde_json::to_vec(value)? };
    text.push(b'\n');
    Ok(text)
}
