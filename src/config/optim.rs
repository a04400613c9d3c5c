//! What configs say of optimizers and learning rates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// How weights are changed. Weight decay is of matrices and kernels; norms and biases keep their size unless
/// `decay_all` is set.
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
        /// Whether norms and biases decay too.
        #[serde(default)]
        decay_all: bool,
        /// Decay rates of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
    },
    /// Adam (Kingma & Ba, 2015), weight decay as an L2 penalty.
    Adam {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
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
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
        /// Nesterov's form of momentum.
        #[serde(default)]
        nesterov: bool,
    },
    /// RMSprop (Hinton, 2012).
    Rmsprop {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decay rate of the mean square.
        #[serde(default = "default_alpha")]
        #[schemars(range(min = 0.0, max = 1.0))]
        alpha: f64,
        /// Momentum.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// L2 penalty.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases are penalised too.
        #[serde(default)]
        decay_all: bool,
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        eps: f64,
    },
    /// Lion (Chen et al., 2023): steps of one size, along the sign of the momentum.
    Lion {
        /// Peak learning rate; about a tenth of Adam's.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        learning_rate: f64,
        /// Decoupled weight decay.
        #[serde(default = "default_weight_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Whether norms and biases decay too.
        #[serde(default)]
        decay_all: bool,
        /// Shares of the past in the step and in the momentum.
        #[serde(default = "default_lion_betas")]
        betas: [f64; 2],
    },
}

fn default_weight_decay() -> f64 {
    0.01
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_lion_betas() -> [f64; 2] {
    [0.9, 0.99]
}

fn default_eps() -> f64 {
    1e-8
}

fn default_momentum() -> f64 {
    0.9
}

fn default_alpha() -> f64 {
    0.99
}

impl OptimizerConfig {
    /// What every kind has: peak learning rate, weight decay, and whether norms and biases decay too.
    fn common(&self) -> (f64, f64, bool) {
        match self {
            Self::Adamw { learning_rate, weight_decay, decay_all, .. }
            | Self::Adam { learning_rate, weight_decay, decay_all, .. }
            | Self::Sgd { learning_rate, weight_decay, decay_all, .. }
            | Self::Rmsprop { learning_rate, weight_decay, decay_all, .. }
            | Self::Lion { learning_rate, weight_decay, decay_all, .. } => {
                (*learning_rate, *weight_decay, *decay_all)
            }
        }
    }

    /// The peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.common().0
    }

    /// Weight decay, decoupled or L2.
    pub fn weight_decay(&self) -> f64 {
        self.common().1
    }

    /// Whether norms and biases decay too.
    pub fn decays_all(&self) -> bool {
        self.common().2
    }

    pub(super) fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Self::Adamw { betas, .. } | Self::Adam { betas, .. } | Self::Lion { betas, .. } = self
            && let Some(bad) = betas.iter().find(|b| !(0.0..1.0).contains(*b))
        {
            let problem = format!("expected values in [0, 1), found {bad}");
            faults.push(Fault::new("optimizer.betas", problem));
        }
        if let Self::Sgd { momentum, nesterov: true, .. } = self
            && *momentum == 0.0
        {
            faults.push(Fault::new("optimizer.nesterov", "needs a positive optimizer.momentum, found 0"));
        }
        faults
    }
}

/// How the learning rate changes over the steps. Lengths are in epochs; fractions are allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// The same at every step, after a linear warm-up.
    Constant {
        /// Epochs of linear warm-up from 0.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        warmup_epochs: f64,
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
    },
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
        Self::Constant { warmup_epochs: 0.0 }
    }
}

impl ScheduleConfig {
    /// Epochs of linear warm-up.
    pub fn warmup_epochs(&self) -> f64 {
        match self {
            Self::Constant { warmup_epochs }
            | Self::Linear { warmup_epochs, .. }
            | Self::Cosine { warmup_epochs, .. }
            | Self::CosineRestarts { warmup_epochs, .. }
            | Self::Step { warmup_epochs, .. }
            | Self::WarmupStableDecay { warmup_epochs, .. } => *warmup_epochs,
            Self::OneCycle { .. } => 0.0,
        }
    }

    pub(super) fn validate(&self, epochs: f64) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut hold = |key: &str, found: f64| {
            if found > epochs {
                let problem = format!("expected at most train.epochs = {epochs}, found {found}");
                faults.push(Fault::new(format!("schedule.{key}"), problem));
            }
        };
        hold("warmup_epochs", self.warmup_epochs());
        if let Self::WarmupStableDecay { warmup_epochs, decay_epochs, .. } = self {
            hold("decay_epochs", warmup_epochs + decay_epochs);
        }
        faults
    }
}
