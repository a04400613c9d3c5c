//! The config of `kd-train`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// The samples to train on; with a cache, the ones the cache was built over.
    pub dataset: DatasetConfig,
    /// How a sample becomes the student's input; default: as the cache's teacher saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessConfig>,
    /// Views of each training image; with a cache always the cache's, which are taken where nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentConfig>,
    /// The model to train.
    pub student: StudentConfig,
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

/// The model to train. Inputs and number of classes come from the data and the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StudentConfig {
    /// Fully connected layers with ReLU between them.
    Mlp {
        /// Widths of the hidden layers.
        hidden: Vec<u32>,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
    /// Blocks of 3×3 convolution, batch norm, ReLU and 2×2 max-pooling, then a global average
    /// and a linear layer.
    Conv {
        /// Channels of each block.
        channels: Vec<u32>,
        /// Convolutions in each block.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 8))]
        depth: u32,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
    /// ResNet-18 with a 3×3 stem and no first pooling, for small images (the CIFAR form).
    Resnet18 {
        /// Channels of the first stage; 64 is the published width.
        #[serde(default = "resnet_width")]
        #[schemars(range(min = 1))]
        width: u32,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
    /// Any TorchScript module that maps inputs to logits; its parameters are trained.
    Torchscript {
        /// The module's file, scripted or traced in training mode.
        path: PathBuf,
        /// Number of classes; default: the cache's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 2))]
        classes: Option<usize>,
    },
}

fn one() -> u32 {
    1
}

fn resnet_width() -> u32 {
    64
}

impl StudentConfig {
    /// The number of classes, if the config gives one.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Self::Mlp { classes, .. }
            | Self::Conv { classes, .. }
            | Self::Resnet18 { classes, .. }
            | Self::Torchscript { classes, .. } => *classes,
        }
    }
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
    /// Its samples.
    pub dataset: DatasetConfig,
    /// A cache over the same samples, for KL and agreement with the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl Config for TrainConfig {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = self.dataset.validate("dataset");
        for (name, set) in &self.validation {
            faults.extend(set.dataset.validate(&format!("validation.{name}.dataset")));
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
        if let DatasetConfig::Idx { labels: None, .. } = &self.dataset
            && weights.cross_entropy > 0.0
        {
            let problem = "missing; loss.weights.cross_entropy needs labels (or set its weight to 0)";
            faults.push(Fault::new("dataset.labels", problem));
        }
        match &self.student {
            StudentConfig::Mlp { hidden, .. } if hidden.contains(&0) => {
                faults.push(Fault::new("student.hidden", "expected widths of at least 1, found 0"));
            }
            StudentConfig::Conv { channels, .. } if channels.is_empty() || channels.contains(&0) => {
                let problem = format!("expected one or more positive widths, found {channels:?}");
                faults.push(Fault::new("student.channels", problem));
            }
            _ => {}
        }
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
