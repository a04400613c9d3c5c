//! The config of `kd-train`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

fn default_temperature() -> f64 {
    1.0
}

/// Weights of the terms; a term left out is not computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// `T² · KL(cached target at T ‖ softmax(student / T))`, mean over samples. Needs a cache.
    #[schemars(range(min = 0.0))]
    pub kl: f64,
    /// Cross-entropy of the student at T = 1 on hard labels, mean over samples. Needs labels.
    #[schemars(range(min = 0.0))]
    pub cross_entropy: f64,
}

/// How weights are changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (Loshchilov & Hutter, 2019).
    Adamw {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decoupled weight decay.
        #[serde(default = "default_weight_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Decay rates of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Momentum.
        #[serde(default = "default_momentum")]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Nesterov's form of momentum.
        #[serde(default)]
        nesterov: bool,
    },
}

fn default_weight_decay() -> f64 {
    0.01
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_momentum() -> f64 {
    0.9
}

impl OptimizerConfig {
    /// The peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Adamw { learning_rate, .. } | Self::Sgd { learning_rate, .. } => *learning_rate,
        }
    }
}

/// How the learning rate changes over the steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The same at every step, after a linear warm-up.
    Constant {
        /// Epochs of linear warm-up from 0; fractions allowed.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
    },
    /// Half a cosine down from the peak, after a linear warm-up.
    Cosine {
        /// Epochs of linear warm-up from 0; fractions allowed.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// The last learning rate as a fraction of the peak.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
    },
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant { warmup_epochs: 0.0 }
    }
}

impl ScheduleConfig {
    /// Epochs of linear warm-up.
    pub fn warmup_epochs(&self) -> f64 {
        match self {
            Self::Constant { warmup_epochs } | Self::Cosine { warmup_epochs, .. } => *warmup_epochs,
        }
    }
}

/// Length, batch and device of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the samples.
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Samples per step. The last, smaller batch of an epoch is used too.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    pub device: String,
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
        if weights.kl == 0.0 && weights.cross_entropy == 0.0 {
            let problem = "expected a positive weight for kl or cross_entropy, found none";
            faults.push(Fault::new("loss.weights", problem));
        }
        if let Some(DatasetConfig::Idx { labels: None, .. }) = &self.dataset
            && weights.cross_entropy > 0.0
        {
            let problem = "missing; loss.weights.cross_entropy needs labels (or set its weight to 0)";
            faults.push(Fault::new("dataset.labels", problem));
        }
        faults.extend(self.student.validate());
        if let OptimizerConfig::Adamw { betas, .. } = &self.optimizer
            && let Some(bad) = betas.iter().find(|b| !(0.0..1.0).contains(*b))
        {
            let problem = format!("expected values in [0, 1), found {bad}");
            faults.push(Fault::new("optimizer.betas", problem));
        }
        if let OptimizerConfig::Sgd { momentum, nesterov: true, .. } = &self.optimizer
            && *momentum == 0.0
        {
            faults.push(Fault::new("optimizer.nesterov", "needs a positive optimizer.momentum, found 0"));
        }
        let epochs = f64::from(self.train.epochs);
        let warmup = self.schedule.warmup_epochs();
        if warmup > epochs {
            let problem = format!("expected at most train.epochs = {epochs}, found {warmup}");
            faults.push(Fault::new("schedule.warmup_epochs", problem));
        }
        faults
    }
}
