//! The teacher and how it is run.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{self, Name};
use super::{DeviceName, Fault, NumberOrAuto, device};

/// Default of [`TeacherConfig::batch`] for images.
pub const DEFAULT_TEACHER_BATCH: usize = 128;
/// Default of [`TeacherConfig::batch`] for rows of tokens, each of which has logits for every token.
pub const DEFAULT_TOKEN_BATCH: usize = 4;
/// Default of [`TeacherConfig::chunk`].
pub const DEFAULT_TEACHER_CHUNK: usize = 256;

/// What runs the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherKind {
    /// An ONNX model, run by ONNX Runtime.
    Onnx,
    /// A TorchScript module, run by libtorch.
    Torchscript,
    /// A program that answers batches (`command`).
    Command,
}

impl TeacherKind {
    /// The word used in configs and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Torchscript => "torchscript",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for TeacherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What executes an ONNX model on a GPU, in ONNX Runtime's words an execution provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionProvider {
    /// CUDA's libraries.
    #[default]
    Cuda,
    /// TensorRT, and CUDA for what that cannot. Its engines are made whenever a model is opened, which takes minutes, for batches
    /// and rows of one size, which smaller ones are padded to; and by timing, so that the last bits of logits may be others at
    /// each start.
    Tensorrt,
}

/// How far ONNX Runtime rewrites a model's graph before it runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraphOptimization {
    /// Not at all.
    Disable,
    /// What needs no operator of the runtime's own: constants are computed beforehand, what is superfluous is left out, factors
    /// go into weights.
    Basic,
    /// Also several operators made one.
    Extended,
    /// Also other layouts of memory.
    All,
}

/// What the teacher's output means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Decided on the first batch: rows of probabilities that sum to 1 are probabilities, rows
    /// whose exponentials do are log-probabilities, everything else is logits.
    #[default]
    Auto,
    /// Raw logits.
    Logits,
    /// Probabilities: their logarithm is the logits up to a constant. A zero becomes the
    /// logarithm of the smallest positive number of the output's type.
    Probabilities,
    /// Log-probabilities: logits up to a constant.
    LogProbabilities,
}

/// The teacher and how it is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// What runs it.
    pub kind: TeacherKind,
    /// The model file; with `command` whatever the program takes for a model, a file, a folder or a name.
    pub path: PathBuf,
    /// With kind `command`: the program and its arguments, to which `path` is added. It reads batches from its
    /// standard input and answers with logits on its standard output, as schemas/teacher-command.md says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub command: Vec<String>,
    /// ONNX: the input that takes the samples; may be left out when there is only one, or for a
    /// language model that calls it `input_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The output with `[batch, classes]`. ONNX: its name; may be left out when there is only one that is no feature,
    /// or for a language model that calls it `logits` (with `head`: `hidden` or `last_hidden_state`). TorchScript, of a
    /// module that returns several: its place in the tuple, from 0, or its key in the dictionary; may be left out when
    /// only one is no feature, and of a language model for the first.
    #[serde(default, deserialize_with = "name::optional_text", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Name>")]
    pub output: Option<String>,
    /// Language models: the input or argument that says which tokens are no padding, if it is not
    /// called `attention_mask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_mask: Option<String>,
    /// Language models: the input or argument with each token's place in its document, if it is not
    /// called `position_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_ids: Option<String>,
    /// Language models: a second model file, hidden states `[n, hidden]` to logits `[n, classes]`, for
    /// a model whose output is hidden states `[batch, length, hidden]`. Memory for logits is then
    /// `chunk` positions' rather than a batch's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<PathBuf>,
    /// Language models: positions that are selected from at a time; with `head`, those whose logits are in memory at once.
    /// (Without one a batch's logits are all there, in the model's own type: `batch` is what bounds them.)
    #[serde(default = "default_chunk", skip_serializing_if = "is_default_chunk")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    #[schemars(range(min = 1))]
    pub chunk: usize,
    /// Language models: the model has more logits than the tokenizer has tokens, and those beyond the
    /// first `classes` are padding, to be cut off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub padded_vocabulary: bool,
    /// TorchScript: images lie in memory with the channels of a place side by side, PyTorch's memory format `channels_last`:
    /// most convolutions are quicker like that. The model must not rely on the other order, as `view` does and `reshape`
    /// or `flatten` do not. The last bits of its logits may be others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub channels_last: bool,
    /// ONNX on a GPU: what executes the model; `cuda` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_provider: Option<ExecutionProvider>,
    /// ONNX: how far the runtime rewrites the model's graph; `all` unless given. The last bits of its logits may be others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_optimization: Option<GraphOptimization>,
    /// What the output means.
    #[serde(default)]
    pub output_kind: OutputKind,
    /// Number of classes, if it is to be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub classes: Option<usize>,
    /// Samples per forward pass; unless given 128, or 4 where samples are rows of tokens. With `"auto"` a build tries sizes when it
    /// begins, and keeps in the manifest the smallest that is as quick as any: that is what it goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<NumberOrAuto>,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    pub device: String,
    /// Threads of the teacher's runtime; default: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub threads: Option<usize>,
}

impl TeacherConfig {
    /// Faults of the table `teacher`.
    pub(super) fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::from_iter(device::validate("teacher.device", &self.device));
        if self.padded_vocabulary && self.classes.is_none() {
            let problem =
                "expected teacher.classes, the number of the tokenizer's tokens, with it; found none";
            faults.push(Fault::new("teacher.padded_vocabulary", problem));
        }
        let input = ("input", self.input.is_some());
        let names = [input, ("output", self.output.is_some())];
        let of_files = [
            ("attention_mask", self.attention_mask.is_some()),
            ("position_ids", self.position_ids.is_some()),
            ("head", self.head.is_some()),
        ];
        let (foreign, problem) = match self.kind {
            TeacherKind::Onnx => (Vec::new(), ""),
            TeacherKind::Torchscript => {
                (vec![input], "TorchScript modules have no named inputs; remove the key")
            }
            TeacherKind::Command => (
                [&names[..], &of_files].concat(),
                "is of a model file, and with teacher.kind = \"command\" the program has it; remove it",
            ),
        };
        for (key, _) in foreign.into_iter().filter(|(_, given)| *given) {
            faults.push(Fault::new(format!("teacher.{key}"), problem));
        }
        if self.channels_last && self.kind != TeacherKind::Torchscript {
            let problem = "is of teacher.kind = \"torchscript\"; remove it";
            faults.push(Fault::new("teacher.channels_last", problem));
        }
        faults.extend(self.validate_of_onnx());
        match (self.kind == TeacherKind::Command, self.command.is_empty()) {
            (true, true) => {
                let problem =
                    "expected the program and its arguments, as [\"python3\", \"teacher.py\"]; found none";
                faults.push(Fault::new("teacher.command", problem));
            }
            (false, false) => {
                faults.push(Fault::new("teacher.command", "is of teacher.kind = \"command\"; remove it"));
            }
            _ => {}
        }
        faults
    }

    /// Faults of what ONNX Runtime alone has.
    fn validate_of_onnx(&self) -> Vec<Fault> {
        let given = [
            ("execution_provider", self.execution_provider.is_some()),
            ("graph_optimization", self.graph_optimization.is_some()),
        ];
        if self.kind != TeacherKind::Onnx {
            let given = given.into_iter().filter(|(_, given)| *given);
            let problem = "is of teacher.kind = \"onnx\"; remove it";
            return given.map(|(key, _)| Fault::new(format!("teacher.{key}"), problem)).collect();
        }
        let mut faults = Vec::new();
        if self.execution_provider.is_some() && self.device.parse() == Ok(DeviceName::Cpu) {
            let problem = "is of a GPU; remove it, or give teacher.device = \"cuda\"";
            faults.push(Fault::new("teacher.execution_provider", problem));
        }
        if self.execution_provider == Some(ExecutionProvider::Tensorrt) {
            if matches!(self.batch, Some(NumberOrAuto::Auto)) {
                let problem = "expected a number, as TensorRT makes engines for one size; found \"auto\"";
                faults.push(Fault::new("teacher.batch", problem));
            }
            if self.head.is_some() {
                let problem = "takes any number of positions, and TensorRT makes engines for one size; use a model with its head in it";
                faults.push(Fault::new("teacher.head", problem));
            }
        }
        faults
    }

    /// Images in a forward pass; the fewest where that is to be found out.
    pub fn image_batch(&self) -> usize {
        self.batch_unless_given(DEFAULT_TEACHER_BATCH)
    }

    /// Rows of tokens in a forward pass; the fewest where that is to be found out.
    pub fn token_batch(&self) -> usize {
        self.batch_unless_given(DEFAULT_TOKEN_BATCH)
    }

    fn batch_unless_given(&self, default: usize) -> usize {
        match self.batch {
            None => default,
            Some(NumberOrAuto::Of(samples)) => samples.get(),
            Some(NumberOrAuto::Auto) => 1,
        }
    }
}

fn default_chunk() -> usize {
    DEFAULT_TEACHER_CHUNK
}

fn is_default_chunk(chunk: &usize) -> bool {
    *chunk == DEFAULT_TEACHER_CHUNK
}

fn default_device() -> String {
    "cpu".into()
}
