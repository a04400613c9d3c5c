//! Why a teacher could not be used.

use std::path::PathBuf;

use crate::config::TeacherKind;

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
    /// The head's file could not be read.
    #[error("teacher.head: cannot read {path}")]
    ReadHead {
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
        "{path}: input {name:?} is {found}, but the prepared samples are {expected}; change preprocess.layout (or channels, size, resize, crop), the data or the model"
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
    /// The model takes smaller batches than the config has.
    #[error(
        "{path}: input {name:?} is fixed to batches of {fixed}, found teacher.batch = {found}; set teacher.batch = {fixed}"
    )]
    FixedBatch {
        /// The model file.
        path: PathBuf,
        /// The input.
        name: String,
        /// What the model takes.
        fixed: usize,
        /// `teacher.batch`.
        found: usize,
    },
    /// The program of `teacher.command` could not be started, or failed.
    #[error("teacher.command: {doing} failed: {problem}: {command}{}", said_by(said))]
    Command {
        /// Program and arguments.
        command: String,
        /// What was being done.
        doing: &'static str,
        /// Why, and how it ended.
        problem: String,
        /// The last lines of its standard error.
        said: String,
    },
    /// A key of language models in the config of another model.
    #[error("teacher.{key}: only a language model has it, and the samples are no tokens; remove the key")]
    OnlyTokens {
        /// The key.
        key: &'static str,
    },
    /// A key of images in the config of another model.
    #[error(
        "teacher.channels_last: only images have it, prepared as [channels, height, width]; found {found}; remove the key"
    )]
    OnlyImages {
        /// What the samples are.
        found: String,
    },
    /// An input of a language model is not what rows of tokens are.
    #[error("{path}: input {name:?} is {found}; expected {expected}")]
    TokenInput {
        /// The model file.
        path: PathBuf,
        /// The input.
        name: String,
        /// Type and shape of the rows, or the sizes that would fit.
        expected: String,
        /// Type and shape of the model's input.
        found: String,
    },
    /// The model wants more than tokens.
    #[error(
        "{path}: takes {}, of which a teacher gives {known} only; name them with teacher.input, \
         teacher.attention_mask and teacher.position_ids, or export the model without the others",
        names(found)
    )]
    Inputs {
        /// The model file.
        path: PathBuf,
        /// What the model takes.
        found: Vec<String>,
        /// What of it is known.
        known: String,
    },
    /// The model wants a key-value cache.
    #[error(
        "{path}: takes a key-value cache ({}), which a teacher that reads whole rows has no use for; export the \
         model without one: tools/export_lm.py, or `optimum-cli export onnx --task text-generation` (not \
         text-generation-with-past)",
        names(found)
    )]
    KeyValueCache {
        /// The model file.
        path: PathBuf,
        /// The inputs that are the cache's.
        found: Vec<String>,
    },
    /// The head does not take the model's hidden states.
    #[error("teacher.head: {path}: expected an input of {expected}, as {body} gives; found {found}")]
    Head {
        /// The head's file.
        path: PathBuf,
        /// The model that gives the hidden states.
        body: PathBuf,
        /// Type and shape of the hidden states.
        expected: String,
        /// Type and shape of the head's input.
        found: String,
    },
    /// The vocabulary is not as large as the config says.
    #[error("teacher.classes = {expected}, but {path} gives {found} logits for a position; {}", Self::remedy(*expected, *found))]
    Classes {
        /// The file that gives the logits.
        path: PathBuf,
        /// `teacher.classes`.
        expected: usize,
        /// The model's.
        found: usize,
    },
    /// A batch of tokens is not what it should be.
    #[error("row {row} of a batch of tokens: {problem}")]
    Tokens {
        /// Row of the batch.
        row: usize,
        /// Expected and found.
        problem: String,
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
    /// A further output is no vector for each sample or token.
    #[error("features.{name}: {path}: expected {expected}, found {found}")]
    Feature {
        /// The feature.
        name: String,
        /// The model file.
        path: PathBuf,
        /// What was expected, and the way out.
        expected: String,
        /// What was found.
        found: String,
    },
    /// There is no such output.
    #[error(
        "features.{name}.output: {path} has no {output:?} but {}; name one of them, or export the model with this \
         tensor among its outputs",
        names(found)
    )]
    FeatureOutput {
        /// The feature.
        name: String,
        /// The model file.
        path: PathBuf,
        /// The output asked for.
        output: String,
        /// What the model gives.
        found: Vec<String>,
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

/// What to say of a file that `kind` could not load, where its name is that of another kind.
#[cfg(any(feature = "onnx", feature = "torch"))]
pub(super) fn hint(path: &std::path::Path, kind: TeacherKind) -> &'static str {
    #[cfg(feature = "torch")]
    if kind == TeacherKind::Torchscript
        && let Some(hint) = crate::libtorch::other_than_torchscript(path)
    {
        return hint;
    }
    match (path.extension().and_then(std::ffi::OsStr::to_str), kind) {
        (Some("onnx"), TeacherKind::Torchscript) => {
            "; by its name it is an ONNX model: set teacher.kind = \"onnx\""
        }
        (Some("pt" | "pth" | "ts"), TeacherKind::Onnx) => {
            "; by its name it is a TorchScript module: set teacher.kind = \"torchscript\""
        }
        _ => "",
    }
}

fn said_by(said: &str) -> String {
    if said.is_empty() { "; it said nothing".into() } else { format!("; it said:\n{said}") }
}

fn names(found: &[String]) -> String {
    if found.is_empty() { "none".into() } else { found.join(", ") }
}

impl TeacherError {
    fn remedy(expected: usize, found: usize) -> &'static str {
        if found > expected {
            "if those beyond are padding, set teacher.padded_vocabulary = true to cut them off"
        } else {
            "correct teacher.classes, or take the model that belongs to this tokenizer"
        }
    }
}
