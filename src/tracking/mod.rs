//! Tells others how a run goes: lines of steps, event files for TensorBoard, a run on an MLflow server.
//!
//! What is told is what stands in the run's two files of lines, `metrics.jsonl` (one an epoch) and `steps.jsonl` (one
//! every few steps): a [`Line`] gives the figures of one their names, which are the same everywhere. Nothing in this
//! room knows what is trained, or with what: a figure that is added to a line is tracked without a change here.
//!
//! [`StepLines`] and [`tensorboard`] write files of the run, to which an interrupted run goes back to the step that it
//! goes on from; `mlflow` reads the files of lines on a thread of its own, as far as the server has not got them.

mod line;
#[cfg(feature = "torch")]
pub mod mlflow;
mod steps;
pub mod tensorboard;

pub use line::{Line, LineKind};
pub use steps::{StepLines, StepReport};
