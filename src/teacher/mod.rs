//! Runs the teacher: prepared samples or rows of tokens in, raw outputs out, whatever the runtime.
//!
//! [`open`] gives a [`Teacher`] of samples, [`open_tokens`] a [`TokenTeacher`] of a language model;
//! [`OutputReading`] then says what its numbers mean and turns them into logits.

mod command;
mod error;
#[cfg(any(test, feature = "onnx", feature = "torch"))]
mod features;
#[cfg(feature = "onnx")]
mod onnx;
mod output;
mod tokens;
#[cfg(feature = "torch")]
mod torchscript;
mod vocabulary;

#[cfg(test)]
#[cfg(all(feature = "onnx", feature = "torch"))]
mod token_tests;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

pub use error::TeacherError;
pub use output::{OutputReading, OutputType, RawOutput, Values};
pub use tokens::TokenBatch;

use crate::config::{FeatureConfig, TeacherConfig, TeacherKind};
use crate::digest::Digest;

/// A model that has been loaded and checked against the shape of its inputs.
pub trait Teacher: Send {
    /// The runtime and its version, as the manifest records it.
    fn runtime(&self) -> &str;

    /// The model's digest, where it is not that of the file `teacher.path`.
    fn digest(&self) -> Option<&Digest> {
        None
    }

    /// Rows of every batch, where the model was made for so many: smaller ones are padded.
    fn fixed_batch(&self) -> Option<usize> {
        None
    }

    /// One forward pass.
    ///
    /// # Shapes
    /// `inputs`: `[rows, …input shape]`, row-major. The result is `[rows, classes]`.
    ///
    /// # Errors
    /// [`TeacherError`]: the runtime failed, or the output is not `[rows, classes]` of floats.
    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError>;
}

/// A causal language model that has been loaded and checked against the length of its rows.
///
/// # Memory
/// Where the head is in the model, one forward pass makes logits `[rows, length, vocabulary]` in the
/// model's own type: they cannot be had in pieces. ONNX Runtime's, and a program's, are read chunk by
/// chunk where they are, in memory that is let go with the last chunk, so that of two passes there may
/// be logits for a moment; of libtorch's on the CPU, and where padding has to be left out, chunks are
/// copied. On a GPU whose memory libtorch reads they stay where they are, and what lies there one behind the other,
/// a batch without padding or a row, is one chunk; where that would be many small ones, chunks are copied there. With `teacher.head` a pass makes hidden states `[rows, length, hidden]`, and of logits
/// there are never more than `[teacher.chunk, vocabulary]`.
pub trait TokenTeacher: Send {
    /// The runtime and its version, as the manifest records it.
    fn runtime(&self) -> &str;

    /// The model's digest, where it is not that of the file `teacher.path`.
    fn digest(&self) -> Option<&Digest> {
        None
    }

    /// Rows of every batch, where the model was made for so many: smaller ones are padded.
    fn fixed_batch(&self) -> Option<usize> {
        None
    }

    /// One forward pass: `sink` is given the outputs of the valid positions, row after row, until it breaks.
    ///
    /// Chunks are full but for the last, and go on across rows, unless they stay on a device. Values do not depend on `teacher.chunk`
    /// where the head is in the model; a head of its own may give a position other last bits in a chunk of
    /// another size, as any model may in a batch of another size.
    ///
    /// # Shapes
    /// Each output is `[n, classes]`, n ≤ `teacher.chunk` unless it stays on a device.
    ///
    /// # Errors
    /// [`TeacherError`]: the runtime failed, an output is not floats of the expected shape, or the
    /// vocabulary is not of `teacher.classes`.
    fn forward(
        &mut self,
        batch: &TokenBatch,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError>;
}

/// What identifies the model, or the head of one, that is the file at `path`: the file's digest, and of an ONNX model whose
/// weights lie in files beside it one of all of them (`schemas/format-v1.md` says how it is made).
///
/// # Errors
/// [`TeacherError::Read`].
pub fn digest(kind: TeacherKind, path: &Path) -> Result<Digest, TeacherError> {
    match kind {
        #[cfg(feature = "onnx")]
        TeacherKind::Onnx => onnx::digest(path),
        _ => Digest::of_file(path).map_err(|source| TeacherError::Read { path: path.to_owned(), source }),
    }
}

/// Loads the teacher that `config` describes for inputs of `input_shape` (without the batch), to be asked for
/// `features` beside its logits.
///
/// # Errors
/// [`TeacherError`]: the file is missing or no model, its inputs and outputs are not what the
/// config and the data say, the device is not there, or this build lacks the runtime.
pub fn open(
    config: &TeacherConfig,
    features: &[FeatureConfig],
    input_shape: &[usize],
) -> Result<Box<dyn Teacher>, TeacherError> {
    let of_language_models = [
        ("head", config.head.is_some()),
        ("attention_mask", config.attention_mask.is_some()),
        ("position_ids", config.position_ids.is_some()),
        ("padded_vocabulary", config.padded_vocabulary),
    ];
    if let Some((key, _)) = of_language_models.into_iter().find(|(_, given)| *given) {
        return Err(TeacherError::OnlyTokens { key });
    }
    if config.channels_last && input_shape.len() != 3 {
        return Err(TeacherError::OnlyImages { found: format!("{input_shape:?}") });
    }
    check_files(config)?;
    match config.kind {
        TeacherKind::Command => Ok(Box::new(command::CommandTeacher::open(config, features, input_shape)?)),
        #[cfg(feature = "onnx")]
        TeacherKind::Onnx => Ok(Box::new(onnx::OnnxTeacher::open(config, features, input_shape)?)),
        #[cfg(feature = "torch")]
        TeacherKind::Torchscript => {
            Ok(Box::new(torchscript::TorchScriptTeacher::open(config, features, input_shape)?))
        }
        #[cfg(not(all(feature = "onnx", feature = "torch")))]
        kind => Err(not_built(kind)),
    }
}

/// Loads the language model that `config` describes, for rows of up to `length` tokens, to be asked for `features`
/// beside its logits.
///
/// # Errors
/// [`TeacherError`]: as [`open`]; or the model takes a key-value cache, is fixed to shorter rows or smaller
/// batches, or its head does not take its hidden states.
pub fn open_tokens(
    config: &TeacherConfig,
    features: &[FeatureConfig],
    length: usize,
) -> Result<Box<dyn TokenTeacher>, TeacherError> {
    if config.channels_last {
        return Err(TeacherError::OnlyImages { found: "tokens".into() });
    }
    check_files(config)?;
    match config.kind {
        TeacherKind::Command => Ok(Box::new(command::CommandTokenTeacher::open(config, features, length)?)),
        #[cfg(feature = "onnx")]
        TeacherKind::Onnx => Ok(Box::new(onnx::OnnxTokenTeacher::open(config, features, length)?)),
        #[cfg(feature = "torch")]
        TeacherKind::Torchscript => {
            Ok(Box::new(torchscript::TorchScriptTokenTeacher::open(config, features)?))
        }
        #[cfg(not(all(feature = "onnx", feature = "torch")))]
        kind => Err(not_built(kind)),
    }
}

/// Says which key names a file that is not there, which the runtimes would not.
fn check_files(config: &TeacherConfig) -> Result<(), TeacherError> {
    if config.kind == TeacherKind::Command {
        // A program's model may be a file, a folder or a name.
        return Ok(());
    }
    if let Err(source) = File::open(&config.path) {
        return Err(TeacherError::Read { path: config.path.clone(), source });
    }
    if let Some(path) = &config.head
        && let Err(source) = File::open(path)
    {
        return Err(TeacherError::ReadHead { path: path.clone(), source });
    }
    Ok(())
}

#[cfg(not(all(feature = "onnx", feature = "torch")))]
fn not_built(kind: TeacherKind) -> TeacherError {
    let feature = if kind == TeacherKind::Onnx { "onnx" } else { "torch" };
    TeacherError::NotBuilt { kind, feature }
}
