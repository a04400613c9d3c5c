//! Trains a student from a cache, or on labels alone, and uses it afterwards.
//!
//! [`run`] walks the second corridor: cache and data → loader → loss → student, optimizer →
//! metrics, checkpoints. [`eval`], [`predict`] and [`generate`] are the inference side of a finished run.

mod caches;
mod command;
mod course;
mod data;
mod doubt;
mod error;
mod evaluate;
mod export;
mod folder;
mod further;
mod generate;
mod infer;
mod outlet;
mod predictions;
mod report;
mod responses;
mod resume;
mod retain;
mod run;
mod select;
mod setup;
mod state;
mod step;
mod sums;
mod transformers;
mod trial;
mod upload;
mod validation;
mod watch;
mod window;

pub(crate) use caches::RunCaches;
pub use error::TrainError;
pub use export::{ExportedForm, ExportedStudent, OnnxCheck, StudentInput, export};
pub use folder::{FoundRun, RunFolder};
pub use generate::{GenerateSettings, Generated, generate};
pub use infer::{EvalReport, Prediction, Use, completed, eval, predict, predict_lines, predict_parquet};
pub use predictions::PredictionColumns;
pub use report::{EpochReport, KeptCheckpoint, TrainOutcome, TrainReport};
pub(crate) use resume::difference;
pub use run::{RunOptions, run};
