//! A folder with caches, a config over them, and runs of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Said, build, cache_config, kd_train_command, lines, told, train_config};

/// Runs of one config, which end with the folder.
pub struct Case {
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    /// Folders within `dir`.
    pub caches: Vec<&'static str>,
}

impl Case {
    /// A small student of the training slice, 512 samples in 8 batches, and a cache over it.
    pub fn new() -> Self {
        Self::with_cache(&[])
    }

    /// The same with changed keys of the cache.
    pub fn with_cache(set: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&cache_config(dir.path(), "linear.onnx"), &dir.path().join("cache"), set).code(0);
        let config = train_config(dir.path());
        Self { dir, config, caches: vec!["cache"] }
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Arguments for a run of `config` with the report as JSON, changed keys, and more.
    pub fn args_of(&self, config: &Path, name: &str, set: &[&str], more: &[&str]) -> Vec<OsString> {
        let mut args = args!["--config", config, "--out", self.out(name), "--format", "json"].to_vec();
        for cache in &self.caches {
            args.extend(args!["--cache", self.out(cache)]);
        }
        for set in set {
            args.extend(args!["--set", set]);
        }
        args.extend(more.iter().map(OsString::from));
        args
    }

    /// The same of the case's config.
    pub fn args(&self, name: &str, set: &[&str], more: &[&str]) -> Vec<OsString> {
        self.args_of(&self.config, name, set, more)
    }

    /// A run of another config, begun or gone on with; not yet started.
    pub fn command_of(&self, config: &Path, name: &str, resume: bool, set: &[&str]) -> Command {
        let more: &[&str] = if resume { &["--quiet", "--resume"] } else { &["--quiet"] };
        kd_train_command(&self.args_of(config, name, set, more))
    }

    pub fn command(&self, name: &str, resume: bool, set: &[&str]) -> Command {
        self.command_of(&self.config, name, resume, set)
    }

    pub fn run_of(&self, config: &Path, name: &str, resume: bool, set: &[&str]) -> Said {
        self.command_of(config, name, resume, set).output().unwrap().into()
    }

    pub fn run(&self, name: &str, resume: bool, set: &[&str]) -> Said {
        self.run_of(&self.config, name, resume, set)
    }

    pub fn train(&self, name: &str, set: &[&str]) -> Said {
        self.run(name, false, set)
    }

    pub fn resume(&self, name: &str, set: &[&str]) -> Said {
        self.run(name, true, set)
    }

    /// Trains, which must be refused with all of `words` and leave nothing.
    #[track_caller]
    pub fn refused(&self, set: &[&str], words: &[&str]) {
        self.train("refused", set).refused(words);
        assert!(!self.out("refused").exists());
    }

    /// The lines of a run's `metrics.jsonl`.
    pub fn epochs(&self, name: &str) -> Vec<Value> {
        lines(&self.out(name).join("metrics.jsonl"))
    }

    /// A run's summary.
    pub fn summary(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.out(name).join("summary.json")).unwrap()).unwrap()
    }

    /// What must not depend on interruptions: every epoch but for its clock, and the student.
    pub fn results(&self, name: &str) -> (Vec<Value>, Vec<u8>) {
        let run = self.out(name);
        (told(&run.join("metrics.jsonl")), std::fs::read(run.join("student.safetensors")).unwrap())
    }

    /// The student that a run exported, by name.
    pub fn weights(&self, name: &str) -> BTreeMap<String, Vec<f32>> {
        let named = tch::Tensor::read_safetensors(self.out(name).join("student.safetensors")).unwrap();
        let numbers = |tensor: tch::Tensor| Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
        named.into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect()
    }
}
