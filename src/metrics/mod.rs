//! What is measured on a validation set, summed up batch by batch on the device.

mod confusion;
mod meter;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use meter::Meter;

use crate::config::{Better, MetricConfig};

/// A student on one validation set. Measures that need labels or a cache are absent without them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// Samples measured; where they are rows of tokens, positions: everything here is of positions then.
    pub samples: u64,
    /// Share of samples with a label whose most probable class it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Share of samples with a label that is among their 5 most probable classes, where there are more than 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_top5: Option<f64>,
    /// Macro F1, of classifiers: the mean of `2·TP / (2·TP + FP + FN)` over the classes that are a label or a
    /// prediction, as scikit-learn's `f1_score(average="macro")` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// The same, each class weighted by how many samples have its label (`average="weighted"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_weighted: Option<f64>,
    /// What training minimises (`[loss]`, at its temperature), where the set has the labels and the cache that
    /// its terms need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean `−log softmax(student)[label]` in nats, at T = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// `exp(cross_entropy)`, of language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Expected calibration error: the mean difference between the probability of the most probable class and how
    /// often it is the label, over 15 intervals of probability (Guo et al., 2017).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_error: Option<f64>,
    /// Share of samples whose most probable class is the teacher's; of language models the acceptance rate of
    /// greedy speculative decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Mean `KL(cached target ‖ softmax(student))` in nats, at T = 1 whatever the training's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Acceptance rate of sampled speculative decoding at T = 1, `Σ min(target, student)`, of language models
    /// with a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<f64>,
    /// Measures that commands of the config compute, by their names (`[validation.NAME.metrics.METRIC]`).
    #[serde(flatten)]
    pub of_commands: BTreeMap<String, f64>,
}

/// A measure by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// [`Evaluation::perplexity`].
    Perplexity,
    /// [`Evaluation::accuracy`].
    Accuracy,
    /// [`Evaluation::agreement`].
    Agreement,
    /// [`Evaluation::kl`].
    Kl,
    /// [`Evaluation::cross_entropy`].
    CrossEntropy,
    /// [`Evaluation::acceptance`].
    Acceptance,
    /// [`Evaluation::calibration_error`].
    CalibrationError,
    /// [`Evaluation::accuracy_top5`].
    AccuracyTop5,
    /// [`Evaluation::f1`].
    F1,
    /// [`Evaluation::f1_weighted`].
    F1Weighted,
    /// [`Evaluation::loss`].
    Loss,
}

impl Metric {
    /// All of them, in the order in which a default is chosen.
    pub const ALL: [Self; 11] = [
        Self::Perplexity,
        Self::Accuracy,
        Self::Agreement,
        Self::Kl,
        Self::CrossEntropy,
        Self::Acceptance,
        Self::CalibrationError,
        Self::AccuracyTop5,
        Self::F1,
        Self::F1Weighted,
        Self::Loss,
    ];

    /// The word used in configs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Accuracy => "accuracy",
            Self::Agreement => "agreement",
            Self::Kl => "kl",
            Self::CrossEntropy => "cross_entropy",
            Self::Acceptance => "acceptance",
            Self::CalibrationError => "calibration_error",
            Self::AccuracyTop5 => "accuracy_top5",
            Self::F1 => "f1",
            Self::F1Weighted => "f1_weighted",
            Self::Loss => "loss",
        }
    }

    /// The value in `evaluation`.
    pub fn of(self, evaluation: &Evaluation) -> Option<f64> {
        match self {
            Self::Perplexity => evaluation.perplexity,
            Self::Accuracy => evaluation.accuracy,
            Self::Agreement => evaluation.agreement,
            Self::Kl => evaluation.kl,
            Self::CrossEntropy => evaluation.cross_entropy,
            Self::Acceptance => evaluation.acceptance,
            Self::CalibrationError => evaluation.calibration_error,
            Self::AccuracyTop5 => evaluation.accuracy_top5,
            Self::F1 => evaluation.f1,
            Self::F1Weighted => evaluation.f1_weighted,
            Self::Loss => evaluation.loss,
        }
    }

    /// Whether a larger value is the better one.
    pub fn higher_is_better(self) -> bool {
        match self {
            Self::Accuracy | Self::AccuracyTop5 | Self::F1 | Self::F1Weighted => true,
            Self::Agreement | Self::Acceptance => true,
            Self::Perplexity | Self::CrossEntropy | Self::CalibrationError | Self::Kl | Self::Loss => false,
        }
    }
}

/// A measure by its name, a command's among them, and which way is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// One of [`Metric::ALL`], or a command's.
    pub name: String,
    /// Whether a larger value is the better one.
    pub higher_is_better: bool,
}

impl Measure {
    /// What `command` measures, under `name`.
    pub fn of_command(name: &str, command: &MetricConfig) -> Self {
        Self { name: name.to_owned(), higher_is_better: command.better == Better::Higher }
    }
}

impl From<Metric> for Measure {
    fn from(metric: Metric) -> Self {
        Self { name: metric.as_str().to_owned(), higher_is_better: metric.higher_is_better() }
    }
}

impl Evaluation {
    /// The measure `name`: one of [`Metric::ALL`], or a command's.
    pub fn get(&self, name: &str) -> Option<f64> {
        let own = Metric::ALL.into_iter().find(|metric| metric.as_str() == name);
        own.map_or_else(|| self.of_commands.get(name).copied(), |metric| metric.of(self))
    }

    /// Every measure there is and its name, the commands' last.
    pub fn each(&self) -> impl Iterator<Item = (&str, f64)> {
        let own = Metric::ALL.into_iter().filter_map(|metric| Some((metric.as_str(), metric.of(self)?)));
        own.chain(self.of_commands.iter().map(|(name, value)| (name.as_str(), *value)))
    }
}
