//! Why a sweep cannot begin or go on.

use std::path::PathBuf;

use crate::cache::CacheError;
use crate::config::ConfigError;
use crate::train::TrainError;

/// Why a sweep cannot begin or go on. (A run that fails is no error of the sweep's.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The training config that every run begins with could not be read.
    #[error("base: cannot read {path}")]
    Base {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The training config is no TOML.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys that no training config has, or with values that none may have: all of them at once.
    #[error("{base} with the sweep's keys: {}", faults.join("\n  "))]
    Points {
        /// The training config.
        base: PathBuf,
        /// How many, and each with the points that have it.
        faults: Vec<String>,
    },
    /// A cache of a point.
    #[error("cache: {0}")]
    Cache(#[from] CacheError),
    /// The measure that should rank is not there.
    #[error("rank_by = \"{given}\": {problem}")]
    RankBy {
        /// In the config.
        given: String,
        /// Expected and found.
        problem: String,
    },
    /// Another sweep is at work.
    #[error("{path}: another kd-train sweep is at work there; wait for it, or choose another --out")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is no sweep.
    #[error("{path} holds no sweep ({found} is not one of its files); choose another --out")]
    NotASweep {
        /// The folder.
        path: PathBuf,
        /// What gave it away.
        found: String,
    },
    /// A run that exists was begun otherwise.
    #[error(
        "{path}: {key}: the run was begun with {kept}, found {found}; give what it was begun with, choose another \
         --out, or remove the run's folder"
    )]
    Changed {
        /// The run's folder.
        path: PathBuf,
        /// In its config.
        key: String,
        /// As the run was begun.
        kept: String,
        /// As it is now.
        found: String,
    },
    /// What a run has left.
    #[error(transparent)]
    Run(#[from] TrainError),
    /// A process could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the sweep could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the sweep could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
