//! What a run writes down.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Evaluation;
use crate::student::Initialised;

/// One epoch: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpochReport {
    /// Counts from 1.
    pub epoch: u32,
    /// Steps since the run began.
    pub step: u64,
    /// Learning rate of the epoch's last step, before what layers and groups have of their own.
    pub learning_rate: f64,
    /// Mean of what is minimised over the epoch's samples, as it was when each was seen.
    pub train_loss: f64,
    /// The terms that are minimised, each by the name of its weight (`kl`, `cross_entropy` and so on): means over
    /// the epoch's samples, unweighted, with their factor `T²` where they have one.
    #[serde(flatten)]
    pub terms: BTreeMap<String, f64>,
    /// Softmax temperature of the epoch's last step; absent where it does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Weights of the epoch's last step, of the terms whose weights change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// Mean norm of the gradients of a step before they were clipped; absent unless `train.clip_norm` or
    /// `tracking.gradient_norm` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// What losses are multiplied by, at the end of the epoch, so that gradients do not vanish; with
    /// `train.precision = "f16"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps since the run began that changed nothing, because a gradient was not finite at the scale of the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
    /// Wall-clock time of the training steps of this session.
    pub seconds: f64,
    /// Samples trained on per second.
    pub samples_per_second: f64,
    /// Positions trained on per second, where samples are rows of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_per_second: Option<f64>,
    /// Every validation set after the epoch.
    pub validation: BTreeMap<String, Evaluation>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainOutcome {
    /// All epochs are done.
    Trained,
    /// Stopped on request; the same command with --resume goes on.
    Interrupted,
}

/// A student that stays on disk beside the best and the last: `checkpoints/NAME.safetensors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeptCheckpoint {
    /// What `--checkpoint` calls it: `step-000123`.
    pub name: String,
    /// The epoch after which it was, from 1.
    pub epoch: u32,
    /// Steps since the run began.
    pub step: u64,
    /// The value by which the best are chosen, negative where a lower one is better; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// A run: `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kd-train summary")]
pub struct TrainReport {
    /// How it ended.
    pub outcome: TrainOutcome,
    /// Epochs done.
    pub epochs: u32,
    /// Steps done.
    pub steps: u64,
    /// Samples in an epoch.
    pub samples: u64,
    /// Wall-clock time of the whole run, loading, validation and export included: of all processes that went on with it, but for what
    /// one that was killed did after its last epoch.
    pub seconds: f64,
    /// `train_loss` of the last epoch; absent when none was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// The epoch whose student was kept, from 1; absent when none was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<u32>,
    /// Every validation set after that epoch.
    pub validation: BTreeMap<String, Evaluation>,
    /// What chose it: `set.metric`, `train_loss` or `last`.
    pub selected_by: String,
    /// What else is in `checkpoints/`, where `[checkpoint]` asks for more than the best and the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<KeptCheckpoint>,
    /// The cache, as it was given; absent when training on labels alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Caches of further teachers, whose targets were averaged with the cache's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_caches: Vec<String>,
    /// The digest of the cache's teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_digest: Option<String>,
    /// Softmax temperature of the terms of targets, that of the last step where it changes; absent when none is
    /// minimised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Device it ran on.
    pub device: String,
    /// The run's seed.
    pub seed: u64,
    /// Trainable numbers in the student.
    pub parameters: u64,
    /// What of the weights in `init.weights` the student began with, and what on either side matched nothing; absent
    /// where it began with its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Initialised>,
    /// What is not known of the targets at this temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Why lines of steps, event files or a server have not got all that they should be told of the run, a line each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_warning: Option<String>,
}
