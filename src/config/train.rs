//! The config of `kd-train`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::optim::{OptimizerConfig, ScheduleConfig};
use super::student::StudentConfig;
use super::{AugmentConfig, Config, DatasetConfig, Fault, PreprocessConfig, device};
use crate::target::TailHandling;

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
}

/// Weights to begin with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// A `.safetensors` file, or a folder of them as Hugging Face has it: weights are taken under their names,
    /// where shapes agree; of more layers every n-th.
    pub weights: PathBuf,
}

/// What is minimised: a weighted sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Softmax temperature `T` of `kl`, for the cached target and the student alike.
    #[serde(default = "default_temperature")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: f64,
    /// How the cached target's tail is understood.
    #[serde(default)]
    pub tail: TailHandling,
    /// The terms and their weights.
    pub weights: LossWeights,
    /// Of `jsd`: from forward KL (near 0, scaled) to reverse KL (near 1).
    #[serde(default = "half")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub jsd_beta: f64,
    /// Of `dkd`.
    #[serde(default)]
    pub dkd: DkdConfig,
    /// Of `cross_entropy`: share of the label that goes to all classes evenly.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_smoothing: f64,
}

fn default_temperature() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

/// Weights of the two parts of decoupled KD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DkdConfig {
    /// Of the label against all else.
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Of the other classes by themselves.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
}

impl Default for DkdConfig {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 8.0 }
    }
}

/// Weights of the terms, each a mean over samples (of language models, over positions); a term left out is not
/// computed. `p` is the cached target at `T`, `q` is `softmax(student / T)`. All but `cross_entropy` need a cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// `T² · KL(p ‖ q)`.
    #[schemars(range(min = 0.0))]
    pub kl: f64,
    /// Cross-entropy of the student at T = 1 on hard labels, or on the token that follows. Needs labels.
    #[schemars(range(min = 0.0))]
    pub cross_entropy: f64,
    /// `T² · KL(q ‖ p)`.
    #[schemars(range(min = 0.0))]
    pub reverse_kl: f64,
    /// `T²` · generalised Jensen–Shannon divergence at `jsd_beta`.
    #[schemars(range(min = 0.0))]
    pub jsd: f64,
    /// `½ Σ |p − q|`.
    #[schemars(range(min = 0.0))]
    pub total_variation: f64,
    /// `Σ (p − q)²`.
    #[schemars(range(min = 0.0))]
    pub mse: f64,
    /// Mean squared difference of the head's raw logits, each side relative to its mean.
    #[schemars(range(min = 0.0))]
    pub logit_mse: f64,
    /// `1 − cos(p, q)`.
    #[schemars(range(min = 0.0))]
    pub cosine: f64,
    /// `T²` · decoupled KD. Needs labels.
    #[schemars(range(min = 0.0))]
    pub dkd: f64,
}

impl LossWeights {
    /// Whether any term needs the cache's targets.
    pub fn of_targets(&self) -> bool {
        self.first_of_targets().is_some()
    }

    /// The first term that needs the cache's targets, and its weight.
    pub fn first_of_targets(&self) -> Option<(&'static str, f64)> {
        let whole = [("kl", self.kl), ("logit_mse", self.logit_mse)];
        whole.into_iter().chain(self.each_class()).find(|(_, weight)| *weight > 0.0)
    }

    /// The terms that need every class's probability in the target.
    fn each_class(&self) -> [(&'static str, f64); 6] {
        [
            ("reverse_kl", self.reverse_kl),
            ("jsd", self.jsd),
            ("total_variation", self.total_variation),
            ("mse", self.mse),
            ("cosine", self.cosine),
            ("dkd", self.dkd),
        ]
    }

    /// Whether any term needs every class's probability in the target.
    pub fn of_every_class(&self) -> bool {
        self.each_class().iter().any(|(_, weight)| *weight > 0.0)
    }

    /// The weight of a term that needs labels, and its name.
    pub fn of_labels(&self) -> Option<(&'static str, f64)> {
        [("cross_entropy", self.cross_entropy), ("dkd", self.dkd)]
            .into_iter()
            .find(|(_, weight)| *weight > 0.0)
    }

    /// The terms that are means over labels.
    pub const OF_LABELS: [&str; 2] = ["cross_entropy", "dkd"];
    /// The names of the terms.
    pub const NAMES: [&str; 9] =
        ["kl", "cross_entropy", "reverse_kl", "jsd", "total_variation", "mse", "logit_mse", "cosine", "dkd"];
}

/// Length, batch and device of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the samples.
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Samples in a batch. The last, smaller batch of an epoch is used too.
    #[schemars(range(min = 1))]
    pub batch: usize,
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
    /// Decay of an exponential moving average of the weights: it is measured, kept and exported in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub ema: Option<f64>,
    /// Weights whose names begin with one of these stay as they begin: `model.embed_tokens`, say. The running
    /// statistics of a batch norm go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Ends the run after so many steps, if epochs do not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<u64>,
    /// Ends the run after so many epochs that are no better than the best by what selects it.
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
    /// What matrices are multiplied in. Language models only.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Threads of libtorch; default: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub threads: Option<usize>,
    /// Batches prepared ahead of the step that needs them.
    #[serde(default = "default_prefetch")]
    #[schemars(range(min = 1))]
    pub prefetch: usize,
    /// Which epoch's student is kept: `last`, `train_loss` (the lowest), or the best of a
    /// measure on a validation set, `set.metric` (`accuracy`, `agreement`, `kl` or
    /// `cross_entropy`). Default: accuracy on the first set, agreement where it has no labels;
    /// the training loss where there is no set.
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
        }
    }
}

fn one() -> usize {
    1
}

fn default_device() -> String {
    "cpu".into()
}

fn default_prefetch() -> usize {
    4
}

/// One named validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Its samples; those of the cache where that keeps tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// A cache over the same samples, for KL and agreement with the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl Config for TrainConfig {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(self.dataset.iter().flat_map(|dataset| dataset.validate("dataset")));
        for (name, set) in &self.validation {
            let key = format!("validation.{name}.dataset");
            faults.extend(set.dataset.iter().flat_map(|dataset| dataset.validate(&key)));
            if set.dataset.is_none() && set.cache.is_none() {
                let problem = "expected dataset, its samples, or cache, one of tokens; found neither";
                faults.push(Fault::new(format!("validation.{name}"), problem));
            }
        }
        if let Some(preprocess) = &self.preprocess {
            faults.extend(preprocess.validate("preprocess"));
        }
        if let Some(augment) = &self.augment {
            faults.extend(augment.validate("augment"));
        }
        faults.extend(device::validate("train.device", &self.train.device));
        let weights = &self.loss.weights;
        if !weights.of_targets() && weights.cross_entropy == 0.0 {
            let problem = "expected a positive weight for kl, cross_entropy or another term, found none";
            faults.push(Fault::new("loss.weights", problem));
        }
        if let Some(DatasetConfig::Idx { labels: None, .. }) = &self.dataset
            && let Some((name, _)) = weights.of_labels()
        {
            let problem = format!("missing; loss.weights.{name} needs labels (or set its weight to 0)");
            faults.push(Fault::new("dataset.labels", problem));
        }
        faults.extend(self.student.validate());
        faults.extend(self.optimizer.validate());
        faults.extend(self.schedule.validate(f64::from(self.train.epochs)));
        faults
    }
}
