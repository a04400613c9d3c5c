//! Why a run cannot begin or go on.

use std::path::PathBuf;

use crate::cache::CacheError;
use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::dataset::DatasetError;
use crate::libtorch::{DeterministicError, DeviceError};
use crate::loader::LoaderError;
use crate::loss::LossError;
use crate::optim::OptimError;
use crate::preprocess::PreprocessError;
use crate::student::StudentError;
use crate::target::TemperatureError;
use crate::tracking::mlflow::MlflowError;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The device.
    #[error("train.device: {0}")]
    Device(#[from] DeviceError),
    /// `train.deterministic`.
    #[error(transparent)]
    Deterministic(#[from] DeterministicError),
    /// The config that a run was begun with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A batch.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The student.
    #[error(transparent)]
    Student(#[from] StudentError),
    /// The loss.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// The optimizer.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// The temperature.
    #[error("loss.temperature: {0}")]
    Temperature(#[from] TemperatureError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A server that is told of the run.
    #[error(transparent)]
    Mlflow(#[from] MlflowError),
    /// A set that the student cannot be asked about.
    #[error(
        "validation.{set}: the student does not answer its images, {shape:?} once they are prepared: {source}"
    )]
    Set {
        /// Its name.
        set: String,
        /// One image's shape.
        shape: Vec<usize>,
        /// Why not.
        source: StudentError,
    },
    /// Config and cache disagree.
    #[error("{key}: the config gives {found}, but the cache {cache} was built with {cached}; {hint}")]
    Mismatch {
        /// What disagrees.
        key: String,
        /// The cache's folder.
        cache: PathBuf,
        /// In the cache.
        cached: String,
        /// From the config.
        found: String,
        /// The way out.
        hint: &'static str,
    },
    /// A term of the teacher's targets without any.
    #[error(
        "loss.weights.{name} is {weight}, but there is no cache; give --cache DIR, or --set loss.weights.{name}=0"
    )]
    NoCache {
        /// The term.
        name: &'static str,
        /// Its weight.
        weight: f64,
    },
    /// A term on the teacher's features without a cache.
    #[error(
        "loss.features: {name:?} is a feature of a cache, and there is none; give --cache DIR, or remove the table"
    )]
    NoFeatureCache {
        /// The feature.
        name: String,
    },
    /// A feature that the cache does not keep.
    #[error(
        "loss.features: the cache {cache} keeps no feature {name:?}; {}",
        if known.is_empty() {
            "it keeps none: build it with a table [[features]]".to_owned()
        } else {
            format!("it keeps {known}")
        }
    )]
    NoFeature {
        /// The feature.
        name: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What it keeps.
        known: String,
    },
    /// Hard labels are wanted and there are none.
    #[error(
        "loss.weights.{name} = {weight} needs labels, but the dataset has none; put its images into a \
         folder for each class, or set the weight to 0"
    )]
    NoLabels {
        /// The term.
        name: &'static str,
        /// Its weight.
        weight: f64,
    },
    /// A name to freeze that is no weight's.
    #[error("train.freeze: no weight's name begins with \"{name}\"; there are {known}")]
    Freeze {
        /// In the config.
        name: String,
        /// The student's.
        known: String,
    },
    /// Nothing is left to learn.
    #[error("train.freeze: every weight is frozen; leave some out")]
    AllFrozen,
    /// A student of which nothing that is trained leads to the loss.
    #[error(
        "the loss has no gradient: nothing that is trained leads to it; see train.freeze, and that the forward of a module of your \
         own neither detaches nor is under torch.no_grad"
    )]
    NoGradient,
    /// A batch without positions.
    #[error("the cache has a batch of rows without any token")]
    Empty,
    /// Another process writes there.
    #[error("{path}: another kd-train is at work on this run; wait for it, or choose another --out")]
    Locked {
        /// The run's folder.
        path: PathBuf,
    },
    /// A folder with something in it, and nothing to go on from.
    #[error(
        "--resume: {path} is not there, so that no run can go on; what else is in its folder is removed with --overwrite only"
    )]
    NothingToResume {
        /// The file.
        path: PathBuf,
    },
    /// What a run has kept is not this run's.
    #[error("--resume: {path}: {problem}")]
    State {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        problem: String,
    },
    /// Several processes.
    #[error(
        "ranks: expected a process alone, rank 0 of 1, found rank {rank} of {world}: training on several devices is not \
         built yet; begin the run as one process"
    )]
    Ranks {
        /// Which one.
        rank: u32,
        /// Of how many.
        world: u32,
    },
    /// A run that is to go on otherwise.
    #[error(
        "--resume: {key}: the run in {path} was begun with {kept}, found {found}; give what it was begun with"
    )]
    Resumed {
        /// The run's folder.
        path: PathBuf,
        /// In the config.
        key: String,
        /// As the run was begun.
        kept: String,
        /// As it is now.
        found: String,
    },
    /// A run that is to go on with other targets.
    #[error(
        "--resume: the run in {path} was begun with {kept}, found {found}; give --cache as it was begun (a copy of the same \
         cache will do, wherever it lies), or begin anew with another --out or --overwrite"
    )]
    OtherCaches {
        /// The run's folder.
        path: PathBuf,
        /// As the run was begun.
        kept: String,
        /// As they are now.
        found: String,
    },
    /// Images to train on are not given.
    #[error("dataset: missing; only a cache of tokens keeps its own samples")]
    NoDataset,
    /// A language model's samples come out of its cache.
    #[error("{key}: {problem}")]
    OfTokens {
        /// In the config.
        key: String,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// Nobody says how many classes there are.
    #[error("student.classes: missing; without a cache it says how many classes there are")]
    NoClasses,
    /// The measure that should choose the best epoch is not there.
    #[error("train.select_by = \"{given}\": {problem}")]
    SelectBy {
        /// In the config.
        given: String,
        /// Expected and found.
        problem: String,
    },
    /// The run's folder is taken.
    #[error("{path} exists and is not empty; choose another --out, or give --overwrite")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is no run, and therefore not overwritten.
    #[error(
        "{path} holds no run of kd-train ({found} is not one of its files); it is not overwritten, choose another --out"
    )]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What gave it away.
        found: String,
    },
    /// A file of the run could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the run could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The loss is no number any more.
    #[error(
        "the loss is {loss} at step {step} (epoch {epoch}); lower optimizer.learning_rate or lengthen schedule.warmup_epochs"
    )]
    Diverged {
        /// Counts from 1.
        epoch: u32,
        /// Counts from 1.
        step: u64,
        /// NaN or infinite.
        loss: f64,
    },
    /// libtorch takes paths as text.
    #[error(
        "--out: expected a path that is UTF-8, found {path:?}, to which libtorch could not write the student; choose another"
    )]
    NotText {
        /// The run's folder.
        path: PathBuf,
    },
    /// Steps that had nothing to learn from.
    #[error(
        "epoch {epoch}: expected a step whose rows have a response (responses.begin), found none: raise train.max_steps or train.batch, or \
         take the rows without one out of the data"
    )]
    NothingLearned {
        /// Counts from 1.
        epoch: u32,
    },
    /// A part that is larger than the whole.
    #[error("train.max_samples: expected at most the {samples} samples that there are, found {count}")]
    Part {
        /// In the config.
        count: u64,
        /// Samples that there are.
        samples: u64,
    },
    /// No batch is whole.
    #[error(
        "train.drop_last: expected at least train.batch = {batch} samples, found {samples}, so that no batch would be left; \
         choose a smaller train.batch, or remove drop_last"
    )]
    NoBatch {
        /// Samples of a batch.
        batch: usize,
        /// Samples that there are.
        samples: u64,
    },
    /// Weights or running statistics that are no numbers any more, although the loss was one.
    #[error(
        "epoch {epoch} left {name} of the student not finite; batch norm has no variance of a single value, and the last batch \
         has {last} of train.batch = {batch} samples: choose another train.batch, set train.drop_last, or lower optimizer.learning_rate"
    )]
    NotFinite {
        /// Counts from 1.
        epoch: u32,
        /// The variable.
        name: String,
        /// Samples in the last batch of an epoch.
        last: u64,
        /// Samples in each other.
        batch: usize,
    },
    /// A command's measure has the name of one that is measured anyway.
    #[error("validation.{set}.metrics.{name}: {name} is measured without a command; choose another name")]
    MetricName {
        /// The set.
        set: String,
        /// The measure.
        name: String,
    },
    /// A measure that a command computes could not be had.
    #[error("{key}: {command}: {problem}{said}")]
    MetricCommand {
        /// In the config.
        key: String,
        /// Program and arguments.
        command: String,
        /// How it ended, or what it said instead of a number.
        problem: String,
        /// The last lines of its standard error.
        said: String,
    },
    /// A validation set whose data or cache cannot be used; what is wrong names no set.
    #[error("validation.{set}: {source}")]
    InSet {
        /// The set.
        set: String,
        /// Why.
        source: Box<TrainError>,
    },
    /// An epoch could not be measured. What it learned is kept.
    #[error(
        "epoch {epoch} could not be measured; its steps are kept, and the same command with --resume measures it and goes \
         on: {source}"
    )]
    NotMeasured {
        /// The epoch, from 1.
        epoch: u32,
        /// Why.
        source: Box<TrainError>,
    },
    /// No such checkpoint.
    #[error("--checkpoint {name}: {path} has none of that name (it has: {known})")]
    NoSuchCheckpoint {
        /// Asked for.
        name: String,
        /// The run's folder.
        path: PathBuf,
        /// What is there.
        known: String,
    },
    /// Nothing to measure on.
    #[error(
        "the config has no validation set; give one, as --set validation.NAME.cache=DIR or --set \
         'validation.NAME.dataset={{ kind = \"folder\", … }}'"
    )]
    NoSets,
    /// No such validation set.
    #[error("no validation set named {name:?} in the config (it has: {known})")]
    NoSuchSet {
        /// Asked for.
        name: String,
        /// In the config.
        known: String,
    },
    /// libtorch failed.
    #[error("{doing}: {problem}")]
    Libtorch {
        /// What was being done.
        doing: &'static str,
        /// libtorch's own words.
        problem: String,
    },
}
