//! The config of `kd-train`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::loss::LossConfig;
use super::optim::OptimizerConfig;
use super::responses::ResponsesConfig;
use super::schedule::ScheduleConfig;
use super::shuffle::ShuffleConfig;
use super::student::StudentConfig;
use super::tracking::TrackingConfig;
use super::validation::{CheckpointConfig, ValidationConfig};
use super::{AugmentConfig, Config, DatasetConfig, Fault, PreprocessConfig, device, features};

/// Everything that decides what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "kd-train configuration")]
pub struct TrainConfig {
    /// Seeds initial weights and the order of samples.
    #[serde(default)]
    pub seed: u64,
    /// The samples to train on; with a cache, the ones the cache was built over. A cache of tokens keeps its
    /// own, and no dataset is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// How a sample becomes the student's input; default: as the cache's teacher saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessConfig>,
    /// Views of each training image; with a cache always the cache's, which are taken where nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentConfig>,
    /// The `tokenizer.json` of a cache of tokens: compared with the cache's, and copied into the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Of a cache of tokens: learns from responses alone, and measures on them. Default: from every token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<ResponsesConfig>,
    /// The model to train.
    pub student: StudentConfig,
    /// Weights to begin with; default: drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
    /// What is minimised.
    pub loss: LossConfig,
    /// How weights are changed.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Length, batch and device.
    pub train: TrainSection,
    /// Named validation sets, measured after each epoch.
    #[serde(default)]
    pub validation: BTreeMap<String, ValidationConfig>,
    /// Which students stay on disk.
    #[serde(default, skip_serializing_if = "CheckpointConfig::is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub checkpoint: CheckpointConfig,
    /// What is told of the run while it goes on.
    #[serde(default, skip_serializing_if = "TrackingConfig::is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub tracking: TrackingConfig,
}

/// Weights to begin with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// A `.safetensors` file, a folder of them as Hugging Face has it, or a TorchScript module: weights are taken under
    /// their names, where shapes agree. Of a module these are its parameters; running statistics are buffers.
    pub weights: PathBuf,
    /// Which layers are taken where there are more than the student has.
    #[serde(default)]
    pub layers: InitLayers,
}

/// Which of a checkpoint's layers (`….layers.N.…`) a student with fewer begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitLayers {
    /// Every n-th, from the first on: layer i of L begins as layer ⌊i · M / L⌋ of M.
    #[default]
    Every,
    /// As many from the first on.
    First,
    /// As many up to the last.
    Last,
}

/// Length, batch and device of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the samples.
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Samples in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Whether an epoch leaves out its last batch where that is smaller: others then in each epoch, as order is drawn anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub drop_last: bool,
    /// Batches for each step: their gradients are those of one batch of as many samples.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub accumulate: usize,
    /// Gradients are made smaller where their norm, all together, is above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_norm: Option<f64>,
    /// Every gradient is brought between this and its negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_value: Option<f64>,
    /// Decay of an exponential moving average of the weights: it is measured, kept and exported in their place. At the n-th
    /// step it is min(ema, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub ema: Option<f64>,
    /// Weights whose names begin with one of these stay as they begin: `model.embed_tokens`, say. The running
    /// statistics of a batch norm go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub freeze: Vec<String>,
    /// Learns from so many of the samples alone, drawn by the seed; of two numbers, the samples of the smaller are among those of the
    /// larger. Default: from all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_samples: Option<u64>,
    /// Ends the run after so many steps, if epochs do not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Measures the validation sets after every so many epochs and after the last of them; the student that is kept always is.
    #[serde(default = "one_epoch", skip_serializing_if = "is_one")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    #[schemars(range(min = 1))]
    pub validate_every: u32,
    /// Ends the run after so many epochs that are no better than the best by what selects it; where that is a measure,
    /// of those that are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub patience: Option<u32>,
    /// Steps after which the run's state is kept, beside the end of each epoch: an interrupted run loses no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub keep_every: Option<u64>,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    pub device: String,
    /// What matrices and kernels are multiplied in.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub precision: Precision,
    /// Whether images lie in a GPU's memory with the channels of a place side by side, PyTorch's memory format `channels_last`:
    /// most convolutions are quicker like that, above all in half types. A TorchScript student must not rely on the other order,
    /// as `view` does and `reshape` or `flatten` do not. Not on the CPU, where gradients of some convolutions would be wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub channels_last: bool,
    /// Whether a GPU is to give the same bits from the same seed, as the CPU always does: it then takes slower
    /// algorithms, and needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub deterministic: bool,
    /// Threads of libtorch; default: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub threads: Option<usize>,
    /// Mixes samples in a buffer, for caches and datasets that do not fit into memory; default: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<ShuffleConfig>,
    /// Batches prepared ahead of the step that needs them.
    #[serde(default = "default_prefetch")]
    #[schemars(range(min = 1))]
    pub prefetch: usize,
    /// Which epoch's student is kept: `last`, `train_loss` (the lowest), or the best of a
    /// measure on a validation set, `set.metric` (`accuracy`, `accuracy_top5`, `f1`, `f1_weighted`,
    /// `cross_entropy`, `calibration_error`, `loss`, `agreement`, `kl`, `perplexity`, `acceptance`, or
    /// a command's). Default: perplexity of a language model on the first set, accuracy of a
    /// classifier, agreement where it has no labels; the training loss where there is no set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_by: Option<String>,
}

/// What matrices are multiplied in. Weights, what changes them, norms, softmaxes and losses are single precision
/// in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, as in mixed-precision training: as wide as single precision, so that no loss needs scaling.
    Bf16,
    /// IEEE half precision, as in mixed-precision training: three more bits of significand than bfloat16 and far less
    /// range, so that losses are scaled before gradients are made (as by PyTorch's `GradScaler`, with its defaults).
    F16,
}

impl Precision {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The word used in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

fn one() -> usize {
    1
}

fn one_epoch() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(epochs: &u32) -> bool {
    *epochs == 1
}

fn default_device() -> String {
    "cpu".into()
}

fn default_prefetch() -> usize {
    4
}

impl Config for TrainConfig {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(self.dataset.iter().flat_map(|dataset| dataset.validate("dataset")));
        faults.extend(self.validation.iter().flat_map(|(name, set)| set.validate(name)));
        if let Some(preprocess) = &self.preprocess {
            faults.extend(preprocess.validate("preprocess"));
        }
        if let Some(augment) = &self.augment {
            faults.extend(augment.validate("augment"));
        }
        faults.extend(device::validate("train.device", &self.train.device));
        faults.extend(self.train.shuffle.and_then(ShuffleConfig::validate));
        if self.train.channels_last && matches!(self.student, StudentConfig::Llama(_)) {
            let problem = "is of images, and student.kind = \"llama\" takes tokens; remove it";
            faults.push(Fault::new("train.channels_last", problem));
        }
        // oneDNN's weight gradient of a 1×1 convolution with stride 2 and few channels is, in libtorch 2.11.
        if self.train.channels_last && self.train.device.parse() == Ok(device::DeviceName::Cpu) {
            let problem = "is for a GPU: on the CPU libtorch's gradients of some convolutions are wrong with it; remove it, \
                           or set train.device";
            faults.push(Fault::new("train.channels_last", problem));
        }
        faults
            .extend(self.responses.iter().flat_map(|responses| responses.validate(self.tokenizer.is_some())));
        let epochs = f64::from(self.train.epochs);
        faults.extend(self.loss.validate(epochs, self.train.accumulate));
        faults.extend(self.selection());
        if let Some(DatasetConfig::Idx { labels: None, .. }) = &self.dataset
            && let Some((name, _)) = self.loss.weights.of_labels()
        {
            let problem = format!("missing; loss.weights.{name} needs labels (or set its weight to 0)");
            faults.push(Fault::new("dataset.labels", problem));
        }
        faults.extend(features::validate_losses(&self.loss.features));
        faults.extend(self.student.validate());
        faults.extend(self.optimizer.validate());
        faults.extend(self.schedule.validate(epochs));
        faults.extend(self.tracking.validate(self.validation.keys()));
        faults
    }
}

impl TrainSection {
    /// How many of `samples` an epoch learns from.
    pub fn used_of(&self, samples: u64) -> u64 {
        if self.drop_last { samples - samples % self.batch.max(1) as u64 } else { samples }
    }

    /// Batches of an epoch over `samples`.
    pub fn batches_of(&self, samples: u64) -> u64 {
        self.used_of(samples).div_ceil(self.batch.max(1) as u64)
    }

    /// Whether the validation sets are measured after `epoch`, from 1.
    pub fn validates_after(&self, epoch: u32) -> bool {
        epoch.is_multiple_of(self.validate_every.max(1)) || epoch == self.epochs
    }
}

impl TrainConfig {
    /// Losses of epochs that were made with other weights or temperatures do not tell which epoch is the best.
    fn selection(&self) -> Option<Fault> {
        let by = self.train.select_by.as_deref();
        let by_loss = by == Some("train_loss") || by.is_none() && self.validation.is_empty();
        (by_loss && self.loss.changes()).then(|| {
            let problem = "expected last or a measure of a validation set, because loss.temperature or a weight changes \
                           over the run, so that training losses of two epochs cannot be compared; found train_loss";
            let found = if by.is_none() { ", the default without a validation set" } else { "" };
            Fault::new("train.select_by", format!("{problem}{found}"))
        })
    }
}
