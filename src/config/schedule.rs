//! What configs say of learning rates over a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// How the learning rate changes over the steps. Lengths are in epochs, fractions of them too; with `per = "epoch"` a warm-up
/// is rounded to whole ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The same at every step, after a linear warm-up.
    Constant {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// A straight line down from the peak, after a linear warm-up.
    Linear {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// The last learning rate as a fraction of the peak.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// Half a cosine down from the peak, after a linear warm-up.
    Cosine {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// The last learning rate as a fraction of the peak.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// Half cosines, each beginning at the peak again (SGDR, Loshchilov & Hutter, 2017).
    CosineRestarts {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// Epochs of the first one (`T_0`).
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        period_epochs: f64,
        /// How many times as long each is as the one before (`T_mult`).
        #[serde(default = "one")]
        #[schemars(range(min = 1.0))]
        growth: f64,
        /// The lowest learning rate as a fraction of the peak (`eta_min`).
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// Falls by a factor every so many epochs, after a linear warm-up.
    Step {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// Epochs between two falls, counted from the run's beginning.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        every_epochs: f64,
        /// What it is multiplied by.
        #[serde(default = "tenth")]
        #[schemars(range(min = 0.0, max = 1.0))]
        factor: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// Up to the peak along half a cosine, and down along another (Smith & Topin, 2018; as PyTorch's `OneCycleLR`).
    OneCycle {
        /// Where in the run the peak is.
        #[serde(default = "default_peak_at")]
        #[schemars(range(min = 0.0, max = 1.0))]
        peak_at: f64,
        /// The first learning rate as a fraction of the peak.
        #[serde(default = "default_first_fraction")]
        #[schemars(range(min = 0.0, max = 1.0))]
        first_fraction: f64,
        /// The last learning rate as a fraction of the peak.
        #[serde(default = "default_last_fraction")]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
    /// Warm-up, the peak, and a straight line down at the end (WSD, Hu et al., 2024).
    WarmupStableDecay {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
        /// Epochs of the line down.
        #[schemars(range(min = 0.0))]
        decay_epochs: f64,
        /// The last learning rate as a fraction of the peak.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        final_fraction: f64,
        /// Whether it changes with each step, or is the same for all steps of an epoch.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        #[schemars(skip_serializing_if = "super::outline::never")]
        per: Per,
    },
}

/// How often a learning rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// With each step.
    #[default]
    Step,
    /// With each epoch, as PyTorch's schedulers do where they are stepped after each epoch: the n-th epoch has what
    /// a run of one step an epoch would have at its n-th step.
    Epoch,
}

impl Per {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn one() -> f64 {
    1.0
}

fn tenth() -> f64 {
    0.1
}

fn default_peak_at() -> f64 {
    0.3
}

fn default_first_fraction() -> f64 {
    1.0 / 25.0
}

fn default_last_fraction() -> f64 {
    1.0 / 25.0e4
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant { warmup_epochs: 0.0, per: Per::Step }
    }
}

impl ScheduleConfig {
    /// Epochs of linear warm-up.
    pub fn warmup_epochs(&self) -> f64 {
        match self {
            Self::Constant { warmup_epochs, .. }
            | Self::Linear { warmup_epochs, .. }
            | Self::Cosine { warmup_epochs, .. }
            | Self::CosineRestarts { warmup_epochs, .. }
            | Self::Step { warmup_epochs, .. }
            | Self::WarmupStableDecay { warmup_epochs, .. } => *warmup_epochs,
            Self::OneCycle { .. } => 0.0,
        }
    }

    /// How often it changes.
    pub fn per(&self) -> Per {
        match self {
            Self::Constant { per, .. }
            | Self::Linear { per, .. }
            | Self::Cosine { per, .. }
            | Self::CosineRestarts { per, .. }
            | Self::Step { per, .. }
            | Self::OneCycle { per, .. }
            | Self::WarmupStableDecay { per, .. } => *per,
        }
    }

    pub(super) fn validate(&self, epochs: f64) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut hold = |key: &str, length: f64, found: String| {
            if length > epochs {
                let problem = format!("expected at most train.epochs = {epochs}, found {found}");
                faults.push(Fault::new(format!("schedule.{key}"), problem));
            }
        };
        let warmup = self.warmup_epochs();
        hold("warmup_epochs", warmup, warmup.to_string());
        if let Self::WarmupStableDecay { decay_epochs: decay, .. } = self {
            hold("decay_epochs", warmup + decay, format!("{decay} after warmup_epochs = {warmup}"));
        }
        faults
    }
}
