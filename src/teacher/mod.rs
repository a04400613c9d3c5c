//! Runs the teacher: prepared samples in, raw outputs out, whatever the runtime.
//!
//! [`open`] gives a [`Teacher`]; [`OutputReading`] then says what its numbers mean and turns them
//! into logits.

#[cfg(feature = "onnx")]
mod onnx;
mod output;
#[cfg(feature = "torch")]
mod torchscript;

use std::path::PathBuf;

pub use output::{OutputReading, OutputType, RawOutput};

use crate::config::{TeacherConfig, TeacherKind};

/// A model that has been loaded and checked against the shape of its inputs.
pub trait Teacher: Send {
    /// The runtime and its version, as the manifest records it.
    fn runtime(&self) -> &str;

    /// One forward pass.
    ///
    /// # Shapes
    /// `inputs`: `[rows, …input shape]`, row-major. The result is `[rows, classes]`.
    ///
    /// # Errors
    /// [`TeacherError`]: the runtime failed, or the output is not `[rows, classes]` of floats.
    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError>;
}

/// Loads the teacher that `config` describes for inputs of `input_shape` (without the batch).
///
/// # Errors
/// [`TeacherError`]: the file is missing or no model, its inputs and outputs are not what the
/// config and the data say, the device is not there, or this build lacks the runtime.
pub fn open(config: &TeacherConfig, input_shape: &[usize]) -> Result<Box<dyn Teacher>, TeacherError> {
    if let Err(source) = std::fs::File::open(&config.path) {
        return Err(TeacherError::Read { path: config.path.clone(), source });
    }
    match config.kind {
        #[cfg(feature = "onnx")]
        TeacherKind::Onnx => Ok(Box::new(onnx::OnnxTeacher::open(config, input_shape)?)),
        #[cfg(feature = "torch")]
        TeacherKind::Torchscript => Ok(Box::new(torchscript::TorchScriptTeacher::open(config, input_shape)?)),
        #[cfg(not(all(feature = "onnx", feature = "torch")))]
        kind => {
            let feature = if kind == TeacherKind::Onnx { "onnx" } else { "torch" };
            let _ = input_shape;
            Err(TeacherError::NotBuilt { kind, feature })
        }
    }
}

/// Why a teacher could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeacherError {
    /// The model file could not be read.
    #[error("teacher.path: cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This build has no such runtime.
    #[error("teacher.kind = \"{kind}\": this kd-cache was built without it; build with --features {feature}")]
    NotBuilt {
        /// The kind asked for.
        kind: TeacherKind,
        /// The cargo feature that has it.
        feature: &'static str,
    },
    /// The runtime's library could not be loaded.
    #[error("cannot load ONNX Runtime from {path}: {problem}; run `make setup`, or set ORT_DYLIB_PATH")]
    Library {
        /// The library.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The device is not to be had.
    #[error("teacher.device = \"{device}\": {problem}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why not.
        problem: String,
    },
    /// The runtime refused the model or a batch.
    #[error("{path}: {doing} failed: {problem}")]
    Runtime {
        /// The model file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the runtime said.
        problem: String,
    },
    /// The model lacks an input or output that the config names, or has several and none is named.
    #[error("teacher.{key}: {path} has {}; {problem}", names(found))]
    Name {
        /// The model file.
        path: PathBuf,
        /// `input` or `output`.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What the model has.
        found: Vec<String>,
    },
    /// The model's input is not what the prepared samples are.
    #[error(
        "{path}: input {name:?} is {found}, but the prepared samples are {expected}; change preprocess.layout, the data or the model"
    )]
    Input {
        /// The model file.
        path: PathBuf,
        /// The input.
        name: String,
        /// Type and shape of the prepared samples.
        expected: String,
        /// Type and shape of the model's input.
        found: String,
    },
    /// The model's output is not a row of class scores for each sample.
    #[error("{path}: expected an output of {expected}, found {found}")]
    Output {
        /// The model file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The output is not what `teacher.output_kind` says.
    #[error("teacher.output_kind = \"{kind}\": row {row}, class {class} is {value}, expected {expected}")]
    Value {
        /// The declared kind.
        kind: &'static str,
        /// Row of the batch.
        row: usize,
        /// Class.
        class: usize,
        /// What was found.
        value: f32,
        /// What was expected.
        expected: &'static str,
    },
}

fn names(found: &[String]) -> String {
    if found.is_empty() { "none".into() } else { found.join(", ") }
}
